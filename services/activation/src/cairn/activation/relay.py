"""Owns the way of receipts to whoever asked for the activations. Refuses to forget one that was not taken."""

import asyncio
import contextlib

import grpc
import structlog

from cairn.activation import store_receipts, wire
from cairn.activation.board import Board
from cairn.api.activation.v1 import activation_pb2_grpc
from cairn.postgres.pool import Pool, is_unavailable
from cairn.runtime.clock import now_us

log = structlog.get_logger()

_BATCH = 1_000
_SWEEP_SECONDS = 1.0
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_CALL_SECONDS = 10.0


class Relay:
    """The component that sends receipts, from the buckets that this process owns, until they are taken."""

    name = "relay"

    def __init__(self, pool: Pool, board: Board, channel: grpc.aio.Channel) -> None:
        self._pool = pool
        self._board = board
        self._sink = activation_pb2_grpc.ReceiptSinkServiceStub(channel)
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        self._board.on_receipts = self._wake.set
        self._task = asyncio.create_task(self._run(), name="receipts")

    async def drain(self) -> None:
        """Ends after the batch that is under way; the ledger keeps the rest."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        failing = False
        while not self._stopping:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_SWEEP_SECONDS):
                    await self._wake.wait()
            self._wake.clear()
            try:
                await self._send_all()
                pause_s, failing = _FIRST_PAUSE_S, False
            except Exception as error:  # noqa: BLE001 - receipts wait for whatever comes back
                if not failing:
                    self._say(error)
                failing = True
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                self._wake.set()

    async def _send_all(self) -> None:
        """Everything that is pending now; a bucket with much of it does not keep the others waiting."""
        more = self._board.buckets
        while more and not self._stopping:
            more = [bucket for bucket in more if await self._send_batch(bucket)]

    async def _send_batch(self, bucket: int) -> bool:
        floor_us = self._board.floor_us(bucket, now_us())
        receipts = await store_receipts.read_receipts(self._pool, bucket, floor_us, _BATCH)
        if not receipts:
            return False
        await self._sink.DeliverReceipts(wire.to_receipts(receipts), timeout=_CALL_SECONDS)
        await store_receipts.clear_receipts(self._pool, bucket, receipts)
        return len(receipts) == _BATCH

    @staticmethod
    def _say(error: Exception) -> None:
        if isinstance(error, grpc.aio.AioRpcError):
            log.warning("receipts_wait", why="the Evaluator does not take them", code=error.code().name)
        elif is_unavailable(error):
            log.warning("receipts_wait", why="Postgres does not answer")
        else:
            log.error("receipts_wait", why="a defect", exc_info=error)
