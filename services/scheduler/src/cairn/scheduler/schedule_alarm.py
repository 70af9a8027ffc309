"""Owns the alarm of the schedules: one APScheduler job that wakes when the next schedule is due, in one replica at a time.

The replica is the one that owns the first shard of the timers: its lock dies with it, and another takes over within seconds.
"""

import asyncio
import contextlib
from datetime import UTC, timedelta

import structlog
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_EXECUTED, JobExecutionEvent
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from cairn.runtime.clock import now_us, to_datetime
from cairn.scheduler.schedule_relay import NEVER_US, ScheduleRelay
from cairn.scheduler.server_clock import ServerClock
from cairn.scheduler.trigger import ShardTrigger

log = structlog.get_logger()

SHARD = 0
"""Who owns this one fires the schedules."""

DRAIN_SECONDS = 1.0
"""How long those who give up the schedules wait for what is in flight; then it may fire twice, with one id."""

_JOB = "schedules"


class ScheduleAlarm:
    """Looks at the schedules from `begin` to `end`, when the next is due, and at least each sweep."""

    def __init__(self, relay: ScheduleRelay, clock: ServerClock, *, sweep_us: int) -> None:
        self._relay = relay
        self._clock = clock
        self._trigger = ShardTrigger(timedelta(microseconds=sweep_us))
        self._scheduler = AsyncIOScheduler(timezone=UTC)
        self._scheduler.add_listener(self._on_round_done, EVENT_JOB_EXECUTED | EVENT_JOB_ERROR)
        self._is_ours = False
        self._idle = True
        self._wake_us = 0
        self._noticed_us = NEVER_US
        self._round: asyncio.Task[None] | None = None
        relay.on_done = self.notice

    @property
    def is_ours(self) -> bool:
        """Whether this replica fires the schedules now."""
        return self._is_ours

    def begin(self) -> None:
        """The schedules are ours: look at once."""
        if not self._scheduler.running:
            self._scheduler.start()
        self._is_ours = True
        self._scheduler.add_job(
            self._look,
            self._trigger,
            id=_JOB,
            next_run_time=to_datetime(now_us()),
            misfire_grace_time=None,
            coalesce=True,
            max_instances=1,
            replace_existing=True,
        )

    async def end(self) -> None:
        """Begin no call any more, give those under way a moment, then let go of them; does nothing when not begun."""
        if not self._is_ours:
            return
        self._is_ours = False
        self._scheduler.remove_job(_JOB)
        if self._round is not None:
            self._round.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                await self._relay.finish()
        self._relay.cancel()

    def stop(self) -> None:
        """Let go of everything at once."""
        self._is_ours = False
        if self._round is not None:
            self._round.cancel()
        self._relay.cancel()
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)

    def notice(self, due_us: int) -> None:
        """Something is due then that was not known: move the alarm forward."""
        if not self._is_ours:
            return
        self._noticed_us = min(self._noticed_us, due_us)
        if self._idle and due_us < self._wake_us:
            self._arm(due_us)

    def rearm(self) -> None:
        """Set the alarm again, as this machine's clock may have been set meanwhile."""
        if self._is_ours and self._idle:
            self._arm(self._wake_us)

    async def _look(self) -> None:
        self._idle = False
        self._noticed_us = NEVER_US
        self._round = asyncio.current_task()
        try:
            await self._relay.look()
        except Exception:
            # A defect, not an outage: the next sweep tries again.
            log.exception("schedules_look_failed")
        finally:
            self._round = None
            self._idle = True

    def _on_round_done(self, _event: JobExecutionEvent) -> None:
        """Set the next alarm. Only now does APScheduler count the job as finished: set earlier, it would be skipped."""
        if self._is_ours:
            self._arm(min(self._relay.wake_us, self._noticed_us))

    def _arm(self, wake_us: int) -> None:
        """Translate the alarm to this machine's clock, which is the one that APScheduler reads; a sweep from now at the latest."""
        now = self._clock.now_us()
        sweep_us = self._trigger.sweep // timedelta(microseconds=1)
        self._wake_us = min(wake_us, now + sweep_us)
        self._trigger.alarm = to_datetime(now_us() + max(self._wake_us - now, 0))
        self._scheduler.modify_job(_JOB, next_run_time=self._trigger.alarm)
