"""Owns the statements by which activations come into the ledger and are taken back, and what all statements on it share.

Refuses to decide: it reads and writes what it is told, in one bucket at a time. A statement that makes rows final writes down in the
outbox of fates that they are to be told, under a `sequence` of its own and the name of this process.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import asyncpg

from cairn.activation.ledger import State
from cairn.activation.model import Activation, Withdrawal
from cairn.postgres.pool import AnyConnection, Pool
from cairn.runtime.clock import to_datetime

Database = AnyConnection | Pool


class Changed(NamedTuple):
    """How many rows a statement changed, and which: None when they are all that it was given."""

    rows: int
    ids: frozenset[str] | None

    def has(self, activation_id: str) -> bool:
        """Whether the row of an activation that the statement was given is one of them."""
        return self.ids is None or activation_id in self.ids


def and_tell(change: str, *, sequence: str, writer: str, answer: str, first: str = "") -> str:
    """A statement that changes rows and writes those of them that are final now to the outbox of fates, as one row.

    `change` returns activation_id, request_time and state of what it changes; `answer` selects from these rows, `changed`.
    """
    return f"""
WITH {first}changed AS ({change}), told AS (
    INSERT INTO receipts (bucket, sequence, writer, activation_ids, request_times)
    SELECT $1, {sequence}, {writer}, array_agg(activation_id), array_agg(request_time) FROM changed
    WHERE state > 3 HAVING count(*) > 0
)
{answer}
"""  # noqa: S608 - made of constants


HOW_MANY = "SELECT count(*) FROM changed"
"""An answer: how many rows it changed."""


def which(named: str) -> str:
    """An answer: how many rows it changed, and which, if they are not all that were named; the ids are seldom worth their way."""
    ids = f"CASE WHEN count(*) < {named} THEN array_agg(activation_id) END"
    return f"SELECT count(*) AS rows, {ids} AS ids FROM changed"  # noqa: S608 - made of constants


def read_changed(row: asyncpg.Record | None) -> Changed:
    """The answer of a statement that ends with `which`."""
    assert row is not None, "a count is always answered"
    rows, ids = row
    return Changed(rows, None if ids is None and rows else frozenset(ids or ()))


# What asks, and for which way out, is the same for most of a batch: it stands in short lists, in which each row has a place, `origin`.
_ACCEPT = and_tell(
    """
INSERT INTO deliveries (
    bucket, activation_id, request_time, profile_id, state, connection, template, action, journey_version, stage, step,
    time_zone, enrollment, context, sequence, holder, accept_time, state_time, next_attempt_time, attempts, detail, external_id,
    receipt_pending)
SELECT $1, a.activation_id, a.request_time, a.profile_id, a.state, ($11::text[])[a.origin], ($12::text[])[a.origin],
    ($13::smallint[])[a.origin], ($14::text[])[a.origin], ($15::text[])[a.origin], ($16::text[])[a.origin],
    ($17::text[])[a.origin], a.enrollment, a.context, $18 + a.place - 1, 0, $2, $2, $2, (a.state = 4)::integer,
    CASE WHEN a.state = 4 THEN $3 ELSE '' END, '', false
FROM unnest($4::text[], $5::timestamptz[], $6::text[], $7::smallint[], $8::text[], $9::bytea[], $10::integer[]) WITH ORDINALITY
    AS a(activation_id, request_time, profile_id, state, enrollment, context, origin, place)
ON CONFLICT (bucket, request_time, activation_id) DO NOTHING
RETURNING activation_id, request_time, state
""",
    sequence="$18",
    writer="$19",
    answer=which("cardinality($4::text[])"),
)


async def accept(
    database: Database,
    bucket: int,
    activations: Sequence[Activation],
    states: Sequence[State],
    *,
    detail: str,
    sequence: int,
    writer: int,
    now: int,
) -> Changed:
    """Writes those that are new, each with its state: PENDING, or SENT with `detail` where nothing has to leave the house.

    They are numbered upwards from `sequence`, which is also the number of what is to be told of them.
    """
    origins: dict[tuple[str, str, int, str, str, str, str], int] = {}
    places = [
        origins.setdefault(
            (a.connection, a.template, a.action, a.journey_version, a.stage, a.step, a.time_zone),
            len(origins) + 1,
        )
        for a in activations
    ]
    row = await database.fetchrow(
        _ACCEPT,
        bucket,
        to_datetime(now),
        detail,
        [a.activation_id for a in activations],
        [to_datetime(a.request_us) for a in activations],
        [a.profile_id for a in activations],
        states,
        [a.enrollment for a in activations],
        # It is what a message is made from; where none will be made it is nobody's any more.
        [a.context if state is State.PENDING else b"" for a, state in zip(activations, states, strict=True)],
        places,
        *zip(*origins, strict=True),
        sequence,
        writer,
    )
    return read_changed(row)


_DESCRIBE_TOMBSTONES = and_tell(
    """
UPDATE deliveries d SET connection = a.connection, template = a.template, action = a.action,
    journey_version = a.journey_version, stage = a.stage, step = a.step, enrollment = a.enrollment
FROM unnest($2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::smallint[], $7::text[], $8::text[], $9::text[],
    $10::text[])
    AS a(activation_id, request_time, connection, template, action, journey_version, stage, step, enrollment)
WHERE d.bucket = $1 AND d.request_time = a.request_time AND d.activation_id = a.activation_id
  AND d.request_time BETWEEN $11 AND $12 AND d.state = 8 AND d.connection = ''
RETURNING d.activation_id, d.request_time, d.state
""",
    sequence="$13",
    writer="$14",
    answer=HOW_MANY,
)


async def describe_tombstones(
    database: Database, bucket: int, activations: Sequence[Activation], *, sequence: int, writer: int
) -> int:
    """Tells the rows of activations that were withdrawn before they came what they were, and has their fate told."""
    times = [to_datetime(a.request_us) for a in activations]
    count = await database.fetchval(
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
        sequence,
        writer,
    )
    return int(count)


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
_WITHDRAW = and_tell(
    first="""
still AS MATERIALIZED (
    SELECT d.activation_id, d.request_time, w.reason
    FROM deliveries d
    JOIN unnest($3::text[], $4::timestamptz[], $5::text[]) AS w(activation_id, request_time, reason)
      ON d.activation_id = w.activation_id AND d.request_time = w.request_time
    WHERE d.bucket = $1 AND d.state IN (1, 2) AND d.request_time BETWEEN $6 AND $7
    ORDER BY d.activation_id FOR UPDATE OF d
), """,
    change="""
UPDATE deliveries d SET state = 8, state_time = $2, detail = still.reason, holder = 0
FROM still
WHERE d.bucket = $1 AND d.request_time = still.request_time AND d.activation_id = still.activation_id
  AND d.request_time BETWEEN $6 AND $7 AND d.state IN (1, 2)
RETURNING d.activation_id, d.request_time, d.state
""",
    sequence="$8",
    writer="$9",
    answer=HOW_MANY,
)
_COUNT_WITHDRAWN = """
SELECT count(*) FROM deliveries d
JOIN unnest($2::text[], $3::timestamptz[]) AS w(activation_id, request_time)
  ON d.activation_id = w.activation_id AND d.request_time = w.request_time
WHERE d.bucket = $1 AND d.state = 8 AND d.request_time BETWEEN $4 AND $5
"""


async def withdraw(
    connection: AnyConnection,
    bucket: int,
    withdrawals: Sequence[Withdrawal],
    *,
    sequence: int,
    writer: int,
    now: int,
) -> tuple[int, int]:
    """Takes back what has not left, remembers what is not known. Returns how many will not leave, and how many moved now.

    To be called in a transaction.
    """
    ids = [w.activation_id for w in withdrawals]
    times = [to_datetime(w.request_us) for w in withdrawals]
    reasons = [w.reason for w in withdrawals]
    at = to_datetime(now)
    await connection.execute(_BURY, bucket, at, ids, times, [w.profile_id for w in withdrawals], reasons)
    moved = await connection.fetchval(
        _WITHDRAW, bucket, at, ids, times, reasons, min(times), max(times), sequence, writer
    )
    withdrawn = await connection.fetchval(_COUNT_WITHDRAWN, bucket, ids, times, min(times), max(times))
    return int(withdrawn), int(moved)


_ANY_ERASED = "SELECT true FROM erasures WHERE bucket = $1 LIMIT 1"


async def any_erased(database: Database, bucket: int) -> bool:
    """Whether any profile of a bucket was ever erased."""
    return bool(await database.fetchval(_ANY_ERASED, bucket))
