"""The estimate of Postgres' clock is never ahead of it, whatever the round trips were."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.scheduler.server_clock import ClockReading, ServerClock, safe_anchor_us

START_US = 1_767_225_600_000_000


@given(
    monotonic_start_us=st.integers(0, 10**12),
    # When each question reached Postgres, and how long its answer took to come back.
    trips=st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**6)), min_size=1, max_size=8),
    later_us=st.integers(0, 10**8),
)
def test_never_ahead_and_behind_by_no_more_than_the_shortest_way_back(
    monotonic_start_us: int, trips: list[tuple[int, int]], later_us: int
) -> None:
    readings = [
        ClockReading(START_US + asked, (monotonic_start_us + asked + way_back) * 1_000)
        for asked, way_back in trips
    ]
    estimate = safe_anchor_us(readings) + monotonic_start_us + later_us
    truth = START_US + later_us
    assert estimate <= truth
    assert truth - estimate == min(way_back for _, way_back in trips)


def test_without_a_reading_there_is_no_estimate() -> None:
    with pytest.raises(ValueError, match="empty"):
        safe_anchor_us([])
    clock = ServerClock()
    with pytest.raises(RuntimeError, match="not measured"):
        clock.now_us()


def test_it_goes_on_by_itself_and_a_new_measurement_replaces_the_old_one() -> None:
    clock = ServerClock()
    clock.set([ClockReading(START_US, time.monotonic_ns())])
    first = clock.now_us()
    assert clock.now_us() >= first >= START_US
    clock.set([ClockReading(START_US - 10**9, time.monotonic_ns())])
    assert clock.now_us() < START_US
