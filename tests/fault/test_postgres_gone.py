"""Promise 1 when Postgres is gone for some seconds under load: nothing acknowledged is lost, and nothing needs a restart."""

import asyncio

import grpc
import pytest
from house import CART, Cairn, event, until

from cairn.api.activation.v1 import activation_pb2
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from cairn.cli.suite import Suite
from cairn.runtime.errors import error_from_rpc


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_postgres_stops_under_load(suite: Suite, cairn: Cairn, mode: str) -> None:
    await cairn.publish(CART.format(connection="log: {}", wait="15m"))
    processes = {name: each.child.pid for name, each in suite.instances.items()}
    acknowledged: list[str] = []
    ended = asyncio.Event()

    async def load(producer: int) -> None:
        number = 0
        while not ended.is_set():
            ids = [f"p{producer}-{number}-{each}" for each in range(5)]
            await cairn.send([event(each, "cart_add") for each in ids])
            acknowledged.extend(ids)
            number += 1
            await asyncio.sleep(0.02)

    async def break_it() -> None:
        await until(lambda: len(acknowledged) > 200, "the load has begun")
        assert suite.postgres is not None
        suite.postgres.stop(mode)
        await refused(cairn)
        await asyncio.sleep(3)
        suite.postgres.start()
        before = len(acknowledged)
        await until(lambda: len(acknowledged) > before + 200, "events are taken again")
        ended.set()

    await asyncio.gather(break_it(), *(load(producer) for producer in range(4)))

    async def all_sent() -> bool:
        deliveries = await cairn.deliveries()
        sent = {each.profile_id for each in deliveries if each.state == activation_pb2.DELIVERY_STATE_SENT}
        return sent >= set(acknowledged)

    await until(all_sent, "everybody whose cart was acknowledged is reminded")
    assert len(await cairn.deliveries()) == len({each.profile_id for each in await cairn.deliveries()})
    assert {name: each.child.pid for name, each in suite.instances.items()} == processes
    assert suite.casualties() == []


async def refused(cairn: Cairn) -> None:
    """While Postgres is away a call is answered UNAVAILABLE, with what to do."""
    stub = EvaluatorServiceStub(cairn.channel("evaluator"))

    async def is_refused() -> bool:
        try:
            await stub.IngestEvents(pb.IngestEventsRequest(events=[event("nobody", "cart_add")]), timeout=5)
        except grpc.aio.AioRpcError as error:
            told = error_from_rpc(error)
            return (told.code, told.reason) == (
                grpc.StatusCode.UNAVAILABLE,
                ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE,
            )
        return False

    await until(is_refused, "a call is refused")
