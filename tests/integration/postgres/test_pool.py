"""Pools and connections against a real server: the session they give, outages, and what a wrong address says."""

import asyncio
import io
from collections.abc import Awaitable, Callable

import asyncpg
import pytest
import structlog

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.postgres.embedded import EmbeddedPostgres, StopMode
from cairn.postgres.pool import Connection, connect, connect_pool, is_unavailable, translate_errors
from cairn.postgres.roles import ensure_roles
from cairn.runtime.errors import CairnError, StartupError

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]


async def test_a_pool_acts_as_the_service(dsn: str, admin: Connection) -> None:
    await ensure_roles(admin, ["evaluator"])
    pool = await connect_pool(
        dsn, role="cairn_evaluator", schema="evaluator", application_name="cairn-evaluator"
    )
    async with pool.acquire() as connection:
        await connection.execute("CREATE TABLE things (id int, facts jsonb)")
        await connection.execute("INSERT INTO things VALUES (1, $1)", '{"a": 1}')
    async with pool.acquire() as connection:
        row = await connection.fetchrow(
            """SELECT current_user::text AS role, current_schema()::text AS schema, facts,
                      current_setting('application_name') AS application,
                      current_setting('tcp_keepalives_idle') AS idle, current_setting('jit') AS jit
               FROM things"""
        )
    assert row is not None
    assert dict(row) == {
        "role": "cairn_evaluator",
        "schema": "evaluator",
        "facts": '{"a": 1}',
        "application": "cairn-evaluator",
        "idle": "5",
        "jit": "off",
    }
    await pool.close()


async def test_a_released_connection_has_no_open_transaction(dsn: str) -> None:
    pool = await connect_pool(dsn, role=None, schema="public", application_name="test", max_size=1)
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    async with pool.acquire() as connection:
        await connection.execute("BEGIN; CREATE TABLE forgotten ()")
    async with pool.acquire() as connection:
        assert await connection.fetchval("SELECT to_regclass('forgotten')") is None
    assert reported, "the driver reports the defect"
    await pool.close()


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_a_pool_recovers_by_itself_after_postgres_was_gone(
    dsn: str, server: EmbeddedPostgres, mode: StopMode, eventually: Eventually
) -> None:
    pool = await connect_pool(
        dsn, role=None, schema="public", application_name="test", min_size=3, max_size=3
    )
    await pool.execute("CREATE TABLE kept AS SELECT 1 AS n")
    busy = asyncio.create_task(pool.execute("SELECT pg_sleep(60)"))

    async def is_busy() -> bool:
        return bool(await pool.fetchval("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"))

    await eventually(is_busy)
    server.stop(mode)
    with pytest.raises(Exception) as broken:  # noqa: PT011 - the driver has many; ours is asked below
        await busy
    assert is_unavailable(broken.value)
    with pytest.raises(CairnError) as refused, translate_errors():
        await pool.fetchval("SELECT n FROM kept")
    assert refused.value.reason == ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE
    assert refused.value.retry_after_s
    server.start()
    found = await asyncio.gather(*(pool.fetchval("SELECT n FROM kept") for _ in range(6)))
    assert found == [1] * 6
    await pool.close()


async def test_a_wrong_address_is_one_clear_line_without_a_secret(dsn: str, server: EmbeddedPostgres) -> None:
    base = f"127.0.0.1:{server.port}"
    for address, role, told in (
        (
            f"postgresql://cairn:hush-hush@{base}/cairn",
            None,
            f"Postgres at {base}/cairn refuses the user or the password",
        ),
        (server.dsn.rpartition("/")[0] + "/none", None, "there is no such database"),
        (
            "postgresql://ann:hush-hush@127.0.0.1:1/cairn",
            None,
            "Postgres at 127.0.0.1:1/cairn does not answer",
        ),
        ("postgresql://ann:hush-hush@no-such-host.invalid/cairn", None, "does not answer"),
        ("mysql://ann:hush-hush@db/cairn", None, "The address is not like postgresql://"),
        ("postgresql://ann:hush-hush@db:port/cairn", None, "The address is not like postgresql://"),
        (dsn, "cairn_nobody", "may not act as the role 'cairn_nobody' (run `cairn migrate`)"),
    ):
        with pytest.raises(StartupError) as caught:
            await connect_pool(address, role=role, schema="public", application_name="test")
        line = str(caught.value)
        assert told in line
        assert line.endswith(": check the setting postgres_dsn.")
        assert "\n" not in line
        assert "hush" not in line


async def test_a_statement_that_hangs_counts_as_postgres_gone(dsn: str) -> None:
    connection = await connect(dsn, command_timeout_s=0.2)
    with pytest.raises(CairnError) as caught, translate_errors():
        await connection.execute("SELECT pg_sleep(60)")
    assert caught.value.reason == ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE
    await connection.close()


async def test_the_log_of_an_error_names_the_constraint_and_not_the_row(
    admin: Connection, monkeypatch: pytest.MonkeyPatch, server: EmbeddedPostgres
) -> None:
    written = io.StringIO()
    # One of its own: a logger that was used before keeps what it was first told.
    own = structlog.wrap_logger(
        structlog.PrintLogger(written),
        processors=[structlog.processors.JSONRenderer()],
        wrapper_class=structlog.BoundLogger,
        cache_logger_on_first_use=False,
    )
    monkeypatch.setattr("cairn.postgres.pool.log", own)
    await admin.execute("CREATE TABLE people (id text PRIMARY KEY)")
    await admin.execute("INSERT INTO people VALUES ('ann@example.org')")
    with pytest.raises(CairnError) as caught, translate_errors():
        await admin.execute("INSERT INTO people VALUES ($1)", "ann@example.org")
    assert isinstance(caught.value.__cause__, asyncpg.UniqueViolationError)
    printed = written.getvalue()
    assert "people_pkey" in printed
    assert "ann@example.org" not in printed
    assert "Key (id)" not in (server.data / "postgres.log").read_text()


async def test_times_are_exchanged_in_microseconds_where_that_is_asked_for(dsn: str) -> None:
    pool = await connect_pool(
        dsn, role=None, schema="", application_name="test", min_size=2, max_size=2, times_in_us=True
    )
    times = [-62_135_596_800_000_000, -1, 0, 1_767_225_600_123_457, 253_402_300_799_999_999, None]
    statement = "SELECT t, to_char(t, 'YYYY-MM-DD HH24:MI:SS.US') FROM unnest($1::timestamptz[]) AS t"
    async with pool.acquire() as first, pool.acquire() as second:
        for connection in (first, second):
            rows = await connection.fetch(statement, times)
            assert [row[0] for row in rows] == times
            assert [row[1] for row in rows] == [
                "0001-01-01 00:00:00.000000",
                "1969-12-31 23:59:59.999999",
                "1970-01-01 00:00:00.000000",
                "2026-01-01 00:00:00.123457",
                "9999-12-31 23:59:59.999999",
                None,
            ]
    await pool.close()
