"""How fast a run may go on: no time gets more than its share, however the portions fall."""

import pytest

from cairn.evaluator.run_pace import Pace
from cairn.journey.model import Rate


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_without_a_rate_all_go() -> None:
    pace = Pace(None, 500)
    assert pace.most == 500
    assert [pace.take(2_000), pace.take(3)] == [500, 3]


@pytest.mark.parametrize(
    ("rate", "per_second"),
    [(Rate(10_000, 60_000_000), 10_000 / 60), (Rate(40, 1_000_000), 40), (Rate(3, 1_000_000), 3)],
)
def test_no_second_gets_more_than_its_share_and_a_quarter(rate, per_second) -> None:
    clock = Clock()
    pace = Pace(rate, 500, clock)
    taken: list[tuple[float, int]] = []
    for _ in range(400):
        if count := pace.take(10_000):
            taken.append((clock.now, count))
            pace.settle(count, count)
        clock.now += 0.05
    total = sum(count for _, count in taken)
    assert per_second * 20 * 0.9 <= total <= per_second * 20 + 1
    for start, _ in taken:
        within = sum(count for at, count in taken if start <= at < start + 1)
        assert within <= per_second + max(1.0, per_second / 4) + 1


def test_who_asks_for_nothing_costs_nothing_and_who_asks_for_more_costs_more() -> None:
    clock = Clock()
    pace = Pace(Rate(40, 1_000_000), 500, clock)
    assert pace.most == 10
    clock.now += 1
    assert pace.take(50) == 10
    pace.settle(10, 0)
    assert pace.take(50) == 10
    pace.settle(10, 20)
    clock.now += 0.25
    assert pace.take(50) == 0
    clock.now += 0.11
    assert pace.take(50) == 4


def test_one_an_hour_begins_at_once() -> None:
    clock = Clock()
    pace = Pace(Rate(1, 3_600_000_000), 500, clock)
    assert pace.most == 1
    assert pace.take(10) == 1
    clock.now += 1_800
    assert pace.take(10) == 0
    clock.now += 1_801
    assert pace.take(10) == 1
