"""Owns the parts of the Evaluator that live and die with it: its name as a writer, the days of its tables, its lanes."""

import asyncio
from collections.abc import Sequence

import structlog

from cairn.evaluator import store
from cairn.evaluator.lane import Lane
from cairn.evaluator.relay import WRITER_NAMESPACE
from cairn.postgres.database import Database
from cairn.postgres.identity import LockIdentity
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us

log = structlog.get_logger()

_PARTITION_SECONDS = 3600.0
_RETRY_SECONDS = 30.0


class WriterName:
    """The lock that says that this writer lives: while it is held, nobody else sends what this process wrote."""

    name = "writer-name"

    def __init__(self, database: Database, writer: int) -> None:
        self._identity = LockIdentity(database.connect, namespace=WRITER_NAMESPACE, id=writer)

    async def start(self) -> None:
        await self._identity.start()

    async def drain(self) -> None:
        """Nothing was accepted."""

    async def stop(self) -> None:
        await self._identity.stop()


class Partitions:
    """Makes the days that tables need before they come, and drops those that are over, every hour."""

    name = "partitions"

    def __init__(self, pool: Pool, dedup_days: int, timeline_days: int) -> None:
        self._pool = pool
        self._dedup_days = dedup_days
        self._timeline_days = timeline_days
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._keep()
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def drain(self) -> None:
        """Nothing was accepted."""

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _keep(self) -> None:
        today = store.utc_day(now_us())
        await store.keep_partitions(self._pool, today, self._dedup_days, self._timeline_days)

    async def _run(self) -> None:
        pause = _PARTITION_SECONDS
        while True:
            await asyncio.sleep(pause)
            try:
                await self._keep()
                pause = _PARTITION_SECONDS
            except Exception as error:  # noqa: BLE001 - days are made ahead: there is time to try again
                log.warning("partitions_not_kept", error=type(error).__name__)
                pause = _RETRY_SECONDS


class Lanes:
    """The lanes, one for each bucket."""

    name = "lanes"

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes

    async def start(self) -> None:
        for lane in self._lanes:
            lane.start()

    async def drain(self) -> None:
        await asyncio.gather(*(lane.drain() for lane in self._lanes))

    async def stop(self) -> None:
        await asyncio.gather(*(lane.stop() for lane in self._lanes))
