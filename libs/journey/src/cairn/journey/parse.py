"""Owns the way from a journey's message to its model, or to all that is wrong with it at once."""

from collections.abc import Sequence

from google.protobuf.duration_pb2 import Duration

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey import limits
from cairn.journey.limits import describe_us
from cairn.journey.model import (
    Activation,
    AudienceAction,
    End,
    ExitCriterion,
    Journey,
    Reentry,
    ReentryMode,
    Stage,
    Step,
    Wait,
)
from cairn.journey.violations import Violation
from cairn.rules import Criteria, CriteriaError, Scope, compile_criteria


def parse_journey(message: pb.Journey) -> tuple[Journey | None, tuple[Violation, ...]]:
    """The journey that a message describes, or None and every violation, in the order of the fields.

    What the journey names elsewhere (connections, templates) is taken to exist.
    """
    parser = _Parser()
    journey = parser.journey(message)
    return (None if parser.violations else journey), tuple(parser.violations)


def count_elements(message: pb.Journey) -> int:
    """How many boxes a journey has, whether or not it is valid."""
    return sum(bool(stage.entry) + bool(stage.milestone) + len(stage.steps) for stage in message.stages)


def short_name(collection: str, name: str) -> str:
    """The id in a resource name of a collection: `journeys/welcome` and `welcome` both give `welcome`."""
    return name.removeprefix(f"{collection}/")


class _Parser:
    """Reads one message and notes what is wrong; what it returns counts only when nothing was."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.step_ids: dict[str, str] = {}

    def wrong(self, path: str, message: str) -> None:
        self.violations.append(Violation(path, message))

    def journey(self, message: pb.Journey) -> Journey:
        journey_id = self.identifier("name", short_name("journeys", message.name))
        self.head(message)
        if not message.stages:
            self.wrong("stages", f"is empty; a journey has 1 to {limits.MAX_STAGES} stages")
        if len(message.stages) > limits.MAX_STAGES:
            self.wrong(
                "stages", f"has {len(message.stages)} stages; a journey has at most {limits.MAX_STAGES}"
            )
        if (elements := count_elements(message)) > limits.MAX_ELEMENTS:
            self.wrong(
                "stages",
                f"has {elements} elements (the entry criteria, each milestone and each step count one); "
                f"a real-time journey has at most {limits.MAX_ELEMENTS}",
            )
        names = self.stage_names(message)
        goal = self.criteria("goal.criteria", message.goal.criteria) if message.HasField("goal") else None
        return Journey(
            journey_id=journey_id,
            entry=self.entry(message),
            goal=goal,
            reentry=self.reentry(message.reentry),
            skip_stages=message.skip_stages if message.HasField("skip_stages") else True,
            exits=self.exits("exit_criteria", message.exit_criteria, names, after=0),
            stages=tuple(self.stage(message, index, names) for index in range(len(message.stages))),
        )

    def head(self, message: pb.Journey) -> None:
        if message.type == pb.JOURNEY_TYPE_UNSPECIFIED:
            self.wrong("type", "is missing; say REAL_TIME")
        elif message.type != pb.JOURNEY_TYPE_REAL_TIME:
            self.wrong("type", f"is {message.type}, which is no type; say REAL_TIME")
        if message.purpose.kind not in pb.PurposeKind.values():
            self.wrong("purpose.kind", f"is {message.purpose.kind}, which is no kind of purpose")
        if (length := len(message.purpose.description)) > limits.MAX_DESCRIPTION:
            self.wrong(
                "purpose.description", f"has {length} characters; it has at most {limits.MAX_DESCRIPTION}"
            )

    def identifier(self, path: str, value: str) -> str:
        if not value:
            self.wrong(path, f"is missing; it takes {limits.ID_RULE}")
        elif not limits.ID_PATTERN.fullmatch(value):
            self.wrong(path, f"is {_quote(value)}; it takes {limits.ID_RULE}")
        return value

    def criteria(self, path: str, source: str, scope: Scope = Scope.ENROLLMENT) -> Criteria | None:
        try:
            return compile_criteria(source, scope)
        except CriteriaError as error:
            for problem in error.problems:
                self.wrong(path, f"line {problem.line}, column {problem.column}: {problem.message}")
            return None

    def entry(self, message: pb.Journey) -> Criteria:
        for index, stage in enumerate(message.stages[1:], start=1):
            if stage.entry:
                self.wrong(
                    f"stages[{index}].entry",
                    f"is given; only the first stage has entry criteria, here it is the milestone of stages[{index - 1}]",
                )
        source = message.stages[0].entry if message.stages else ""
        if message.stages and not source:
            self.wrong("stages[0].entry", "is missing; the first stage needs entry criteria")
        entry = self.criteria("stages[0].entry", source, Scope.ENTRY) if source else None
        return entry or compile_criteria("false", Scope.ENTRY)

    def reentry(self, message: pb.Reentry) -> Reentry:
        mode = message.mode or pb.REENTRY_MODE_UNLESS_GOAL_ACHIEVED
        if mode not in pb.ReentryMode.values():
            self.wrong("reentry.mode", f"is {mode}, which is no mode of re-entry")
            mode = pb.REENTRY_MODE_UNLESS_GOAL_ACHIEVED
        cooldown = 0
        if message.HasField("cooldown"):
            cooldown = self.duration(
                "reentry.cooldown", message.cooldown, 0, limits.MAX_COOLDOWN_US, "a cooldown lasts"
            )
        if not 0 <= message.max_entries <= limits.MAX_ENTRIES:
            self.wrong(
                "reentry.max_entries", f"is {message.max_entries}; it is 0 (no limit) to {limits.MAX_ENTRIES}"
            )
        return Reentry(ReentryMode(mode), cooldown, message.max_entries)

    def duration(self, path: str, message: Duration, least: int, most: int, what: str) -> int:
        value = message.seconds * limits.SECOND_US + message.nanos // 1_000
        if not least <= value <= most:
            shortest = "more than 0" if least == 1 else describe_us(least)
            self.wrong(path, f"is {describe_us(value)}; {what} {shortest} to {describe_us(most)}")
        return value

    def stage_names(self, message: pb.Journey) -> list[str]:
        names: list[str] = []
        for index, stage in enumerate(message.stages):
            self.identifier(f"stages[{index}].name", stage.name)
            if stage.name and stage.name in names:
                self.wrong(
                    f"stages[{index}].name",
                    f"is {_quote(stage.name)}, as of stages[{names.index(stage.name)}]; names are unique",
                )
            names.append(stage.name)
        return names

    def stage(self, journey: pb.Journey, index: int, names: Sequence[str]) -> Stage:
        message, path = journey.stages[index], f"stages[{index}]"
        last = index == len(names) - 1
        milestone = None
        if message.milestone and last:
            self.wrong(f"{path}.milestone", "is given; the last stage has none, as no stage follows it")
        elif message.milestone:
            milestone = self.criteria(f"{path}.milestone", message.milestone)
        elif not last:
            self.wrong(
                f"{path}.milestone",
                "is missing; every stage but the last has one: it is the entry criteria of the next",
            )
        return Stage(
            name=message.name,
            milestone=milestone,
            exits=self.exits(f"{path}.exit_criteria", message.exit_criteria, names, after=index),
            steps=self.steps(path, message),
        )

    def exits(
        self, path: str, messages: Sequence[pb.ExitCriterion], names: Sequence[str], after: int
    ) -> tuple[ExitCriterion, ...]:
        if len(messages) > limits.MAX_EXITS:
            self.wrong(path, f"has {len(messages)} exit criteria; a list has at most {limits.MAX_EXITS}")
        seen: set[str] = set()
        exits = []
        for number, message in enumerate(messages):
            place = f"{path}[{number}]"
            if self.identifier(f"{place}.name", message.name) in seen:
                self.wrong(
                    f"{place}.name",
                    f"is {_quote(message.name)}, as of one before; names are unique in their list",
                )
            seen.add(message.name)
            exits.append(self.exit(place, message, names, after))
        return tuple(exits)

    def exit(self, path: str, message: pb.ExitCriterion, names: Sequence[str], after: int) -> ExitCriterion:
        criteria, stale_us = None, None
        match message.WhichOneof("condition"):
            case "criteria":
                criteria = self.criteria(f"{path}.criteria", message.criteria)
            case "stale":
                stale_us = self.duration(
                    f"{path}.stale",
                    message.stale,
                    limits.MIN_STALE_US,
                    limits.MAX_STALE_US,
                    "staleness lasts",
                )
            case _:
                self.wrong(path, "has no condition; give criteria, or stale with a duration")
        return ExitCriterion(
            message.name, criteria, stale_us, self.destination(path, message.to, names, after)
        )

    def destination(self, path: str, to: str, names: Sequence[str], after: int) -> int | None:
        if not to:
            return None
        if to not in names:
            self.wrong(
                f"{path}.to",
                f"names the stage {_quote(to)}, which does not exist; there are {', '.join(names)}",
            )
        elif (index := names.index(to)) <= after:
            self.wrong(
                f"{path}.to",
                f"names the stage {_quote(to)}, which is not a later one; an exit leads on or out, never back",
            )
        else:
            return index
        return None

    def steps(self, path: str, stage: pb.Stage) -> tuple[Step, ...]:
        steps: list[Step] = []
        ended = False
        for number, message in enumerate(stage.steps):
            place = f"{path}.steps[{number}]"
            if ended:
                self.wrong(place, "cannot be reached: an end step stands before it")
            if message.name:
                self.identifier(f"{place}.name", message.name)
            step_id = message.name or f"{stage.name}/{number + 1}"
            if step_id in self.step_ids:
                self.wrong(
                    f"{place}.name",
                    f"is {_quote(step_id)}, as of {self.step_ids[step_id]}; ids of steps are unique in a journey",
                )
            self.step_ids[step_id] = place
            kind = self.kind(place, message)
            ended = isinstance(kind, End)
            steps.append(Step(step_id, kind))
        return tuple(steps)

    def kind(self, path: str, message: pb.Step) -> Wait | Activation | End:
        match message.WhichOneof("kind"):
            case "wait":
                return Wait(self.wait(f"{path}.wait", message.wait))
            case "activation":
                return self.activation(f"{path}.activation", message.activation)
            case "end":
                return End()
            case _:
                self.wrong(path, "does nothing; give it a wait, an activation or an end")
                return End()

    def wait(self, path: str, message: pb.Wait) -> int:
        if not message.HasField("duration"):
            self.wrong(f"{path}.duration", "is missing; write it as 90s, 3h or 24d")
            return 0
        return self.duration(f"{path}.duration", message.duration, 1, limits.MAX_WAIT_US, "a wait lasts")

    def activation(self, path: str, message: pb.Activation) -> Activation:
        channel = short_name("connections", message.channel)
        template = short_name("templates", message.template)
        self.identifier(f"{path}.channel", channel)
        if template:
            self.identifier(f"{path}.template", template)
        if message.action not in pb.AudienceAction.values():
            self.wrong(f"{path}.action", f"is {message.action}, which is no action; say ADD or REMOVE")
            return Activation(channel, template, AudienceAction.NONE)
        return Activation(
            f"connections/{channel}",
            f"templates/{template}" if template else "",
            AudienceAction(message.action),
        )


def _quote(value: str) -> str:
    """A value as a violation shows it: quoted, and not longer than a line."""
    return repr(value if len(value) <= 80 else value[:77] + "...")
