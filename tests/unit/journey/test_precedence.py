"""Which rule acts when several hold: goal, exits of the journey, exits of the stage, milestones, the current step."""

from itertools import combinations

import pytest

from cairn.journey.state import Profile
from cairn.testing.journeys import Moment, Story, event, passes, play, profile, publish, receipt, tell

JOURNEY = """
name: rules
type: REAL_TIME
goal: {criteria: '"goal" in READ'}
reentry: {mode: ALWAYS}
exit_criteria:
  - {name: out, criteria: '"out" in READ'}
  - {name: on, criteria: '"on" in READ', to: three}
stages:
  - name: one
    entry: event.name == "begin"
    milestone: '"one" in READ'
    exit_criteria:
      - {name: leave, criteria: '"leave" in READ'}
      - {name: ahead, criteria: '"ahead" in READ', to: two}
    steps: [{wait: {duration: 1h}}]
  - name: two
    milestone: '"two" in READ'
    steps: [{wait: {duration: 1h}}]
  - name: three
    steps: [{wait: {duration: 1h}}]
"""
BY_EVENT = JOURNEY.replace("READ", "event.properties.rules")
BY_PROFILE = JOURNEY.replace("READ", "profile.rules")

# In their order: what a criteria looks for, the rule's name on the timeline, and what it does.
RULES = (
    ("goal", "goal", "GOAL_ACHIEVED one"),
    ("out", "exit out", "EXITED one by out"),
    ("on", "exit on", "STAGE_ENTERED three by on"),
    ("leave", "exit leave", "EXITED one by leave"),
    ("ahead", "exit ahead", "STAGE_ENTERED two by ahead"),
    ("two", "milestone two", "STAGE_ENTERED three"),
    ("one", "milestone one", "STAGE_ENTERED two"),
)
SETS = (
    *combinations(RULES, 1),
    *combinations(RULES, 2),
    RULES,
    RULES[1:],
    RULES[3:],
    (RULES[0], RULES[3], RULES[6]),
)
KINDS = ("GOAL_ACHIEVED", "EXITED", "STAGE_ENTERED")


def moves(lines: list[str]) -> list[str]:
    """What a timeline says of moves, without the first stage."""
    return [line for line in lines[2:] if line.split()[1] in KINDS]


def expected(at: str, rules: tuple[tuple[str, str, str], ...], step: str = "") -> list[str]:
    (_, _, does), *others = rules
    over = ", ".join([name for _, name, _ in others] + ([f"step {step}"] if step else []))
    return [f"{at} {does}" + (f" over {over}" if over else "")]


def ids(rules: tuple[tuple[str, str, str], ...]) -> str:
    return "+".join(word for word, _, _ in rules)


@pytest.mark.parametrize("rules", SETS, ids=ids)
def test_event(rules: tuple[tuple[str, str, str], ...]) -> None:
    words = [word for word, _, _ in reversed(rules)]
    lines = tell(BY_EVENT, event("begin", rules=[]), event("any", at="10m", rules=words))
    assert moves(lines) == expected("10m", rules)


@pytest.mark.parametrize("rules", SETS, ids=ids)
def test_change_of_the_profile(rules: tuple[tuple[str, str, str], ...]) -> None:
    words = [word for word, _, _ in rules]
    lines = tell(BY_PROFILE, event("begin"), profile(at="10m", rules=words), attributes={"rules": []})
    assert moves(lines) == expected("10m", rules)


@pytest.mark.parametrize("rules", SETS, ids=ids)
def test_timer(rules: tuple[tuple[str, str, str], ...]) -> None:
    words = [word for word, _, _ in rules]
    lines = tell(BY_PROFILE, event("begin"), unseen(rules=words), passes("1h"))
    assert moves(lines)[:1] == expected("1h", rules, step="one/1")


@pytest.mark.parametrize("rules", SETS, ids=ids)
def test_a_milestone_acts_before_an_expired_wait_that_no_timer_has_told_of(
    rules: tuple[tuple[str, str, str], ...],
) -> None:
    """An event of the wait's own instant comes first; the step is then no longer the current one."""
    words = [word for word, _, _ in rules]
    lines = tell(BY_EVENT, event("begin", rules=[]), event("any", at="1h", rules=words))
    assert moves(lines) == expected("1h", rules)
    assert not any("WAIT_ENDED" in line for line in lines)


class Unseen(Moment, frozen=True):
    """The profile is another from now on, without an input that says so: only the next timer will see it."""

    attributes: dict[str, object]

    def happen(self, story: Story) -> None:
        story.individual.profile = Profile(story.profile.profile_id, self.attributes)


def unseen(**attributes: object) -> Moment:
    return Unseen(attributes)


def test_list_order_decides_between_exits() -> None:
    first = "{name: a, criteria: event.name == 'x'}"
    second = "{name: b, criteria: event.name == 'x', to: two}"
    text = """
name: order
type: REAL_TIME
exit_criteria: [JOURNEY]
stages:
  - {name: one, entry: event.name == "begin", milestone: event.name == "m", exit_criteria: [STAGE]}
  - {name: two}
"""
    ways = {
        (f"{first}, {second}", ""): "1h EXITED one by a over exit b",
        (f"{second}, {first}", ""): "1h STAGE_ENTERED two by b over exit a",
        ("", f"{first}, {second}"): "1h EXITED one by a over exit b",
        ("", f"{second}, {first}"): "1h STAGE_ENTERED two by b over exit a",
        (first, second): "1h EXITED one by a over exit b",
        (second, first): "1h STAGE_ENTERED two by b over exit a",
    }
    for (journey, stage), line in ways.items():
        lines = tell(
            text.replace("JOURNEY", journey).replace("STAGE", stage), event("begin"), event("x", at="1h")
        )
        assert moves(lines) == [line]


STALE = """
name: stale
type: REAL_TIME
goal: {criteria: '"goal" in profile.rules'}
exit_criteria: [JOURNEY]
stages:
  - name: one
    entry: event.name == "begin"
    milestone: '"one" in profile.rules'
    exit_criteria: [{name: idle, stale: 1h}, {name: leave, criteria: '"leave" in profile.rules'}]
    steps: [{wait: {duration: 1h}}]
  - name: two
"""


@pytest.mark.parametrize(
    ("journey_exits", "rules", "line"),
    [
        ("", [], "1h EXITED one by idle over step one/1"),
        ("{name: cold, stale: 1h}", [], "1h EXITED one by cold over exit idle, step one/1"),
        ("{name: cold, stale: 1h, to: two}", [], "1h STAGE_ENTERED two by cold over exit idle, step one/1"),
        ("{name: cold, stale: 61m}", [], "1h EXITED one by idle over step one/1"),
        ("{name: cold, stale: 59m}", [], "59m EXITED one by cold"),
        ("", ["leave"], "1h EXITED one by idle over exit leave, step one/1"),
        ("", ["one"], "1h EXITED one by idle over milestone one, step one/1"),
        ("", ["goal"], "1h GOAL_ACHIEVED one over exit idle, step one/1"),
        (
            "{name: out, criteria: '\"out\" in profile.rules'}",
            ["out"],
            "1h EXITED one by out over exit idle, step one/1",
        ),
    ],
)
def test_staleness_stands_in_the_list_like_any_exit(journey_exits: str, rules: list[str], line: str) -> None:
    lines = tell(
        STALE.replace("JOURNEY", journey_exits),
        event("begin"),
        unseen(rules=rules),
        passes("1h"),
        attributes={"rules": []},
    )
    assert moves(lines)[:1] == [line]


def test_an_open_wait_holds_nobody() -> None:
    assert tell(BY_EVENT, event("begin", rules=[]), event("x", at="1m", rules=["one"]))[3:] == [
        "1m WAIT_CANCELED one/1",
        "1m STAGE_ENTERED two",
        "1m WAIT_STARTED two/1 until 1h1m",
    ]


def test_after_a_move_the_same_input_is_not_tested_again() -> None:
    """Stage two's milestone holds with it as well, but only the one move is made where stages are not skipped."""
    lines = tell(
        BY_EVENT + "skip_stages: false",
        event("begin", rules=[]),
        event("x", at="1m", rules=["one", "two"]),
        event("x", at="2m", rules=["one", "two"]),
    )
    assert moves(lines) == ["1m STAGE_ENTERED two", "2m STAGE_ENTERED three"]


def test_an_exit_that_is_also_an_entry_does_not_begin_again() -> None:
    text = BY_EVENT.replace(
        "'\"out\" in event.properties.rules'", 'event.name == "begin" && event.properties.again'
    )
    lines = tell(text, event("begin", rules=[], again=False), event("begin", at="1m", rules=[], again=True))
    assert lines[-1] == "1m EXITED one by out"


def test_a_milestone_that_is_also_an_entry_does_not_begin_again_where_it_leads() -> None:
    text = """
name: twice
type: REAL_TIME
goal: {criteria: event.name == "goal"}
reentry: {mode: ALWAYS}
stages:
  - {name: one, entry: event.name == "begin", milestone: event.name == "begin" && event.properties.again}
  - {name: two}
"""
    lines = tell(text, event("begin", again=False), event("begin", at="1m", again=True))
    assert lines[3:] == ["1m STAGE_ENTERED two", "1m RESTED two"]


def test_what_is_due_with_an_event_does_not_see_the_event() -> None:
    text = BY_EVENT + "skip_stages: false"
    text = text.replace("exit_criteria:\n", "exit_criteria:\n  - {name: cold, stale: 1h}\n", 1)
    lines = tell(text, event("begin", rules=[]), event("x", at="1h", rules=["one", "two"]))
    assert moves(lines) == ["1h STAGE_ENTERED two", "1h EXITED two by cold"]


def test_an_exit_of_the_journey_that_leads_to_a_stage_says_nothing_to_those_who_are_there() -> None:
    lines = tell(
        BY_EVENT,
        event("begin", rules=[]),
        event("x", at="1m", rules=["on"]),
        event("x", at="2m", rules=["on"]),
    )
    assert moves(lines) == ["1m STAGE_ENTERED three by on"]


def test_a_milestone_behind_says_nothing() -> None:
    lines = tell(
        BY_EVENT,
        event("begin", rules=[]),
        event("x", at="1m", rules=["one"]),
        event("x", at="2m", rules=["one"]),
    )
    assert moves(lines) == ["1m STAGE_ENTERED two"]


def test_an_exit_of_another_stage_says_nothing() -> None:
    lines = tell(
        BY_EVENT,
        event("begin", rules=[]),
        event("x", at="1m", rules=["one"]),
        event("x", at="2m", rules=["leave", "ahead"]),
    )
    assert moves(lines) == ["1m STAGE_ENTERED two"]


def test_a_criteria_that_fails_is_false_and_counted() -> None:
    story = play(BY_EVENT, event("begin", rules=[]), event("x", at="1m"))
    assert moves(story.lines) == []
    # The goal, two exits of the journey, two of the stage, two milestones.
    assert story.failures == 7


def test_everything_without_a_receipt_is_taken_back_by_any_move() -> None:
    text = """
name: many
type: REAL_TIME
stages:
  - name: one
    entry: event.name == "begin"
    milestone: event.name == "on"
    exit_criteria: [{name: aside, criteria: event.name == "aside", to: two}, {name: out, stale: 2h}]
    steps:
      - {name: first, activation: {channel: email, template: a}}
      - {name: second, activation: {channel: webhook}}
      - wait: {duration: 1h}
      - {name: third, activation: {channel: email, template: b}}
  - {name: two}
"""
    for moment, reason in (
        (event("on", at="90m"), "milestone one"),
        (event("aside", at="90m"), "exit aside"),
        (passes("2h"), "exit out"),
    ):
        story = play(text, event("begin"), passes("1h"), moment)
        assert [each.reason for each in story.withdrawn] == [reason] * 3
        assert [each.activation_id for each in story.withdrawn] == [
            each.activation_id for each in story.requested
        ]


def test_an_open_version_is_judged_by_its_own_goal() -> None:
    without = BY_EVENT.replace("""goal: {criteria: '"goal" in event.properties.rules'}\n""", "")
    lines = tell(
        without, event("begin", rules=[]), publish(BY_EVENT), event("x", at="1m", rules=["goal", "one"])
    )
    assert moves(lines) == ["1m STAGE_ENTERED two"]
    lines = tell(
        BY_EVENT, event("begin", rules=[]), publish(without), event("x", at="1m", rules=["goal", "one"])
    )
    assert moves(lines) == ["1m GOAL_ACHIEVED one over milestone one"]


def test_a_receipt_leaves_no_line_and_only_the_first_is_of_interest() -> None:
    text = BY_EVENT.replace("steps: [{wait: {duration: 1h}}]", "steps: [{activation: {channel: email}}]", 1)
    story = play(text, event("begin", rules=[]))
    before, timers, lines = story.standing, dict(story.timers), story.lines
    receipt("one/1")(story)
    after = story.standing
    assert after is not before
    receipt("one/1")(story)
    assert story.standing is after
    assert (story.timers, story.lines) == (timers, lines)
    event("x", at="1m", rules=["out"])(story)
    assert story.withdrawn == []


# Rule 5: the current step

MET = JOURNEY.replace(
    "steps: [{wait: {duration: 1h}}]", "steps: [{wait: {condition: '\"met\" in READ', timeout: 1h}}]", 1
)


@pytest.mark.parametrize("rules", SETS, ids=ids)
def test_every_rule_comes_before_a_condition_that_an_event_meets(
    rules: tuple[tuple[str, str, str], ...],
) -> None:
    words = ["met", *(word for word, _, _ in rules)]
    text = MET.replace("READ", "event.properties.rules")
    lines = tell(text, event("begin", rules=[]), event("any", at="10m", rules=words))
    assert moves(lines) == expected("10m", rules, step="one/1")
    assert not any("WAIT_ENDED" in line for line in lines)


@pytest.mark.parametrize("rules", SETS, ids=ids)
def test_every_rule_comes_before_a_condition_that_a_change_meets(
    rules: tuple[tuple[str, str, str], ...],
) -> None:
    words = ["met", *(word for word, _, _ in rules)]
    text = MET.replace("READ", "profile.rules")
    lines = tell(text, event("begin"), profile(at="10m", rules=words), attributes={"rules": []})
    assert moves(lines) == expected("10m", rules, step="one/1")
    assert not any("WAIT_ENDED" in line for line in lines)


@pytest.mark.parametrize("rules", SETS, ids=ids)
def test_every_rule_comes_before_a_timeout(rules: tuple[tuple[str, str, str], ...]) -> None:
    words = [word for word, _, _ in rules]
    text = MET.replace("READ", "profile.rules")
    lines = tell(text, event("begin"), unseen(rules=words), passes("1h"), attributes={"rules": []})
    assert moves(lines)[:1] == expected("1h", rules, step="one/1")
    assert not any("WAIT_ENDED" in line for line in lines)


@pytest.mark.parametrize(
    "moment",
    [
        event("any", at="10m", rules=["met"]),
        profile(at="10m", rules=["met"]),
        profile(at="1h", rules=["met"]),
    ],
)
def test_alone_the_condition_acts(moment: Moment) -> None:
    read = "event.properties.rules" if moment.__class__.__name__ == "Event" else "profile.rules"
    lines = tell(MET.replace("READ", read), event("begin", rules=[]), moment, attributes={"rules": []})
    assert lines[3].partition(" ")[2] == "WAIT_ENDED one/1 met"


def test_an_event_of_the_instant_in_which_a_condition_times_out_meets_it_and_every_rule_comes_before_that() -> (
    None
):
    text = MET.replace("READ", "event.properties.rules")
    begin = event("begin", rules=[])
    assert tell(text, begin, event("any", at="1h", rules=["met"]))[3] == "1h WAIT_ENDED one/1 met"
    assert moves(tell(text, begin, event("any", at="1h", rules=["met", "one"]))) == [
        "1h STAGE_ENTERED two over step one/1"
    ]


def test_a_met_condition_is_no_entry_as_well() -> None:
    """The input has moved somebody; it does not begin anything beside that."""
    text = """
name: met
type: REAL_TIME
goal: {criteria: event.name == "goal"}
reentry: {mode: ALWAYS, while_active: RESTART}
stages:
  - name: one
    entry: event.name == "begin"
    steps: [{wait: {condition: event.name == "begin" && event.properties.met, timeout: 1h}}, {wait: {duration: 1d}}]
"""
    lines = tell(text, event("begin", met=False), event("begin", at="1m", met=True))
    assert lines[3:] == ["1m WAIT_ENDED one/1 met", "1m WAIT_STARTED one/2 until 1d1m"]


def test_staleness_comes_before_a_timeout_of_the_same_instant() -> None:
    text = MET.replace("exit_criteria:\n", "exit_criteria:\n  - {name: cold, stale: 1h}\n", 1).replace(
        "READ", "profile.rules"
    )
    lines = tell(text, event("begin"), passes("1h"), attributes={"rules": []})
    assert lines[3:] == ["1h WAIT_CANCELED one/1", "1h EXITED one by cold over step one/1"]


def test_a_condition_met_in_the_instant_of_staleness_comes_before_it() -> None:
    """The event is first, and what is due in its instant after it: then staleness still ends it."""
    text = MET.replace("exit_criteria:\n", "exit_criteria:\n  - {name: cold, stale: 1h}\n", 1).replace(
        "READ", "event.properties.rules"
    )
    lines = tell(text, event("begin", rules=[]), event("any", at="1h", rules=["met"]))
    assert lines[3:] == ["1h WAIT_ENDED one/1 met", "1h RESTED one", "1h EXITED one by cold"]


def test_a_skipped_stage_is_never_entered_and_its_steps_never_run() -> None:
    lines = tell(BY_EVENT, event("begin", rules=[]), event("x", at="1m", rules=["two"]), passes("3h"))
    assert "1m STAGE_SKIPPED two" in lines
    assert not [line for line in lines if "STAGE_ENTERED two" in line or " two/1" in line]


def test_where_stages_are_not_skipped_only_the_next_milestone_counts() -> None:
    text = BY_EVENT + "skip_stages: false"
    lines = tell(
        text, event("begin", rules=[]), event("x", at="1m", rules=["two"]), event("x", at="2m", rules=["one"])
    )
    assert moves(lines) == ["2m STAGE_ENTERED two"]
