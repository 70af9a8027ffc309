"""Owns the statement by which a human has a delivery sent again that its lane is done with, and the one by which changes are watched."""

from collections.abc import Sequence
from dataclasses import dataclass

from cairn.activation.ledger import Mover, State, may_follow
from cairn.activation.model import Attempt, Delivery
from cairn.activation.store import Database
from cairn.activation.store_listing import COLUMNS, journey_pattern, read_row
from cairn.activation.store_work import MOST_ATTEMPTS_KEPT, write_attempt
from cairn.runtime.clock import to_datetime

# What it came to before goes into the history, and behind it why it is sent again.
_BEFORE = """json_build_object('end_us', (extract(epoch FROM d.state_time) * 1000000)::bigint, 'state', d.state,
    'detail', d.detail)::text"""
_RETRY = f"""
UPDATE deliveries d SET state = {int(State.PENDING)}, attempts = 0, holder = 0, detail = $4, external_id = '', state_time = $5,
    next_attempt_time = $5,
    history = (d.history || {_BEFORE} || $6::text)[greatest(cardinality(d.history) - {MOST_ATTEMPTS_KEPT - 3}, 1):]
WHERE d.bucket = $1 AND d.request_time = $2 AND d.activation_id = $3
  AND d.state IN ({", ".join(str(int(state)) for state in sorted(may_follow(State.PENDING, Mover.OPERATOR)))})
RETURNING {COLUMNS}
"""  # noqa: S608 - made of constants


async def retry(
    database: Database, bucket: int, activation_id: str, request_us: int, *, detail: str, now: int
) -> Delivery | None:
    """Makes a delivery PENDING again, due at once, with all its attempts; None where it is in no state to be sent again."""
    entry = write_attempt(Attempt(now, State.PENDING, detail))
    row = await database.fetchrow(
        _RETRY, bucket, to_datetime(request_us), activation_id, detail, to_datetime(now), entry
    )
    return None if row is None else read_row(row)


_CHANGED_IN = f"""
SELECT {COLUMNS} FROM deliveries
WHERE bucket = $1 AND state_time >= $2 AND state_time < $4 AND (state_time, activation_id) > ($2, $3)
  AND ($5 = '' OR journey_version LIKE $5) AND ($6::smallint[] = '{{}}' OR state = ANY($6)) AND ($7 = '' OR profile_id = $7)
"""  # noqa: S608 - made of constants
_BY_TIME = "ORDER BY state_time, activation_id LIMIT $8"
# What is in somebody's hands is little, and has an index of its own.
_CHANGED = f"""
SELECT * FROM (
    ({_CHANGED_IN} AND state NOT IN (2, 3) {_BY_TIME}) UNION ALL ({_CHANGED_IN} AND state IN (2, 3) {_BY_TIME})
) AS changed {_BY_TIME}
"""  # noqa: S608 - made of constants


@dataclass(frozen=True, slots=True)
class Watched:
    """Which changes are told: of a journey and of a profile ("" for all), into some states (() for all)."""

    journey: str
    states: Sequence[int]
    profile_id: str


async def changed(
    database: Database, bucket: int, watched: Watched, after: tuple[int, str], before_us: int, limit: int
) -> list[Delivery]:
    """Deliveries of a bucket that came into their state behind a place (microseconds, activation) and before a time, in that order."""
    rows = await database.fetch(
        _CHANGED,
        bucket,
        to_datetime(after[0]),
        after[1],
        to_datetime(before_us),
        journey_pattern(watched.journey),
        list(watched.states),
        watched.profile_id,
        limit,
    )
    return [read_row(row) for row in rows]
