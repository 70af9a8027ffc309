"""Owns what a journey is once nothing is wrong with it. Durations are in microseconds."""

import enum
from dataclasses import dataclass, field
from typing import TypeAlias

from cairn.rules import Criteria


class ReentryMode(enum.IntEnum):
    """When somebody who was in a journey may begin it again."""

    NEVER = 1
    UNLESS_GOAL_ACHIEVED = 2
    ALWAYS = 3


class WhileActive(enum.IntEnum):
    """What a new entry event does to an enrollment that is still on its way."""

    IGNORE = 1
    RESTART = 2


class AudienceAction(enum.IntEnum):
    """What an audience does with a profile; NONE where the destination is no audience."""

    NONE = 0
    ADD = 1
    REMOVE = 2


class AudienceUntil(enum.IntEnum):
    """When an audience lets go of a profile that an enrollment added: never, when the enrollment ends in whatever way, or only when it
    ends because its goal was achieved. The numbers are those of the contract."""

    NEVER = 1
    EXIT = 2
    GOAL = 3


class MissedRun(enum.IntEnum):
    """What becomes of runs that were due while nobody could begin one: one, late, for all of them, or none. The numbers are those of the
    contract."""

    RUN_LATE = 1
    SKIP = 2


@dataclass(frozen=True, slots=True)
class Schedule:
    """When a batch journey runs: five fields of cron, as `cairn.journey.cron` reads them, in an IANA time zone."""

    cron: str
    time_zone: str
    missed: MissedRun = MissedRun.RUN_LATE


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` activations in `per_us` microseconds."""

    count: int
    per_us: int


@dataclass(frozen=True, slots=True)
class Reentry:
    """The rules of re-entry; `max_entries` 0 means no limit."""

    mode: ReentryMode = ReentryMode.UNLESS_GOAL_ACHIEVED
    cooldown_us: int = 0
    max_entries: int = 0
    while_active: WhileActive = WhileActive.IGNORE


@dataclass(frozen=True, slots=True)
class Target:
    """A stage of a journey to go on to; `stage` is empty for the first."""

    journey_id: str
    stage: str


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
class WaitUntil:
    """Waits until a moment, in microseconds since the epoch; one that is past is over at once."""

    moment_us: int


@dataclass(frozen=True, slots=True)
class WaitUntilTime:
    """Waits until a time of day in the profile's zone, in minutes since midnight, on one of `weekdays` (0 is Monday)."""

    minute: int
    weekdays: frozenset[int]


@dataclass(frozen=True, slots=True)
class WaitForCondition:
    """Waits until a criteria holds or the timeout is over; each way has steps of its own."""

    criteria: Criteria
    timeout_us: int
    met: tuple["Step", ...]
    timed_out: tuple["Step", ...]


@dataclass(frozen=True, slots=True)
class Activation:
    """Hands the profile to a destination; `channel` and `template` are resource names, `template` may be empty. `until` is other than
    NEVER only with the action ADD."""

    channel: str
    template: str
    action: AudienceAction
    until: AudienceUntil = AudienceUntil.NEVER


@dataclass(frozen=True, slots=True)
class Branch:
    """One branch of a decision."""

    name: str
    criteria: Criteria
    steps: tuple["Step", ...]


@dataclass(frozen=True, slots=True)
class Decision:
    """Takes the first branch whose criteria hold, `otherwise` if none does."""

    branches: tuple[Branch, ...]
    otherwise: tuple["Step", ...]


@dataclass(frozen=True, slots=True)
class Variant:
    """One variant of an experiment, for `percent` of a hundred profiles."""

    name: str
    percent: int
    steps: tuple["Step", ...]


@dataclass(frozen=True, slots=True)
class Experiment:
    """Spreads profiles over variants whose percentages sum to 100."""

    variants: tuple[Variant, ...]


@dataclass(frozen=True, slots=True)
class Jump:
    """Ends the enrollment and begins another journey."""

    target: Target


@dataclass(frozen=True, slots=True)
class End:
    """Ends the flow of a stage."""


StepKind: TypeAlias = (
    Wait | WaitUntil | WaitUntilTime | WaitForCondition | Activation | Decision | Experiment | Jump | End
)


@dataclass(frozen=True, slots=True)
class Step:
    """One step; `step_id` is given or derived from its place, as `cart/2`, or `cart/2/big/1` in a branch of it."""

    step_id: str
    kind: StepKind


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage; every one but the last has a milestone."""

    name: str
    milestone: Criteria | None
    exits: tuple[ExitCriterion, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Journey:
    """A journey that can be run.

    `key` is the path of the event property that tells its enrollments apart, empty for none; `time_zone` is for profiles
    that have none, empty when the journey says nothing of it; `goal_target` is the journey that is begun when the goal is achieved.
    A batch journey is moved by runs alone: `audience` is who can enter it, `schedule` when it runs by itself, `rate` how fast a run may hand over
    activations. A real-time one has none of these.
    """

    journey_id: str
    entry: Criteria
    goal: Criteria | None
    reentry: Reentry
    skip_stages: bool
    exits: tuple[ExitCriterion, ...]
    stages: tuple[Stage, ...]
    key: tuple[str, ...] = ()
    time_zone: str = ""
    goal_target: Target | None = field(default=None)
    is_batch: bool = False
    audience: Criteria | None = None
    schedule: Schedule | None = None
    rate: Rate | None = None


def ways(kind: StepKind) -> tuple[tuple[str, tuple[Step, ...]], ...]:
    """The named ways of a step that holds steps, in order; none for any other."""
    match kind:
        case WaitForCondition(met=met, timed_out=timed_out):
            return ("met", met), ("timed_out", timed_out)
        case Decision(branches=branches, otherwise=otherwise):
            return (*((branch.name, branch.steps) for branch in branches), ("otherwise", otherwise))
        case Experiment(variants=variants):
            return tuple((variant.name, variant.steps) for variant in variants)
        case _:
            return ()
