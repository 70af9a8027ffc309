"""Owns what the calls about runs do: begin one, tell how far it is, pause, resume and cancel it, count what one would do."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from hashlib import blake2b
from typing import Final

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.evaluator import store_runs
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.intake import wait_served
from cairn.evaluator.operations import END_OF_TIME_US, decode_token, encode_token, page_size
from cairn.evaluator.run_preview import Preview
from cairn.evaluator.schedules import journey_of_schedule
from cairn.evaluator.store_runs import RunRow, RunState
from cairn.evaluator.wire import is_time
from cairn.evaluator.wire_runs import (
    in_way,
    parse_journey,
    parse_parent,
    parse_request_id,
    parse_run,
    run_name,
    to_counts,
    to_run,
)
from cairn.journey.live import LiveJourney
from cairn.journey.model import MissedRun
from cairn.postgres.pool import Pool, translate_errors
from cairn.runtime.clock import format_time, from_timestamp, now_us, to_datetime
from cairn.runtime.errors import CairnError, not_found

KEPT_RUNS: Final = 100
"""Runs of a journey that are remembered."""
_PROGRESS_SECONDS: Final = 0.4
_TRIES: Final = 3


class Runs:
    """The operations on runs; one object for all calls. `wake` has this process look for runs at once, `gate` bounds how many statements over
    many profiles run at once."""

    def __init__(
        self,
        pool: Pool,
        bucket_count: int,
        book: JourneyBook,
        gate: asyncio.Semaphore,
        wake: Callable[[], None],
    ) -> None:
        self._pool = pool
        self._bucket_count = bucket_count
        self._book = book
        self._gate = gate
        self._wake = wake

    # To begin

    async def start(self, journey: str, request_id: str, min_revision: int) -> pb.Run:
        """Begins a run; the one that was begun by the same `request_id`, if there is one."""
        return self._told(await self._start(journey, request_id, min_revision))

    async def run(
        self, journey: str, request_id: str, min_revision: int
    ) -> AsyncIterator[pb.RunBatchResponse]:
        """Begins a run, and tells how far it is until it is over."""
        row = await self._start(journey, request_id, min_revision)
        while True:
            yield pb.RunBatchResponse(run=self._told(row))
            if not row.is_open:
                return
            await asyncio.sleep(_PROGRESS_SECONDS)
            row = await self._read(row.journey_id, row.run_id)

    async def fire(self, request: scheduler_pb2.FireScheduleRequest) -> "scheduler_pb2.TimerAnswer.ValueType":
        """Begins the run that a schedule is due for, once for each firing."""
        self._book.require()
        journey_id = journey_of_schedule(request.schedule)
        if not journey_id or not request.fire_id or "\0" in request.fire_id or not is_time(request.due_time):
            return scheduler_pb2.TIMER_ANSWER_REFUSED
        journey = self._book.get(journey_id)
        if journey is None or journey.end_us is not None or journey.newest.schedule is None:
            return scheduler_pb2.TIMER_ANSWER_STALE
        due_us = from_timestamp(request.due_time)
        cause, origin = f"schedule {format_time(due_us)}", f"fire:{request.fire_id}"
        try:
            await self._begin(journey, cause, origin)
        except CairnError as error:
            if error.reason != ErrorReason.ERROR_REASON_FAILED_PRECONDITION:
                raise
        else:
            return scheduler_pb2.TIMER_ANSWER_ACCEPTED
        with translate_errors():
            other = await store_runs.read_open_run(self._pool, journey_id)
        skips = journey.newest.schedule.missed is MissedRun.SKIP
        if other is not None and (skips or other.run_us > due_us):
            # Who is under way began later than this was due, and so does what this would have done; or nobody makes up for it.
            return scheduler_pb2.TIMER_ANSWER_STALE
        return scheduler_pb2.TIMER_ANSWER_RETRY

    async def _start(self, name: str, request_id: str, min_revision: int) -> RunRow:
        journey_id, request_id = parse_journey("journey", name), parse_request_id(request_id)
        await wait_served(self._book, min_revision)
        origin = f"call:{request_id}" if request_id else None
        if origin:
            with translate_errors():
                known = await store_runs.read_run_of(self._pool, journey_id, origin)
            if known is not None:
                return known
        return await self._begin(self._journey(journey_id), "call", origin)

    async def _begin(self, journey: LiveJourney, cause: str, origin: str | None) -> RunRow:
        """Makes a run, or finds the one of the same origin; FAILED_PRECONDITION while another is under way."""
        journey_id = journey.journey_id
        with translate_errors():
            estimate = await store_runs.estimate_profiles(self._pool)
            for _ in range(_TRIES):
                now = now_us()
                run_id = _run_id(journey_id, origin, now)
                version = journey.newest.version
                made = await store_runs.begin_run(
                    self._pool, journey_id, run_id, version, cause, origin, now, estimate
                )
                if made:
                    self._wake()
                    await store_runs.forget_old(self._pool, self._bucket_count, journey_id, KEPT_RUNS)
                    return await self._read(journey_id, run_id)
                if origin and (known := await store_runs.read_run_of(self._pool, journey_id, origin)):
                    return known
                if other := await store_runs.read_open_run(self._pool, journey_id):
                    raise in_way(journey_id, other.run_id)
                # What stood in the way has ended meanwhile.
        raise CairnError(
            ErrorReason.ERROR_REASON_OVERLOADED,
            "Runs of this journey begin and end faster than this one could begin; repeat the call.",
            retry_after_s=1.0,
        )

    def _journey(self, journey_id: str) -> LiveJourney:
        """A journey that can run; NOT_FOUND, FAILED_PRECONDITION."""
        self._book.require()
        journey = self._book.get(journey_id)
        name = f"journeys/{journey_id}"
        if journey is None:
            raise not_found(name)
        if not journey.is_batch:
            raise _refused(
                f"{name} is REAL_TIME: events, timers and changes of profiles move it; a journey of type BATCH runs.",
                name,
            )
        if journey.end_us is not None:
            raise _refused(f"{name} has ended: nobody enters it any more; publish it under another id.", name)
        return journey

    # To count only

    async def preview(self, name: str, min_revision: int) -> AsyncIterator[pb.RunBatchResponse]:
        """Counts what a run would do; how far it is, in the end what would happen."""
        journey_id = parse_journey("journey", name)
        await wait_served(self._book, min_revision)
        journey = self._journey(journey_id)
        preview = Preview(self._pool, self._gate, self._bucket_count, self._book, journey)
        told = 0.0
        with translate_errors():
            async for row in preview.run():
                if row.state == RunState.DONE:
                    counts = to_counts(preview.counts, journey)
                    yield pb.RunBatchResponse(run=self._told(row), counts=counts)
                elif time.monotonic() - told >= _PROGRESS_SECONDS:
                    told = time.monotonic()
                    yield pb.RunBatchResponse(run=self._told(row))

    async def preview_once(self, name: str, min_revision: int) -> pb.PreviewRunResponse:
        """The same at once."""
        *_, last = [each async for each in self.preview(name, min_revision)]
        return pb.PreviewRunResponse(run=last.run, counts=last.counts)

    # To look, and to act on one

    async def get(self, name: str) -> pb.Run:
        """One run; NOT_FOUND."""
        return self._told(await self._read(*parse_run(name)))

    async def list_page(self, request: pb.ListRunsRequest) -> pb.ListRunsResponse:
        """A page of runs, the newest first."""
        journey_id, size = parse_parent(request.parent), page_size(request.page_size)
        # Nothing comes before the last that was told; journeys and runs have ids of letters that are less than this one.
        before = decode_token(request.page_token, (END_OF_TIME_US, "~", "~"))
        before = min(before[0], END_OF_TIME_US), before[1], before[2]
        with translate_errors():
            rows = await store_runs.list_runs(self._pool, journey_id, before, size + 1)
        answer = pb.ListRunsResponse(runs=map(self._told, rows[:size]))
        if len(rows) > size:
            last = rows[size - 1]
            answer.next_page_token = encode_token(last.run_us, last.journey_id, last.run_id)
        return answer

    async def pause(self, name: str) -> pb.Run:
        """Has a run stop where it is."""
        place = parse_run(name)
        with translate_errors():
            await store_runs.pause_run(self._pool, *place)
        self._wake()
        return self._told(await self._open(place))

    async def resume(self, name: str) -> pb.Run:
        """Has a paused run go on."""
        place = parse_run(name)
        with translate_errors():
            await store_runs.resume_run(self._pool, *place)
        self._wake()
        return self._told(await self._open(place))

    async def cancel(self, name: str) -> pb.Run:
        """Has a run end where it is."""
        place = parse_run(name)
        of = (RunState.RUNNING, RunState.PAUSED)
        with translate_errors():
            ended = await store_runs.end_run(self._pool, *place, RunState.CANCELED, now_us(), of=of)
        self._wake()
        return self._told(await (self._read(*place) if ended else self._open(place)))

    async def _open(self, place: tuple[str, str]) -> RunRow:
        """A run that is not over; NOT_FOUND, FAILED_PRECONDITION."""
        row = await self._read(*place)
        if not row.is_open:
            name = run_name(*place)
            raise _refused(f"{name} is over: it is {RunState(row.state).name}; begin another.", name)
        return row

    async def _read(self, journey_id: str, run_id: str) -> RunRow:
        with translate_errors():
            row = await store_runs.read_run(self._pool, journey_id, run_id)
        if row is None:
            raise not_found(run_name(journey_id, run_id))
        return row

    def _told(self, row: RunRow) -> pb.Run:
        return to_run(row, self._bucket_count, now_us())


def _run_id(journey_id: str, origin: str | None, time_us: int) -> str:
    """The id of a run, by which people know when it began: `20261124-060000-3f2a9c`."""
    parts = f"{journey_id}\0{origin or ''}\0{time_us}"
    digest = blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=3).hexdigest()
    return f"{to_datetime(time_us):%Y%m%d-%H%M%S}-{digest}"


def _refused(message: str, name: str) -> CairnError:
    return CairnError(ErrorReason.ERROR_REASON_FAILED_PRECONDITION, message, resource=name)
