"""Owns what can happen in a story, as data: an engine makes it happen, on the bare machine or on running services.

A moment is written as a duration since the story began, `90m`; `-1h` is before it. Without one it is now: where the story has
come to.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from cairn.journey.document import parse_duration_us
from cairn.journey.live import PauseMode

if TYPE_CHECKING:
    from cairn.testing.story import Story


class Moment(msgspec.Struct, frozen=True):
    """Something that happens. Of another kind than those below it says in `happen` how."""

    def __call__(self, story: "Story") -> None:
        """Makes it happen in a story on the machine."""
        story.happen(self)

    def happen(self, story: "Story") -> None:
        """What a moment of a kind that the story does not know does to it."""
        raise NotImplementedError(type(self).__name__)


class Event(Moment, frozen=True):
    """An event; one of an earlier moment than now arrives late. Without an id it gets one of its own."""

    name: str
    at_us: int | None = None
    properties: Mapping[str, Any] = {}
    event_id: str = ""


class Change(Moment, frozen=True):
    """A change of the profile: `attributes` are merged into those it has, None removes one; an empty time zone leaves what it has."""

    at_us: int | None = None
    attributes: Mapping[str, Any] = {}
    time_zone: str = ""


class Passes(Moment, frozen=True):
    """Time passes, and what becomes due meanwhile acts, that of the last instant included."""

    duration_us: int


class Run(Moment, frozen=True):
    """A batch journey runs, "" for the only one. On the machine only: services run when they are asked, at the time it is then."""

    at_us: int | None = None
    journey: str = ""


class Receipt(Moment, frozen=True):
    """The fate of the newest activation that a step asked for becomes known. On the machine only: services do that themselves."""

    step_id: str


class Alarm(Moment, frozen=True):
    """The Scheduler goes down, or comes back and rings at once for all that is due. On the machine only."""

    on: bool


class Publish(Moment, frozen=True):
    """The next version of each journey in a YAML text goes live."""

    journeys: str


class Pause(Moment, frozen=True):
    """An operator pauses a journey, "" for the only one."""

    mode: PauseMode = PauseMode.FREEZE
    journey: str = ""


class Resume(Moment, frozen=True):
    """An operator resumes a paused journey, "" for the only one."""

    journey: str = ""


class End(Moment, frozen=True):
    """An operator ends a journey, "" for the only one: open enrollments drain, or are removed."""

    remove: bool = False
    journey: str = ""


def event(name: str, at: str | None = None, *, event_id: str = "", **properties: Any) -> Event:
    """An event at a moment, by default now, with these properties."""
    return Event(name, offset_us(at), properties, event_id)


def profile(at: str | None = None, *, time_zone: str = "", **attributes: Any) -> Change:
    """A change of the profile: these attributes are merged into those it has, None removes one."""
    return Change(offset_us(at), attributes, time_zone)


def passes(duration: str) -> Passes:
    """Time passes, and what becomes due meanwhile acts."""
    return Passes(duration_us(duration))


def run(at: str | None = None, journey: str = "") -> Run:
    """A batch journey runs, at a moment, by default now."""
    return Run(offset_us(at), journey)


def receipt(step_id: str) -> Receipt:
    """The fate of the newest activation that a step asked for becomes known."""
    return Receipt(step_id)


def alarm(on: bool) -> Alarm:
    """The Scheduler goes down; or it comes back and rings at once for all that is due."""
    return Alarm(on)


def publish(journeys: str) -> Publish:
    """The next version of each journey in a YAML text goes live."""
    return Publish(journeys)


def pause(mode: str = "FREEZE", journey: str = "") -> Pause:
    """An operator pauses a journey: FREEZE, RUN or DROP. Raises KeyError for another mode."""
    return Pause(PauseMode[mode], journey)


def resume(journey: str = "") -> Resume:
    """An operator resumes a paused journey."""
    return Resume(journey)


def end(remove: bool = False, journey: str = "") -> End:
    """An operator ends a journey: open enrollments drain, or are removed."""
    return End(remove, journey)


def duration_us(duration: str) -> int:
    """A duration as people write it, in microseconds. Raises ValueError."""
    value = parse_duration_us(duration)
    if value is None:
        raise ValueError(f"{duration!r} is no duration; one is 3h")
    return value


def offset_us(at: str | None) -> int | None:
    """A moment as people write it, in microseconds since the story began; None for now. Raises ValueError."""
    if at is None:
        return None
    return -duration_us(at[1:]) if at.startswith("-") else duration_us(at)
