"""Owns the reading of steps: from messages to the model, nested ones included, with ids and with what can't be reached."""

import re
from collections.abc import Sequence
from typing import Final

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey import limits
from cairn.journey._reader import Reader, quote
from cairn.journey.model import (
    Activation,
    AudienceAction,
    AudienceUntil,
    Branch,
    Decision,
    End,
    Experiment,
    Jump,
    Step,
    StepKind,
    Target,
    Variant,
    Wait,
    WaitForCondition,
    WaitUntil,
    WaitUntilTime,
    ways,
)
from cairn.journey.walk import short_name
from cairn.rules import Criteria, compile_criteria, implies
from cairn.rules.model import Scope

_TIME_OF_DAY: Final = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])", re.ASCII)
_WAITS: Final = ("duration", "until", "until_time", "condition")
_NEVER: Final = compile_criteria("false", Scope.ENTRY)


class StepReader(Reader):
    """Reads the steps of one journey. `own_id` is the journey's, for jumps to itself, `stage_names` its stages."""

    def __init__(self) -> None:
        super().__init__()
        self.own_id = ""
        self.stage_names: list[str] = []
        self._step_ids: dict[str, str] = {}

    def steps(self, path: str, messages: Sequence[pb.Step], prefix: str) -> tuple[Step, ...]:
        """The steps of a stage or of a way; `prefix` is what the ids of those without a name begin with."""
        steps: list[Step] = []
        for number, message in enumerate(messages):
            place = f"{path}[{number}]"
            if steps and not _falls_through(steps[-1].kind):
                self.wrong(place, f"cannot be reached: {_blocks(steps[-1].kind)} stands before it")
            if message.name:
                self.identifier(f"{place}.name", message.name)
            step_id = message.name or f"{prefix}/{number + 1}"
            if step_id in self._step_ids:
                self.wrong(
                    f"{place}.name",
                    f"is {quote(step_id)}, as of {self._step_ids[step_id]}; ids of steps are unique in a journey",
                )
            self._step_ids.setdefault(step_id, place)
            steps.append(Step(step_id, self._kind(place, message, step_id)))
        return tuple(steps)

    def target(self, path: str, message: pb.JumpTarget | pb.Jump) -> Target:
        """A stage of a journey to go on to; the journey itself is looked into, others are taken to exist."""
        journey_id = self.identifier(f"{path}.journey", short_name("journeys", message.journey))
        if message.stage:
            self.identifier(f"{path}.stage", message.stage)
            if journey_id == self.own_id and message.stage not in self.stage_names:
                self.wrong(
                    f"{path}.stage",
                    f"names the stage {quote(message.stage)}, which does not exist; there are {', '.join(self.stage_names)}",
                )
        return Target(journey_id, message.stage)

    def _kind(self, path: str, message: pb.Step, step_id: str) -> StepKind:
        match message.WhichOneof("kind"):
            case "wait":
                return self._wait(f"{path}.wait", message.wait, step_id)
            case "activation":
                return self._activation(f"{path}.activation", message.activation)
            case "decision":
                return self._decision(f"{path}.decision", message.decision, step_id)
            case "experiment":
                return self._experiment(f"{path}.experiment", message.experiment, step_id)
            case "jump":
                return Jump(self.target(f"{path}.jump", message.jump))
            case "end":
                return End()
            case _:
                self.wrong(
                    path,
                    "does nothing; give it a wait, an activation, a decision, an experiment, a jump or an end",
                )
                return Wait(1)

    # Waits

    def _wait(self, path: str, message: pb.Wait, step_id: str) -> StepKind:
        given = [name for name in _WAITS if _is_given(message, name)]
        for name in given[1:]:
            self.wrong(f"{path}.{name}", f"is given beside {given[0]}; a wait has one of {', '.join(_WAITS)}")
        kind = given[0] if given else ""
        self._belongs(path, message, kind)
        match kind:
            case "until":
                return WaitUntil(self._moment(f"{path}.until", message))
            case "until_time":
                return self._until_time(path, message)
            case "condition":
                return self._for_condition(path, message, step_id)
            case "duration":
                return Wait(
                    self.duration(f"{path}.duration", message.duration, 1, limits.MAX_WAIT_US, "a wait lasts")
                )
            case _:
                self.wrong(
                    f"{path}.duration",
                    "is missing; write it as 90s, 3h or 24d, or wait until, until_time or a condition",
                )
                return Wait(1)

    def _belongs(self, path: str, message: pb.Wait, kind: str) -> None:
        for name, owner in (
            ("weekdays", "until_time"),
            ("timeout", "condition"),
            ("met", "condition"),
            ("timed_out", "condition"),
        ):
            if owner != kind and _is_given(message, name):
                self.wrong(f"{path}.{name}", f"is given, and belongs to a wait with {owner}")

    def _moment(self, path: str, message: pb.Wait) -> int:
        moment = message.until
        if not (-62_135_596_800 <= moment.seconds <= limits.LATEST_MOMENT_US // limits.SECOND_US) or not (
            0 <= moment.nanos < 1_000_000_000
        ):
            self.wrong(path, "is no moment of the years 1 to 9000; write it as 2027-01-31T09:00:00Z")
        return moment.seconds * limits.SECOND_US + moment.nanos // 1_000

    def _until_time(self, path: str, message: pb.Wait) -> StepKind:
        matched = _TIME_OF_DAY.fullmatch(message.until_time)
        if matched is None:
            self.wrong(
                f"{path}.until_time",
                f"is {quote(message.until_time)}; a time of day is written as 09:00, 00:00 to 23:59",
            )
        days = set()
        for index, day in enumerate(message.weekdays):
            if day not in range(1, 8):
                self.wrong(f"{path}.weekdays[{index}]", f"is {day}, which is no weekday; say MON to SUN")
            elif day in days:
                self.wrong(f"{path}.weekdays[{index}]", "is given twice")
            days.add(int(day))
        minute = int(matched[1]) * 60 + int(matched[2]) if matched else 0
        return WaitUntilTime(minute, frozenset(day - 1 for day in days) or frozenset(range(7)))

    def _for_condition(self, path: str, message: pb.Wait, step_id: str) -> StepKind:
        timeout = 1
        if not message.HasField("timeout"):
            self.wrong(
                f"{path}.timeout", "is missing; a wait for a condition needs a timeout, written as 3h or 24d"
            )
        else:
            timeout = self.duration(
                f"{path}.timeout", message.timeout, 1, limits.MAX_WAIT_US, "a timeout lasts"
            )
        return WaitForCondition(
            self.criteria(f"{path}.condition", message.condition) or _NEVER,
            timeout,
            self.steps(f"{path}.met", message.met, f"{step_id}/met"),
            self.steps(f"{path}.timed_out", message.timed_out, f"{step_id}/timed_out"),
        )

    # Activation, decision, experiment

    def _activation(self, path: str, message: pb.Activation) -> Activation:
        channel = short_name("connections", message.channel)
        template = short_name("templates", message.template)
        self.identifier(f"{path}.channel", channel)
        if template:
            self.identifier(f"{path}.template", template)
        action = AudienceAction.NONE
        if message.action not in pb.AudienceAction.values():
            self.wrong(f"{path}.action", f"is {message.action}, which is no action; say ADD or REMOVE")
        else:
            action = AudienceAction(message.action)
        until = self._until(f"{path}.until", message)
        return Activation(
            f"connections/{channel}", f"templates/{template}" if template else "", action, until
        )

    def _until(self, path: str, message: pb.Activation) -> AudienceUntil:
        until = message.until or pb.AUDIENCE_UNTIL_NEVER
        if until not in pb.AudienceUntil.values():
            self.wrong(path, f"is {until}, which is no way to end; say EXIT, GOAL or NEVER")
            return AudienceUntil.NEVER
        if until != pb.AUDIENCE_UNTIL_NEVER and message.action != pb.AUDIENCE_ACTION_ADD:
            name = pb.AudienceUntil.Name(until).removeprefix("AUDIENCE_UNTIL_")
            self.wrong(
                path,
                f"is {name} without the action ADD; only who was added can be removed again: leave it out",
            )
        return AudienceUntil(until)

    def _decision(self, path: str, message: pb.Decision, step_id: str) -> Decision:
        count = len(message.branches)
        if not limits.MIN_BRANCHES <= count <= limits.MAX_BRANCHES:
            self.wrong(
                f"{path}.branches",
                f"has {count} branches; a decision has {limits.MIN_BRANCHES} to {limits.MAX_BRANCHES}, otherwise not counted",
            )
        branches: list[Branch] = []
        names: set[str] = {"otherwise"}
        read: list[tuple[str, Criteria]] = []
        for index, branch in enumerate(message.branches):
            place = f"{path}.branches[{index}]"
            self._way_name(place, branch.name, names)
            criteria = None
            if branch.criteria:
                criteria = self.criteria(f"{place}.criteria", branch.criteria)
            else:
                self.wrong(f"{place}.criteria", "is missing; what holds for nobody else belongs to otherwise")
            if criteria is not None:
                self._reachable(f"{place}.criteria", criteria, read)
                read.append((branch.name, criteria))
            steps = self.steps(f"{place}.steps", branch.steps, f"{step_id}/{branch.name}")
            branches.append(Branch(branch.name, criteria or _NEVER, steps))
        if message.otherwise:
            for name, criteria in read:
                if criteria.constant is True:
                    self.wrong(
                        f"{path}.otherwise",
                        f"cannot be reached: the branch {quote(name)} holds for everybody",
                    )
                    break
        otherwise = self.steps(f"{path}.otherwise", message.otherwise, f"{step_id}/otherwise")
        return Decision(tuple(branches), otherwise)

    def _reachable(self, path: str, criteria: Criteria, before: list[tuple[str, Criteria]]) -> None:
        if criteria.constant is False:
            self.wrong(path, "never holds, so that the branch cannot be reached")
            return
        for name, earlier in before:
            if earlier.constant is True or implies(criteria, earlier):
                self.wrong(
                    path, f"cannot be reached: whenever it holds, the branch {quote(name)} before it does"
                )
                return

    def _experiment(self, path: str, message: pb.Experiment, step_id: str) -> Experiment:
        count = len(message.variants)
        if not 1 <= count <= limits.MAX_VARIANTS:
            self.wrong(
                f"{path}.variants", f"has {count} variants; an experiment has 1 to {limits.MAX_VARIANTS}"
            )
        variants = []
        names: set[str] = set()
        for index, variant in enumerate(message.variants):
            place = f"{path}.variants[{index}]"
            self._way_name(place, variant.name, names)
            if not 0 <= variant.percent <= 100:
                self.wrong(f"{place}.percent", f"is {variant.percent}; it is 0 to 100")
            steps = self.steps(f"{place}.steps", variant.steps, f"{step_id}/{variant.name}")
            variants.append(Variant(variant.name, variant.percent, steps))
        total = sum(variant.percent for variant in message.variants)
        if count and total != 100:
            self.wrong(f"{path}.variants", f"have {total} percent together; percentages sum to 100")
        return Experiment(tuple(variants))

    def _way_name(self, path: str, name: str, names: set[str]) -> None:
        self.identifier(f"{path}.name", name)
        if name and name in names:
            self.wrong(f"{path}.name", f"is {quote(name)}, which is taken; names are unique in their step")
        names.add(name)


def _is_given(message: pb.Wait, name: str) -> bool:
    if name in ("duration", "until", "timeout"):
        return message.HasField(name)  # type: ignore[arg-type]  # the names of the fields with presence
    return bool(getattr(message, name))


def _falls_through(kind: StepKind) -> bool:
    """Whether what follows a step can be reached."""
    if isinstance(kind, Jump | End):
        return False
    taken = ways(kind)
    if isinstance(kind, Experiment):
        taken = tuple((variant.name, variant.steps) for variant in kind.variants if variant.percent > 0)
    return not taken or any(not steps or _falls_through(steps[-1].kind) for _, steps in taken)


def _blocks(kind: StepKind) -> str:
    match kind:
        case End():
            return "an end step"
        case Jump():
            return "a jump"
        case _:
            return "a step all of whose ways end"
