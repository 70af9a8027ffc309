"""How events become batches and find room, against a scripted Evaluator."""

import asyncio
import contextlib
import logging
import time

import pytest
from client_stand import Stand, submit, taken

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1.evaluator_pb2 import Event, Refusal, StreamEventsRequest, StreamEventsResponse
from cairn.client import (
    ClosedError,
    EventClient,
    EventClientSettings,
    NotAcknowledgedError,
    Outcome,
    Totals,
    event,
)
from cairn.testing.ports import free_port

TOO_OLD = ErrorReason.ERROR_REASON_EVENT_TOO_OLD


def numbered(first: int, last: int) -> list[str]:
    return [str(number) for number in range(first, last + 1)]


def refuse_old(request: StreamEventsRequest) -> StreamEventsResponse:
    refusals = [
        Refusal(index=index, reason=TOO_OLD, message="too old")
        for index, each in enumerate(request.events)
        if each.event_id.startswith("old")
    ]
    return StreamEventsResponse(
        sequence=request.sequence, accepted=len(request.events) - len(refusals), refusals=refusals
    )


async def test_events_travel_in_full_batches_and_in_order(stand: Stand) -> None:
    async with stand.client(batch_events=50) as client:
        for pending in await submit(client, *numbered(1, 220)):
            assert await pending == Outcome(True)
    assert [each for batch in stand.ids() for each in batch] == numbered(1, 220)
    assert max(len(batch) for batch in stand.ids()) == 50
    assert len(stand.requests) < 10
    assert stand.streams == 1
    assert client.totals == Totals(taken=220)


async def test_a_single_event_does_not_wait_for_others(stand: Stand) -> None:
    async with stand.client(batch_age_seconds=60) as client, asyncio.timeout(5):
        assert (await client.send(event("seen", "p", event_id="1"))).taken
        assert (await client.send(event("seen", "p", event_id="2"))).taken


async def test_while_a_batch_is_under_way_the_next_waits_for_its_age(stand: Stand) -> None:
    release = asyncio.Event()

    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        await release.wait()
        return taken(request)

    stand.answer = answer
    async with stand.client(batch_age_seconds=0.8) as client:
        await submit(client, "1")
        await stand.until(lambda: len(stand.requests) == 1)
        for each in numbered(2, 6):
            await submit(client, each)
            await asyncio.sleep(0.005)
        await stand.until(lambda: len(stand.requests) == 2)
        release.set()
        assert stand.ids() == [["1"], numbered(2, 6)]
        assert stand.times[1] - stand.times[0] > 0.7


async def test_a_flush_lets_the_young_leave_and_waits_for_every_answer(stand: Stand) -> None:
    release = asyncio.Event()

    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        await release.wait()
        return taken(request)

    stand.answer = answer
    async with stand.client(batch_age_seconds=60) as client:
        await submit(client, "1")
        await stand.until(lambda: len(stand.requests) == 1)
        (second,) = await submit(client, "2")
        flushing = asyncio.create_task(client.flush())
        await stand.until(lambda: len(stand.requests) == 2)
        assert not flushing.done()
        assert not second.answered
        release.set()
        await asyncio.wait_for(flushing, 5)
        assert second.answered
        assert client.waiting == 0


async def test_large_events_make_small_batches_and_one_that_fits_nowhere_is_refused_alone(
    stand: Stand,
) -> None:
    told: list[tuple[str, object]] = []
    async with stand.client(
        batch_bytes=64 * 1024, on_failure=lambda sent, why: told.append((sent.event_id, why))
    ) as client:
        large = [Event(event_id=each, name="x" * 20_000) for each in numbered(1, 10)]
        results = [await client.submit(each) for each in large]
        huge = await client.send(Event(event_id="huge", name="x" * 70_000))
        assert [await each for each in results] == [Outcome(True)] * 10
    assert all(len(each.SerializeToString()) <= 64 * 1024 for each in stand.requests)
    assert [each for batch in stand.ids() for each in batch] == numbered(1, 10)
    assert huge.reason == ErrorReason.ERROR_REASON_TOO_LARGE
    assert told == [("huge", huge)]
    assert client.totals == Totals(taken=10, refused=1)


async def test_submit_waits_for_room_and_keeps_the_order(stand: Stand) -> None:
    may_answer = asyncio.Semaphore(0)

    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        await may_answer.acquire()
        return taken(request)

    stand.answer = answer
    async with stand.client(max_events=4, batch_events=2) as client:
        await submit(client, *numbered(1, 4))
        waiting = [asyncio.create_task(submit(client, str(number))) for number in range(5, 9)]
        # Answers are the only thing that can make room: what has not moved by now never would without one.
        await stand.until(lambda: sum(map(len, stand.ids())) == 4)
        await asyncio.sleep(0.05)
        assert not any(each.done() for each in waiting)
        assert client.waiting == 4
        waiting[1].cancel()
        may_answer.release()
        await asyncio.wait_for(waiting[0], 5)
        await stand.until(lambda: sum(map(len, stand.ids())) >= 5)
        assert client.waiting <= 4
        for _ in range(8):
            may_answer.release()
    assert [each for batch in stand.ids() for each in batch] == ["1", "2", "3", "4", "5", "7", "8"]
    assert client.totals.taken == 7


async def test_bytes_are_bounded_too(stand: Stand) -> None:
    release = asyncio.Event()

    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        await release.wait()
        return taken(request)

    stand.answer = answer
    async with stand.client(max_bytes=64 * 1024) as client:
        large = [Event(event_id=each, name="x" * 30_000) for each in numbered(1, 3)]
        for each in large[:2]:
            await client.submit(each)
        third = asyncio.create_task(client.submit(large[2]))
        await stand.until(lambda: sum(map(len, stand.ids())) == 2)
        assert not third.done()
        release.set()
        assert (await (await third)).taken


async def test_a_small_event_does_not_overtake_a_large_one_that_waits_for_room(stand: Stand) -> None:
    release = asyncio.Event()

    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        await release.wait()
        return taken(request)

    stand.answer = answer
    async with stand.client(max_bytes=64 * 1024) as client:
        await client.submit(Event(event_id="first", name="x" * 40_000))
        large = asyncio.create_task(client.submit(Event(event_id="large", name="x" * 40_000)))
        await asyncio.sleep(0)
        small = asyncio.create_task(client.submit(Event(event_id="small")))
        await stand.until(lambda: stand.requests)
        assert not large.done()
        assert not small.done()
        release.set()
    assert [each for batch in stand.ids() for each in batch] == ["first", "large", "small"]


async def test_a_producer_that_never_waits_lets_its_batches_leave(stand: Stand) -> None:
    async with stand.client(batch_events=100, max_events=100_000) as client:
        await submit(client, "first")
        await client.flush()
        await submit(client, *numbered(1, 30_000))
        # There was no other await than that of `submit`, and always room.
        assert len(stand.requests) > 1


async def test_a_refused_event_harms_none_beside_it(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    stand.answer = refuse_old
    with caplog.at_level(logging.WARNING, "cairn.client"):
        async with stand.client() as client:
            one, old, two = await submit(client, "1", "old-1", "2")
            assert (await one).taken
            assert (await two).taken
            assert await old == Outcome(False, TOO_OLD, "too old")
    assert client.totals == Totals(taken=2, refused=1)
    assert caplog.messages == ["1 events were refused, the first because: too old"]


async def test_on_failure_is_told_which_and_may_raise(stand: Stand, caplog: pytest.LogCaptureFixture) -> None:
    stand.answer = refuse_old
    told: list[str] = []

    def tell(sent: Event, why: Outcome | NotAcknowledgedError) -> None:
        told.append(sent.event_id)
        raise RuntimeError("a defect of the producer's")

    async with stand.client(on_failure=tell) as client:
        pending = await submit(client, "old-1", "1", "old-2")
        assert [(await each).taken for each in pending] == [False, True, False]
        assert (await client.send(event("seen", "p", event_id="2"))).taken
    assert told == ["old-1", "old-2"]
    assert caplog.messages == ["on_failure raised for an event."] * 2


async def test_known_events_count_as_taken(stand: Stand) -> None:
    stand.answer = lambda request: StreamEventsResponse(
        sequence=request.sequence, accepted=len(request.events), duplicates=1
    )
    async with stand.client() as client:
        assert (await client.send(event("seen", "p", event_id="1"))).taken
    assert client.totals == Totals(taken=1, duplicates=1)


async def test_the_revision_may_change_on_the_way(stand: Stand) -> None:
    async with stand.client(min_revision=3) as client:
        await client.send(event("seen", "p", event_id="1"))
        client.min_revision = 8
        await client.send(event("seen", "p", event_id="2"))
    assert [each.min_revision for each in stand.requests] == [3, 8]


async def test_one_who_stops_waiting_takes_no_answer_from_others(stand: Stand) -> None:
    release = asyncio.Event()

    async def answer(request: StreamEventsRequest) -> StreamEventsResponse:
        await release.wait()
        return taken(request)

    stand.answer = answer
    async with stand.client() as client:
        (pending,) = await submit(client, "1")
        first, second = (asyncio.create_task(_answer_of(pending)) for _ in range(2))
        await stand.until(lambda: stand.requests)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        release.set()
        assert (await second).taken
        assert (await pending).taken


async def _answer_of(pending: object) -> Outcome:
    outcome = await pending  # type: ignore[misc]
    assert isinstance(outcome, Outcome)
    return outcome


async def test_a_client_takes_events_only_while_it_is_open(stand: Stand) -> None:
    client = stand.client()
    with pytest.raises(ClosedError, match="async with"):
        await submit(client, "1")
    async with client:
        await submit(client, "2")
    with pytest.raises(ClosedError):
        await submit(client, "3")
    assert stand.ids() == [["2"]]


async def test_leaving_under_cancellation_gives_up_what_has_no_answer(stand: Stand) -> None:
    async def never(request: StreamEventsRequest) -> StreamEventsResponse:
        await asyncio.Event().wait()
        return taken(request)

    stand.answer = never
    told: list[NotAcknowledgedError] = []

    def tell(sent: Event, why: Outcome | NotAcknowledgedError) -> None:
        assert isinstance(why, NotAcknowledgedError)
        told.append(why)

    async def produce() -> None:
        async with stand.client(on_failure=tell) as client:
            await submit(client, "1")

    producing = asyncio.create_task(produce())
    await stand.until(lambda: stand.requests)
    await asyncio.sleep(0)
    producing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(producing, 5)
    assert [each.maybe_taken for each in told] == [True]


def test_a_loop_that_is_shut_down_leaves_nobody_waiting() -> None:
    told: list[str] = []
    settings = EventClientSettings(max_events=3)

    async def produce() -> None:
        async with EventClient(
            f"127.0.0.1:{free_port()}", settings, on_failure=lambda sent, why: told.append(sent.event_id)
        ) as client:
            await submit(client, *numbered(1, 5))

    async def main() -> None:
        producing = asyncio.create_task(produce())
        await asyncio.wait((producing,), timeout=0.2)
        assert not producing.done()

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < 5
    assert told[:3] == ["1", "2", "3"]
