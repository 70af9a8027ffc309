"""What people do with deliveries: look at their history, send them again, say what became of them, watch them."""

import asyncio
import contextlib

import grpc
import pytest

from cairn.api.activation.v1 import activation_pb2 as pb

PENDING, SENT = pb.DELIVERY_STATE_PENDING, pb.DELIVERY_STATE_SENT
FAILED, UNKNOWN = pb.DELIVERY_STATE_FAILED, pb.DELIVERY_STATE_UNKNOWN


async def get(replica, id_: str) -> pb.Delivery:
    request = pb.GetDeliveryRequest(name=f"deliveries/{id_}")
    return (await replica.stub.GetDelivery(request, timeout=30)).delivery


async def retry(replica, id_: str, reason: str = "") -> pb.Delivery:
    request = pb.RetryDeliveryRequest(name=f"deliveries/{id_}", reason=reason)
    return (await replica.stub.RetryDelivery(request, timeout=30)).delivery


async def resolve(replica, id_: str, state: int, reason: str = "") -> pb.Delivery:
    request = pb.ResolveDeliveryRequest(name=f"deliveries/{id_}", state=state, reason=reason)
    return (await replica.stub.ResolveDelivery(request, timeout=30)).delivery


@pytest.fixture
async def in_doubt(activation, make, mail_server, eventually):
    """A replica with the delivery `a`, of which nobody knows whether it arrived, and a server that works again."""
    replica = await activation()
    slow = await mail_server("--slow", "3600")
    await replica.put(make.smtp_connection(slow.port), make.template())
    replica.request = make.mail("a")
    await replica.activate(replica.request)
    # It has all of the mail, and goes without a word.
    await eventually(slow.received)
    await slow.stop()
    assert (await replica.settled(1))["a"].state == UNKNOWN
    replica.mail = await mail_server(port=slow.port)
    return replica


async def test_every_attempt_stands_in_the_history_with_its_answer(activation, make, mail_server) -> None:
    replica = await activation()
    server = await mail_server("--fail-first", "3")
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("a"))
    await replica.settled(1)
    delivery = await get(replica, "a")
    assert (delivery.state, delivery.attempts, delivery.template_version) == (SENT, 4, 1)
    assert [attempt.state for attempt in delivery.history] == [PENDING] * 3
    assert all("451" in attempt.detail for attempt in delivery.history)
    times = [attempt.end_time.ToMicroseconds() for attempt in delivery.history]
    assert times == sorted(times)
    assert times[-1] <= delivery.state_time.ToMicroseconds()


async def test_what_failed_is_sent_again_with_all_its_attempts(
    activation, make, mail_server, receipt_sink, eventually
) -> None:
    replica = await activation(attempts_budget=2)
    server = await mail_server("--fail-first", "3")
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("a"))
    assert (await replica.settled(1))["a"].state == FAILED
    await eventually(lambda: receipt_sink.states.get("a") == FAILED)
    pending = await retry(replica, "a", "the server is mended")
    assert (pending.state, pending.attempts) == (PENDING, 0)
    assert pending.detail == "sent again: the server is mended"
    await replica.settled(1)
    delivery = await get(replica, "a")
    assert (delivery.state, delivery.attempts) == (SENT, 2)
    assert [attempt.state for attempt in delivery.history] == [PENDING, FAILED, PENDING, PENDING]
    assert delivery.history[1].detail.startswith("given up after 2 attempts")
    assert delivery.history[2].detail == "sent again: the server is mended"
    assert server.activations() == ["a"]
    await eventually(lambda: receipt_sink.states.get("a") == SENT)


async def test_an_old_delivery_is_sent_again_as_well(activation, make, mail_server, rows) -> None:
    replica = await activation(attempts_budget=1)
    server = await mail_server("--fail-first", "1")
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("a"))
    assert (await replica.settled(1))["a"].state == FAILED
    await rows("UPDATE deliveries SET request_time = request_time - interval '40 days'")
    await retry(replica, "a")
    assert (await replica.settled(1))["a"].state == SENT


async def test_what_is_unknown_is_sent_again_only_because_a_human_says_so(in_doubt, make) -> None:
    assert (await in_doubt.activate(in_doubt.request, make.mail("b"))).known == 1
    await in_doubt.settled(2)
    assert in_doubt.mail.activations().count("a") == 1, "which arrived after all, before the cut"
    await retry(in_doubt, "a")
    await in_doubt.settled(2)
    assert in_doubt.mail.activations().count("a") == 2
    assert (await get(in_doubt, "a")).state == SENT


@pytest.mark.parametrize("state", [SENT, FAILED])
async def test_a_human_says_what_became_of_it(in_doubt, receipt_sink, eventually, state) -> None:
    await eventually(lambda: receipt_sink.states.get("a") == UNKNOWN)
    delivery = await resolve(in_doubt, "a", state, "she told us")
    assert (delivery.state, delivery.detail) == (state, "she told us")
    assert [attempt.state for attempt in delivery.history] == [UNKNOWN]
    await eventually(lambda: receipt_sink.states.get("a") == state)
    assert [r.state for r in receipt_sink.receipts if r.activation_id == "a"] == [UNKNOWN, state]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await resolve(in_doubt, "a", state)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_what_was_sent_stays_sent(activation, make) -> None:
    replica = await activation()
    await replica.put(make.log_connection())
    await replica.activate(make.log("a"))
    for call in (retry(replica, "a"), resolve(replica, "a", FAILED)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert "is SENT" in refused.value.details()
    assert (await get(replica, "a")).state == SENT


async def test_wrong_requests_are_told_what_is_wrong(activation) -> None:
    replica = await activation()
    for call, code in (
        (retry(replica, "nobody"), grpc.StatusCode.NOT_FOUND),
        (resolve(replica, "nobody", SENT), grpc.StatusCode.NOT_FOUND),
        (resolve(replica, "a", PENDING), grpc.StatusCode.INVALID_ARGUMENT),
        (retry(replica, "a", "x" * 257), grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is code


class Watching:
    """What a stream of WatchDeliveries told so far."""

    def __init__(self, call) -> None:
        self.told: list[tuple[str, int]] = []
        self.error: grpc.aio.AioRpcError | None = None
        self._call = call
        self.task = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                times = [d.state_time.ToMicroseconds() for d in response.deliveries]
                assert times == sorted(times)
                self.told += [(d.activation_id, d.state) for d in response.deliveries]
        except grpc.aio.AioRpcError as error:
            self.error = error

    async def end(self) -> None:
        self._call.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


async def watch(replica, **filters) -> Watching:
    """A watch that listens: its first response is empty."""
    call = replica.stub.WatchDeliveries(pb.WatchDeliveriesRequest(**filters))
    first = await call.read()
    assert not first.deliveries
    return Watching(call)


async def test_a_watch_tells_each_change_once_and_nothing_from_before(activation, make, eventually) -> None:
    replica = await activation()
    await replica.put(make.log_connection())
    await replica.activate(make.log("before"))
    watching = await watch(replica)
    for turn in range(3):
        await replica.activate(*make.batch(make.log, f"t{turn}", 40))
        await eventually(lambda turn=turn: len(watching.told) >= 40 * (turn + 1))
    await replica.activate(make.log("last"))
    await eventually(lambda: ("last", SENT) in watching.told)
    expected = [(f"t{turn}-{n}", SENT) for turn in range(3) for n in range(40)] + [("last", SENT)]
    assert sorted(watching.told) == sorted(expected)
    await watching.end()


async def test_a_watch_may_be_of_a_profile_a_journey_or_some_states(activation, make, eventually) -> None:
    replica = await activation()
    await replica.put(make.log_connection())
    profile = await watch(replica, profile_id="ada")
    journey = await watch(replica, journey="journeys/welcome")
    other = await watch(replica, journey="journeys/welcom")
    failed = await watch(replica, states=[FAILED])
    await replica.activate(make.log("a", "ada"), make.log("b", "bob"))
    everything = await watch(replica)
    await replica.activate(make.log("c", "ada"))
    await eventually(lambda: ("c", SENT) in journey.told and ("c", SENT) in profile.told)
    await eventually(lambda: everything.told)
    assert sorted(journey.told) == [("a", SENT), ("b", SENT), ("c", SENT)]
    assert sorted(profile.told) == [("a", SENT), ("c", SENT)]
    assert everything.told == [("c", SENT)]
    assert (other.told, failed.told) == ([], [])
    for watching in (profile, journey, other, failed, everything):
        await watching.end()


async def test_a_watch_ends_when_its_replica_stops(activation, make) -> None:
    replica = await activation()
    watching = await watch(replica)
    service, replica.service = replica.service, None
    await service.stop()
    async with asyncio.timeout(30):
        await watching.task
    assert watching.error is not None
    assert watching.error.code() is grpc.StatusCode.UNAVAILABLE
