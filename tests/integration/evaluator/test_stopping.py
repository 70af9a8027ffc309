"""A stop ends within its time whoever is away, and what it could not send another sends."""

import asyncio

import pytest
from house import event, until

from cairn.cli.suite import Suite


@pytest.fixture
def suite(evaluator_suite: tuple[Suite, int]) -> Suite:
    return evaluator_suite[0]


async def test_what_a_stop_could_not_send_another_replica_sends(
    suite, door, second_door, second_evaluator, profile_id
) -> None:
    suite.kill_service("scheduler")
    try:
        assert (await second_door.ingest(event(profile_id, "signup"))).accepted == 1
        assert await asyncio.to_thread(suite.stop_service, second_evaluator) == 0
        assert await door.states(profile_id) == {"greeting": "WAITING"}
    finally:
        suite.start_service("scheduler")
        suite.start_service(second_evaluator)

    async def is_greeted() -> bool:
        return await door.states(profile_id) == {"greeting": "COMPLETED"}

    await until(is_greeted, "the timer that was left behind has rung")


async def test_a_stop_ends_while_postgres_is_gone(suite, door, second_evaluator, profile_id) -> None:
    suite.postgres.stop("immediate")
    try:
        assert await asyncio.to_thread(suite.stop_service, second_evaluator) == 0
    finally:
        suite.postgres.start()
        suite.start_service(second_evaluator)

    async def is_back() -> bool:
        return (await door.cairn.send([event(profile_id, "cart_add")])) > 0

    await until(is_back, "events are taken again")
    assert await door.states(profile_id) == {"cart": "WAITING"}
