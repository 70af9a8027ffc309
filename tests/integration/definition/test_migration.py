"""A database of the release before: it is brought up to date, and its programs go on working beside ours."""

import itertools
import re

import asyncpg
import pytest

from cairn.api.definition.v1.journey_pb2 import Journey
from cairn.definition.settings import DefinitionSettings
from cairn.postgres.database import migrate_service
from cairn.postgres.migrations import load_migrations

_numbers = itertools.count(1)

INSERT_VERSION = """
INSERT INTO definition.versions (journey_id, version, document, etag, publish_time, revision)
VALUES ($1, $2, $3, $4, now(), $5)
"""
MARK_PUBLISHED = "UPDATE definition.journeys SET state = 'LIVE', latest_version = $2 WHERE journey_id = $1"


@pytest.fixture
async def old_dsn(definition_postgres) -> str:
    """A database as the first migration alone left it."""
    name = f"definition_old_{next(_numbers)}"
    admin = await asyncpg.connect(definition_postgres.dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
    dsn = re.sub("/[^/]*$", f"/{name}", definition_postgres.dsn)
    await migrate_service("definition", DefinitionSettings(postgres_dsn=dsn))
    first = load_migrations("cairn.definition")[0]
    connection = await asyncpg.connect(dsn)
    async with connection.transaction():
        await connection.execute("SET LOCAL search_path TO definition; SET LOCAL ROLE cairn_definition")
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'definition'")
        for (table,) in tables:
            if table != "schema_migrations":
                await connection.execute(f"DROP TABLE {table} CASCADE")
        await connection.execute("DELETE FROM schema_migrations WHERE version > 1")
        await connection.execute(first.sql)
    await connection.close()
    return dsn


async def publish_as_before(connection, draft, version: int, revision: int) -> None:
    document = draft.SerializeToString(deterministic=True)
    async with connection.transaction():
        await connection.execute("UPDATE definition.revision SET value = $1", revision)
        await connection.execute(
            INSERT_VERSION, draft.name.removeprefix("journeys/"), version, document, "e", revision
        )
        await connection.execute(MARK_PUBLISHED, draft.name.removeprefix("journeys/"), version)


async def create_as_before(connection, draft) -> None:
    await connection.execute(
        "INSERT INTO definition.journeys (journey_id, draft, etag, state, latest_version, create_time, update_time) "
        "VALUES ($1, $2, 'e', 'DRAFT', 0, now(), now())",
        draft.name.removeprefix("journeys/"),
        draft.SerializeToString(deterministic=True),
    )


async def test_what_was_live_has_a_life_and_programs_of_before_go_on(
    old_dsn, run_service, destinations
) -> None:
    connection = await asyncpg.connect(old_dsn)
    a, b, c = (Journey(name=f"journeys/{name}", type="JOURNEY_TYPE_REAL_TIME") for name in "abc")
    for one in (a, b):
        await create_as_before(connection, one)
    await publish_as_before(connection, a, 1, 1)
    await publish_as_before(connection, a, 2, 2)
    await migrate_service("definition", DefinitionSettings(postgres_dsn=old_dsn))
    async with run_service(old_dsn, destinations.address) as replica:
        changes = await replica.changes()
        assert [one.revision for one in changes.versions] == [1, 2]
        assert [(one.journey, one.revision) for one in changes.lives] == [("journeys/a", 1)]
        # A program of before publishes once more, and what it never heard of is as it has to be.
        await create_as_before(connection, c)
        await publish_as_before(connection, b, 1, 3)
        await publish_as_before(connection, a, 3, 4)
        changes = await replica.changes(2)
        assert [(one.revision, list(one.segments)) for one in changes.versions] == [(3, []), (4, [])]
        assert (await replica.pause("b")).revision == 5
        assert (await replica.pause("a")).revision == 6
        assert (await replica.get("c")).latest_version == 0
        # It can't make a paused journey live by publishing it: that would be told to nobody.
        with pytest.raises(asyncpg.CheckViolationError):
            await publish_as_before(connection, a, 4, 7)
        assert (await replica.changes()).revision == 6
    await connection.close()
