"""Owns the outbox: effects leave from memory as soon as they are committed, and from the table after a crash.

Effects of a bucket leave in order, for each destination on its own, so that one that is down stops only its own. What several buckets have
for a destination leaves together, so that calls grow with load. A row goes when all its destinations have accepted it. Rows of a writer that
is gone are adopted.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence

import structlog

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.evaluator import metrics, store
from cairn.evaluator.erasing import Eraser
from cairn.evaluator.evaluation import told_id
from cairn.evaluator.peers import Destination, Refusal
from cairn.evaluator.store import OutboxRow, RowKind, TimelineRow, to_json
from cairn.postgres.bucket import bucket_of
from cairn.postgres.identity import try_adopt
from cairn.postgres.pool import Pool, is_unavailable
from cairn.runtime.clock import now_us
from cairn.runtime.errors import CairnError

log = structlog.get_logger()

WRITER_NAMESPACE = "evaluator-writer"

_MAX_QUEUED_BYTES = 1024 * 1024
_MAX_ROWS_A_CALL = 64
_MAX_ROWS_TOGETHER = 512
_FLUSH_SECONDS = 0.2
_SWEEP_SECONDS = 2.0
_SWEEP_ROWS = 2000
_OLD_US = 2_000_000
_MAX_PAUSE_SECONDS = 2.0


class _Queue:
    """What one destination has still to get of one bucket. What memory has no room for is read back from the table. `wake` is set when
    there is something; the buckets of one sender share it."""

    def __init__(self, wake: asyncio.Event | None = None) -> None:
        self.rows: deque[OutboxRow] = deque()
        self.bytes = 0
        self.last_taken = 0
        self.is_behind = False
        self.wake = wake or asyncio.Event()

    def put(self, row: OutboxRow, size: int) -> None:
        if self.is_behind or self.bytes + size > _MAX_QUEUED_BYTES:
            self.is_behind = True
        else:
            self.rows.append(row)
            self.bytes += size
        self.wake.set()

    def fall_behind(self) -> None:
        """Leaves all to the table: what is in memory comes after what is only there."""
        self.is_behind = True
        self.rows.clear()
        self.bytes = 0
        self.wake.set()

    def take(self) -> list[OutboxRow]:
        """The next rows in memory that were not taken before."""
        taken: list[OutboxRow] = []
        while self.rows and len(taken) < _MAX_ROWS_A_CALL:
            row = self.rows.popleft()
            if row.sequence > self.last_taken:
                taken.append(row)
                self.last_taken = row.sequence
        if not self.rows:
            self.bytes = 0
        return taken


class Relay:
    """A component that brings effects to their destinations. `writer` is this process's id in the outbox."""

    name = "relay"

    def __init__(
        self,
        pool: Pool,
        writer: int,
        destinations: Sequence[Destination],
        bucket_count: int,
        eraser: Eraser,
    ) -> None:
        self._pool = pool
        self._eraser = eraser
        self._writer = writer
        self._destinations = tuple(destinations)
        self._bucket_count = bucket_count
        # The buckets of each sender: a call that is under way holds up no others than its own.
        self._parts = {
            each.name: [range(first, bucket_count, each.senders) for first in range(each.senders)]
            for each in self._destinations
        }
        self._queues: dict[tuple[str, int], _Queue] = {}
        for name, parts in self._parts.items():
            for buckets in parts:
                wake = asyncio.Event()
                self._queues.update({(name, bucket): _Queue(wake) for bucket in buckets})
        self._bits = {each.name: 1 << place for place, each in enumerate(self._destinations)}
        # For each bucket the rows that are not done: the bits of those who have still to accept one, and of those who have. Numbers, because
        # a destination that is away for hours leaves very many.
        self._open: list[dict[int, int]] = [{} for _ in range(bucket_count)]
        self._accepted: list[dict[int, int]] = [{} for _ in range(bucket_count)]
        self._done: list[list[int]] = [[] for _ in range(bucket_count)]
        self._swept = [0] * bucket_count
        self._tasks: list[asyncio.Task[None]] = []
        self._unsent = {each.name: metrics.OUTBOX_UNSENT.labels(each.name) for each in self._destinations}

    async def start(self) -> None:
        """Begins to send, to tidy up and to look for what others left."""
        for destination in self._destinations:
            for number, buckets in enumerate(self._parts[destination.name]):
                if buckets:
                    self._spawn(self._send_loop(destination, buckets), f"relay-{destination.name}-{number}")
        self._spawn(self._every(_FLUSH_SECONDS, self._flush), "relay-flush")
        self._spawn(self._every(_SWEEP_SECONDS, self._sweep), "relay-sweep")

    async def drain(self) -> None:
        """Sends what is committed, for as long as the drain may take; what stays is adopted by the next process."""
        while any(self._open) or any(self._done):  # noqa: ASYNC110 - many tasks empty it
            await asyncio.sleep(_FLUSH_SECONDS)

    async def stop(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def send(self, bucket: int, row: OutboxRow) -> None:
        """Sends a committed row. Rows of a bucket come in the order of their sequence."""
        if row.sequence in self._open[bucket]:
            return
        waiting = 0
        for destination in self._destinations:
            size = sum(len(part) for part in destination.part(row))
            if size:
                waiting |= self._bits[destination.name]
                self._unsent[destination.name].inc()
                self._queues[destination.name, bucket].put(row, size)
        self._open[bucket][row.sequence] = waiting

    async def read_back(self, bucket: int, sequence: int) -> None:
        """Sends the row of this sequence, if a commit whose answer was lost has written it. Raises the driver's errors."""
        for row in await store.read_outbox(self._pool, bucket, self._writer, sequence - 1, 1):
            if row.sequence == sequence:
                self.send(bucket, row)

    # Sending

    async def _send_loop(self, destination: Destination, buckets: range) -> None:
        wake = self._queues[destination.name, buckets[0]].wake
        while True:
            await wake.wait()
            if destination.linger_s:
                await asyncio.sleep(destination.linger_s)
            wake.clear()
            rows: dict[int, list[OutboxRow]] = {}
            for bucket in buckets:
                if found := await self._next(self._queues[destination.name, bucket], bucket):
                    rows[bucket] = found
            if rows:
                # There may be more than one call takes.
                wake.set()
                await self._send_until_accepted(destination, buckets, rows)

    async def _next(self, queue: _Queue, bucket: int) -> list[OutboxRow]:
        rows = queue.take()
        if rows or not queue.is_behind:
            return rows
        # From here on new rows come to memory again; those that the read brings too are known by their sequence.
        queue.is_behind = False
        try:
            rows = await store.read_outbox(
                self._pool, bucket, self._writer, queue.last_taken, _MAX_ROWS_A_CALL
            )
        except Exception as error:  # noqa: BLE001 - a loop that ended would hold its effects back for ever
            log.warning("outbox_not_read", bucket=bucket, error=type(error).__name__)
            queue.fall_behind()
            await asyncio.sleep(_MAX_PAUSE_SECONDS)
            return []
        if len(rows) == _MAX_ROWS_A_CALL:
            queue.fall_behind()
        queue.wake.set()
        # What is committed, but not handed to `send` yet, comes that way; taken now, it would never count as accepted.
        rows = [row for row in rows if row.sequence in self._open[bucket]]
        if rows:
            queue.last_taken = rows[-1].sequence
        return rows

    async def _send_until_accepted(
        self, destination: Destination, buckets: range, rows: dict[int, list[OutboxRow]]
    ) -> None:
        """Hands over rows by bucket, each bucket's in order."""
        failures = 0
        while True:
            try:
                refusals = await destination.deliver([row for each in rows.values() for row in each])
                if refusals:
                    await self._tell(destination, refusals)
            except Exception as error:  # noqa: BLE001 - what is committed must be sent, whatever stands in the way
                failures += 1
                if failures == 1:
                    _report(destination, error)
                await asyncio.sleep(min(0.05 * 2 ** min(failures, 10), _MAX_PAUSE_SECONDS))
                self._take_more(destination, buckets, rows)
            else:
                if failures > 1:
                    log.info("destination_back", destination=destination.name, failures=failures)
                for bucket, accepted in rows.items():
                    self._accept(destination, bucket, accepted)
                return

    def _take_more(self, destination: Destination, buckets: range, rows: dict[int, list[OutboxRow]]) -> None:
        """Adds what came while a destination was away. It may take back what is about to go: in one go it does."""
        for bucket in buckets:
            own = rows.get(bucket, [])
            size = sum(len(part) for row in own for part in destination.part(row))
            if len(own) >= _MAX_ROWS_TOGETHER or size >= _MAX_QUEUED_BYTES:
                continue
            if more := self._queues[destination.name, bucket].take():
                rows[bucket] = [*own, *more]

    def _accept(self, destination: Destination, bucket: int, rows: Sequence[OutboxRow]) -> None:
        bit, waiting, accepted = self._bits[destination.name], self._open[bucket], self._accepted[bucket]
        for row in rows:
            if not waiting.get(row.sequence, 0) & bit:
                continue
            waiting[row.sequence] ^= bit
            self._unsent[destination.name].dec()
            if waiting[row.sequence]:
                accepted[row.sequence] = accepted.get(row.sequence, 0) | bit
            else:
                del waiting[row.sequence]
                accepted.pop(row.sequence, None)
                self._done[bucket].append(row.sequence)

    async def _tell(self, destination: Destination, refusals: Sequence[Refusal]) -> None:
        """A refused effect becomes a row of the profile's timeline and blocks nothing. An erased profile has none."""
        now = now_us()
        rows: dict[int, list[TimelineRow]] = {}
        for refusal in refusals:
            if refusal.reason == ErrorReason.ERROR_REASON_PROFILE_ERASED:
                continue
            row = TimelineRow(
                refusal.profile_id,
                now,
                told_id(refusal.effect_id, destination.name),
                RowKind.REFUSAL,
                to_json([refusal.effect_id, int(refusal.reason), refusal.message]),
            )
            rows.setdefault(bucket_of(refusal.profile_id, self._bucket_count), []).append(row)
        for bucket, told in rows.items():
            await self._eraser.tell(bucket, told)
        log.warning(
            "effects_refused", destination=destination.name, count=len(refusals), first=refusals[0].message
        )

    # Tidying up

    async def _flush(self) -> None:
        """Deletes rows that all have accepted."""
        for bucket in range(self._bucket_count):
            if done := list(self._done[bucket]):
                await store.delete_outbox(self._pool, bucket, self._writer, done)
                del self._done[bucket][: len(done)]

    async def _sweep(self) -> None:
        """Settles halves, sends own rows that memory does not know, and adopts the rows of writers that are gone."""
        for bucket in range(self._bucket_count):
            await self._settle(bucket)
            await self._send_forgotten(bucket)
            for writer in await store.other_writers(self._pool, bucket, self._writer):
                async with try_adopt(self._pool, WRITER_NAMESPACE, writer) as adopted:
                    if adopted:
                        await self._adopt(bucket, writer)

    async def _settle(self, bucket: int) -> None:
        halves, self._accepted[bucket] = self._accepted[bucket], {}
        for destination in self._destinations:
            bit = self._bits[destination.name]
            sequences = [sequence for sequence, bits in halves.items() if bits & bit]
            if sequences:
                await store.settle_outbox(self._pool, bucket, self._writer, sequences, destination.name)

    async def _send_forgotten(self, bucket: int) -> None:
        """A commit that was thought lost may have come through after all."""
        after, until = self._swept[bucket], now_us() - _OLD_US
        old = await store.find_old_outbox(self._pool, bucket, self._writer, after, until, _SWEEP_ROWS)
        self._swept[bucket] = old[-1] if len(old) == _SWEEP_ROWS else 0
        known, done = self._open[bucket], set(self._done[bucket])
        for sequence in old:
            if sequence not in known and sequence not in done:
                rows = await store.read_outbox(self._pool, bucket, self._writer, sequence - 1, 1)
                if rows and rows[0].sequence == sequence:
                    await self._deliver_stored(bucket, self._writer, rows, set())

    async def _adopt(self, bucket: int, writer: int) -> None:
        away: set[str] = set()
        after = 0
        while rows := await store.read_outbox(self._pool, bucket, writer, after, _MAX_ROWS_A_CALL):
            after = rows[-1].sequence
            await self._deliver_stored(bucket, writer, rows, away)
            if all(each.is_seldom or each.name in away for each in self._destinations):
                return
            if not away:
                metrics.OUTBOX_ADOPTED.inc(len(rows))
                log.info("outbox_adopted", bucket=bucket, rows=len(rows))

    async def _deliver_stored(
        self, bucket: int, writer: int, rows: Sequence[OutboxRow], away: set[str]
    ) -> None:
        """Hands over stored rows outside any queue. A destination that is away keeps its part, is noted, and stops no other."""
        sequences = [row.sequence for row in rows]
        for destination in self._destinations:
            if destination.name in away or not any(destination.part(row) for row in rows):
                continue
            try:
                refusals = await destination.deliver(rows)
            except CairnError:
                away.add(destination.name)
                continue
            if refusals:
                await self._tell(destination, refusals)
            await store.settle_outbox(self._pool, bucket, writer, sequences, destination.name)
        if not away:
            await store.delete_outbox(self._pool, bucket, writer, sequences)

    async def _every(self, seconds: float, act: Callable[[], Awaitable[None]]) -> None:
        failing = False
        while True:
            await asyncio.sleep(seconds)
            try:
                await act()
                failing = False
            except Exception as error:
                if not failing and not is_unavailable(error) and not isinstance(error, CairnError):
                    log.error("relay_round_failed", exc_info=error)
                elif not failing:
                    log.warning("relay_waits", error=type(error).__name__)
                failing = True

    def _spawn(self, work: Coroutine[None, None, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))


def _report(destination: Destination, error: Exception) -> None:
    if isinstance(error, CairnError) or is_unavailable(error):
        log.warning("destination_away", destination=destination.name, error=str(error))
    else:
        log.error("relay_failed", destination=destination.name, exc_info=error)
