"""When a schedule is due: fields as every cron has them, changes of clocks in three zones, and what is refused, with what would be right."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.journey.calendar import wall_of
from cairn.journey.cron import CronError, parse_cron
from cairn.journey.times import format_time, to_us

MINUTE_US = 60_000_000


def due(cron: str, time_zone: str, after: str, count: int) -> list[str]:
    """The next times after one, without what all have in common."""
    schedule = parse_cron(cron, time_zone)
    found: list[str] = []
    time_us = to_us(f"{after}:00+00:00")
    for _ in range(count):
        following = schedule.next_us(time_us)
        assert following is not None
        assert following > time_us
        time_us = following
        found.append(format_time(time_us).removesuffix(":00Z"))
    return found


# Of a change of clocks the moments around it, in UTC. Clocks go forward in Berlin at 01:00 (02:00 becomes 03:00), in New York at 07:00, and on Lord
# Howe by half an hour, at 15:30 (02:00 becomes 02:30); back in Berlin at 01:00 (03:00 becomes 02:00), in New York at 06:00, on Lord Howe at 15:00
# (02:00 becomes 01:30).
CHANGES = (
    # A time that is skipped is the first instant after the gap; a day before and a day after it is itself.
    ("in Berlin's gap", "30 2 * * *", "Europe/Berlin", "2026-03-28T00:00", ["2026-03-28T01:30", "2026-03-29T01:00", "2026-03-30T00:30"]),
    ("where Berlin's gap begins", "0 2 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T00:00"]),
    ("where Berlin's gap ends", "0 3 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T01:00", "2026-03-30T01:00"]),
    ("right before Berlin's gap", "59 1 * * *", "Europe/Berlin", "2026-03-28T12:00", ["2026-03-29T00:59", "2026-03-29T23:59"]),
    ("in New York's gap", "30 2 * * *", "America/New_York", "2026-03-07T12:00", ["2026-03-08T07:00", "2026-03-09T06:30"]),
    ("in Lord Howe's gap", "15 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", ["2026-10-03T15:30", "2026-10-04T15:15"]),
    ("where Lord Howe's gap ends", "30 2 * * *", "Australia/Lord_Howe", "2026-10-03T00:00", ["2026-10-03T15:30", "2026-10-04T15:30"]),
    # All that a gap skips, and what is due where it ends, is due once.
    ("quarters over Berlin's gap", "*/15 * * * *", "Europe/Berlin", "2026-03-29T00:30", ["2026-03-29T00:45", "2026-03-29T01:00", "2026-03-29T01:15"]),
    ("minutes over Berlin's gap", "* * * * *", "Europe/Berlin", "2026-03-29T00:58", ["2026-03-29T00:59", "2026-03-29T01:00", "2026-03-29T01:01"]),
    ("quarters over Lord Howe's gap", "*/15 * * * *", "Australia/Lord_Howe", "2026-10-03T15:00", ["2026-10-03T15:15", "2026-10-03T15:30", "2026-10-03T15:45"]),
    ("two times in New York's gap", "10,50 2 * * *", "America/New_York", "2026-03-07T12:00", ["2026-03-08T07:00", "2026-03-09T06:10", "2026-03-09T06:50"]),
    ("hours over New York's gap", "0 * * * *", "America/New_York", "2026-03-08T05:30", ["2026-03-08T06:00", "2026-03-08T07:00", "2026-03-08T08:00"]),
    # A time that comes twice is the first of both.
    ("in Berlin's repeated hour", "30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T00:30", "2026-10-26T01:30"]),
    ("asked in its first half", "30 2 * * *", "Europe/Berlin", "2026-10-25T00:30", ["2026-10-26T01:30"]),
    ("asked in its second half", "30 2 * * *", "Europe/Berlin", "2026-10-25T01:10", ["2026-10-26T01:30"]),
    ("where Berlin's begins", "0 2 * * *", "Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T00:00", "2026-10-26T01:00"]),
    ("where Berlin's is over", "0 3 * * *", "Europe/Berlin", "2026-10-24T12:00", ["2026-10-25T02:00", "2026-10-26T02:00"]),
    ("in New York's repeated hour", "30 1 * * *", "America/New_York", "2026-10-31T12:00", ["2026-11-01T05:30", "2026-11-02T06:30"]),
    ("in Lord Howe's repeated half", "45 1 * * *", "Australia/Lord_Howe", "2026-04-04T00:00", ["2026-04-04T14:45", "2026-04-05T15:15"]),
    ("quarters over Berlin's repeated hour", "*/15 * * * *", "Europe/Berlin", "2026-10-25T00:30", ["2026-10-25T00:45", "2026-10-25T02:00", "2026-10-25T02:15"]),
    ("minutes over it", "* * * * *", "Europe/Berlin", "2026-10-25T00:58", ["2026-10-25T00:59", "2026-10-25T02:00", "2026-10-25T02:01"]),
    ("quarters over Lord Howe's", "*/15 * * * *", "Australia/Lord_Howe", "2026-04-04T14:30", ["2026-04-04T14:45", "2026-04-04T15:30", "2026-04-04T15:45"]),
    ("hours over New York's", "0 * * * *", "America/New_York", "2026-11-01T04:30", ["2026-11-01T05:00", "2026-11-01T07:00", "2026-11-01T08:00"]),
    # Samoa left out 30 December 2011: its times are due where the next day begins.
    ("on a day that was left out", "0 6 * * *", "Pacific/Apia", "2011-12-29T00:00", ["2011-12-29T16:00", "2011-12-30T10:00", "2011-12-30T16:00"]),
)  # fmt: skip


@pytest.mark.parametrize(
    ("cron", "time_zone", "after", "times"), [case[1:] for case in CHANGES], ids=[case[0] for case in CHANGES]
)
def test_changes_of_clocks(cron: str, time_zone: str, after: str, times: list[str]) -> None:
    assert due(cron, time_zone, after, len(times)) == times


# 2026-11-24 is a Tuesday.
FIELDS = (
    ("a list, a range and a step", "0,30 8-9,20-22/2 * * *", ["24T08:00", "24T08:30", "24T09:00", "24T09:30", "24T20:00", "24T20:30", "24T22:00"]),
    ("a step from a value on", "50/4 23 * * *", ["24T23:50", "24T23:54", "24T23:58", "25T23:50"]),
    ("0 is Sunday", "0 6 * * 0", ["29T06:00"]),
    ("7 is Sunday", "0 6 * * 7", ["29T06:00"]),
    ("1 is Monday", "0 6 * * 1", ["30T06:00"]),
    ("2 is Tuesday", "0 6 * * 2", ["24T06:00"]),
    ("6 is Saturday", "0 6 * * 6", ["28T06:00"]),
    ("numbers of a working week", "0 6 * * 1-5", ["24T06:00", "25T06:00", "26T06:00", "27T06:00", "30T06:00"]),
    ("the same by name", "0 6 * * mon-FRI", ["24T06:00", "25T06:00", "26T06:00", "27T06:00", "30T06:00"]),
    ("a weekend by name", "0 6 * * SAT-SUN", ["28T06:00", "29T06:00"]),
    ("a weekend by number", "0 6 * * 6-7", ["28T06:00", "29T06:00"]),
    ("every second weekday, from Sunday", "0 6 * * */2", ["24T06:00", "26T06:00", "28T06:00", "29T06:00"]),
    ("one day or the other", "0 6 26 * TUE", ["24T06:00", "26T06:00"]),
    ("every second day that is a weekday", "0 6 */2 * 1-5", ["25T06:00", "27T06:00"]),
    ("space around and between", "  0   6  *\t* * ", ["24T06:00"]),
    ("a month by name", "0 6 30 nov *", ["30T06:00"]),
)  # fmt: skip


@pytest.mark.parametrize(("cron", "times"), [case[1:] for case in FIELDS], ids=[case[0] for case in FIELDS])
def test_fields(cron: str, times: list[str]) -> None:
    assert due(cron, "", "2026-11-24T00:00", len(times)) == [f"2026-11-{each}" for each in times]


@pytest.mark.parametrize(
    ("cron", "after", "times"),
    [
        ("0 0 29 2 *", "2096-03-01T00:00", ["2104-02-29T00:00"]),
        ("0 0 31 * *", "2026-01-31T00:00", ["2026-03-31T00:00"]),
        ("0 0 1 1 *", "2026-01-01T00:00", ["2027-01-01T00:00"]),
        # Of two ways to be due one never comes.
        ("0 0 30 2 MON", "2026-02-01T00:00", ["2026-02-02T00:00"]),
    ],
)
def test_what_comes_seldom(cron: str, after: str, times: list[str]) -> None:
    assert due(cron, "UTC", after, 1) == times


FIVE = "it has five fields, minute, hour, day of month, month and day of week, as 0 6 * * MON-FRI"
REFUSED = (
    ("", "UTC", "cron", FIVE),
    ("0 6 * *", "UTC", "cron", f"is '0 6 * *'; {FIVE}"),
    ("0 0 6 * * *", "UTC", "cron", FIVE),
    ("@daily", "UTC", "cron", FIVE),
    (f"0 6 * * {'1,' * 200}1", "UTC", "cron", FIVE),
    ("60 * * * *", "UTC", "cron", "has '60' as minute; it is 0 to 59, a range as 0-4, *, with a step as */2"),
    ("* 24 * * *", "UTC", "cron", "has '24' as hour; it is 0 to 23"),
    ("* * 0 * *", "UTC", "cron", "has '0' as day of month; it is 1 to 31"),
    ("* * 32 * *", "UTC", "cron", "has '32' as day of month"),
    ("* * last * *", "UTC", "cron", "has 'last' as day of month"),
    ("* * * 13 *", "UTC", "cron", "has '13' as month; it is 1 to 12, or JAN to DEC"),
    ("* * * MON *", "UTC", "cron", "has 'MON' as month"),
    ("* * * * 8", "UTC", "cron", "has '8' as day of week; it is 0 (Sunday) to 7 (Sunday again), or SUN to SAT"),
    ("* * * * MONDAY", "UTC", "cron", "has 'MONDAY' as day of week"),
    ("* * * * MON-FRI-SUN", "UTC", "cron", "has 'MON-FRI-SUN' as day of week"),
    ("* * * * FRI-MON", "UTC", "cron", "has 'FRI-MON' as day of week"),
    ("*/0 * * * *", "UTC", "cron", "has '*/0' as minute"),
    ("5-1 * * * *", "UTC", "cron", "has '5-1' as minute"),
    ("1,,2 * * * *", "UTC", "cron", "has '' as minute"),
    ("-1 * * * *", "UTC", "cron", "has '-1' as minute"),
    ("1.5 * * * *", "UTC", "cron", "has '1.5' as minute"),
    ("٣ * * * *", "UTC", "cron", "has '٣' as minute"),
    ("0 0 30 2 *", "UTC", "cron", "is '0 0 30 2 *', which never comes: none of its months has such a day"),
    ("0 0 31 4,6,9,11 *", "UTC", "cron", "which never comes"),
    ("0 0 31 FEB */2", "UTC", "cron", "which never comes"),
    ("0 6 * * *", "Mars/Olympus", "time_zone", "is 'Mars/Olympus', which is no IANA time zone; one is Asia/Tokyo"),
    ("0 6 * * *", "localtime", "time_zone", "is 'localtime'"),
)  # fmt: skip


@pytest.mark.parametrize(("cron", "time_zone", "field", "said"), REFUSED)
def test_refused(cron: str, time_zone: str, field: str, said: str) -> None:
    with pytest.raises(CronError) as caught:
        parse_cron(cron, time_zone)
    assert caught.value.field == field
    assert said in str(caught.value)
    assert len(str(caught.value)) < 300


def test_a_schedule_says_what_it_is() -> None:
    schedule = parse_cron(" 0  6 * * * ", "")
    assert (schedule.text, schedule.time_zone) == ("0 6 * * *", "UTC")
    assert schedule == parse_cron("0 6 * * *", "UTC")


def test_there_is_nothing_beyond_the_calendar() -> None:
    schedule = parse_cron("0 6 * * *", "Asia/Tokyo")
    assert schedule.next_us(to_us("9999-12-31T23:00:00+00:00")) is None


ZONES = (
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "UTC",
    "Asia/Kathmandu",
    "Africa/Casablanca",
)


@settings(max_examples=60, deadline=None)
@given(
    zone=st.sampled_from(ZONES),
    minute=st.sampled_from(["*", "*/15", "0", "30", "7,52"]),
    hour=st.sampled_from(["*", "*/2", "1", "2", "3", "1-3"]),
    start=st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)),
)
def test_each_wall_time_is_due_once_and_in_order(zone: str, minute: str, hour: str, start: datetime) -> None:
    """Against the plain definition: every minute of two days, kept where a clock shows a time that matches for the first time, or has
    just skipped one."""
    start_us = to_us(start.replace(second=0, microsecond=0, tzinfo=UTC).isoformat())
    end_us = start_us + 2 * 24 * 60 * MINUTE_US
    schedule = parse_cron(f"{minute} {hour} * * *", zone)
    minutes, hours = ({int(each) for each in expand(text, most)} for text, most in ((minute, 60), (hour, 24)))
    found: list[int] = []
    shown_last = wall_of(zone, start_us - 180 * MINUTE_US)
    for time_us in range(start_us - 179 * MINUTE_US, end_us + MINUTE_US, MINUTE_US):
        shown = wall_of(zone, time_us)
        # All walls that a clock has come past for the first time at this instant.
        while shown_last < shown:
            shown_last += timedelta(minutes=1)
            if shown_last.minute in minutes and shown_last.hour in hours and found[-1:] != [time_us]:
                found.append(time_us)
    told, time_us = [], start_us
    while (following := schedule.next_us(time_us)) is not None and following <= end_us:
        told.append(following)
        time_us = following
    assert told == [each for each in found if start_us < each <= end_us]


def expand(text: str, most: int) -> list[int]:
    if text.startswith("*"):
        return list(range(0, most, int(text[2:] or 1)))
    if "-" in text:
        first, _, last = text.partition("-")
        return list(range(int(first), int(last) + 1))
    return [int(each) for each in text.split(",")]
