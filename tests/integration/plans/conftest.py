"""A Postgres with all schemas and about a million rows in each of the tables that grow, for reading plans.

Plans follow from statistics, so the days are fixed ones and nothing here depends on the clock.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import date

import asyncpg
import pytest

from cairn.cli.migrate import prepare_database
from cairn.postgres.embedded import EmbeddedPostgres
from cairn.postgres.partitions import ensure_partitions
from cairn.postgres.pool import connect, exchange_times_in_us

# The planner asks about none of these: they make filling quick and its end the end of all writing.
_FILL_SETTINGS = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "autovacuum": "off"}

FIRST_DAY = date(2026, 3, 2)
"""The first of two days that hold rows; the ones beside them and the default partitions are empty."""

_PARTITIONED = {"evaluator": ("timeline", "event_ids"), "activation": ("deliveries",)}

# Every table's n-th row is of bucket n % 8. Those that have a day come one each 0.16 seconds: 540,000 on the first day.
_FILL = {
    "profiles": """
INSERT INTO evaluator.profiles (bucket, profile_id, revision, attributes, time_zone, standings, update_time, held_in)
SELECT n % 8, 'p-' || lpad(n::text, 7, '0'), 1, '{}', 'UTC', '{}', '2026-03-02Z',
    CASE WHEN n % 501 = 0 THEN '{welcome,winback}'::text[] END
FROM generate_series(0, 999999) AS n
""",
    "erasures": "INSERT INTO evaluator.erasures (bucket, number) SELECT n, 0 FROM generate_series(0, 7) AS n",
    "tombstones": """
INSERT INTO evaluator.tombstones (bucket, profile_hash, revision, erase_time)
SELECT n % 8, decode(md5(n::text), 'hex'), 2, '2026-03-02Z' FROM generate_series(0, 999999) AS n
""",
    "timers": """
INSERT INTO scheduler.timers (bucket, timer_id, key, due_time, payload, state)
SELECT n % 8, 't-' || lpad(n::text, 7, '0'), 'p-' || lpad(n::text, 7, '0'), '2026-03-02Z'::timestamptz + n * interval '1 second', '',
    (n % 1001 = 0)::int
FROM generate_series(0, 999999) AS n
""",
    "deliveries": """
INSERT INTO activation.deliveries (bucket, activation_id, request_time, profile_id, state, connection, template, action,
    journey_version, stage, step, enrollment, context, sequence, holder, accept_time, state_time, next_attempt_time, attempts,
    detail, external_id, receipt_pending)
SELECT n % 8, 'a-' || lpad(n::text, 7, '0'), t, 'p-' || lpad(n::text, 7, '0'),
    CASE WHEN n % 101 = 0 THEN 1 WHEN n % 1009 = 0 THEN 2 WHEN n % 1013 = 0 THEN 3 WHEN n % 503 = 0 THEN 8 ELSE 4 END,
    CASE WHEN n % 3 = 0 THEN 'push' ELSE 'email' END, 'hello', 1, 'welcome/1', 's', 's', '', '', n, (n % 1009 = 0 OR n % 1013 = 0)::int,
    t, t, t, 1, '', '', n % 5003 = 0
FROM generate_series(0, 999999) AS n, LATERAL (SELECT '2026-03-02Z'::timestamptz + n * interval '0.16 second') AS at(t)
""",
    "consents": """
INSERT INTO activation.consents (bucket, profile_id, connection, granted, source, update_time)
SELECT n % 8, 'p-' || lpad(n::text, 7, '0'), '', true, '', '2026-03-02Z' FROM generate_series(0, 999999) AS n
""",
    "deliveries that are held": """
INSERT INTO activation.deliveries (bucket, activation_id, request_time, profile_id, state, connection, template, action,
    journey_version, stage, step, enrollment, context, sequence, holder, accept_time, state_time, next_attempt_time, attempts,
    detail, external_id, receipt_pending)
SELECT n % 8, 'h-' || lpad(n::text, 7, '0'), t, 'p-' || lpad(n::text, 7, '0'), 1, CASE WHEN n % 16 < 8 THEN 'email' ELSE 'held' END,
    'hello', 1, 'welcome/1', 's', 's', '', '', n, 0, t, t, '2026-06-01Z', 0, '', '', false
FROM generate_series(0, 399999) AS n, LATERAL (SELECT '2026-03-02Z'::timestamptz + n * interval '0.4 second') AS at(t)
""",
    "timeline": """
INSERT INTO evaluator.timeline (bucket, profile_id, record_time, row_id, kind, entries)
SELECT n % 8, 'p-' || lpad((n % 200000)::text, 7, '0'), '2026-03-02Z'::timestamptz + n * interval '0.16 second', n, 1, '[]'
FROM generate_series(0, 999999) AS n
""",
    "event_ids": """
INSERT INTO evaluator.event_ids (bucket, profile_id, event_id, arrival_time)
SELECT n % 8, 'p-' || lpad(n::text, 7, '0'), 'e-' || n, '2026-03-02Z'::timestamptz + n * interval '0.16 second'
FROM generate_series(0, 999999) AS n
""",
    "outbox": """
INSERT INTO evaluator.outbox (bucket, writer, sequence, write_time, schedule)
SELECT n % 8, 1 + n % 3, n, '2026-03-02Z'::timestamptz + n * interval '1 second', '' FROM generate_series(0, 99999) AS n
""",
    "receipts": """
INSERT INTO activation.receipts (bucket, sequence, writer, activation_ids, request_times)
SELECT n % 8, n, 1 + n % 3, '{}', '{}' FROM generate_series(0, 99999) AS n
""",
}

Opener = Callable[[str], Awaitable[asyncpg.Connection]]


@pytest.fixture(scope="session")
def filled_dsn() -> Iterator[str]:
    with EmbeddedPostgres(settings=_FILL_SETTINGS) as server:
        asyncio.run(_fill(server.dsn))
        yield server.dsn


async def _fill(dsn: str) -> None:
    await prepare_database(dsn)
    for service, tables in _PARTITIONED.items():
        connection = await connect(dsn, schema=service)
        for table in tables:
            await ensure_partitions(connection, table, FIRST_DAY, 4)
        await connection.close()
    # At once: a server's process fills one table at a time.
    await asyncio.gather(*(_fill_table(dsn, statement) for statement in _FILL.values()))
    connection = await connect(dsn, command_timeout_s=120)
    await connection.execute("ANALYZE")
    await connection.close()


async def _fill_table(dsn: str, statement: str) -> None:
    connection = await connect(dsn, command_timeout_s=120)
    await connection.execute(statement)
    await connection.close()


@pytest.fixture
async def open_as(filled_dsn: str) -> AsyncIterator[Opener]:
    """Connects as a service finds its tables, with times as microseconds (Activation's are datetimes, which plans alike)."""
    opened: list[asyncpg.Connection] = []

    async def open_one(service: str) -> asyncpg.Connection:
        connection = await connect(filled_dsn, schema=service)
        opened.append(connection)
        await exchange_times_in_us(connection)
        return connection

    yield open_one
    for connection in opened:
        await connection.close()
