"""Owns what a replica remembers of a shard it owns: timers that are due soon, which keys wait, when to read and to look.

Pure: every time is an argument, microseconds since the epoch by Postgres' clock. All of it can be lost without loss,
since the table is the truth: what is remembered spares a read when a timer is due, and a delete when it was taken.
"""

import zlib
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from cairn.scheduler.timer import MAX_FIRE_BATCH, Timer

MAX_HELD_KEYS = 256
"""Keys that wait for a second try. With more than that the sink is in trouble, and the whole shard waits."""

FLOOR_SLACK_US = 5_000_000
"""How far behind the earliest timer that was seen a read begins: a timer whose commit took that long is not missed."""

FULL_READ_US = 30_000_000
"""How often a read begins at the beginning of time, for what no bound should ever hide."""

READ_AHEAD_US = 1_000_000
"""How long before it is due a timer is read."""

READ_SIZE = 4 * MAX_FIRE_BATCH
"""Timers that a read brings to memory; there is another one when most of them are sent."""

_LEAD_US = 200_000
"""How long before memory ends the next read begins: as long as a read may take on a busy machine."""

_NOTICED_LEAD_US = 10_000
"""The same for a timer that is accepted when it is due soon already, so that one read brings several."""

_BETWEEN_READS_US = 20_000
"""Least time from one read to another that is made for a timer that was accepted late."""

_FIRST_BACKOFF_US = 50_000
_LONGEST_BACKOFF_US = 2_000_000
_STALE_HOLD_US = 60_000_000
_NEVER_US = 1 << 62


@dataclass(frozen=True, slots=True)
class ReadPlan:
    """What to read: timers due from `floor_us` (None: at any time) to `until_us`, at most `limit`, none of `held_keys`."""

    floor_us: int | None
    until_us: int
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
    """The memory of one shard. A timer is `upcoming` until it is sent, then `out` until its row is deleted."""

    def __init__(self, bucket: int, sweep_us: int) -> None:
        self.bucket = bucket
        self._sweep_us = sweep_us
        # In order of due time, and all that is due until `_known_until_us`.
        self._upcoming: dict[str, Timer] = {}
        self._known_until_us = 0
        self._has_more = False
        self._read_at_us = 0
        self._last_read_us = 0
        self._floor_us: int | None = None
        self._full_read_after_us = 0
        # What happens while a read is under way, which may not see it.
        self._reading = False
        self._noticed_us = _NEVER_US
        self._gone: set[str] = set()
        self._out: set[str] = set()
        self._taken: list[str] = []
        self._holds: dict[str, _Hold] = {}
        self._failures = 0
        self._blocked_until_us = 0
        self._limit = MAX_FIRE_BATCH

    # What is accepted and canceled

    def notice(self, due_us: int) -> None:
        """A timer was accepted: unless a later read finds it in time anyway, the next one is moved forward."""
        self._noticed_us = min(self._noticed_us, due_us)
        if self._floor_us is not None:
            self._floor_us = min(self._floor_us, due_us)
        if due_us <= self._known_until_us:
            self._known_until_us = due_us - 1
            read_at_us = max(due_us - _NOTICED_LEAD_US, self._last_read_us + _BETWEEN_READS_US)
            self._read_at_us = min(self._read_at_us, read_at_us)

    def forget(self, timer_ids: Collection[str]) -> None:
        """Timers were canceled."""
        if self._reading:
            self._gone.update(timer_ids)
        if self._upcoming:
            for timer_id in timer_ids:
                self._upcoming.pop(timer_id, None)

    def forget_floor(self) -> None:
        """Notices may have been missed: read now, from the beginning."""
        self._floor_us = None
        self._read_at_us = 0
        self._noticed_us = min(self._noticed_us, 0)

    # Reading

    def needs_read(self, now_us: int) -> bool:
        """Whether memory ends soon."""
        if self._has_more and len(self._upcoming) <= MAX_FIRE_BATCH:
            return True
        return now_us >= self._read_at_us

    def begin_read(self, now_us: int) -> ReadPlan:
        """What to read now. To be followed by `note_read`, or by `read_failed`."""
        if now_us >= self._full_read_after_us:
            self._floor_us = None
        self._reading = True
        self._last_read_us = now_us
        self._noticed_us = _NEVER_US
        self._gone.clear()
        held = tuple(key for key, hold in self._holds.items() if hold.until_us > now_us)
        return ReadPlan(self._floor_us, now_us + READ_AHEAD_US, READ_SIZE + len(self._out), held)

    def note_read(self, plan: ReadPlan, now_us: int, found: Sequence[Timer], next_due_us: int | None) -> None:
        """What the read that began at `now_us` found, in order, and the time of the first timer after `plan.until_us`."""
        self._reading = False
        if plan.floor_us is None:
            self._full_read_after_us = now_us + FULL_READ_US
        self._drop_stale_holds(now_us)
        earliest = [hold.due_us for hold in self._holds.values()]
        earliest.append(min(found[0].due_us, now_us) if found else now_us)
        self._floor_us = min(earliest) - FLOOR_SLACK_US
        # The read may have seen what was sent, deleted or canceled before it ended, and keys that wait since then.
        known = self._out | self._gone
        held = {key: hold.until_us for key, hold in self._holds.items() if hold.until_us > now_us}
        self._upcoming = {
            timer.timer_id: timer for timer in found if timer.timer_id not in known and timer.key not in held
        }
        self._has_more = len(found) >= plan.limit
        if self._has_more:
            # Others may be due at the very time of the last one; in which order these go does not matter.
            self._known_until_us = found[-1].due_us
            self._read_at_us = now_us + self._sweep_us
        else:
            self._known_until_us = _NEVER_US if next_due_us is None else next_due_us - 1
            self._read_at_us = min(now_us + self._sweep_us, self._known_until_us - _LEAD_US)
        self._read_at_us = min(self._read_at_us, *held.values()) if held else self._read_at_us
        if self._noticed_us < _NEVER_US:
            self.notice(self._noticed_us)

    def read_failed(self, now_us: int) -> None:
        """Postgres did not answer the read."""
        self._reading = False
        self.failed(now_us)

    # Sending

    @property
    def is_troubled(self) -> bool:
        """Whether something of the shard failed lately: what it sends should then harm no other."""
        return bool(self._failures or self._holds)

    def blocked(self, now_us: int) -> bool:
        """Whether the whole shard waits after a failure."""
        return now_us < self._blocked_until_us

    def take(self, now_us: int) -> list[Timer]:
        """The timers to send now, in order of due time, none if nothing is due: to be followed by `settled` or `failed`.

        One of a key at most: a timer that is to be retried is never overtaken by a later one of its key.
        """
        until_us = min(now_us, self._known_until_us)
        keys: set[str] = set()
        batch: list[Timer] = []
        for timer in self._upcoming.values():
            if timer.due_us > until_us or len(batch) == self._limit:
                break
            if timer.key not in keys:
                keys.add(timer.key)
                batch.append(timer)
        for timer in batch:
            del self._upcoming[timer.timer_id]
            self._out.add(timer.timer_id)
        return batch

    def settled(self, timers: Iterable[Timer]) -> None:
        """The sink is done with these; their rows are no more needed."""
        for timer in timers:
            self._taken.append(timer.timer_id)
            if self._holds:
                self._holds.pop(timer.key, None)

    def answered(self) -> None:
        """The sink answered a call: no failure in a row any more, and the batches may grow again."""
        self._failures = 0
        self._limit = min(self._limit * 2, MAX_FIRE_BATCH)

    def retry(self, timers: Iterable[Timer], now_us: int) -> None:
        """The sink wants these again: their keys wait, others go on."""
        keys: set[str] = set()
        for timer in timers:
            keys.add(timer.key)
            self._out.discard(timer.timer_id)
            hold = self._holds.get(timer.key)
            if hold is None and len(self._holds) >= MAX_HELD_KEYS:
                self._read_again()
                self._blocked_until_us = max(self._blocked_until_us, now_us + backoff_us(self.bucket, 4))
                continue
            attempts = 1 if hold is None else hold.attempts + 1
            until_us = now_us + backoff_us(self.bucket, attempts)
            self._holds[timer.key] = _Hold(attempts, until_us, timer.due_us)
            self._read_at_us = min(self._read_at_us, until_us)
        # Of a key that waits nothing is in memory: the read when its time is over brings all of it, in order.
        self._upcoming = {name: timer for name, timer in self._upcoming.items() if timer.key not in keys}

    def failed(self, now_us: int, timers: Iterable[Timer] = ()) -> None:
        """Postgres or the sink does not answer: the shard waits, longer each time. `timers` were sent in vain."""
        self._failures += 1
        self._blocked_until_us = now_us + backoff_us(self.bucket, self._failures)
        self._out.difference_update(timer.timer_id for timer in timers)
        self._read_again()

    def choked(self, timers: Sequence[Timer], now_us: int) -> None:
        """The sink answers, but fails on this batch: try smaller ones, until the timer that it fails on is alone.

        That one's key then waits like any that is to be retried, and holds up no other.
        """
        if len(timers) > 1:
            self._limit = max(len(timers) // 2, 1)
            self.failed(now_us, timers)
        else:
            self.retry(timers, now_us)

    def parked(self, timers: Sequence[Timer]) -> None:
        """The sink refused these for good, and their rows say so."""
        for timer in timers:
            self._holds.pop(timer.key, None)
        self.deleted([timer.timer_id for timer in timers])

    # Deleting

    @property
    def count_settled(self) -> int:
        """How many rows are to be deleted."""
        return len(self._taken)

    def take_settled(self) -> list[str]:
        """The ids whose rows are to be deleted. To be followed by `deleted`, or `settle_again` when that failed."""
        taken, self._taken = self._taken, []
        return taken

    def settle_again(self, timer_ids: Sequence[str]) -> None:
        """These could not be deleted."""
        self._taken += timer_ids

    def deleted(self, timer_ids: Sequence[str]) -> None:
        """These rows are gone, or fire no more."""
        if self._reading:
            self._gone.update(timer_ids)
        self._out.difference_update(timer_ids)

    def wake_us(self, now_us: int) -> int:
        """When to look at the shard again: for the next timer that is due, or for a read."""
        wake_us = now_us if self.needs_read(now_us) else self._read_at_us
        first = next(iter(self._upcoming.values()), None)
        if first is not None and first.due_us <= self._known_until_us:
            wake_us = min(wake_us, first.due_us)
        return max(wake_us, self._blocked_until_us)

    def _read_again(self) -> None:
        """Nothing in memory counts any more: it lacks what was sent in vain."""
        self._upcoming = {}
        self._has_more = False
        self._read_at_us = 0

    def _drop_stale_holds(self, now_us: int) -> None:
        """A key whose timer was canceled while it waited is never settled."""
        stale = [key for key, hold in self._holds.items() if hold.until_us < now_us - _STALE_HOLD_US]
        for key in stale:
            del self._holds[key]
