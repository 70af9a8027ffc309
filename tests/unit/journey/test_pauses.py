"""Pause, resume, end: what happens meanwhile, what is held, what ages and what does not."""

import pytest

from cairn.journey.state import EnrollmentState
from cairn.testing.journeys import (
    Case,
    Moment,
    alarm,
    end,
    event,
    passes,
    pause,
    play,
    profile,
    publish,
    resume,
    tell,
)

PAUSED = """
name: paused
type: REAL_TIME
goal: {criteria: event.name == "goal"}
reentry: {mode: ALWAYS}
exit_criteria: [{name: out, criteria: event.name == "out"}, {name: cold, stale: 10d}]
stages:
  - name: one
    entry: event.name == "begin"
    milestone: event.name == "on"
    steps: [{wait: {duration: 3d}}, {activation: {channel: email}}]
  - name: two
    exit_criteria: [{name: idle, stale: 5d}]
    steps:
      - wait: {condition: event.name == "login", timeout: 4d, met: [{activation: {channel: log}}]}
      - activation: {channel: email}
"""
BEGUN = ("0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 3d")


def sent(at: str) -> tuple[str, ...]:
    return (f"{at} WAIT_ENDED one/1", f"{at} ACTIVATION_REQUESTED one/2 through email", f"{at} RESTED one")


ON = event("on", at="1d")
MOVED = (*BEGUN, "1d WAIT_CANCELED one/1", "1d STAGE_ENTERED two", "1d WAIT_STARTED two/1 until 5d")

CALENDAR = """
name: calendar
type: REAL_TIME
stages:
  - name: one
    entry: event.name == "begin"
    steps: [{wait: {until: "2026-01-04T00:00:00Z"}}, {activation: {channel: email}}]
"""
DECIDES = """
name: decides
type: REAL_TIME
goal: {criteria: event.name == "goal"}
stages:
  - name: one
    entry: event.name == "begin"
    milestone: event.name == "on"
    steps: [{wait: {duration: 3d}}]
  - name: two
    steps:
      - decision:
          branches:
            - {name: big, criteria: event.properties.size > 5}
            - {name: small, criteria: event.properties.size > 0}
"""

CASES = (
    # FREEZE
    Case(
        "FREEZE: a three-day wait paused after one has two left",
        PAUSED,
        (event("begin"), passes("1d"), pause(), passes("7d"), resume(), passes("2d")),
        (*BEGUN, *sent("10d")),
    ),
    Case(
        "FREEZE is the default, and a pause of no time changes nothing",
        PAUSED,
        (event("begin"), passes("1d"), pause(), resume(), passes("2d")),
        (*BEGUN, *sent("3d")),
    ),
    Case(
        "FREEZE: two pauses add up",
        PAUSED,
        (
            event("begin"),
            pause(),
            passes("1d"),
            resume(),
            passes("1d"),
            pause(),
            passes("2d"),
            resume(),
            passes("2d"),
        ),
        (*BEGUN, *sent("6d")),
    ),
    Case(
        "FREEZE: a moment of the calendar stays; past by then, it is over at the resume",
        CALENDAR,
        (event("begin"), passes("1d"), pause(), passes("5d"), resume()),
        (
            "0s ENTERED one",
            "0s STAGE_ENTERED one",
            "0s WAIT_STARTED one/1 until 3d",
            "6d WAIT_ENDED one/1",
            "6d ACTIVATION_REQUESTED one/2 through email",
            "6d RESTED one",
            "6d COMPLETED one",
        ),
    ),
    Case(
        "FREEZE: a moment of the calendar that is still to come is kept",
        CALENDAR,
        (event("begin"), passes("1d"), pause(), passes("1d"), resume(), passes("1d")),
        (
            "0s ENTERED one",
            "0s STAGE_ENTERED one",
            "0s WAIT_STARTED one/1 until 3d",
            "3d WAIT_ENDED one/1",
            "3d ACTIVATION_REQUESTED one/2 through email",
            "3d RESTED one",
            "3d COMPLETED one",
        ),
    ),
    Case(
        "FREEZE: staleness and timeouts are shifted",
        PAUSED,
        (event("begin"), ON, passes("1d"), pause(), passes("30d"), resume(), passes("3d"), passes("1d")),
        (
            *MOVED,
            "35d WAIT_ENDED two/1 timed out",
            "35d ACTIVATION_REQUESTED two/2 through email",
            "35d RESTED two",
            "36d ACTIVATION_WITHDRAWN two/2",
            "36d EXITED two by idle",
        ),
    ),
    # What acts while paused
    Case(
        "while paused the goal acts",
        PAUSED,
        (event("begin"), passes("1d"), pause(), passes("1d"), event("goal")),
        (*BEGUN, "2d WAIT_CANCELED one/1", "2d GOAL_ACHIEVED one"),
    ),
    Case(
        "while paused an exit acts",
        PAUSED,
        (event("begin"), passes("1d"), pause(), passes("1d"), event("out")),
        (*BEGUN, "2d WAIT_CANCELED one/1", "2d EXITED one by out"),
    ),
    Case(
        "while paused a milestone moves the position; the steps wait for the resume",
        PAUSED,
        (event("begin"), passes("1d"), pause(), passes("1d"), event("on"), passes("1d"), resume()),
        (*BEGUN, "2d WAIT_CANCELED one/1", "2d STAGE_ENTERED two", "3d WAIT_STARTED two/1 until 7d"),
    ),
    Case(
        "while paused no step is run: a met condition goes on at the resume",
        PAUSED,
        (event("begin"), ON, pause(), passes("1d"), event("login"), passes("1d"), resume()),
        (
            *MOVED,
            "2d WAIT_ENDED two/1 met",
            "3d ACTIVATION_REQUESTED two/1/met/1 through log",
            "3d ACTIVATION_REQUESTED two/2 through email",
            "3d RESTED two",
        ),
    ),
    Case(
        "what was held sees at the resume the event that was at hand",
        DECIDES,
        (event("begin"), pause(), event("on", at="1d", size=3), passes("1d"), resume()),
        (
            "0s ENTERED one",
            "0s STAGE_ENTERED one",
            "0s WAIT_STARTED one/1 until 3d",
            "1d WAIT_CANCELED one/1",
            "1d STAGE_ENTERED two",
            "2d BRANCH_TAKEN two/1 small",
            "2d RESTED two",
        ),
    ),
    # RUN
    Case(
        "RUN: timers age; what they would do is held, and done at the resume",
        PAUSED,
        (event("begin"), passes("1d"), pause("RUN"), passes("3d"), resume()),
        (*BEGUN, "3d WAIT_ENDED one/1", "4d ACTIVATION_REQUESTED one/2 through email", "4d RESTED one"),
    ),
    Case(
        "RUN: resumed before it is due, as if nothing had been",
        PAUSED,
        (event("begin"), passes("1d"), pause("RUN"), passes("1d"), resume(), passes("1d")),
        (*BEGUN, *sent("3d")),
    ),
    Case(
        "RUN: staleness acts meanwhile",
        PAUSED,
        (event("begin"), passes("1d"), pause("RUN"), passes("20d"), resume()),
        (*BEGUN, "3d WAIT_ENDED one/1", "10d EXITED one by cold"),
    ),
    # DROP
    Case(
        "DROP: open enrollments end",
        PAUSED,
        (event("begin"), passes("1d"), pause("DROP"), passes("1d"), resume(), passes("5d")),
        (*BEGUN, "1d WAIT_CANCELED one/1", "1d REMOVED one"),
    ),
    Case(
        "DROP: what was asked for is withdrawn",
        PAUSED,
        (event("begin"), passes("3d"), pause("DROP")),
        (*BEGUN, *sent("3d"), "3d ACTIVATION_WITHDRAWN one/2", "3d REMOVED one"),
    ),
    # Entries
    Case(
        "an entry during a pause begins at the resume",
        PAUSED,
        (pause(), event("begin", at="1d"), passes("1d"), resume(), passes("3d")),
        (
            "2d ENTERED one",
            "2d STAGE_ENTERED one",
            "2d WAIT_STARTED one/1 until 5d",
            *sent("5d"),
        ),
    ),
    Case(
        "and only one, the first",
        PAUSED,
        (pause(), event("begin", at="1d"), event("begin", at="2d"), resume()),
        ("2d ENTERED one", "2d STAGE_ENTERED one", "2d WAIT_STARTED one/1 until 5d"),
    ),
    Case(
        "a goal that was met after it: refused at the resume, at its own time",
        PAUSED,
        (pause(), event("begin", at="1d"), event("goal", at="2d"), passes("1d"), resume()),
        ("1d ENTRY_REFUSED one because of goal",),
    ),
    Case(
        "an entry during a pause with DROP is remembered as well",
        PAUSED,
        (event("begin"), pause("DROP"), event("begin", at="1d"), passes("1d"), resume()),
        (
            *BEGUN,
            "0s WAIT_CANCELED one/1",
            "0s REMOVED one",
            "2d ENTERED one",
            "2d STAGE_ENTERED one",
            "2d WAIT_STARTED one/1 until 5d",
        ),
    ),
    Case(
        "an entry that the rules refuse is refused when it comes",
        PAUSED.replace("mode: ALWAYS", "mode: NEVER"),
        (event("begin"), event("out", at="1h"), pause(), event("begin", at="1d"), passes("1d"), resume()),
        (*BEGUN, "1h WAIT_CANCELED one/1", "1h EXITED one by out", "1d ENTRY_REFUSED one because of mode"),
    ),
    Case(
        "an entry that meets the milestone too: straight on, at the resume",
        PAUSED.replace('milestone: event.name == "on"', "milestone: event.properties.big == true"),
        (pause(), event("begin", at="1d", big=True), passes("1d"), resume()),
        (
            "2d ENTERED one",
            "2d STAGE_ENTERED one",
            "2d STAGE_ENTERED two",
            "2d WAIT_STARTED two/1 until 6d",
        ),
    ),
    # End
    Case(
        "ended: open enrollments drain, nobody begins",
        PAUSED,
        (event("begin"), passes("1d"), end(), event("begin"), passes("2d"), passes("10d"), event("begin")),
        (*BEGUN, *sent("3d"), "10d ACTIVATION_WITHDRAWN one/2", "10d EXITED one by cold"),
    ),
    Case(
        "ended: open enrollments are removed",
        PAUSED,
        (event("begin"), passes("1d"), end(remove=True), passes("5d"), event("begin")),
        (*BEGUN, "1d WAIT_CANCELED one/1", "1d REMOVED one"),
    ),
    Case(
        "the end of a journey ends its pause",
        PAUSED,
        (event("begin"), passes("1d"), pause(), passes("1d"), end(), passes("2d")),
        (*BEGUN, *sent("4d")),
    ),
    Case(
        "what was remembered when a journey ends is not begun",
        PAUSED,
        (pause(), event("begin", at="1d"), passes("1d"), end(), passes("5d")),
        (),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_life(case: Case) -> None:
    case.check()


JUMPS = """
name: from
type: REAL_TIME
reentry: {mode: ALWAYS}
stages: [{name: only, entry: event.name == "begin", steps: [{wait: {duration: 1h}}, {jump: {journey: into}}]}]
---
name: into
type: REAL_TIME
stages: [{name: hello, entry: event.name == "never", steps: [{activation: {channel: log}}]}]
"""


def test_a_jump_into_a_paused_journey_begins_at_the_resume() -> None:
    lines = tell(JUMPS, event("begin"), pause(journey="into"), passes("2h"), resume("into"))
    assert [line for line in lines if line.startswith("into")] == [
        "into 2h ENTERED hello",
        "into 2h STAGE_ENTERED hello",
        "into 2h ACTIVATION_REQUESTED hello/1 through log",
        "into 2h RESTED hello",
        "into 2h COMPLETED hello",
    ]


def test_a_jump_into_a_journey_that_has_ended_is_refused() -> None:
    lines = tell(JUMPS, event("begin"), end(journey="into"), passes("2h"))
    assert lines[-2:] == ["from 1h JUMPED only/2 to into", "into 1h ENTRY_REFUSED hello because of ended"]


def test_a_paused_journey_takes_nothing_from_another() -> None:
    lines = tell(JUMPS, event("begin"), pause(journey="into"), passes("2h"))
    assert lines[-1] == "from 1h JUMPED only/2 to into"


@pytest.mark.parametrize("mode", ["FREEZE", "RUN", "DROP"])
@pytest.mark.parametrize(
    "meanwhile",
    [
        (),
        (passes("1d"), event("on")),
        (passes("1d"), event("goal")),
        (passes("6d"), event("login")),
        (event("begin"),),
        (passes("1d"), profile(city="Kyoto"), passes("12d")),
    ],
)
def test_it_makes_no_difference_whether_anybody_was_told_of_a_pause(
    mode: str, meanwhile: tuple[Moment, ...]
) -> None:
    """The state says what a pause does to it; who was never woken learns of it with the next input."""
    moments = (pause(mode), *meanwhile, passes("2d"), resume())
    told = tell(PAUSED, event("begin"), passes("1d"), *moments, passes("1h"), event("out"), passes("20d"))
    silent = tell(
        PAUSED,
        event("begin"),
        passes("1d"),
        alarm(on=False),
        *moments,
        passes("1h"),
        event("out"),
        alarm(on=True),
        passes("20d"),
    )
    assert silent == told


def test_a_wake_up_while_frozen_does_nothing() -> None:
    story = play(PAUSED, event("begin"), ON, pause(), passes("1d"), event("login"))
    assert story.state is EnrollmentState.HELD
    lines = story.lines
    passes("20d")(story)
    assert story.lines == lines
    assert story.state is EnrollmentState.HELD
    resume()(story)
    assert story.state is EnrollmentState.RESTING
    assert len(story.timers) == 1


def test_a_message_that_was_held_says_what_is_so_at_the_resume() -> None:
    story = play(PAUSED, event("begin"), pause("RUN"), passes("4d"), profile(city="Kyoto"), resume())
    assert [each.attributes for each in story.requested] == [{"city": "Kyoto"}]


def test_what_was_remembered_begins_in_the_newest_version() -> None:
    lines = tell(PAUSED, pause(), event("begin", at="1d"), publish(PAUSED.replace("3d", "9d")), resume())
    assert lines[-1] == "1d WAIT_STARTED one/1 until 10d"


def test_an_end_that_removes_lets_nothing_act_that_a_freeze_had_held() -> None:
    """A moment of the calendar that passed while the clock stood still is overdue at the end, and must not send."""
    frozen = """
name: frozen
type: REAL_TIME
stages:
  - name: one
    entry: event.name == "begin"
    steps:
      - wait: {duration: 1h}
      - wait: {until: "2026-01-01T03:00:00Z"}
      - activation: {channel: email, template: late}
"""
    lines = tell(frozen, event("begin"), passes("2h"), pause(), passes("2h"), end(remove=True), passes("1h"))
    assert lines[-2:] == ["4h WAIT_CANCELED one/2", "4h REMOVED one"]
    assert not any("ACTIVATION_REQUESTED" in each for each in lines)
