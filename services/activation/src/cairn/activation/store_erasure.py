"""Owns the statements that erase profiles: who was erased, and the way of their rows from a name to a keyed hash.

A row is left alone while it is SENDING, or locked by whoever works on it: it is found again when that has ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from cairn.activation.ledger import State
from cairn.activation.store import HOW_MANY, Database, and_tell
from cairn.runtime.clock import from_datetime, to_datetime

REMOVAL_PREFIX = "erase:"
"""How the ids of activations begin that take an erased profile out of an audience: when the platform took one, the member's row goes."""

ERASED = "profile erased"
"""The detail of deliveries that were withdrawn."""


@dataclass(frozen=True, slots=True)
class ErasedProfile:
    """A profile that is being erased: `profile_hash` is its keyed hash; `erase_us` when it was erased, in microseconds."""

    profile_id: str
    profile_hash: bytes
    erase_us: int

    @property
    def pseudonym(self) -> str:
        """What stands for its id from now on."""
        return self.profile_hash.hex()


_REMEMBER = """
INSERT INTO erasures (bucket, profile_hash, erase_time)
SELECT $1, n.profile_hash, n.erase_time FROM unnest($2::bytea[], $3::timestamptz[]) AS n(profile_hash, erase_time)
ORDER BY n.profile_hash
ON CONFLICT (bucket, profile_hash) DO UPDATE SET erase_time = greatest(erasures.erase_time, excluded.erase_time)
"""


async def remember(database: Database, bucket: int, profiles: Sequence[ErasedProfile]) -> None:
    """Writes down that profiles were erased; the latest time counts."""
    await database.execute(
        _REMEMBER,
        bucket,
        [profile.profile_hash for profile in profiles],
        [to_datetime(profile.erase_us) for profile in profiles],
    )


_FIND_ERASED = (
    "SELECT profile_hash, erase_time FROM erasures WHERE bucket = $1 AND profile_hash = ANY($2::bytea[])"
)


async def find_erased(database: Database, bucket: int, profile_hashes: Sequence[bytes]) -> dict[bytes, int]:
    """When each of these profiles was erased, in microseconds, by keyed hash; those that never were are left out.

    What was asked for until then is refused; what comes after is about a new profile of the same name.
    """
    rows = await database.fetch(_FIND_ERASED, bucket, list(profile_hashes))
    return {row["profile_hash"]: from_datetime(row["erase_time"]) for row in rows}


_FORGET_CONSENTS = """
DELETE FROM consents c USING unnest($2::text[], $3::timestamptz[]) AS e(profile_id, erase_time)
WHERE c.bucket = $1 AND c.profile_id = e.profile_id AND c.update_time <= e.erase_time
"""


async def forget_consents(database: Database, bucket: int, profiles: Sequence[ErasedProfile]) -> None:
    """Deletes what profiles had said until they were erased."""
    await database.execute(
        _FORGET_CONSENTS,
        bucket,
        [profile.profile_id for profile in profiles],
        [to_datetime(profile.erase_us) for profile in profiles],
    )


@dataclass(frozen=True, slots=True)
class Trace:
    """A delivery that still names an erased profile."""

    activation_id: str
    request_us: int
    state: State
    connection: str
    context: bytes
    pseudonym: str
    profile_id: str
    action: int
    sequence: int
    tried: bool
    """Whether it may have been handed to its destination at least once."""


_OF_THE_ERASED = """
FROM unnest($2::text[], $3::text[], $4::timestamptz[]) AS e(profile_id, pseudonym, erase_time)
JOIN deliveries d ON d.profile_id = e.profile_id AND d.request_time <= e.erase_time
WHERE d.bucket = $1
"""
_TAKE_TRACES = f"""
SELECT d.activation_id, d.request_time, d.state, d.connection, d.context, e.pseudonym, d.profile_id, d.action, d.sequence,
    d.attempts > (d.state IN ({int(State.LEASED)}, {int(State.REFUSED)}))::integer OR cardinality(d.history) > 0 AS tried
{_OF_THE_ERASED} AND d.state <> {int(State.SENDING)}
LIMIT $5 FOR UPDATE OF d SKIP LOCKED
"""
_ANY_TRACE = f"SELECT true {_OF_THE_ERASED} LIMIT 1"


async def take_traces(
    database: Database, bucket: int, profiles: Sequence[ErasedProfile], limit: int
) -> list[Trace]:
    """Locks some deliveries that name the profiles and were asked for until they were erased; to be called in a transaction."""
    rows = await database.fetch(_TAKE_TRACES, bucket, *_named(profiles), limit)
    return [
        Trace(
            activation_id=row["activation_id"],
            request_us=from_datetime(row["request_time"]),
            state=State(row["state"]),
            connection=row["connection"],
            context=row["context"],
            pseudonym=row["pseudonym"],
            profile_id=row["profile_id"],
            action=row["action"],
            sequence=row["sequence"],
            tried=row["tried"],
        )
        for row in rows
    ]


async def any_trace(database: Database, bucket: int, profiles: Sequence[ErasedProfile]) -> bool:
    """Whether a delivery is left that names one of the profiles."""
    return bool(await database.fetchval(_ANY_TRACE, bucket, *_named(profiles)))


_KEYS = """
FROM unnest($2::text[], $3::timestamptz[], $4::text[]) AS r(activation_id, request_time, pseudonym)
WHERE d.bucket = $1 AND d.request_time = r.request_time AND d.activation_id = r.activation_id
  AND d.request_time BETWEEN $5 AND $6
"""
_BLANK = f"UPDATE deliveries d SET profile_id = r.pseudonym, context = '', time_zone = '' {_KEYS}"  # noqa: S608 - made of constants
_WITHDRAW_ERASED = and_tell(
    f"""
UPDATE deliveries d SET profile_id = r.pseudonym, context = '', time_zone = '', state = {int(State.WITHDRAWN)}, holder = 0,
    state_time = $7, detail = $8
{_KEYS}
RETURNING d.activation_id, d.request_time, d.state
""",  # noqa: S608 - made of constants
    sequence="$9",
    writer="$10",
    answer=HOW_MANY,
)


async def blank(database: Database, bucket: int, traces: Sequence[Trace]) -> None:
    """Takes the person out of deliveries that are over."""
    if traces:
        await database.execute(_BLANK, bucket, *_keys(traces))


async def withdraw(
    database: Database, bucket: int, traces: Sequence[Trace], *, sequence: int, writer: int, now: int
) -> int:
    """Withdraws deliveries that have not left, takes the person out of them, and has their fate told; how many that were."""
    if not traces:
        return 0
    count = await database.fetchval(
        _WITHDRAW_ERASED, bucket, *_keys(traces), to_datetime(now), ERASED, sequence, writer
    )
    return int(count)


_HIDE_ADDRESSES = (
    "UPDATE suppressions SET address = '' WHERE address_hash = ANY($1::bytea[]) AND address <> ''"
)


async def hide_addresses(database: Database, address_hashes: Sequence[bytes]) -> None:
    """Leaves of suppressed addresses only their keyed hashes, by which they stay suppressed."""
    if address_hashes:
        await database.execute(_HIDE_ADDRESSES, list(address_hashes))


@dataclass(frozen=True, slots=True)
class Removal:
    """Somebody whom an audience holds and has to let go: `identifiers` is the JSON object that it got."""

    connection: str
    pseudonym: str
    identifiers: str


_SUPPOSE_MEMBERS = """
INSERT INTO members (bucket, connection, profile_id, present, identifiers, activation_id, sequence, update_time)
SELECT $1, n.connection, n.profile_id, true, n.identifiers, n.activation_id, n.sequence, $2::timestamptz
FROM unnest($3::text[], $4::text[], $5::text[], $6::text[], $7::bigint[])
    AS n(connection, profile_id, identifiers, activation_id, sequence)
ORDER BY n.profile_id, n.connection
ON CONFLICT (bucket, profile_id, connection) DO UPDATE SET present = true, identifiers = excluded.identifiers,
    activation_id = excluded.activation_id, sequence = excluded.sequence, update_time = excluded.update_time
WHERE NOT members.present
"""


async def suppose_members(
    database: Database, bucket: int, added: Sequence[tuple[Trace, Mapping[str, str]]], now: int
) -> None:
    """Takes those for members whom an audience may hold by what these deliveries gave it, unless it is known what it holds of them."""
    last = {
        (trace.profile_id, trace.connection): (trace, identifiers)
        for trace, identifiers in sorted(added, key=lambda each: each[0].sequence)
    }
    if last:
        await database.execute(
            _SUPPOSE_MEMBERS,
            bucket,
            to_datetime(now),
            [trace.connection for trace, _ in last.values()],
            [trace.profile_id for trace, _ in last.values()],
            [msgspec.json.encode(identifiers).decode() for _, identifiers in last.values()],
            [trace.activation_id for trace, _ in last.values()],
            [trace.sequence for trace, _ in last.values()],
        )


# A membership that a new profile of the same name asked for is that one's own: its activation still names it.
_TAKE_MEMBERS = """
WITH gone AS (
    DELETE FROM members m USING unnest($2::text[], $3::text[]) AS e(profile_id, pseudonym)
    WHERE m.bucket = $1 AND m.profile_id = e.profile_id AND NOT EXISTS (
        SELECT FROM deliveries d
        WHERE d.bucket = $1 AND d.activation_id = m.activation_id AND d.profile_id = m.profile_id)
    RETURNING m.connection, m.present, m.identifiers, m.activation_id, m.sequence, m.update_time, e.pseudonym
), kept AS (
    INSERT INTO members (bucket, connection, profile_id, present, identifiers, activation_id, sequence, update_time)
    SELECT $1, g.connection, g.pseudonym, true, g.identifiers, g.activation_id, g.sequence, g.update_time FROM gone g
    WHERE g.present
    ON CONFLICT (bucket, profile_id, connection) DO UPDATE SET identifiers = excluded.identifiers, present = true
    RETURNING connection, profile_id, identifiers
)
SELECT connection, profile_id AS pseudonym, identifiers FROM kept ORDER BY connection, profile_id
"""


async def take_members(database: Database, bucket: int, profiles: Sequence[ErasedProfile]) -> list[Removal]:
    """Takes the profiles' names out of the audiences' members; returns those whom an audience still holds, under their pseudonyms."""
    ids, pseudonyms, _ = _named(profiles)
    rows = await database.fetch(_TAKE_MEMBERS, bucket, ids, pseudonyms)
    return [Removal(row["connection"], row["pseudonym"], row["identifiers"]) for row in rows]


_DROP_MEMBERS = """
DELETE FROM members WHERE bucket = $1 AND profile_id = ANY($2::text[]) AND connection = ANY($3::text[])
"""


async def drop_members(database: Database, bucket: int, removals: Sequence[Removal]) -> None:
    """Forgets members of audiences that we have no way to any more."""
    if removals:
        pseudonyms = [removal.pseudonym for removal in removals]
        await database.execute(
            _DROP_MEMBERS, bucket, pseudonyms, [removal.connection for removal in removals]
        )


_FORGET_IDENTIFIERS = """
UPDATE deliveries d SET context = '' FROM unnest($2::text[], $3::timestamptz[]) AS r(activation_id, request_time)
WHERE d.bucket = $1 AND d.request_time = r.request_time AND d.activation_id = r.activation_id
  AND d.request_time BETWEEN $4 AND $5
"""


async def forget_identifiers(database: Database, bucket: int, removals: Sequence[tuple[str, int]]) -> None:
    """Empties removals, by activation and request time, that a platform took: it was the last to need the person's identifiers."""
    times = [to_datetime(request_us) for _, request_us in removals]
    ids = [activation_id for activation_id, _ in removals]
    await database.execute(_FORGET_IDENTIFIERS, bucket, ids, times, min(times), max(times))


def _named(profiles: Sequence[ErasedProfile]) -> tuple[list[str], list[str], list[object]]:
    return (
        [profile.profile_id for profile in profiles],
        [profile.pseudonym for profile in profiles],
        [to_datetime(profile.erase_us) for profile in profiles],
    )


def _keys(traces: Sequence[Trace]) -> tuple[list[str], list[object], list[str], object, object]:
    times = [to_datetime(trace.request_us) for trace in traces]
    return (
        [trace.activation_id for trace in traces],
        list(times),
        [trace.pseudonym for trace in traces],
        min(times),
        max(times),
    )
