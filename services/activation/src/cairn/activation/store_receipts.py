"""Owns the statements on fates that are still to be told."""

from collections.abc import Sequence

from cairn.activation.ledger import State
from cairn.activation.model import Receipt
from cairn.activation.store import Database
from cairn.runtime.clock import from_datetime, to_datetime

_READ_RECEIPTS = """
SELECT activation_id, request_time, profile_id, enrollment, state, state_time, detail FROM deliveries
WHERE bucket = $1 AND receipt_pending AND request_time >= $2
ORDER BY request_time LIMIT $3
"""


async def read_receipts(database: Database, bucket: int, floor_us: int, limit: int) -> list[Receipt]:
    """Fates that nobody has taken yet, oldest request first."""
    rows = await database.fetch(_READ_RECEIPTS, bucket, to_datetime(floor_us), limit)
    return [
        Receipt(
            activation_id=row["activation_id"],
            request_us=from_datetime(row["request_time"]),
            profile_id=row["profile_id"],
            enrollment=row["enrollment"],
            state=State(row["state"]),
            state_us=from_datetime(row["state_time"]),
            detail=row["detail"],
        )
        for row in rows
    ]


_CLEAR_RECEIPTS = """
UPDATE deliveries d SET receipt_pending = false
FROM unnest($2::text[], $3::timestamptz[]) AS r(activation_id, request_time)
WHERE d.bucket = $1 AND d.request_time = r.request_time AND d.activation_id = r.activation_id
  AND d.request_time BETWEEN $4 AND $5 AND d.receipt_pending
"""


async def clear_receipts(database: Database, bucket: int, receipts: Sequence[Receipt]) -> None:
    """Notes that these fates were taken."""
    times = [to_datetime(receipt.request_us) for receipt in receipts]
    await database.execute(
        _CLEAR_RECEIPTS, bucket, [r.activation_id for r in receipts], times, min(times), max(times)
    )
