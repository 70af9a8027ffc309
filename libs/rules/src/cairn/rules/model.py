"""The words of `cairn.rules`: where a criteria stands, what is wrong with one, and what a compiled one offers."""

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

Evaluate: TypeAlias = Callable[[Mapping[str, Any] | None, Mapping[str, Any] | None, Mapping[str, Any]], bool]
"""(event, entry, profile) -> whether the criteria holds; raises CriteriaFailed.

An event is {"name": str, "properties": dict of JSON values, "occur_time": aware datetime} and None when the input is
no event; `entry` is the same for the event that began the enrollment; `profile` is a dict of JSON values, empty for
a profile that was never described.
"""


class Scope(enum.Enum):
    """Where a criteria stands, which decides what it may read; the value lists the roots it may name."""

    ENTRY = ("event", "profile")
    ENROLLMENT = ("event", "entry", "profile")


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


@dataclass(frozen=True, slots=True)
class Criteria:
    """A checked and compiled expression.

    `event_names` are the names of the events that it can react to: None for any name, empty when no event is
    needed. `python` is the source that was generated for it.
    """

    source: str
    reads_event: bool
    reads_entry: bool
    reads_profile: bool
    event_names: frozenset[str] | None
    evaluate: Evaluate
    python: str
