"""Owns the ledger's days: partitions are there before they are needed, and go when they are old."""

from cairn.activation import store_listing
from cairn.activation.people import People
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us, to_datetime

HOUSEKEEPING_SECONDS = 3600.0

_DAY_US = 86_400_000_000


async def keep_days(pool: Pool, retention_days: int) -> None:
    """Makes the days to come, which are made two ahead, and drops those that are past `retention_days`."""
    today = to_datetime(now_us()).date()
    async with pool.acquire() as connection:
        await store_listing.keep_days(connection, today, retention_days)


async def forget_feedback(people: People, retention_days: int) -> None:
    """Deletes what destinations told longer than `retention_days` ago: the deliveries that it is about are gone as well."""
    await people.forget_feedback(now_us() - retention_days * _DAY_US)
