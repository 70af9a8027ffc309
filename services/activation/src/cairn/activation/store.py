"""Owns every SQL statement on the ledger. Refuses to decide: it reads and writes what it is told, in one bucket at a time.

`floor_us` bounds the days that a statement looks at: nothing that is open, or whose receipt is pending, is older.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cairn.activation.ledger import Settled, State
from cairn.activation.model import Activation, Claim, Withdrawal
from cairn.postgres.pool import AnyConnection, Pool
from cairn.runtime.clock import from_datetime, to_datetime

Database = AnyConnection | Pool

_ACCEPT = """
INSERT INTO deliveries (
    bucket, activation_id, request_time, profile_id, state, connection, template, action, journey_version, stage, step,
    enrollment, context, sequence, holder, accept_time, state_time, next_attempt_time, attempts, detail, external_id,
    receipt_pending)
SELECT $1, a.activation_id, a.request_time, a.profile_id, 1, a.connection, a.template, a.action, a.journey_version,
    a.stage, a.step, a.enrollment, a.context, a.sequence, 0, $2, $2, $2, 0, '', '', false
FROM unnest($3::text[], $4::timestamptz[], $5::text[], $6::text[], $7::text[], $8::smallint[], $9::text[], $10::text[],
    $11::text[], $12::text[], $13::bytea[], $14::bigint[])
    AS a(activation_id, request_time, profile_id, connection, template, action, journey_version, stage, step,
         enrollment, context, sequence)
ON CONFLICT (bucket, request_time, activation_id) DO NOTHING
RETURNING activation_id
"""


async def accept(
    database: Database, bucket: int, activations: Sequence[Activation], sequence: int, now: int
) -> set[str]:
    """Writes those that are new as PENDING and returns their ids; they are numbered upwards from `sequence`."""
    rows = await database.fetch(
        _ACCEPT,
        bucket,
        to_datetime(now),
        [a.activation_id for a in activations],
        [to_datetime(a.request_us) for a in activations],
        [a.profile_id for a in activations],
        [a.connection for a in activations],
        [a.template for a in activations],
        [a.action for a in activations],
        [a.journey_version for a in activations],
        [a.stage for a in activations],
        [a.step for a in activations],
        [a.enrollment for a in activations],
        [a.context for a in activations],
        list(range(sequence, sequence + len(activations))),
    )
    return {row["activation_id"] for row in rows}


_DESCRIBE_TOMBSTONES = """
UPDATE deliveries d SET connection = a.connection, template = a.template, action = a.action,
    journey_version = a.journey_version, stage = a.stage, step = a.step, enrollment = a.enrollment, receipt_pending = true
FROM unnest($2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::smallint[], $7::text[], $8::text[], $9::text[],
    $10::text[]) AS a(activation_id, request_time, connection, template, action, journey_version, stage, step, enrollment)
WHERE d.bucket = $1 AND d.request_time = a.request_time AND d.activation_id = a.activation_id
  AND d.request_time BETWEEN $11 AND $12 AND d.state = 8 AND d.connection = ''
"""


async def describe_tombstones(database: Database, bucket: int, activations: Sequence[Activation]) -> None:
    """Tells the rows of activations that were withdrawn before they came what they were, and has their fate reported."""
    times = [to_datetime(a.request_us) for a in activations]
    await database.execute(
        _DESCRIBE_TOMBSTONES,
        bucket,
        [a.activation_id for a in activations],
        times,
        [a.connection for a in activations],
        [a.template for a in activations],
        [a.action for a in activations],
        [a.journey_version for a in activations],
        [a.stage for a in activations],
        [a.step for a in activations],
        [a.enrollment for a in activations],
        min(times),
        max(times),
    )


WORK_CHANNEL = "cairn_activation_work"
"""Where replicas tell each other of work; a payload is a bucket and a connection's id, "3 email"."""

_TELL = "SELECT pg_notify($1, p) FROM unnest($2::text[]) AS p"


async def tell_owner(database: Database, bucket: int, connections: Iterable[str]) -> None:
    """Tells the replica that owns a bucket that something is pending there. The sweep finds what it did not hear of."""
    await database.execute(_TELL, WORK_CHANNEL, [f"{bucket} {connection}" for connection in connections])


# Tombstones first: the insert waits for an activation that is being accepted at this moment, the update then sees it.
_BURY = """
INSERT INTO deliveries (
    bucket, activation_id, request_time, profile_id, state, connection, template, action, journey_version, stage, step,
    enrollment, context, sequence, holder, accept_time, state_time, next_attempt_time, attempts, detail, external_id,
    receipt_pending)
SELECT $1, w.activation_id, w.request_time, w.profile_id, 8, '', '', 0, '', '', '', '', '', 0, 0, $2, $2, $2, 0,
    w.reason, '', false
FROM unnest($3::text[], $4::timestamptz[], $5::text[], $6::text[]) AS w(activation_id, request_time, profile_id, reason)
ON CONFLICT (bucket, request_time, activation_id) DO NOTHING
"""
_WITHDRAW = """
WITH still AS MATERIALIZED (
    SELECT d.activation_id, d.request_time, w.reason
    FROM deliveries d
    JOIN unnest($3::text[], $4::timestamptz[], $5::text[]) AS w(activation_id, request_time, reason)
      ON d.activation_id = w.activation_id AND d.request_time = w.request_time
    WHERE d.bucket = $1 AND d.state IN (1, 2) AND d.request_time BETWEEN $6 AND $7
    ORDER BY d.activation_id FOR UPDATE OF d
)
UPDATE deliveries d SET state = 8, state_time = $2, detail = still.reason, receipt_pending = true, holder = 0
FROM still
WHERE d.bucket = $1 AND d.request_time = still.request_time AND d.activation_id = still.activation_id
  AND d.request_time BETWEEN $6 AND $7 AND d.state IN (1, 2)
"""
_COUNT_WITHDRAWN = """
SELECT count(*) FROM deliveries d
JOIN unnest($2::text[], $3::timestamptz[]) AS w(activation_id, request_time)
  ON d.activation_id = w.activation_id AND d.request_time = w.request_time
WHERE d.bucket = $1 AND d.state = 8 AND d.request_time BETWEEN $4 AND $5
"""


async def withdraw(
    connection: AnyConnection, bucket: int, withdrawals: Sequence[Withdrawal], now: int
) -> tuple[int, int]:
    """Takes back what has not left, remembers what is not known. Returns how many will not leave, and how many moved now.

    To be called in a transaction.
    """
    ids = [w.activation_id for w in withdrawals]
    times = [to_datetime(w.request_us) for w in withdrawals]
    reasons = [w.reason for w in withdrawals]
    at = to_datetime(now)
    await connection.execute(_BURY, bucket, at, ids, times, [w.profile_id for w in withdrawals], reasons)
    status = await connection.execute(_WITHDRAW, bucket, at, ids, times, reasons, min(times), max(times))
    withdrawn = await connection.fetchval(_COUNT_WITHDRAWN, bucket, ids, times, min(times), max(times))
    return int(withdrawn), _changed(status)


_CLAIM = """
WITH due AS MATERIALIZED (
    SELECT activation_id, request_time FROM deliveries
    WHERE bucket = $1 AND connection = $2 AND state = 1 AND next_attempt_time <= $3 AND request_time >= $4
    ORDER BY sequence LIMIT $5 FOR UPDATE SKIP LOCKED
)
UPDATE deliveries d SET state = 2, holder = $6, state_time = $7, attempts = d.attempts + 1
FROM due
WHERE d.bucket = $1 AND d.request_time = due.request_time AND d.activation_id = due.activation_id AND d.request_time >= $4
RETURNING d.activation_id, d.request_time, d.profile_id, d.template, d.action, d.context, d.accept_time, d.attempts,
    d.sequence
"""


async def claim(
    database: Database,
    bucket: int,
    connection: str,
    *,
    due_us: int,
    floor_us: int,
    limit: int,
    holder: int,
    now: int,
) -> list[Claim]:
    """Leases the first PENDING rows of a connection, in the order of acceptance, whose next attempt is due by `due_us`."""
    rows = await database.fetch(
        _CLAIM,
        bucket,
        connection,
        to_datetime(due_us),
        to_datetime(floor_us),
        limit,
        holder,
        to_datetime(now),
    )
    return [
        Claim(
            activation_id=row["activation_id"],
            request_us=from_datetime(row["request_time"]),
            profile_id=row["profile_id"],
            template=row["template"],
            action=row["action"],
            context=row["context"],
            accept_us=from_datetime(row["accept_time"]),
            attempts=row["attempts"],
        )
        for row in sorted(rows, key=lambda row: row["sequence"])
    ]


_MARK_SENDING = """
UPDATE deliveries d SET state = 3, state_time = $3
FROM unnest($4::text[], $5::timestamptz[]) AS k(activation_id, request_time)
WHERE d.bucket = $1 AND d.request_time = k.request_time AND d.activation_id = k.activation_id
  AND d.request_time BETWEEN $6 AND $7 AND d.state = 2 AND d.holder = $2
RETURNING d.activation_id
"""


async def mark_sending(
    database: Database, bucket: int, holder: int, claims: Sequence[Claim], now: int
) -> set[str]:
    """Moves those that `holder` still leases past the point of no return; returns their ids. A withdrawal in between wins."""
    times = [to_datetime(claim.request_us) for claim in claims]
    rows = await database.fetch(
        _MARK_SENDING,
        bucket,
        holder,
        to_datetime(now),
        [claim.activation_id for claim in claims],
        times,
        min(times),
        max(times),
    )
    return {row["activation_id"] for row in rows}


_WRITE_RESULTS = """
UPDATE deliveries d SET state = r.state, state_time = $3, next_attempt_time = r.next_attempt_time, attempts = r.attempts,
    detail = r.detail, external_id = r.external_id, receipt_pending = r.receipt, holder = 0
FROM unnest($4::text[], $5::timestamptz[], $6::smallint[], $7::timestamptz[], $8::integer[], $9::text[], $10::text[],
    $11::boolean[])
    AS r(activation_id, request_time, state, next_attempt_time, attempts, detail, external_id, receipt)
WHERE d.bucket = $1 AND d.request_time = r.request_time AND d.activation_id = r.activation_id
  AND d.request_time BETWEEN $12 AND $13 AND d.state IN (2, 3) AND d.holder = $2
"""


async def write_results(
    database: Database, bucket: int, holder: int, results: Sequence[tuple[Claim, Settled, int]], now: int
) -> int:
    """Writes what became of rows that `holder` has, with their count of attempts; returns how many were still its own."""
    times = [to_datetime(claim.request_us) for claim, _, _ in results]
    status = await database.execute(
        _WRITE_RESULTS,
        bucket,
        holder,
        to_datetime(now),
        [claim.activation_id for claim, _, _ in results],
        times,
        [settled.state for _, settled, _ in results],
        [to_datetime(settled.next_attempt_us) for _, settled, _ in results],
        [attempts for _, _, attempts in results],
        [settled.detail for _, settled, _ in results],
        [settled.external_id for _, settled, _ in results],
        [settled.receipt for _, settled, _ in results],
        min(times),
        max(times),
    )
    return _changed(status)


_GIVE_BACK = """
UPDATE deliveries SET state = 1, holder = 0, state_time = $4, next_attempt_time = $4
WHERE bucket = $1 AND ($2 = '' OR connection = $2) AND state IN (2, 3) AND holder = $3 AND request_time >= $5
"""


async def give_back(
    database: Database, bucket: int, connection: str, *, holder: int, floor_us: int, now: int
) -> int:
    """Makes PENDING what `holder` has of a connection, or of all ("").

    Only for a holder who knows that none of it was sent.
    """
    status = await database.execute(
        _GIVE_BACK, bucket, connection, holder, to_datetime(now), to_datetime(floor_us)
    )
    return _changed(status)


_ADOPT = """
UPDATE deliveries SET
    state = CASE WHEN state = 2 OR connection = ANY($4::text[]) THEN 1 ELSE 7 END,
    receipt_pending = state = 3 AND NOT connection = ANY($4::text[]),
    detail = CASE WHEN state = 2 OR connection = ANY($4::text[]) THEN detail ELSE $5 END,
    holder = 0, state_time = $3, next_attempt_time = $3
WHERE bucket = $1 AND state IN (2, 3) AND holder <> $2
RETURNING state
"""


async def adopt(
    database: Database, bucket: int, *, holder: int, repeatable: Sequence[str], detail: str, now: int
) -> list[State]:
    """Settles what other holders left behind: LEASED is PENDING again; SENDING too on a `repeatable` connection, else UNKNOWN."""
    rows = await database.fetch(_ADOPT, bucket, holder, to_datetime(now), list(repeatable), detail)
    return [State(row["state"]) for row in rows]


# A walk from one connection's name to the next: its cost is the number of connections, not of rows.
_OPEN_CONNECTIONS = """
WITH RECURSIVE lane(connection) AS (
    (SELECT connection FROM deliveries WHERE bucket = $1 AND state = 1 AND request_time >= $2
     ORDER BY connection LIMIT 1)
  UNION ALL
    SELECT (SELECT d.connection FROM deliveries d
            WHERE d.bucket = $1 AND d.state = 1 AND d.request_time >= $2 AND d.connection > lane.connection
            ORDER BY d.connection LIMIT 1)
    FROM lane WHERE lane.connection IS NOT NULL
)
SELECT connection FROM lane WHERE connection IS NOT NULL
"""


async def open_connections(database: Database, bucket: int, floor_us: int) -> list[str]:
    """The connections on which something is PENDING."""
    rows = await database.fetch(_OPEN_CONNECTIONS, bucket, to_datetime(floor_us))
    return [row["connection"] for row in rows]


@dataclass(frozen=True, slots=True)
class Census:
    """What is not done in a bucket; `oldest_us` is the oldest request time in it, None when all is done."""

    pending: int
    receipts: int
    oldest_us: int | None


_CENSUS = """
SELECT (SELECT count(*) FROM deliveries WHERE bucket = $1 AND state = 1) AS pending,
       (SELECT count(*) FROM deliveries WHERE bucket = $1 AND receipt_pending) AS receipts,
       least((SELECT min(request_time) FROM deliveries WHERE bucket = $1 AND state <= 3),
             (SELECT min(request_time) FROM deliveries WHERE bucket = $1 AND receipt_pending)) AS oldest
"""


async def take_census(database: Database, bucket: int) -> Census:
    """Counts what is not done in a bucket, whatever its age."""
    row = await database.fetchrow(_CENSUS, bucket)
    assert row is not None
    oldest = row["oldest"]
    return Census(row["pending"], row["receipts"], None if oldest is None else from_datetime(oldest))


def _changed(status: str) -> int:
    """The number at the end of a command's status, "UPDATE 3"."""
    return int(status.rpartition(" ")[2])
