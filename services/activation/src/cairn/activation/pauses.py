"""Owns which journeys are paused, as Definition tells, and the release of what waited for a resume.

Goes on with what it last knew while Definition is away; before it was ever reached nothing is taken to be paused.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable

import grpc
import structlog

from cairn.activation import store_guard
from cairn.activation.board import Board
from cairn.activation.rules import PAUSED_DETAIL
from cairn.api.definition.v1 import definition_pb2, journey_pb2
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.postgres.pool import Pool, is_unavailable
from cairn.runtime.clock import from_timestamp, now_us

log = structlog.get_logger()

_MAX_PAUSE_SECONDS = 2.0
# Definition sends a heartbeat every few seconds; a stream that is silent for longer is dead.
_SILENCE_SECONDS = 20.0
_FIRST_ANSWER_SECONDS = 3.0

# What is in a lane's hands at the moment of a resume may be held once more just after it: it is released again for as long.
_RELEASES = 8
_RELEASE_EVERY_SECONDS = 2.0
_RELEASED_AT_ONCE = 5_000


class Pauses:
    """A component that follows the lives of journeys. Without a channel there is no Definition, and no journey is ever paused."""

    name = "journey-pauses"

    def __init__(self, pool: Pool, board: Board, channel: grpc.aio.Channel | None) -> None:
        self._pool = pool
        self._board = board
        self._stub = None if channel is None else DefinitionServiceStub(channel)
        self._paused: dict[str, int] = {}
        self._revision = 0
        self._caught_up = False
        self._first_answer = asyncio.Event()
        self._resumed = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def any(self) -> bool:
        """Whether any journey is paused."""
        return bool(self._paused)

    def since(self, journey: str) -> int | None:
        """When a journey, `journeys/{id}`, was paused, in microseconds since the epoch; None for one that is not."""
        return self._paused.get(journey)

    async def start(self) -> None:
        """Watches in the background; Definition is given a moment, as what leaves before it answers leaves whatever is paused."""
        if self._stub is None:
            return
        self._tasks = [
            asyncio.create_task(self._watch(), name=self.name),
            asyncio.create_task(self._release(), name=f"{self.name}-release"),
        ]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FIRST_ANSWER_SECONDS):
                await self._first_answer.wait()

    async def drain(self) -> None:
        """Nothing was accepted."""

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def take(self, lives: Iterable[journey_pb2.JourneyLife], revision: int, *, caught_up: bool) -> None:
        """Learns of lives that changed, in order, up to a revision. What waits for a resume is released."""
        resumed = caught_up and not self._caught_up  # what was resumed while nobody here looked
        for life in lives:
            if life.state == journey_pb2.JOURNEY_STATE_PAUSED and life.pauses:
                self._paused[life.journey] = from_timestamp(life.pauses[-1].pause_time)
            elif self._paused.pop(life.journey, None) is not None:
                resumed = True
        self._revision = max(self._revision, revision)
        self._caught_up = self._caught_up or caught_up
        if resumed and self._caught_up:
            self._resumed.set()

    async def _watch(self) -> None:
        failures = 0
        while True:
            try:
                async for answer in self._answers():
                    self.take(answer.lives, answer.revision, caught_up=answer.caught_up)
                    if self._caught_up:
                        self._first_answer.set()
                    failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it was, the next watch resumes where this one ended
                self._report(error, failures)
            self._first_answer.set()
            failures += 1
            await asyncio.sleep(min(0.1 * 2 ** min(failures, 10), _MAX_PAUSE_SECONDS))

    async def _answers(self) -> AsyncIterator[definition_pb2.WatchJourneysResponse]:
        assert self._stub is not None
        call = self._stub.WatchJourneys(definition_pb2.WatchJourneysRequest(after_revision=self._revision))
        try:
            while True:
                # Not `wait_for`: of Python 3.11 it can swallow a cancellation, and whoever stops this would wait for ever.
                async with asyncio.timeout(_SILENCE_SECONDS):
                    answer = await call.read()
                if not isinstance(answer, definition_pb2.WatchJourneysResponse):  # the end of the stream
                    return
                yield answer
        finally:
            call.cancel()

    def _report(self, error: Exception, failures: int) -> None:
        if failures:
            return
        if isinstance(error, (grpc.aio.AioRpcError, TimeoutError)):
            log.warning("definition_away", error=type(error).__name__, paused_journeys=len(self._paused))
        else:
            log.error("journey_pauses_failed", exc_info=error)

    async def _release(self) -> None:
        while True:
            await self._resumed.wait()
            self._resumed.clear()
            left = _RELEASES
            while left:
                try:
                    await self._release_once()
                except Exception as error:  # noqa: BLE001 - what is not released is looked at again in its time
                    if not is_unavailable(error):
                        log.error("release_failed", error=type(error).__name__)
                left -= 1
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RELEASE_EVERY_SECONDS):
                        await self._resumed.wait()
                        self._resumed.clear()
                        left = _RELEASES

    async def _release_once(self) -> None:
        for bucket in self._board.buckets:
            rows = _RELEASED_AT_ONCE
            while rows == _RELEASED_AT_ONCE:
                now = now_us()
                rows, connections = await store_guard.release_resumed(
                    self._pool,
                    bucket,
                    detail=PAUSED_DETAIL,
                    paused=list(self._paused),
                    floor_us=self._board.floor_us(bucket, now),
                    limit=_RELEASED_AT_ONCE,
                    now=now,
                )
                for connection in connections:
                    self._board.on_work(bucket, connection)
