"""Owns the watch of Definition: what is published is kept in our own schema first, then served, then acknowledged."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import grpc
import structlog

from cairn.api.definition.v1 import definition_pb2, journey_pb2
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.evaluator import store
from cairn.evaluator.book import JourneyBook, parse_lives, parse_versions
from cairn.journey.parse import short_name
from cairn.postgres.pool import Pool, is_unavailable

log = structlog.get_logger()

_MAX_PAUSE_SECONDS = 2.0
# Definition sends a heartbeat every few seconds; a stream that is silent for longer is dead.
_SILENCE_SECONDS = 20.0
_FIRST_ANSWER_SECONDS = 10.0


class JourneyWatch:
    """A component that keeps the book of journeys in step with Definition, and goes on with what it has without it."""

    name = "journey-watch"

    def __init__(self, pool: Pool, channel: grpc.aio.Channel, book: JourneyBook, watcher: str) -> None:
        self._pool = pool
        self._stub = DefinitionServiceStub(channel)
        self._book = book
        self._watcher = watcher
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serves what our own schema holds, then watches in the background.

        On the very first start there is nothing: Definition is given a moment to answer, as without journeys no event can be taken.
        """
        await self.reload()
        self._task = asyncio.create_task(self._run(), name=self.name)
        if not self._book.is_known:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_ANSWER_SECONDS):
                    await self._book.wait_until_known()

    async def drain(self) -> None:
        """Nothing was accepted."""

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._stub.AcknowledgeRevision(
                definition_pb2.AcknowledgeRevisionRequest(watcher=self._watcher, leaving=True), timeout=1.0
            )

    async def reload(self) -> None:
        """Serves what any replica has kept; called too when an enrollment is in a version that is not known here."""
        revision, versions, lives = await store.read_journeys(self._pool)
        if revision is not None:
            await self._book.add(revision, parse_versions(versions), parse_lives(lives))

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                async for answer in self._answers():
                    await self._take(answer)
                    failures = 0
            except Exception as error:  # noqa: BLE001 - whatever it was, the next watch resumes where this one ended
                self._report(error, failures)
            failures += 1
            await asyncio.sleep(min(0.1 * 2 ** min(failures, 10), _MAX_PAUSE_SECONDS))

    async def _answers(self) -> AsyncIterator[definition_pb2.WatchJourneysResponse]:
        request = definition_pb2.WatchJourneysRequest(after_revision=self._book.revision)
        call = self._stub.WatchJourneys(request)
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

    async def _take(self, answer: definition_pb2.WatchJourneysResponse) -> None:
        if (
            answer.versions
            or answer.lives
            or answer.revision > self._book.revision
            or not self._book.is_known
        ):
            # A life that changed twice comes once more: only the newest counts.
            lives = {life.journey: life for life in answer.lives}
            await store.write_journeys(
                self._pool,
                # Who starts from a half told beginning must not take it for the whole.
                answer.revision if answer.caught_up or self._book.is_known else None,
                [_row(each) for each in answer.versions],
                [_life_row(lives[name]) for name in sorted(lives)],
            )
            await self._book.add(answer.revision, answer.versions, lives.values(), is_all=answer.caught_up)
            if answer.versions or lives:
                log.info(
                    "journeys_served",
                    revision=answer.revision,
                    versions=len(answer.versions),
                    lives=len(lives),
                )
        await self._stub.AcknowledgeRevision(
            definition_pb2.AcknowledgeRevisionRequest(watcher=self._watcher, revision=self._book.revision)
        )

    def _report(self, error: Exception, failures: int) -> None:
        if failures:
            return
        if isinstance(error, (grpc.aio.AioRpcError, TimeoutError)) or is_unavailable(error):
            log.warning("definition_away", error=type(error).__name__, serving_revision=self._book.revision)
        else:
            log.error("journey_watch_failed", exc_info=error)


def _row(version: journey_pb2.JourneyVersion) -> tuple[str, int, int, bytes]:
    journey_id = short_name("journeys", version.journey.name)
    return journey_id, version.version, version.revision, version.SerializeToString()


def _life_row(life: journey_pb2.JourneyLife) -> tuple[str, int, bytes]:
    return short_name("journeys", life.journey), life.revision, life.SerializeToString()
