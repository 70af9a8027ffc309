"""Owns the words of the domain: a timer, its state, a batch of new ones. Pure data."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum

MAX_ID_BYTES = 256
"""Of a timer's id, and of its key."""

MAX_PAYLOAD_BYTES = 1024

MAX_BATCH = 10_000
"""Timers in one call that schedules or cancels."""

MAX_FIRE_BATCH = 1_000
"""Timers in one call to the sink."""


class State(IntEnum):
    """Where a timer is; the numbers are stored."""

    PENDING = 0
    PARKED = 1


@dataclass(frozen=True, slots=True)
class Timer:
    """One timer; `due_us` is microseconds since the epoch."""

    timer_id: str
    key: str
    due_us: int
    payload: bytes


def waves(timers: Iterable[Timer]) -> list[list[Timer]]:
    """Spread timers so that none of the lists holds two of one key; each key keeps its order from list to list.

    Sent one after the other, a timer that is to be retried is never overtaken by a later one of its key.
    """
    spread: list[list[Timer]] = []
    sent: dict[str, int] = {}
    for timer in timers:
        earlier = sent.get(timer.key, 0)
        sent[timer.key] = earlier + 1
        if earlier == len(spread):
            spread.append([])
        spread[earlier].append(timer)
    return spread


@dataclass(frozen=True, slots=True)
class StoredTimer:
    """A timer as people see it: where it is, and why when it is parked."""

    timer: Timer
    bucket: int
    state: State
    refusal: str


@dataclass(slots=True)
class NewTimers:
    """Timers of one bucket on their way into the table, as the columns that one statement takes."""

    timer_ids: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    due_times: list[datetime] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    earliest_us: int | None = None

    def add(self, timer_id: str, key: str, due_us: int, due_time: datetime, payload: bytes) -> None:
        """Append one; `due_time` is `due_us` as the database takes it."""
        self.timer_ids.append(timer_id)
        self.keys.append(key)
        self.due_times.append(due_time)
        self.payloads.append(payload)
        if self.earliest_us is None or due_us < self.earliest_us:
            self.earliest_us = due_us


@dataclass(frozen=True, slots=True)
class PageStart:
    """The last timer of the page before: lists are in order of (due time, bucket, id)."""

    due_us: int
    bucket: int
    timer_id: str


@dataclass(frozen=True, slots=True)
class TimerFilter:
    """What a list is about: one key or all ("" means all), and which states; `due_by_us` None means any due time."""

    key: str = ""
    pending: bool = True
    parked: bool = True
    due_by_us: int | None = None
