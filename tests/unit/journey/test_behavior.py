"""What a profile has done, and the segments it is in, as criteria of journeys read them: the event at hand counted."""

import pytest

from cairn.journey.behavior import LATENESS_US, MOST_KEPT
from cairn.journey.limits import DAY_US
from cairn.journey.simulation import SimulatedEvent, live_of, simulate
from cairn.journey.state import Kind
from cairn.testing.journeys import Case, Event, event, passes, play, profile, publish, read_journey, tell

ENTRY = """
name: behavior
type: REAL_TIME
reentry: {mode: NEVER}
stages: [{name: only, entry: 'CRITERIA'}]
"""
IN = ("ENTERED only", "STAGE_ENTERED only", "RESTED only", "COMPLETED only")


def entered(at: str) -> tuple[str, ...]:
    return tuple(f"{at} {what}" for what in IN)


def logins(*hours: int, **properties: object) -> tuple[Event, ...]:
    return tuple(event("login", at=f"{hour}h", **properties) for hour in hours)


# In words, the criteria of an entry, what happens, and when it enters (None: never).
CRITERIA = (
    ("count, the event at hand counted", 'count("login") == 3', logins(1, 2, 3), "3h"),
    ("count of another name", 'count("login") == 3', (*logins(1, 2), event("other", at="3h")), None),
    ("count in a window: what is older has gone", 'count("login", duration("2h")) == 3', logins(1, 2, 3), None),
    ("count in a window that is long enough", 'count("login", duration("2h0m1s")) == 3', logins(1, 2, 3), "3h"),
    ("count on another event's arrival", 'event.name == "go" && count("login") == 2', (*logins(1, 2), event("go", at="3h")), "3h"),
    ("nothing yet counts zero", 'event.name == "go" && count("login") == 0', (event("go", at="1h"),), "1h"),
    ("sum", 'sum("login", "points", duration("24h")) >= 6.0', logins(1, 2, 3, points=2), "3h"),
    ("sum in a window", 'sum("login", "points", duration("90m")) >= 6.0', logins(1, 2, 3, points=2), None),
    ("what has no number adds nothing", 'sum("login", "points", duration("24h")) >= 2.0', (*logins(1, points="2"), *logins(2), *logins(3, points=True)), None),
    ("first", 'event.name == "go" && first("login").properties.n == 1.0', (*logins(1, n=1), *logins(2, n=2), event("go", at="3h")), "3h"),
    ("last", 'event.name == "go" && last("login").properties.n == 2.0', (*logins(1, n=1), *logins(2, n=2), event("go", at="3h")), "3h"),
    ("last of those that came late is the one that happened last", 'event.name == "go" && last("login").properties.n == 2.0', (*logins(2, n=2), *logins(1, n=1), event("go", at="3h")), "3h"),
    ("first in a window", 'event.name == "go" && first("login", duration("90m")).properties.n == 2.0', (*logins(1, n=1), *logins(2, n=2), event("go", at="3h")), "3h"),
    ("last in a window: older than that is none, and fails", 'event.name == "go" && last("login", duration("30m")).properties.n == 2.0', (*logins(1, 2, n=2), event("go", at="3h")), None),
    ("first of what there never was fails, and is false", 'event.name == "go" && first("login").properties.n == 1.0', (event("go", at="1h"),), None),
    ("the event at hand is the last", 'last("login").properties.n == 7.0', logins(1, n=7), "1h"),
    ("the time of the last", 'event.name == "go" && event.occur_time - last("login").occur_time > duration("1h")', (*logins(1), event("go", at="3h")), "3h"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("criteria", "moments", "at"), [each[1:] for each in CRITERIA], ids=[each[0] for each in CRITERIA]
)
def test_entry(criteria: str, moments: tuple[Event, ...], at: str | None) -> None:
    lines = tell(ENTRY.replace("CRITERIA", criteria), *moments, passes("1h"))
    assert lines == list(entered(at) if at else ())


USES = """
name: uses
type: REAL_TIME
goal: {criteria: 'sum("order", "total", duration("720h")) >= 100.0'}
exit_criteria: [{name: idle, criteria: 'event.name == "look" && count("look", duration("24h")) > 2'}]
stages:
  - name: first
    entry: event.name == "signup"
    milestone: count("login", duration("168h")) >= 5
    steps:
      - wait: {duration: 1d}
      - decision:
          branches:
            - {name: eager, criteria: count("login") > 1, steps: [{activation: {channel: email}}]}
            - {name: some, criteria: count("login") > 0}
  - {name: active}
"""
SIGNED_UP = ("0s ENTERED first", "0s STAGE_ENTERED first", "0s WAIT_STARTED first/1 until 1d")

CASES = (
    Case(
        "in a milestone: the fifth login of a week",
        USES,
        (event("signup"), *logins(1, 2, 3, 4, 5)),
        (*SIGNED_UP, "5h WAIT_CANCELED first/1", "5h STAGE_ENTERED active", "5h RESTED active"),
    ),
    Case(
        "logins of before the journey count as well",
        USES,
        (*logins(1, 2, 3), event("signup", at="4h"), *logins(5, 6)),
        (
            "4h ENTERED first",
            "4h STAGE_ENTERED first",
            "4h WAIT_STARTED first/1 until 1d4h",
            "6h WAIT_CANCELED first/1",
            "6h STAGE_ENTERED active",
            "6h RESTED active",
        ),
    ),
    Case(
        "in a goal: a hundred within thirty days",
        USES,
        (event("signup"), event("order", at="1h", total=60), event("order", at="2h", total=40)),
        (*SIGNED_UP, "2h WAIT_CANCELED first/1", "2h GOAL_ACHIEVED first"),
    ),
    Case(
        "in an exit: the third look of a day",
        USES,
        (event("signup"), *(event("look", at=f"{minute}m") for minute in (1, 2, 3))),
        (*SIGNED_UP, "3m WAIT_CANCELED first/1", "3m EXITED first by idle"),
    ),
    Case(
        "in a decision after a wait, where there is no event",
        USES,
        (event("signup"), *logins(1, 2), passes("1d")),
        (
            *SIGNED_UP,
            "1d WAIT_ENDED first/1",
            "1d BRANCH_TAKEN first/2 eager",
            "1d ACTIVATION_REQUESTED first/2/eager/1 through email",
            "1d RESTED first",
        ),
    ),
    Case(
        "an event delivered five times counts once",
        ENTRY.replace("CRITERIA", 'count("login") >= 3'),
        (*(event("login", at="1h", event_id="one") for _ in range(5)), *logins(2, 3)),
        entered("3h"),
    ),
    Case(
        "the third login, whichever came first",
        ENTRY.replace("CRITERIA", 'count("login", duration("2h")) >= 3'),
        (event("login", at="3h"), event("login", at="2h"), event("login", at="90m")),
        # It is judged at its own time, and the other two are later: they count too, as nothing is younger than a window.
        entered("1h30m"),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_use(case: Case) -> None:
    case.check()


def test_what_is_due_before_an_event_does_not_count_it() -> None:
    """The Scheduler was down: the decision of yesterday does not know today's login."""
    lines = tell(USES, event("signup"), *logins(1), *logins(25))
    assert "1d BRANCH_TAKEN first/2 some" in lines
    assert lines == tell(USES, event("signup"), *logins(1), passes("1d"), *logins(25))


def test_events_of_before_a_journey_asks_are_not_known() -> None:
    asks = ENTRY.replace("CRITERIA", 'count("login") >= 2')
    none = asks.replace('count("login") >= 2', 'event.name == "login" && profile.never')
    lines = tell(none, *logins(1), publish(asks), *logins(2, 3))
    assert lines == list(entered("3h"))


def test_windows_see_the_newest_thousand() -> None:
    """More are counted, and not kept one by one."""
    journeys = live_of(
        [
            read_journey(ENTRY.replace("CRITERIA", text))
            for text in ['count("login", duration("8760h")) == 1001']
        ]
    )
    everything = live_of([read_journey(ENTRY.replace("CRITERIA", 'count("login") == 1001'))])
    events = [
        SimulatedEvent(f"e{number}", "ann", "login", number * 1_000_000) for number in range(MOST_KEPT + 1)
    ]
    assert [kind for _, each in simulate(journeys, events) if (kind := each.kind) is Kind.ENTERED] == []
    assert [kind for _, each in simulate(everything, events) if (kind := each.kind) is Kind.ENTERED] == [
        Kind.ENTERED
    ]
    assert (MOST_KEPT, LATENESS_US) == (1_000, 7 * DAY_US)


@pytest.mark.parametrize(("newest", "found"), [("7d", True), ("8d", False)])
def test_an_event_that_is_late_by_up_to_seven_days_finds_what_its_window_asks_for(
    newest: str, found: bool
) -> None:
    text = ENTRY.replace("CRITERIA", 'event.name == "go" && count("login", duration("1h")) >= 3')
    lines = tell(
        text,
        event("login", at="10m"),
        event("login", at="20m"),
        event("login", at=newest),
        event("go", at="30m"),
    )
    assert lines == list(entered("30m") if found else ())


# Segments

SEGMENTS = """
name: segments
type: REAL_TIME
goal: {criteria: in_segment("lost")}
reentry: {mode: ALWAYS}
exit_criteria: [{name: cheap, criteria: '!in_segment("vip") && event.name == "look"'}]
stages:
  - name: first
    entry: event.name == "begin" && in_segment("vip")
    milestone: in_segment("gold")
    steps:
      - decision:
          branches:
            - {name: rich, criteria: in_segment("rich")}
            - {name: nobody, criteria: in_segment("unknown")}
      - wait: {condition: in_segment("rich"), timeout: 1d}
  - {name: golden}
---
segment: {name: vip, criteria: 'profile.level > 2'}
---
segment: {name: gold, criteria: 'in_segment("vip") && count("login") >= 2'}
---
segment: {name: rich, criteria: 'profile.money > 1000'}
---
segment: {name: lost, criteria: 'profile.lost'}
"""
VIP = (
    "0s ENTERED first",
    "0s STAGE_ENTERED first",
    "0s BRANCH_TAKEN first/1 otherwise",
    "0s WAIT_STARTED first/2 until 1d",
)

IN_SEGMENTS = (
    Case("not in it: no entry", SEGMENTS, (event("begin"),), (), {"level": 2}),
    Case("in it", SEGMENTS, (event("begin"),), VIP, {"level": 3}),
    Case(
        "a criteria that fails on the profile: not in it",
        SEGMENTS,
        (event("begin"),),
        (),
    ),
    Case(
        "a segment that names another, and behavior: as a milestone",
        SEGMENTS,
        (event("begin"), *logins(1, 2)),
        (*VIP, "2h WAIT_CANCELED first/2", "2h STAGE_ENTERED golden", "2h RESTED golden"),
        {"level": 3},
    ),
    Case(
        "in an exit, after a change that the exit did not see",
        SEGMENTS,
        (event("begin"), profile(at="1h", level=1), event("look", at="2h")),
        (*VIP, "2h WAIT_CANCELED first/2", "2h EXITED first by cheap"),
        {"level": 3},
    ),
    Case(
        "in a goal: a change of the profile is enough",
        SEGMENTS,
        (event("begin"), profile(at="1h", lost=True)),
        (*VIP, "1h WAIT_CANCELED first/2", "1h GOAL_ACHIEVED first"),
        {"level": 3},
    ),
    Case(
        "in a condition that is waited for",
        SEGMENTS,
        (event("begin"), profile(at="1h", money=2000)),
        (*VIP, "1h WAIT_ENDED first/2 met", "1h RESTED first"),
        {"level": 3},
    ),
    Case(
        "in a decision, and one that is not defined is nobody's",
        SEGMENTS,
        (event("begin"),),
        (
            *VIP[:2],
            "0s BRANCH_TAKEN first/1 rich",
            "0s WAIT_STARTED first/2 until 1d",
            "0s WAIT_ENDED first/2 met",
            "0s RESTED first",
        ),
        {"level": 3, "money": 5000},
    ),
    Case(
        "a journey for whoever comes into a segment begins by a change of the profile",
        """
name: comes
type: REAL_TIME
stages: [{name: only, entry: 'in_segment("vip")'}]
---
segment: {name: vip, criteria: 'profile.level > 2'}
""",
        (profile(level=2), profile(at="1h", level=3)),
        entered("1h"),
    ),
    Case(
        "and by an event that the segment counts",
        """
name: comes
type: REAL_TIME
stages: [{name: only, entry: 'in_segment("fan")'}]
---
segment: {name: fan, criteria: 'count("login") >= 2'}
""",
        logins(1, 2),
        entered("2h"),
    ),
)


@pytest.mark.parametrize("case", IN_SEGMENTS, ids=lambda case: case.words)
def test_segment(case: Case) -> None:
    case.check()


def test_a_version_keeps_the_segments_that_it_was_published_with() -> None:
    story = play(SEGMENTS, event("begin"), attributes={"level": 3})
    publish(SEGMENTS.replace("profile.lost", "profile.level > 0"))(story)
    profile(at="1h", level=4)(story)
    assert story.lines == list(VIP)
