"""The words of `cairn.rules`: where a criteria stands, what it asks, what is wrong with one, what a compiled one offers."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, Literal, Protocol, TypeAlias

from cairn.rules._checked_ast import Node

MAX_WINDOW_US: Final = 366 * 24 * 3600 * 1_000_000
"""The longest window that a behavior function may look back, in microseconds: 366 days."""

Function: TypeAlias = Literal["count", "sum", "first", "last"]


class Scope(enum.Enum):
    """Where a criteria stands, which decides what it may read; the value lists the roots it may name.

    Behavior functions and `in_segment` may stand in all of them.
    """

    ENTRY = ("event", "profile")
    ENROLLMENT = ("event", "entry", "profile")
    SEGMENT = ("profile",)


class Behavior(Protocol):
    """What a profile has done, the event at hand counted, as a criteria asks it.

    The object knows the time; a window reaches back from there, in microseconds, None for as far as it remembers.
    Whatever a method raises is a failure of the part of the criteria that asked.
    """

    def count(self, name: str, window_us: int | None) -> int:
        """How many events of this name there are."""
        ...

    def sum(self, name: str, property: str, window_us: int) -> float:
        """The sum of a numeric property over the events of this name; 0.0 where there are none."""
        ...

    def first(self, name: str, window_us: int | None) -> Mapping[str, Any] | None:
        """The earliest event of this name, as `Evaluate` has events; None where there is none."""
        ...

    def last(self, name: str, window_us: int | None) -> Mapping[str, Any] | None:
        """The latest event of this name, as `Evaluate` has events; None where there is none."""
        ...

    def in_segment(self, name: str) -> bool:
        """Whether the profile is in this segment."""
        ...


class Evaluate(Protocol):
    """Whether a criteria holds; raises CriteriaFailed."""

    def __call__(
        self,
        event: Mapping[str, Any] | None,
        entry: Mapping[str, Any] | None,
        profile: Mapping[str, Any],
        behavior: Behavior | None = None,
        /,
    ) -> bool:
        """Answer for one input.

        An event is {"name": str, "properties": dict of JSON values, "occur_time": aware datetime} and None when the
        input is no event; `entry` is the same for the event that began the enrollment; `profile` is a dict of JSON
        values, empty for a profile that was never described. Without `behavior` its functions fail.
        """
        ...


@dataclass(frozen=True, slots=True)
class Ask:
    """One question to a profile's behavior; `property` is there for a sum only, a window of None has no end."""

    function: Function
    name: str
    property: str = ""
    window_us: int | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a source: its place, counted in characters from 1, and what would be right."""

    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.line}:{self.column}: {self.message}"


class CriteriaError(ValueError):
    """A source that is no criteria; holds every problem that was found, at least one, in order of place."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


class CriteriaFailed(Exception):  # noqa: N818 - the name of an outcome, not of a mistake
    """An evaluation without an answer: a key that is not there, an absent event, a value of another type.

    Its text names the kind of failure and never a value, so it may be logged.
    """


@dataclass(frozen=True)
class Criteria:
    """A checked expression; its Python is made when it is first needed.

    `reads_behavior` says that it asks anything of behavior or segments.
    `event_names` are the names of the events that should reach it, those that it asks of behavior included: None for
    any name, empty when no event is needed. `event_names_needed` are the names of the events with which it can hold
    at all: with another event, or with an input that is no event, it is not true; None when nothing can be said.
    `is_by_name` says that with any of those it is sure to hold, so that it need not be evaluated.
    `needs_event` says that without an event it is sure not to hold.
    `asks` lists its questions to behavior, each once, in the order in which they are written; `segments` are those
    that it names. `constant` is the answer of a criteria that reads nothing, None otherwise (also where it fails).
    """

    source: str
    scope: Scope
    reads_event: bool
    reads_entry: bool
    reads_profile: bool
    reads_behavior: bool
    asks: tuple[Ask, ...]
    segments: frozenset[str]
    event_names: frozenset[str] | None
    event_names_needed: frozenset[str] | None
    is_by_name: bool
    needs_event: bool
    tree: Node = field(repr=False, compare=False)
    load: Callable[[], tuple[str, Evaluate]] = field(repr=False, compare=False)

    @cached_property
    def constant(self) -> bool | None:
        """Its answer, where it reads nothing at all and has one."""
        if self.reads_event or self.reads_entry or self.reads_profile or self.reads_behavior:
            return None
        try:
            return self.evaluate(None, None, {})
        except CriteriaFailed:
            return None

    @property
    def python(self) -> str:
        """The source that was generated for it."""
        return self._loaded[0]

    @cached_property
    def evaluate(self) -> Evaluate:
        """The function that answers; the first use takes some 0.2 ms."""
        return self._loaded[1]

    @cached_property
    def _loaded(self) -> tuple[str, Evaluate]:
        return self.load()
