"""Owns the statements on suppressions, consents and the service's own keys."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cairn.activation.store import Database
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import from_datetime, to_datetime


@dataclass(frozen=True, slots=True)
class Suppression:
    """An address that gets no mail: `connection` is an id, "" for all e-mail; `reason` the contract's number; times in microseconds."""

    address_hash: bytes
    connection: str
    address: str
    reason: int
    source: str
    detail: str
    create_us: int = 0


@dataclass(frozen=True, slots=True)
class Consent:
    """What a profile has said about a connection (its id), or about all that have no consent of their own ("")."""

    profile_id: str
    connection: str
    granted: bool
    source: str
    update_us: int


_KEEP_KEYS = """
INSERT INTO keys (name, value) SELECT * FROM unnest($1::text[], $2::bytea[]) ON CONFLICT (name) DO NOTHING
"""
_READ_KEYS = "SELECT name, value FROM keys WHERE name = ANY($1::text[])"


async def keep_keys(database: Database, made: Mapping[str, bytes]) -> dict[str, bytes]:
    """The keys of these names: those that there were, else those that are given, which stay for ever."""
    if not made:
        return {}
    await database.execute(_KEEP_KEYS, list(made), list(made.values()))
    # In a statement of its own: it sees what another replica made at the same moment.
    return {row["name"]: row["value"] for row in await database.fetch(_READ_KEYS, list(made))}


# Whoever unsubscribed may still get transactional mail; an address that a stronger reason stops may not, so that reason takes the place.
_SUPPRESS = f"""
WITH written AS (
    INSERT INTO suppressions AS s (address_hash, connection, address, reason, source, detail, create_time)
    SELECT n.*, $7::timestamptz FROM unnest($1::bytea[], $2::text[], $3::text[], $4::smallint[], $5::text[], $6::text[])
        AS n(address_hash, connection, address, reason, source, detail)
    ORDER BY address_hash, connection
    ON CONFLICT (address_hash, connection) DO UPDATE SET
        reason = excluded.reason, source = excluded.source, detail = excluded.detail
    WHERE s.reason = {int(pb.SUPPRESSION_REASON_UNSUBSCRIBE)} AND excluded.reason <> {int(pb.SUPPRESSION_REASON_UNSUBSCRIBE)}
    RETURNING xmax = 0 AS new
)
SELECT count(*) FILTER (WHERE new) FROM written
"""  # noqa: S608 - made of constants


async def suppress(database: Database, suppressions: Iterable[Suppression], now: int) -> int:
    """Writes those that are new, and tells how many that were. One that stands already stays, but gives way to a stronger reason."""
    # Of two with one key, the stronger one: an unsubscription is the weakest.
    unique: dict[tuple[bytes, str], Suppression] = {}
    for one in suppressions:
        key = (one.address_hash, one.connection)
        if key not in unique or unique[key].reason == pb.SUPPRESSION_REASON_UNSUBSCRIBE:
            unique[key] = one
    rows = list(unique.values())
    if not rows:
        return 0
    count = await database.fetchval(
        _SUPPRESS,
        [row.address_hash for row in rows],
        [row.connection for row in rows],
        [row.address for row in rows],
        [row.reason for row in rows],
        [row.source for row in rows],
        [row.detail for row in rows],
        to_datetime(now),
    )
    return int(count)


_COLUMNS = "address_hash, connection, address, reason, source, detail, create_time"
_LIST_SUPPRESSIONS = f"""
SELECT {_COLUMNS} FROM suppressions
WHERE (create_time, address_hash, connection) < ($1, $2, $3)
ORDER BY create_time DESC, address_hash DESC, connection DESC LIMIT $4
"""  # noqa: S608 - made of constants
_SUPPRESSIONS_OF = f"""
SELECT {_COLUMNS} FROM suppressions
WHERE address_hash = $5 AND (create_time, address_hash, connection) < ($1, $2, $3)
ORDER BY create_time DESC, address_hash DESC, connection DESC LIMIT $4
"""  # noqa: S608 - made of constants


async def list_suppressions(
    database: Database, before: tuple[int, bytes, str], limit: int, address_hash: bytes = b""
) -> list[Suppression]:
    """Those before a place (create time, hash, connection), newest first; of one address only where its hash is given."""
    create_us, hash_, connection = before
    arguments: list[Any] = [to_datetime(create_us), hash_, connection, limit]
    rows = (
        await database.fetch(_SUPPRESSIONS_OF, *arguments, address_hash)
        if address_hash
        else await database.fetch(_LIST_SUPPRESSIONS, *arguments)
    )
    return [_suppression(row) for row in rows]


_LIFT = "DELETE FROM suppressions WHERE address_hash = $1 AND connection = $2 RETURNING connection"


async def lift(database: Database, address_hash: bytes, connection: str) -> bool:
    """Lifts one suppression; False when there is none."""
    return await database.fetchval(_LIFT, address_hash, connection) is not None


# What was said before the profile was erased is not taken in again.
_SET_CONSENTS = """
WITH written AS (
    INSERT INTO consents (bucket, profile_id, connection, granted, source, update_time)
    SELECT $1, n.profile_id, n.connection, n.granted, n.source, n.update_time
    FROM unnest($2::text[], $3::bytea[], $4::text[], $5::boolean[], $6::text[], $7::timestamptz[])
        AS n(profile_id, profile_hash, connection, granted, source, update_time)
    WHERE NOT EXISTS (SELECT FROM erasures e
        WHERE e.bucket = $1 AND e.profile_hash = n.profile_hash AND e.erase_time >= n.update_time)
    ORDER BY n.profile_id, n.connection
    ON CONFLICT (bucket, profile_id, connection) DO UPDATE SET
        granted = excluded.granted, source = excluded.source, update_time = excluded.update_time
    WHERE consents.update_time < excluded.update_time
    RETURNING 1
)
SELECT count(*) FROM written
"""


async def set_consents(
    database: Database, bucket: int, consents: Sequence[Consent], profile_hashes: Sequence[bytes]
) -> int:
    """Writes consents of a bucket, each profile and connection once; how many changed something. An older one changes nothing."""
    count = await database.fetchval(
        _SET_CONSENTS,
        bucket,
        [consent.profile_id for consent in consents],
        list(profile_hashes),
        [consent.connection for consent in consents],
        [consent.granted for consent in consents],
        [consent.source for consent in consents],
        [to_datetime(consent.update_us) for consent in consents],
    )
    return int(count)


_GET_CONSENTS = """
SELECT profile_id, connection, granted, source, update_time FROM consents
WHERE bucket = $1 AND profile_id = $2 ORDER BY connection
"""


async def get_consents(database: Database, bucket: int, profile_id: str) -> list[Consent]:
    """What one profile has said, by connection."""
    return [
        Consent(
            profile_id=row["profile_id"],
            connection=row["connection"],
            granted=row["granted"],
            source=row["source"],
            update_us=from_datetime(row["update_time"]),
        )
        for row in await database.fetch(_GET_CONSENTS, bucket, profile_id)
    ]


def _suppression(row: Any) -> Suppression:
    return Suppression(
        address_hash=row["address_hash"],
        connection=row["connection"],
        address=row["address"],
        reason=row["reason"],
        source=row["source"],
        detail=row["detail"],
        create_us=from_datetime(row["create_time"]),
    )
