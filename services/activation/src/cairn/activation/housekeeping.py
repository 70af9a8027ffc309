"""Owns the ledger's days: partitions are there before they are needed, and go when they are old."""

from cairn.activation import store_listing
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us, to_datetime

HOUSEKEEPING_SECONDS = 3600.0


async def keep_days(pool: Pool, retention_days: int) -> None:
    """Makes the days to come, which are made two ahead, and drops those that are past `retention_days`."""
    today = to_datetime(now_us()).date()
    async with pool.acquire() as connection:
        await store_listing.keep_days(connection, today, retention_days)
