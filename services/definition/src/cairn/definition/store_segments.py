"""Owns the SQL statements on segments and their rows. Refuses to interpret a document."""
# ruff: noqa: S608 - statements are put together from constants alone

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import asyncpg

from cairn.definition.store import PAGE_BYTES, WITHIN_PAGE, Database, Page, has_more
from cairn.postgres.pool import AnyConnection
from cairn.runtime.clock import from_datetime, to_datetime


@dataclass(frozen=True, slots=True)
class SegmentRow:
    """A segment: `document` in canonical form, the segments that its criteria name, when it was last changed in microseconds."""

    segment_id: str
    document: bytes
    etag: str
    names: tuple[str, ...]
    update_us: int


_SEGMENT = "segment_id, document, etag, names, update_time"

LOCK_SEGMENTS = "LOCK TABLE segments IN SHARE ROW EXCLUSIVE MODE"


async def lock_segments(connection: AnyConnection) -> None:
    """Wait until nobody else changes segments, and keep others from it until the end of the transaction. Readers go on."""
    await connection.execute(LOCK_SEGMENTS)


GET_SEGMENT = f"SELECT {_SEGMENT} FROM segments WHERE segment_id = $1"


async def get_segment(database: Database, segment_id: str) -> SegmentRow | None:
    """One segment."""
    record = await database.fetchrow(GET_SEGMENT, segment_id)
    return _segment(record) if record else None


GET_SEGMENTS_WITH_NAMED = f"""
WITH RECURSIVE named (segment_id) AS (
    SELECT unnest($1::text[])
    UNION
    SELECT unnest(segments.names) FROM named JOIN segments USING (segment_id)
)
SELECT {_SEGMENT} FROM segments WHERE segment_id IN (SELECT segment_id FROM named) ORDER BY segment_id
"""


async def get_segments_with_named(database: Database, segment_ids: Collection[str]) -> dict[str, SegmentRow]:
    """Those of these segments that exist and all that they name, through however many others, by id and in its order."""
    records = await database.fetch(GET_SEGMENTS_WITH_NAMED, list(segment_ids))
    return {record["segment_id"]: _segment(record) for record in records}


LIST_SEGMENTS = f"""
SELECT {_SEGMENT}, found FROM (
    SELECT {_SEGMENT}, octet_length(document) AS size, sum(octet_length(document)) OVER (ORDER BY segment_id) AS total,
           row_number() OVER (ORDER BY segment_id) AS place, count(*) OVER () AS found
    FROM (SELECT {_SEGMENT} FROM segments WHERE segment_id > $1 ORDER BY segment_id LIMIT $2 + 1) AS page
) AS measured
WHERE {WITHIN_PAGE} AND place <= $2
ORDER BY segment_id
"""


async def list_segments(database: Database, after_id: str, limit: int) -> Page[SegmentRow]:
    """At most `limit` segments after an id, fewer when they are large."""
    records = await database.fetch(LIST_SEGMENTS, after_id, limit, PAGE_BYTES)
    return Page(tuple(_segment(record) for record in records), has_more(records))


PUT_SEGMENT = f"""
INSERT INTO segments ({_SEGMENT}) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (segment_id) DO UPDATE SET
    document = excluded.document, etag = excluded.etag, names = excluded.names, update_time = excluded.update_time
"""


async def put_segment(connection: AnyConnection, row: SegmentRow) -> None:
    """Create a segment or replace it; the table is locked by the caller."""
    await connection.execute(
        PUT_SEGMENT, row.segment_id, row.document, row.etag, list(row.names), to_datetime(row.update_us)
    )


LIST_NAMERS = "SELECT segment_id FROM segments WHERE $1 = ANY(names) ORDER BY segment_id"
DELETE_SEGMENT = "DELETE FROM segments WHERE segment_id = $1"


async def list_namers(connection: AnyConnection, segment_id: str) -> Sequence[str]:
    """The segments whose criteria name this one."""
    return [record["segment_id"] for record in await connection.fetch(LIST_NAMERS, segment_id)]


async def delete_segment(connection: AnyConnection, segment_id: str) -> None:
    """Remove a segment; the table is locked by the caller."""
    await connection.execute(DELETE_SEGMENT, segment_id)


def _segment(record: asyncpg.Record) -> SegmentRow:
    return SegmentRow(
        record["segment_id"],
        record["document"],
        record["etag"],
        tuple(record["names"]),
        from_datetime(record["update_time"]),
    )
