"""Day partitions against a real server."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime

import asyncpg
import pytest

from cairn.postgres.partitions import drop_partitions, ensure_partitions
from cairn.postgres.pool import Connection, connect

DAY = date(2026, 2, 27)


@pytest.fixture
async def events(dsn: str) -> AsyncIterator[Connection]:
    connection = await connect(dsn, schema="evaluator")
    await connection.execute(
        """CREATE SCHEMA evaluator;
           CREATE TABLE events (bucket int, arrive_time timestamptz) PARTITION BY RANGE (arrive_time);
           CREATE TABLE days (bucket int, day date) PARTITION BY RANGE (day);"""
    )
    yield connection
    await connection.close()


@pytest.mark.parametrize("table", ["events", "evaluator.events", "days"])
async def test_missing_days_are_made_once(events: Connection, table: str) -> None:
    bare = table.rpartition(".")[2]
    made = await ensure_partitions(events, table, DAY, 3)
    assert made == [f"{bare}_p20260227", f"{bare}_p20260228", f"{bare}_p20260301"]
    assert await ensure_partitions(events, table, DAY, 3) == []
    assert await ensure_partitions(events, table, DAY, 4) == [f"{bare}_p20260302"]


async def test_a_partition_is_one_utc_day_whatever_zone_the_session_has(events: Connection) -> None:
    await events.execute("SET timezone = 'Asia/Tokyo'")
    await ensure_partitions(events, "events", DAY, 2)
    first = datetime(2026, 2, 27, tzinfo=UTC)
    last = datetime(2026, 2, 27, 23, 59, 59, 999999, tzinfo=UTC)
    await events.executemany("INSERT INTO events VALUES (1, $1)", [(first,), (last,)])
    assert await events.fetchval("SELECT count(*) FROM events_p20260227") == 2
    with pytest.raises(asyncpg.CheckViolationError):
        await events.execute("INSERT INTO events VALUES (1, $1)", datetime(2026, 3, 1, tzinfo=UTC))


async def test_old_days_are_dropped_oldest_first_and_strangers_stay(events: Connection) -> None:
    await ensure_partitions(events, "events", DAY, 4)
    await events.execute(
        "CREATE TABLE events_by_hand PARTITION OF events FOR VALUES FROM ('2020-01-01') TO ('2020-01-02')"
    )
    assert await drop_partitions(events, "evaluator.events", date(2026, 3, 1)) == [
        "events_p20260227",
        "events_p20260228",
    ]
    assert await drop_partitions(events, "events", date(2026, 3, 1)) == []
    left = await events.fetch("SELECT inhrelid::regclass::text AS name FROM pg_inherits ORDER BY name")
    assert [row["name"] for row in left] == ["events_by_hand", "events_p20260301", "events_p20260302"]


async def test_callers_at_once_are_harmless(dsn: str, events: Connection) -> None:
    connections = [await connect(dsn, schema="evaluator") for _ in range(4)]
    # Often: what two do to Postgres at once goes wrong now and then.
    for _ in range(20):
        made = await asyncio.gather(*(ensure_partitions(each, "events", DAY, 5) for each in connections))
        assert sorted(map(len, made)) == [0, 0, 0, 5]
        gone = await asyncio.gather(
            *(drop_partitions(each, "events", date(2027, 1, 1)) for each in connections)
        )
        assert sorted(name for names in gone for name in names) == made[[len(each) for each in made].index(5)]
    for connection in connections:
        await connection.close()


async def test_a_day_that_is_being_read_stays_for_the_next_call(dsn: str, events: Connection) -> None:
    await ensure_partitions(events, "events", DAY, 1)
    reader = await connect(dsn, schema="evaluator")
    async with reader.transaction():
        await reader.fetch("SELECT * FROM events")
        assert await drop_partitions(events, "events", date(2027, 1, 1)) == []
    assert await drop_partitions(events, "events", date(2027, 1, 1)) == ["events_p20260227"]
    await reader.close()
