"""Owns every SQL statement about schedules: few rows, reference data without a bucket.

Times are microseconds: a connection given to a function here exchanges them so (`exchange_times_in_us`). Each change of where a
schedule is names where it was, so that a replica that has lost its turn without knowing changes nothing.
"""

from collections.abc import Sequence

from cairn.postgres.pool import AnyConnection, Pool
from cairn.scheduler.schedule import Firing, Move, Schedule, StoredSchedule

Database = AnyConnection | Pool

_COLUMNS = (
    "schedule_id, cron, time_zone, skip_missed, payload, generation, next_due, firing, last_due, last_fired"
)

PUT_SCHEDULE = f"""
INSERT INTO schedules AS kept (schedule_id, cron, time_zone, skip_missed, payload, generation, next_due)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (schedule_id) DO UPDATE SET
    cron = EXCLUDED.cron, time_zone = EXCLUDED.time_zone,
    skip_missed = EXCLUDED.skip_missed, payload = EXCLUDED.payload,
    generation = CASE WHEN (kept.cron, kept.time_zone) = (EXCLUDED.cron, EXCLUDED.time_zone)
        THEN kept.generation ELSE EXCLUDED.generation END,
    next_due = CASE WHEN (kept.cron, kept.time_zone) = (EXCLUDED.cron, EXCLUDED.time_zone)
        THEN kept.next_due ELSE EXCLUDED.next_due END,
    firing = kept.firing AND (kept.cron, kept.time_zone) = (EXCLUDED.cron, EXCLUDED.time_zone)
RETURNING {_COLUMNS}
"""  # noqa: S608 - made of constants


async def put_schedule(
    database: Database, schedule: Schedule, generation: int, next_due_us: int
) -> StoredSchedule:
    """Make a schedule or change it; generation and next time are taken only when its times change. As it is kept then."""
    (row,) = await database.fetch(
        PUT_SCHEDULE,
        schedule.schedule_id,
        schedule.cron,
        schedule.time_zone,
        schedule.skip_missed,
        schedule.payload,
        generation,
        next_due_us,
    )
    return StoredSchedule(*row)


READ_SCHEDULE = f"SELECT {_COLUMNS} FROM schedules WHERE schedule_id = $1"  # noqa: S608 - made of constants


async def read_schedule(database: Database, schedule_id: str) -> StoredSchedule | None:
    """One schedule, None when it is not there."""
    row = await database.fetchrow(READ_SCHEDULE, schedule_id)
    return None if row is None else StoredSchedule(*row)


LIST_SCHEDULES = f"""
SELECT {_COLUMNS} FROM schedules WHERE schedule_id > $1 ORDER BY schedule_id LIMIT $2
"""  # noqa: S608 - made of constants


async def list_schedules(database: Database, after: str, limit: int) -> list[StoredSchedule]:
    """At most `limit` schedules in order of their ids, behind `after`."""
    return [StoredSchedule(*row) for row in await database.fetch(LIST_SCHEDULES, after, limit)]


DELETE_SCHEDULE = "DELETE FROM schedules WHERE schedule_id = $1"


async def delete_schedule(database: Database, schedule_id: str) -> None:
    """Forget a schedule and what was asked of it."""
    await database.execute(DELETE_SCHEDULE, schedule_id)


# Those that are on their way come last, so that what can't be delivered keeps nothing else from being looked at.
READ_DUE = f"""
SELECT {_COLUMNS} FROM schedules WHERE next_due <= $1 ORDER BY firing, next_due, schedule_id LIMIT $2
"""  # noqa: S608 - made of constants


async def read_due(database: Database, now_us: int, limit: int) -> list[StoredSchedule]:
    """Schedules whose time has come, those on their way included."""
    return [StoredSchedule(*row) for row in await database.fetch(READ_DUE, now_us, limit)]


READ_NEXT = "SELECT min(next_due) FROM schedules WHERE next_due > $1"


async def read_next(database: Database, now_us: int) -> int | None:
    """When the next schedule is due; None when none is."""
    next_us: int | None = await database.fetchval(READ_NEXT, now_us)
    return next_us


MOVE_SCHEDULES = """
UPDATE schedules AS kept SET next_due = moved.next_due, firing = moved.fires
FROM unnest($1::text[], $2::bigint[], $3::timestamptz[], $4::boolean[], $5::timestamptz[], $6::boolean[])
    AS moved (schedule_id, generation, was_due, was_firing, next_due, fires)
WHERE kept.schedule_id = moved.schedule_id AND kept.generation = moved.generation
  AND kept.next_due = moved.was_due AND kept.firing = moved.was_firing
RETURNING kept.schedule_id
"""


async def move_schedules(database: Database, moves: Sequence[tuple[StoredSchedule, Move]]) -> set[str]:
    """Write down what becomes of schedules; the ids of those that were still where they were read."""
    rows = await database.fetch(
        MOVE_SCHEDULES,
        [was.schedule_id for was, _ in moves],
        [was.generation for was, _ in moves],
        [was.next_due_us for was, _ in moves],
        [was.firing for was, _ in moves],
        [move.next_due_us for _, move in moves],
        [move.fires for _, move in moves],
    )
    return {row[0] for row in rows}


SETTLE_TIME = """
UPDATE schedules
SET next_due = $4, firing = false, last_due = $3, last_fired = COALESCE($5, last_fired)
WHERE schedule_id = $1 AND generation = $2 AND next_due = $3 AND firing
"""


async def settle_time(
    database: Database, firing: Firing, next_due_us: int | None, fired_us: int | None
) -> None:
    """A schedule's time is done with: on to the next. `fired_us` is when the sink took it, None when it refused."""
    await database.execute(
        SETTLE_TIME, firing.schedule_id, firing.generation, firing.due_us, next_due_us, fired_us
    )


# The row of the schedule is held meanwhile: one that is being deleted gets no request any more.
INSERT_REQUEST = """
INSERT INTO schedule_requests (schedule_id, request_id, due_time)
SELECT schedule_id, $2::text, $3::timestamptz FROM schedules WHERE schedule_id = $1 FOR KEY SHARE
ON CONFLICT (schedule_id, request_id) DO NOTHING
"""


async def insert_request(database: Database, schedule_id: str, request_id: str, due_us: int) -> bool:
    """Ask for a firing beside the times; False when it was asked for already or there is no such schedule."""
    status: str = await database.execute(INSERT_REQUEST, schedule_id, request_id, due_us)
    return status.endswith(" 1")


READ_REQUESTS = """
SELECT schedule_id, request_id, due_time, payload
FROM schedule_requests JOIN schedules USING (schedule_id)
WHERE fired IS NULL ORDER BY due_time, schedule_id, request_id LIMIT $1
"""


async def read_requests(database: Database, limit: int) -> list[tuple[str, str, int, bytes]]:
    """Requests that the sink has not taken, the oldest first: schedule, request, due time, the schedule's payload."""
    return [(row[0], row[1], row[2], row[3]) for row in await database.fetch(READ_REQUESTS, limit)]


SETTLE_REQUEST = """
UPDATE schedule_requests SET fired = $3 WHERE schedule_id = $1 AND request_id = $2
"""
NOTE_FIRED = "UPDATE schedules SET last_fired = $2 WHERE schedule_id = $1"


async def settle_request(database: Database, firing: Firing, now_us: int, *, taken: bool) -> None:
    """A request is done with; it is kept so that a repeated call is known."""
    if taken:
        await database.execute(NOTE_FIRED, firing.schedule_id, now_us)
    await database.execute(SETTLE_REQUEST, firing.schedule_id, firing.request_id, now_us)


FORGET_REQUESTS = "DELETE FROM schedule_requests WHERE fired < $1"


async def forget_requests(database: Database, before_us: int) -> None:
    """Delete requests that were done with before a time."""
    await database.execute(FORGET_REQUESTS, before_us)


COUNT_OVERDUE = "SELECT count(*) FROM schedules WHERE next_due <= $1"


async def count_overdue(database: Database, due_by_us: int) -> int:
    """How many schedules were due by then and are not done with."""
    count: int = await database.fetchval(COUNT_OVERDUE, due_by_us)
    return count
