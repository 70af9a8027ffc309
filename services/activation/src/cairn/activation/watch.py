"""Owns how the ledger is watched: each bucket is asked once a second what came into its present state since.

Refuses to promise every state that a delivery passes: what changes twice within a moment is told once.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence

from cairn.activation import store_moves
from cairn.activation.model import Delivery
from cairn.activation.store_moves import Watched
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us

_EVERY_SECONDS = 1.0
_PAGE = 1_000

OVERLAP_US = 5_000_000
"""What commits late has an older time, by another clock perhaps: so far back each look goes again."""


class Watch:
    """One caller's watch. What it was told is known for as long as a look can find it again."""

    def __init__(self, pool: Pool, buckets: Sequence[int], watched: Watched) -> None:
        self._pool = pool
        self._buckets = buckets
        self._watched = watched
        self._known: dict[tuple[str, int, int], int] = {}
        self._looked_us = now_us()

    async def changes(self) -> AsyncIterator[list[Delivery]]:
        """Pages of deliveries, each in the order of their times; the first is empty and says that it listens. Ends with its caller."""
        # What is there already is no change.
        async for _ in self._look():
            pass
        yield []
        while True:
            await asyncio.sleep(_EVERY_SECONDS)
            async for page in self._look():
                yield page

    async def _look(self) -> AsyncIterator[list[Delivery]]:
        since_us, self._looked_us = self._looked_us - OVERLAP_US, now_us()
        before_us = self._looked_us + OVERLAP_US
        for bucket in self._buckets:
            after, size = (since_us, ""), _PAGE
            while size == _PAGE:
                page = await store_moves.changed(self._pool, bucket, self._watched, after, before_us, _PAGE)
                size = len(page)
                fresh = [delivery for delivery in page if self._is_new(delivery)]
                if page:
                    after = (page[-1].state_us, page[-1].activation_id)
                if fresh:
                    yield fresh
        self._known = {key: at for key, at in self._known.items() if at >= since_us}

    def _is_new(self, delivery: Delivery) -> bool:
        key = (delivery.activation_id, delivery.state, delivery.state_us)
        if key in self._known:
            return False
        self._known[key] = delivery.state_us
        return True
