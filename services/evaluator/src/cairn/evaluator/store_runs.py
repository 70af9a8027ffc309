"""Owns the SQL of runs: the runs and how far they are, which know no bucket or one, and the pages of profiles that a run looks at. The pool
exchanges times in microseconds."""

from collections.abc import Sequence
from enum import IntEnum

import msgspec

from cairn.evaluator.run_scan import Scan
from cairn.evaluator.store import ProfileRow
from cairn.postgres.pool import AnyConnection, Pool


class RunState(IntEnum):
    """Where a run is; the numbers are those of the contract."""

    RUNNING = 1
    PAUSED = 2
    DONE = 3
    CANCELED = 4
    FAILED = 5


OPEN_STATES = frozenset({RunState.RUNNING, RunState.PAUSED})
"""The states of a run that is not over."""


class RunRow(msgspec.Struct, frozen=True):
    """A run and what it has done. `take_us` is when somebody last took it up, who then had seen `take_seen`; 0 before. `estimate` is about how
    many profiles there were, `profiles` how many there are in the `buckets` that were begun."""

    journey_id: str
    run_id: str
    version: int
    state: int
    cause: str
    run_us: int
    end_us: int | None
    take_us: int | None
    take_seen: int
    estimate: int
    problem: str
    buckets: int = 0
    profiles: int = 0
    seen: int = 0
    moved: int = 0
    entered: int = 0
    activated: int = 0
    failed: int = 0

    @property
    def is_open(self) -> bool:
        """Whether it is not over."""
        return self.state in OPEN_STATES


class Counts(msgspec.Struct):
    """What came of some profiles."""

    seen: int = 0
    moved: int = 0
    entered: int = 0
    activated: int = 0
    failed: int = 0


class BucketRow(msgspec.Struct, frozen=True):
    """How far a run is in a bucket."""

    bucket: int
    after: str
    done: bool


# Runs

_ESTIMATE = "SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'profiles'::regclass"
# One run of a journey is later than the one before, whatever replica made it and by what clock.
_BEGIN = """
INSERT INTO runs (journey_id, run_id, version, state, cause, origin, run_time, estimate)
SELECT $1, $2, $3, 1, $4, $5, greatest($6, (SELECT max(run_time) + interval '1 microsecond' FROM runs WHERE journey_id = $1)), $7
ON CONFLICT DO NOTHING RETURNING run_id
"""


async def estimate_profiles(db: Pool) -> int:
    """About how many profiles there are; 0 when nobody knows."""
    return int(await db.fetchval(_ESTIMATE) or 0)


async def begin_run(
    db: Pool,
    journey_id: str,
    run_id: str,
    version: int,
    cause: str,
    origin: str | None,
    now_us: int,
    estimate: int,
) -> bool:
    """Makes a run; False when another of the journey is not over, or one of the same origin exists."""
    return await db.fetchval(_BEGIN, journey_id, run_id, version, cause, origin, now_us, estimate) is not None


_run_columns = """
SELECT r.journey_id, r.run_id, r.version, r.state, r.cause, r.run_time, r.end_time, r.take_time, r.take_seen, r.estimate, r.problem,
    count(b.profiles), coalesce(sum(b.profiles), 0)::bigint, coalesce(sum(b.seen), 0)::bigint, coalesce(sum(b.moved), 0)::bigint,
    coalesce(sum(b.entered), 0)::bigint, coalesce(sum(b.activated), 0)::bigint, coalesce(sum(b.failed), 0)::bigint
FROM runs r LEFT JOIN run_buckets b ON b.journey_id = r.journey_id AND b.run_id = r.run_id
"""
_grouped = " GROUP BY r.journey_id, r.run_id"
_READ = f"{_run_columns} WHERE r.journey_id = $1 AND r.run_id = $2 {_grouped}"
_READ_ORIGIN = f"{_run_columns} WHERE r.journey_id = $1 AND r.origin = $2 {_grouped}"
_READ_OPEN = f"{_run_columns} WHERE r.journey_id = $1 AND r.state IN (1, 2) {_grouped}"
_LIST = f"""
{_run_columns}
WHERE ($1 = '' OR r.journey_id = $1) AND (r.run_time, r.journey_id, r.run_id) < ($2, $3, $4)
{_grouped} ORDER BY r.run_time DESC, r.journey_id DESC, r.run_id DESC LIMIT $5
"""


async def read_run(db: Pool, journey_id: str, run_id: str) -> RunRow | None:
    """One run."""
    row = await db.fetchrow(_READ, journey_id, run_id)
    return None if row is None else RunRow(*row)


async def read_run_of(db: Pool, journey_id: str, origin: str) -> RunRow | None:
    """The run that something began."""
    row = await db.fetchrow(_READ_ORIGIN, journey_id, origin)
    return None if row is None else RunRow(*row)


async def read_open_run(db: Pool, journey_id: str) -> RunRow | None:
    """The journey's run that is not over."""
    row = await db.fetchrow(_READ_OPEN, journey_id)
    return None if row is None else RunRow(*row)


async def list_runs(db: Pool, journey_id: str, before: tuple[int, str, str], limit: int) -> list[RunRow]:
    """Runs of a journey, or of all with "", before a place (run time, journey, run), the newest first."""
    return [RunRow(*row) for row in await db.fetch(_LIST, journey_id, *before, limit)]


_LIST_OPEN = "SELECT journey_id, run_id, version, state, run_time FROM runs WHERE state IN (1, 2)"


class OpenRun(msgspec.Struct, frozen=True):
    """A run that is not over."""

    journey_id: str
    run_id: str
    version: int
    state: int
    run_us: int


async def list_open(db: Pool) -> list[OpenRun]:
    """The runs that are not over."""
    return [OpenRun(*row) for row in await db.fetch(_LIST_OPEN)]


_PAUSE = "UPDATE runs SET state = 2 WHERE journey_id = $1 AND run_id = $2 AND state = 1"
_RESUME = "UPDATE runs SET state = 1 WHERE journey_id = $1 AND run_id = $2 AND state = 2"
_END = """
UPDATE runs SET state = $3, end_time = $4, problem = $5
WHERE journey_id = $1 AND run_id = $2 AND state = ANY($6::smallint[])
"""


async def pause_run(db: Pool, journey_id: str, run_id: str) -> None:
    """Pauses a run that is running; any other stays as it is."""
    await db.execute(_PAUSE, journey_id, run_id)


async def resume_run(db: Pool, journey_id: str, run_id: str) -> None:
    """Has a paused run go on; any other stays as it is."""
    await db.execute(_RESUME, journey_id, run_id)


async def end_run(
    db: Pool,
    journey_id: str,
    run_id: str,
    state: RunState,
    now_us: int,
    problem: str = "",
    *,
    of: Sequence[RunState] = (RunState.RUNNING,),
) -> bool:
    """Ends a run that is in one of some states; whether it was."""
    states = [int(each) for each in of]
    done: str = await db.execute(_END, journey_id, run_id, int(state), now_us, problem, states)
    return done != "UPDATE 0"


_TAKE_UP = """
UPDATE runs SET take_time = $3, take_seen = (
    SELECT coalesce(sum(b.seen), 0) FROM run_buckets b WHERE b.journey_id = $1 AND b.run_id = $2)
WHERE journey_id = $1 AND run_id = $2 AND state = 1
"""


async def take_up(db: Pool, journey_id: str, run_id: str, now_us: int) -> bool:
    """Notes that somebody goes on with a run; False when it is not running."""
    done: str = await db.execute(_TAKE_UP, journey_id, run_id, now_us)
    return done != "UPDATE 0"


_OLD = """
SELECT run_id FROM runs WHERE journey_id = $1 AND state >= 3 ORDER BY run_time DESC OFFSET $2
"""
_DELETE_OLD = "DELETE FROM runs WHERE journey_id = $1 AND run_id = ANY($2::text[])"
_DELETE_BUCKETS = "DELETE FROM run_buckets WHERE bucket = $1 AND journey_id = $2 AND run_id = ANY($3::text[])"


async def forget_old(db: Pool, bucket_count: int, journey_id: str, keep: int) -> None:
    """Forgets the runs of a journey that are over, but the newest."""
    old = [row[0] for row in await db.fetch(_OLD, journey_id, keep)]
    if not old:
        return
    for bucket in range(bucket_count):
        await db.execute(_DELETE_BUCKETS, bucket, journey_id, old)
    await db.execute(_DELETE_OLD, journey_id, old)


# How far a run is

_READ_BUCKETS = "SELECT bucket, after_id, done FROM run_buckets WHERE journey_id = $1 AND run_id = $2"
_BEGIN_BUCKET = """
INSERT INTO run_buckets (bucket, journey_id, run_id, profiles)
SELECT $1, $2, $3, (SELECT count(*) FROM profiles WHERE bucket = $1)
ON CONFLICT DO NOTHING
"""
# Only from where the writer believed it was: another who goes on with the same run counts nothing twice.
_MOVE_ON = """
UPDATE run_buckets SET after_id = $5, done = $6, seen = seen + $7, moved = moved + $8, entered = entered + $9,
    activated = activated + $10, failed = failed + $11
WHERE bucket = $1 AND journey_id = $2 AND run_id = $3 AND after_id = $4 AND NOT done
"""


async def read_buckets(db: Pool, journey_id: str, run_id: str) -> dict[int, BucketRow]:
    """How far a run is in the buckets that were begun."""
    rows = await db.fetch(_READ_BUCKETS, journey_id, run_id)
    return {row[0]: BucketRow(*row) for row in rows}


async def begin_bucket(db: Pool, bucket: int, journey_id: str, run_id: str) -> None:
    """Counts what a run has to look at in a bucket."""
    await db.execute(_BEGIN_BUCKET, bucket, journey_id, run_id)


async def move_on(
    db: Pool, row: BucketRow, journey_id: str, run_id: str, until: str, done: bool, counts: Counts
) -> bool:
    """Says that all up to a profile are done, and what came of those since; False when somebody else said so."""
    done_text: str = await db.execute(
        _MOVE_ON,
        row.bucket,
        journey_id,
        run_id,
        row.after,
        until,
        done,
        counts.seen,
        counts.moved,
        counts.entered,
        counts.activated,
        counts.failed,
    )
    return done_text != "UPDATE 0"


# Pages of profiles

_STEP = """
SELECT count(*), coalesce(max(profile_id), '') FROM (
    SELECT profile_id FROM profiles WHERE bucket = $1 AND profile_id > $2 ORDER BY profile_id LIMIT $3) AS page
"""
_COUNT = "SELECT count(*) FROM profiles WHERE bucket = $1 AND profile_id > $2 AND profile_id <= $3"
# What is computed of a row is computed once: without OFFSET the planner would copy it to wherever it is named.
_find_template = """
SELECT p.profile_id, p.revision, coalesce(p.attributes, '{{}}'), coalesce(p.time_zone, ''), coalesce(p.standings, '{{}}'), p.update_time,
    coalesce(p.behavior, ''), coalesce(p.recent, ''), coalesce(p.seen, '')
FROM (
    SELECT *{columns} FROM profiles WHERE bucket = $1 AND profile_id > $2 AND profile_id <= $3 AND {glance}
    OFFSET 0
) AS p
WHERE {condition}
ORDER BY p.profile_id LIMIT $5
"""


def find_statement(scan: Scan) -> str:
    """The statement that finds whom a run can move among the profiles of a bucket ($1) after one ($2) and up to another ($3), as of the run's
    time ($4), at most so many ($5), in order."""
    columns = "".join(f", {expression} AS {name}" for name, expression in scan.columns)
    return _find_template.format(columns=columns, condition=scan.condition, glance=scan.glance)


async def step(db: Pool | AnyConnection, bucket: int, after: str, most: int) -> tuple[int, str]:
    """How many profiles there are after one, at most so many, and the last of them."""
    count, last = await db.fetchrow(_STEP, bucket, after, most)  # type: ignore[misc]  # an aggregate has a row
    return count, last


async def count_between(db: Pool | AnyConnection, bucket: int, after: str, until: str) -> int:
    """How many profiles there are after one and up to another."""
    return int(await db.fetchval(_COUNT, bucket, after, until))


async def find(
    db: Pool | AnyConnection, statement: str, bucket: int, after: str, until: str, run_us: int, most: int
) -> list[ProfileRow]:
    """The profiles that a `find_statement` finds."""
    return [ProfileRow(*row) for row in await db.fetch(statement, bucket, after, until, run_us, most)]
