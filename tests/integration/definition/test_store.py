"""The statements against the migrated schema, and what the background does to it."""

import asyncpg
import pytest
from prometheus_client import REGISTRY

from cairn.definition import store, store_lives, store_segments
from cairn.definition.upkeep import upkeep
from cairn.postgres.pool import connect_pool

VERBS = ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "LOCK")
STATEMENTS = {
    name: value
    for module in (store, store_lives, store_segments)
    for name, value in vars(module).items()
    if name.isupper() and isinstance(value, str) and value.lstrip().startswith(VERBS)
}


@pytest.fixture
async def connection(definition_dsn):
    connection = await asyncpg.connect(
        definition_dsn, server_settings={"search_path": "definition", "role": "cairn_definition"}
    )
    yield connection
    await connection.close()


@pytest.fixture
async def pool(definition_dsn):
    pool = await connect_pool(
        definition_dsn, role="cairn_definition", schema="definition", application_name="test"
    )
    yield pool
    await pool.close()


async def test_every_statement_can_be_prepared(connection) -> None:
    assert len(STATEMENTS) > 35
    for statement in STATEMENTS.values():
        await connection.prepare(statement)


async def test_answers_are_forgotten_after_a_day_and_watchers_after_an_hour(pool) -> None:
    hour_us = 3600 * 1_000_000
    now_us = await store.read_clock(pool)
    async with pool.acquire() as one:
        await store.claim_request(one, "old", b"f", now_us - 25 * hour_us)
        await store.claim_request(one, "new", b"f", now_us - 23 * hour_us)
    await store.put_watcher(pool, "old", 0, now_us - 2 * hour_us)
    await store.put_watcher(pool, "new", 0, now_us)
    await upkeep(pool)
    assert [row["request_id"] for row in await pool.fetch("SELECT request_id FROM requests")] == ["new"]
    assert [row["watcher"] for row in await pool.fetch("SELECT watcher FROM watchers")] == ["new"]


async def test_the_gauges_tell_of_journeys_and_of_the_slowest_watcher(definition, pool) -> None:
    for name in ("a", "b", "c"):
        await definition.create(definition.welcome(name))
    await definition.publish("a", "b")
    now_us = await store.read_clock(pool)
    await store.put_watcher(pool, "slow", 0, now_us)
    await store.put_watcher(pool, "quick", 2, now_us)
    await upkeep(pool)
    read = REGISTRY.get_sample_value
    assert read("cairn_definition_journeys", {"state": "DRAFT"}) == 1
    assert read("cairn_definition_journeys", {"state": "LIVE"}) == 2
    assert read("cairn_definition_revision") == 2
    assert read("cairn_definition_watchers") == 2
    assert read("cairn_definition_watcher_lag_revisions") == 2
