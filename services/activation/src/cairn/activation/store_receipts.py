"""Owns the statements on the outbox of fates. A fate is written there by whatever statement makes a row final (`store.and_tell`)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cairn.activation.ledger import State
from cairn.activation.model import Receipt
from cairn.activation.store import HOW_MANY, Database, and_tell
from cairn.runtime.clock import from_datetime


@dataclass(frozen=True, slots=True)
class Untold:
    """A row of the outbox: what it tells has to be looked up."""

    sequence: int
    writer: int
    activation_ids: list[str]
    request_times: list[datetime]


_READ_OUTBOX = """
SELECT sequence, writer, activation_ids, request_times FROM receipts
WHERE bucket = $1 AND (sequence, writer) > ($2, $3) AND sequence < $4
ORDER BY sequence, writer LIMIT $5
"""


async def read_outbox(
    database: Database, bucket: int, *, after: tuple[int, int], before_us: int, limit: int
) -> list[Untold]:
    """Rows of a bucket's outbox behind the place `after` (sequence, writer) that were written before a time, in order."""
    rows = await database.fetch(_READ_OUTBOX, bucket, *after, before_us, limit)
    return [Untold(*row) for row in rows]


_READ_FATES = """
SELECT d.activation_id, d.profile_id, d.enrollment, d.state, d.detail, d.state_time
FROM deliveries d JOIN unnest($2::text[], $3::timestamptz[]) AS r(activation_id, request_time)
  ON d.activation_id = r.activation_id AND d.request_time = r.request_time
WHERE d.bucket = $1 AND d.request_time BETWEEN $4 AND $5 AND d.state > 3
"""


async def read_fates(database: Database, bucket: int, rows: Sequence[Untold]) -> list[Receipt]:
    """What rows of a bucket's outbox have to tell; nothing of those that the ledger holds no more."""
    times = [time for row in rows for time in row.request_times]
    found = await database.fetch(
        _READ_FATES,
        bucket,
        [id_ for row in rows for id_ in row.activation_ids],
        times,
        min(times),
        max(times),
    )
    return [
        Receipt(
            activation_id=row["activation_id"],
            profile_id=row["profile_id"],
            enrollment=row["enrollment"],
            state=State(row["state"]),
            detail=row["detail"],
            state_us=from_datetime(row["state_time"]),
        )
        for row in found
    ]


_DELETE_OUTBOX = """
DELETE FROM receipts r USING unnest($2::bigint[], $3::bigint[]) AS t(sequence, writer)
WHERE r.bucket = $1 AND r.sequence = t.sequence AND r.writer = t.writer
"""


async def delete_outbox(database: Database, bucket: int, taken: Sequence[tuple[int, int]]) -> None:
    """Forgets rows, by (sequence, writer), whose fates were taken."""
    await database.execute(
        _DELETE_OUTBOX, bucket, [sequence for sequence, _ in taken], [writer for _, writer in taken]
    )


_MOVE_OLD = and_tell(
    first="""
old AS MATERIALIZED (
    SELECT activation_id, request_time FROM deliveries WHERE bucket = $1 AND receipt_pending
    ORDER BY request_time LIMIT $4 FOR UPDATE
), """,
    change="""
UPDATE deliveries d SET receipt_pending = false FROM old
WHERE d.bucket = $1 AND d.request_time = old.request_time AND d.activation_id = old.activation_id
RETURNING d.activation_id, d.request_time, d.state
""",
    sequence="$2",
    writer="$3",
    answer=HOW_MANY,
)


async def move_old(database: Database, bucket: int, sequence: int, writer: int, limit: int) -> int:
    """Moves to the outbox what the release before noted in the ledger's rows; returns how many."""
    return int(await database.fetchval(_MOVE_OLD, bucket, sequence, writer, limit))
