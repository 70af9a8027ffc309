"""Owns what a published version compiles to: a flat, immutable program that the machine walks, and its rules by stage."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias, final

from cairn.journey import limits
from cairn.journey.model import (
    Activation,
    AudienceAction,
    AudienceUntil,
    Decision,
    End,
    ExitCriterion,
    Experiment,
    Journey,
    Jump,
    Rate,
    Reentry,
    Schedule,
    Step,
    Target,
    Wait,
    WaitForCondition,
    WaitUntil,
    WaitUntilTime,
    WhileActive,
)
from cairn.rules import Criteria, CriteriaError, Scope, compile_criteria


@final
@dataclass(frozen=True, slots=True)
class WaitInstruction:
    """Stop here for a while; the next instruction is the one after."""

    step_id: str
    duration_us: int


@final
@dataclass(frozen=True, slots=True)
class WaitUntilInstruction:
    """Stop here until a moment."""

    step_id: str
    moment_us: int


@final
@dataclass(frozen=True, slots=True)
class WaitUntilTimeInstruction:
    """Stop here until a time of day in the profile's zone."""

    step_id: str
    minute: int
    weekdays: frozenset[int]


@final
@dataclass(frozen=True, slots=True)
class WaitForConditionInstruction:
    """Stop here until a criteria holds, then go on at `met`, or until the timeout, then at `timed_out`."""

    step_id: str
    criteria: Criteria
    timeout_us: int
    met: int
    timed_out: int


@final
@dataclass(frozen=True, slots=True)
class ActivateInstruction:
    """Ask for an activation and go on; unless `until` is NEVER, a removal is asked for when the enrollment ends."""

    step_id: str
    channel: str
    template: str
    action: AudienceAction
    until: AudienceUntil = AudienceUntil.NEVER


@final
@dataclass(frozen=True, slots=True)
class DecideInstruction:
    """Go on at the first of (name, criteria, instruction) that holds; one without criteria always does."""

    step_id: str
    branches: tuple[tuple[str, Criteria | None, int], ...]


@final
@dataclass(frozen=True, slots=True)
class ExperimentInstruction:
    """Go on at the first of (name, bound in percent, instruction) whose bound lies above the profile's hash."""

    step_id: str
    variants: tuple[tuple[str, int, int], ...]


@final
@dataclass(frozen=True, slots=True)
class GotoInstruction:
    """Go on elsewhere: where the ways of a step meet again."""

    to: int


@final
@dataclass(frozen=True, slots=True)
class JumpInstruction:
    """End here and begin another journey."""

    step_id: str
    target: Target


@final
@dataclass(frozen=True, slots=True)
class RestInstruction:
    """Rest in the stage: an end step, or the end of the stage's steps (then `step_id` is empty)."""

    step_id: str


WaitingInstruction: TypeAlias = (
    WaitInstruction | WaitUntilInstruction | WaitUntilTimeInstruction | WaitForConditionInstruction
)
Instruction: TypeAlias = (
    WaitingInstruction
    | ActivateInstruction
    | DecideInstruction
    | ExperimentInstruction
    | GotoInstruction
    | JumpInstruction
    | RestInstruction
)


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage: where its steps start in the program and how one leaves it."""

    name: str
    start: int
    milestone: Criteria | None
    exits: tuple[ExitCriterion, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of precedence where somebody is: its name on the timeline, when it holds (by a criteria, or staleness), where it
    leads (a stage's index, None: out), and the name of the exit that it is."""

    name: str
    criteria: Criteria | None
    to: int | None
    exit: ExitCriterion | None = None


GOAL = "goal"
"""The name of the rule that ends with GOAL_ACHIEVED."""

_OTHER: Final = object()


@dataclass(frozen=True, slots=True)
class Chances:
    """What an input can set off at all, by the name of its event: whether it can meet the goal and the entry criteria, and for
    each stage the rules 1 to 4 that it can meet there, in order of precedence."""

    goal: Criteria | None
    entry: Criteria | None
    rules: tuple[tuple[Rule, ...], ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One version of a journey, ready to run. An enrollment is a position in `program`.

    `segments` are the criteria of the segments that the version was published with; `time_zone` is the journey's own, empty for none.
    `audience` is who can enter a batch journey; None, as `schedule` and `rate`, where there is none, and always in a real-time one.
    """

    journey_id: str
    version: int
    program: tuple[Instruction, ...]
    stages: tuple[StagePlan, ...]
    entry: Criteria
    goal: Criteria | None
    goal_target: Target | None
    exits: tuple[ExitCriterion, ...]
    reentry: Reentry
    skip_stages: bool
    rest_us: int
    key: tuple[str, ...]
    time_zone: str
    segments: Mapping[str, Criteria]
    is_batch: bool = False
    audience: Criteria | None = None
    schedule: Schedule | None = None
    rate: Rate | None = None
    stage_names: tuple[str, ...] = field(init=False)
    last_stage: int = field(init=False)
    restarts: bool = field(init=False)
    """Whether a new entry event restarts somebody who is on the way."""
    stale: tuple[tuple[int, int], ...] = field(init=False)
    """For each stage the shortest staleness of the journey, and of the stage itself, that applies there; 0 for none."""
    is_last_stage_final: bool = field(init=False)
    """Whether nothing is left to wait for at rest in the last stage."""
    _names: frozenset[str] = field(init=False, repr=False, compare=False)
    _chances: dict[object, Chances] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        leaves = [exit for exit in self.exits if exit.to is None]
        needed = [each.event_names_needed for each in self.criteria() if each.event_names_needed]
        object.__setattr__(self, "_names", frozenset[str]().union(*needed))
        object.__setattr__(self, "_chances", {})
        object.__setattr__(self, "stage_names", tuple(stage.name for stage in self.stages))
        object.__setattr__(self, "last_stage", len(self.stages) - 1)
        object.__setattr__(self, "restarts", self.reentry.while_active is WhileActive.RESTART)
        object.__setattr__(self, "stale", tuple(self._shortest(stage) for stage in range(len(self.stages))))
        object.__setattr__(self, "is_last_stage_final", not (self.goal or leaves or self.stages[-1].exits))

    def _shortest(self, stage: int) -> tuple[int, int]:
        of_journey = [exit.stale_us for exit in self.exits if exit.stale_us and applies(exit, stage)]
        of_stage = [exit.stale_us for exit in self.stages[stage].exits if exit.stale_us]
        return min(of_journey, default=0), min(of_stage, default=0)

    def stage_at(self, position: int) -> int:
        """The index of the stage that an instruction stands in."""
        return sum(stage.start <= position for stage in self.stages) - 1

    def criteria(self) -> Iterator[Criteria]:
        """Every criteria of the plan, those of its segments last."""
        yield self.entry
        if self.audience:
            yield self.audience
        if self.goal:
            yield self.goal
        yield from (exit.criteria for exit in self.exits if exit.criteria)
        for stage in self.stages:
            if stage.milestone:
                yield stage.milestone
            yield from (exit.criteria for exit in stage.exits if exit.criteria)
        for instruction in self.program:
            if isinstance(instruction, WaitForConditionInstruction):
                yield instruction.criteria
            elif isinstance(instruction, DecideInstruction):
                yield from (criteria for _, criteria, _ in instruction.branches if criteria)
        yield from self.segments.values()

    @property
    def event_names(self) -> frozenset[str] | None:
        """The names of the events that reach the plan; None when every event does."""
        names: set[str] = set()
        for criteria in self.criteria():
            if criteria.event_names is None:
                return None
            names |= criteria.event_names
        return frozenset(names)

    def chances(self, event_name: str | None) -> Chances:
        """What an input can set off; `event_name` is None for one that is no event."""
        chances = self._chances.get(event_name)
        if chances is None:
            # Events of whose name no criteria knows have all the same ones.
            known = event_name if event_name is None or event_name in self._names else _OTHER
            chances = self._chances.get(known) or self._chances.setdefault(
                known, self._find_chances(event_name)
            )
        return chances

    def _find_chances(self, event_name: str | None) -> Chances:
        return Chances(
            goal=self.goal if _can_hold(self.goal, event_name) else None,
            entry=self.entry if _can_hold(self.entry, event_name) else None,
            rules=tuple(
                tuple(rule for rule in self.every_rule(stage) if _can_hold(rule.criteria, event_name))
                for stage in range(len(self.stages))
            ),
        )

    def every_rule(self, stage: int) -> Iterator[Rule]:
        """The rules 1 to 4 that are there in a stage, in order of precedence, whatever the input."""
        if self.goal is not None:
            yield Rule(GOAL, self.goal, None)
        for exit in self.exits:
            if applies(exit, stage):
                yield Rule(f"exit {exit.name}", exit.criteria, exit.to, exit)
        for exit in self.stages[stage].exits:
            yield Rule(f"exit {exit.name}", exit.criteria, exit.to, exit)
        last = len(self.stages) - 2
        for index in range(last if self.skip_stages else min(stage, last), stage - 1, -1):
            yield Rule(f"milestone {self.stages[index].name}", self.stages[index].milestone, index + 1)


def applies(exit: ExitCriterion, stage: int) -> bool:
    """Whether an exit of the journey says something in a stage: one that leads to a stage says nothing to those who are there
    already, or past it."""
    return exit.to is None or exit.to > stage


def compile_plan(
    journey: Journey, version: int, *, speed: int = 1, segments: Mapping[str, str] | None = None
) -> Plan:
    """The plan of a journey's version. `speed` divides every duration, timeout and staleness, for demos and tests.

    `segments` are the sources of the segments' criteria; one that can't be compiled is known to nobody.
    """
    program = _Program(speed)
    stages = []
    for stage in journey.stages:
        start = len(program.instructions)
        stages.append(StagePlan(stage.name, start, stage.milestone, _faster(stage.exits, speed)))
        program.steps(stage.steps)
        program.instructions.append(RestInstruction(""))
    rules = journey.reentry
    return Plan(
        journey_id=journey.journey_id,
        version=version,
        program=tuple(program.instructions),
        stages=tuple(stages),
        entry=journey.entry,
        goal=journey.goal,
        goal_target=journey.goal_target,
        exits=_faster(journey.exits, speed),
        reentry=Reentry(rules.mode, rules.cooldown_us // speed, rules.max_entries, rules.while_active),
        skip_stages=journey.skip_stages,
        rest_us=limits.REST_US // speed,
        key=journey.key,
        time_zone=journey.time_zone,
        segments=_compile_segments(segments or {}),
        is_batch=journey.is_batch,
        audience=journey.audience,
        schedule=journey.schedule,
        rate=journey.rate,
    )


class _Program:
    """Writes steps one behind the other; what a way jumps over is known only when it is written."""

    def __init__(self, speed: int) -> None:
        self.instructions: list[Instruction] = []
        self._speed = speed

    def steps(self, steps: Iterable[Step]) -> None:
        for step in steps:
            self._step(step)

    def _step(self, step: Step) -> None:
        write = self.instructions.append
        match step.kind:
            case Wait(duration_us=duration):
                write(WaitInstruction(step.step_id, self._faster(duration)))
            case WaitUntil(moment_us=moment):
                write(WaitUntilInstruction(step.step_id, moment))
            case WaitUntilTime(minute=minute, weekdays=weekdays):
                write(WaitUntilTimeInstruction(step.step_id, minute, weekdays))
            case Activation() as made:
                write(ActivateInstruction(step.step_id, made.channel, made.template, made.action, made.until))
            case Jump(target=target):
                write(JumpInstruction(step.step_id, target))
            case End():
                write(RestInstruction(step.step_id))
            case WaitForCondition() as wait:
                place = self._reserve()
                met, timed_out = self._ways([wait.met, wait.timed_out])
                timeout = self._faster(wait.timeout_us)
                self.instructions[place] = WaitForConditionInstruction(
                    step.step_id, wait.criteria, timeout, met, timed_out
                )
            case Decision(branches=branches, otherwise=otherwise):
                place = self._reserve()
                starts = self._ways([*(branch.steps for branch in branches), otherwise])
                named = [(branch.name, branch.criteria) for branch in branches] + [("otherwise", None)]
                self.instructions[place] = DecideInstruction(
                    step.step_id,
                    tuple((name, test, start) for (name, test), start in zip(named, starts, strict=True)),
                )
            case Experiment(variants=variants):
                place = self._reserve()
                starts = self._ways([variant.steps for variant in variants])
                bound, arms = 0, []
                for variant, start in zip(variants, starts, strict=True):
                    bound += variant.percent
                    arms.append((variant.name, bound, start))
                self.instructions[place] = ExperimentInstruction(step.step_id, tuple(arms))

    def _reserve(self) -> int:
        self.instructions.append(GotoInstruction(0))
        return len(self.instructions) - 1

    def _ways(self, ways: list[tuple[Step, ...]]) -> list[int]:
        """Writes ways that meet again behind the last; returns where each begins. An empty one begins where they meet."""
        starts, ends = [], []
        for steps in ways:
            starts.append(len(self.instructions) if steps else -1)
            if steps:
                self.steps(steps)
                ends.append(self._reserve())
        meeting = len(self.instructions)
        if ends and ends[-1] == meeting - 1:
            # The last way runs on by itself.
            self.instructions.pop()
            ends.pop()
            meeting -= 1
        for place in ends:
            self.instructions[place] = GotoInstruction(meeting)
        return [meeting if start < 0 else start for start in starts]

    def _faster(self, duration_us: int) -> int:
        return max(1, duration_us // self._speed)


def _faster(exits: tuple[ExitCriterion, ...], speed: int) -> tuple[ExitCriterion, ...]:
    return tuple(
        ExitCriterion(exit.name, exit.criteria, exit.stale_us and max(1, exit.stale_us // speed), exit.to)
        for exit in exits
    )


def _compile_segments(sources: Mapping[str, str]) -> dict[str, Criteria]:
    compiled = {}
    for name, source in sources.items():
        try:
            compiled[name] = compile_criteria(source, Scope.SEGMENT)
        except CriteriaError:
            continue
    return compiled


def _can_hold(criteria: Criteria | None, event_name: str | None) -> bool:
    """Whether a criteria can hold on an input; staleness, which has none, can on an input that is no event."""
    if criteria is None:
        return event_name is None
    if event_name is None:
        return not criteria.needs_event
    needed = criteria.event_names_needed
    return needed is None or event_name in needed
