"""Owns the news of publications and lives: how streams hear of a new revision, from this process or from another replica.

Refuses a question to Postgres for each stream: one poll serves all of them.
"""

import asyncio
from collections.abc import AsyncIterator

from cairn.definition import metrics, store
from cairn.definition.operations import list_changes
from cairn.definition.store_lives import Changes
from cairn.postgres.pool import Pool


class Revisions:
    """The newest revision that this process has heard of; it only grows."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._newest = 0
        self._news = asyncio.Event()

    def announce(self, revision: int) -> None:
        """Wake whoever waits for a revision up to this one, which is committed."""
        if revision > self._newest:
            self._newest = revision
            news, self._news = self._news, asyncio.Event()
            news.set()

    async def poll(self) -> None:
        """Hear of what other replicas have published; to be repeated for ever."""
        self.announce(await store.read_revision(self._pool))

    async def wait_beyond(self, revision: int, timeout_s: float) -> None:
        """Return once there is a newer revision, or after so many seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._newest <= revision:
                    await self._news.wait()
        except TimeoutError:
            return


async def watch(
    pool: Pool, revisions: Revisions, after_revision: int, heartbeat_s: float
) -> AsyncIterator[Changes]:
    """The changes after a revision and then those to come, each as soon as it is heard of; at least one answer a heartbeat.

    Every answer is read from Postgres, so none is older than the call that waits for it; while Postgres is gone the
    stream ends with POSTGRES_UNAVAILABLE instead of calling itself caught up.
    """
    with metrics.WATCH_STREAMS.track_inprogress():
        while True:
            changes = await list_changes(pool, after_revision)
            yield changes
            after_revision = changes.reached
            if after_revision >= changes.newest:
                await revisions.wait_beyond(after_revision, heartbeat_s)
