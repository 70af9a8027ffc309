"""What a version compiles to: a flat program, faster on request, and which events reach it."""

import pytest

from cairn.journey.limits import describe_us
from cairn.journey.live import LiveJourney
from cairn.journey.plan import (
    ActivateInstruction,
    RestInstruction,
    WaitInstruction,
    compile_plan,
)
from cairn.testing.journeys import duration_us, read_journey

TEXT = """
name: plan
type: REAL_TIME
goal: {criteria: GOAL}
reentry: {cooldown: 1d}
exit_criteria: [{name: cold, stale: 24d}]
stages:
  - name: one
    entry: event.name == "begin"
    milestone: event.name in ["on", "over"]
    exit_criteria: [{name: out, criteria: event.name == "out"}, {name: idle, stale: 1m, to: two}]
    steps:
      - wait: {duration: 1h}
      - {name: add, activation: {channel: connections/ads, action: ADD}}
      - end: {}
  - name: two
    steps: [{activation: {channel: email, template: templates/two}}]
"""
PLAIN = TEXT.replace("GOAL", 'event.name == "goal"')


def test_the_program_is_flat_and_every_stage_rests_at_its_end() -> None:
    plan = compile_plan(read_journey(PLAIN), 3)
    assert (plan.journey_id, plan.version) == ("plan", 3)
    assert [type(instruction) for instruction in plan.program] == [
        WaitInstruction,
        ActivateInstruction,
        RestInstruction,
        RestInstruction,
        ActivateInstruction,
        RestInstruction,
    ]
    assert [instruction.step_id for instruction in plan.program] == ["one/1", "add", "one/3", "", "two/1", ""]
    assert [(stage.name, stage.start) for stage in plan.stages] == [("one", 0), ("two", 4)]


def test_names_are_resource_names_however_they_were_written() -> None:
    program = compile_plan(read_journey(PLAIN), 1).program
    activations = [each for each in program if isinstance(each, ActivateInstruction)]
    assert [(each.channel, each.template) for each in activations] == [
        ("connections/ads", ""),
        ("connections/email", "templates/two"),
    ]


@pytest.mark.parametrize(
    ("speed", "wait", "cold", "idle", "cooldown"),
    [
        (1, "1h", "24d", "1m", "1d"),
        (3600, "1s", "9m36s", "0.016666s", "24s"),
        (10**12, "0.000001s", "0.000002s", "0.000001s", "0s"),
    ],
)
def test_speed_divides_every_duration(speed: int, wait: str, cold: str, idle: str, cooldown: str) -> None:
    plan = compile_plan(read_journey(PLAIN), 1, speed=speed)
    first = plan.program[0]
    assert isinstance(first, WaitInstruction)
    shown = (
        first.duration_us,
        plan.exits[0].stale_us,
        plan.stages[0].exits[1].stale_us,
        plan.reentry.cooldown_us,
    )
    assert [describe_us(value or 0) for value in shown] == [wait, cold, idle, cooldown]
    assert plan.rest_us == 24 * 86_400_000_000 // speed
    assert plan.stages[0].exits[0].stale_us is None


@pytest.mark.parametrize(
    ("goal", "names"),
    [
        ('event.name == "goal"', {"begin", "on", "over", "out", "goal"}),
        ("profile.bought", {"begin", "on", "over", "out"}),
        ("event.properties.total > 5", None),
        ('event.name != "begin"', None),
    ],
)
def test_which_events_reach_it(goal: str, names: set[str] | None) -> None:
    assert compile_plan(read_journey(TEXT.replace("GOAL", goal)), 1).event_names == names


def test_events_that_reach_an_open_version_reach_the_journey() -> None:
    old = compile_plan(read_journey(PLAIN), 1)
    new = compile_plan(read_journey(PLAIN.replace('"goal"', '"other"')), 2)
    live = LiveJourney({2: new, 1: old})
    assert live.newest is new
    assert live.journey_id == "plan"
    assert live.event_names == {"begin", "on", "over", "out", "goal", "other"}
    anything = compile_plan(read_journey(TEXT.replace("GOAL", "event.properties.x")), 3)
    assert LiveJourney({1: old, 3: anything}).event_names is None


def test_the_event_that_began_is_looked_at_only_where_it_is_read() -> None:
    """By each criteria, which is what the machine goes by."""
    assert not any(each.reads_entry for each in compile_plan(read_journey(PLAIN), 1).criteria())
    reading = compile_plan(read_journey(TEXT.replace("GOAL", "has(entry.properties.x)")), 1)
    assert [each.source for each in reading.criteria() if each.reads_entry] == ["has(entry.properties.x)"]


def test_what_an_event_can_set_off_is_known_by_its_name() -> None:
    plan = compile_plan(read_journey(PLAIN), 1)
    names = {name: [[rule.name for rule in rules] for rules in plan.chances(name).rules] for name in
             ("begin", "goal", "over", "out")}  # fmt: skip
    assert names == {
        "begin": [[], []],
        "goal": [["goal"], ["goal"]],
        "over": [["milestone one"], []],
        "out": [["exit out"], []],
    }
    assert [plan.chances(name).entry is plan.entry for name in ("begin", "goal")] == [True, False]
    assert [plan.chances(name).goal is plan.goal for name in ("begin", "goal")] == [False, True]


def test_events_of_unknown_names_are_all_alike() -> None:
    """However many names somebody sends, one answer is kept for all of them."""
    plan = compile_plan(read_journey(TEXT.replace("GOAL", "event.properties.total > 5")), 1)
    assert plan.chances("never heard of") is plan.chances("nor of this")
    assert plan.chances("").goal is plan.goal
    assert plan.chances(None).goal is None


@pytest.mark.parametrize("text", ["0s", "90s", "3h", "24d", "1d12h", "0.5s", "1h1m1.000001s"])
def test_durations_are_written_as_they_are_read(text: str) -> None:
    assert duration_us(describe_us(duration_us(text))) == duration_us(text)


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0s"), (90_000_000, "1m30s"), (1, "0.000001s"), (-3_600_000_000, "-1h")]
)
def test_durations_as_people_write_them(value: int, text: str) -> None:
    assert describe_us(value) == text
