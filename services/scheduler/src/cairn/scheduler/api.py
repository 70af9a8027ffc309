"""Owns the calls of SchedulerService: parse, one operation, render. And who may make them."""

from collections.abc import Mapping
from types import MappingProxyType

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceServicer
from cairn.runtime.service import Role
from cairn.scheduler import wire, wire_schedules
from cairn.scheduler.operations import Timers
from cairn.scheduler.operations_schedules import Schedules

FULL_NAME = pb.DESCRIPTOR.services_by_name["SchedulerService"].full_name

ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "ScheduleTimers": Role.PRODUCE,
        "CancelTimers": Role.PRODUCE,
        "GetTimer": Role.READ,
        "ListTimers": Role.READ,
        "PutSchedule": Role.PRODUCE,
        "GetSchedule": Role.READ,
        "ListSchedules": Role.READ,
        "DeleteSchedule": Role.PRODUCE,
        "RunSchedule": Role.PRODUCE,
    }
)

QUIET_METHODS = frozenset({"ScheduleTimers", "CancelTimers"})


class SchedulerApi(SchedulerServiceServicer):
    """Serves the contract; see its comments."""

    def __init__(self, timers: Timers, schedules: Schedules) -> None:
        self._timers = timers
        self._schedules = schedules

    async def ScheduleTimers(
        self, request: pb.ScheduleTimersRequest, context: object
    ) -> pb.ScheduleTimersResponse:
        buckets, refusals = wire.parse_timers(request, self._timers.bucket_count)
        accepted = await self._timers.schedule(buckets) if buckets else 0
        known = len(request.timers) - len(refusals) - accepted
        return pb.ScheduleTimersResponse(accepted=accepted, known=known, refusals=refusals)

    async def CancelTimers(self, request: pb.CancelTimersRequest, context: object) -> pb.CancelTimersResponse:
        buckets = wire.parse_keys(request, self._timers.bucket_count)
        return pb.CancelTimersResponse(canceled=await self._timers.cancel(buckets) if buckets else 0)

    async def GetTimer(self, request: pb.GetTimerRequest, context: object) -> pb.GetTimerResponse:
        wire.check_timer_key(request.timer_id, request.key)
        return wire.render_found(await self._timers.get(request.timer_id, request.key))

    async def ListTimers(self, request: pb.ListTimersRequest, context: object) -> pb.ListTimersResponse:
        size, after = wire.parse_page(request)
        wanted = wire.parse_filter(request, self._timers.now_us())
        # One more than is shown tells whether there is another page.
        return wire.render_page(await self._timers.list_page(wanted, after, size + 1), size)

    async def PutSchedule(self, request: pb.PutScheduleRequest, context: object) -> pb.PutScheduleResponse:
        now_us = self._schedules.now_us()
        schedule, next_us = wire_schedules.parse_schedule(request, now_us)
        kept = await self._schedules.put(schedule, now_us, next_us)
        return pb.PutScheduleResponse(schedule=wire_schedules.render_schedule(kept))

    async def GetSchedule(self, request: pb.GetScheduleRequest, context: object) -> pb.GetScheduleResponse:
        found = await self._schedules.get(wire_schedules.parse_name(request.name))
        return pb.GetScheduleResponse(schedule=wire_schedules.render_schedule(found))

    async def ListSchedules(
        self, request: pb.ListSchedulesRequest, context: object
    ) -> pb.ListSchedulesResponse:
        size, after = wire_schedules.parse_page(request)
        return wire_schedules.render_page(await self._schedules.list_page(after, size + 1), size)

    async def DeleteSchedule(
        self, request: pb.DeleteScheduleRequest, context: object
    ) -> pb.DeleteScheduleResponse:
        await self._schedules.delete(wire_schedules.parse_name(request.name))
        return pb.DeleteScheduleResponse()

    async def RunSchedule(self, request: pb.RunScheduleRequest, context: object) -> pb.RunScheduleResponse:
        await self._schedules.run(*wire_schedules.parse_run(request))
        return pb.RunScheduleResponse()
