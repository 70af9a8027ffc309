"""Owns what the reference interpreter remembers and tells: journeys as they are served, standings, enrollments, lines."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from reference_world import Event

from cairn.journey.model import (
    Activation,
    Decision,
    ExitCriterion,
    Experiment,
    Journey,
    Step,
    Wait,
    WaitForCondition,
)
from cairn.rules import Criteria

DAY_US = 86_400_000_000
Detail = dict[str, Any]
Reach = Callable[[str], frozenset[str] | None]
"""The names of the events that a criteria's source speaks of; None when it reads the event without fixing one."""


class TooManyStepsError(Exception):
    """Steps go round in one instant; the page caps that, and the tests do not go there."""


class Line(NamedTuple):
    """A transition. `life` numbers the enrollments of a standing; 0 where there is none."""

    standing: str
    life: int
    time_us: int
    version: int
    kind: str
    stage: str
    step: str
    detail: Detail
    cause: str


class Sent(NamedTuple):
    """What an activation hands over. `life` numbers the enrollments of a standing."""

    standing: str
    life: int
    time_us: int
    version: int
    stage: str
    step: str
    channel: str
    template: str
    action: int
    attributes: Mapping[str, Any]
    entry: str | None
    latest: str | None
    time_zone: str


class Hand(NamedTuple):
    """The input at hand."""

    event: Event | None
    cause: str
    late_us: int = 0


TIMER = Hand(None, "timer")


@dataclass
class Version:
    number: int
    model: Journey
    segments: Mapping[str, Criteria]


@dataclass
class Life:
    """An enrollment. `todo` are the steps that are left in its stage, the one that it waits for first."""

    number: int
    version: Version
    stage: int
    enter_us: int
    stage_us: int
    now_us: int
    entry: Event | None
    latest: Event | None
    todo: list[Step] = field(default_factory=list)
    state: str = "new"
    until_us: int = 0
    rest_us: int = 0
    pending: list[str] = field(default_factory=list)
    added: list[tuple[int, Step, Activation]] = field(default_factory=list)
    held: Event | None = None

    @property
    def model(self) -> Journey:
        return self.version.model

    @property
    def is_in_last_stage(self) -> bool:
        return self.stage == len(self.model.stages) - 1


class Entry(NamedTuple):
    """What begins an enrollment; `stage` is None unless it is a jump."""

    time_us: int
    cause: str
    event: Event | None
    entry: Event | None
    latest: Event | None
    stage: str | None = None


@dataclass
class Standing:
    journey: str
    key: str
    entries: int = 0
    last_entry_us: int = 0
    achieved: bool = False
    goal_us: int = 0
    births: int = 0
    life: Life | None = None
    remembered: Entry | None = None

    @property
    def name(self) -> str:
        return f"{self.journey}/{self.key}" if self.key else self.journey


@dataclass
class Served:
    """A journey as it is served. `goal_us` is when its goal was met by an input that is for all keys."""

    versions: list[Version] = field(default_factory=list)
    pause: tuple[str, int] | None = None
    ended: bool = False
    goal_us: int = 0

    @property
    def newest(self) -> Version:
        return self.versions[-1]


def shift(life: Life, since_us: int, until_us: int) -> None:
    """A clock that stood still: what it counts is moved on, moments of the calendar are not."""
    life.enter_us += until_us - max(since_us, life.enter_us)
    life.stage_us += until_us - max(since_us, life.stage_us)
    if life.state == "resting":
        life.rest_us += until_us - max(since_us, life.rest_us)
    if life.state == "waiting" and isinstance(life.todo[0].kind, Wait | WaitForCondition):
        life.until_us += until_us - since_us
    life.now_us = max(life.now_us, until_us)


def applies(exit: ExitCriterion, life: Life) -> bool:
    return exit.stale_us is not None and (exit.to is None or exit.to > life.stage)


def criteria_of(version: Version) -> Iterator[Criteria]:
    model = version.model
    yield model.entry
    if model.goal is not None:
        yield model.goal
    for exit in (*model.exits, *(exit for stage in model.stages for exit in stage.exits)):
        if exit.criteria is not None:
            yield exit.criteria
    for stage in model.stages:
        if stage.milestone is not None:
            yield stage.milestone
        yield from criteria_of_steps(stage.steps)
    yield from version.segments.values()


def criteria_of_steps(steps: tuple[Step, ...]) -> Iterator[Criteria]:
    for step in steps:
        match step.kind:
            case WaitForCondition() as wait:
                yield wait.criteria
                yield from criteria_of_steps((*wait.met, *wait.timed_out))
            case Decision(branches=branches, otherwise=otherwise):
                for branch in branches:
                    yield branch.criteria
                    yield from criteria_of_steps(branch.steps)
                yield from criteria_of_steps(otherwise)
            case Experiment(variants=variants):
                for variant in variants:
                    yield from criteria_of_steps(variant.steps)
