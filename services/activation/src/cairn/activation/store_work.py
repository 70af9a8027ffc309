"""Owns the statements by which the owner of a bucket works on it: claim, send, settle, adopt, count.

`floor_us` bounds the days that a statement looks at: nothing that is open is older.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple

import msgspec

from cairn.activation.ledger import State
from cairn.activation.model import Attempt, Claim, Result
from cairn.activation.store import Changed, Database, and_tell, read_changed, which
from cairn.runtime.clock import from_datetime, to_datetime

_CLAIM = """
WITH due AS MATERIALIZED (
    SELECT activation_id, request_time, next_attempt_time, sequence, octet_length(context) AS size FROM deliveries
    WHERE bucket = $1 AND connection = $2 AND state = 1 AND next_attempt_time <= $3 AND request_time >= $4
    ORDER BY next_attempt_time, sequence LIMIT $5 FOR UPDATE SKIP LOCKED
), fitting AS MATERIALIZED (
    SELECT activation_id, request_time FROM (
        SELECT activation_id, request_time, size,
            sum(size) OVER (ORDER BY next_attempt_time, sequence ROWS UNBOUNDED PRECEDING) AS upto FROM due) AS measured
    WHERE upto - size < $8
)
UPDATE deliveries d SET state = 2, holder = $6, state_time = $7, attempts = d.attempts + 1
FROM fitting
WHERE d.bucket = $1 AND d.request_time = fitting.request_time AND d.activation_id = fitting.activation_id AND d.request_time >= $4
RETURNING d.activation_id, d.request_time, d.profile_id, d.template, d.action, d.context, d.accept_time, d.attempts,
    d.enrollment, d.time_zone, d.journey_version, d.next_attempt_time, d.sequence, d.stage, d.step
"""

MOST_CLAIMED_BYTES = 16 * 1024 * 1024
"""The contexts of a batch together: a row that begins beyond them is left for the next."""


async def claim(
    database: Database, bucket: int, connection: str, *, floor_us: int, limit: int, holder: int, now: int
) -> list[Claim]:
    """Leases the first PENDING rows of a connection that are due, by the time of that and then in the order of acceptance."""
    at = to_datetime(now)
    rows = await database.fetch(
        _CLAIM, bucket, connection, at, to_datetime(floor_us), limit, holder, at, MOST_CLAIMED_BYTES
    )
    claims = [
        Claim(
            activation_id=row["activation_id"],
            request_us=from_datetime(row["request_time"]),
            profile_id=row["profile_id"],
            template=row["template"],
            action=row["action"],
            context=row["context"],
            accept_us=from_datetime(row["accept_time"]),
            attempts=row["attempts"],
            enrollment=row["enrollment"],
            time_zone=row["time_zone"],
            journey_version=row["journey_version"],
            next_attempt_us=from_datetime(row["next_attempt_time"]),
            sequence=row["sequence"],
            stage=row["stage"],
            step=row["step"],
        )
        for row in rows
    ]
    claims.sort(key=lambda claim: (claim.next_attempt_us, claim.sequence))
    return claims


_EARLIEST = """
SELECT next_attempt_time FROM deliveries
WHERE bucket = $1 AND connection = $2 AND state = 1 AND request_time >= $3 ORDER BY next_attempt_time LIMIT 1
"""


async def earliest(database: Database, bucket: int, connection: str, floor_us: int) -> int | None:
    """When the first PENDING row of a connection is due, in microseconds; None when nothing is PENDING."""
    due = await database.fetchval(_EARLIEST, bucket, connection, to_datetime(floor_us))
    return None if due is None else from_datetime(due)


_MARK_SENDING = f"""
WITH changed AS (
    UPDATE deliveries d SET state = 3, state_time = $3
    FROM unnest($4::text[], $5::timestamptz[]) AS k(activation_id, request_time)
    WHERE d.bucket = $1 AND d.request_time = k.request_time AND d.activation_id = k.activation_id
      AND d.request_time BETWEEN $6 AND $7 AND d.state = 2 AND d.holder = $2
    RETURNING d.activation_id
)
{which("$8")}
"""  # noqa: S608 - made of constants


async def mark_sending(
    database: Database, bucket: int, holder: int, claims: Sequence[Claim], now: int
) -> Changed:
    """Moves those that `holder` still leases past the point of no return. A withdrawal in between wins."""
    times = [to_datetime(claim.request_us) for claim in claims]
    row = await database.fetchrow(
        _MARK_SENDING,
        bucket,
        holder,
        to_datetime(now),
        [claim.activation_id for claim in claims],
        times,
        min(times),
        max(times),
        len(claims),
    )
    return read_changed(row)


MOST_ATTEMPTS_KEPT = 100
"""Entries of a row's history: the oldest make room."""

_NOTE = f"CASE WHEN {{entry}} = '' THEN d.history ELSE (d.history || {{entry}})[greatest(cardinality(d.history) - {MOST_ATTEMPTS_KEPT - 2}, 1):] END"


def noted(entry: str) -> str:
    """The history of a row `d` with an entry, an expression, behind it; '' is none."""
    return _NOTE.format(entry=entry)


# A hold is no try: it gives its attempt back. Said again in the same words, as of a journey that is paused for weeks, it makes no new
# entry, which would push the tries out.
_ENTRY = "CASE WHEN r.attempts < d.attempts AND r.detail = d.detail THEN '' ELSE r.entry END"
_WRITE_RESULTS = and_tell(
    f"""
UPDATE deliveries d SET state = r.state, state_time = $3, next_attempt_time = r.next_attempt_time,
    attempts = r.attempts, detail = r.detail, external_id = r.external_id, holder = 0,
    template_version = CASE WHEN r.template_version > 0 THEN r.template_version ELSE d.template_version END,
    history = {noted(_ENTRY)}
FROM unnest($4::text[], $5::timestamptz[], $6::smallint[], $7::timestamptz[], $8::integer[], $9::text[], $10::text[],
    $11::integer[], $12::text[])
    AS r(activation_id, request_time, state, next_attempt_time, attempts, detail, external_id, template_version, entry)
WHERE d.bucket = $1 AND d.request_time = r.request_time AND d.activation_id = r.activation_id
  AND d.request_time BETWEEN $13 AND $14 AND d.state IN (2, 3) AND d.holder = $2
RETURNING d.activation_id, d.request_time, d.state
""",  # noqa: S608 - made of constants
    sequence="$15",
    writer="$2",
    answer=which("$16"),
)


async def write_results(
    database: Database, bucket: int, holder: int, results: Sequence[Result], *, sequence: int, now: int
) -> Changed:
    """Writes what became of rows where they are still `holder`'s; an attempt that did not end a delivery goes into its history."""
    times = [to_datetime(result.claim.request_us) for result in results]
    settled = [result.settled for result in results]
    row = await database.fetchrow(
        _WRITE_RESULTS,
        bucket,
        holder,
        to_datetime(now),
        [result.claim.activation_id for result in results],
        times,
        [s.state for s in settled],
        [to_datetime(s.next_attempt_us) for s in settled],
        [s.attempts for s in settled],
        [s.detail for s in settled],
        [s.external_id for s in settled],
        [result.template_version for result in results],
        [write_attempt(Attempt(now, s.state, s.detail)) if s.noted else "" for s in settled],
        min(times),
        max(times),
        sequence,
        len(results),
    )
    return read_changed(row)


def write_attempt(attempt: Attempt) -> str:
    """An entry of the history as it stands in the table."""
    return msgspec.json.encode(attempt).decode()


_GIVE_BACK = """
UPDATE deliveries SET state = 1, holder = 0, state_time = $4
WHERE bucket = $1 AND ($2 = '' OR connection = $2) AND state IN (2, 3) AND holder = $3 AND request_time >= $5
"""


async def give_back(
    database: Database, bucket: int, connection: str, *, holder: int, floor_us: int, now: int
) -> int:
    """Makes PENDING what `holder` has of a connection, or of all (""); each keeps its place in the order.

    Only for a holder who knows that none of it was sent.
    """
    status = await database.execute(
        _GIVE_BACK, bucket, connection, holder, to_datetime(now), to_datetime(floor_us)
    )
    return int(status.rpartition(" ")[2])  # "UPDATE 3"


_RELEASE = """
UPDATE deliveries d SET state = 1, holder = 0, state_time = $3, attempts = d.attempts - 1
FROM unnest($4::text[], $5::timestamptz[]) AS k(activation_id, request_time)
WHERE d.bucket = $1 AND d.request_time = k.request_time AND d.activation_id = k.activation_id
  AND d.request_time BETWEEN $6 AND $7 AND d.state = 2 AND d.holder = $2
"""


async def release(database: Database, bucket: int, holder: int, claims: Sequence[Claim], now: int) -> None:
    """Makes PENDING again what `holder` leased and did not try: the row is as it was before the claim."""
    times = [to_datetime(claim.request_us) for claim in claims]
    ids = [claim.activation_id for claim in claims]
    await database.execute(_RELEASE, bucket, holder, to_datetime(now), ids, times, min(times), max(times))


_AGAIN = "(d.state = 2 OR d.connection = ANY($4::text[]))"
_ADOPT = and_tell(
    f"""
UPDATE deliveries d SET
    state = CASE WHEN {_AGAIN} THEN 1 ELSE 7 END,
    detail = CASE WHEN {_AGAIN} THEN d.detail ELSE $5 END,
    history = CASE WHEN {_AGAIN} AND d.state = 3 THEN {noted("$7::text")} ELSE d.history END,
    holder = 0, state_time = $3
WHERE d.bucket = $1 AND d.state IN (2, 3) AND d.holder <> $2
RETURNING d.activation_id, d.request_time, d.state
""",  # noqa: S608 - made of constants
    sequence="$6",
    writer="$2",
    answer="""
SELECT state, count(*) AS rows, array_agg(activation_id) FILTER (WHERE state = 7) AS ids,
    array_agg(request_time) FILTER (WHERE state = 7) AS times
FROM changed GROUP BY state
""",
)


class Adopted(NamedTuple):
    """How many rows came to each state, and those that are UNKNOWN: activation and request time."""

    states: dict[State, int]
    unknown: list[tuple[str, int]]


async def adopt(
    database: Database,
    bucket: int,
    *,
    holder: int,
    repeatable: Sequence[str],
    detail: str,
    sequence: int,
    now: int,
) -> Adopted:
    """Settles what other holders left behind: LEASED is PENDING again; SENDING too on a `repeatable` connection, else UNKNOWN.

    What is PENDING again keeps its place in the order.
    """
    entry = write_attempt(Attempt(now, State.PENDING, detail))
    rows = await database.fetch(
        _ADOPT, bucket, holder, to_datetime(now), list(repeatable), detail, sequence, entry
    )
    unknown = [
        (id_, from_datetime(time))
        for row in rows
        for id_, time in zip(row["ids"] or (), row["times"] or (), strict=True)
    ]
    return Adopted({State(row["state"]): row["rows"] for row in rows}, unknown)


# A walk from one connection's name to the next: its cost is the number of connections, not of rows.
_FIRST_DUE = """
WITH RECURSIVE lane(connection, due) AS (
    (SELECT connection, next_attempt_time FROM deliveries WHERE bucket = $1 AND state = 1 AND request_time >= $2
     ORDER BY connection, next_attempt_time LIMIT 1)
  UNION ALL
    SELECT next.connection, next.next_attempt_time
    FROM lane, LATERAL (
        SELECT d.connection, d.next_attempt_time FROM deliveries d
        WHERE d.bucket = $1 AND d.state = 1 AND d.request_time >= $2 AND d.connection > lane.connection
        ORDER BY d.connection, d.next_attempt_time LIMIT 1) AS next
)
SELECT connection, due FROM lane
"""


async def first_due(database: Database, bucket: int, floor_us: int) -> dict[str, int]:
    """The connections on which something is PENDING, each with the time at which the first of it is due, in microseconds."""
    rows = await database.fetch(_FIRST_DUE, bucket, to_datetime(floor_us))
    return {row["connection"]: from_datetime(row["due"]) for row in rows}


@dataclass(frozen=True, slots=True)
class Census:
    """What is not done in a bucket, counted as far as `MOST_COUNTED`.

    Nothing that can still move was requested before `oldest_us`; None when that is not long ago.
    """

    pending: int
    receipts: int
    oldest_us: int | None


MOST_COUNTED = 100_000
"""A census says "at least this many" of what there is more of."""

_MOST_OUTBOX_ROWS = 5_000
_WALKED_DAYS = 62
_WAITING = "FROM deliveries d WHERE d.bucket = $1 AND d.state = 1"
# In the order of the index of what waits: so it is read, and no further than asked.
_IN_ORDER = "ORDER BY d.connection, d.next_attempt_time LIMIT"
# The oldest is found by asking day by day whether there is anything; nobody walks over what waits.
_CENSUS = f"""
SELECT (SELECT count(*) FROM (SELECT {_WAITING} {_IN_ORDER} $2) AS waiting) AS pending,
    (SELECT coalesce(sum(cardinality(activation_ids)), 0) FROM (
        SELECT activation_ids FROM receipts WHERE bucket = $1 ORDER BY sequence, writer LIMIT $3) AS untold) AS receipts,
    LEAST(
        CASE WHEN (SELECT true {_WAITING} AND d.request_time < $4::timestamptz {_IN_ORDER} 1) THEN 'epoch'::timestamptz ELSE (
            SELECT min(day) FROM generate_series($4::timestamptz, $5::timestamptz, interval '1 day') AS day
            WHERE (SELECT true {_WAITING} AND d.request_time >= day AND d.request_time < day + interval '1 day' {_IN_ORDER} 1)) END,
        (SELECT min(request_time) FROM (
            SELECT request_time FROM deliveries WHERE bucket = $1 AND state IN (2, 3) OFFSET 0) AS in_hand)) AS oldest
"""  # noqa: S608 - made of constants


async def take_census(database: Database, bucket: int, now: int) -> Census:
    """Counts what is not done in a bucket, whatever its age, at a cost that does not grow with it."""
    today = to_datetime(now).replace(hour=0, minute=0, second=0, microsecond=0)
    row = await database.fetchrow(
        _CENSUS,
        bucket,
        MOST_COUNTED,
        _MOST_OUTBOX_ROWS,
        today - timedelta(days=_WALKED_DAYS),
        today - timedelta(days=2),
    )
    assert row is not None
    oldest = row["oldest"]
    return Census(row["pending"], row["receipts"], None if oldest is None else from_datetime(oldest))
