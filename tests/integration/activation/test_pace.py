"""When a batch begins: as fast as the connection may, as full as it can be, and not at all while its destination is in trouble."""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import pytest

from cairn.activation import metrics, store_rates
from cairn.activation.rates import AHEAD_US, Rate
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.postgres.pool import connect
from cairn.postgres.roles import role_of
from cairn.runtime.clock import to_duration
from cairn.testing.ports import closed_port

NOW = 1_790_000_000_000_000
SENT = pb.DELIVERY_STATE_SENT


def limited(connection: pb.Connection, count: int, period_us: int) -> pb.Connection:
    connection.rate_limit.CopyFrom(pb.RateLimit(count=count, period=to_duration(period_us)))
    return connection


async def test_replicas_that_ask_at_once_get_one_stretch_after_the_other(activation_dsn) -> None:
    rate = Rate(100, 1_000_000)
    cost_us = rate.cost_us(5)

    async def take(turns: int) -> list[int | None]:
        database = await connect(activation_dsn, role=role_of("activation"), schema="activation")
        taken = [
            await store_rates.reserve(database, "email", now=NOW, cost_us=cost_us, stale_us=rate.stale_us)
            for _ in range(turns)
        ]
        await database.close()
        return taken

    taken = [begins for some in await asyncio.gather(*(take(15) for _ in range(4))) for begins in some]
    begun = sorted(begins for begins in taken if begins is not None)
    assert begun == [NOW + number * cost_us for number in range(AHEAD_US // cost_us + 1)]
    assert len(begun) < len(taken), "what was too far ahead was not given away"


@pytest.mark.parametrize(
    ("spoken_for_us", "begins_us"),
    [
        (NOW - 5, NOW),
        (NOW + 5, NOW + 5),
        (NOW + AHEAD_US, NOW + AHEAD_US),
        (NOW + AHEAD_US + 1, None),
        (NOW + 86_400_000_000, NOW),
    ],
)
async def test_the_statement_is_the_rule(activation_dsn, spoken_for_us, begins_us) -> None:
    rate = Rate(10, 1_000_000)
    database = await connect(activation_dsn, role=role_of("activation"), schema="activation")
    await database.execute("INSERT INTO rates VALUES ('email', $1)", spoken_for_us)
    cost_us = rate.cost_us(2)
    taken = await store_rates.reserve(database, "email", now=NOW, cost_us=cost_us, stale_us=rate.stale_us)
    assert taken == begins_us
    spoken = await database.fetchval("SELECT spoken_for_us FROM rates")
    assert spoken == (spoken_for_us if begins_us is None else begins_us + cost_us)
    await database.close()


async def test_two_replicas_together_are_no_faster_than_the_limit(
    activation_process, make, mail_server
) -> None:
    server = await mail_server()
    first, second = await activation_process(), await activation_process()
    await first.put(limited(make.smtp_connection(server.port), 40, 1_000_000), make.template())
    begun = time.monotonic()
    await asyncio.gather(
        first.activate(*make.batch(make.mail, "a", 60)), second.activate(*make.batch(make.mail, "b", 60))
    )
    found = await first.settled(120)
    # Faster is impossible: 40 a second, after a batch of ten.
    assert time.monotonic() - begun >= (120 - 10) / 40 - 0.5
    assert Counter(server.activations()) == Counter(list(found))


async def test_a_withdrawal_wins_while_a_delivery_waits_for_its_rate(
    activation, make, mail_server, eventually
) -> None:
    server = await mail_server()
    replica = await activation()
    await replica.put(limited(make.smtp_connection(server.port), 1, 3_600_000_000), make.template())
    requests = [make.mail(f"m{number}", "ada") for number in range(3)]
    await replica.activate(*requests)
    await eventually(lambda: len(server.received()) == 1)

    async def leased() -> bool:
        return any(d.state == pb.DELIVERY_STATE_LEASED for d in (await replica.deliveries()).values())

    await eventually(leased)
    sent = server.activations()[0]
    waiting = [request for request in requests if request.activation_id != sent]
    assert (await replica.withdraw(*waiting)).withdrawn == 2
    await replica.put(limited(make.smtp_connection(server.port), 1000, 1_000_000))
    await replica.activate(make.mail("after"))
    await replica.settled(4)
    assert sorted(server.activations()) == sorted([sent, "after"])


async def test_a_stop_does_not_wait_for_the_rate(activation_process, make, mail_server, eventually) -> None:
    server = await mail_server()
    replica = await activation_process(drain_seconds=600)
    await replica.put(limited(make.smtp_connection(server.port), 1, 3_600_000_000), make.template())
    await replica.activate(make.mail("a", "ada"), make.mail("b", "ada"))
    await eventually(lambda: len(server.received()) == 1)
    assert await replica.stop() == 0
    again = await activation_process()
    await again.put(make.smtp_connection(server.port))
    found = await again.settled(2)
    assert {(d.state, d.attempts) for d in found.values()} == {(SENT, 1)}, "to wait was no attempt"


async def test_a_dead_destination_costs_few_attempts_and_works_again(
    activation, make, mail_server, eventually
) -> None:
    replica = await activation()
    server = await mail_server()
    await server.stop()
    await replica.put(make.smtp_connection(server.port), make.log_connection(), make.template())
    await replica.activate(*make.batch(make.mail, "m", 40))
    await eventually(lambda: metrics.CONNECTIONS_RESTING.collect()[0].samples[0].value == 1)
    await replica.activate(*make.batch(make.mail, "n", 400))
    await replica.activate(*make.batch(make.log, "log", 400))
    found = await replica.settled(400)
    assert sum(d.attempts for d in found.values() if d.activation_id.startswith("n-")) < 20
    await mail_server(port=server.port)
    await replica.settled(840, seconds=60)
    assert len(server.activations()) == 440
    assert metrics.CONNECTIONS_RESTING.collect()[0].samples[0].value == 0


async def test_a_connection_that_is_deleted_rests_no_more(activation, make, mail_server, eventually) -> None:
    replica = await activation()
    server = await mail_server()
    await server.stop()
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(*make.batch(make.mail, "m", 40))

    def resting() -> float:
        return metrics.CONNECTIONS_RESTING.collect()[0].samples[0].value

    await eventually(lambda: resting() == 1)
    await replica.stub.DeleteConnection(pb.DeleteConnectionRequest(name="email"))
    found = await replica.settled(40)
    assert {d.detail for d in found.values()} == {"its connection was deleted"}
    await eventually(lambda: resting() == 0)


async def test_a_destination_that_hangs_delays_no_other(
    activation, make, meta_platform, mail_server, eventually
) -> None:
    replica = await activation()
    server = await mail_server()
    await meta_platform.misbehave("hang", 1_000)
    await replica.put(
        make.meta_connection(meta_platform.port), make.smtp_connection(server.port), make.template()
    )
    await replica.activate(*(make.audience(f"p{number}", f"p{number}") for number in range(200)))

    async def hangs() -> bool:
        return bool((await meta_platform.state())["counts"].get("misbehaved_hang"))

    await eventually(hangs)
    await replica.activate(*make.batch(make.mail, "m", 200))
    found = await replica.settled(200)
    assert all(d.state == SENT for id_, d in found.items() if id_.startswith("m-"))
    assert not any(d.state == SENT for id_, d in found.items() if id_.startswith("p"))
    assert len(server.activations()) == 200


@pytest.fixture
async def receiver(monkeypatch) -> AsyncIterator[tuple[str, pb.Connection]]:
    """A receiver of webhooks, as its address and a connection to it."""
    monkeypatch.setenv("CAIRN_SECRET_HOOK", "a-signing-key")
    command = (sys.executable, "-m", "cairn.testing.webhook_receiver", "--secret", "a-signing-key")
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    async with asyncio.timeout(30):
        base = f"http://127.0.0.1:{json.loads(await process.stdout.readline())['port']}"
    hook = pb.WebhookConnection(url=f"{base}/in", signing_secret="hook")
    yield base, pb.Connection(name="connections/hook", webhook=hook)
    process.terminate()
    await process.wait()


async def test_a_destination_that_asks_for_a_pause_gets_it_from_all(
    activation, make, receiver, eventually
) -> None:
    base, connection = receiver
    replica = await activation(retry_cap_seconds=0.2, webhook_allowed_networks="127.0.0.0/8")
    await replica.put(connection, make.template())

    async def state() -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"{base}/_state") as response:
            return await response.json()

    async def refused() -> bool:
        return bool((await state())["counts"].get("misbehaved_429_retry_after"))

    async with aiohttp.ClientSession() as session:
        asked = {"mode": "429_retry_after", "count": 1}
        async with session.post(f"{base}/_misbehave", json=asked) as response:
            assert response.status == 200
    begun = time.monotonic()
    await replica.activate(make.mail("first", connection="hook"))
    await eventually(refused)
    found = await replica.deliveries()
    while not found["first"].history:
        found = await replica.deliveries()
    await replica.activate(*(make.mail(f"m{number}", connection="hook") for number in range(40)))

    async def others() -> bool:
        return any(key != "first" for key in (await state())["keys"])

    await eventually(others)
    assert time.monotonic() - begun >= 1.0, "it asked for a second"
    assert all(d.state == SENT for d in (await replica.settled(41)).values())


async def test_what_comes_bit_by_bit_goes_in_few_calls(activation, make, meta_platform) -> None:
    replica = await activation()
    await replica.put(make.meta_connection(meta_platform.port))
    began = time.monotonic()
    for number in range(40):
        await replica.activate(make.audience(f"a{number}", f"p{number}"))
    seconds = time.monotonic() - began
    await replica.settled(40)
    counts = (await meta_platform.state())["counts"]
    assert counts["added"] == 40
    # Of each of eight buckets a batch a second.
    assert counts["calls"] <= 8 * (int(seconds) + 2)


async def test_what_waited_for_a_server_that_was_down_leaves_when_it_is_back(
    activation_process, make, mail_server, eventually
) -> None:
    """Over many looks at what is overdue meanwhile, on the event loop that the service has."""
    with closed_port() as port:
        replica = await activation_process(
            sweep_seconds=0.05, retry_base_seconds=0.2, retry_cap_seconds=0.2, attempts_budget=100
        )
        await replica.put(make.smtp_connection(port), make.template())
        await replica.activate(*make.batch(make.mail, "late", 40))
        await eventually(lambda: replica.log.read_text().count('"connection_rests"') >= 2)
    server = await mail_server(port=port)
    found = await replica.settled(40)
    assert {each.state for each in found.values()} == {pb.DELIVERY_STATE_SENT}
    assert len(server.received()) == 40
    assert await replica.stop() == 0
    text = replica.log.read_text()
    assert "bucket_failed" not in text
    assert "lane_failed" not in text
