"""Owns the parts of the Evaluator that live and die with it: its name as a writer, the days of its tables, its lanes."""

import asyncio
from collections.abc import Sequence

from cairn.evaluator import store
from cairn.evaluator.lane import Lane
from cairn.evaluator.relay import WRITER_NAMESPACE
from cairn.postgres.database import Database
from cairn.postgres.identity import LockIdentity
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us

PARTITION_SECONDS = 3600.0
"""How often days are looked after; they are made well ahead."""


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


async def keep_partitions(pool: Pool, dedup_days: int, timeline_days: int) -> None:
    """Makes the days that the tables need before they come, and drops those that are over."""
    await store.keep_partitions(pool, store.utc_day(now_us()), dedup_days, timeline_days)


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
