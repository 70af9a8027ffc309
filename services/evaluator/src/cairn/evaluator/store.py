"""Owns every SQL statement of the Evaluator. Each hot one names one bucket, as one scalar parameter. The pool exchanges times in
microseconds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from enum import IntEnum
from typing import Any

import asyncpg
import msgspec

from cairn.postgres.partitions import drop_partitions, ensure_partitions
from cairn.postgres.pool import AnyConnection, Pool


class RowKind(IntEnum):
    """What a row of the timeline holds."""

    TRANSITIONS = 1
    RECEIPT = 2
    REFUSAL = 3


class ProfileRow(msgspec.Struct, frozen=True, gc=False):
    """A profile as stored; `attributes`, `standings`, `behavior`, `recent` and `seen` are JSON texts, the last three may be empty."""

    profile_id: str
    revision: int
    attributes: str
    time_zone: str
    standings: str
    update_us: int
    behavior: str = ""
    recent: str = ""
    seen: str = ""

    @property
    def stored_bytes(self) -> int:
        """How long all of it is."""
        return (
            len(self.attributes)
            + len(self.standings)
            + len(self.behavior)
            + len(self.recent)
            + len(self.seen)
        )


class ProfileWrite(msgspec.Struct, gc=False):
    """A profile as it shall be: `revision` is one more than what was read; `attributes`, `behavior`, `recent` and `seen` None when they stay.

    `held_in` are the journeys in whose pause something of it is held, None where nothing is; `update_us` is set by whoever writes.
    `is_new` says that there is no row of it yet: any other only changes the row that there is.
    """

    profile_id: str
    revision: int
    attributes: str | None
    time_zone: str
    standings: str
    behavior: str | None = None
    recent: str | None = None
    held_in: list[str] | None = None
    seen: str | None = None
    update_us: int = 0
    is_new: bool = False

    @property
    def stored_bytes(self) -> int:
        """How long what is written is."""
        length = len(self.standings)
        for text in (self.attributes, self.behavior, self.recent, self.seen):
            if text is not None:
                length += len(text)
        return length


class TimelineRow(msgspec.Struct, gc=False):
    """One row of a profile's timeline; `entries` is a JSON text."""

    profile_id: str
    record_us: int
    row_id: int
    kind: RowKind
    entries: str


@dataclass(slots=True)
class OutboxRow:
    """The effects of one batch; each part is a serialized request of the contract, or None."""

    writer: int
    sequence: int
    schedule: bytes | None = None
    cancel: bytes | None = None
    activate: bytes | None = None
    withdraw: bytes | None = None
    erase: bytes | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is to be sent."""
        return not (self.schedule or self.cancel or self.activate or self.withdraw or self.erase)


@dataclass(slots=True)
class Appendix:
    """What goes with the swaps that were won: (profile_id, event_id) pairs, rows of the timeline, the effects."""

    event_ids: list[tuple[str, str]] = field(default_factory=list)
    timeline: list[TimelineRow] = field(default_factory=list)
    outbox: OutboxRow | None = None


_LOAD_PROFILES = """
SELECT profile_id, revision, attributes, time_zone, standings, update_time, behavior, recent, seen
FROM profiles WHERE bucket = $1 AND profile_id = ANY($2::text[])
"""


async def load_profiles(
    db: Pool | AnyConnection, bucket: int, profile_ids: Sequence[str]
) -> list[ProfileRow]:
    """The stored ones of these profiles."""
    return [_profile(row) for row in await db.fetch(_LOAD_PROFILES, bucket, profile_ids)]


_SEEN = """
SELECT e.profile_id, e.event_id
FROM unnest($2::text[], $3::text[]) AS u (profile_id, event_id)
JOIN event_ids e ON e.bucket = $1 AND e.profile_id = u.profile_id AND e.event_id = u.event_id AND e.arrival_time >= $4
"""


async def find_seen(
    db: Pool | AnyConnection, bucket: int, pairs: Sequence[tuple[str, str]], since_us: int
) -> set[tuple[str, str]]:
    """Those of the (profile_id, event_id) pairs that arrived at `since_us` or later and were acted on."""
    profile_ids, event_ids = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    rows = await db.fetch(_SEEN, bucket, profile_ids, event_ids, since_us)
    return {(row[0], row[1]) for row in rows}


# The swap. Rows come in the order of the arrays, which is the order of the keys, so that two writers that meet cannot wait for each other
# in a ring. The revision of a profile that is there already comes with a minus: a row that is inserted with one was erased since it was
# read, and its writer has lost. Whoever makes profiles gives the number of the bucket's erasures that it knows.
_swap_template = """
INSERT INTO profiles AS p (bucket, profile_id, revision, attributes, time_zone, standings, behavior, recent, held_in, seen,
    update_time)
SELECT $1, u.profile_id, u.revision, u.attributes, u.time_zone, u.standings, u.behavior, u.recent,
    string_to_array(u.held_in, ','), u.seen, u.update_time
FROM unnest($2::text[], $3::bigint[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[], $10::text[],
    $11::timestamptz[])
    AS u (profile_id, revision, attributes, time_zone, standings, behavior, recent, held_in, seen, update_time)
{where}ON CONFLICT (bucket, profile_id) DO UPDATE SET
    revision = -excluded.revision,
    attributes = coalesce(excluded.attributes, p.attributes),
    time_zone = excluded.time_zone,
    standings = excluded.standings,
    behavior = coalesce(excluded.behavior, p.behavior),
    recent = coalesce(excluded.recent, p.recent),
    held_in = excluded.held_in,
    seen = coalesce(excluded.seen, p.seen),
    update_time = excluded.update_time
WHERE p.bucket = $1 AND p.revision = -excluded.revision - 1
RETURNING p.profile_id, p.revision
"""
_SWAP = _swap_template.format(where="")
_TAKE_OUT = "DELETE FROM profiles WHERE bucket = $1 AND profile_id = ANY($2::text[])"


async def swap_profiles(connection: AnyConnection, bucket: int, writes: Sequence[ProfileWrite]) -> set[str]:
    """Writes each profile whose revision is still the one that was read; returns the ids of those written.

    `writes` are in the order of their ids, each id once. The caller holds the bucket's erasures when one of them is new.
    """
    if not writes:
        return set()
    rows = await connection.fetch(_SWAP, bucket, *_swap_columns(writes))
    if erased := [row[0] for row in rows if row[1] < 0]:
        await connection.execute(_TAKE_OUT, bucket, erased)
    return {row[0] for row in rows if row[1] > 0}


def _swap_columns(writes: Sequence[ProfileWrite]) -> tuple[list[Any], ...]:
    return (
        [write.profile_id for write in writes],
        [write.revision if write.is_new else -write.revision for write in writes],
        [write.attributes for write in writes],
        [write.time_zone for write in writes],
        [write.standings for write in writes],
        [write.behavior for write in writes],
        [write.recent for write in writes],
        [write.held_in and ",".join(write.held_in) for write in writes],
        [write.seen for write in writes],
        [write.update_us for write in writes],
    )


# What goes with the swaps, as one statement: a round trip is what costs. The numbers of its parameters follow those of the swap where
# both are one statement.
_append_template = """
WITH {first}new_ids AS (
    INSERT INTO event_ids (bucket, profile_id, event_id, arrival_time)
    SELECT $1, u.profile_id, u.event_id, ${now} FROM unnest(${ids}::text[], ${events}::text[]) AS u (profile_id, event_id)
), new_rows AS (
    INSERT INTO timeline (bucket, profile_id, record_time, row_id, kind, entries)
    SELECT $1, u.profile_id, u.record_time, u.row_id, u.kind, u.entries
    FROM unnest(${profiles}::text[], ${times}::timestamptz[], ${rows}::bigint[], ${kinds}::smallint[], ${entries}::text[])
        AS u (profile_id, record_time, row_id, kind, entries)
    ON CONFLICT DO NOTHING
), new_outbox AS (
    INSERT INTO outbox (bucket, writer, sequence, write_time, schedule, cancel, activate, withdraw)
    SELECT $1, ${writer}, ${sequence}, ${now}, ${schedule}, ${cancel}, ${activate}, ${withdraw} WHERE ${filled}
)
{last}
"""
_APPEND_PARAMETERS = (
    "now", "ids", "events", "profiles", "times", "rows", "kinds", "entries", "writer", "sequence", "schedule", "cancel",
    "activate", "withdraw", "filled",
)  # fmt: skip


def _append_statement(first: str, last: str, after: int) -> str:
    numbers = {name: number for number, name in enumerate(_APPEND_PARAMETERS, after + 1)}
    return _append_template.format(first=first, last=last, **numbers)


_APPEND_ALONE = _append_statement("", "SELECT", 1)
# The erasures are held first, before any row is: who erases takes the locks in the same order.
_still = "(NOT $28 OR coalesce((SELECT number = $29 FROM held), false))"
_held = "held AS MATERIALIZED (SELECT number FROM erasures WHERE bucket = $1 AND $28::boolean FOR SHARE), "
# A count that is not the one expected divides by zero, before anything else is written: the statement fails, and with it the swaps.
_last = "SELECT 1 / (count(*) FILTER (WHERE revision > 0) = $27 AND STILL)::int FROM swapped"
_WRITE_BATCH = _append_statement(
    f"{_held}swapped AS ({_swap_template.format(where=f'WHERE {_still} ')}), ",
    _last.replace("STILL", _still),
    11,
)


async def write_batch(
    pool: Pool,
    bucket: int,
    writes: Sequence[ProfileWrite],
    appendix: Appendix,
    now_us: int,
    erasures: int | None = None,
) -> bool:
    """The swaps and what goes with them, all or nothing, as one statement; False when a swap was lost, and then nothing was written.

    `erasures` is how many erasures of the bucket the caller knows; with more nothing is written either. None: it makes no profile,
    and need not ask.
    """
    try:
        await pool.execute(
            _WRITE_BATCH,
            bucket,
            *_swap_columns(writes),
            *_append_columns(appendix, now_us),
            len(writes),
            erasures is not None,
            erasures or 0,
        )
    except asyncpg.DivisionByZeroError:
        return False
    return True


async def append(connection: AnyConnection, bucket: int, appendix: Appendix, now_us: int) -> None:
    """Writes what goes with the swaps, in the same transaction."""
    await connection.execute(_APPEND_ALONE, bucket, *_append_columns(appendix, now_us))


def _append_columns(appendix: Appendix, now_us: int) -> tuple[Any, ...]:
    rows, outbox = appendix.timeline, appendix.outbox or OutboxRow(0, 0)
    return (
        now_us,
        [pair[0] for pair in appendix.event_ids],
        [pair[1] for pair in appendix.event_ids],
        [row.profile_id for row in rows],
        [row.record_us for row in rows],
        [row.row_id for row in rows],
        [row.kind for row in rows],
        [row.entries for row in rows],
        outbox.writer,
        outbox.sequence,
        outbox.schedule,
        outbox.cancel,
        outbox.activate,
        outbox.withdraw,
        not outbox.is_empty,
    )


_READ_OUTBOX = """
SELECT writer, sequence, schedule, cancel, activate, withdraw, erase FROM outbox
WHERE bucket = $1 AND writer = $2 AND sequence > $3 ORDER BY sequence LIMIT $4
"""


async def read_outbox(
    db: Pool | AnyConnection, bucket: int, writer: int, after: int, limit: int
) -> list[OutboxRow]:
    """A writer's rows after a sequence, in order."""
    return [OutboxRow(*row) for row in await db.fetch(_READ_OUTBOX, bucket, writer, after, limit)]


_OLD_OUTBOX = """
SELECT sequence FROM outbox
WHERE bucket = $1 AND writer = $2 AND sequence > $3 AND write_time <= $4 ORDER BY sequence LIMIT $5
"""


async def find_old_outbox(
    db: Pool | AnyConnection, bucket: int, writer: int, after: int, until_us: int, limit: int
) -> list[int]:
    """The sequences of a writer's rows after a sequence that were written at `until_us` or before, in order."""
    rows = await db.fetch(_OLD_OUTBOX, bucket, writer, after, until_us, limit)
    return [row[0] for row in rows]


_OTHER_WRITERS = "SELECT DISTINCT writer FROM outbox WHERE bucket = $1 AND writer <> $2"


async def other_writers(db: Pool | AnyConnection, bucket: int, writer: int) -> list[int]:
    """Who else has rows in the outbox."""
    return [row[0] for row in await db.fetch(_OTHER_WRITERS, bucket, writer)]


_DELETE_OUTBOX = "DELETE FROM outbox WHERE bucket = $1 AND writer = $2 AND sequence = ANY($3::bigint[])"


async def delete_outbox(db: Pool | AnyConnection, bucket: int, writer: int, sequences: Sequence[int]) -> None:
    """Forgets rows that all destinations have accepted."""
    await db.execute(_DELETE_OUTBOX, bucket, writer, sequences)


_SETTLE_SCHEDULER = """
UPDATE outbox SET schedule = NULL, cancel = NULL
WHERE bucket = $1 AND writer = $2 AND sequence = ANY($3::bigint[])
"""
_SETTLE_ACTIVATION = """
UPDATE outbox SET activate = NULL, withdraw = CASE WHEN erase IS NOT NULL THEN withdraw END
WHERE bucket = $1 AND writer = $2 AND sequence = ANY($3::bigint[])
"""
_SETTLE_ERASURES = """
UPDATE outbox SET erase = NULL, withdraw = CASE WHEN erase IS NULL THEN withdraw END
WHERE bucket = $1 AND writer = $2 AND sequence = ANY($3::bigint[])
"""
_SETTLE = {
    "scheduler": _SETTLE_SCHEDULER, "activation": _SETTLE_ACTIVATION, "erasures": _SETTLE_ERASURES,
}  # fmt: skip


async def settle_outbox(
    db: Pool | AnyConnection, bucket: int, writer: int, sequences: Sequence[int], destination: str
) -> None:
    """Strikes the part that one destination has accepted, where another keeps the row waiting."""
    await db.execute(_SETTLE[destination], bucket, writer, sequences)


_INSERT_TIMELINE = """
INSERT INTO timeline (bucket, profile_id, record_time, row_id, kind, entries)
SELECT $1, u.profile_id, u.record_time, u.row_id, u.kind, u.entries
FROM unnest($2::text[], $3::timestamptz[], $4::bigint[], $5::smallint[], $6::text[])
    AS u (profile_id, record_time, row_id, kind, entries)
ON CONFLICT DO NOTHING
"""


async def insert_timeline(db: Pool | AnyConnection, bucket: int, rows: Sequence[TimelineRow]) -> None:
    """Adds rows to timelines outside a swap; those that are there already stay as they are."""
    await db.execute(
        _INSERT_TIMELINE,
        bucket,
        [row.profile_id for row in rows],
        [row.record_us for row in rows],
        [row.row_id for row in rows],
        [row.kind for row in rows],
        [row.entries for row in rows],
    )


_TIMELINE = """
SELECT record_time, row_id, kind, entries FROM timeline
WHERE bucket = $1 AND profile_id = $2 AND (record_time, row_id) <= ($3, $4)
ORDER BY record_time DESC, row_id DESC LIMIT $5
"""


async def read_timeline(
    db: Pool, bucket: int, profile_id: str, first: tuple[int, int], limit: int
) -> list[TimelineRow]:
    """Rows of one timeline from a place (record time, row id) on, it included, newest first."""
    rows = await db.fetch(_TIMELINE, bucket, profile_id, first[0], first[1], limit)
    return [TimelineRow(profile_id, row[0], row[1], RowKind(row[2]), row[3]) for row in rows]


# The text is searched; who is found too much is left out later.
_LIST_PROFILES = """
SELECT profile_id, revision, attributes, time_zone, standings, update_time, behavior, recent, seen FROM profiles
WHERE bucket = $1 AND profile_id > $2 AND ($3::text = ''
    OR strpos(standings, '"' || $3 || '":') > 0 OR strpos(standings, '"' || $3 || '/') > 0)
ORDER BY profile_id LIMIT $4
"""


async def list_profiles(db: Pool, bucket: int, after: str, journey_id: str, limit: int) -> list[ProfileRow]:
    """Profiles of a bucket in order of id; with a journey's id, at least those that stand somehow with it."""
    return [_profile(row) for row in await db.fetch(_LIST_PROFILES, bucket, after, journey_id, limit)]


_READ_VERSIONS = "SELECT document FROM journey_versions ORDER BY revision, journey_id"
_READ_LIVES = "SELECT document FROM journey_lives ORDER BY revision"
_READ_REVISION = "SELECT revision FROM journey_revision"


async def read_journeys(db: Pool) -> tuple[int | None, list[bytes], list[bytes]]:
    """The revision up to which journeys are known (None: none ever came), their versions and their lives as serialized messages."""
    revision = await db.fetchval(_READ_REVISION)
    versions = [row[0] for row in await db.fetch(_READ_VERSIONS)]
    return revision, versions, [row[0] for row in await db.fetch(_READ_LIVES)]


_WRITE_VERSIONS = """
INSERT INTO journey_versions (journey_id, version, revision, document)
SELECT * FROM unnest($1::text[], $2::int[], $3::bigint[], $4::bytea[]) ON CONFLICT DO NOTHING
"""
_WRITE_REVISION = """
INSERT INTO journey_revision (only_row, revision) VALUES (true, $1)
ON CONFLICT (only_row) DO UPDATE SET revision = greatest(journey_revision.revision, excluded.revision)
"""


_WRITE_LIVES = """
INSERT INTO journey_lives (journey_id, revision, document)
SELECT * FROM unnest($1::text[], $2::bigint[], $3::bytea[]) AS u (journey_id, revision, document) ORDER BY journey_id
ON CONFLICT (journey_id) DO UPDATE SET revision = excluded.revision, document = excluded.document
WHERE journey_lives.revision < excluded.revision
"""


async def write_journeys(
    db: Pool,
    revision: int | None,
    versions: Sequence[tuple[str, int, int, bytes]],
    lives: Sequence[tuple[str, int, bytes]] = (),
) -> None:
    """Keeps versions, as (journey_id, version, revision, serialized message), lives, as (journey_id, revision, serialized message)
    of each journey once, and the revision that they complete (None: more is to come first)."""
    async with db.acquire() as connection, connection.transaction():
        if versions:
            await connection.execute(
                _WRITE_VERSIONS, *(list(column) for column in zip(*versions, strict=True))
            )
        if lives:
            await connection.execute(_WRITE_LIVES, *(list(column) for column in zip(*lives, strict=True)))
        if revision is not None:
            await connection.execute(_WRITE_REVISION, revision)


_LIST_HELD = """
SELECT profile_id, held_in FROM profiles
WHERE bucket = $1 AND held_in IS NOT NULL AND profile_id > $2 AND held_in && $3::text[]
ORDER BY profile_id LIMIT $4
"""


async def list_held(
    db: Pool, bucket: int, after: str, journey_ids: Sequence[str], limit: int
) -> list[tuple[str, list[str]]]:
    """Profiles of a bucket of which something is held in one of these journeys, in order of id, with all the journeys that hold."""
    rows = await db.fetch(_LIST_HELD, bucket, after, journey_ids, limit)
    return [(row[0], row[1]) for row in rows]


_READ_REMOVALS = "SELECT journey_id, revision FROM removals WHERE bucket = $1"
_WRITE_REMOVAL = """
INSERT INTO removals (bucket, journey_id, revision) VALUES ($1, $2, $3)
ON CONFLICT (bucket, journey_id) DO UPDATE SET revision = greatest(removals.revision, excluded.revision)
"""


async def read_removals(db: Pool, bucket: int) -> dict[str, int]:
    """Up to which revision of each journey's life the open enrollments of a bucket have been removed, by journey."""
    return {row[0]: row[1] for row in await db.fetch(_READ_REMOVALS, bucket)}


async def write_removal(db: Pool, bucket: int, journey_id: str, revision: int) -> None:
    """Says that what a journey's life removes has been removed in a bucket."""
    await db.execute(_WRITE_REMOVAL, bucket, journey_id, revision)


async def keep_partitions(db: Pool, today: date, dedup_days: int, timeline_days: int) -> None:
    """Makes the days that are needed and drops those that are over."""
    async with db.acquire() as connection:
        # Receipts carry the time of their state, which is older than their arrival when we were away.
        await ensure_partitions(connection, "timeline", today - timedelta(days=2), 5)
        await ensure_partitions(connection, "event_ids", today - timedelta(days=1), 4)
        # One day more than the window: the day on which it ends is not over yet.
        await drop_partitions(connection, "event_ids", today - timedelta(days=dedup_days + 1))
        await drop_partitions(connection, "timeline", today - timedelta(days=timeline_days))


def utc_day(time_us: int) -> date:
    """The UTC day of a time."""
    return datetime.fromtimestamp(time_us // 1_000_000, UTC).date()


def _profile(row: asyncpg.Record) -> ProfileRow:
    profile_id, revision, attributes, time_zone, standings, updated, behavior, recent, seen = row
    return ProfileRow(
        profile_id,
        revision,
        attributes or "{}",
        time_zone or "",
        standings or "{}",
        updated,
        behavior or "",
        recent or "",
        seen or "",
    )


_ENCODER = msgspec.json.Encoder()


def to_json(value: Any) -> str:
    """A value as the JSON text that the tables hold."""
    return _ENCODER.encode(value).decode()
