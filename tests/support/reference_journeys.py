"""Owns the strategies for journeys of the whole grammar and for what happens to a profile in them: few names, few durations,
so that things meet, in one input and in one instant."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import yaml
from google.protobuf.json_format import ParseDict
from hypothesis import strategies as st

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey.model import Journey
from cairn.journey.parse import parse_journey
from cairn.journey.references import segments_of

# Half a day before the clocks of Europe change, a few weeks after those of America did.
START = datetime(2026, 3, 28, 12, tzinfo=UTC)
START_US = int(START.timestamp()) * 1_000_000
HOUR_US = 3_600_000_000

Json = dict[str, Any]
ANY_NAME = None

# Each criteria with the names of the events that it speaks of, by the page; ANY_NAME where it reads the event and fixes none.
ENTRY: dict[str, frozenset[str] | None] = {
    'event.name == "a"': frozenset("a"),
    'event.name == "b"': frozenset("b"),
    'event.name in ["a", "b"]': frozenset("ab"),
    'event.name == "a" && profile.level > 1': frozenset("a"),
    'event.name == "c" && event.properties.size > 1': frozenset("c"),
    'event.name == "b" && in_segment("upper")': frozenset("b"),
    'count("a") >= 2': frozenset("a"),
    'event.name == "a" && count("a", duration("3h")) >= 2': frozenset("a"),
    'sum("c", "size", duration("3h")) > 3.0': frozenset("c"),
    'event.name == "b" || profile.level > 2': frozenset("b"),
    "event.properties.size >= 3": ANY_NAME,
    'event.name != "a"': ANY_NAME,
    "profile.level > 2": frozenset(),
    'in_segment("upper")': frozenset(),
    'in_segment("busy") && event.name == "b"': frozenset("b"),
    'event.name == "a" && in_segment("both")': frozenset("a"),
}
ENROLLMENT: dict[str, frozenset[str] | None] = {
    **ENTRY,
    'event.name == "c"': frozenset("c"),
    'event.name == "d"': frozenset("d"),
    'event.name == "d" && event.properties.size == entry.properties.size': frozenset("d"),
    'event.name == "b" && event.properties.size != entry.properties.size': frozenset("b"),
    'event.occur_time - entry.occur_time > duration("1h")': ANY_NAME,
    'entry.name == "a" && profile.level < 3': frozenset(),
    'last("b").properties.size > 1': frozenset("b"),
    'last("a", duration("2h")).properties.size == 1': frozenset("a"),
    'first("a", duration("3h")).properties.size == 1': frozenset("a"),
    'first("c").properties.size < last("c").properties.size': frozenset("c"),
    'count("d", duration("1h")) == 0 && profile.level > 1': frozenset("d"),
    'count("b", duration("3h")) > 1': frozenset("b"),
    "has(profile.level) && profile.level == 2": frozenset(),
    "profile.level < 2": frozenset(),
    '!(event.name == "a")': ANY_NAME,
}
SEGMENTS = {
    "upper": "profile.level > 1",
    "busy": 'count("a", duration("3h")) > 1',
    "both": 'in_segment("upper") && in_segment("busy")',
}
REACH = {
    **ENROLLMENT, SEGMENTS["upper"]: frozenset(), SEGMENTS["busy"]: frozenset("a"), SEGMENTS["both"]: frozenset(),
}  # fmt: skip

# Asks all that the criteria may ask of behavior, so that what is kept of it does not depend on which version asks first.
_ASKS = " && ".join(
    f"({source})" for source in ENROLLMENT if re.search(r"\b(count|sum|first|last)\(", source)
)
WITNESS: Json = {
    "name": "witness",
    "type": "REAL_TIME",
    "stages": [{"name": "one", "entry": f"false && {_ASKS}"}],
}
REACH[f"false && {_ASKS}"] = frozenset("abcd")

ZONES = (
    "",
    "Europe/Berlin",
    "Europe/Berlin",
    "America/New_York",
    "Asia/Tokyo",
    "Australia/Lord_Howe",
    "Africa/Cairo",
)
STAGES = ("one", "two", "three")
DURATIONS = ("1h", "1h", "2h", "3h", "24h")


@cache
def weighted(**choices: int) -> st.SearchStrategy[str]:
    return st.sampled_from([name for name, weight in choices.items() for _ in range(weight)])


# Kinds of steps with their weights; the last are those that hold steps.
STEPS = {"activation": 4, "duration": 4, "until": 2, "until_time": 2, "jump": 2, "end": 1}
NESTING = {"condition": 4, "decision": 2, "experiment": 1}


@dataclass(frozen=True)
class Mood:
    """What a case is about: a few criteria that come again and again, and kinds of steps. Without it, what a case is about is
    everything, and then nothing meets anything."""

    criteria: tuple[str, ...] = tuple(ENROLLMENT)
    steps: frozenset[str] = frozenset((*STEPS, *NESTING))

    @property
    def some(self) -> st.SearchStrategy[str]:
        return st.sampled_from(self.criteria)

    @property
    def entries(self) -> st.SearchStrategy[str]:
        simple = tuple(ENTRY)[:4]
        return st.sampled_from((*simple, *(each for each in self.criteria if each in ENTRY)))

    def kinds(self, depth: int) -> st.SearchStrategy[str]:
        weights = {kind: weight for kind, weight in STEPS.items() if kind in self.steps}
        if depth < 2:
            weights |= {kind: weight for kind, weight in NESTING.items() if kind in self.steps}
        return weighted(**(weights or {"activation": 1}))


@st.composite
def moods(draw: st.DrawFn, *, jumps: bool) -> Mood:
    criteria = draw(st.lists(st.sampled_from(tuple(ENROLLMENT)), min_size=3, max_size=7, unique=True))
    left_out = draw(st.sets(st.sampled_from((*STEPS, *NESTING)), max_size=6))
    return Mood(tuple(criteria), Mood().steps - left_out - (set() if jumps else {"jump"}))


@dataclass
class Shape:
    """Where steps are generated; `room` is how many elements are left."""

    own: str
    journeys: tuple[str, ...]
    mood: Mood
    room: int = 12


@st.composite
def _steps(draw: st.DrawFn, shape: Shape, depth: int = 0) -> list[Json]:
    """Steps of which none stands behind one that never lets anybody pass."""
    steps: list[Json] = []
    for _ in range(draw(st.sampled_from((0, 1, 1, 2) if depth else (0, 1, 2, 3, 4)))):
        if shape.room <= 0:
            break
        shape.room -= 1
        step = draw(_step(shape, depth))
        steps.append(step)
        if not passes(step):
            break
    return steps


@st.composite
def _step(draw: st.DrawFn, shape: Shape, depth: int) -> Json:
    kind = draw(shape.mood.kinds(depth))
    criteria = shape.mood.some
    inner = _steps(shape, depth + 1)
    match kind:
        case "activation":
            if draw(weighted(mail=3, audience=2)) == "mail":
                return {"activation": {"channel": "email", "template": draw(st.sampled_from(("t", "u")))}}
            made = {"channel": draw(st.sampled_from(("ads", "more"))), "action": "ADD"}
            until = draw(st.sampled_from(("EXIT", "EXIT", "GOAL", "NEVER", "")))
            return {"activation": {**made, "until": until} if until else made}
        case "duration":
            return {"wait": {"duration": draw(st.sampled_from(DURATIONS))}}
        case "until":
            hours = draw(st.sampled_from((3, -5, 1, 3, 30)))
            return {"wait": {"until": (START + timedelta(hours=hours)).isoformat().replace("+00:00", "Z")}}
        case "until_time":
            wait: Json = {"until_time": draw(st.sampled_from(("02:15", "00:00", "02:15", "09:00")))}
            days = draw(st.lists(st.sampled_from(("MON", "WED", "SAT", "SUN")), max_size=2, unique=True))
            return {"wait": {**wait, "weekdays": days}}
        case "condition":
            return {
                "wait": {
                    "condition": draw(criteria),
                    "timeout": draw(st.sampled_from(DURATIONS)),
                    "met": draw(inner),
                    "timed_out": draw(inner),
                }
            }
        case "decision":
            sources = draw(st.lists(criteria, min_size=2, max_size=3, unique=True))
            branches = [
                {"name": f"w{number}", "criteria": source, "steps": draw(inner)}
                for number, source in enumerate(sources)
            ]
            return {"decision": {"branches": branches, "otherwise": draw(inner)}}
        case "experiment":
            percents = draw(st.sampled_from(((100,), (50, 50), (0, 100), (20, 30, 50))))
            variants = [
                {"name": f"v{number}", "percent": percent, "steps": draw(inner)}
                for number, percent in enumerate(percents)
            ]
            return {"experiment": {"variants": variants}}
        case "jump":
            return {"jump": draw(_target(shape))}
        case _:
            return {"end": {}}


def passes(step: Json) -> bool:
    """Whether what follows a step can be reached."""
    if "jump" in step or "end" in step:
        return False
    ways: list[list[Json]] = []
    if wait := step.get("wait"):
        ways = [wait["met"], wait["timed_out"]] if "condition" in wait else [[]]
    elif decision := step.get("decision"):
        ways = [*(branch["steps"] for branch in decision["branches"]), decision["otherwise"]]
    elif experiment := step.get("experiment"):
        ways = [variant["steps"] for variant in experiment["variants"] if variant["percent"]]
    return not ways or any(not steps or passes(steps[-1]) for steps in ways)


@st.composite
def _target(draw: st.DrawFn, shape: Shape) -> Json:
    """Mostly another journey: one that leads back to itself in no time is refused."""
    others = [each for each in shape.journeys if each != shape.own]
    journey = draw(st.sampled_from((*others * 3, "nowhere", shape.own)))
    return {"journey": journey, "stage": draw(st.sampled_from(("", "", "one", "two" if others else "")))}


@st.composite
def _exit(draw: st.DrawFn, name: str, later: tuple[str, ...], mood: Mood) -> Json:
    exit: Json = {"name": name}
    if draw(st.booleans()):
        exit["criteria"] = draw(mood.some)
    else:
        exit["stale"] = draw(st.sampled_from(("1h", "2h", "3h", "24h", "576h")))
    if later and draw(st.booleans()):
        exit["to"] = draw(st.sampled_from(later))
    return exit


@st.composite
def documents(
    draw: st.DrawFn,
    journey_id: str,
    journeys: tuple[str, ...],
    mood: Mood = Mood(),
    *,
    key: bool = False,
) -> Json:
    """A journey as it is written; `journeys` are those that it may jump to."""
    shape = Shape(journey_id, journeys, mood)
    stages: list[Json] = []
    names = STAGES[: draw(st.integers(1, 3))]
    for index, name in enumerate(names):
        stage: Json = {"name": name, "steps": draw(_steps(shape))}
        if index == 0:
            stage["entry"] = draw(mood.entries)
        if index < len(names) - 1:
            stage["milestone"] = draw(mood.some)
        if draw(weighted(no=2, yes=1)) == "yes":
            stage["exit_criteria"] = [draw(_exit("out", names[index + 1 :], mood))]
        stages.append(stage)
    journey: Json = {
        "name": journey_id,
        "type": "REAL_TIME",
        "reentry": {
            "mode": draw(weighted(ALWAYS=4, UNLESS_GOAL_ACHIEVED=2, NEVER=1)),
            "while_active": draw(weighted(IGNORE=2, RESTART=1)),
            "max_entries": draw(st.sampled_from((0, 0, 0, 2))),
        },
        "skip_stages": draw(weighted(yes=2, no=1)) == "yes",
        "stages": stages,
    }
    if draw(weighted(no=3, yes=1)) == "yes":
        journey["reentry"]["cooldown"] = draw(st.sampled_from(("2h", "24h")))
    if draw(st.booleans()):
        journey["goal"] = {"criteria": draw(mood.some)}
        if "jump" in mood.steps and draw(weighted(no=2, yes=1)) == "yes":
            journey["goal"]["target"] = draw(_target(shape))
    exits = [
        draw(_exit(name, names[1:], mood)) for name in ("cold", "gone")[: draw(st.sampled_from((0, 0, 1, 2)))]
    ]
    if exits:
        journey["exit_criteria"] = exits
    if key:
        journey["key"] = "event.properties.cart"
    if draw(weighted(no=2, yes=1)) == "yes":
        journey["time_zone"] = draw(st.sampled_from(ZONES[1:]))
    return journey


@dataclass(frozen=True)
class Happening:
    """Something that happens to a profile or to a journey, `hours` after the one before it.

    An event is `late_hours` late; `rings` and `repeats` say what the Scheduler does before it, `crashes` that the service dies
    over it and does it again, `sweeps` that it comes round to each standing now when a journey's life has changed.
    """

    kind: str
    hours: float
    name: str = ""
    size: int = 1
    cart: Any = None
    level: int = 1
    time_zone: str = ""
    late_hours: float = 0
    journey: int = 0
    mode: str = "FREEZE"
    rings: bool = True
    repeats: bool = False
    crashes: bool = False
    sweeps: bool = True

    def __str__(self) -> str:
        given = [(each, getattr(self, each.name)) for each in fields(self)]
        return " ".join(f"{each.name}={value}" for each, value in given if value != each.default)


@dataclass(frozen=True)
class Case:
    """Journeys with their versions, what a profile is at first, and what happens."""

    documents: tuple[tuple[Json, ...], ...]
    attributes: Mapping[str, Any]
    happenings: tuple[Happening, ...] = ()
    profile_id: str = "ann"

    def __repr__(self) -> str:
        """As one can read it."""
        texts = [write(each) for versions in self.documents for each in versions]
        lines = [*texts, f"{self.profile_id} {dict(self.attributes)}", *map(str, self.happenings)]
        return "\n" + "\n".join(lines) + "\n"

    def journeys(self) -> list[list[tuple[Journey, tuple[str, ...]]]]:
        """The versions of each journey, with the segments that each names. Raises RefusedError."""
        return [[read(each) for each in versions] for versions in self.documents]


class RefusedError(Exception):
    """A journey that would not be saved."""


def read(document: Json) -> tuple[Journey, tuple[str, ...]]:
    message = message_of(document)
    journey, violations = parse_journey(message)
    if journey is None:
        raise RefusedError("; ".join(map(str, violations)))
    segments = segments_of(message)
    # A version holds the segments that its segments name, too.
    return journey, tuple(sorted(SEGMENTS if "both" in segments else segments))


def message_of(document: Json) -> pb.Journey:
    """Without the way through YAML, which takes ten times as long as all the rest."""
    return ParseDict(_as_protobuf_json(document), pb.Journey())


PREFIXES = {
    "type": "JOURNEY_TYPE_",
    "mode": "REENTRY_MODE_",
    "while_active": "WHILE_ACTIVE_",
    "weekdays": "WEEKDAY_",
    "action": "AUDIENCE_ACTION_",
}
UNTIL = ("EXIT", "GOAL", "NEVER")


def _as_protobuf_json(value: Any, name: str = "") -> Any:
    match value:
        case dict():
            return {each: _as_protobuf_json(inner, each) for each, inner in value.items()}
        case list():
            return [_as_protobuf_json(each, name) for each in value]
        case str() if name in ("duration", "timeout", "stale", "cooldown"):
            return f"{int(value.removesuffix('h')) * 3600}s"
        case str() if name == "until" and value in UNTIL:
            return f"AUDIENCE_UNTIL_{value}"
        case _:
            return PREFIXES[name] + value if name in PREFIXES else value


def write(document: Json) -> str:
    return yaml.safe_dump(document, sort_keys=False, default_flow_style=None, width=110)


HOURS = st.sampled_from((0, 0, 0.5, 1, 1, 1, 2, 2, 3, 3, 24, 24, 600))
LATE = st.sampled_from((0, 0, 0, 1, 2, 30))
MODES = st.sampled_from(("FREEZE", "RUN", "FREEZE", "RUN", "DROP"))
# What the Scheduler and the service do beside: ring in time, ring twice, crash, come round to all standings at once.
HABITS = st.sampled_from([(rings, more == 1, more == 2) for rings in (True, False) for more in range(3)])


@st.composite
def _happening(draw: st.DrawFn, journeys: int, kinds: Mapping[str, int], punctual: bool) -> Happening:
    kind = draw(weighted(**kinds))
    rings, repeats, crashes = draw(HABITS)
    each = Happening(kind, draw(HOURS), rings=rings or punctual, repeats=repeats, crashes=crashes)
    match kind:
        case "event":
            cart = draw(st.sampled_from(("x", "x", "y", 7.0, True, None)))
            late = draw(LATE) if punctual else 0
            name = draw(weighted(a=5, b=3, c=2, d=2))
            return replace(each, name=name, size=draw(st.integers(1, 3)), cart=cart, late_hours=late)
        case "profile":
            return replace(each, level=draw(st.integers(1, 3)), time_zone=draw(st.sampled_from(ZONES)))
        case "receipt":
            return replace(each, size=draw(st.integers(1, 3)))
        case _:
            sweeps = punctual or draw(st.booleans())
            return replace(each, journey=draw(st.integers(0, journeys - 1)), mode=draw(MODES), sweeps=sweeps)


# Kinds of happenings with their weights.
QUIET = {"event": 12, "profile": 3, "receipt": 1, "publish": 1}
EVENTFUL = {"event": 8, "profile": 2, "receipt": 1, "publish": 1, "pause": 4, "resume": 4, "end": 1}


@st.composite
def cases(
    draw: st.DrawFn,
    kinds: Mapping[str, int] = EVENTFUL,
    *,
    most: int = 3,
    punctual: bool = True,
    jumps: bool = True,
) -> Case:
    """Up to `most` journeys; `punctual`: the alarm is, so that events may be late and receipts may come."""
    ids = tuple(f"j{number + 1}" for number in range(draw(st.integers(1, most))))
    versions, mood = [], draw(moods(jumps=jumps))
    for journey_id in ids:
        key = draw(weighted(no=3, yes=1)) == "yes"
        count = draw(st.sampled_from((1, 1, 1, 2)))
        drawn = [draw(documents(journey_id, ids, mood, key=key)) for _ in range(count)]
        for each in drawn if key else ():
            # What is remembered of a key's value depends on the rules of the day: not what these tests are about.
            each["reentry"] = drawn[0]["reentry"]
        versions.append(tuple(drawn))
    level = draw(st.integers(0, 3))
    if not punctual:
        # A receipt, or a new version, that overtakes what should have happened before it can't be made up for.
        kinds = {kind: weight for kind, weight in kinds.items() if kind not in ("receipt", "publish")}
    happenings = st.lists(_happening(len(ids), kinds, punctual), min_size=8, max_size=24)
    attributes = {"level": float(level)} if level else {}
    return Case(tuple(versions), attributes, tuple(draw(happenings)), f"p{draw(st.integers(0, 30))}")
