"""What a lane takes as one batch: what waits, in order, and erasures by themselves."""

import asyncio
from typing import Any

import pytest

from cairn.evaluator.inputs import ErasureArrival, Submission, TimerArrival
from cairn.evaluator.lane import Lane, LaneSettings
from cairn.journey.state import TimerInput


@pytest.fixture
async def lane() -> Lane:
    settings = LaneSettings(writer=1, batch_size=250, backlog=5000, cache_bytes=0, dedup_days=7)
    nothing: Any = None
    return Lane(0, nothing, nothing, nothing, nothing, settings, nothing)


def timers(*numbers: int) -> list[TimerArrival]:
    return [TimerArrival("ann", "cart", TimerInput(f"t{number}", number)) for number in numbers]


def submission(arrivals: list[Any]) -> Submission:
    return Submission(arrivals, asyncio.get_running_loop().create_future())


def batches(lane: Lane) -> list[list[Any]]:
    found = []
    while lane.waiting:
        parts = lane._take()
        found.append([part.arrivals[index] for part, indexes in parts for index in indexes])
    return found


async def test_what_waits_is_one_batch_up_to_its_size(lane) -> None:
    for start in range(0, 400, 100):
        lane.submit(submission(timers(*range(start, start + 100))))
    taken = batches(lane)
    assert [len(each) for each in taken] == [200, 200]
    assert [timer.timer.time_us for each in taken for timer in each] == list(range(400))


async def test_an_erasure_shares_a_batch_with_nobody_and_keeps_its_place(lane) -> None:
    erasure = [ErasureArrival("ann", 5)]
    before, after = timers(1), timers(2)
    for arrivals in (before, erasure, erasure, after):
        lane.submit(submission(arrivals))
    assert batches(lane) == [before, erasure, erasure, after]


async def test_the_fate_of_an_activation_does_not_go_along_with_an_erasure(lane) -> None:
    erasure, patient = [ErasureArrival("ann", 5)], timers(1)
    lane.submit(submission(patient), patient=True)
    lane.submit(submission(erasure))
    assert batches(lane) == [erasure, patient]


async def test_many_erasures_are_several_transactions(lane) -> None:
    lane.submit(submission([ErasureArrival(f"p{number}", 5) for number in range(250)]))
    assert [len(each) for each in batches(lane)] == [100, 100, 50]
