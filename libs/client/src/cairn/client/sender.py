"""Owns the stream: sends batches, several under way, and begins again with the same ids when it breaks.

Refuses to know who waits for an answer, and how many events there may be.
"""

import asyncio
import logging
from collections.abc import Callable

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1.evaluator_pb2 import BatchError, StreamEventsResponse
from cairn.client.answers import Failure, Outcome
from cairn.client.batch import Batch
from cairn.client.buffer import Buffer
from cairn.client.connection import Call, Connection
from cairn.client.retry import BLAMES, backoff, delay, ended, is_not_let_in, is_passing, may_be_taken
from cairn.client.settings import EventClientSettings
from cairn.runtime.clock import from_duration
from cairn.runtime.errors import CairnError

log = logging.getLogger(__name__)

_WATCH_SECONDS = 1.0
_LAST_WORDS_SECONDS = 2.0


class Sender:
    """One stream at a time, for as long as there is something to send.

    `on_answer(batch, duplicates)` is told of each batch that is answered or given up; the batch says how. Batches that leave
    from now on wait for `min_revision`. What waits is answered while it is `alive`.
    """

    def __init__(
        self,
        connection: Connection,
        buffer: Buffer,
        settings: EventClientSettings,
        chance: Callable[[], float],
        on_answer: Callable[[Batch, int], None],
    ) -> None:
        self._connection = connection
        self._buffer = buffer
        self._settings = settings
        self._chance = chance
        self._on_answer = on_answer
        self._loop = asyncio.get_running_loop()
        self._in_flight: dict[int, Batch] = {}
        self._suspects: set[int] = set()
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._pause_until = 0.0
        self._breaks = 0
        self._heard = 0.0
        self._last_error: CairnError | None = None
        self._silent: CairnError | None = None
        self._call: Call | None = None
        self._closing = False
        self._tasks: list[asyncio.Task[None]] = []
        self.min_revision = 0
        self.alive = True

    def start(self) -> None:
        """Begins to work; the stream is opened when there is something to send."""
        self._tasks = [self._loop.create_task(self._run()), self._loop.create_task(self._watch())]
        for task in self._tasks:
            # An event loop that is shut down ends them before those who wait for an answer.
            task.add_done_callback(lambda _: self._give_up_all())

    def wake(self) -> None:
        """There may be something to send."""
        self._wake.set()

    def unanswered(self) -> list[Batch]:
        """Every batch without an answer, in order."""
        return sorted([*self._in_flight.values(), *self._buffer.waiting()], key=lambda batch: batch.number)

    async def close(self) -> None:
        """Ends the stream. What has no answer by now is given up."""
        self._closing = True
        self.wake()
        running, watching = self._tasks
        watching.cancel()
        try:
            if not self.unanswered():
                await asyncio.wait((running,), timeout=_LAST_WORDS_SECONDS)
        finally:
            running.cancel()
            await asyncio.wait(self._tasks)
            self._give_up_all()
            await self._connection.close()

    async def _run(self) -> None:
        while True:
            while not self._may_send():
                if self._closing:
                    return
                await self._sleep()
            error: CairnError | None
            try:
                error = await self._one_stream()
            except Exception as defect:  # whatever it is, those who wait must get an answer
                log.exception("A stream of events broke on a defect of the client's.")
                text = f"a defect of the client's broke the stream: {defect!r}"
                error = CairnError(ErrorReason.ERROR_REASON_INTERNAL, text)
            if error is None:
                return
            self._broke(error)

    async def _one_stream(self) -> CairnError | None:
        """Sends over one stream until it breaks; why. None when it was closed by us."""
        self._heard = self._loop.time()
        call = self._call = self._connection.stream()
        reading = self._loop.create_task(self._read(call))
        writing = self._loop.create_task(self._write(call))
        try:
            await asyncio.wait((reading, writing), return_when=asyncio.FIRST_COMPLETED)
            # The reader is the one that is told why, a moment after a write has failed.
            await asyncio.wait((reading,), timeout=_LAST_WORDS_SECONDS)
        finally:
            self._call = None
            call.cancel()
            writing.cancel()
            read, wrote = await asyncio.gather(reading, writing, return_exceptions=True)
        if self._closing and wrote is None:
            return None
        silent, self._silent = self._silent, None
        if silent is not None:
            await self._connection.renew()
            return silent
        return await self._connection.why(read, wrote)

    async def _write(self, call: Call) -> None:
        while True:
            batch = self._next()
            if batch is not None:
                if not self._in_flight:
                    self._heard = self._loop.time()
                self._in_flight[batch.number] = batch
                await call.write(batch.message(self.min_revision))
            elif self._closing and not self._in_flight:
                await call.done_writing()
                return
            else:
                await self._sleep()

    async def _read(self, call: Call) -> None:
        """Settles what is answered; returns when the other side ends the stream."""
        while isinstance(answer := await call.read(), StreamEventsResponse):
            self._heard = self._loop.time()
            self._breaks = 0
            batch = self._in_flight.get(answer.sequence)
            if batch is None:
                continue  # given up meanwhile
            if answer.HasField("error"):
                self._failed(batch, answer.error)
            else:
                del self._in_flight[batch.number]
                self._suspects.discard(batch.number)
                self._last_error = None
                batch.answer(
                    {each.index: Outcome(False, each.reason, each.message) for each in answer.refusals}
                )
                self._on_answer(batch, answer.duplicates)
            self.wake()

    def _next(self) -> Batch | None:
        """The batch to send now, or None; then something will wake us."""
        now = self._loop.time()
        window = 1 if self._suspects else self._settings.batches_in_flight
        if len(self._in_flight) >= window:
            return None
        if now < self._pause_until:
            self._wake_at(self._pause_until)
            return None
        batch = self._buffer.take(now, idle=not self._in_flight)
        if batch is None and self._buffer.due is not None:
            self._wake_at(self._buffer.due)
        return batch

    def _may_send(self) -> bool:
        """Whether it is worth a stream. Nothing is under way when there is none."""
        if not self._buffer.waiting():
            return False
        if self._loop.time() < self._pause_until:
            self._wake_at(self._pause_until)
            return False
        return True

    async def _sleep(self) -> None:
        self._wake.clear()
        await self._wake.wait()

    def _wake_at(self, when: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._loop.call_at(when, self._wake.set)

    def _failed(self, batch: Batch, answer: BatchError) -> None:
        """The Evaluator could not take a batch: it is sent again, before all that came after it, or given up."""
        asked = from_duration(answer.retry_delay) / 1e6 if answer.HasField("retry_delay") else None
        error = CairnError(answer.reason, answer.message, retry_after_s=asked)
        batch.maybe_taken |= may_be_taken(error)
        batch.tries += 1
        seconds = delay(error, batch.tries, self._chance())
        del self._in_flight[batch.number]
        if is_passing(error):
            self._again([batch], error, seconds)
        else:
            self._give_up(batch, error)

    def _broke(self, error: CairnError) -> None:
        """A stream broke: what it leaves unanswered is sent again, or given up where that can't help."""
        left = list(self._in_flight.values())
        self._in_flight.clear()
        self._breaks += 1
        for batch in left:
            batch.maybe_taken |= may_be_taken(error)
        if is_not_let_in(error):
            for batch in [*left, *self._buffer.remove_all()]:
                self._give_up(batch, error)
            left = []
        elif not is_passing(error):
            # One of them may be what the other side can't bear. They go one by one until it is known which.
            self._suspects.update(batch.number for batch in left)
            if len(left) == 1:
                left[0].blamed += 1
                if left[0].blamed >= BLAMES:
                    self._give_up(left.pop(), error)
        # A replica that stops asks for a delay that another one does not need; one that is full means it.
        seconds = backoff(self._breaks, self._chance())
        if error.reason == ErrorReason.ERROR_REASON_OVERLOADED:
            seconds = delay(error, self._breaks, self._chance())
        self._again(left, error, seconds)

    def _again(self, batches: list[Batch], error: CairnError, seconds: float) -> None:
        """Nothing is sent for some seconds: what comes later must not overtake what is sent again."""
        self._last_error = error
        self._buffer.give_back(batches)
        self._pause_until = max(self._pause_until, self._loop.time() + seconds)

    def _give_up(self, batch: Batch, error: CairnError) -> None:
        self._suspects.discard(batch.number)
        taken = "it may have been taken" if batch.maybe_taken else "it was not taken"
        text = f"{error.message.rstrip('.')}; {taken}, and is safe to send again with the same id."
        batch.fail(Failure(error.reason, text, batch.maybe_taken))
        self._on_answer(batch, 0)

    def _give_up_all(self) -> None:
        self.alive = False
        # Whoever is given room meanwhile is given up too.
        while left := self.unanswered():
            for batch in self._in_flight.values():
                batch.maybe_taken = True
            self._in_flight.clear()
            self._buffer.remove_all()
            for batch in left:
                self._give_up(batch, ended("the client was closed"))

    async def _watch(self) -> None:
        """Keeps the times: deadlines, a silent stream, a batch that may not leave."""
        settings = self._settings
        while True:
            await asyncio.sleep(
                min(_WATCH_SECONDS, settings.deadline_seconds / 4, settings.answer_seconds / 4)
            )
            now = self._loop.time()
            self._buffer.close_old(now)
            opened_before = now - settings.deadline_seconds
            late = [batch for batch in self._in_flight.values() if batch.opened <= opened_before]
            for batch in late:
                del self._in_flight[batch.number]
                batch.maybe_taken = True
            for batch in [*late, *self._buffer.remove_expired(opened_before)]:
                self._give_up(batch, self._too_late())
            if self._call is not None and self._in_flight and now - self._heard >= settings.answer_seconds:
                self._silent = ended(
                    f"the Evaluator has not answered for {settings.answer_seconds:g} seconds"
                )
                self._call.cancel()
            self.wake()

    def _too_late(self) -> CairnError:
        last = self._last_error
        why = last.message.rstrip(".") if last is not None else "the Evaluator has not answered"
        reason = last.reason if last is not None else ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED
        return CairnError(reason, f"not acknowledged in {self._settings.deadline_seconds:g} seconds: {why}")
