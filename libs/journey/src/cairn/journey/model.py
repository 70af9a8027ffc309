"""Owns what a journey is once nothing is wrong with it. Durations are in microseconds."""

import enum
from dataclasses import dataclass

from cairn.rules import Criteria


class ReentryMode(enum.IntEnum):
    """When somebody who was in a journey may begin it again."""

    NEVER = 1
    UNLESS_GOAL_ACHIEVED = 2
    ALWAYS = 3


class AudienceAction(enum.IntEnum):
    """What an audience does with a profile; NONE where the destination is no audience."""

    NONE = 0
    ADD = 1
    REMOVE = 2


@dataclass(frozen=True, slots=True)
class Reentry:
    """The rules of re-entry; `max_entries` 0 means no limit."""

    mode: ReentryMode = ReentryMode.UNLESS_GOAL_ACHIEVED
    cooldown_us: int = 0
    max_entries: int = 0


@dataclass(frozen=True, slots=True)
class ExitCriterion:
    """A way out. One of `criteria` and `stale_us` is set; `to` is the index of the stage to go on to, None: out of the journey."""

    name: str
    criteria: Criteria | None
    stale_us: int | None
    to: int | None


@dataclass(frozen=True, slots=True)
class Wait:
    """Waits for a duration."""

    duration_us: int


@dataclass(frozen=True, slots=True)
class Activation:
    """Hands the profile to a destination; `channel` and `template` are resource names, `template` may be empty."""

    channel: str
    template: str
    action: AudienceAction


@dataclass(frozen=True, slots=True)
class End:
    """Ends the flow of a stage."""


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `step_id` is given or derived from its place, as `cart/2`."""

    step_id: str
    kind: Wait | Activation | End


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage; every one but the last has a milestone."""

    name: str
    milestone: Criteria | None
    exits: tuple[ExitCriterion, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Journey:
    """A journey that can be run."""

    journey_id: str
    entry: Criteria
    goal: Criteria | None
    reentry: Reentry
    skip_stages: bool
    exits: tuple[ExitCriterion, ...]
    stages: tuple[Stage, ...]

    @property
    def elements(self) -> int:
        """How many boxes the journey has: the entry criteria, each milestone and each step."""
        return 1 + sum((stage.milestone is not None) + len(stage.steps) for stage in self.stages)
