"""Owns the work that a process repeats in the background: the polling of revisions, and the upkeep.

Refuses to end because Postgres is away: it logs so once, keeps trying, and says when all is well again.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cairn.definition import metrics, store
from cairn.postgres.pool import Pool, is_unavailable
from cairn.runtime.clock import now_us

log = structlog.get_logger()

MAX_PAUSE_SECONDS = 2.0
UPKEEP_SECONDS = 5.0
KEEP_REQUESTS_US = 24 * 3600 * 1_000_000
KEEP_WATCHERS_US = 3600 * 1_000_000
STATES = ("DRAFT", "LIVE")


class Loop:
    """A component that runs `act` every `every_s` seconds; after a failure it tries again within 2 seconds."""

    def __init__(self, name: str, act: Callable[[], Awaitable[None]], every_s: float) -> None:
        self.name = name
        self._act = act
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Run `act` from now on, in the background: no call depends on what it brings."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def drain(self) -> None:
        """Nothing was accepted that would have to be finished."""

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._act()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next round may succeed
                failures += 1
                if failures == 1:
                    self._report(error)
            else:
                if failures:
                    log.info("loop_recovered", loop=self.name, failures=failures)
                failures = 0
            retry_s = min(0.1 * 2 ** min(failures, 10), MAX_PAUSE_SECONDS)
            await asyncio.sleep(retry_s if failures else self._every_s)

    def _report(self, error: Exception) -> None:
        if is_unavailable(error):
            log.warning("loop_without_postgres", loop=self.name, error=type(error).__name__)
        else:
            log.error("loop_failed", loop=self.name, exc_info=error)


async def upkeep(pool: Pool) -> None:
    """Set the gauges, and forget requests after a day and watchers after an hour."""
    counts = await store.count_journeys(pool)
    for state in STATES:
        metrics.JOURNEYS.labels(state=state).set(counts.get(state, 0))
    newest = await store.read_revision(pool)
    clock_us = await store.read_clock(pool)
    watchers = await store.list_watchers(pool, clock_us)
    metrics.REVISION.set(newest)
    metrics.WATCHERS.set(len(watchers))
    slowest = min((one.revision for one in watchers), default=newest)
    metrics.WATCHER_LAG.set(max(newest - slowest, 0))
    await store.purge(
        pool,
        requests_before_us=now_us() - KEEP_REQUESTS_US,
        watchers_before_us=clock_us - KEEP_WATCHERS_US,
    )
