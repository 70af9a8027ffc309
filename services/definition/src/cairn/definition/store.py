"""Owns the SQL statements on journeys, versions, watchers and requests, and the rows they speak of.

Those on lives and segments are in `store_lives` and `store_segments`. Refuses to interpret a document.
"""
# ruff: noqa: S608 - statements are put together from the constants of this file alone

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Generic, TypeVar

import asyncpg

from cairn.postgres.pool import AnyConnection, Pool
from cairn.runtime.clock import from_datetime, to_datetime

Database = AnyConnection | Pool
R = TypeVar("R")

PAGE_BYTES = 2 * 1024 * 1024
"""Documents on one page, in bytes: with all around them they fit the 4 MiB that clients take by default."""

LIVE_SECONDS = 10
"""A watcher that was heard of within this time is live."""

# A page ends before the document that would pass the bound, but never without one.
WITHIN_PAGE = "total - size < $3"


@dataclass(frozen=True, slots=True)
class JourneyRow:
    """A journey and its draft: `draft` in canonical form, times in microseconds since the epoch.

    `pause_mode` and `pause_us` are of the present pause, "" and 0 unless the state is PAUSED.
    """

    journey_id: str
    draft: bytes
    etag: str
    state: str
    latest_version: int
    create_us: int
    update_us: int
    pause_mode: str = ""
    pause_us: int = 0


@dataclass(frozen=True, slots=True)
class VersionRow:
    """A published version; `document` is the draft as it was, `etag` the one that it had, `segments` a JourneyVersion with
    nothing but the segments as they were."""

    journey_id: str
    version: int
    document: bytes
    etag: str
    publish_us: int
    revision: int
    segments: bytes = b""


@dataclass(frozen=True, slots=True)
class WatcherRow:
    """A live watcher, the revision that it serves, and when it said so."""

    watcher: str
    revision: int
    seen_us: int


@dataclass(frozen=True, slots=True)
class Page(Generic[R]):
    """Some rows in order, and whether there are more after them."""

    rows: tuple[R, ...]
    more: bool


_JOURNEY = "journey_id, draft, etag, state, latest_version, create_time, update_time, pause_mode, pause_time"
VERSION_COLUMNS = "journey_id, version, document, etag, publish_time, revision, segments"

GET_JOURNEY = f"SELECT {_JOURNEY} FROM journeys WHERE journey_id = $1"
LOCK_JOURNEY = GET_JOURNEY + " FOR UPDATE"
GET_JOURNEYS = f"SELECT {_JOURNEY} FROM journeys WHERE journey_id = ANY($1::text[]) ORDER BY journey_id"
LOCK_JOURNEYS = GET_JOURNEYS + " FOR UPDATE"


async def get_journey(database: Database, journey_id: str, *, lock: bool = False) -> JourneyRow | None:
    """The journey, its row locked until the end of the transaction when `lock` is true."""
    record = await database.fetchrow(LOCK_JOURNEY if lock else GET_JOURNEY, journey_id)
    return _journey(record) if record else None


async def get_journeys(
    database: Database, journey_ids: Sequence[str], *, lock: bool = False
) -> dict[str, JourneyRow]:
    """Those that exist, by id; locked in order of id, so that two sets never wait for each other."""
    records = await database.fetch(LOCK_JOURNEYS if lock else GET_JOURNEYS, list(journey_ids))
    return {record["journey_id"]: _journey(record) for record in records}


LIST_JOURNEYS = f"""
SELECT {_JOURNEY}, found FROM (
    SELECT {_JOURNEY}, octet_length(draft) AS size, sum(octet_length(draft)) OVER (ORDER BY journey_id) AS total,
           row_number() OVER (ORDER BY journey_id) AS place, count(*) OVER () AS found
    FROM (SELECT {_JOURNEY} FROM journeys WHERE journey_id > $1 ORDER BY journey_id LIMIT $2 + 1) AS page
) AS measured
WHERE {WITHIN_PAGE} AND place <= $2
ORDER BY journey_id
"""


async def list_journeys(database: Database, after_id: str, limit: int) -> Page[JourneyRow]:
    """At most `limit` journeys after an id, fewer when they are large."""
    records = await database.fetch(LIST_JOURNEYS, after_id, limit, PAGE_BYTES)
    return Page(tuple(_journey(record) for record in records), has_more(records))


INSERT_JOURNEY = f"""
INSERT INTO journeys (journey_id, draft, etag, state, latest_version, create_time, update_time)
VALUES ($1, $2, $3, 'DRAFT', 0, $4, $4)
ON CONFLICT (journey_id) DO NOTHING
RETURNING {_JOURNEY}
"""


async def insert_journey(
    connection: AnyConnection, journey_id: str, draft: bytes, etag: str, now_us: int
) -> JourneyRow | None:
    """The new journey, or None when the id is taken."""
    record = await connection.fetchrow(INSERT_JOURNEY, journey_id, draft, etag, to_datetime(now_us))
    return _journey(record) if record else None


UPDATE_DRAFT = f"""
UPDATE journeys SET draft = $2, etag = $3, update_time = $4 WHERE journey_id = $1 RETURNING {_JOURNEY}
"""


async def update_draft(
    connection: AnyConnection, journey_id: str, draft: bytes, etag: str, now_us: int
) -> JourneyRow:
    """The journey with its new draft; its row is locked by the caller."""
    record = await connection.fetchrow(UPDATE_DRAFT, journey_id, draft, etag, to_datetime(now_us))
    assert record is not None
    return _journey(record)


DELETE_JOURNEY = "DELETE FROM journeys WHERE journey_id = $1"


async def delete_journey(connection: AnyConnection, journey_id: str) -> None:
    """Remove a journey that has no versions; its row is locked by the caller."""
    await connection.execute(DELETE_JOURNEY, journey_id)


GET_VERSION = f"SELECT {VERSION_COLUMNS} FROM versions WHERE journey_id = $1 AND version = $2"


async def get_version(database: Database, journey_id: str, version: int) -> VersionRow | None:
    """One published version."""
    record = await database.fetchrow(GET_VERSION, journey_id, version)
    return version_row(record) if record else None


GET_NEWEST_VERSIONS = f"""
SELECT DISTINCT ON (journey_id) {VERSION_COLUMNS} FROM versions
WHERE journey_id = ANY($1::text[])
ORDER BY journey_id, version DESC
"""


async def get_newest_versions(database: Database, journey_ids: Sequence[str]) -> dict[str, VersionRow]:
    """The newest version of each journey that has one, by journey id."""
    records = await database.fetch(GET_NEWEST_VERSIONS, list(journey_ids))
    return {record["journey_id"]: version_row(record) for record in records}


GET_SERVING_VERSIONS = f"""
SELECT {VERSION_COLUMNS} FROM versions
WHERE (journey_id, version) IN (
    SELECT journey_id, latest_version FROM journeys
    WHERE journey_id = ANY($1::text[]) AND state IN ('LIVE', 'PAUSED')
)
"""


async def get_serving_versions(database: Database, journey_ids: Sequence[str]) -> dict[str, VersionRow]:
    """The newest version of each of these journeys that is live or paused, by journey id."""
    records = await database.fetch(GET_SERVING_VERSIONS, list(journey_ids))
    return {record["journey_id"]: version_row(record) for record in records}


LIST_VERSIONS = f"""
SELECT {VERSION_COLUMNS}, found FROM (
    SELECT {VERSION_COLUMNS}, octet_length(document) + octet_length(segments) AS size,
           sum(octet_length(document) + octet_length(segments)) OVER (ORDER BY version DESC) AS total,
           row_number() OVER (ORDER BY version DESC) AS place, count(*) OVER () AS found
    FROM (
        SELECT {VERSION_COLUMNS} FROM versions WHERE journey_id = $1 AND version < $4 ORDER BY version DESC LIMIT $2 + 1
    ) AS page
) AS measured
WHERE {WITHIN_PAGE} AND place <= $2
ORDER BY version DESC
"""


async def list_versions(database: Database, journey_id: str, before: int, limit: int) -> Page[VersionRow]:
    """At most `limit` versions below a number, newest first, fewer when they are large."""
    records = await database.fetch(LIST_VERSIONS, journey_id, limit, PAGE_BYTES, before)
    return Page(tuple(version_row(record) for record in records), has_more(records))


LOCK_REVISION = "SELECT value FROM revision WHERE only_row FOR UPDATE"
TAKE_REVISIONS = "UPDATE revision SET value = value + $1 WHERE only_row RETURNING value"


async def lock_revision(connection: AnyConnection) -> None:
    """Wait until nobody else publishes, and keep others from it until the end of the transaction."""
    await connection.execute(LOCK_REVISION)


async def take_revisions(connection: AnyConnection, count: int) -> int:
    """The last of `count` new revisions; every other publisher waits from here to the end of the transaction."""
    value = await connection.fetchval(TAKE_REVISIONS, count)
    return int(value)


INSERT_VERSIONS = """
INSERT INTO versions (journey_id, version, document, etag, publish_time, revision, segments)
SELECT journey_id, version, document, etag, $5, revision, segments
FROM unnest($1::text[], $2::int[], $3::bytea[], $4::text[], $6::bigint[], $7::bytea[])
     AS fresh (journey_id, version, document, etag, revision, segments)
"""
MARK_PUBLISHED = """
UPDATE journeys SET state = CASE state WHEN 'DRAFT' THEN 'LIVE' ELSE state END, latest_version = fresh.version
FROM unnest($1::text[], $2::int[]) AS fresh (journey_id, version)
WHERE journeys.journey_id = fresh.journey_id
"""


async def insert_versions(connection: AnyConnection, rows: Sequence[VersionRow]) -> None:
    """Store versions of one publication, which have one publish time, and make those of their journeys live that were drafts."""
    ids = [row.journey_id for row in rows]
    versions = [row.version for row in rows]
    await connection.execute(
        INSERT_VERSIONS,
        ids,
        versions,
        [row.document for row in rows],
        [row.etag for row in rows],
        to_datetime(rows[0].publish_us),
        [row.revision for row in rows],
        [row.segments for row in rows],
    )
    await connection.execute(MARK_PUBLISHED, ids, versions)


READ_REVISION = "SELECT value FROM revision"


async def read_revision(database: Database) -> int:
    """The newest revision, 0 before the first publication."""
    return int(await database.fetchval(READ_REVISION))


READ_CLOCK = "SELECT clock_timestamp()"
PUT_WATCHER = """
INSERT INTO watchers (watcher, revision, seen_time) VALUES ($1, $2, $3)
ON CONFLICT (watcher) DO UPDATE SET revision = excluded.revision, seen_time = excluded.seen_time
"""
DELETE_WATCHER = "DELETE FROM watchers WHERE watcher = $1"
LIST_WATCHERS = "SELECT watcher, revision, seen_time FROM watchers WHERE seen_time > $1 ORDER BY watcher"


async def read_clock(database: Database) -> int:
    """Postgres' time: replicas have to agree on which watchers are live, whatever their own clocks say."""
    return from_datetime(await database.fetchval(READ_CLOCK))


async def put_watcher(database: Database, watcher: str, revision: int, seen_us: int) -> None:
    """Note that a watcher serves everything up to a revision."""
    await database.execute(PUT_WATCHER, watcher, revision, to_datetime(seen_us))


async def delete_watcher(database: Database, watcher: str) -> None:
    """Forget a watcher; one that is not known is forgotten already."""
    await database.execute(DELETE_WATCHER, watcher)


async def list_watchers(database: Database, now_us: int) -> list[WatcherRow]:
    """The live ones at a time of `read_clock`, by id."""
    since = to_datetime(now_us) - timedelta(seconds=LIVE_SECONDS)
    return [
        WatcherRow(record["watcher"], record["revision"], from_datetime(record["seen_time"]))
        for record in await database.fetch(LIST_WATCHERS, since)
    ]


CLAIM_REQUEST = """
INSERT INTO requests (request_id, fingerprint, response, request_time) VALUES ($1, $2, '', $3)
ON CONFLICT (request_id) DO NOTHING
RETURNING request_id
"""
GET_REQUEST = "SELECT fingerprint, response FROM requests WHERE request_id = $1"
ANSWER_REQUEST = "UPDATE requests SET response = $2 WHERE request_id = $1"


async def claim_request(connection: AnyConnection, request_id: str, fingerprint: bytes, now_us: int) -> bool:
    """Whether the id is new. Waits for another transaction that has just claimed it, and goes by its outcome."""
    claimed = await connection.fetchval(CLAIM_REQUEST, request_id, fingerprint, to_datetime(now_us))
    return claimed is not None


async def get_request(database: Database, request_id: str) -> tuple[bytes, bytes] | None:
    """Fingerprint and response of an answered request."""
    record = await database.fetchrow(GET_REQUEST, request_id)
    return (record["fingerprint"], record["response"]) if record else None


async def answer_request(connection: AnyConnection, request_id: str, response: bytes) -> None:
    """Keep the response for the repetitions to come."""
    await connection.execute(ANSWER_REQUEST, request_id, response)


COUNT_JOURNEYS = "SELECT state, count(*) AS count FROM journeys GROUP BY state"
PURGE_REQUESTS = "DELETE FROM requests WHERE request_time < $1"
PURGE_WATCHERS = "DELETE FROM watchers WHERE seen_time < $1"


async def count_journeys(database: Database) -> dict[str, int]:
    """How many journeys there are in each state that any is in."""
    return {record["state"]: record["count"] for record in await database.fetch(COUNT_JOURNEYS)}


async def purge(database: Database, *, requests_before_us: int, watchers_before_us: int) -> None:
    """Forget the answers and the watchers that are older than these times."""
    await database.execute(PURGE_REQUESTS, to_datetime(requests_before_us))
    await database.execute(PURGE_WATCHERS, to_datetime(watchers_before_us))


def has_more(records: Sequence[asyncpg.Record]) -> bool:
    """Whether a page was cut: each of its records says as `found` how many there would have been."""
    return bool(records) and records[0]["found"] > len(records)


def _journey(record: asyncpg.Record) -> JourneyRow:
    return JourneyRow(
        record["journey_id"],
        record["draft"],
        record["etag"],
        record["state"],
        record["latest_version"],
        from_datetime(record["create_time"]),
        from_datetime(record["update_time"]),
        record["pause_mode"] or "",
        from_datetime(record["pause_time"]) if record["pause_time"] else 0,
    )


def version_row(record: asyncpg.Record) -> VersionRow:
    """A row of `VERSION_COLUMNS`."""
    return VersionRow(
        record["journey_id"],
        record["version"],
        record["document"],
        record["etag"],
        from_datetime(record["publish_time"]),
        record["revision"],
        record["segments"],
    )
