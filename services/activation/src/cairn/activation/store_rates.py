"""Owns the statement by which replicas share a connection's rate: one row a connection, one statement a batch."""

from cairn.activation.rates import AHEAD_US
from cairn.activation.store import Database

# `rates.reserve`, as one change of the row.
_RESERVE = """
INSERT INTO rates AS r (connection, spoken_for_us) VALUES ($1, $2::bigint + $3::bigint)
ON CONFLICT (connection) DO UPDATE
SET spoken_for_us = greatest(CASE WHEN r.spoken_for_us > $2 + $4::bigint THEN $2 ELSE r.spoken_for_us END, $2) + $3
WHERE r.spoken_for_us <= $2 + $5::bigint OR r.spoken_for_us > $2 + $4
RETURNING spoken_for_us
"""


async def reserve(
    database: Database, connection: str, *, now: int, cost_us: int, stale_us: int
) -> int | None:
    """Takes the next `cost_us` of a connection's time; returns when that begins, None when it is too far ahead to take it now."""
    until_us = await database.fetchval(_RESERVE, connection, now, cost_us, stale_us, AHEAD_US)
    return None if until_us is None else int(until_us) - cost_us
