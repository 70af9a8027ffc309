"""However many replicas share a rate: no more than its count and one small batch leave in any period."""

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.rates import AHEAD_US, STALE_US, Rate, rate_of, reserve
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import to_duration

NOW = 1_700_000_000_000_000


@dataclass
class Row:
    """The row that replicas share."""

    spoken_for_us: int = 0
    left: list[tuple[int, int]] = field(default_factory=list)

    def take(self, rate: Rate, now: int, count: int) -> int | None:
        begins_us, self.spoken_for_us = reserve(self.spoken_for_us, now, rate.cost_us(count), rate.stale_us)
        if begins_us is not None:
            self.left.append((begins_us, count))
        return begins_us


RATES = st.builds(Rate, st.integers(1, 1_000_000), st.integers(1_000, 86_400_000_000))


@given(
    RATES,
    st.lists(
        st.tuples(st.integers(0, 3_000_000), st.integers(1, 10_000), st.booleans()), min_size=1, max_size=80
    ),
)
def test_no_more_than_the_limit_and_a_batch_leave_in_any_period(
    rate: Rate, asks: list[tuple[int, int, bool]]
) -> None:
    row, now = Row(), NOW
    for passed_us, count, at_once in asks:
        now += 0 if at_once else passed_us
        begins_us = row.take(rate, now, min(count, rate.batch_size))
        assert begins_us is None or now <= begins_us <= now + AHEAD_US
    for start, _ in row.left:
        within = sum(count for at, count in row.left if start <= at < start + rate.period_us)
        assert within <= rate.count + rate.batch_size


@given(RATES)
def test_a_connection_that_is_asked_for_all_it_gives_gives_all(rate: Rate) -> None:
    row, now, left = Row(), NOW, 0
    for _ in range(50):
        begins_us = row.take(rate, now, rate.batch_size)
        assert begins_us is not None
        left, now = left + rate.batch_size, row.spoken_for_us
    spent_us = row.spoken_for_us - NOW
    assert spent_us <= left * rate.period_us / rate.count + 50, "rounding costs a microsecond a batch"


def test_what_is_too_far_ahead_is_not_taken_and_changes_nothing() -> None:
    rate = Rate(1, 1_000_000)
    row = Row()
    assert [row.take(rate, NOW, 1) for _ in range(5)] == [NOW, NOW + 1_000_000, NOW + 2_000_000, None, None]
    assert row.spoken_for_us == NOW + 3_000_000


def test_after_a_pause_nothing_was_saved_up() -> None:
    rate = Rate(10, 1_000_000)
    row = Row(spoken_for_us=NOW - 10**9)
    assert row.take(rate, NOW, 2) == NOW
    assert row.take(rate, NOW, 2) == NOW + 200_000


def test_a_slow_limit_that_was_lifted_holds_nobody_up() -> None:
    row = Row()
    row.take(Rate(1, 86_400_000_000), NOW, 1)
    assert row.take(Rate(1, 86_400_000_000), NOW + 1, 1) is None
    assert row.take(Rate(1000, 1_000_000), NOW + 1, 250) == NOW + 1


def test_clocks_that_differ_a_little_lift_no_limit() -> None:
    rate = Rate(4, 1_000_000)
    row = Row()
    while row.take(rate, NOW + STALE_US - 1_000_000, 1) is not None:
        pass
    assert row.take(rate, NOW, 1) is None


@given(st.integers(1, 1_000_000), st.integers(1_000, 86_400_000_000))
def test_a_batch_is_worth_a_quarter_of_a_second_or_is_one(count: int, period_us: int) -> None:
    rate = Rate(count, period_us)
    assert rate.batch_size >= 1
    assert rate.batch_size == 1 or rate.cost_us(rate.batch_size) <= 250_001
    assert rate.cost_us(rate.batch_size + 1) > 250_000 * (rate.batch_size > 1)


def test_it_is_read_from_the_connection() -> None:
    assert rate_of(pb.Connection()) is None
    limited = pb.Connection(rate_limit=pb.RateLimit(count=300, period=to_duration(60_000_000)))
    assert rate_of(limited) == Rate(300, 60_000_000)
