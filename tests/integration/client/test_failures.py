"""What the client does when batches fail and streams break, against a scripted Evaluator."""

import asyncio
from collections import Counter

import grpc
import pytest
from client_stand import Break, Stand, failed, submit, taken

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1.evaluator_pb2 import StreamEventsRequest, StreamEventsResponse
from cairn.client import EventClientSettings, NotAcknowledgedError, Totals, event
from cairn.client.connection import Connection
from cairn.runtime.client import open_channel
from cairn.testing.ports import free_port


def has(request: StreamEventsRequest, event_id: str) -> bool:
    return any(each.event_id == event_id for each in request.events)


async def test_a_batch_refused_for_now_comes_again_after_the_delay_and_nothing_newer_before_it(
    stand: Stand,
) -> None:
    full = [True]

    def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        if full:
            full.pop()
            return failed(request, ErrorReason.ERROR_REASON_OVERLOADED, 0.3)
        return taken(request)

    stand.answer = answer
    async with stand.client(batch_events=1, batches_in_flight=1) as client:
        await submit(client, "1", "2", "3")
    assert stand.ids() == [["1"], ["1"], ["2"], ["3"]]
    assert stand.times[1] - stand.times[0] >= 0.3
    assert client.totals == Totals(taken=3)
    assert stand.streams == 1


async def test_those_under_way_beside_a_failed_batch_are_not_sent_again(stand: Stand) -> None:
    first = [True]

    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        if has(request, "1") and first:
            first.pop()
            await stand.until(lambda: len(stand.requests) >= 3)
            return failed(request, ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE, 0.01)
        return taken(request)

    stand.answer = answer
    async with stand.client(batch_events=1, batches_in_flight=3) as client:
        await submit(client, "1", "2", "3", "4", "5")
    sent = [each for (each,) in stand.ids()]
    assert Counter(sent) == Counter({"1": 2, "2": 1, "3": 1, "4": 1, "5": 1})
    assert sent[:3] == ["1", "2", "3"]
    assert client.totals == Totals(taken=5)


@pytest.mark.parametrize(
    ("reason", "maybe_taken"),
    [(ErrorReason.ERROR_REASON_INVALID_ARGUMENT, False), (ErrorReason.ERROR_REASON_INTERNAL, True)],
)
async def test_a_batch_refused_for_good_fails_its_events_only(
    stand: Stand, reason: ErrorReason.ValueType, maybe_taken: bool
) -> None:
    stand.answer = lambda request: failed(request, reason) if has(request, "bad") else taken(request)
    async with stand.client(batch_events=1) as client:
        one, bad, two = await submit(client, "1", "bad", "2")
        with pytest.raises(NotAcknowledgedError, match="said the script") as caught:
            await bad
        assert (await one).taken
        assert (await two).taken
    assert (caught.value.reason, caught.value.maybe_taken) == (reason, maybe_taken)
    assert client.totals == Totals(taken=2, given_up=1)
    assert len(stand.requests) == 3


async def test_a_broken_stream_is_opened_anew_and_what_has_no_answer_comes_again_in_order(
    stand: Stand,
) -> None:
    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        if stand.streams == 1 and request.sequence > 1:
            await stand.until(lambda: len(stand.requests) == 5)
            raise Break(grpc.StatusCode.UNAVAILABLE)
        return taken(request)

    stand.answer = answer
    async with stand.client(batch_events=2, batches_in_flight=4) as client:
        pending = await submit(client, "a", "b")
        assert (await pending[0]).taken
        pending += await submit(client, *"cdefghijkl")
        assert all([(await each).taken for each in pending])
    first, second = stand.ids()[:5], stand.ids()[5:]
    assert first == [["a", "b"], ["c", "d"], ["e", "f"], ["g", "h"], ["i", "j"]]
    assert second == [["c", "d"], ["e", "f"], ["g", "h"], ["i", "j"], ["k", "l"]]
    assert [each.sequence for each in stand.requests] == [1, 2, 3, 4, 5, 2, 3, 4, 5, 6]
    assert stand.requests[5] == stand.requests[1]
    assert client.totals == Totals(taken=12)


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.INTERNAL, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNKNOWN],
    ids=lambda code: code.name,
)
async def test_a_batch_that_breaks_the_stream_is_found_and_given_up_alone(
    stand: Stand, code: grpc.StatusCode
) -> None:
    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        if has(request, "poison"):
            raise Break(code)
        if stand.streams == 1:
            await asyncio.sleep(0.05)  # beside the poison on the first stream
        return taken(request)

    stand.answer = answer
    async with stand.client(batch_events=1) as client:
        pending = await submit(client, "1", "2", "poison", "3", "4", "5")
        results = await asyncio.wait_for(asyncio.gather(*pending, return_exceptions=True), 20)
    poison = results.pop(2)
    assert isinstance(poison, NotAcknowledgedError)
    assert "broken by the script" in poison.message
    assert [getattr(each, "taken", each) for each in results] == [True] * 5
    assert client.totals == Totals(taken=5, given_up=1)
    assert stand.streams <= 6


async def test_a_stream_that_breaks_for_no_fault_of_a_batch_costs_nobody_anything(stand: Stand) -> None:
    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        if stand.streams < 3:
            raise Break(grpc.StatusCode.INTERNAL, "a proxy's bad day")
        return taken(request)

    stand.answer = answer
    async with stand.client(batch_events=1) as client:
        pending = await submit(client, *"abcdef")
        assert all([(await each).taken for each in pending])
    assert client.totals == Totals(taken=6)


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED])
async def test_who_is_not_let_in_is_told_at_once_and_may_try_again(
    stand: Stand, code: grpc.StatusCode
) -> None:
    def begin() -> None:
        raise Break(code, "no such token")

    stand.begin = begin
    async with stand.client(batch_events=5) as client, asyncio.timeout(20):
        # Large ones, so that a write is under way when the status comes.
        events = [event("seen", "p", {"x": "y" * 30_000}, event_id=str(number)) for number in range(40)]
        pending = [await client.submit(each) for each in events]
        results = await asyncio.gather(*pending, return_exceptions=True)
        assert all(isinstance(each, NotAcknowledgedError) for each in results)
        assert {each.message.split(";")[0] for each in results} == {"no such token"}  # type: ignore[union-attr]
        stand.begin = lambda: None
        assert (await client.send(event("seen", "p", event_id="later"))).taken
    assert client.totals == Totals(taken=1, given_up=40)


async def test_a_silent_stream_and_its_connection_are_left(stand: Stand) -> None:
    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        if stand.streams == 1:
            await asyncio.Event().wait()
        return taken(request)

    stand.answer = answer
    async with stand.client(answer_seconds=1) as client, asyncio.timeout(30):
        assert (await client.send(event("seen", "p", event_id="1"))).taken
    assert stand.streams >= 2
    assert {tuple(each) for each in stand.ids()} == {("1",)}
    assert stand.peers[0] != stand.peers[1], "the same connection would be as silent"


async def test_an_event_that_never_left_is_given_up_at_its_deadline(stand: Stand) -> None:
    stand.port = free_port()
    async with stand.client(deadline_seconds=3) as client:
        began = asyncio.get_running_loop().time()
        with pytest.raises(NotAcknowledgedError, match="not acknowledged in") as caught:
            await asyncio.wait_for(client.send(event("seen", "p", event_id="1")), 10)
        assert asyncio.get_running_loop().time() - began >= 3
    assert caught.value.message.startswith("not acknowledged in 3 seconds: ")
    assert "connect" in caught.value.message
    assert "safe to send again with the same id" in caught.value.message
    assert caught.value.reason == ErrorReason.ERROR_REASON_PEER_UNAVAILABLE


async def test_an_event_under_way_at_its_deadline_may_have_been_taken(stand: Stand) -> None:
    async def late(request: StreamEventsRequest) -> StreamEventsResponse:
        if has(request, "1"):
            await given_up.wait()
        return taken(request)

    stand.answer = late
    given_up = asyncio.Event()
    async with stand.client(deadline_seconds=2, batch_events=1) as client:
        (one,) = await submit(client, "1")
        with pytest.raises(NotAcknowledgedError, match="it may have been taken") as caught:
            await asyncio.wait_for(_wait(one), 10)
        assert caught.value.maybe_taken
        # An answer that comes after all is nobody's, and does no harm.
        given_up.set()
        assert (await client.send(event("seen", "p", event_id="2"))).taken
    assert client.totals == Totals(taken=1, given_up=1)


async def _wait(pending: object) -> object:
    return await pending  # type: ignore[misc]


async def test_an_event_of_a_broken_stream_may_have_been_taken(stand: Stand) -> None:
    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        refuse.set()
        raise Break(grpc.StatusCode.UNAVAILABLE)

    def begin() -> None:
        if refuse.is_set():
            raise Break(grpc.StatusCode.RESOURCE_EXHAUSTED, "full")

    refuse = asyncio.Event()
    stand.answer, stand.begin = answer, begin
    async with stand.client(deadline_seconds=2) as client:
        with pytest.raises(NotAcknowledgedError, match="it may have been taken"):
            await asyncio.wait_for(client.send(event("seen", "p", event_id="1")), 10)
    assert len(stand.requests) == 1


def _open(stand: Stand) -> Connection:
    return Connection(lambda: open_channel(f"127.0.0.1:{stand.port}", EventClientSettings()))


# What a write leaves of the status when the other side has gone before it.
WORDLESS = grpc.aio.AioRpcError(
    grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), grpc.aio.Metadata(), "Internal error from Core"
)


async def test_a_stream_that_lost_its_words_is_asked_for_them(stand: Stand) -> None:
    def begin() -> None:
        raise Break(grpc.StatusCode.UNAUTHENTICATED, "no such token")

    connection = _open(stand)
    let_in = await connection.why(WORDLESS, asyncio.InvalidStateError())
    assert let_in.reason == ErrorReason.ERROR_REASON_INTERNAL
    stand.begin = begin
    refused = await connection.why(WORDLESS, asyncio.InvalidStateError())
    assert (refused.reason, refused.message) == (ErrorReason.ERROR_REASON_UNAUTHENTICATED, "no such token")
    await stand.stop()
    await connection.renew()
    gone = await connection.why(None, WORDLESS)
    assert gone.reason == ErrorReason.ERROR_REASON_PEER_UNAVAILABLE
    await connection.close()


async def test_a_defect_is_not_taken_for_a_word_of_the_other_side(stand: Stand) -> None:
    connection = _open(stand)
    with pytest.raises(KeyError):
        await connection.why(KeyError("ours"), None)
    ended = await connection.why(None, asyncio.CancelledError())
    assert ended.reason == ErrorReason.ERROR_REASON_PEER_UNAVAILABLE
    await connection.close()


async def test_a_defect_in_reading_leaves_nobody_without_an_answer(
    stand: Stand, caplog: pytest.LogCaptureFixture
) -> None:
    async with stand.client(batch_events=1) as client, asyncio.timeout(20):

        def broken(*_: object) -> None:
            raise KeyError("ours")

        # Whatever it is that goes wrong in there.
        client._sender._failed = broken  # type: ignore[union-attr, method-assign]
        stand.answer = lambda request: failed(request, ErrorReason.ERROR_REASON_OVERLOADED, 0.0)
        with pytest.raises(NotAcknowledgedError, match="a defect of the client's"):
            await client.send(event("seen", "p", event_id="1"))
    assert "broke on a defect" in caplog.text


async def test_a_refusal_that_took_nothing_says_so_at_the_deadline(stand: Stand) -> None:
    # After the third nothing is under way when the deadline comes.
    stand.answer = lambda request: failed(
        request, ErrorReason.ERROR_REASON_OVERLOADED, 0.05 if len(stand.requests) < 3 else 60.0
    )
    async with stand.client(deadline_seconds=2) as client:
        with pytest.raises(NotAcknowledgedError, match="said the script; it was not taken") as caught:
            await asyncio.wait_for(client.send(event("seen", "p", event_id="1")), 10)
    assert not caught.value.maybe_taken
    assert caught.value.reason == ErrorReason.ERROR_REASON_OVERLOADED
    assert len(stand.requests) == 3


async def test_a_server_that_comes_back_finds_everything_again(stand: Stand) -> None:
    # The server that goes may have accepted, a moment before, a connection that it will never serve.
    async with stand.client(batch_events=10, answer_seconds=1) as client:
        first = await submit(client, *map(str, range(50)))
        await stand.stop()
        second = await submit(client, *map(str, range(50, 100)))
        await stand.start()
        results = await asyncio.wait_for(asyncio.gather(*first, *second), 20)
    assert all(each.taken for each in results)
    assert client.totals.taken == 100
    assert {each for batch in stand.ids() for each in batch} == set(map(str, range(100)))
