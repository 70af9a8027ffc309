"""What is due of a schedule when: the table of cases, and the search for the last missed time against a walk over all of them."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.journey.cron import parse_cron
from cairn.scheduler.schedule import (
    MISSED_AFTER_US,
    Move,
    StoredSchedule,
    latest_due,
    move,
    own_firing,
    requested_firing,
)

SECOND = 1_000_000
HOUR = 3_600 * SECOND
HOURLY = parse_cron("0 * * * *", "UTC")


def at(hour: int, minute: int = 0, second: int = 0) -> int:
    return int(datetime(2026, 3, 2, hour, minute, second, tzinfo=UTC).timestamp()) * SECOND


def made(*, next_due_us: int | None, skip_missed: bool = False, firing: bool = False) -> StoredSchedule:
    return StoredSchedule("s", "0 * * * *", "UTC", skip_missed, b"p", 7, next_due_us, firing, None, None)


@pytest.mark.parametrize(
    ("schedule", "now_us", "expected"),
    [
        pytest.param(made(next_due_us=None), at(9), None, id="no time left"),
        pytest.param(made(next_due_us=at(9)), at(9), Move(at(9), True), id="on time"),
        pytest.param(made(next_due_us=at(9)), at(9, 59), Move(at(9), True), id="late"),
        pytest.param(made(next_due_us=at(9)), at(13, 5), Move(at(13), True), id="four missed"),
        pytest.param(made(next_due_us=at(9), firing=True), at(13, 5), None, id="on its way it stays"),
        pytest.param(
            made(next_due_us=at(9), skip_missed=True), at(9, 1), Move(at(9), True), id="a minute is merely late"
        ),
        pytest.param(
            made(next_due_us=at(9), skip_missed=True), at(9, 1, 1), Move(at(10), False), id="left out"
        ),
        pytest.param(
            made(next_due_us=at(9), skip_missed=True), at(13, 0, 5), Move(at(13), True), id="only the others"
        ),
        pytest.param(
            made(next_due_us=at(9), skip_missed=True, firing=True), at(9, 1), None, id="still being tried"
        ),
        pytest.param(
            made(next_due_us=at(9), skip_missed=True, firing=True), at(13, 0, 5), Move(at(14), False), id="given up"
        ),
    ],
)  # fmt: skip
def test_what_becomes_of_a_schedule_that_is_due(
    schedule: StoredSchedule, now_us: int, expected: Move | None
) -> None:
    assert move(schedule, HOURLY, now_us) == expected


@given(
    cron=st.sampled_from(["*/7 * * * *", "0 3 * * *", "30 1-3 * * SUN", "0 0 1 * *"]),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe"]),
    start_us=st.integers(at(0), at(0) + 90 * 24 * HOUR),
    steps=st.integers(0, 40),
    more=st.floats(0, 1, exclude_max=True),
)
def test_the_last_missed_time_is_the_one_that_a_walk_finds(
    cron: str, zone: str, start_us: int, steps: int, more: float
) -> None:
    parsed = parse_cron(cron, zone)
    times = [start_us]
    for _ in range(steps + 2):
        following = parsed.next_us(times[-1])
        assert following is not None
        times.append(following)
    assert all(earlier < later for earlier, later in pairwise(times))
    now_us = times[-2] + int((times[-1] - times[-2]) * more)
    assert latest_due(parsed, times[1], now_us) == times[-2]


def test_a_year_of_missed_minutes_is_looked_at_few_times() -> None:
    asked = []

    class Counting:
        def next_us(self, after_us: int) -> int:
            asked.append(after_us)
            return after_us // (60 * SECOND) * 60 * SECOND + 60 * SECOND

    now_us = at(0) + 365 * 24 * HOUR + 1
    assert latest_due(Counting(), at(0), now_us) == now_us - 1  # type: ignore[arg-type]
    assert len(asked) < 60


def test_an_id_is_that_of_one_firing_and_no_other() -> None:
    schedule = made(next_due_us=at(9))
    firings = [
        own_firing(schedule, at(9)),
        own_firing(schedule, at(10)),
        own_firing(schedule._replace(generation=8), at(9)),
        own_firing(schedule._replace(schedule_id="t"), at(9)),
        requested_firing("s", "7", at(9), b"p"),
        requested_firing("s", "8", at(9), b"p"),
    ]
    assert len({firing.fire_id for firing in firings}) == len(firings)
    # A release that derived it otherwise would fire once more what is on its way during the update.
    assert own_firing(schedule._replace(payload=b"q"), at(9)).fire_id == "f517c508c9143019730a2da8635c90979"
    assert MISSED_AFTER_US == 60 * SECOND
