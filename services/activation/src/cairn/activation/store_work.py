"""Owns the statements by which the owner of a bucket works on it: claim, send, settle, adopt, count.

`floor_us` bounds the days that a statement looks at: nothing that is open is older.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from cairn.activation.ledger import Settled, State
from cairn.activation.model import Claim
from cairn.activation.store import Changed, Database, and_tell, read_changed, which
from cairn.runtime.clock import from_datetime, to_datetime

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
    d.enrollment, d.sequence
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
            enrollment=row["enrollment"],
        )
        for row in sorted(rows, key=lambda row: row["sequence"])
    ]


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


_WRITE_RESULTS = and_tell(
    """
UPDATE deliveries d SET state = r.state, state_time = $3, next_attempt_time = r.next_attempt_time,
    attempts = r.attempts, detail = r.detail, external_id = r.external_id, holder = 0
FROM unnest($4::text[], $5::timestamptz[], $6::smallint[], $7::timestamptz[], $8::integer[], $9::text[], $10::text[])
    AS r(activation_id, request_time, state, next_attempt_time, attempts, detail, external_id)
WHERE d.bucket = $1 AND d.request_time = r.request_time AND d.activation_id = r.activation_id
  AND d.request_time BETWEEN $11 AND $12 AND d.state IN (2, 3) AND d.holder = $2
RETURNING d.activation_id, d.request_time, d.state
""",
    sequence="$13",
    writer="$2",
    answer=which("$14"),
)


async def write_results(
    database: Database,
    bucket: int,
    holder: int,
    results: Sequence[tuple[Claim, Settled, int]],
    *,
    sequence: int,
    now: int,
) -> Changed:
    """Writes what became of rows, with their count of attempts, where they are still `holder`'s."""
    times = [to_datetime(claim.request_us) for claim, _, _ in results]
    row = await database.fetchrow(
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
        min(times),
        max(times),
        sequence,
        len(results),
    )
    return read_changed(row)


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
    return int(status.rpartition(" ")[2])  # "UPDATE 3"


_ADOPT = and_tell(
    """
UPDATE deliveries SET
    state = CASE WHEN state = 2 OR connection = ANY($4::text[]) THEN 1 ELSE 7 END,
    detail = CASE WHEN state = 2 OR connection = ANY($4::text[]) THEN detail ELSE $5 END,
    holder = 0, state_time = $3, next_attempt_time = $3
WHERE bucket = $1 AND state IN (2, 3) AND holder <> $2
RETURNING activation_id, request_time, state
""",
    sequence="$6",
    writer="$2",
    answer="SELECT state, count(*) AS rows FROM changed GROUP BY state",
)


async def adopt(
    database: Database,
    bucket: int,
    *,
    holder: int,
    repeatable: Sequence[str],
    detail: str,
    sequence: int,
    now: int,
) -> dict[State, int]:
    """Settles what other holders left behind: LEASED is PENDING again; SENDING too on a `repeatable` connection, else UNKNOWN.

    Returns how many came to each state.
    """
    rows = await database.fetch(_ADOPT, bucket, holder, to_datetime(now), list(repeatable), detail, sequence)
    return {State(row["state"]): row["rows"] for row in rows}


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
    """What is not done in a bucket; `oldest_us` is the oldest request time of what can still move, None when nothing can."""

    pending: int
    receipts: int
    oldest_us: int | None


_CENSUS = """
SELECT (SELECT count(*) FROM deliveries WHERE bucket = $1 AND state = 1) AS pending,
       (SELECT coalesce(sum(cardinality(activation_ids)), 0) FROM receipts WHERE bucket = $1) AS receipts,
       (SELECT min(request_time) FROM (
            SELECT request_time FROM deliveries WHERE bucket = $1 AND state <= 3 OFFSET 0) AS open) AS oldest
"""


async def take_census(database: Database, bucket: int) -> Census:
    """Counts what is not done in a bucket, whatever its age."""
    row = await database.fetchrow(_CENSUS, bucket)
    assert row is not None
    oldest = row["oldest"]
    return Census(row["pending"], row["receipts"], None if oldest is None else from_datetime(oldest))
