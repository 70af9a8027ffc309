"""Quiet hours: exact at their bounds, over midnight, where clocks are changed, and where nobody knows the zone."""

import zoneinfo
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.quiet import (
    LONGEST_CAREFUL_MINUTES,
    QuietHours,
    find_zone,
    parse_clock,
    quiet_until,
)
from cairn.runtime.clock import from_datetime

MINUTE_US = 60_000_000
DAY_MINUTES = 1440


def at(text: str, zone: str = "UTC", fold: int = 0) -> int:
    return from_datetime(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone), fold=fold))


def hours(span: str, fallback: str = "") -> QuietHours:
    start, end = (parse_clock(each) for each in span.split("-"))
    assert start is not None
    assert end is not None
    return QuietHours(start, end, fallback)


@pytest.mark.parametrize(
    ("span", "zone", "now", "end"),
    [
        # The start belongs to them, the end does not.
        ("21:00-08:00", "Europe/Berlin", "2026-01-10 20:59:59.999999", None),
        ("21:00-08:00", "Europe/Berlin", "2026-01-10 21:00", "2026-01-11 08:00"),
        ("21:00-08:00", "Europe/Berlin", "2026-01-11 00:00", "2026-01-11 08:00"),
        ("21:00-08:00", "Europe/Berlin", "2026-01-11 07:59:59.999999", "2026-01-11 08:00"),
        ("21:00-08:00", "Europe/Berlin", "2026-01-11 08:00", None),
        ("12:00-14:00", "Asia/Kathmandu", "2026-01-11 13:30", "2026-01-11 14:00"),
        ("12:00-14:00", "Asia/Kathmandu", "2026-01-11 11:00", None),
        # A minute short of a whole day.
        ("08:01-08:00", "Asia/Tokyo", "2026-01-11 08:01", "2026-01-12 08:00"),
        ("08:01-08:00", "Asia/Tokyo", "2026-01-11 08:00:30", None),
        # The night in which clocks go forward (02:00 is 03:00), and the one in which they go back.
        ("21:00-08:00", "Europe/Berlin", "2026-03-28 23:00", "2026-03-29 08:00"),
        ("21:00-08:00", "Europe/Berlin", "2026-10-24 23:00", "2026-10-25 08:00"),
        # The end lies in the hour that is left out: the first moment after it.
        ("21:00-02:30", "Europe/Berlin", "2026-03-29 01:00", "2026-03-29 03:00"),
        ("21:00-02:00", "Europe/Berlin", "2026-03-29 01:00", "2026-03-29 03:00"),
        # The start does: they begin with the jump.
        ("02:30-08:00", "Europe/Berlin", "2026-03-29 01:59", None),
        ("02:30-08:00", "Europe/Berlin", "2026-03-29 03:00", "2026-03-29 08:00"),
        # All of them do: there are none that night.
        ("02:10-02:50", "Europe/Berlin", "2026-03-29 03:00", None),
        # A change of half an hour, and a whole day that is left out.
        ("21:00-02:15", "Australia/Lord_Howe", "2026-10-04 01:00", "2026-10-04 02:30"),
        ("21:00-08:00", "Pacific/Apia", "2011-12-29 23:00", "2011-12-31 08:00"),
    ],
)
def test_when_they_end(span: str, zone: str, now: str, end: str | None) -> None:
    found = quiet_until(hours(span), zone, at(now, zone))
    assert found == (None if end is None else at(end, zone))


def test_an_end_that_clocks_show_twice_is_the_first() -> None:
    night, first, second = "2026-10-25 01:00", at("2026-10-25 02:30", "Europe/Berlin"), 1
    assert quiet_until(hours("21:00-02:30"), "Europe/Berlin", at(night, "Europe/Berlin")) == first
    assert quiet_until(hours("21:00-02:30"), "Europe/Berlin", first) is None
    # From three the clock goes back to two: it is quiet once more.
    again = at("2026-10-25 02:10", "Europe/Berlin", second)
    assert quiet_until(hours("21:00-02:30"), "Europe/Berlin", again) == again + 20 * MINUTE_US


def test_a_clock_that_goes_back_over_the_start_ends_them_for_a_while() -> None:
    three = at("2026-10-25 02:59:59", "Europe/Berlin") + 1_000_000
    assert quiet_until(hours("02:40-06:00"), "Europe/Berlin", three - 5 * MINUTE_US) == three


@pytest.mark.parametrize(
    "name", ["", "Nowhere/Atall", "../../etc/passwd", "Europe", "/etc/localtime", "\0", "a" * 300]
)
def test_what_is_no_zone_takes_the_fallback(name: str) -> None:
    assert find_zone(name) is None
    now = at("2026-01-10 23:00", "America/New_York")
    end = at("2026-01-11 08:00", "America/New_York")
    assert quiet_until(hours("21:00-08:00", "America/New_York"), name, now) == end


@pytest.mark.parametrize(
    ("now", "end"),
    [
        # 12:00 to 12:30 begins at midnight UTC on the eastern edge and ends at 23:30 UTC on the western.
        ("2026-01-10 00:00", "2026-01-10 23:30"),
        ("2026-01-10 12:10", "2026-01-10 23:30"),
        ("2026-01-10 23:29:59.999999", "2026-01-10 23:30"),
        ("2026-01-10 23:30", None),
        ("2026-01-10 23:59", None),
    ],
)
def test_the_careful_window(now: str, end: str | None) -> None:
    assert quiet_until(hours("12:00-12:30"), "", at(now)) == (None if end is None else at(end))


def test_where_the_careful_window_would_never_end_it_is_utc() -> None:
    assert quiet_until(hours("21:00-08:00"), "", at("2026-01-10 22:00")) == at("2026-01-11 08:00")
    assert quiet_until(hours("21:00-08:00"), "", at("2026-01-10 12:00")) is None
    assert quiet_until(hours("12:00-13:00"), "", at("2026-01-10 12:30")) == at("2026-01-10 13:00")


@pytest.mark.parametrize(
    "text", ["", "8:00", "24:00", "08:60", "08:00 ", "08.00", "²1:00", "08:00\n", "-1:00"]
)
def test_what_is_no_time_of_the_day(text: str) -> None:
    assert parse_clock(text) is None


zones = st.sampled_from(sorted(zoneinfo.available_timezones() - {"localtime", "posixrules"}))
clocks = st.integers(0, DAY_MINUTES - 1)
# Since 2000 every clock on earth is whole minutes from UTC, so that the definition can be tried minute by minute.
moments = st.datetimes(datetime(2000, 1, 1), datetime(2037, 1, 1), timezones=st.just(UTC))
spans = st.tuples(clocks, clocks).filter(lambda pair: pair[0] != pair[1])


def is_quiet(span: tuple[int, int], zone: ZoneInfo, moment: datetime) -> bool:
    """The definition: what a clock on the wall shows there lies in the span."""
    wall = moment.astimezone(zone)
    minute = wall.hour * 60 + wall.minute
    start, end = span
    return start <= minute < end if start < end else minute >= start or minute < end


def check_against_the_clock(span: tuple[int, int], name: str, now: datetime) -> None:
    """Never quiet when it ends, quiet at each minute before."""
    zone = ZoneInfo(name)
    end = quiet_until(QuietHours(*span), name, from_datetime(now))
    if end is None:
        assert not is_quiet(span, zone, now)
        return
    then = datetime.fromtimestamp(end // 1_000_000, UTC)
    assert end % MINUTE_US == 0
    assert not is_quiet(span, zone, then)
    assert is_quiet(span, zone, now)
    minute = now.replace(second=0, microsecond=0)
    while minute < then:
        assert minute < now or is_quiet(span, zone, minute)
        minute += timedelta(minutes=1)
    assert is_quiet(span, zone, then - timedelta(microseconds=1))


@given(spans, zones, moments)
def test_the_answer_is_the_first_minute_that_is_not_quiet(
    span: tuple[int, int], name: str, now: datetime
) -> None:
    check_against_the_clock(span, name, now)


changes = st.sampled_from(
    [
        ("Europe/Berlin", "2026-03-29T01:00"),
        ("Europe/Berlin", "2026-10-25T01:00"),
        ("America/New_York", "2026-03-08T07:00"),
        ("America/New_York", "2026-11-01T06:00"),
        ("Australia/Lord_Howe", "2026-04-04T15:00"),
        ("Australia/Lord_Howe", "2026-10-03T15:30"),
        ("America/Sao_Paulo", "2018-11-04T03:00"),
        ("Asia/Gaza", "2026-03-28T00:00"),
        ("Africa/Casablanca", "2026-02-15T02:00"),
        ("Antarctica/Troll", "2026-03-29T01:00"),
        ("Pacific/Apia", "2011-12-30T10:00"),
    ]
)


@given(spans, changes, st.integers(-30 * 60, 180))
def test_also_around_a_change_of_the_clock(
    span: tuple[int, int], change: tuple[str, str], minutes: int
) -> None:
    name, moment = change
    now = datetime.fromisoformat(moment).replace(tzinfo=UTC) + timedelta(minutes=minutes)
    check_against_the_clock(span, name, now)


@given(clocks, st.integers(1, LONGEST_CAREFUL_MINUTES), moments)
def test_the_careful_window_is_quiet_where_any_place_is(start: int, length: int, now: datetime) -> None:
    span = (start, (start + length) % DAY_MINUTES)
    places = [timedelta(minutes=offset) for offset in range(-11 * 60, 12 * 60 + 1)]

    def anywhere(moment: datetime) -> bool:
        minutes = {(moment + place).hour * 60 + (moment + place).minute for place in places}
        return any((start + each) % DAY_MINUTES in minutes for each in range(length))

    end = quiet_until(QuietHours(*span), "", from_datetime(now))
    assert (end is not None) == anywhere(now)
    if end is not None:
        then = datetime.fromtimestamp(end // 1_000_000, UTC)
        assert not anywhere(then)
        assert anywhere(then - timedelta(microseconds=1))
