"""Postgres stops and comes back: calls say so, nothing accepted is lost or sent twice, nothing needs a restart."""

import asyncio
from collections import Counter

import grpc
import pytest

from cairn.api.activation.v1 import activation_pb2 as pb


@pytest.mark.parametrize("mode", ["fast", "immediate"])
async def test_an_outage_under_load(
    activation, activation_postgres, make, mail_server, receipt_sink, eventually, mode
) -> None:
    replica = await activation()
    server = await mail_server("--slow", "0.005")
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(*make.batch(make.mail, "before", 400))
    await eventually(lambda: len(server.received()) >= 20)
    activation_postgres.stop(mode)
    try:
        with pytest.raises(grpc.aio.AioRpcError) as error:
            await replica.activate(make.mail("during"))
        assert error.value.code() is grpc.StatusCode.UNAVAILABLE
        await asyncio.sleep(1)  # the outage itself
    finally:
        activation_postgres.start()

    async def accepted() -> bool:
        try:
            await replica.activate(make.mail("after"))
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(accepted)
    found = await replica.settled(401)
    mails = Counter(server.activations())
    assert max(mails.values()) == 1
    assert Counter(d.state for d in found.values()) == {pb.DELIVERY_STATE_SENT: 401}
    assert set(mails) == set(found)
    await eventually(lambda: set(receipt_sink.states) == set(found))
