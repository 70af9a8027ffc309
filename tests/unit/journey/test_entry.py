"""Who may begin, who may begin again, and what happens to the input that begins."""

import pytest

from cairn.journey.state import EnrollmentState
from cairn.testing.journeys import Case, event, passes, play, profile, publish, tell

SHORT = """
name: short
type: REAL_TIME
reentry: {REENTRY}
stages:
  - name: only
    entry: event.name == "begin"
    steps: [{activation: {channel: email, template: hello}}]
"""
ONCE = ("ENTERED only", "STAGE_ENTERED only", "ACTIVATION_REQUESTED only/1 through email", "RESTED only")


def passage(at: str) -> tuple[str, ...]:
    """A passage through SHORT, from beginning to end in one moment."""
    return (*(f"{at} {what}" for what in ONCE), f"{at} COMPLETED only")


GOAL = """
name: goal
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
reentry: {REENTRY}
stages:
  - name: only
    entry: event.name in ["begin", "purchase"]
    steps: [{wait: {duration: 3h}}]
"""


def waiting(at: str, until: str) -> tuple[str, ...]:
    return (f"{at} ENTERED only", f"{at} STAGE_ENTERED only", f"{at} WAIT_STARTED only/1 until {until}")


TESTED = """
name: tested
type: REAL_TIME
goal: {criteria: '"goal" in event.properties.rules'}
exit_criteria: [{name: out, criteria: '"out" in event.properties.rules'}]
stages:
  - name: one
    entry: event.name == "begin"
    milestone: '"one" in event.properties.rules'
    exit_criteria: [{name: leave, criteria: '"leave" in event.properties.rules'}]
    steps: [{activation: {channel: email, template: one}}, {wait: {duration: 1h}}]
  - name: two
    milestone: '"two" in event.properties.rules'
    steps: [{wait: {duration: 2h}}]
  - name: three
    steps: [{wait: {duration: 3h}}]
"""
IN = ("0s ENTERED one", "0s STAGE_ENTERED one")

CASES = (
    # Mode
    Case(
        "NEVER: once for ever",
        SHORT.replace("REENTRY", "mode: NEVER"),
        (event("begin"), event("begin", at="30d")),
        (*passage("0s"), "30d ENTRY_REFUSED only because of mode"),
    ),
    Case(
        "the default, and the goal not achieved: again",
        SHORT.replace("{REENTRY}", "{}"),
        (event("begin"), event("begin", at="1h")),
        (*passage("0s"), *passage("1h")),
    ),
    Case(
        "the default, and the goal achieved: not again",
        GOAL.replace("REENTRY", ""),
        (event("begin"), event("purchase", at="1h"), event("begin", at="30d")),
        (
            *waiting("0s", "3h"),
            "1h WAIT_CANCELED only/1",
            "1h GOAL_ACHIEVED only",
            "30d ENTRY_REFUSED only because of mode",
        ),
    ),
    Case(
        "ALWAYS, and the goal achieved: again",
        GOAL.replace("REENTRY", "mode: ALWAYS"),
        (event("begin"), event("purchase", at="1h"), event("begin", at="2h")),
        (
            *waiting("0s", "3h"),
            "1h WAIT_CANCELED only/1",
            "1h GOAL_ACHIEVED only",
            *waiting("2h", "5h"),
        ),
    ),
    Case(
        "still on the way: ignored, without a word",
        GOAL.replace("REENTRY", "mode: ALWAYS"),
        (event("begin"), event("begin", at="1h")),
        waiting("0s", "3h"),
    ),
    # Cooldown
    Case(
        "a cooldown counts from the last entry, and is over when it is over",
        SHORT.replace("REENTRY", "mode: ALWAYS, cooldown: 7d"),
        (event("begin"), event("begin", at="6d"), event("begin", at="7d"), event("begin", at="8d")),
        (
            *passage("0s"),
            "6d ENTRY_REFUSED only because of cooldown",
            *passage("7d"),
            "8d ENTRY_REFUSED only because of cooldown",
        ),
    ),
    Case(
        "no cooldown: an event that is older than the last entry is no reason to refuse",
        SHORT.replace("REENTRY", "mode: ALWAYS"),
        (event("begin", at="1h"), event("begin", at="30m")),
        (*passage("1h"), *passage("30m")),
    ),
    Case(
        "a late entry does not shorten the cooldown of a later one",
        SHORT.replace("REENTRY", "mode: ALWAYS"),
        (
            event("begin", at="2h"),
            event("begin", at="1h"),
            publish(SHORT.replace("REENTRY", "mode: ALWAYS, cooldown: 1h")),
            event("begin", at="2h30m"),
        ),
        (*passage("2h"), *passage("1h"), "2h30m ENTRY_REFUSED only because of cooldown"),
    ),
    # Maximum
    Case(
        "a maximum holds for ever",
        SHORT.replace("REENTRY", "mode: ALWAYS, max_entries: 2"),
        (event("begin"), event("begin", at="1h"), event("begin", at="2h"), event("begin", at="300d")),
        (
            *passage("0s"),
            *passage("1h"),
            "2h ENTRY_REFUSED only because of maximum",
            "300d ENTRY_REFUSED only because of maximum",
        ),
    ),
    Case(
        "mode is named before cooldown, cooldown before maximum",
        SHORT.replace("REENTRY", "mode: NEVER, cooldown: 1d, max_entries: 1"),
        (
            event("begin"),
            event("begin", at="1h"),
            publish(SHORT.replace("REENTRY", "mode: ALWAYS, cooldown: 1d, max_entries: 1")),
            event("begin", at="2h"),
            event("begin", at="2d"),
        ),
        (
            *passage("0s"),
            "1h ENTRY_REFUSED only because of mode",
            "2h ENTRY_REFUSED only because of cooldown",
            "2d ENTRY_REFUSED only because of maximum",
        ),
    ),
    # The goal's memory
    Case(
        "an input that meets the goal as well begins nothing, and nothing is refused",
        GOAL.replace("REENTRY", "mode: ALWAYS"),
        (event("purchase"),),
        (),
    ),
    Case(
        "a purchase overtakes its cart by twenty minutes",
        GOAL.replace("REENTRY", "mode: ALWAYS"),
        (event("purchase", at="20m"), event("begin", at="0s")),
        ("0s ENTRY_REFUSED only because of goal",),
    ),
    Case(
        "a cart after the purchase begins, in the very same instant too",
        GOAL.replace("REENTRY", "mode: ALWAYS"),
        (event("purchase", at="20m"), event("begin", at="20m")),
        waiting("20m", "3h20m"),
    ),
    Case(
        "an older purchase that arrives later does not move the memory back",
        GOAL.replace("REENTRY", "mode: ALWAYS"),
        (event("purchase", at="2h"), event("purchase", at="1h"), event("begin", at="90m")),
        ("1h30m ENTRY_REFUSED only because of goal",),
    ),
    Case(
        "a goal is remembered for twenty-four days: an entry older than it by that much is refused",
        GOAL.replace("REENTRY", "mode: ALWAYS"),
        (event("purchase", at="25d"), event("begin", at="1d")),
        ("1d ENTRY_REFUSED only because of goal",),
    ),
    Case(
        "one that is older still begins",
        GOAL.replace("REENTRY", "mode: ALWAYS"),
        (event("purchase", at="25d1s"), event("begin", at="1d")),
        (*waiting("1d", "1d3h"), "1d3h WAIT_ENDED only/1", "1d3h RESTED only"),
    ),
    Case(
        "the goal that ended an enrollment is remembered as well",
        GOAL.replace("REENTRY", "mode: ALWAYS"),
        (event("begin"), event("purchase", at="2h"), event("begin", at="1h")),
        (
            *waiting("0s", "3h"),
            "2h WAIT_CANCELED only/1",
            "2h GOAL_ACHIEVED only",
            "1h ENTRY_REFUSED only because of goal",
        ),
    ),
    Case(
        "a change of the profile meets the goal: remembered",
        GOAL.replace("REENTRY", "mode: ALWAYS").replace('event.name == "purchase"', "profile.bought"),
        (profile(at="20m", bought=True), profile(at="21m", bought=False), event("begin", at="10m")),
        ("10m ENTRY_REFUSED only because of goal",),
    ),
    # At rest in the last stage
    Case(
        "at rest in the last stage: begins again, the old one is completed",
        GOAL.replace("REENTRY", "mode: ALWAYS"),
        (event("begin"), passes("3h"), event("begin", at="5h")),
        (
            *waiting("0s", "3h"),
            "3h WAIT_ENDED only/1",
            "3h RESTED only",
            "5h COMPLETED only",
            *waiting("5h", "8h"),
        ),
    ),
    Case(
        "at rest in the last stage, but re-entry is refused: still at rest",
        GOAL.replace("REENTRY", "mode: NEVER"),
        (event("begin"), passes("3h"), event("begin", at="5h"), event("purchase", at="6h")),
        (
            *waiting("0s", "3h"),
            "3h WAIT_ENDED only/1",
            "3h RESTED only",
            "5h ENTRY_REFUSED only because of mode",
            "6h GOAL_ACHIEVED only",
        ),
    ),
    Case(
        "at rest in a stage that is not the last: still on the way",
        TESTED.replace("type:", "reentry: {mode: ALWAYS}\ntype:"),
        (event("begin", rules=[]), passes("1h"), event("begin", at="5h", rules=[])),
        (
            *IN,
            "0s ACTIVATION_REQUESTED one/1 through email",
            "0s WAIT_STARTED one/2 until 1h",
            "1h WAIT_ENDED one/2",
            "1h RESTED one",
        ),
    ),
    Case(
        "who begins again does so in the newest version",
        GOAL.replace("REENTRY", "mode: ALWAYS"),
        (
            event("begin"),
            passes("3h"),
            publish(GOAL.replace("REENTRY", "mode: ALWAYS").replace("3h", "9h")),
            event("begin", at="5h"),
        ),
        (
            *waiting("0s", "3h"),
            "3h WAIT_ENDED only/1",
            "3h RESTED only",
            "5h COMPLETED only",
            *waiting("5h", "14h"),
        ),
    ),
    # The input that begins
    Case(
        "an entry that meets the goal: nothing",
        TESTED,
        (event("begin", rules=["goal", "out", "leave", "one", "two"]),),
        (),
    ),
    Case(
        "an entry that meets an exit of the journey: in and out, and no step is run",
        TESTED,
        (event("begin", rules=["out", "leave", "one"]),),
        (*IN, "0s EXITED one by out over exit leave, milestone one"),
    ),
    Case(
        "an entry that meets an exit of the first stage: in and out, and no step is run",
        TESTED,
        (event("begin", rules=["leave", "two"]),),
        (*IN, "0s EXITED one by leave over milestone two"),
    ),
    Case(
        "an entry that meets the milestone: straight on, and the first stage's steps are not run",
        TESTED,
        (event("begin", rules=["one"]),),
        (*IN, "0s STAGE_ENTERED two", "0s WAIT_STARTED two/1 until 2h"),
    ),
    Case(
        "an entry that meets a later milestone: further on, with the stage between skipped",
        TESTED,
        (event("begin", rules=["one", "two"]),),
        (
            *IN,
            "0s STAGE_SKIPPED two",
            "0s STAGE_ENTERED three over milestone one",
            "0s WAIT_STARTED three/1 until 3h",
        ),
    ),
    Case(
        "a change of the profile begins as well",
        GOAL.replace("REENTRY", "mode: ALWAYS").replace(
            'event.name in ["begin", "purchase"]', "profile.seats > 5"
        ),
        (profile(at="1m", seats=5), profile(at="2m", seats=6), profile(at="3m", seats=7)),
        waiting("2m", "3h2m"),
    ),
    Case(
        "a profile never described is an empty one: criteria that read it fail, and are false",
        GOAL.replace("REENTRY", "").replace('event.name in ["begin", "purchase"]', "profile.seats > 5"),
        (event("begin"),),
        (),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_entry(case: Case) -> None:
    assert case.told() == list(case.then)


def test_entry_criteria_of_a_running_journey_see_the_event_that_began() -> None:
    text = """
name: carts
type: REAL_TIME
goal: {criteria: 'event.name == "paid" && event.properties.cart == entry.properties.cart'}
stages: [{name: only, entry: event.name == "cart", steps: [{wait: {duration: 1d}}]}]
"""
    story = play(text, event("cart", cart="a"), event("paid", at="1h", cart="b"))
    assert story.state is EnrollmentState.WAITING
    event("paid", at="2h", cart="a")(story)
    assert story.state is EnrollmentState.GOAL_ACHIEVED


def test_two_changes_of_one_instant_begin_two_enrollments_that_are_told_apart() -> None:
    """Else the second message would be taken for the first, sent again."""
    text = SHORT.replace("REENTRY", "mode: ALWAYS").replace('event.name == "begin"', "profile.level > 0")
    story = play(text, profile(level=1), profile(level=2))
    first, second = story.requested
    assert first.enrollment_id != second.enrollment_id
    assert first.activation_id != second.activation_id


@pytest.mark.parametrize(
    ("journey_exits", "stage_exits", "ends"),
    [
        ("", "", True),
        ("{name: on, criteria: event.name == 'x', to: last}", "", True),
        ("{name: on, stale: 1d, to: last}", "", True),
        ("{name: out, criteria: event.name == 'x'}", "", False),
        ("{name: out, stale: 2d}", "", False),
        ("", "{name: out, criteria: event.name == 'x'}", False),
    ],
)
def test_at_rest_in_the_last_stage_it_is_completed_when_nothing_is_left_to_wait_for(
    journey_exits: str, stage_exits: str, ends: bool
) -> None:
    text = f"""
name: rest
type: REAL_TIME
exit_criteria: [{journey_exits}]
stages:
  - {{name: first, entry: event.name == "begin", milestone: event.name == "on"}}
  - {{name: last, exit_criteria: [{stage_exits}]}}
"""
    story = play(text, event("begin"), event("on", at="1h"))
    assert (story.state is EnrollmentState.COMPLETED) is ends
    assert bool(story.timers) is not ends


@pytest.mark.parametrize(
    ("exits", "line"),
    [
        ("", "24d COMPLETED only"),
        ("{name: out, criteria: event.name == 'x'}", "24d COMPLETED only"),
        ("{name: cold, stale: 2d}", "2d EXITED only by cold"),
    ],
)
def test_how_long_it_rests(exits: str, line: str) -> None:
    text = f"""
name: rest
type: REAL_TIME
goal: {{criteria: event.name == "goal"}}
exit_criteria: [{exits}]
stages: [{{name: only, entry: event.name == "begin"}}]
"""
    assert tell(text, event("begin"), passes("100d"))[-1] == line


def test_rest_counts_from_when_it_came_to_rest() -> None:
    text = GOAL.replace("REENTRY", "")
    assert tell(text, event("begin"), event("x", at="20d"), passes("20d"))[-1] == "24d3h COMPLETED only"
