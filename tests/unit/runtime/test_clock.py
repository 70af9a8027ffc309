"""Times are integers, and every form of them goes there and back without a loss."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from cairn.runtime import clock

# What a Timestamp and a datetime can both say: the years 1 to 9999.
TIMES = st.integers(min_value=-62_135_596_800_000_000, max_value=253_402_300_799_999_999)
SPANS = st.integers(min_value=-(10**17), max_value=10**17)
ZONES = st.integers(min_value=-14 * 60, max_value=14 * 60).map(lambda m: timezone(timedelta(minutes=m)))


@given(TIMES)
def test_a_timestamp_goes_there_and_back(us: int) -> None:
    timestamp = clock.to_timestamp(us)
    assert 0 <= timestamp.nanos < 1_000_000_000
    assert clock.from_timestamp(timestamp) == us
    assert timestamp.ToMicroseconds() == us


@given(SPANS)
def test_a_duration_goes_there_and_back(us: int) -> None:
    duration = clock.to_duration(us)
    assert duration.seconds * duration.nanos >= 0
    assert clock.from_duration(duration) == us
    assert duration.ToMicroseconds() == us


@given(TIMES)
def test_a_datetime_goes_there_and_back(us: int) -> None:
    moment = clock.to_datetime(us)
    assert moment.utcoffset() == timedelta(0)
    assert clock.from_datetime(moment) == us


@given(st.datetimes(datetime(2, 1, 1), datetime(9998, 1, 1)), ZONES)
def test_a_moment_is_the_same_in_every_zone(naive: datetime, zone: timezone) -> None:
    moment = naive.replace(tzinfo=zone)
    assert clock.to_datetime(clock.from_datetime(moment)) == moment


@given(TIMES)
def test_what_is_written_can_be_read_again(us: int) -> None:
    text = clock.format_time(us)
    assert text.endswith("Z")
    assert clock.from_datetime(datetime.fromisoformat(text)) == us


@pytest.mark.parametrize(
    ("us", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1_767_225_600_000_000, "2026-01-01T00:00:00Z"),
        (1_767_225_600_000_001, "2026-01-01T00:00:00.000001Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
    ],
)
def test_times_are_written_as_people_write_them(us: int, text: str) -> None:
    assert clock.format_time(us) == text


def test_what_is_finer_than_a_microsecond_is_cut_off() -> None:
    assert clock.from_timestamp(Timestamp(seconds=1, nanos=1_999)) == 1_000_001
    assert clock.from_duration(Duration(seconds=1, nanos=1_999)) == 1_000_001
    assert clock.from_duration(Duration(seconds=-1, nanos=-1_999)) == -1_000_001


def test_a_time_without_a_zone_is_refused() -> None:
    with pytest.raises(ValueError, match="zone"):
        clock.from_datetime(datetime(2026, 1, 1))


def test_the_clock_is_this_machines() -> None:
    before = datetime.now(UTC)
    now = clock.to_datetime(clock.now_us())
    assert before - timedelta(microseconds=1) <= now <= datetime.now(UTC)
