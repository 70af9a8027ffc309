"""Owns what happens every ten seconds: Postgres' clock is measured again, and the backlog counted for the gauges."""

import asyncio
import contextlib

import structlog

from cairn.postgres.pool import Pool, is_unavailable, translate_errors
from cairn.runtime.clock import now_us
from cairn.scheduler import metrics, store, store_schedules
from cairn.scheduler.alarms import Alarms
from cairn.scheduler.schedule_alarm import ScheduleAlarm
from cairn.scheduler.server_clock import ServerClock
from cairn.scheduler.wire import OVERDUE_AFTER_US

log = structlog.get_logger()

INTERVAL_SECONDS = 10.0

_READINGS = 5
_COUNTED = 10_000


async def measure_clock(pool: Pool, clock: ServerClock) -> None:
    """Set the clock by a few readings in a row, of which the one with the shortest way back counts."""
    async with pool.acquire() as connection:
        clock.set([await store.read_clock(connection) for _ in range(_READINGS)])
    metrics.CLOCK_OFFSET.set((clock.now_us() - now_us()) / 1e6)


class Upkeep:
    """A component; it starts before the alarms, which need the clock."""

    name = "upkeep"

    def __init__(self, pool: Pool, clock: ServerClock, alarms: Alarms, schedules: ScheduleAlarm) -> None:
        self._pool = pool
        self._clock = clock
        self._alarms = alarms
        self._schedules = schedules
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Measure once, then every ten seconds."""
        with translate_errors():
            await measure_clock(self._pool, self._clock)
        self._task = asyncio.create_task(self._run(), name="upkeep")

    async def drain(self) -> None:
        """Nothing is owed to anybody."""

    async def stop(self) -> None:
        """End the measurements."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(INTERVAL_SECONDS)
            try:
                await measure_clock(self._pool, self._clock)
                self._alarms.rearm()
                await self._count_backlog()
            except Exception as error:
                # That Postgres is gone is said by those who need it for their work.
                if not is_unavailable(error):
                    log.error("upkeep_failed", exc_info=error)

    async def _count_backlog(self) -> None:
        overdue = parked = 0
        due_by_us = self._clock.now_us() - OVERDUE_AFTER_US
        for shard in self._alarms.owned:
            counts = await store.count_backlog(self._pool, shard.bucket, due_by_us, _COUNTED)
            overdue += counts[0]
            parked += counts[1]
        metrics.TIMERS_OVERDUE.set(overdue)
        metrics.TIMERS_PARKED.set(parked)
        late = await store_schedules.count_overdue(self._pool, due_by_us) if self._schedules.is_ours else 0
        metrics.SCHEDULES_OVERDUE.set(late)
