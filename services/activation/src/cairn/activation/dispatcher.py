"""Owns the buckets of this process: takes them, settles what their last owner left, keeps their lanes awake."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from cairn.activation import metrics, store, store_receipts, store_resources, store_work
from cairn.activation.channels import REPEATABLE_KINDS
from cairn.activation.lane import Lane
from cairn.activation.people import resolve_told
from cairn.activation.tools import Tools, describe
from cairn.postgres.buckets import BucketOwner
from cairn.postgres.pool import Connection, is_unavailable
from cairn.runtime.clock import now_us

log = structlog.get_logger()

_NAMESPACE = "activation"
_CENSUS_EVERY_US = 30_000_000
_HANDOVER_SECONDS = 2.0
_LONGEST_PAUSE_S = 5.0
_OLD_ROWS = 5_000
_IN_DOUBT = "the process that was sending it stopped; the destination may have it"


class BucketWorker:
    """Works on one bucket while it is ours; one lane for each connection on which something is pending."""

    def __init__(self, tools: Tools, bucket: int, sweep_s: float, predecessor: "BucketWorker | None") -> None:
        self._tools = tools
        self._bucket = bucket
        self._sweep_s = sweep_s
        self._predecessor = predecessor
        self._lanes: dict[str, Lane] = {}
        self._stopping = asyncio.Event()
        self._adopted = False
        self._census_us = 0
        self.census = store_work.Census(0, 0, None)
        self._task = asyncio.create_task(self._run(), name=f"bucket-{bucket}")

    def wake(self, connection: str, arrived: int = 0) -> None:
        """Something is pending on a connection. Until the bucket is settled nothing starts: the sweep finds it then."""
        if self._adopted and not self._stopping.is_set():
            self._lane(connection).wake(arrived)

    def _lane(self, connection: str) -> Lane:
        if connection not in self._lanes:
            self._lanes[connection] = Lane(self._tools, self._bucket, connection)
        return self._lanes[connection]

    def stop_soon(self) -> None:
        """Begins nothing new."""
        self._stopping.set()
        for lane in self._lanes.values():
            lane.stop_soon()

    async def finish(self) -> None:
        """Ends when every batch that is under way has its results written."""
        self.stop_soon()
        await asyncio.gather(self._task, return_exceptions=True)
        await asyncio.gather(*(lane.finish() for lane in self._lanes.values()))

    def cancel(self) -> None:
        """Ends at once."""
        self._stopping.set()
        self._task.cancel()
        for lane in self._lanes.values():
            lane.cancel()

    async def _run(self) -> None:
        if self._predecessor is not None:
            # Its rows carry the same holder as ours: they must be settled before we settle any.
            await self._predecessor.finish()
            self._predecessor = None
        pause_s = self._sweep_s
        while not self._stopping.is_set():
            try:
                if not self._adopted:
                    await self._adopt()
                    self._adopted = True
                await self._sweep()
                pause_s = self._sweep_s
            except Exception as error:  # noqa: BLE001 - the bucket is ours until it is lost
                if not is_unavailable(error):
                    log.error("bucket_failed", bucket=self._bucket, **describe(error))
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()

    async def _adopt(self) -> None:
        tools = self._tools
        # Of ours, an earlier worker of this bucket may have left some: where it could not learn of its own commit.
        # No lane has started, so what is ours is not on its way anywhere.
        assert not self._lanes
        await store_work.give_back(
            tools.pool, self._bucket, "", holder=tools.board.holder, floor_us=0, now=now_us()
        )
        repeatable = await store_resources.connections_of_kinds(tools.pool, REPEATABLE_KINDS)
        board = tools.board
        async with tools.pool.acquire() as database, database.transaction():
            adopted = await store_work.adopt(
                database,
                self._bucket,
                holder=board.holder,
                repeatable=repeatable,
                detail=_IN_DOUBT,
                sequence=board.take_numbers(1, now_us()),
                now=now_us(),
            )
            # Together: nobody looks again later at what is UNKNOWN.
            await resolve_told(database, self._bucket, adopted.unknown, board)
        if adopted.states:
            counts = {state.name: count for state, count in adopted.states.items()}
            log.info("bucket_adopted", bucket=self._bucket, **counts)
        await self._take_census()
        board.on_untold(self._bucket)

    async def _move_old(self) -> None:
        """Moves to the outbox what a replica of the release before noted in the ledger: any may, for as long as one lives."""
        board, moved = self._tools.board, _OLD_ROWS
        while moved == _OLD_ROWS:
            moved = await store_receipts.move_old(
                self._tools.pool, self._bucket, board.take_numbers(1, now_us()), board.holder, _OLD_ROWS
            )

    async def _take_census(self) -> None:
        self._census_us = now_us()
        await self._move_old()
        self.census = await store_work.take_census(self._tools.pool, self._bucket, self._census_us)
        if not self._stopping.is_set():
            self._tools.board.own(self._bucket, self.census.oldest_us)

    async def _sweep(self) -> None:
        now = now_us()
        if now - self._census_us > _CENSUS_EVERY_US:
            await self._take_census()
        floor_us = self._tools.board.floor_us(self._bucket, now)
        soon_us = now + int(self._sweep_s * 1_000_000)
        due = await store_work.first_due(self._tools.pool, self._bucket, floor_us)
        for connection, due_us in due.items():
            # What is due later is found by a later sweep.
            if due_us <= soon_us and not self._stopping.is_set():
                self._lane(connection).wake_at(due_us)


class Dispatcher:
    """The component that delivers: a worker for each bucket that this replica owns."""

    name = "dispatcher"

    def __init__(
        self,
        tools: Tools,
        connect: Callable[[], Awaitable[Connection]],
        bucket_count: int,
        sweep_s: float,
    ) -> None:
        self._tools = tools
        self._connect = connect
        self._sweep_s = sweep_s
        self._workers: dict[int, BucketWorker] = {}
        self._leaving: dict[int, BucketWorker] = {}
        self._owner = BucketOwner(
            self._connect_and_listen,
            namespace=_NAMESPACE,
            bucket_count=bucket_count,
            on_acquired=self._on_acquired,
            on_lost=self._on_lost,
        )
        self._drained = False
        self._patience_s: float | None = _HANDOVER_SECONDS
        self._impatient_until = 0.0
        tools.board.on_work = tools.board.on_accepted = self._on_work
        metrics.BUCKETS.set_function(lambda: len(self._workers))
        metrics.PENDING.set_function(lambda: sum(w.census.pending for w in self._workers.values()))
        metrics.CONNECTIONS_RESTING.set_function(lambda: tools.breakers.resting)
        metrics.RECEIPTS_PENDING.set_function(lambda: sum(w.census.receipts for w in self._workers.values()))

    async def start(self) -> None:
        await self._owner.start()

    async def drain(self) -> None:
        """Finishes the batches under way and gives the buckets to whoever is there."""
        for worker in self._workers.values():
            worker.stop_soon()
        self._patience_s = None
        await self._owner.stop()
        self._drained = True

    async def stop(self) -> None:
        for worker in (*self._workers.values(), *self._leaving.values()):
            worker.cancel()
        if not self._drained:
            await self._owner.stop()
        await self._tools.catalog.close()

    async def _connect_and_listen(self) -> Connection:
        connection = await self._connect()
        await connection.add_listener(store.WORK_CHANNEL, self._on_told)
        return connection

    def _on_told(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        bucket, _, work = str(payload).partition(" ")
        if bucket.isdigit() and work:
            self._on_work(int(bucket), work)

    def _on_work(self, bucket: int, connection: str, arrived: int = 0) -> None:
        worker = self._workers.get(bucket)
        if worker is not None:
            worker.wake(connection, arrived)

    async def _on_acquired(self, bucket: int) -> None:
        predecessor = self._leaving.pop(bucket, None)
        self._workers[bucket] = BucketWorker(self._tools, bucket, self._sweep_s, predecessor)

    async def _on_lost(self, bucket: int) -> None:
        worker = self._workers.pop(bucket, None)
        if worker is None:
            return
        self._tools.board.disown(bucket)
        self._leaving[bucket] = worker
        now = asyncio.get_running_loop().time()
        # Buckets are lost one after the other: together they wait once, not once each.
        patience_s = self._patience_s if now > self._impatient_until else 0.0
        done, _ = await asyncio.wait({asyncio.ensure_future(worker.finish())}, timeout=patience_s)
        if done:
            self._leaving.pop(bucket, None)
            return
        # The lock goes all the same; the ledger's holder keeps the two owners apart.
        log.info("bucket_left_behind", bucket=bucket)
        self._impatient_until = now + 2 * _HANDOVER_SECONDS
