"""What a batch journey may say, what is refused of it with its field and what would be right, and what of it is refused elsewhere."""

import pytest

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey.askable import unaskable_segments
from cairn.journey.document import read_documents
from cairn.journey.model import MissedRun, Rate, ReentryMode, Schedule
from cairn.journey.parse import parse_journey
from cairn.journey.plan import compile_plan
from cairn.journey.references import segments_of
from cairn.testing.journeys import read_journey

VALID = """
name: winback
type: BATCH
audience: in_segment("lapsed") && profile.age >= 18
schedule: {cron: "0 6 * * MON-FRI", time_zone: Europe/Berlin, missed: SKIP}
rate: 10000/m
goal: {criteria: 'count("buy", duration("24h")) > 0'}
exit_criteria: [{name: out, criteria: profile.gone == true}]
stages:
  - name: one
    entry: profile.lapsed == true
    milestone: profile.level > 2
    steps:
      - wait: {duration: 2w}
      - wait: {condition: profile.opened == true, timeout: 1w}
      - decision:
          branches:
            - {name: a, criteria: profile.a == true, steps: [{activation: {channel: ads}}]}
            - {name: b, criteria: profile.b == true}
  - name: two
"""
NO_EVENT = "a BATCH journey reads no event, as runs move it; its criteria read profile, count, sum, first, last and in_segment"


def message(text: str = VALID) -> pb.Journey:
    (document,), violations = read_documents(text)
    assert not violations
    assert isinstance(document.message, pb.Journey)
    return document.message


def violations_of(text: str) -> dict[str, str]:
    model, violations = parse_journey(message(text))
    assert (model is None) is bool(violations)
    return {each.path: each.message for each in violations}


def elements(*counts: int) -> str:
    """Stages with so many elements each, the entry criteria or the milestones among them."""
    stages = []
    for number, count in enumerate(counts):
        boxes = (number == 0) + (number < len(counts) - 1)
        entry = "entry: 'true', " if number == 0 else ""
        milestone = "milestone: profile.x == true, " if number < len(counts) - 1 else ""
        steps = ", ".join(["{activation: {channel: log}}"] * (count - boxes))
        stages.append(f"  - {{name: s{number}, {entry}{milestone}steps: [{steps}]}}\n")
    return f"name: large\ntype: BATCH\naudience: 'true'\nstages:\n{''.join(stages)}"


def branches(count: int) -> str:
    listed = ", ".join(f"{{name: b{n}, criteria: profile.n == {n}}}" for n in range(count))
    return VALID.replace("steps:\n      - wait: {duration: 2w}", f"steps:\n      - decision: {{branches: [{listed}]}}\n      - wait: {{duration: 2w}}")  # fmt: skip


def test_what_it_is() -> None:
    journey = read_journey(VALID)
    assert journey.is_batch
    assert journey.audience is not None
    assert journey.audience.source == 'in_segment("lapsed") && profile.age >= 18'
    assert journey.schedule == Schedule("0 6 * * MON-FRI", "Europe/Berlin", MissedRun.SKIP)
    assert journey.rate == Rate(10_000, 60_000_000)
    assert journey.reentry.mode is ReentryMode.NEVER
    plan = compile_plan(journey, 3, speed=60)
    assert (plan.is_batch, plan.audience, plan.schedule, plan.rate) == (
        True, journey.audience, journey.schedule, journey.rate
    )  # fmt: skip
    assert journey.audience in set(plan.criteria())
    assert segments_of(message()) == {"lapsed"}


def test_what_it_is_by_default() -> None:
    journey = read_journey(
        "name: a\ntype: BATCH\naudience: 'true'\nschedule: {cron: '  0 6  * * *'}\nstages: [{name: s, entry: 'true'}]"
    )
    assert journey.schedule == Schedule("0 6 * * *", "UTC", MissedRun.RUN_LATE)
    assert journey.rate is None
    real = read_journey("name: a\ntype: REAL_TIME\nstages: [{name: s, entry: 'true'}]")
    assert (real.is_batch, real.audience, real.schedule, real.rate) == (False, None, None, None)


@pytest.mark.parametrize(
    ("rate", "read"),
    [
        ("1/s", Rate(1, 1_000_000)),
        ("10000/m", Rate(10_000, 60_000_000)),
        ("1000000000/h", Rate(1_000_000_000, 3_600_000_000)),
    ],
)
def test_rates(rate: str, read: Rate) -> None:
    assert read_journey(VALID.replace("10000/m", rate)).rate == read


@pytest.mark.parametrize("text", [branches(2), branches(6), elements(70, 50), elements(*[15] * 8)])
def test_at_the_limit_is_within_it(text: str) -> None:
    assert violations_of(text) == {}


REAL_TIME = "name: a\ntype: REAL_TIME\nEXTRA\nstages: [{name: s, entry: 'true'}]"
BATCH = "name: a\ntype: BATCH\naudience: 'true'\nEXTRA\nstages: [{name: s, entry: 'true'}]"

WRONG = (
    ("no audience", VALID.replace('audience: in_segment("lapsed") && profile.age >= 18\n', ""), "audience", 'is missing; a BATCH journey is for those who meet one, as in_segment("vip")'),
    ("no entry criteria", VALID.replace("    entry: profile.lapsed == true\n", ""), "stages[0].entry", "is missing; the first stage needs entry criteria"),
    ("an audience that is no CEL", VALID.replace(">= 18", ">="), "audience", "line 1, column "),
    ("an audience that reads an event", VALID.replace("profile.age >= 18", 'event.name == "x"'), "audience", f"line 1, column 25: event is an event, and {NO_EVENT}"),
    ("an entry that does", VALID.replace("profile.lapsed == true", 'event.name == "x"'), "stages[0].entry", NO_EVENT),
    ("a goal that does", VALID.replace('count("buy", duration("24h")) > 0', 'event.name == "buy"'), "goal.criteria", NO_EVENT),
    ("an exit that does", VALID.replace("profile.gone == true", 'event.name == "x"'), "exit_criteria[0].criteria", NO_EVENT),
    ("a milestone that reads the entry", VALID.replace("profile.level > 2", "entry.properties.x > 2"), "stages[0].milestone", f"line 1, column 1: entry is an event, and {NO_EVENT}"),
    ("a condition that does", VALID.replace("profile.opened == true", 'event.name == "x"'), "stages[0].steps[1].wait.condition", NO_EVENT),
    ("a branch that does", VALID.replace("profile.b == true", 'event.name == "x"'), "stages[0].steps[2].decision.branches[1].criteria", NO_EVENT),
    ("an audience that no run can ask for", VALID.replace("profile.age >= 18", 'profile.name.matches("a.*")'), "audience", "matches can't be asked of a database; use startsWith"),
    ("a milestone that no run can ask for", VALID.replace("profile.level > 2", "profile.level * 2.0 > 2.0"), "stages[0].milestone", "line 1, column 15: * is computed otherwise by a database"),
    ("a key", VALID + "key: event.properties.cart_id\n", "key", "is given; it names an event property, and a BATCH journey reads no event"),
    ("a rate without a time", VALID.replace("10000/m", "'10000'"), "rate", "is '10000'; it is so many in a second, a minute or an hour, 1 to 1000000000, as 10000/m"),
    ("a rate of nothing", VALID.replace("10000/m", "0/m"), "rate", "is '0/m'"),
    ("a rate beyond all", VALID.replace("10000/m", "1000000001/s"), "rate", "is '1000000001/s'"),
    ("a rate in a day", VALID.replace("10000/m", "10/d"), "rate", "is '10/d'"),
    ("a rate below nothing", VALID.replace("10000/m", "-5/s"), "rate", "is '-5/s'"),
    ("a cron of four fields", VALID.replace("0 6 * * MON-FRI", "0 6 * *"), "schedule.cron", "is '0 6 * *'; it has five fields"),
    ("no cron", VALID.replace('cron: "0 6 * * MON-FRI", ', ""), "schedule.cron", "it has five fields"),
    ("a cron that never comes", VALID.replace("0 6 * * MON-FRI", "0 0 30 2 *"), "schedule.cron", "is '0 0 30 2 *', which never comes"),
    ("a zone that is none", VALID.replace("Europe/Berlin", "Europe/Bern"), "schedule.time_zone", "is 'Europe/Bern', which is no IANA time zone; one is Asia/Tokyo"),
    ("121 elements", elements(61, 60), "stages", "has 121 elements (the entry criteria, each milestone and each step count one); a batch journey has at most 120"),
    ("71 in a stage", elements(20, 71), "stages[1]", "has 71 elements; a stage of a batch journey has at most 70"),
    ("nine stages", elements(*[2] * 9), "stages", "has 9 stages; a journey has at most 8"),
    ("one branch", branches(1), "stages[0].steps[0].decision.branches", "has 1 branches; a decision has 2 to 6"),
    ("seven branches", branches(7), "stages[0].steps[0].decision.branches", "has 7 branches; a decision has 2 to 6"),
    ("a cooldown without a mode", BATCH.replace("EXTRA", "reentry: {cooldown: 7d}"), "reentry.mode", "is missing; a BATCH journey is begun once by default"),
    ("a maximum without a mode", BATCH.replace("EXTRA", "reentry: {max_entries: 2}"), "reentry.mode", "is missing"),
    ("an audience of a real-time journey", REAL_TIME.replace("EXTRA", "audience: 'true'"), "audience", "is given; only a BATCH journey has one: say who can enter in stages[0].entry"),
    ("a schedule of one", REAL_TIME.replace("EXTRA", "schedule: {cron: 0 6 * * *}"), "schedule", "is given; only a BATCH journey has one"),
    ("a rate of one", REAL_TIME.replace("EXTRA", "rate: 10/s"), "rate", "is given; only a BATCH journey has one: a connection has a rate of its own"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "path", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_refused(text: str, path: str, said: str) -> None:
    found = violations_of(text)
    assert set(found) == {path}
    assert said in found[path]
    assert "segments can't" not in found[path]


def test_both_of_a_schedule_may_be_wrong() -> None:
    found = violations_of(VALID.replace("0 6 * *", "0 66 * *").replace("Europe/Berlin", "Mars"))
    assert set(found) == {"schedule.cron", "schedule.time_zone"}


def test_an_unknown_rule_for_missed_runs() -> None:
    journey = message()
    journey.schedule.missed = 9  # type: ignore[assignment]
    _, violations = parse_journey(journey)
    assert [str(each) for each in violations] == [
        "schedule.missed: is 9, which is no rule; say RUN_LATE or SKIP"
    ]


def test_a_mode_that_is_given_is_kept() -> None:
    text = BATCH.replace("EXTRA", "reentry: {mode: ALWAYS, cooldown: 7d}")
    assert violations_of(text) == {}
    assert read_journey(text).reentry.mode is ReentryMode.ALWAYS


# Segments


def told(segments: dict[str, str], text: str = VALID) -> list[str]:
    return [str(each) for each in unaskable_segments(message(text), segments)]


def test_a_segment_that_no_run_can_ask_for_is_told_where_it_is_used() -> None:
    bad = "profile.age * 2.0 > 3.0"
    said = "uses the segment 'NAME', for which no run of a BATCH journey can ask: line 1, column 13: * is computed otherwise by a database"
    direct = told({"lapsed": bad})
    assert len(direct) == 1
    assert direct[0].startswith(f"audience: {said}".replace("NAME", "lapsed"))
    through = told({"lapsed": 'in_segment("old")', "old": bad, "other": bad})
    assert len(through) == 1
    assert through[0].startswith(f"audience: {said}".replace("NAME", "old"))
    assert told({"lapsed": "profile.age > 3"}) == told({}) == told({"lapsed": "no CEL at all"}) == []


def test_a_real_time_journey_may_use_it() -> None:
    text = REAL_TIME.replace("EXTRA", "").replace("'true'", "in_segment('lapsed')")
    assert told({"lapsed": "profile.age * 2.0 > 3.0"}, text) == []
