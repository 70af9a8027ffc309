"""Owns the SQL statements on lives and on what watchers are told: versions and lives in order of revision."""
# ruff: noqa: S608 - statements are put together from constants alone

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import asyncpg

from cairn.definition.store import VERSION_COLUMNS, WITHIN_PAGE, Database, VersionRow, version_row
from cairn.postgres.pool import AnyConnection
from cairn.runtime.clock import from_datetime, to_datetime


@dataclass(frozen=True, slots=True)
class PauseRow:
    """One pause, times in microseconds since the epoch; `resume_us` is None while it lasts."""

    mode: str
    pause_us: int
    resume_us: int | None = None


@dataclass(frozen=True, slots=True)
class LifeRow:
    """Where a published journey is in its life. `end_us` is None unless it is ENDED; `removes` tells what became of who was in it."""

    journey_id: str
    state: str
    pauses: tuple[PauseRow, ...]
    end_us: int | None
    removes: bool
    revision: int


@dataclass(frozen=True, slots=True)
class Changes:
    """What happened after a revision: versions and lives, each in order of revision.

    All changes up to `reached` are among them; `newest` is the newest revision there was in the same snapshot.
    """

    versions: tuple[VersionRow, ...]
    lives: tuple[LifeRow, ...]
    reached: int
    newest: int


_LIFE = "journey_id, state, pause_modes, pause_times, resume_times, end_time, removes, revision"

GET_LIFE = f"SELECT {_LIFE} FROM lives WHERE journey_id = $1"


async def get_life(database: Database, journey_id: str) -> LifeRow | None:
    """The life of a journey; None for one that was never published, or by a program that knew no lives."""
    record = await database.fetchrow(GET_LIFE, journey_id)
    return _life(record) if record else None


PUT_LIFE = f"""
INSERT INTO lives ({_LIFE}) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (journey_id) DO UPDATE SET
    state = excluded.state, pause_modes = excluded.pause_modes, pause_times = excluded.pause_times,
    resume_times = excluded.resume_times, end_time = excluded.end_time, removes = excluded.removes,
    revision = excluded.revision
"""
MARK_LIFE = "UPDATE journeys SET state = $2, pause_mode = $3, pause_time = $4 WHERE journey_id = $1"


async def put_life(connection: AnyConnection, life: LifeRow) -> None:
    """Store a life and show its state on its journey, whose row is locked by the caller."""
    last = life.pauses[-1] if life.state == "PAUSED" else None
    await connection.execute(
        PUT_LIFE,
        life.journey_id,
        life.state,
        [one.mode for one in life.pauses],
        [to_datetime(one.pause_us) for one in life.pauses],
        [_moment(one.resume_us) for one in life.pauses],
        _moment(life.end_us),
        life.removes,
        life.revision,
    )
    await connection.execute(
        MARK_LIFE,
        life.journey_id,
        life.state,
        last.mode if last else None,
        to_datetime(last.pause_us) if last else None,
    )


BEGIN_LIVES = f"""
INSERT INTO lives ({_LIFE})
SELECT journey_id, 'LIVE', '{{}}', '{{}}', '{{}}', NULL, false, revision
FROM unnest($1::text[], $2::bigint[]) AS fresh (journey_id, revision)
"""


async def begin_lives(connection: AnyConnection, rows: Sequence[VersionRow]) -> None:
    """The lives of journeys with their first versions, which have the same revisions."""
    await connection.execute(BEGIN_LIVES, [row.journey_id for row in rows], [row.revision for row in rows])


# One row for each revision, so that a page is never cut within one. A pause counts with 32 bytes.
LIST_CHANGES = f"""
SELECT newest.value AS newest, found.*
FROM revision AS newest LEFT JOIN (
    SELECT * FROM (
        SELECT *, sum(size) OVER (ORDER BY revision) AS total FROM (
            SELECT *, coalesce(octet_length(document) + octet_length(segments), 0)
                      + coalesce(32 * cardinality(pause_modes), 0) AS size
            FROM (SELECT {VERSION_COLUMNS} FROM versions WHERE revision > $1 ORDER BY revision LIMIT $2) AS version
            FULL JOIN (
                SELECT journey_id AS life_of, state, pause_modes, pause_times, resume_times, end_time, removes, revision
                FROM lives WHERE revision > $1 ORDER BY revision LIMIT $2
            ) AS life USING (revision)
            ORDER BY revision LIMIT $2
        ) AS page
    ) AS measured
    WHERE {WITHIN_PAGE}
) AS found ON true
ORDER BY found.revision
"""


async def list_changes(database: Database, after_revision: int, limit: int, page_bytes: int) -> Changes:
    """The changes of at most `limit` revisions after one, fewer when they are large; none only when there are none.

    A life that changed again is told of where it is now: what it was in between, nobody needs.
    """
    records = await database.fetch(LIST_CHANGES, after_revision, limit, page_bytes)
    newest = records[0]["newest"]
    found = [record for record in records if record["revision"] is not None]
    return Changes(
        tuple(version_row(record) for record in found if record["version"] is not None),
        tuple(_life(record, "life_of") for record in found if record["life_of"] is not None),
        found[-1]["revision"] if found else max(after_revision, newest),
        newest,
    )


def _life(record: asyncpg.Record, id_column: str = "journey_id") -> LifeRow:
    resumes: Sequence[datetime | None] = record["resume_times"]
    return LifeRow(
        record[id_column],
        record["state"],
        tuple(
            PauseRow(mode, from_datetime(begin), _microseconds(end))
            for mode, begin, end in zip(record["pause_modes"], record["pause_times"], resumes, strict=True)
        ),
        _microseconds(record["end_time"]),
        record["removes"],
        record["revision"],
    )


def _moment(us: int | None) -> datetime | None:
    return None if us is None else to_datetime(us)


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else from_datetime(moment)
