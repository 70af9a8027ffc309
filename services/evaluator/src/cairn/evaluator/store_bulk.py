"""Owns the SQL statements by which profiles come and go in bulk. Each names one bucket, as one scalar parameter."""

from collections.abc import Collection, Sequence

import msgspec

from cairn.evaluator.seen import NOTHING
from cairn.postgres.pool import Pool

_NOTHING_SEEN = msgspec.json.encode(NOTHING).decode()

# Whoever makes profiles shares the lock on the bucket's erasures, and does so only if it knows of all of them (see erasing).
_INSERT_PROFILES = """
WITH held AS MATERIALIZED (
    SELECT number FROM erasures WHERE bucket = $1 FOR SHARE
), inserted AS (
    INSERT INTO profiles (bucket, profile_id, revision, attributes, time_zone, standings, seen, update_time)
    SELECT $1, u.profile_id, 1, u.attributes, u.time_zone, '{}', $5, $6
    FROM unnest($2::text[], $3::text[], $4::text[]) AS u (profile_id, attributes, time_zone)
    WHERE (SELECT number FROM held) = $7
    ON CONFLICT (bucket, profile_id) DO NOTHING
    RETURNING profile_id
)
SELECT (SELECT number FROM held), (SELECT array_agg(profile_id) FROM inserted)
"""


async def insert_profiles(
    db: Pool, bucket: int, rows: Sequence[tuple[str, str, str]], erasures: int, now_us: int
) -> Collection[str] | None:
    """Makes those of these profiles that are not there, as (id, attributes as JSON, time zone) in the order of their ids; the ids of those made.

    None, and nothing is made, when the bucket has had more erasures than the caller knows.
    """
    if not rows:
        return ()
    ids, attributes, zones = zip(*rows, strict=True)
    row = await db.fetchrow(_INSERT_PROFILES, bucket, ids, attributes, zones, _NOTHING_SEEN, now_us, erasures)
    assert row is not None
    number, made = row
    return frozenset(made or ()) if number == erasures else None


_EXPORT_PROFILES = """
SELECT profile_id, attributes, time_zone, behavior FROM profiles
WHERE bucket = $1 AND profile_id > $2 ORDER BY profile_id LIMIT $3
"""


class ExportedRow(msgspec.Struct, frozen=True, gc=False):
    """What leaves of a profile, and its behavior for criteria that ask about it; `attributes` and `behavior` are JSON texts, the latter may
    be empty."""

    profile_id: str
    attributes: str
    time_zone: str
    behavior: str


async def export_profiles(db: Pool, bucket: int, after: str, limit: int) -> list[ExportedRow]:
    """Profiles of a bucket after an id, in the order of their ids."""
    rows = await db.fetch(_EXPORT_PROFILES, bucket, after, limit)
    return [ExportedRow(row[0], row[1] or "{}", row[2] or "", row[3] or "") for row in rows]
