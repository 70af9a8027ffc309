"""Owns what the Scheduler's calls do. Each bucket's statement is a transaction of its own: a call that failed
half-way was not acknowledged, and is repeated with the same ids without harm.
"""

import asyncio
import heapq
from collections.abc import Collection, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Protocol

import structlog

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.postgres.bucket import bucket_of
from cairn.postgres.pool import Pool, is_unavailable, translate_errors
from cairn.runtime.errors import CairnError, not_found
from cairn.scheduler import metrics, store
from cairn.scheduler.server_clock import ServerClock
from cairn.scheduler.timer import NewTimers, PageStart, StoredTimer, TimerFilter
from cairn.scheduler.wire import render_notices

log = structlog.get_logger()

RETRY_AFTER_SECONDS = 0.5


class OwnAlarms(Protocol):
    """The alarms of the shards that this replica owns."""

    def notice(self, bucket: int, due_us: int) -> bool:
        """A timer was accepted: move the alarm forward if it is due before. False when the shard is not ours."""

    def forget(self, bucket: int, timer_ids: Collection[str]) -> None:
        """Timers were canceled: those in memory do not fire."""


class Timers:
    """The operations on timers; one object for all calls, which it admits up to a bound."""

    def __init__(
        self,
        pool: Pool,
        bucket_count: int,
        alarms: OwnAlarms,
        clock: ServerClock,
        *,
        sweep_us: int,
        max_in_flight: int,
    ) -> None:
        self.bucket_count = bucket_count
        self._pool = pool
        self._alarms = alarms
        self._clock = clock
        # The owner's sweep is sure to see in time what is due later than this.
        self._notice_us = 2 * sweep_us
        self._max_in_flight = max_in_flight
        self._in_flight = 0

    def now_us(self) -> int:
        """Now by Postgres' clock, by which "overdue" is judged too."""
        return self._clock.now_us()

    async def schedule(self, buckets: Mapping[int, NewTimers]) -> int:
        """Make timers durable and set their alarms; how many of them were not known."""
        unowned: dict[int, int] = {}

        async def insert(bucket: int, new: NewTimers) -> int:
            count = await store.insert_timers(self._pool, bucket, new)
            earliest_us = new.earliest_us
            if earliest_us is not None and not self._alarms.notice(bucket, earliest_us):
                unowned[bucket] = earliest_us
            return count

        with self._admitted(sum(len(new.timer_ids) for new in buckets.values())), translate_errors():
            accepted = await _sum_of([insert(bucket, new) for bucket, new in buckets.items()])
            if unowned:
                await self._tell_owners(unowned)
        metrics.TIMERS_SCHEDULED.inc(accepted)
        return accepted

    async def cancel(self, buckets: Mapping[int, Sequence[str]]) -> int:
        """Forget timers; how many there were."""

        async def delete(bucket: int, ids: Sequence[str]) -> int:
            count = await store.delete_timers(self._pool, bucket, ids)
            self._alarms.forget(bucket, ids)
            return count

        with self._admitted(sum(len(ids) for ids in buckets.values())), translate_errors():
            canceled = await _sum_of([delete(bucket, ids) for bucket, ids in buckets.items()])
        metrics.TIMERS_CANCELED.inc(canceled)
        return canceled

    async def get(self, timer_id: str, key: str) -> StoredTimer:
        """One timer; NOT_FOUND when it fired, was canceled, or never was."""
        with translate_errors():
            found = await store.read_timer(self._pool, bucket_of(key, self.bucket_count), timer_id, key)
        if found is None:
            raise not_found(f"timers/{timer_id}")
        return found

    async def list_page(self, wanted: TimerFilter, after: PageStart | None, limit: int) -> list[StoredTimer]:
        """The first `limit` timers in order of (due time, bucket, id) behind `after`.

        Each bucket is asked for that many by itself, and the answers merged: there is no order over all buckets in
        any index, and in a cluster no node that has them all.
        """
        buckets = [bucket_of(wanted.key, self.bucket_count)] if wanted.key else range(self.bucket_count)
        found: list[StoredTimer] = []
        with translate_errors():
            async with self._pool.acquire() as connection:
                for bucket in buckets:
                    found += await store.list_timers(connection, bucket, wanted, after, limit)
                    found = heapq.nsmallest(limit, found, key=_list_order)
        return found

    async def _tell_owners(self, due_us: Mapping[int, int]) -> None:
        horizon_us = self._clock.now_us() + self._notice_us
        soon = {bucket: max(due, 0) for bucket, due in due_us.items() if due <= horizon_us}
        try:
            for payload in render_notices(soon):
                await store.send_notice(self._pool, payload)
        except Exception as error:
            # The timers are durable: a notice that fails costs punctuality, not the acknowledgement.
            if not is_unavailable(error):
                raise
            log.warning("notice_unsent", error=type(error).__name__)

    @contextmanager
    def _admitted(self, count: int) -> Iterator[None]:
        if self._in_flight + count > self._max_in_flight:
            raise CairnError(
                ErrorReason.ERROR_REASON_OVERLOADED,
                f"{self._in_flight:,} timers are in calls being worked on, which is the most at a time. "
                "Repeat the call with the same ids after the delay given.",
                retry_after_s=RETRY_AFTER_SECONDS,
            )
        self._in_flight += count
        try:
            yield
        finally:
            self._in_flight -= count


async def _sum_of(statements: Sequence[Coroutine[None, None, int]]) -> int:
    """Run one statement for each bucket, side by side, and add up what they say; the first failure once all are done."""
    if len(statements) == 1:
        return await statements[0]
    counts = 0
    for outcome in await asyncio.gather(*statements, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
        counts += outcome
    return counts


def _list_order(found: StoredTimer) -> tuple[int, int, str]:
    return found.timer.due_us, found.bucket, found.timer.timer_id
