"""The trigger's one promise to APScheduler: always an answer, always strictly later than what it was asked about."""

from datetime import UTC, datetime, timedelta

import pytest
from apscheduler.triggers.base import BaseTrigger
from hypothesis import given
from hypothesis import strategies as st

from cairn.scheduler.trigger import ShardTrigger

MOMENTS = st.datetimes(datetime(1990, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SWEEP = timedelta(seconds=1)


@given(
    alarm=st.none() | MOMENTS,
    previous=st.none() | MOMENTS,
    now=MOMENTS,
    sweep=st.timedeltas(timedelta(microseconds=1), timedelta(minutes=1)),
)
def test_the_answer_is_never_none_and_strictly_later_than_both_arguments(
    alarm: datetime | None, previous: datetime | None, now: datetime, sweep: timedelta
) -> None:
    trigger = ShardTrigger(sweep)
    trigger.alarm = alarm
    answer = trigger.get_next_fire_time(previous, now)
    assert answer > now
    assert previous is None or answer > previous


@pytest.mark.parametrize(
    ("alarm", "previous", "expected"),
    [
        (None, None, NOON + SWEEP),
        (NOON + timedelta(minutes=5), None, NOON + timedelta(minutes=5)),
        (NOON + timedelta(microseconds=1), None, NOON + timedelta(microseconds=1)),
        # An alarm that has gone off is over: answering just behind it would find the job still running.
        (NOON, NOON, NOON + SWEEP),
        (NOON - timedelta(hours=1), NOON - timedelta(hours=1), NOON + SWEEP),
        # The machine's clock was set back behind the last run.
        (None, NOON + timedelta(hours=1), NOON + timedelta(hours=1) + SWEEP),
    ],
)
def test_when_the_shard_is_next_due(
    alarm: datetime | None, previous: datetime | None, expected: datetime
) -> None:
    trigger = ShardTrigger(SWEEP)
    trigger.alarm = alarm
    assert trigger.get_next_fire_time(previous, NOON) == expected


def test_it_is_a_trigger_to_apscheduler() -> None:
    assert isinstance(ShardTrigger(SWEEP), BaseTrigger)


def test_a_sweep_of_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="longer than zero"):
        ShardTrigger(timedelta(0))
