"""What the lives of journeys say about pauses."""

import asyncio
from types import SimpleNamespace
from typing import Any

import asyncpg
import pytest

from cairn.activation.board import Board
from cairn.activation.pauses import Pauses
from cairn.api.definition.v1 import definition_pb2
from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.runtime.clock import to_timestamp

LIVE, PAUSED, ENDED = pb.JOURNEY_STATE_LIVE, pb.JOURNEY_STATE_PAUSED, pb.JOURNEY_STATE_ENDED


def life(name: str, state: pb.JourneyState.ValueType, *pauses: tuple[int, int | None]) -> pb.JourneyLife:
    return pb.JourneyLife(
        journey=f"journeys/{name}",
        state=state,
        pauses=[
            pb.Pause(
                mode=pb.PAUSE_MODE_RUN,
                pause_time=to_timestamp(begin),
                resume_time=None if end is None else to_timestamp(end),
            )
            for begin, end in pauses
        ],
    )


async def test_a_journey_is_paused_from_its_last_pause_to_its_resume_or_end() -> None:
    pauses = Pauses(await asyncpg.create_pool(min_size=0), Board(1), None)
    assert not pauses.any
    pauses.take([life("a", PAUSED, (1, 2), (5, None)), life("b", PAUSED, (3, None))], 7, caught_up=True)
    assert pauses.any
    assert (pauses.since("journeys/a"), pauses.since("journeys/b"), pauses.since("")) == (5, 3, None)
    pauses.take([life("a", LIVE, (1, 2), (5, 9)), life("c", LIVE)], 8, caught_up=True)
    assert (pauses.since("journeys/a"), pauses.since("journeys/b")) == (None, 3)
    pauses.take([life("b", ENDED, (3, None))], 9, caught_up=True)
    assert not pauses.any


@pytest.mark.parametrize("ticks", range(6))
async def test_a_stop_that_comes_together_with_an_answer_is_heard(ticks: int) -> None:
    """Python 3.11's `wait_for` would give back the answer, and nobody would stop."""
    answers: asyncio.Queue[definition_pb2.WatchJourneysResponse] = asyncio.Queue()
    stub: Any = SimpleNamespace(
        WatchJourneys=lambda request: SimpleNamespace(read=answers.get, cancel=lambda: None)
    )
    pauses = Pauses(await asyncpg.create_pool(min_size=0), Board(1), None)
    pauses._stub = stub
    answers.put_nowait(definition_pb2.WatchJourneysResponse(revision=1, caught_up=True))
    await pauses.start()
    answers.put_nowait(definition_pb2.WatchJourneysResponse(revision=2, caught_up=True))
    for _ in range(ticks):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await pauses.stop()
