"""Owns every SQL statement of the Scheduler. Each is about one bucket, so that a cluster runs it on one node.

Times are microseconds: a connection given to a function here exchanges them so (`exchange_times_in_us`).
"""

import time
from collections.abc import Sequence

from cairn.postgres.pool import AnyConnection, Pool
from cairn.scheduler.server_clock import ClockReading
from cairn.scheduler.timer import NewTimers, PageStart, State, StoredTimer, Timer, TimerFilter

NOTICE_CHANNEL = "scheduler_timers"
"""On which replicas tell one another of timers that are due soon."""

# The years that the contract takes.
_BEGINNING_US = -62_135_596_800_000_000
_END_US = 253_402_300_799_999_999

READ_CLOCK = "SELECT clock_timestamp()"


async def read_clock(connection: AnyConnection) -> ClockReading:
    """One reading of Postgres' clock."""
    server_us = await connection.fetchval(READ_CLOCK)
    return ClockReading(server_us, time.monotonic_ns())


# In order of ids, so that two batches with the same timers wait for one another instead of deadlocking.
INSERT_TIMERS = """
INSERT INTO timers (bucket, timer_id, key, due_time, payload)
SELECT $1, timer_id, key, due_time, payload
FROM unnest($2::text[], $3::text[], $4::timestamptz[], $5::bytea[]) AS t (timer_id, key, due_time, payload)
ORDER BY timer_id
ON CONFLICT (bucket, timer_id) DO NOTHING
"""


async def insert_timers(connection: AnyConnection | Pool, bucket: int, new: NewTimers) -> int:
    """Write the timers of one bucket; how many of them were not known."""
    status = await connection.execute(
        INSERT_TIMERS, bucket, new.timer_ids, new.keys, new.due_us, new.payloads
    )
    return _row_count(status)


DELETE_TIMERS = "DELETE FROM timers WHERE bucket = $1 AND timer_id = ANY ($2::text[])"


async def delete_timers(connection: AnyConnection | Pool, bucket: int, timer_ids: Sequence[str]) -> int:
    """Forget timers of one bucket; how many of them there were."""
    return _row_count(await connection.execute(DELETE_TIMERS, bucket, timer_ids))


PARK_TIMERS = "UPDATE timers SET state = 1, refusal = $3 WHERE bucket = $1 AND timer_id = ANY ($2::text[])"


async def park_timers(
    connection: AnyConnection | Pool, bucket: int, timer_ids: Sequence[str], why: str
) -> None:
    """Keep timers for people to see, and fire them no more."""
    await connection.execute(PARK_TIMERS, bucket, timer_ids, why)


# One round trip answers both questions: what is due, and when to look again. The bound from below spares a walk over
# the dead index entries of all that has fired while an old snapshot is open elsewhere.
READ_DUE = """
(
    SELECT timer_id, key, due_time, payload FROM timers
    WHERE bucket = $1 AND state = 0 AND due_time >= $2 AND due_time <= $3 AND key <> ALL ($4::text[])
    ORDER BY due_time LIMIT $5
)
UNION ALL
(
    SELECT NULL, NULL, due_time, NULL FROM timers
    WHERE bucket = $1 AND state = 0 AND due_time > $3
    ORDER BY due_time LIMIT 1
)
"""


async def read_due(
    connection: AnyConnection | Pool,
    bucket: int,
    *,
    floor_us: int | None,
    due_by_us: int,
    held_keys: Sequence[str],
    limit: int,
) -> tuple[list[Timer], int | None]:
    """Pending timers due from `floor_us` to `due_by_us`, in order, and the time of the first one after that."""
    floor = _BEGINNING_US if floor_us is None else floor_us
    rows = await connection.fetch(READ_DUE, bucket, floor, due_by_us, held_keys, limit)
    next_due_us = rows.pop()["due_time"] if rows and rows[-1]["timer_id"] is None else None
    return list(map(_to_timer, rows)), next_due_us


_to_timer = Timer._make  # the columns are in the order of its fields


READ_TIMER = """
SELECT bucket, timer_id, key, due_time, payload, state, refusal FROM timers
WHERE bucket = $1 AND timer_id = $2 AND key = $3
"""


async def read_timer(
    connection: AnyConnection | Pool, bucket: int, timer_id: str, key: str
) -> StoredTimer | None:
    """One timer, None when it is not there."""
    row = await connection.fetchrow(READ_TIMER, bucket, timer_id, key)
    return None if row is None else _stored(tuple(row))


# The state stands in the text, not in a parameter: only so can a cached plan use the index of that state alone.
_LIST = """
SELECT bucket, timer_id, key, due_time, payload, state, refusal FROM timers
WHERE bucket = $1 AND state = {state} AND due_time >= $2 AND (due_time, bucket, timer_id) > ($2, $3, $4)
  AND due_time <= $5 AND ($6 = '' OR key = $6)
ORDER BY due_time, timer_id LIMIT $7
"""
LIST_PENDING = _LIST.format(state=0)
LIST_PARKED = _LIST.format(state=1)


async def list_timers(
    connection: AnyConnection | Pool, bucket: int, wanted: TimerFilter, after: PageStart | None, limit: int
) -> list[StoredTimer]:
    """At most `limit` timers of one bucket, in order of (due time, id), those of each wanted state."""
    start = (_BEGINNING_US, -1, "") if after is None else (after.due_us, after.bucket, after.timer_id)
    end = _END_US if wanted.due_by_us is None else wanted.due_by_us
    rows: list[StoredTimer] = []
    for statement, included in ((LIST_PENDING, wanted.pending), (LIST_PARKED, wanted.parked)):
        if included:
            found = await connection.fetch(statement, bucket, *start, end, wanted.key, limit)
            rows += [_stored(tuple(row)) for row in found]
    return rows


# Counted up to a bound: a gauge that says "at least so many" is enough, a walk over millions each time is not.
COUNT_BACKLOG = """
SELECT
    (SELECT count(*) FROM (
        SELECT 1 FROM timers WHERE bucket = $1 AND state = 0 AND due_time <= $2
        ORDER BY due_time LIMIT $3) AS overdue),
    (SELECT count(*) FROM (SELECT 1 FROM timers WHERE bucket = $1 AND state = 1 ORDER BY due_time LIMIT $3) AS parked)
"""


async def count_backlog(
    connection: AnyConnection | Pool, bucket: int, due_by_us: int, limit: int
) -> tuple[int, int]:
    """How many timers of a bucket are overdue and how many parked, each counted to at most `limit`."""
    (row,) = await connection.fetch(COUNT_BACKLOG, bucket, due_by_us, limit)
    return row[0], row[1]


SEND_NOTICE = "SELECT pg_notify($1, $2)"


async def send_notice(connection: AnyConnection | Pool, payload: str) -> None:
    """Tell all replicas that listen; `payload` is at most 7,999 bytes."""
    await connection.execute(SEND_NOTICE, NOTICE_CHANNEL, payload)


def _stored(row: tuple[int, str, str, int, bytes, int, str]) -> StoredTimer:
    bucket, timer_id, key, due_us, payload, state, refusal = row
    return StoredTimer(Timer(timer_id, key, due_us, payload), bucket, State(state), refusal)


def _row_count(status: str) -> int:
    """The number that ends a command's status: "INSERT 0 5", "DELETE 5"."""
    return int(status.rpartition(" ")[2])
