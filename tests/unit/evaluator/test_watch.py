"""The watch of Definition, when its process stops."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from cairn.api.definition.v1 import definition_pb2
from cairn.evaluator.watch import JourneyWatch


class Stub:
    """A Definition whose answers are put in."""

    def __init__(self, answers: asyncio.Queue[definition_pb2.WatchJourneysResponse]) -> None:
        self._answers = answers

    def WatchJourneys(self, request: Any) -> Any:  # noqa: N802
        return SimpleNamespace(read=self._answers.get, cancel=lambda: None)

    async def AcknowledgeRevision(self, request: Any, timeout: float = 0) -> None:  # noqa: N802, ASYNC109
        """Nobody listens."""


@pytest.mark.parametrize("ticks", range(6))
async def test_a_stop_that_comes_together_with_an_answer_is_heard(
    monkeypatch: pytest.MonkeyPatch, ticks: int
) -> None:
    """Python 3.11's `wait_for` would give back the answer, and nobody would stop."""
    answers: asyncio.Queue[definition_pb2.WatchJourneysResponse] = asyncio.Queue()
    nothing: Any = None

    async def loaded(_watch: JourneyWatch) -> None:
        """Our own schema has what there is."""

    monkeypatch.setattr(JourneyWatch, "reload", loaded)
    book: Any = SimpleNamespace(revision=9, is_known=True)
    channel: Any = SimpleNamespace(unary_stream=lambda *_, **__: None, unary_unary=lambda *_, **__: None)
    watch = JourneyWatch(nothing, channel, book, "me")
    watch._stub = Stub(answers)  # type: ignore[assignment]
    await watch.start()
    await asyncio.sleep(0.01)
    answers.put_nowait(definition_pb2.WatchJourneysResponse(revision=1, caught_up=True))
    for _ in range(ticks):
        await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await watch.stop()
