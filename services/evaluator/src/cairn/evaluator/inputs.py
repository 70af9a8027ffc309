"""Owns what waits in a lane: inputs for profiles, and the submissions whose callers wait for them."""

import asyncio
import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cairn.evaluator.wire import Refused
from cairn.journey.state import EventInput, LifeInput, ReceiptInput, TimerInput


@dataclass(frozen=True, slots=True)
class EventArrival:
    """A checked event that concerns a journey."""

    profile_id: str
    event: EventInput


@dataclass(frozen=True, slots=True)
class TimerArrival:
    """A due timer; `standing_id` is the payload that it was scheduled with."""

    profile_id: str
    standing_id: str
    timer: TimerInput


@dataclass(frozen=True, slots=True)
class LifeArrival:
    """An operator paused, resumed or ended a journey that the profile stands somehow with."""

    profile_id: str
    journey_id: str
    life: LifeInput


@dataclass(frozen=True, slots=True)
class ReceiptArrival:
    """The fate of an activation; `entry` is what the profile's timeline shall say of it, as a JSON text."""

    profile_id: str
    receipt: ReceiptInput
    enrollment_id: str
    state_us: int
    entry: str


@dataclass(frozen=True, slots=True)
class ProfileArrival:
    """A description of a profile: attributes to merge (None removes), or to `replace` all there are."""

    profile_id: str
    attributes: dict[str, Any]
    time_zone: str
    replace: bool
    arrival_us: int


Arrival = EventArrival | TimerArrival | LifeArrival | ReceiptArrival | ProfileArrival


class Result(enum.Enum):
    """What became of an arrival."""

    ACTED_ON = enum.auto()
    DUPLICATE = enum.auto()
    STALE = enum.auto()
    LATER = enum.auto()
    """Its journey's version is not known here yet."""
    FAILED = enum.auto()
    """The machine failed on it: a defect, which is logged."""


@dataclass(slots=True, eq=False)
class Submission:
    """Arrivals of one call for one lane. `done` is resolved with a result, or a refusal, for each when all are durable;
    it fails as a whole when they may not be."""

    arrivals: Sequence[Arrival]
    done: asyncio.Future[list[Result | Refused]]
    results: list[Result | Refused | None] = field(default_factory=list)
    missing: int = 0

    def __post_init__(self) -> None:
        self.results = [None] * len(self.arrivals)
        self.missing = len(self.arrivals)

    def settle(self, index: int, result: Result | Refused) -> None:
        """Notes one result; the last one answers the caller."""
        self.results[index] = result
        self.missing -= 1
        if self.missing == 0 and not self.done.done():
            self.done.set_result([each for each in self.results if each is not None])

    def fail(self, error: BaseException) -> None:
        """Fails as a whole, once."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True, slots=True)
class Item:
    """One arrival in a lane, and where its result belongs."""

    submission: Submission
    index: int

    @property
    def arrival(self) -> Arrival:
        """What arrived."""
        return self.submission.arrivals[self.index]

    def settle(self, result: Result | Refused) -> None:
        """Notes the result."""
        self.submission.settle(self.index, result)
