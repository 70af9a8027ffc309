"""Owns what waits in a lane: inputs for profiles, and the submissions whose callers wait for them."""

import asyncio
import enum
from collections.abc import Sequence
from typing import Any

import msgspec

from cairn.evaluator.store import ProfileRow
from cairn.evaluator.wire import Refused
from cairn.journey.state import EventInput, LastRun, LifeInput, ReceiptInput, RunInput, TimerInput


class EventArrival(msgspec.Struct, frozen=True):
    """A checked event that concerns a journey."""

    profile_id: str
    event: EventInput


class ReplayArrival(EventArrival, frozen=True):
    """An event of the past, to be made up for at `arrival_us` without asking for any activation. One that does not move is remembered as
    behavior, and does nothing else."""

    arrival_us: int
    moves: bool


class TimerArrival(msgspec.Struct, frozen=True):
    """A due timer; `standing_id` is the payload that it was scheduled with."""

    profile_id: str
    standing_id: str
    timer: TimerInput


class LifeArrival(msgspec.Struct, frozen=True):
    """An operator paused, resumed or ended a journey that the profile stands somehow with."""

    profile_id: str
    journey_id: str
    life: LifeInput


class ReceiptArrival(msgspec.Struct, frozen=True):
    """The fate of an activation; `entry` is what the profile's timeline shall say of it, as a JSON text."""

    profile_id: str
    receipt: ReceiptInput
    enrollment_id: str
    state_us: int
    entry: str


class ProfileArrival(msgspec.Struct, frozen=True):
    """A description of a profile: attributes to merge (None removes), or to `replace` all there are."""

    profile_id: str
    attributes: dict[str, Any]
    time_zone: str
    replace: bool
    arrival_us: int


class RunArrival(msgspec.Struct):
    """A run of a batch journey comes by. `row` is the profile as the run found it, None once that has turned out to be old; `did` is
    what the run did to how the profile stands with the journey, now or when it came by before: None for nothing. It holds once the
    submission is done."""

    profile_id: str
    journey_id: str
    run: RunInput
    row: ProfileRow | None
    did: LastRun | None = None


class ErasureArrival(msgspec.Struct, frozen=True):
    """A profile is to be erased, as of `arrival_us`. Never in a batch with others."""

    profile_id: str
    arrival_us: int


Arrival = (
    EventArrival | TimerArrival | LifeArrival | ReceiptArrival | ProfileArrival | RunArrival | ErasureArrival
)


class Result(enum.Enum):
    """What became of an arrival."""

    ACTED_ON = enum.auto()
    DUPLICATE = enum.auto()
    STALE = enum.auto()
    LATER = enum.auto()
    """Its journey's version is not known here yet."""
    FAILED = enum.auto()
    """The machine failed on it: a defect, which is logged."""


class Submission:
    """Arrivals of one call for one lane. `done` is resolved with a result, or a refusal, for each when all are durable;
    it fails as a whole when they may not be. `erases` says that they are erasures, all of them."""

    __slots__ = ("arrivals", "done", "erases", "missing", "results")

    def __init__(self, arrivals: Sequence[Arrival], done: asyncio.Future[list[Result | Refused]]) -> None:
        self.arrivals = arrivals
        self.done = done
        self.results: list[Result | Refused] = [Result.FAILED] * len(arrivals)
        self.missing = len(arrivals)
        self.erases = bool(arrivals) and type(arrivals[0]) is ErasureArrival

    def settle(self, index: int, result: Result | Refused) -> None:
        """Notes one result; the last one answers the caller."""
        self.results[index] = result
        self.missing -= 1
        if not self.missing and not self.done.done():
            self.done.set_result(self.results)

    def fail(self, error: BaseException) -> None:
        """Fails as a whole, once."""
        if not self.done.done():
            self.done.set_exception(error)


Part = tuple[Submission, Sequence[int]]
"""What waits in a lane: arrivals of a submission, by their places in it."""
