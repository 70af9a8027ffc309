"""Owns the statements by which people look at the ledger, and those that keep its days. Not on any hot path."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import msgspec

from cairn.activation.ledger import State
from cairn.activation.model import Attempt, Delivery
from cairn.activation.store import Database
from cairn.postgres import partitions
from cairn.postgres.pool import AnyConnection
from cairn.runtime.clock import from_datetime, to_datetime

COLUMNS = """bucket, activation_id, profile_id, state, connection, template, action, journey_version, stage, step,
    enrollment, request_time, accept_time, state_time, next_attempt_time, attempts, detail, external_id,
    template_version, history"""
"""What `read_row` makes a Delivery of."""

_ATTEMPTS = msgspec.json.Decoder(Attempt)

_READ_DELIVERY = f"SELECT {COLUMNS} FROM deliveries WHERE bucket = $1 AND activation_id = $2 LIMIT 1"  # noqa: S608 - constant


async def read_delivery(database: Database, bucket: int, activation_id: str) -> Delivery | None:
    """The row of an activation, if it is in this bucket."""
    row = await database.fetchrow(_READ_DELIVERY, bucket, activation_id)
    return None if row is None else read_row(row)


_FILTERS = """
  AND ($2::text = '' OR journey_version LIKE $2) AND ($3::smallint[] = '{}' OR state = ANY($3))
  AND (request_time < $4 OR (request_time = $4 AND ($1, activation_id) > ($5, $6)))
"""
_LIST = f"SELECT {COLUMNS} FROM deliveries WHERE bucket = $1 {_FILTERS}"  # noqa: S608 - constant
_ORDER = " ORDER BY request_time DESC, activation_id LIMIT $7"
_LIST_BUCKET = _LIST + " AND request_time <= $4" + _ORDER
_LIST_PROFILE = _LIST + " AND request_time <= $4 AND profile_id = $8" + _ORDER


@dataclass(frozen=True, slots=True)
class Page:
    """Which deliveries to read: those after the position (`before_us`, `after_bucket`, `after_id`), newest first."""

    journey: str
    states: tuple[int, ...]
    before_us: int
    after_bucket: int
    after_id: str
    size: int


async def list_deliveries(
    database: Database, bucket: int, page: Page, profile_id: str = ""
) -> list[Delivery]:
    """A bucket's deliveries, or one profile's in it."""
    arguments: list[Any] = [
        bucket,
        journey_pattern(page.journey),
        list(page.states),
        to_datetime(page.before_us),
        page.after_bucket,
        page.after_id,
        page.size,
    ]
    rows = (
        await database.fetch(_LIST_PROFILE, *arguments, profile_id)
        if profile_id
        else await database.fetch(_LIST_BUCKET, *arguments)
    )
    return [read_row(row) for row in rows]


_DROP_STRAYS = "DELETE FROM deliveries_default WHERE request_time < $1::date"
_DAYS_BACK = 9
_DAYS_AHEAD = 2


async def keep_days(connection: AnyConnection, today: date, retention_days: int) -> None:
    """Makes the partitions that requests of these days need, and drops what is older than `retention_days`."""
    first = today - timedelta(days=_DAYS_BACK)
    before = today - timedelta(days=retention_days)
    await partitions.ensure_partitions(connection, "deliveries", first, _DAYS_BACK + 1 + _DAYS_AHEAD)
    await partitions.drop_partitions(connection, "deliveries", before)
    await connection.execute(_DROP_STRAYS, before)


def journey_pattern(journey: str) -> str:
    """What the versions of a journey, `journeys/ID`, are LIKE; "" for all journeys."""
    escaped = journey.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
    return f"{escaped}/versions/%" if journey else ""


def read_row(row: Any) -> Delivery:
    """The delivery of a row with `COLUMNS`."""
    return Delivery(
        bucket=row["bucket"],
        activation_id=row["activation_id"],
        profile_id=row["profile_id"],
        state=State(row["state"]),
        connection=row["connection"],
        template=row["template"],
        action=row["action"],
        journey_version=row["journey_version"],
        stage=row["stage"],
        step=row["step"],
        enrollment=row["enrollment"],
        request_us=from_datetime(row["request_time"]),
        accept_us=from_datetime(row["accept_time"]),
        state_us=from_datetime(row["state_time"]),
        next_attempt_us=from_datetime(row["next_attempt_time"]),
        attempts=row["attempts"],
        detail=row["detail"],
        external_id=row["external_id"],
        template_version=row["template_version"],
        history=[_ATTEMPTS.decode(entry) for entry in row["history"]],
    )
