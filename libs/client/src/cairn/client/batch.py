"""Owns events that travel together: how they are packed, and the answer of each, kept once for all of them."""

import asyncio
import functools
from collections.abc import Generator, Mapping
from typing import Any

from cairn.api.evaluator.v1.evaluator_pb2 import Event, StreamEventsRequest
from cairn.client.answers import TAKEN, Failure, Outcome


class Batch:
    """Events that travel together, serialized, and what became of them.

    `number` is its place among all batches, and its sequence on any stream; `opened` the loop's time of its first event;
    `size` its bytes. Once it is answered, `refusals` holds those of its events that were refused, by index, and `failure`
    why it was given up. `tries`, `blamed` and `maybe_taken` are the sender's memory of it.
    """

    __slots__ = (
        "_parts",
        "_waiters",
        "answered",
        "blamed",
        "body",
        "count",
        "failure",
        "maybe_taken",
        "number",
        "opened",
        "refusals",
        "size",
        "tries",
    )

    def __init__(self, number: int, opened: float) -> None:
        self.number = number
        self.opened = opened
        self.count = 0
        self.size = 0
        self.body = b""
        self.tries = 0
        self.blamed = 0
        self.maybe_taken = False
        self.answered = False
        self.failure: Failure | None = None
        self._parts: list[bytes] = []
        self.refusals: Mapping[int, Outcome] = {}
        self._waiters: list[asyncio.Future[None]] = []

    def add(self, data: bytes) -> "Pending":
        """Puts a serialized event at the end."""
        self._parts.append(frame(len(data)))
        self._parts.append(data)
        self.size += len(data) + MAX_FRAME_BYTES
        index = self.count
        self.count = index + 1
        return Pending(self, index)

    def seal(self) -> None:
        """Nothing is added any more. `body` is then all of a request but its sequence and revision."""
        self.body = b"".join(self._parts)
        self._parts.clear()

    def message(self, min_revision: int) -> bytes:
        """The request as it is sent: messages that stand one after the other are one."""
        head = StreamEventsRequest(sequence=self.number, min_revision=min_revision)
        return head.SerializeToString() + self.body

    def events(self) -> list[Event]:
        """Its events, read from what is sent; none after `release`."""
        return list(StreamEventsRequest.FromString(self.body).events)

    def answer(self, refusals: Mapping[int, Outcome]) -> None:
        """All were taken but those refused."""
        self.refusals = refusals
        self._settle()

    def fail(self, failure: Failure) -> None:
        """It was given up."""
        self.failure = failure
        self._settle()

    def outcome(self, index: int) -> Outcome:
        """The answer of one event; raises NotAcknowledgedError when the batch was given up."""
        if self.failure is not None:
            raise self.failure.error()
        return self.refusals.get(index, TAKEN)

    def release(self) -> None:
        """Lets go of the bytes: an answer may be kept for long."""
        self.body = b""

    def settled(self) -> "asyncio.Future[None]":
        """Done when the batch is answered or given up."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.answered:
            future.set_result(None)
        else:
            self._waiters.append(future)
        return future

    def _settle(self) -> None:
        self.answered = True
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()


class Pending:
    """An event that was submitted. Awaiting it gives its Outcome, or raises NotAcknowledgedError.

    It may be awaited by several, later, again, or never: then nothing was spent on it.
    """

    __slots__ = ("_batch", "_index")

    def __init__(self, batch: Batch, index: int) -> None:
        self._batch = batch
        self._index = index

    @property
    def answered(self) -> bool:
        """Whether awaiting it returns, or raises, at once."""
        return self._batch.answered

    def __await__(self) -> Generator[Any, None, Outcome]:
        if not self._batch.answered:
            yield from self._batch.settled().__await__()
        return self._batch.outcome(self._index)


@functools.lru_cache(maxsize=1 << 16)
def frame(size: int) -> bytes:
    """What stands before an event of so many bytes in a StreamEventsRequest: its tag and its length."""
    head = bytearray((_EVENTS_TAG,))
    while size > 0x7F:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head)


MAX_FRAME_BYTES = 6
"""The longest such head, that of an event of 4 GiB."""

_EVENTS_TAG = 2 << 3 | 2  # field `events` has the number 2, and a message is of wire type 2
