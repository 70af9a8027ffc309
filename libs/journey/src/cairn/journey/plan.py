"""Owns what a published version compiles to: a flat, immutable program that the machine walks."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cairn.journey import limits
from cairn.journey.model import Activation, AudienceAction, ExitCriterion, Journey, Reentry, Step, Wait
from cairn.rules import Criteria


@dataclass(frozen=True, slots=True)
class WaitInstruction:
    """Stop here for a while; the next instruction is the one after."""

    step_id: str
    duration_us: int


@dataclass(frozen=True, slots=True)
class ActivateInstruction:
    """Ask for an activation and go on."""

    step_id: str
    channel: str
    template: str
    action: AudienceAction


@dataclass(frozen=True, slots=True)
class RestInstruction:
    """Rest in the stage: an end step, or the end of the stage's steps (then `step_id` is empty)."""

    step_id: str


Instruction = WaitInstruction | ActivateInstruction | RestInstruction


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage: where its steps start in the program and how one leaves it."""

    name: str
    start: int
    milestone: Criteria | None
    exits: tuple[ExitCriterion, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One version of a journey, ready to run. An enrollment is a position in `program`."""

    journey_id: str
    version: int
    program: tuple[Instruction, ...]
    stages: tuple[StagePlan, ...]
    entry: Criteria
    goal: Criteria | None
    exits: tuple[ExitCriterion, ...]
    reentry: Reentry
    skip_stages: bool
    rest_us: int
    reads_entry: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reads_entry", any(criteria.reads_entry for criteria in self.criteria()))

    def criteria(self) -> Iterable[Criteria]:
        """Every criteria of the plan."""
        yield self.entry
        if self.goal:
            yield self.goal
        yield from (exit.criteria for exit in self.exits if exit.criteria)
        for stage in self.stages:
            if stage.milestone:
                yield stage.milestone
            yield from (exit.criteria for exit in stage.exits if exit.criteria)

    @property
    def event_names(self) -> frozenset[str] | None:
        """The names of the events that reach the plan; None when every event does."""
        names: set[str] = set()
        for criteria in self.criteria():
            if criteria.event_names is None:
                return None
            names |= criteria.event_names
        return frozenset(names)

    @property
    def is_last_stage_final(self) -> bool:
        """Whether nothing is left to wait for at rest in the last stage."""
        exits = [exit for exit in self.exits if exit.to is None]
        return not (self.goal or exits or self.stages[-1].exits)


@dataclass(frozen=True)
class LiveJourney:
    """A journey as it is served: the newest version takes new enrollments, the others keep those they have."""

    plans: Mapping[int, Plan]
    newest: Plan = field(init=False)
    event_names: frozenset[str] | None = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "newest", self.plans[max(self.plans)])
        names: frozenset[str] | None = frozenset()
        for plan in self.plans.values():
            more = plan.event_names
            names = None if names is None or more is None else names | more
        object.__setattr__(self, "event_names", names)

    @property
    def journey_id(self) -> str:
        """The journey's id."""
        return self.newest.journey_id


def compile_plan(journey: Journey, version: int, *, speed: int = 1) -> Plan:
    """The plan of a journey's version. `speed` divides every duration, timeout and staleness, for demos and tests."""
    program: list[Instruction] = []
    stages = []
    for stage in journey.stages:
        stages.append(StagePlan(stage.name, len(program), stage.milestone, _faster(stage.exits, speed)))
        program += [_instruction(step, speed) for step in stage.steps]
        program.append(RestInstruction(""))
    return Plan(
        journey_id=journey.journey_id,
        version=version,
        program=tuple(program),
        stages=tuple(stages),
        entry=journey.entry,
        goal=journey.goal,
        exits=_faster(journey.exits, speed),
        reentry=Reentry(
            journey.reentry.mode, journey.reentry.cooldown_us // speed, journey.reentry.max_entries
        ),
        skip_stages=journey.skip_stages,
        rest_us=limits.REST_US // speed,
    )


def _instruction(step: Step, speed: int) -> Instruction:
    kind = step.kind
    if isinstance(kind, Wait):
        return WaitInstruction(step.step_id, max(1, kind.duration_us // speed))
    if isinstance(kind, Activation):
        return ActivateInstruction(step.step_id, kind.channel, kind.template, kind.action)
    return RestInstruction(step.step_id)


def _faster(exits: tuple[ExitCriterion, ...], speed: int) -> tuple[ExitCriterion, ...]:
    return tuple(
        ExitCriterion(exit.name, exit.criteria, exit.stale_us and max(1, exit.stale_us // speed), exit.to)
        for exit in exits
    )
