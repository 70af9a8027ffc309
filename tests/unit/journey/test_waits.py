"""Every kind of wait: when it is over, what ends it, and where it leads."""

from collections import Counter

import pytest

from cairn.journey.times import to_us
from cairn.testing.journeys import Case, alarm, event, passes, play, profile, tell

CALENDAR = """
name: calendar
type: REAL_TIME
ZONE
stages:
  - name: only
    entry: event.name == "begin"
    steps: [{wait: {WAIT}}, {activation: {channel: email}}]
"""

# In words, the wait, when it begins, the zones of the profile and of the journey, and when it is over.
MOMENTS = (
    ("a moment to come", 'until: "2026-01-05T12:00:00Z"', "2026-01-01T00:00:00Z", "", "", "2026-01-05T12:00:00Z"),
    ("a moment with an offset", 'until: "2026-01-05T12:00:00+09:00"', "2026-01-01T00:00:00Z", "", "", "2026-01-05T03:00:00Z"),
    ("a moment is no time of day: zones are nothing to it", 'until: "2026-01-05T12:00:00Z"', "2026-01-01T00:00:00Z", "Asia/Tokyo", "", "2026-01-05T12:00:00Z"),
    ("a moment that is past is over at once", 'until: "2025-12-31T23:59:59Z"', "2026-01-01T00:00:00Z", "", "", "2026-01-01T00:00:00Z"),
    ("this very moment", 'until: "2026-01-01T00:00:00Z"', "2026-01-01T00:00:00Z", "", "", "2026-01-01T00:00:00Z"),
    ("a time of day still to come", 'until_time: "09:00"', "2026-01-01T00:00:00Z", "", "", "2026-01-01T09:00:00Z"),
    ("at or after: this very time of day", 'until_time: "09:00"', "2026-01-01T09:00:00Z", "", "", "2026-01-01T09:00:00Z"),
    ("past by a microsecond: tomorrow", 'until_time: "09:00"', "2026-01-01T09:00:00.000001Z", "", "", "2026-01-02T09:00:00Z"),
    ("the last minute of a year", 'until_time: "00:00"', "2026-12-31T23:59:59Z", "", "", "2027-01-01T00:00:00Z"),
    ("Monday, from a Thursday", 'until_time: "09:00", weekdays: [MON]', "2026-01-01T00:00:00Z", "", "", "2026-01-05T09:00:00Z"),
    ("Thursday, on a Thursday before nine", 'until_time: "09:00", weekdays: [THU]', "2026-01-01T08:59:59Z", "", "", "2026-01-01T09:00:00Z"),
    ("Thursday, on a Thursday after nine: in a week", 'until_time: "09:00", weekdays: [THU]', "2026-01-01T09:00:01Z", "", "", "2026-01-08T09:00:00Z"),
    ("a working day, from a Friday evening", 'until_time: "09:00", weekdays: [MON, TUE, WED, THU, FRI]', "2026-01-02T18:00:00Z", "", "", "2026-01-05T09:00:00Z"),
    ("in the profile's zone", 'until_time: "09:00"', "2026-01-01T01:00:00Z", "Asia/Tokyo", "", "2026-01-02T00:00:00Z"),
    ("in the journey's zone, for profiles that have none", 'until_time: "09:00"', "2026-01-01T01:00:00Z", "", "America/New_York", "2026-01-01T14:00:00Z"),
    ("the profile's zone comes before the journey's", 'until_time: "09:00"', "2026-01-01T01:00:00Z", "Asia/Tokyo", "America/New_York", "2026-01-02T00:00:00Z"),
    ("a weekday of the zone's calendar: Monday there, Sunday here", 'until_time: "09:00", weekdays: [MON]', "2026-01-04T16:00:00Z", "Asia/Tokyo", "", "2026-01-05T00:00:00Z"),
    ("a zone with half an hour", 'until_time: "09:00"', "2026-01-01T00:00:00Z", "Asia/Kolkata", "", "2026-01-01T03:30:00Z"),
    ("in the gap of spring: the first instant after it", 'until_time: "02:30"', "2026-03-28T12:00:00Z", "Europe/Berlin", "", "2026-03-29T01:00:00Z"),
    ("at the first instant after the gap: now", 'until_time: "02:30"', "2026-03-29T01:00:00Z", "Europe/Berlin", "", "2026-03-29T01:00:00Z"),
    ("after the gap: tomorrow, by the new clock", 'until_time: "02:30"', "2026-03-29T01:00:01Z", "Europe/Berlin", "", "2026-03-30T00:30:00Z"),
    ("the day of the gap is the gap's weekday", 'until_time: "02:30", weekdays: [SUN]', "2026-03-28T12:00:00Z", "Europe/Berlin", "", "2026-03-29T01:00:00Z"),
    ("behind the gap, by the new clock", 'until_time: "09:00"', "2026-03-29T00:30:00Z", "Europe/Berlin", "", "2026-03-29T07:00:00Z"),
    ("repeated in autumn: the first time", 'until_time: "02:30"', "2026-10-24T12:00:00Z", "Europe/Berlin", "", "2026-10-25T00:30:00Z"),
    ("between the two: the first is past, the second does not count", 'until_time: "02:30"', "2026-10-25T01:00:00Z", "Europe/Berlin", "", "2026-10-26T01:30:00Z"),
    ("a gap at midnight", 'until_time: "00:15"', "2026-04-23T12:00:00Z", "Africa/Cairo", "", "2026-04-23T22:00:00Z"),
    ("half an hour of daylight saving", 'until_time: "02:15"', "2026-10-03T12:00:00Z", "Australia/Lord_Howe", "", "2026-10-03T15:30:00Z"),
    ("Samoa left a Friday out: the next one that there was", 'until_time: "09:00", weekdays: [FRI]', "2011-12-30T00:00:00Z", "Pacific/Apia", "", "2012-01-05T19:00:00Z"),
    ("Samoa: the day that there was not has no nine o'clock", 'until_time: "09:00"', "2011-12-30T00:00:00Z", "Pacific/Apia", "", "2011-12-30T19:00:00Z"),
    ("Samoa: nor is it a Saturday", 'until_time: "09:00", weekdays: [SAT]', "2011-12-30T00:00:00Z", "Pacific/Apia", "", "2011-12-30T19:00:00Z"),
    ("Samoa, the Saturday after", 'until_time: "09:00", weekdays: [SAT]', "2011-12-30T10:00:01Z", "Pacific/Apia", "", "2011-12-30T19:00:00Z"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("wait", "start", "zone", "journeys_zone", "end"),
    [each[1:] for each in MOMENTS],
    ids=[each[0] for each in MOMENTS],
)
def test_the_calendar(wait: str, start: str, zone: str, journeys_zone: str, end: str) -> None:
    own = f"time_zone: {journeys_zone}" if journeys_zone else ""
    text = CALENDAR.replace("WAIT", wait).replace("ZONE", own)
    story = play(text, event("begin"), passes("10d"), time_zone=zone, start_us=to_us(start))
    started, ended, asked = story.transitions[2:5]
    assert (started.kind.name, started.detail) == ("WAIT_STARTED", {"until": end})
    assert (ended.kind.name, ended.time_us) == ("WAIT_ENDED", to_us(end))
    assert (asked.kind.name, asked.time_us) == ("ACTIVATION_REQUESTED", to_us(end))


def test_a_zone_that_changes_does_not_move_a_wait_that_is_open() -> None:
    text = CALENDAR.replace("WAIT", 'until_time: "09:00"').replace("ZONE", "")
    story = play(
        text, event("begin"), profile(time_zone="Asia/Tokyo"), passes("1d"), time_zone="Europe/Berlin"
    )
    assert story.lines[3:4] == ["8h WAIT_ENDED only/1"]


def test_a_wait_for_a_time_of_day_counts_from_logical_time() -> None:
    """Nine o'clock of the day on which it happened, though it came after nine."""
    text = CALENDAR.replace("WAIT", 'until_time: "09:00"').replace("ZONE", "")
    assert tell(text, passes("12h"), event("begin", at="8h"))[2:4] == [
        "8h WAIT_STARTED only/1 until 9h",
        "9h WAIT_ENDED only/1",
    ]


# For a condition

CONDITION = """
name: condition
type: REAL_TIME
goal: {criteria: event.name == "goal"}
reentry: {mode: ALWAYS}
exit_criteria: [{name: other, criteria: event.name == "other" && profile.leaves}]
stages:
  - name: one
    entry: event.name == "begin"
    milestone: event.name == "on"
    steps:
      - wait:
          condition: 'event.name == "login" && event.properties.size > 1 || profile.ready'
          timeout: 3d
          met: [{activation: {channel: email, template: tips}}]
          timed_out: [{wait: {duration: 1h}}, {activation: {channel: email, template: nudge}}]
      - {name: after, activation: {channel: log}}
  - {name: two}
"""
BEGUN = ("0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 3d")


def met(at: str, how: str = "") -> tuple[str, ...]:
    return (
        f"{at} WAIT_ENDED one/1 met{how}",
        f"{at} ACTIVATION_REQUESTED one/1/met/1 through email",
        f"{at} ACTIVATION_REQUESTED after through log",
        f"{at} RESTED one",
    )


TIMED_OUT = (
    "3d WAIT_ENDED one/1 timed out",
    "3d WAIT_STARTED one/1/timed_out/1 until 3d1h",
    "3d1h WAIT_ENDED one/1/timed_out/1",
    "3d1h ACTIVATION_REQUESTED one/1/timed_out/2 through email",
    "3d1h ACTIVATION_REQUESTED after through log",
    "3d1h RESTED one",
)
LOGIN = event("login", at="1d", size=2)

CASES = (
    Case("met by an event: that way, then where the ways meet", CONDITION, (event("begin"), LOGIN, passes("5d")), (*BEGUN, *met("1d"))),
    Case("not met by an event that is not it", CONDITION, (event("begin"), event("login", at="1d", size=1)), BEGUN),
    Case("met by a change of the profile", CONDITION, (event("begin"), profile(at="2h", ready=True)), (*BEGUN, *met("2h"))),
    Case("the timeout: the other way", CONDITION, (event("begin"), passes("4d")), (*BEGUN, *TIMED_OUT)),
    Case(
        "already true with the input at hand: begun and met at once",
        CONDITION,
        (event("begin"), passes("1d")),
        (*BEGUN, *met("0s")),
        attributes={"ready": True},
    ),
    Case(
        "met in the instant of the timeout: an event comes before what is due with it",
        CONDITION,
        (event("begin"), event("login", at="3d", size=2)),
        (*BEGUN, *met("3d")),
    ),
    Case(
        "the timeout has rung, then an event of the same instant: too late",
        CONDITION,
        (event("begin"), passes("3d"), event("login", size=2), passes("1h")),
        (*BEGUN, *TIMED_OUT),
    ),
    Case(
        "the Scheduler is down, and an event comes after the timeout: timed out, at its own time",
        CONDITION,
        (event("begin"), alarm(on=False), event("login", at="4d", size=2)),
        (*BEGUN, *TIMED_OUT),
    ),
    Case(
        "a late event meets it at the enrollment's time, and says so",
        CONDITION,
        (event("begin"), event("other", at="2h"), event("login", at="1h", size=2)),
        (*BEGUN, *met("2h", " late by 1h")),
    ),
    Case(
        "a milestone comes first: the wait is canceled",
        CONDITION,
        (event("begin"), event("on", at="1h"), LOGIN),
        (*BEGUN, "1h WAIT_CANCELED one/1", "1h STAGE_ENTERED two", "1h RESTED two"),
    ),
    Case(
        "the goal comes first: the wait is canceled",
        CONDITION,
        (event("begin"), event("goal", at="1h"), LOGIN),
        (*BEGUN, "1h WAIT_CANCELED one/1", "1h GOAL_ACHIEVED one"),
    ),
    Case(
        "a wait of the other way is no longer for the condition",
        CONDITION,
        (event("begin"), passes("3d"), event("login", at="73h", size=2)),
        (*BEGUN, *TIMED_OUT),
    ),
)  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_condition(case: Case) -> None:
    case.check()


def test_at_its_timeout_the_condition_is_not_asked_again() -> None:
    """True by then, but nothing had told of it: only time has come, and that is the other way."""
    story = play(CONDITION, event("begin"))
    story.individual.profile = story.individual.described({"ready": True})
    passes("3d")(story)
    assert story.lines[3] == "3d WAIT_ENDED one/1 timed out"


def test_steps_of_the_met_way_see_the_event_that_met_it_those_of_the_other_see_none() -> None:
    text = """
name: sees
type: REAL_TIME
goal: {criteria: event.name == "goal"}
stages:
  - name: one
    entry: event.name == "begin"
    steps:
      - wait: {condition: event.name == "login", timeout: 1d}
      - decision:
          branches:
            - {name: big, criteria: event.properties.size > 5}
            - {name: small, criteria: event.properties.size <= 5}
"""
    branch = "BRANCH_TAKEN one/2"
    assert f"1h {branch} small" in tell(text, event("begin", size=9), event("login", at="1h", size=1))
    assert f"1d {branch} otherwise" in tell(text, event("begin", size=9), passes("1d"))


def test_a_condition_may_ask_what_only_the_next_input_can_tell() -> None:
    """A condition that time alone makes true is noticed at the next input that reaches the enrollment."""
    text = """
name: absence
type: REAL_TIME
goal: {criteria: event.name == "goal"}
stages:
  - name: one
    entry: event.name == "buy"
    milestone: event.name == "look" && profile.moves
    steps: [{wait: {condition: 'count("buy", duration("24h")) == 0', timeout: 30d}}]
  - {name: two}
"""
    lines = tell(text, event("buy"), passes("2d"), event("look", at="3d"))
    assert lines[3:] == ["3d WAIT_ENDED one/1 met", "3d RESTED one"]


def test_both_ways_may_be_empty() -> None:
    text = CONDITION.replace("          met: [{activation: {channel: email, template: tips}}]\n", "").replace(
        "          timed_out: [{wait: {duration: 1h}}, {activation: {channel: email, template: nudge}}]\n", ""
    )
    after = ("ACTIVATION_REQUESTED after through log", "RESTED one")
    assert tell(text, event("begin"), LOGIN)[3:] == [
        "1d WAIT_ENDED one/1 met",
        *(f"1d {what}" for what in after),
    ]
    assert tell(text, event("begin"), passes("3d"))[3:] == [
        "3d WAIT_ENDED one/1 timed out",
        *(f"3d {what}" for what in after),
    ]


def test_a_wait_for_a_condition_takes_one_wake_up() -> None:
    story = play(CONDITION, event("begin"))
    assert len(story.timers) == 1
    LOGIN(story)
    kinds = Counter(type(effect).__name__ for effect in story.effects)
    # The rest of 24 days is the second.
    assert (kinds["ScheduleTimer"], kinds["CancelTimer"]) == (2, 1)
