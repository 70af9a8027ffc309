"""Owns the events that wait to be sent: what makes a batch, and how many there may be. Pure: no clock, no I/O."""

from collections import deque
from collections.abc import Iterable

from cairn.client.batch import Batch, Pending

_OLDEST_OPEN_SECONDS = 1.0
"""A batch that may not leave still grows no longer than this, or than its age, as its deadline is that of its first event."""


class Buffer:
    """Batches in the order of their numbers, all of them closed but the last. Sizes are bytes, times are seconds.

    `changes` grows whenever a batch is opened or closed: then there may be something to send.

    Counts an event from when it is put until its batch is dropped: those that are under way have their room too.
    """

    def __init__(
        self, *, batch_events: int, batch_bytes: int, batch_age: float, max_events: int, max_bytes: int
    ) -> None:
        self.events = 0
        self.bytes = 0
        self.changes = 0
        self.batch_bytes = batch_bytes
        self._batch_events = batch_events
        self._batch_age = batch_age
        self._max_events = max_events
        self._max_bytes = max_bytes
        self._closed: deque[Batch] = deque()
        self._open: Batch | None = None
        self._numbers = 0

    @property
    def has_closed(self) -> bool:
        """Whether a batch waits that can't grow any more."""
        return bool(self._closed)

    @property
    def due(self) -> float | None:
        """When the open batch is to leave at the latest; None when there is none."""
        return None if self._open is None else self._open.opened + self._batch_age

    def has_room(self, size: int) -> bool:
        """Whether an event of this size may be put. One always may into an empty buffer."""
        return self.events < self._max_events and (not self.events or self.bytes + size <= self._max_bytes)

    def put(self, data: bytes, now: float) -> Pending:
        """Puts a serialized event behind all others."""
        batch = self._open
        if batch is not None and batch.size + len(data) > self.batch_bytes:
            self.close()
            batch = None
        if batch is None:
            batch = self._open = self.new_batch(now)
            self.changes += 1
        before = batch.size
        pending = batch.add(data)
        self.events += 1
        self.bytes += batch.size - before
        if batch.count >= self._batch_events:
            self.close()
        return pending

    def new_batch(self, now: float) -> Batch:
        """An empty batch with a number of its own."""
        self._numbers += 1
        return Batch(self._numbers, now)

    def close(self) -> None:
        """Lets the open batch, if there is one, leave as it is."""
        if self._open is not None:
            self._open.seal()
            self._closed.append(self._open)
            self._open = None
            self.changes += 1

    def close_old(self, now: float) -> None:
        """Closes the open batch when it has grown for too long."""
        if self._open is not None and now - self._open.opened >= max(_OLDEST_OPEN_SECONDS, self._batch_age):
            self.close()

    def take(self, now: float, *, idle: bool) -> Batch | None:
        """The batch that is to leave next, if one is to leave now. `idle`: nothing is under way, so waiting gains nothing."""
        if (
            not self._closed
            and self._open is not None
            and (idle or now >= self._open.opened + self._batch_age)
        ):
            self.close()
        return self._closed.popleft() if self._closed else None

    def give_back(self, batches: Iterable[Batch]) -> None:
        """Takes batches in again that have to be sent again, each to its old place."""
        self._closed = deque(sorted([*batches, *self._closed], key=lambda batch: batch.number))

    def remove_expired(self, opened_before: float) -> list[Batch]:
        """Takes out the closed batches that have waited too long."""
        expired = [batch for batch in self._closed if batch.opened <= opened_before]
        if expired:
            self._closed = deque(batch for batch in self._closed if batch.opened > opened_before)
        return expired

    def remove_all(self) -> list[Batch]:
        """Takes out everything."""
        self.close()
        batches = list(self._closed)
        self._closed.clear()
        return batches

    def waiting(self) -> list[Batch]:
        """Every batch that waits, the open one too."""
        return [*self._closed, *((self._open,) if self._open is not None else ())]

    def drop(self, batch: Batch) -> None:
        """Gives up the room of a batch that is answered."""
        self.events -= batch.count
        self.bytes -= batch.size
