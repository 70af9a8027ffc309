"""Owns the alarms: which shards are ours, and an APScheduler job for each that wakes when its next timer is due.

APScheduler is the alarm and no more: its jobs live in memory, hold no timer, and may be late, doubled or lost
without loss, since each looks at the table. Refuses to run two rounds of one shard at a time.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, field
from datetime import UTC, timedelta

import structlog
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from cairn.postgres.buckets import BucketOwner
from cairn.postgres.pool import Connection
from cairn.runtime.clock import now_us, to_datetime
from cairn.scheduler import metrics
from cairn.scheduler.relay import Relay
from cairn.scheduler.schedule_alarm import SHARD, ScheduleAlarm
from cairn.scheduler.server_clock import ServerClock
from cairn.scheduler.shard import Shard
from cairn.scheduler.trigger import ShardTrigger

log = structlog.get_logger()

LOST_SECONDS = 1.0
"""How long shards that go to other replicas wait for what is in flight, and for its rows to go; then it may fire twice."""


@dataclass(slots=True)
class _Watch:
    """A shard that is ours. `wake_us` is its alarm, by Postgres' clock."""

    shard: Shard
    trigger: ShardTrigger
    is_ours: bool = True
    wake_us: int = 0
    round: asyncio.Task[None] | None = None
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.idle.set()


class Alarms:
    """A component: from `start` to `drain` this replica owns its share of the shards and fires what is due in them."""

    name = "alarms"

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        bucket_count: int,
        relay: Relay,
        schedules: ScheduleAlarm,
        clock: ServerClock,
        *,
        sweep_us: int,
    ) -> None:
        self._relay = relay
        self._schedules = schedules
        self._clock = clock
        self._sweep_us = sweep_us
        self._watches: dict[int, _Watch] = {}
        self._patience_ends = 0.0
        self._owner = BucketOwner(
            connect,
            namespace="scheduler",
            bucket_count=bucket_count,
            on_acquired=self._on_acquired,
            on_lost=self._on_lost,
        )
        # A round that outlasts a sweep makes APScheduler say so for each alarm it skips; rounds log for themselves.
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._scheduler.add_listener(self._on_round_done, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)

    @property
    def owned(self) -> tuple[Shard, ...]:
        """The shards that are ours now."""
        return tuple(watch.shard for watch in self._watches.values())

    async def start(self) -> None:
        """Take shards and begin to fire."""
        self._scheduler.start()
        await self._owner.start()

    async def drain(self) -> None:
        """Begin no new batch, finish those in flight, then give the shards to other replicas at once."""
        for watch in self._watches.values():
            watch.is_ours = False
        for watch in tuple(self._watches.values()):
            await watch.idle.wait()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LOST_SECONDS):
                await asyncio.gather(
                    self._schedules.end(),
                    *(self._relay.finish(watch.shard) for watch in self._watches.values()),
                )
        await self._owner.stop()

    async def stop(self) -> None:
        """Let go of everything; a batch that outlasted the drain fires again elsewhere."""
        for watch in self._watches.values():
            if watch.round is not None:
                watch.round.cancel()
        await self._relay.stop()
        self._schedules.stop()
        await self._owner.stop()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def notice(self, bucket: int, due_us: int) -> bool:
        """A timer was accepted: move the alarm forward if it is due before. False when the shard is not ours."""
        watch = self._watches.get(bucket)
        if watch is None or not watch.is_ours:
            return False
        watch.shard.notice(due_us)
        if watch.idle.is_set() and due_us < watch.wake_us:
            self._arm(watch, min(watch.shard.wake_us(self._clock.now_us()), watch.wake_us))
        return True

    def forget(self, bucket: int, timer_ids: Collection[str]) -> None:
        """Timers were canceled: those in memory do not fire."""
        watch = self._watches.get(bucket)
        if watch is not None:
            watch.shard.forget(timer_ids)

    def look_everywhere(self) -> None:
        """Notices may have been missed: look at all shards now, from the beginning of each."""
        for watch in self._watches.values():
            watch.shard.forget_floor()
            if watch.idle.is_set():
                self._arm(watch, self._clock.now_us())

    def rearm(self) -> None:
        """Set all alarms again, as this machine's clock may have been set meanwhile."""
        for watch in self._watches.values():
            if watch.idle.is_set():
                self._arm(watch, watch.wake_us)
        self._schedules.rearm()

    async def _on_acquired(self, bucket: int) -> None:
        trigger = ShardTrigger(timedelta(microseconds=self._sweep_us))
        watch = _Watch(Shard(bucket, self._sweep_us), trigger)
        self._watches[bucket] = watch
        metrics.SHARDS_OWNED.set(len(self._watches))
        self._scheduler.add_job(
            self._round,
            trigger,
            args=(watch,),
            id=str(bucket),
            next_run_time=to_datetime(now_us()),
            misfire_grace_time=None,  # a late alarm is still an alarm; the default drops it after a second
            coalesce=True,
            max_instances=1,
        )
        if bucket == SHARD:
            self._schedules.begin()

    async def _on_lost(self, bucket: int) -> None:
        if bucket == SHARD:
            await self._schedules.end()
        watch = self._watches.pop(bucket, None)
        metrics.SHARDS_OWNED.set(len(self._watches))
        if watch is None:
            return
        watch.is_ours = False
        self._scheduler.remove_job(str(bucket))
        now = asyncio.get_running_loop().time()
        if now > self._patience_ends + LOST_SECONDS:
            # One patience for all that are lost together, one after the other: with the connection all of them are.
            self._patience_ends = now + LOST_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(self._patience_ends):
                await watch.idle.wait()
                await self._relay.finish(watch.shard)
        if watch.round is not None:
            watch.round.cancel()

    async def _round(self, watch: _Watch) -> None:
        watch.idle.clear()
        watch.round = asyncio.current_task()
        try:
            await self._relay.fire_due(watch.shard, lambda: watch.is_ours)
        except Exception:
            # A defect, not an outage: the shard must go on after a while, and the others at once.
            log.exception("round_failed", shard=watch.shard.bucket)
            watch.shard.failed(self._clock.now_us())
        finally:
            watch.round = None
            watch.idle.set()

    def _on_round_done(self, event: JobExecutionEvent) -> None:
        """Set the next alarm. Only now does APScheduler count the job as finished: set earlier, it would be skipped."""
        watch = self._watches.get(int(event.job_id))
        if watch is not None and watch.is_ours:
            self._arm(watch, watch.shard.wake_us(self._clock.now_us()))

    def _arm(self, watch: _Watch, wake_us: int) -> None:
        """Translate the alarm to this machine's clock, which is the one that APScheduler reads."""
        watch.wake_us = wake_us
        delay_us = max(wake_us - self._clock.now_us(), 0)
        watch.trigger.alarm = to_datetime(now_us() + delay_us)
        self._scheduler.modify_job(str(watch.shard.bucket), next_run_time=watch.trigger.alarm)
