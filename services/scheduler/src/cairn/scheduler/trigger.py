"""Owns the answer to APScheduler's question "when is this shard next due". Pure: holds an alarm, reads no clock."""

from datetime import datetime, timedelta

from apscheduler.triggers.base import BaseTrigger


class ShardTrigger(BaseTrigger):  # type: ignore[misc]  # the library is untyped
    """Answers the alarm that was set; once that has passed, or when none is set, a sweep later than now.

    APScheduler asks in a `while next <= now` loop before the job runs, and drops a job whose trigger answers None.
    So the answer is always a time, strictly later than both arguments; and not just behind them, since the job that
    will set the next alarm may still be running then. Times are aware datetimes of this machine's clock.
    """

    def __init__(self, sweep: timedelta) -> None:
        if sweep <= timedelta(0):
            raise ValueError("a sweep interval is longer than zero")
        self.sweep = sweep
        self.alarm: datetime | None = None

    def get_next_fire_time(self, previous_fire_time: datetime | None, now: datetime) -> datetime:
        """The next time to look at the shard; see the class."""
        latest = now if previous_fire_time is None else max(previous_fire_time, now)
        if self.alarm is not None and self.alarm > latest:
            return self.alarm
        return latest + self.sweep
