"""Owns the way from a journey's message to its model, or to all that is wrong with it at once."""

import re
from collections.abc import Sequence
from typing import Final

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey import limits
from cairn.journey._reader import quote
from cairn.journey._steps import StepReader
from cairn.journey.calendar import is_time_zone
from cairn.journey.cron import CronError, parse_cron
from cairn.journey.model import (
    ExitCriterion,
    Journey,
    MissedRun,
    Rate,
    Reentry,
    ReentryMode,
    Schedule,
    Stage,
    Target,
    WhileActive,
)
from cairn.journey.references import loops_in
from cairn.journey.violations import Violation
from cairn.journey.walk import count_elements, count_stage_elements, short_name
from cairn.rules import Criteria, Scope, compile_criteria

__all__ = ["count_elements", "parse_journey", "short_name"]

_KEY: Final = re.compile(r"event\.properties((?:\.[A-Za-z_][A-Za-z0-9_]*)+)", re.ASCII)
_KEY_QUOTED: Final = re.compile(r"""event\.properties\[(?:"([^"\\]+)"|'([^'\\]+)')\]""")
_RATE: Final = re.compile(r"([0-9]{1,10})/([smh])", re.ASCII)
_RATE_UNITS_US: Final = {"s": limits.SECOND_US, "m": limits.MINUTE_US, "h": limits.HOUR_US}
_NO_ENTRY: Final = compile_criteria("false", Scope.ENTRY)


def parse_journey(message: pb.Journey) -> tuple[Journey | None, tuple[Violation, ...]]:
    """The journey that a message describes, or None and every violation, in the order of the fields.

    What the journey names elsewhere (connections, templates, segments, other journeys) is taken to exist.
    """
    parser = _Parser()
    journey = parser.journey(message)
    return (None if parser.violations else journey), tuple(parser.violations)


class _Parser(StepReader):
    """Reads one message and notes what is wrong; what it returns counts only when nothing was."""

    def journey(self, message: pb.Journey) -> Journey:
        self.own_id = self.identifier("name", short_name("journeys", message.name))
        self.is_batch = message.type == pb.JOURNEY_TYPE_BATCH
        self.head(message)
        self.size(message)
        names = self.stage_names = self.names_of_stages(message)
        goal, goal_target = self.goal(message)
        journey = Journey(
            journey_id=self.own_id,
            entry=self.entry(message),
            goal=goal,
            reentry=self.reentry(message.reentry),
            skip_stages=message.skip_stages if message.HasField("skip_stages") else True,
            exits=self.exits("exit_criteria", message.exit_criteria, names, after=0),
            stages=tuple(self.stage(message, index, names) for index in range(len(message.stages))),
            key=self.key(message.key),
            time_zone=self.time_zone(message.time_zone),
            goal_target=goal_target,
            is_batch=self.is_batch,
            audience=self.audience(message),
            schedule=self.schedule(message),
            rate=self.rate(message),
        )
        # Of a journey that is not sound otherwise, ways can't be told.
        if not self.violations:
            self.violations += loops_in(message)
        return journey

    def size(self, message: pb.Journey) -> None:
        if not message.stages:
            self.wrong("stages", f"is empty; a journey has 1 to {limits.MAX_STAGES} stages")
        if len(message.stages) > limits.MAX_STAGES:
            self.wrong(
                "stages", f"has {len(message.stages)} stages; a journey has at most {limits.MAX_STAGES}"
            )
        most = limits.MAX_BATCH_ELEMENTS if self.is_batch else limits.MAX_ELEMENTS
        if (elements := count_elements(message)) > most:
            self.wrong(
                "stages",
                f"has {elements} elements (the entry criteria, each milestone and each step count one); "
                f"a {'batch' if self.is_batch else 'real-time'} journey has at most {most}",
            )
        for index, stage in enumerate(message.stages):
            elements = count_stage_elements(stage)
            if self.is_batch and elements > limits.MAX_BATCH_STAGE_ELEMENTS:
                self.wrong(
                    f"stages[{index}]",
                    f"has {elements} elements; a stage of a batch journey has at most {limits.MAX_BATCH_STAGE_ELEMENTS}",
                )

    def head(self, message: pb.Journey) -> None:
        if message.type == pb.JOURNEY_TYPE_UNSPECIFIED:
            self.wrong("type", "is missing; say REAL_TIME or BATCH")
        elif message.type not in pb.JourneyType.values():
            self.wrong("type", f"is {message.type}, which is no type; say REAL_TIME or BATCH")
        if message.purpose.kind not in pb.PurposeKind.values():
            self.wrong("purpose.kind", f"is {message.purpose.kind}, which is no kind of purpose")
        if (length := len(message.purpose.description)) > limits.MAX_DESCRIPTION:
            self.wrong(
                "purpose.description", f"has {length} characters; it has at most {limits.MAX_DESCRIPTION}"
            )

    def key(self, source: str) -> tuple[str, ...]:
        if not source:
            return ()
        if self.is_batch:
            self.wrong("key", "is given; it names an event property, and a BATCH journey reads no event")
            return ()
        if len(source) <= limits.MAX_KEY_BYTES:
            if dotted := _KEY.fullmatch(source):
                return tuple(dotted[1].split(".")[1:])
            if quoted := _KEY_QUOTED.fullmatch(source):
                return (quoted[1] or quoted[2],)
        self.wrong("key", f"is {quote(source)}; it names an event property, as event.properties.cart_id")
        return ()

    def time_zone(self, name: str) -> str:
        if name and not is_time_zone(name):
            self.wrong("time_zone", f"is {quote(name)}, which is no IANA time zone; one is Asia/Tokyo")
        return name

    def audience(self, message: pb.Journey) -> Criteria | None:
        if not self.is_batch:
            self.only_batch("audience", message.audience, "say who can enter in stages[0].entry")
        elif message.audience:
            return self.criteria("audience", message.audience)
        else:
            self.wrong(
                "audience", 'is missing; a BATCH journey is for those who meet one, as in_segment("vip")'
            )
        return None

    def schedule(self, message: pb.Journey) -> Schedule | None:
        if not message.HasField("schedule"):
            return None
        if not self.is_batch:
            self.only_batch("schedule", True, "leave it out: events move this one")
            return None
        given = message.schedule
        zone = given.time_zone or "UTC"
        # Both may be wrong.
        for cron, time_zone in (("* * * * *", zone), (given.cron, "UTC")):
            try:
                parse_cron(cron, time_zone)
            except CronError as error:
                self.wrong(f"schedule.{error.field}", str(error))
        missed = given.missed or pb.MISSED_RUN_RUN_LATE
        if missed not in pb.MissedRun.values():
            self.wrong("schedule.missed", f"is {missed}, which is no rule; say RUN_LATE or SKIP")
            missed = pb.MISSED_RUN_RUN_LATE
        return Schedule(" ".join(given.cron.split()), zone, MissedRun(missed))

    def rate(self, message: pb.Journey) -> Rate | None:
        if not message.rate:
            return None
        if not self.is_batch:
            self.only_batch("rate", True, "a connection has a rate of its own")
            return None
        matched = _RATE.fullmatch(message.rate)
        if matched is None or not 1 <= int(matched[1]) <= limits.MAX_RATE:
            self.wrong(
                "rate",
                f"is {quote(message.rate)}; it is so many in a second, a minute or an hour, 1 to {limits.MAX_RATE}, as 10000/m",
            )
            return None
        return Rate(int(matched[1]), _RATE_UNITS_US[matched[2]])

    def only_batch(self, path: str, given: object, instead: str) -> None:
        if given:
            self.wrong(path, f"is given; only a BATCH journey has one: {instead}")

    def goal(self, message: pb.Journey) -> tuple[Criteria | None, Target | None]:
        if not message.HasField("goal"):
            return None, None
        goal = self.criteria("goal.criteria", message.goal.criteria)
        target = message.goal.target if message.goal.HasField("target") else None
        return goal, self.target("goal.target", target) if target is not None else None

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
        return entry or _NO_ENTRY

    def reentry(self, message: pb.Reentry) -> Reentry:
        default = pb.REENTRY_MODE_NEVER if self.is_batch else pb.REENTRY_MODE_UNLESS_GOAL_ACHIEVED
        if self.is_batch and not message.mode and (message.HasField("cooldown") or message.max_entries):
            self.wrong(
                "reentry.mode",
                "is missing; a BATCH journey is begun once by default, so that a cooldown or a maximum needs ALWAYS or UNLESS_GOAL_ACHIEVED",
            )
        mode = message.mode or default
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
        active = message.while_active or pb.WHILE_ACTIVE_IGNORE
        if active not in pb.WhileActive.values():
            self.wrong("reentry.while_active", f"is {active}, which is no rule; say IGNORE or RESTART")
            active = pb.WHILE_ACTIVE_IGNORE
        return Reentry(ReentryMode(mode), cooldown, message.max_entries, WhileActive(active))

    def names_of_stages(self, message: pb.Journey) -> list[str]:
        names: list[str] = []
        for index, stage in enumerate(message.stages):
            self.identifier(f"stages[{index}].name", stage.name)
            if stage.name and stage.name in names:
                self.wrong(
                    f"stages[{index}].name",
                    f"is {quote(stage.name)}, as of stages[{names.index(stage.name)}]; names are unique",
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
            steps=self.steps(f"{path}.steps", message.steps, message.name),
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
                    f"is {quote(message.name)}, as of one before; names are unique in their list",
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
                f"names the stage {quote(to)}, which does not exist; there are {', '.join(names)}",
            )
        elif (index := names.index(to)) <= after:
            self.wrong(
                f"{path}.to",
                f"names the stage {quote(to)}, which is not a later one; an exit leads on or out, never back",
            )
        else:
            return index
        return None
