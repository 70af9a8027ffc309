"""Owns the schedules of BATCH journeys in the Scheduler: each live journey that has one has it there, and no other.

Any number of Evaluators see to that. Each schedule carries the version that it came from: a replica that knows an older one leaves it alone.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import grpc
import msgspec
import structlog

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from cairn.evaluator.book import JourneyBook
from cairn.journey.live import LiveJourney, LiveJourneys
from cairn.journey.model import MissedRun

log = structlog.get_logger()

_PREFIX: Final = "schedules/journey."
_UTC: Final = "UTC"
_PAGE: Final = 1_000
_LOOK_SECONDS: Final = 60.0
"""How often the Scheduler is asked what it has although nothing has changed here: it may have lost it."""
_MAX_PAUSE_SECONDS: Final = 5.0


class _Payload(msgspec.Struct, frozen=True):
    """What a schedule carries: the version of the journey that it came from."""

    version: int


_PAYLOAD = msgspec.json.Decoder(_Payload)


@dataclass(frozen=True, slots=True)
class Changes:
    """What has to be told to the Scheduler: schedules to put, and names of those to delete."""

    puts: tuple[pb.Schedule, ...]
    deletes: tuple[str, ...]


def schedule_name(journey_id: str) -> str:
    """The name of a journey's schedule."""
    return f"{_PREFIX}{journey_id}"


def journey_of_schedule(name: str) -> str:
    """The journey that a schedule of this name belongs to; "" for one that is none of ours."""
    return name.removeprefix(_PREFIX) if name.startswith(_PREFIX) else ""


def changes(journeys: LiveJourneys, there: Mapping[str, pb.Schedule]) -> Changes:
    """What makes the Scheduler's schedules, by their names, those of the journeys. What belongs to a journey that is not known stays: whoever put
    it there knows more."""
    puts, deletes = [], []
    for journey in journeys:
        name = schedule_name(journey.journey_id)
        kept = there.get(name)
        if kept is not None and _version(kept) > journey.newest.version:
            continue
        wanted = _wanted(journey)
        if wanted is None:
            if kept is not None:
                deletes.append(name)
        elif kept is None or not _is_same(kept, wanted):
            puts.append(wanted)
    return Changes(tuple(puts), tuple(deletes))


def _wanted(journey: LiveJourney) -> pb.Schedule | None:
    """The schedule that a journey has; None for none."""
    plan = journey.newest
    if not journey.is_batch or plan.schedule is None or journey.end_us is not None:
        return None
    return pb.Schedule(
        name=schedule_name(journey.journey_id),
        cron=plan.schedule.cron,
        time_zone=plan.schedule.time_zone,
        skip_missed=plan.schedule.missed is MissedRun.SKIP,
        payload=msgspec.json.encode(_Payload(plan.version)),
    )


def _is_same(kept: pb.Schedule, wanted: pb.Schedule) -> bool:
    """Whether a schedule says when what is wanted does: putting it again for the version's sake would drop what is due."""
    return (kept.cron, kept.time_zone or _UTC, kept.skip_missed) == (
        wanted.cron,
        wanted.time_zone or _UTC,
        wanted.skip_missed,
    )


def _version(kept: pb.Schedule) -> int:
    try:
        return _PAYLOAD.decode(kept.payload).version
    except msgspec.DecodeError:
        return 0


class ScheduleSync:
    """A component that keeps the Scheduler's schedules equal to those of the journeys."""

    name = "schedules"

    def __init__(self, book: JourneyBook, channel: grpc.aio.Channel, deadline_s: float) -> None:
        self._book = book
        self._stub = SchedulerServiceStub(channel)
        self._deadline_s = deadline_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins, in the background: nothing depends on it."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def drain(self) -> None:
        """Nothing was accepted."""

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        await self._book.wait_until_known()
        failures = 0
        while True:
            revision = self._book.revision
            try:
                await self._keep()
                failures = 0
            except Exception as error:
                failures += 1
                if failures == 1 and isinstance(error, grpc.aio.AioRpcError):
                    log.warning("schedules_wait", error=error.code().name)
                elif failures == 1:
                    log.error("schedules_failed", exc_info=error)
            if failures:
                await asyncio.sleep(min(0.1 * 2 ** min(failures, 10), _MAX_PAUSE_SECONDS))
                continue
            try:
                async with asyncio.timeout(_LOOK_SECONDS):
                    await self._book.wait_for(revision + 1)
            except TimeoutError:
                pass

    async def _keep(self) -> None:
        found = changes(self._book.live, await self._there())
        for schedule in found.puts:
            await self._stub.PutSchedule(pb.PutScheduleRequest(schedule=schedule), timeout=self._deadline_s)
            log.info("schedule_put", schedule=schedule.name, cron=schedule.cron, time_zone=schedule.time_zone)
        for name in found.deletes:
            await self._stub.DeleteSchedule(pb.DeleteScheduleRequest(name=name), timeout=self._deadline_s)
            log.info("schedule_deleted", schedule=name)

    async def _there(self) -> dict[str, pb.Schedule]:
        request = pb.ListSchedulesRequest(page_size=_PAGE)
        there: dict[str, pb.Schedule] = {}
        while True:
            answer = await self._stub.ListSchedules(request, timeout=self._deadline_s)
            there |= {each.name: each for each in answer.schedules if journey_of_schedule(each.name)}
            if not answer.next_page_token:
                return there
            request.page_token = answer.next_page_token
