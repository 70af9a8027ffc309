"""Owns the words of the domain: a timer, its state, a batch of new ones. Pure data."""

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

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


class Timer(NamedTuple):
    """One timer; `due_us` is microseconds since the epoch. A tuple, as they are read by the thousand."""

    timer_id: str
    key: str
    due_us: int
    payload: bytes


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
    due_us: list[int] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    earliest_us: int | None = None

    def add(self, timer_id: str, key: str, due_us: int, payload: bytes) -> None:
        """Append one."""
        self.timer_ids.append(timer_id)
        self.keys.append(key)
        self.due_us.append(due_us)
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
