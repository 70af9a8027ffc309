"""Owns the way of fates to whoever asked for the activations: from memory as soon as they are committed, from the outbox after a crash.

Refuses to forget one that was not taken. A fate may arrive twice.
"""

import asyncio
import contextlib
import itertools
from collections import defaultdict, deque
from collections.abc import Iterable, Iterator

import grpc
import structlog

from cairn.activation import crash, store_receipts, wire
from cairn.activation.board import Board
from cairn.activation.model import Fates
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.activation.v1 import activation_pb2_grpc
from cairn.postgres.pool import Pool, is_unavailable
from cairn.runtime.clock import now_us

log = structlog.get_logger()

_MOST_IN_MEMORY = 8 * 1024 * 1024
_MOST_IN_CALL = 5_000
_ROWS_READ = 32
# A fate is in no hurry, and each call is a transaction of the receiver: what comes within a moment goes together.
_GATHER_SECONDS = 0.05
# Told rows are deleted together, too; a crash before that tells them again.
_FLUSH_SECONDS = 0.5
_SWEEP_SECONDS = 2.0
# Younger rows are about to come from memory, this process's or another's.
_OLD_US = 2_000_000
_ANY_AGE = (1 << 63) - 1
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_CALL_SECONDS = 10.0


class Relay:
    """The component that tells fates: those that this process settled, and those it finds in the outboxes of its buckets."""

    name = "relay"

    def __init__(self, pool: Pool, board: Board, channel: grpc.aio.Channel) -> None:
        self._pool = pool
        self._board = board
        self._sink = activation_pb2_grpc.ReceiptSinkServiceStub(channel)
        self._queue: deque[Fates] = deque()
        self._queued_bytes = 0
        # The rows, by (bucket, sequence, writer), that memory has, or that were told and are not deleted yet.
        self._known: set[tuple[int, int, int]] = set()
        self._told: dict[int, list[tuple[int, int]]] = defaultdict(list)
        # Buckets whose outbox may hold what memory does not, with the time before which it was written.
        self._behind: dict[int, int] = {}
        self._flush_at = self._sweep_at = 0.0
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._board.on_fates = self._tell
        self._board.on_untold = self._look
        self._task = asyncio.create_task(self._run(), name="receipts")

    async def drain(self) -> None:
        """Ends after the call that is under way; the outbox keeps the rest."""
        self._stopping.set()
        self._wake.set()
        if self._task is not None:
            await self._task

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def _tell(self, fates: Fates) -> None:
        if fates[:3] in self._known:
            return
        if self._queued_bytes + len(fates.body) > _MOST_IN_MEMORY:
            self._look(fates.bucket)
            return
        self._queued_bytes += len(fates.body)
        self._queue.append(fates)
        self._known.add(fates[:3])
        self._wake.set()

    def _look(self, bucket: int, before_us: int = _ANY_AGE) -> None:
        self._behind[bucket] = max(before_us, self._behind.get(bucket, 0))
        self._wake.set()

    async def _run(self) -> None:
        pause_s, failing = _FIRST_PAUSE_S, False
        while not self._stopping.is_set():
            await self._wait()
            try:
                await self._send_all()
                await self._flush()
                pause_s, failing = _FIRST_PAUSE_S, False
            except Exception as error:  # noqa: BLE001 - receipts wait for whatever comes back
                if not failing:
                    _say(error)
                failing = True
                await self._pause(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                self._wake.set()

    async def _wait(self) -> None:
        """Until there is something to tell, to delete or to look for."""
        time = asyncio.get_running_loop().time
        until = min(self._sweep_at, self._flush_at) if self._told else self._sweep_at
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                await self._wake.wait()
                await asyncio.sleep(_GATHER_SECONDS)
        self._wake.clear()
        if time() >= self._sweep_at:
            self._sweep_at = time() + _SWEEP_SECONDS
            for bucket in self._board.buckets:
                self._look(bucket, now_us() - _OLD_US)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _send_all(self) -> None:
        """What was there when it began; what comes meanwhile is gathered again."""
        due = len(self._queue)
        while due > 0 and not self._stopping.is_set():
            batch = self._next()
            await self._send(batch)
            due -= len(batch)
        for bucket in list(self._behind):
            before_us = self._behind.pop(bucket)
            try:
                await self._read_back(bucket, before_us)
            except BaseException:
                self._look(bucket, before_us)
                raise

    def _next(self) -> list[Fates]:
        """What goes together of what is queued; it stays there until it is taken."""
        counts = itertools.accumulate(fates.size for fates in self._queue)
        fitting = sum(1 for _ in itertools.takewhile(lambda count: count <= _MOST_IN_CALL, counts))
        return list(itertools.islice(self._queue, max(fitting, 1)))

    async def _send(self, batch: list[Fates]) -> None:
        await self._deliver(fates.body for fates in batch)
        for fates in batch:
            self._queue.popleft()
            self._queued_bytes -= len(fates.body)
            self._note_told(*fates[:3])
        await self._flush()

    async def _read_back(self, bucket: int, before_us: int) -> None:
        """Tells what the outbox of a bucket holds and memory does not."""
        place = (0, 0)
        while not self._stopping.is_set():
            rows = await store_receipts.read_outbox(
                self._pool, bucket, after=place, before_us=before_us, limit=_ROWS_READ
            )
            unknown = [row for row in rows if (bucket, row.sequence, row.writer) not in self._known]
            # Many rows a call: the Evaluator has each call wait for company.
            for together in _in_calls(unknown):
                receipts = await store_receipts.read_fates(self._pool, bucket, together)
                await self._deliver([wire.to_receipts(receipts)])
                for row in together:
                    self._known.add((bucket, row.sequence, row.writer))
                    self._note_told(bucket, row.sequence, row.writer)
            if len(rows) < _ROWS_READ:
                return
            place = (rows[-1].sequence, rows[-1].writer)
            await self._flush()

    async def _deliver(self, bodies: Iterable[bytes]) -> None:
        # Serialized messages put one behind the other are one message, with the lists put one behind the other.
        receipts = pb.DeliverReceiptsRequest.FromString(b"".join(bodies)).receipts
        for start in range(0, len(receipts), _MOST_IN_CALL):
            request = pb.DeliverReceiptsRequest(receipts=receipts[start : start + _MOST_IN_CALL])
            crash.passing("before_receipt")
            await self._sink.DeliverReceipts(request, timeout=_CALL_SECONDS)
            crash.passing("after_receipt")

    def _note_told(self, bucket: int, sequence: int, writer: int) -> None:
        if not self._told:
            self._flush_at = asyncio.get_running_loop().time() + _FLUSH_SECONDS
        self._told[bucket].append((sequence, writer))

    async def _flush(self) -> None:
        """Deletes told rows, when it is time."""
        if asyncio.get_running_loop().time() < self._flush_at and not self._stopping.is_set():
            return
        while self._told:
            bucket, rows = next(iter(self._told.items()))
            await store_receipts.delete_outbox(self._pool, bucket, rows)
            del self._told[bucket]
            self._known.difference_update((bucket, *row) for row in rows)


def _in_calls(rows: Iterable[store_receipts.Untold]) -> Iterator[list[store_receipts.Untold]]:
    """Rows in order, as many together as one call takes."""
    together: list[store_receipts.Untold] = []
    size = 0
    for row in rows:
        if together and size + len(row.activation_ids) > _MOST_IN_CALL:
            yield together
            together, size = [], 0
        together.append(row)
        size += len(row.activation_ids)
    if together:
        yield together


def _say(error: Exception) -> None:
    if isinstance(error, grpc.aio.AioRpcError):
        log.warning("receipts_wait", why="the Evaluator does not take them", code=error.code().name)
    elif is_unavailable(error):
        log.warning("receipts_wait", why="Postgres does not answer")
    else:
        log.error("receipts_wait", why="a defect", exc_info=error)
