"""Owns the upkeep of Definition: its gauges, and what it may forget."""

from cairn.definition import metrics, store
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us

UPKEEP_SECONDS = 5.0
KEEP_REQUESTS_US = 24 * 3600 * 1_000_000
KEEP_WATCHERS_US = 3600 * 1_000_000
STATES = ("DRAFT", "LIVE", "PAUSED", "ENDED")


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
