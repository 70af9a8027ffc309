"""Owns the SQL statements about profiles that were erased. Each names one bucket, as one scalar parameter."""

from collections.abc import Sequence

import msgspec

from cairn.evaluator.store import OutboxRow
from cairn.postgres.pool import AnyConnection, Pool


class ErasedRow(msgspec.Struct, frozen=True, gc=False):
    """What has to be known of a profile that is about to go; `standings` is a JSON text."""

    profile_id: str
    revision: int
    standings: str
    update_us: int


class Tombstone(msgspec.Struct, frozen=True, gc=False):
    """What stays of a profile: the revision that it had come to, and when it was erased."""

    profile_hash: bytes
    revision: int
    erase_us: int


_OPEN_BUCKET = "INSERT INTO erasures (bucket, number) SELECT $1, 0 ON CONFLICT DO NOTHING"
_COUNT_ERASURES = "SELECT number FROM erasures WHERE bucket = $1"


async def open_bucket(db: Pool, bucket: int) -> int:
    """How many erasures a bucket has had; from then on there is a row to hold on to."""
    number = await db.fetchval(_COUNT_ERASURES, bucket)
    if number is None:
        await db.execute(_OPEN_BUCKET, bucket)
        number = await db.fetchval(_COUNT_ERASURES, bucket)
    return int(number)


# A share of the row: who erases waits until its holders are done, and they see the number of the erasure that they waited for.
_HOLD_ERASURES = "SELECT number FROM erasures WHERE bucket = $1 FOR SHARE"


async def hold_erasures(connection: AnyConnection, bucket: int) -> int:
    """How many erasures a bucket has had; there is no other until this transaction ends."""
    return int(await connection.fetchval(_HOLD_ERASURES, bucket))


_BEGIN_ERASURE = "UPDATE erasures SET number = number + 1 WHERE bucket = $1 RETURNING number"


async def begin_erasure(connection: AnyConnection, bucket: int) -> int:
    """The number of this erasure. Until this transaction ends nobody makes a profile in the bucket, and who does then knows of it."""
    return int(await connection.fetchval(_BEGIN_ERASURE, bucket))


# In the order of the keys, as those who write take them.
_LOCK_PROFILES = """
SELECT profile_id, revision, standings, update_time FROM profiles
WHERE bucket = $1 AND profile_id = ANY($2::text[]) ORDER BY profile_id FOR UPDATE
"""


async def lock_profiles(
    connection: AnyConnection, bucket: int, profile_ids: Sequence[str]
) -> list[ErasedRow]:
    """Those of these profiles that there are, as they are now; nobody changes them until this transaction ends."""
    rows = await connection.fetch(_LOCK_PROFILES, bucket, profile_ids)
    return [ErasedRow(row[0], row[1], row[2] or "{}", row[3]) for row in rows]


_DELETE_PROFILES = "DELETE FROM profiles WHERE bucket = $1 AND profile_id = ANY($2::text[])"
_DELETE_TIMELINE = "DELETE FROM timeline WHERE bucket = $1 AND profile_id = ANY($2::text[])"
_DELETE_EVENT_IDS = "DELETE FROM event_ids WHERE bucket = $1 AND profile_id = ANY($2::text[])"
_PUT_TOMBSTONES = """
INSERT INTO tombstones AS t (bucket, profile_hash, revision, erase_time)
SELECT $1, u.profile_hash, u.revision, u.erase_time
FROM unnest($2::bytea[], $3::bigint[], $4::timestamptz[]) AS u (profile_hash, revision, erase_time)
ON CONFLICT (bucket, profile_hash) DO UPDATE SET
    revision = greatest(t.revision, excluded.revision), erase_time = greatest(t.erase_time, excluded.erase_time)
WHERE t.bucket = $1
"""
_PUT_OUTBOX = """
INSERT INTO outbox (bucket, writer, sequence, write_time, cancel, withdraw, erase)
SELECT $1, $2, $3, $4, $5, $6, $7
"""


async def erase_profiles(
    connection: AnyConnection,
    bucket: int,
    profile_ids: Sequence[str],
    tombstones: Sequence[Tombstone],
    outbox: OutboxRow,
    now_us: int,
) -> None:
    """Everything of these profiles goes, their tombstones come, and what others have to do for it is on its way."""
    for statement in (_DELETE_PROFILES, _DELETE_TIMELINE, _DELETE_EVENT_IDS):
        await connection.execute(statement, bucket, profile_ids)
    await connection.execute(
        _PUT_TOMBSTONES,
        bucket,
        [each.profile_hash for each in tombstones],
        [each.revision for each in tombstones],
        [each.erase_us for each in tombstones],
    )
    await connection.execute(
        _PUT_OUTBOX,
        bucket,
        outbox.writer,
        outbox.sequence,
        now_us,
        outbox.cancel,
        outbox.withdraw,
        outbox.erase,
    )


_FIND_TOMBSTONES = """
SELECT profile_hash, revision, erase_time FROM tombstones
WHERE bucket = $1 AND profile_hash = ANY($2::bytea[])
"""


async def find_tombstones(
    db: Pool | AnyConnection, bucket: int, hashes: Sequence[bytes]
) -> dict[bytes, Tombstone]:
    """The tombstones that there are of these profiles, by their hashes."""
    rows = await db.fetch(_FIND_TOMBSTONES, bucket, hashes)
    return {row[0]: Tombstone(row[0], row[1], row[2]) for row in rows}


_LIFT_TOMBSTONES = "DELETE FROM tombstones WHERE bucket = $1 AND profile_hash = ANY($2::bytea[])"


async def lift_tombstones(connection: AnyConnection, bucket: int, hashes: Sequence[bytes]) -> None:
    """Forgets the tombstones of profiles that are made anew, in the transaction that makes them."""
    await connection.execute(_LIFT_TOMBSTONES, bucket, hashes)


_READ_KEY = "SELECT secret FROM keys WHERE name = $1"
_PUT_KEY = "INSERT INTO keys (name, secret) VALUES ($1, $2) ON CONFLICT DO NOTHING"


async def read_or_put_key(db: Pool, name: str, secret: bytes) -> bytes:
    """The key of a name, which is `secret` if there was none."""
    known = await db.fetchval(_READ_KEY, name)
    if known is None:
        await db.execute(_PUT_KEY, name, secret)
        known = await db.fetchval(_READ_KEY, name)
    return bytes(known)
