"""`while_active: RESTART`: a new entry event ends the enrollment that is on its way, and begins another."""

import pytest

from cairn.journey.state import EnrollmentState
from cairn.testing.journeys import Case, event, passes, play, publish, receipt, tell

RESTART = """
name: last
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
reentry: {mode: MODE, while_active: RESTART}
stages:
  - name: one
    entry: event.name == "add"
    milestone: event.name == "on"
    steps: [{wait: {duration: 3h}}, {activation: {channel: email}}]
  - name: two
"""


def added(at: str, until: str) -> tuple[str, ...]:
    return (f"{at} ENTERED one", f"{at} STAGE_ENTERED one", f"{at} WAIT_STARTED one/1 until {until}")


def restarted(at: str, until: str) -> tuple[str, ...]:
    return (f"{at} WAIT_CANCELED one/1", f"{at} RESTARTED one", *added(at, until))


REMINDED = ("WAIT_ENDED one/1", "ACTIVATION_REQUESTED one/2 through email", "RESTED one")

RESTARTS = (
    Case(
        "three hours after the last item was added",
        RESTART.replace("MODE", "ALWAYS"),
        (event("add"), event("add", at="1h"), event("add", at="2h"), passes("3h")),
        (
            *added("0s", "3h"),
            *restarted("1h", "4h"),
            *restarted("2h", "5h"),
            *(f"5h {what}" for what in REMINDED),
        ),
    ),
    Case(
        "free of mode",
        RESTART.replace("MODE", "NEVER"),
        (event("add"), event("add", at="1h")),
        (*added("0s", "3h"), *restarted("1h", "4h")),
    ),
    Case(
        "free of cooldown, and not an entry from which one counts",
        RESTART.replace("MODE", "ALWAYS, cooldown: 5h"),
        (
            event("add"),
            event("add", at="2h"),
            event("purchase", at="3h"),
            event("add", at="4h"),
            event("add", at="5h"),
        ),
        (
            *added("0s", "3h"),
            *restarted("2h", "5h"),
            "3h WAIT_CANCELED one/1",
            "3h GOAL_ACHIEVED one",
            "4h ENTRY_REFUSED one because of cooldown",
            *added("5h", "8h"),
        ),
    ),
    Case(
        "free of the maximum, and not counted for it",
        RESTART.replace("MODE", "ALWAYS, max_entries: 2"),
        (
            event("add"),
            event("add", at="1h"),
            event("add", at="2h"),
            event("purchase", at="3h"),
            event("add", at="4h"),
            event("purchase", at="5h"),
            event("add", at="6h"),
        ),
        (
            *added("0s", "3h"),
            *restarted("1h", "4h"),
            *restarted("2h", "5h"),
            "3h WAIT_CANCELED one/1",
            "3h GOAL_ACHIEVED one",
            *added("4h", "7h"),
            "5h WAIT_CANCELED one/1",
            "5h GOAL_ACHIEVED one",
            "6h ENTRY_REFUSED one because of maximum",
        ),
    ),
    Case(
        "what was asked for and has no receipt yet is withdrawn",
        RESTART.replace("MODE", "ALWAYS"),
        (event("add"), passes("3h"), event("add", at="4h")),
        (
            *added("0s", "3h"),
            *(f"3h {what}" for what in REMINDED),
            "4h ACTIVATION_WITHDRAWN one/2",
            "4h RESTARTED one",
            *added("4h", "7h"),
        ),
    ),
    Case(
        "what has been sent is not",
        RESTART.replace("MODE", "ALWAYS"),
        (event("add"), passes("3h"), receipt("one/2"), event("add", at="4h")),
        (*added("0s", "3h"), *(f"3h {what}" for what in REMINDED), "4h RESTARTED one", *added("4h", "7h")),
    ),
    Case(
        "at rest in the last stage it is completed, and begins under the rules",
        RESTART.replace("MODE", "ALWAYS, cooldown: 1d"),
        (event("add"), event("on", at="1h"), event("add", at="2h"), event("add", at="1d")),
        (
            *added("0s", "3h"),
            "1h WAIT_CANCELED one/1",
            "1h STAGE_ENTERED two",
            "1h RESTED two",
            "2h ENTRY_REFUSED one because of cooldown",
            "1d COMPLETED two",
            *added("1d", "1d3h"),
        ),
    ),
    Case(
        "an input that moves is not an entry as well",
        RESTART.replace("MODE", "ALWAYS").replace('event.name == "on"', "event.properties.on == true"),
        (event("add"), event("add", at="1h", on=True)),
        (*added("0s", "3h"), "1h WAIT_CANCELED one/1", "1h STAGE_ENTERED two", "1h RESTED two"),
    ),
    Case(
        "an event of before a goal that was met meanwhile does not begin anew",
        RESTART.replace("MODE", "ALWAYS"),
        (event("purchase", at="2h"), event("add", at="3h"), event("add", at="1h")),
        (*added("3h", "6h"), "1h ENTRY_REFUSED one because of goal"),
    ),
    Case(
        "a late one begins anew at the old one's time",
        RESTART.replace("MODE", "ALWAYS"),
        (event("add", at="2h"), event("add", at="1h")),
        (
            *added("2h", "5h"),
            "2h WAIT_CANCELED one/1",
            "2h RESTARTED one",
            "2h ENTERED one late by 1h",
            "2h STAGE_ENTERED one",
            "2h WAIT_STARTED one/1 until 5h",
        ),
    ),
)


@pytest.mark.parametrize("case", RESTARTS, ids=lambda case: case.words)
def test_restart(case: Case) -> None:
    case.check()


def test_a_restart_takes_the_newest_version() -> None:
    text = RESTART.replace("MODE", "ALWAYS")
    lines = tell(text, event("add"), publish(text.replace("3h", "9h")), event("add", at="1h"))
    assert lines[-1] == "1h WAIT_STARTED one/1 until 10h"


def test_the_messages_of_a_restart_are_told_apart() -> None:
    text = RESTART.replace("MODE", "ALWAYS").replace("{wait: {duration: 3h}}, ", "")
    story = play(text, event("add"), event("add", at="1h"))
    first, second = story.requested
    assert first.activation_id != second.activation_id
    assert story.state is EnrollmentState.RESTING
