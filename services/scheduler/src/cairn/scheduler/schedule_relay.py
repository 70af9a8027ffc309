"""Owns the way of due schedules to the sink: write down what fires, call, write down that it was taken.

A firing is a row before it is a call, and its id follows from the row: whatever is killed in between, the call is repeated with the
same id. Refuses to judge "due" by any other clock than Postgres', and to let a call that hangs keep others from being made.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import grpc
import structlog

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.journey.cron import Cron, CronError, parse_cron
from cairn.postgres.pool import Pool, is_unavailable
from cairn.runtime.correlation import correlation_id, new_correlation_id
from cairn.scheduler import metrics
from cairn.scheduler import store_schedules as store
from cairn.scheduler.schedule import (
    REQUESTS_KEPT_US,
    Firing,
    Move,
    StoredSchedule,
    move,
    own_firing,
    requested_firing,
)
from cairn.scheduler.server_clock import ServerClock
from cairn.scheduler.shard import backoff_us
from cairn.scheduler.wire_schedules import render_firing

if TYPE_CHECKING:
    from cairn.api.scheduler.v1.scheduler_pb2_grpc import TimerSinkServiceAsyncStub

log = structlog.get_logger()

READ_SIZE = 1_000
"""Schedules, and requests, that one look takes up."""

MAX_CALLS = 64
"""Calls to the sink that are under way at once."""

NEVER_US = 1 << 62

_FORGET_EVERY_US = 3_600_000_000
_ANSWERS: Mapping[int, str] = {
    pb.TIMER_ANSWER_ACCEPTED: "accepted",
    pb.TIMER_ANSWER_STALE: "stale",
    pb.TIMER_ANSWER_REFUSED: "refused",
}


_parsed = lru_cache(maxsize=1_024)(parse_cron)


@dataclass(frozen=True, slots=True)
class _Hold:
    """A firing that the sink did not take waits until a time; after so many tries."""

    attempts: int
    until_us: int


class ScheduleRelay:
    """Fires schedules; for one replica at a time. `on_done` is called when a call is over, with the time by which to look again."""

    def __init__(
        self, pool: Pool, sink: "TimerSinkServiceAsyncStub", clock: ServerClock, deadline_s: float
    ) -> None:
        self.on_done: Callable[[int], None] = lambda when_us: None
        self._pool = pool
        self._sink = sink
        self._clock = clock
        self._deadline_s = deadline_s
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._over: set[str] = set()
        self._holds: dict[str, _Hold] = {}
        self._wake_us = NEVER_US
        self._forget_us = 0
        self._sink_failing = False
        self._unreadable: set[tuple[str, str]] = set()

    async def look(self) -> None:
        """Write down what has become due, then begin to call for all that is on its way and not being called for.

        When Postgres is away nothing happens; the next look makes good for it.
        """
        now_us = self._clock.now_us()
        # Whatever fails here, the next sweep is soon enough to try again.
        self._wake_us = NEVER_US
        self._over.clear()
        try:
            firings = await self._due_times(now_us)
            firings += [requested_firing(*each) for each in await store.read_requests(self._pool, READ_SIZE)]
            next_us = await store.read_next(self._pool, now_us)
            if now_us >= self._forget_us:
                await store.forget_requests(self._pool, now_us - REQUESTS_KEPT_US)
                self._forget_us = now_us + _FORGET_EVERY_US
        except Exception as error:
            # That Postgres is gone is said by those who fire timers, on the same connections.
            if not is_unavailable(error):
                raise
            return
        on_their_way = {firing.fire_id for firing in firings}
        self._holds = {fire_id: hold for fire_id, hold in self._holds.items() if fire_id in on_their_way}
        for firing in firings:
            self._begin(firing, now_us)
        # What has to wait although its pause is over waits for a call to end, which asks for another look.
        pauses = (hold.until_us for hold in self._holds.values() if hold.until_us > now_us)
        self._wake_us = min(NEVER_US if next_us is None else next_us, min(pauses, default=NEVER_US))

    @property
    def wake_us(self) -> int:
        """When there is something to look at again, as far as the last look knew."""
        return self._wake_us

    async def finish(self) -> None:
        """Return when the calls under way are over."""
        if self._calls:
            await asyncio.wait(tuple(self._calls.values()))

    def cancel(self) -> None:
        """Let go of the calls under way; whoever fires from now on repeats them."""
        for call in tuple(self._calls.values()):
            call.cancel()
        self._holds.clear()

    # What is due

    async def _due_times(self, now_us: int) -> list[Firing]:
        """The firings of schedules' own times that are on their way once this returns, by the table."""
        firings: list[Firing] = []
        moves: list[tuple[StoredSchedule, Move]] = []
        for schedule in await store.read_due(self._pool, now_us, READ_SIZE):
            cron = self._cron(schedule)
            if cron is None or schedule.next_due_us is None:
                continue
            firing = own_firing(schedule, schedule.next_due_us)
            moved = move(schedule, cron, now_us)
            if firing.fire_id in self._calls:
                continue
            if moved is not None:
                moves.append((schedule, moved))
            elif schedule.firing:
                firings.append(firing)
        return firings + await self._written(moves) if moves else firings

    async def _written(self, moves: Sequence[tuple[StoredSchedule, Move]]) -> list[Firing]:
        written = await store.move_schedules(self._pool, moves)
        firings: list[Firing] = []
        for schedule, moved in moves:
            if schedule.schedule_id not in written:
                continue
            if moved.fires and moved.next_due_us is not None:
                firings.append(own_firing(schedule, moved.next_due_us))
            else:
                metrics.SCHEDULES_FIRED.labels("missed").inc()
                log.info("schedule_missed", schedule=schedule.schedule_id)
        return firings

    def _cron(self, schedule: StoredSchedule) -> Cron | None:
        """The schedule's times; None, and one error in the log, when this release can't read what another one wrote."""
        key = (schedule.cron, schedule.time_zone)
        try:
            return _parsed(*key)
        except CronError as error:
            if key not in self._unreadable and len(self._unreadable) < READ_SIZE:
                self._unreadable.add(key)
                log.error("schedule_unreadable", schedule=schedule.schedule_id, problem=str(error))
            return None

    # Calls

    def _begin(self, firing: Firing, now_us: int) -> None:
        """Call for a firing, unless somebody does, it has to wait, or there are too many: then a later look finds it."""
        hold = self._holds.get(firing.fire_id)
        if firing.fire_id in self._calls or len(self._calls) >= MAX_CALLS:
            return
        # What this look read of it may be older than the end of its call.
        if firing.fire_id in self._over:
            return
        if hold is not None and hold.until_us > now_us:
            return
        call = self._calls[firing.fire_id] = asyncio.create_task(self._fire(firing))
        call.add_done_callback(lambda task: self._done(firing, task))

    def _done(self, firing: Firing, call: asyncio.Task[None]) -> None:
        self._calls.pop(firing.fire_id, None)
        self._over.add(firing.fire_id)
        if call.cancelled():
            return
        if error := call.exception():
            log.error("schedule_failed", schedule=firing.schedule_id, exc_info=error)
            self._hold(firing)
        hold = self._holds.get(firing.fire_id)
        self.on_done(0 if hold is None else hold.until_us)

    async def _fire(self, firing: Firing) -> None:
        answer = await self._call(firing)
        if answer not in _ANSWERS:
            self._hold(firing)
            return
        if answer == pb.TIMER_ANSWER_REFUSED:
            log.warning("schedule_refused", schedule=firing.schedule_id, fire_id=firing.fire_id)
        try:
            await self._settle(firing, taken=answer != pb.TIMER_ANSWER_REFUSED)
        except Exception as error:
            if not is_unavailable(error):
                raise
            # It comes again, with the same id.
            self._hold(firing)
            return
        self._holds.pop(firing.fire_id, None)
        metrics.SCHEDULES_FIRED.labels(_ANSWERS[answer]).inc()

    async def _call(self, firing: Firing) -> int:
        correlation_id.set(new_correlation_id())
        try:
            answer = await self._sink.FireSchedule(render_firing(firing), timeout=self._deadline_s)
        except grpc.aio.AioRpcError as error:
            metrics.SINK_FAILURES.labels(error.code().name).inc()
            if not self._sink_failing:
                log.warning("schedule_sink_failing", schedule=firing.schedule_id, code=error.code().name)
            self._sink_failing = True
            return int(pb.TIMER_ANSWER_RETRY)
        self._sink_failing = False
        return int(answer.answer)

    async def _settle(self, firing: Firing, *, taken: bool) -> None:
        now_us = self._clock.now_us()
        if firing.request_id:
            await store.settle_request(self._pool, firing, now_us, taken=taken)
            return
        schedule = await store.read_schedule(self._pool, firing.schedule_id)
        # One that has other times by now, or is gone, has nothing to move on.
        if schedule is not None and schedule.generation == firing.generation:
            next_us = _parsed(schedule.cron, schedule.time_zone).next_us(firing.due_us)
            await store.settle_time(self._pool, firing, next_us, now_us if taken else None)

    def _hold(self, firing: Firing) -> None:
        """Wait before the next try, longer each time."""
        earlier = self._holds.get(firing.fire_id)
        attempts = 1 if earlier is None else earlier.attempts + 1
        # Not all in step: the id differs.
        pause_us = backoff_us(int(firing.fire_id[1:5], 16), attempts)
        self._holds[firing.fire_id] = _Hold(attempts, self._clock.now_us() + pause_us)
