"""Owns the statements on what destinations tell of deliveries, and how it changes those that are in doubt."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from cairn.activation.ledger import State
from cairn.activation.store import HOW_MANY, Database, and_tell
from cairn.activation.store_work import noted
from cairn.runtime.clock import from_datetime, to_datetime

WINDOW_US = 35 * 86_400_000_000
"""How old a delivery may be that something is told of, in microseconds: it bounds the days that are searched."""

DROPPED = "dropped"
"""How the detail of feedback begins that says that its destination did not try; only our own readers of feedback write it so."""

MOST_READ = 100
"""Most feedback that is shown with a delivery."""


@dataclass(frozen=True, slots=True)
class Feedback:
    """Something that a destination told; `kind` is the contract's number, `connection` an id or "", `address` never stored.

    `dropped` (not stored either, but then `detail` begins with `DROPPED`): it did not even try to deliver, whatever the reason is that
    `kind` tells.
    """

    provider: str
    event_id: str
    kind: int
    activation_id: str
    address: str
    connection: str
    occur_us: int
    detail: str
    dropped: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """By what it is known again."""
        return self.provider, self.event_id


class Subject(NamedTuple):
    """A delivery that something is told of."""

    bucket: int
    activation_id: str
    request_us: int
    connection: str
    state: State


class Resolution(NamedTuple):
    """What became of a delivery that was UNKNOWN."""

    activation_id: str
    request_us: int
    state: State
    detail: str


_FIND = """
SELECT activation_id, request_time, connection, state FROM deliveries
WHERE bucket = $1 AND activation_id = ANY($2::text[]) AND request_time >= $3 ORDER BY request_time
"""


async def find_subjects(
    database: Database, bucket: int, activation_ids: Iterable[str], since_us: int
) -> dict[str, Subject]:
    """Those of these deliveries that a bucket has and that were requested since a time, by activation."""
    rows = await database.fetch(_FIND, bucket, list(activation_ids), to_datetime(since_us))
    return {
        row["activation_id"]: Subject(
            bucket,
            row["activation_id"],
            from_datetime(row["request_time"]),
            row["connection"],
            State(row["state"]),
        )
        for row in rows
    }


_RECORD = """
INSERT INTO feedback (bucket, provider, event_id, kind, activation_id, connection, detail, occur_time, record_time)
SELECT $1, f.*, $2 FROM unnest($3::text[], $4::text[], $5::smallint[], $6::text[], $7::text[], $8::text[], $9::timestamptz[])
    AS f(provider, event_id, kind, activation_id, connection, detail, occur_time)
ORDER BY f.provider, f.event_id
ON CONFLICT (bucket, provider, event_id) DO NOTHING
RETURNING provider, event_id
"""


async def record(
    database: Database, bucket: int, feedback: Sequence[Feedback], now: int
) -> set[tuple[str, str]]:
    """Writes what is new, each event once; returns the keys of what was."""
    rows = await database.fetch(
        _RECORD,
        bucket,
        to_datetime(now),
        [one.provider for one in feedback],
        [one.event_id for one in feedback],
        [one.kind for one in feedback],
        [one.activation_id for one in feedback],
        [one.connection for one in feedback],
        [one.detail for one in feedback],
        [to_datetime(one.occur_us) for one in feedback],
    )
    return {(row["provider"], row["event_id"]) for row in rows}


_BEFORE = """json_build_object('end_us', (extract(epoch FROM d.state_time) * 1000000)::bigint, 'state', d.state,
    'detail', d.detail)::text"""
_RESOLVE = and_tell(
    f"""
UPDATE deliveries d SET state = r.state, state_time = $2, detail = r.detail, history = {noted(_BEFORE)}
FROM unnest($3::text[], $4::timestamptz[], $5::smallint[], $6::text[]) AS r(activation_id, request_time, state, detail)
WHERE d.bucket = $1 AND d.request_time = r.request_time AND d.activation_id = r.activation_id
  AND d.request_time BETWEEN $7 AND $8 AND d.state = {int(State.UNKNOWN)}
RETURNING d.activation_id, d.request_time, d.state
""",  # noqa: S608 - made of constants
    sequence="$9",
    writer="$10",
    answer=HOW_MANY,
)


async def resolve(
    database: Database,
    bucket: int,
    resolutions: Sequence[Resolution],
    *,
    sequence: int,
    writer: int,
    now: int,
) -> int:
    """Says what became of deliveries that are UNKNOWN, and has it told; how many that were. Of two about one the worse counts."""
    unique = {
        (one.activation_id, one.request_us): one for one in sorted(resolutions, key=lambda one: one.state)
    }
    rows = list(unique.values())
    times = [to_datetime(row.request_us) for row in rows]
    count = await database.fetchval(
        _RESOLVE,
        bucket,
        to_datetime(now),
        [row.activation_id for row in rows],
        times,
        [row.state for row in rows],
        [row.detail for row in rows],
        min(times),
        max(times),
        sequence,
        writer,
    )
    return int(count)


_TOLD_OF = """
SELECT activation_id, provider, kind, detail FROM feedback WHERE bucket = $1 AND activation_id = ANY($2::text[]) AND activation_id <> ''
"""


class Told(NamedTuple):
    """As much of feedback as tells what became of a delivery."""

    activation_id: str
    provider: str
    kind: int
    detail: str


async def told_of(database: Database, bucket: int, activation_ids: Sequence[str]) -> list[Told]:
    """What was told of these deliveries."""
    rows = await database.fetch(_TOLD_OF, bucket, list(activation_ids))
    return [Told(row["activation_id"], row["provider"], row["kind"], row["detail"]) for row in rows]


_READ = """
SELECT provider, event_id, kind, activation_id, connection, detail, occur_time FROM feedback
WHERE bucket = $1 AND activation_id = $2 AND activation_id <> '' ORDER BY occur_time, provider, event_id LIMIT $3
"""


async def read_feedback(database: Database, bucket: int, activation_id: str) -> list[Feedback]:
    """What was told of a delivery, oldest first."""
    return [
        Feedback(
            provider=row["provider"],
            event_id=row["event_id"],
            kind=row["kind"],
            activation_id=row["activation_id"],
            address="",
            connection=row["connection"],
            occur_us=from_datetime(row["occur_time"]),
            detail=row["detail"],
        )
        for row in await database.fetch(_READ, bucket, activation_id, MOST_READ)
    ]


_FORGET = """
WITH old AS (
    SELECT provider, event_id FROM feedback WHERE bucket = $1 AND record_time < $2 ORDER BY record_time LIMIT $3
)
DELETE FROM feedback f USING old WHERE f.bucket = $1 AND f.provider = old.provider AND f.event_id = old.event_id
"""


async def forget(database: Database, bucket: int, before_us: int, limit: int) -> int:
    """Deletes up to `limit` rows of a bucket that were recorded before a time; how many that were."""
    status = await database.execute(_FORGET, bucket, to_datetime(before_us), limit)
    return int(status.rpartition(" ")[2])  # "DELETE 3"
