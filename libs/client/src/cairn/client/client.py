"""Owns the client that producers hold: room for events, their answers, the counts.

One event loop owns a client; it is not for other threads.
"""

import asyncio
import functools
import logging
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1.evaluator_pb2 import Event
from cairn.client.answers import NotAcknowledgedError, Outcome, Totals
from cairn.client.batch import MAX_FRAME_BYTES, Batch, Pending
from cairn.client.buffer import Buffer
from cairn.client.connection import Connection
from cairn.client.sender import Sender
from cairn.client.settings import EventClientSettings
from cairn.runtime.client import open_channel
from cairn.runtime.ids import random_id
from cairn.runtime.settings import load_settings

log = logging.getLogger(__name__)

_HEAD_BYTES = 64  # of a message beside its events

OnFailure = Callable[[Event, Outcome | NotAcknowledgedError], None]
"""Told of an event that was refused or given up."""


class ClosedError(Exception):
    """The client is not open: events are taken inside of `async with`."""


class EventClient:
    """Sends events to an Evaluator at "host:port", in batches over one stream, and says what became of each.

    async with EventClient("127.0.0.1:7402") as client:
        outcome = await client.send(event("cart_add", "ada", event_id="cart-17-lamp"))

    Leaving the block waits until everything is answered or given up. `settings` are read from the environment when they
    are not given. `on_failure` is told of each event that was refused or given up, whether somebody awaits it or not;
    without it a warning is logged for its batch. `chance` gives numbers from 0 to 1 for the jitter of delays.

    `min_revision` may be changed at any time, to what Publish returned: batches that leave from then on wait until the
    journeys of that revision are served.
    """

    def __init__(
        self,
        address: str,
        settings: EventClientSettings | None = None,
        *,
        min_revision: int = 0,
        on_failure: OnFailure | None = None,
        chance: Callable[[], float] = lambda: random_id() / (1 << 63),
    ) -> None:
        self.totals = Totals()
        self._address = address
        self._settings = settings = settings or load_settings(EventClientSettings)
        self._min_revision = min_revision
        self._on_failure = on_failure
        self._chance = chance
        self._buffer = Buffer(
            batch_events=settings.batch_events,
            batch_bytes=min(settings.batch_bytes, settings.max_message_bytes - _HEAD_BYTES),
            batch_age=settings.batch_age_seconds,
            max_events=settings.max_events,
            max_bytes=settings.max_bytes,
        )
        self._waiters: deque[tuple[bytes, asyncio.Future[Pending]]] = deque()
        self._sender: Sender | None = None
        self._open = False

    @property
    def waiting(self) -> int:
        """How many events have no answer yet."""
        return self._buffer.events

    @property
    def min_revision(self) -> int:
        """The revision that has to be served before batches are taken; 0 for any."""
        return self._min_revision

    @min_revision.setter
    def min_revision(self, revision: int) -> None:
        self._min_revision = revision
        if self._sender is not None:
            self._sender.min_revision = revision

    async def send(self, event: Event) -> Outcome:
        """Sends an event and returns its answer, once it is durable or refused.

        Raises NotAcknowledgedError when it was given up.
        """
        return await (await self.submit(event))

    async def submit(self, event: Event) -> Pending:
        """Returns when there is room for an event; its answer is awaited through what is returned, or never.

        Events are sent in the order in which they were submitted. The message is read now: it may be changed afterwards.
        Canceled while it waits for room, an event is not sent, but for one whose room had just come.
        """
        if not self._open or self._sender is None or not self._sender.alive:
            raise ClosedError(
                "the client is not open; submit events inside of `async with EventClient(...)`."
            )
        data = event.SerializeToString()
        buffer = self._buffer
        if self._waiters or not buffer.has_room(len(data) + MAX_FRAME_BYTES):
            return await self._wait_for_room(data)
        changes = buffer.changes
        pending = self._put(data)
        if buffer.changes != changes and buffer.has_closed:
            # A producer that never waits would keep the loop from sending what it has made.
            await asyncio.sleep(0)
        return pending

    async def flush(self) -> None:
        """Returns when all that was submitted before is answered or given up."""
        if self._sender is None:
            return
        self._buffer.close()
        self._sender.wake()
        for batch in self._sender.unanswered():
            await batch.settled()

    async def __aenter__(self) -> Self:
        connection = Connection(functools.partial(open_channel, self._address, self._settings))
        self._sender = Sender(connection, self._buffer, self._settings, self._chance, self._answered)
        self._sender.min_revision = self._min_revision
        self._sender.start()
        self._open = True
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._sender is not None
        self._open = False
        try:
            while self._sender.unanswered():
                await self.flush()
        finally:
            for _, waiter in self._waiters:
                waiter.cancel()
            self._waiters.clear()
            await self._sender.close()

    async def _wait_for_room(self, data: bytes) -> Pending:
        # Whoever comes later queues behind, and is put in by whoever makes the room: so the order is kept.
        waiter: asyncio.Future[Pending] = asyncio.get_running_loop().create_future()
        self._waiters.append((data, waiter))
        return await waiter

    def _put(self, data: bytes) -> Pending:
        assert self._sender is not None
        buffer = self._buffer
        if len(data) + MAX_FRAME_BYTES > buffer.batch_bytes:
            return self._refuse(data)
        changes = buffer.changes
        pending = buffer.put(data, asyncio.get_running_loop().time())
        if buffer.changes != changes:
            self._sender.wake()
        return pending

    def _refuse(self, data: bytes) -> Pending:
        """The answer of an event that fits into no message: it would break the stream, and with it all others."""
        batch = self._buffer.new_batch(0.0)
        pending = batch.add(data)
        batch.seal()
        text = f"the event has {len(data):,} bytes; a message takes {self._buffer.batch_bytes:,}, an Evaluator 32,768"
        batch.answer({0: Outcome(False, ErrorReason.ERROR_REASON_TOO_LARGE, text)})
        self._count(batch, 0)
        return pending

    def _answered(self, batch: Batch, duplicates: int) -> None:
        self._buffer.drop(batch)
        self._count(batch, duplicates)
        while self._waiters and self._buffer.has_room(len(self._waiters[0][0]) + MAX_FRAME_BYTES):
            data, waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(self._put(data))

    def _count(self, batch: Batch, duplicates: int) -> None:
        if batch.failure is not None:
            self.totals.given_up += batch.count
            self._tell(batch)
        else:
            refused = len(batch.refusals)
            self.totals.refused += refused
            self.totals.taken += batch.count - refused
            self.totals.duplicates += duplicates
            if refused:
                self._tell(batch)
        batch.release()

    def _tell(self, batch: Batch) -> None:
        """Nothing is lost in silence."""
        if self._on_failure is None:
            if batch.failure is not None:
                log.warning(
                    "%d events were given up, each for the same reason: %s",
                    batch.count,
                    batch.failure.message,
                )
            else:
                first = next(iter(batch.refusals.values()))
                log.warning(
                    "%d events were refused, the first because: %s", len(batch.refusals), first.message
                )
            return
        events = batch.events()
        for index in range(batch.count) if batch.failure is not None else batch.refusals:
            problem = batch.refusals[index] if batch.failure is None else batch.failure.error()
            try:
                self._on_failure(events[index], problem)
            except Exception:  # one that it can't bear must not keep the answers of others
                log.exception("on_failure raised for an event.")
