"""Owns the calls of SchedulerService: parse, one operation, render. And who may make them."""

from collections.abc import Mapping
from types import MappingProxyType

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceServicer
from cairn.runtime.service import Role
from cairn.scheduler import wire
from cairn.scheduler.operations import Timers

FULL_NAME = pb.DESCRIPTOR.services_by_name["SchedulerService"].full_name

ROLES: Mapping[str, Role] = MappingProxyType(
    {
        "ScheduleTimers": Role.PRODUCE,
        "CancelTimers": Role.PRODUCE,
        "GetTimer": Role.READ,
        "ListTimers": Role.READ,
    }
)

QUIET_METHODS = frozenset({"ScheduleTimers", "CancelTimers"})


class SchedulerApi(SchedulerServiceServicer):
    """Serves the contract; see its comments."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers

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
