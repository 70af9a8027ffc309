"""Owns what a replica remembers of a shard it owns: where to read from, which keys wait, when to look again.

Pure: every time is an argument, microseconds since the epoch by Postgres' clock. Holds no timer; all of it can be
lost without loss, since the table is the truth.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cairn.scheduler.timer import MAX_FIRE_BATCH, Timer

MAX_HELD_KEYS = 256
"""Keys that wait for a second try. With more than that the sink is in trouble, and the whole shard waits."""

FLOOR_SLACK_US = 5_000_000
"""How far behind the earliest timer that was seen a read begins: a timer whose commit took that long is not missed."""

FULL_READ_US = 30_000_000
"""How often a read begins at the beginning of time, for what no bound should ever hide."""

_FIRST_BACKOFF_US = 50_000
_LONGEST_BACKOFF_US = 2_000_000


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What to read: timers due at `floor_us` (None: at any time) or later, at most `limit`, none of `held_keys`."""

    floor_us: int | None
    limit: int
    held_keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Hold:
    attempts: int
    until_us: int
    due_us: int


def backoff_us(bucket: int, attempts: int) -> int:
    """How long to wait after this many failures in a row: doubling, at most 2 s.

    Up to a quarter less, differently for each shard and attempt, so that shards do not come back in step.
    """
    full = min(_FIRST_BACKOFF_US << min(max(attempts, 1) - 1, 16), _LONGEST_BACKOFF_US)
    return full - full * (zlib.crc32(b"%d:%d" % (bucket, attempts)) % 256) // 1024


class Shard:
    """The memory of one shard. `next_due_us` is the earliest timer known that is not due yet, None if none is."""

    def __init__(self, bucket: int) -> None:
        self.bucket = bucket
        self.next_due_us: int | None = None
        self._floor_us: int | None = None
        self._full_read_after_us = 0
        self._noticed_us: int | None = None
        self._holds: dict[str, _Hold] = {}
        self._failures = 0
        self._blocked_until_us = 0
        self._limit = MAX_FIRE_BATCH

    def notice(self, due_us: int) -> None:
        """A timer was accepted, maybe while a read that does not see it is under way."""
        self._noticed_us = due_us if self._noticed_us is None else min(self._noticed_us, due_us)
        if self._floor_us is not None:
            self._floor_us = min(self._floor_us, due_us)

    def forget_floor(self) -> None:
        """Notices may have been missed: the next read begins at the beginning."""
        self._floor_us = None

    def blocked(self, now_us: int) -> bool:
        """Whether the whole shard waits after a failure."""
        return now_us < self._blocked_until_us

    def begin_read(self, now_us: int) -> ReadPlan:
        """What to read now. To be followed by `note_read`, or by `failed`."""
        if now_us >= self._full_read_after_us:
            self._floor_us = None
        self._noticed_us = None
        held = tuple(key for key, hold in self._holds.items() if hold.until_us > now_us)
        return ReadPlan(self._floor_us, self._limit, held)

    def note_read(self, plan: ReadPlan, now_us: int, due: Sequence[Timer], next_due_us: int | None) -> None:
        """What the read at `now_us` found: the due timers in order, and the time of the first that is not due."""
        if plan.floor_us is None:
            self._full_read_after_us = now_us + FULL_READ_US
        earliest = [hold.due_us for hold in self._holds.values()]
        earliest.append(due[0].due_us if due else now_us)
        floor = min(earliest) - FLOOR_SLACK_US
        # A notice that came during the read is of a timer that the read may not have seen.
        self._floor_us = floor if self._noticed_us is None else min(floor, self._noticed_us)
        self.next_due_us = next_due_us

    def settled(self, timers: Iterable[Timer]) -> None:
        """The sink is done with these."""
        if self._holds:
            for timer in timers:
                self._holds.pop(timer.key, None)

    def answered(self) -> None:
        """The sink answered a call: no failure in a row any more, and the batches may grow again."""
        self._failures = 0
        self._limit = min(self._limit * 2, MAX_FIRE_BATCH)

    def retry(self, timers: Iterable[Timer], now_us: int) -> None:
        """The sink wants these again: their keys wait, others go on."""
        for timer in timers:
            hold = self._holds.get(timer.key)
            if hold is not None and hold.until_us > now_us:
                continue
            if hold is None and len(self._holds) >= MAX_HELD_KEYS:
                self._blocked_until_us = max(self._blocked_until_us, now_us + backoff_us(self.bucket, 4))
                return
            attempts = 1 if hold is None else hold.attempts + 1
            until_us = now_us + backoff_us(self.bucket, attempts)
            self._holds[timer.key] = _Hold(attempts, until_us, timer.due_us)

    def failed(self, now_us: int) -> None:
        """Postgres or the sink does not answer: the shard waits, longer each time."""
        self._failures += 1
        self._blocked_until_us = now_us + backoff_us(self.bucket, self._failures)

    def choked(self, timers: Sequence[Timer], now_us: int) -> None:
        """The sink answers, but fails on this batch: try smaller ones, until the timer that it fails on is alone.

        That one's key then waits like any that is to be retried, and holds up no other.
        """
        if len(timers) > 1:
            self._limit = max(len(timers) // 2, 1)
            self.failed(now_us)
        else:
            self.retry(timers, now_us)

    def wake_us(self, now_us: int, sweep_us: int) -> int:
        """When to look at the shard again: at the next due timer, a retry, or one sweep from now, if that is earlier."""
        times = [now_us + sweep_us]
        times += [due for due in (self.next_due_us, self._noticed_us) if due is not None]
        times += [hold.until_us for hold in self._holds.values() if hold.until_us > now_us]
        return max(min(times), self._blocked_until_us)
