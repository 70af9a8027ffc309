"""The four calls: durable, idempotent, item by item; lists in order of due time, a page at a time."""

import asyncio

import grpc
import pytest

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.runtime.clock import now_us
from cairn.runtime.errors import error_from_rpc

HOUR = 3_600_000_000


async def test_what_is_scheduled_is_there_as_it_came(scheduler, timer) -> None:
    replica = await scheduler()
    made = timer("a", "profile", in_us=HOUR)
    answer = await replica.schedule([made])
    assert (answer.accepted, answer.known, list(answer.refusals)) == (1, 0, [])
    found = await replica.stub.GetTimer(pb.GetTimerRequest(timer_id="a", key="profile"))
    assert (found.timer, found.state, found.refusal) == (made, pb.TIMER_STATE_PENDING, "")


async def test_a_timer_that_is_known_stays_as_it_is(scheduler, timer) -> None:
    replica = await scheduler()
    first = timer("a", "profile", in_us=HOUR)
    await replica.schedule([first])
    again = await replica.schedule([timer("a", "profile", in_us=2 * HOUR), timer("b", "profile", in_us=HOUR)])
    assert (again.accepted, again.known) == (1, 1)
    twice = timer("c", in_us=HOUR)
    once = await replica.schedule([twice, twice])
    assert (once.accepted, once.known) == (1, 1)
    found = await replica.stub.GetTimer(pb.GetTimerRequest(timer_id="a", key="profile"))
    assert found.timer == first


async def test_a_malformed_timer_is_refused_alone(scheduler, timer) -> None:
    replica = await scheduler()
    answer = await replica.schedule([timer("a", in_us=HOUR), pb.Timer(timer_id="b"), timer("c", in_us=HOUR)])
    assert (answer.accepted, answer.known) == (2, 0)
    assert [(refusal.index, refusal.reason) for refusal in answer.refusals] == [
        (1, ErrorReason.ERROR_REASON_TIMER_INVALID)
    ]
    only_bad = await replica.schedule([pb.Timer()])
    assert (only_bad.accepted, len(only_bad.refusals)) == (0, 1)


async def test_canceled_is_forgotten_and_what_is_not_known_is_no_error(scheduler, timer, sink) -> None:
    replica = await scheduler()
    await replica.schedule([timer("a", "k", in_us=HOUR), timer("b", "k", in_us=HOUR)])
    assert await replica.cancel(("a", "k"), ("never", "k"), ("", ""), ("b", "another key")) == 1
    assert await replica.cancel(("a", "k")) == 0
    assert [t.timer.timer_id for (page,) in [await replica.pages()] for t in page] == ["b"]


@pytest.mark.parametrize(("timer_id", "key"), [("a", "other"), ("other", "k")])
async def test_a_timer_that_is_not_there_is_not_found(scheduler, timer, timer_id, key) -> None:
    replica = await scheduler()
    await replica.schedule([timer("a", "k", in_us=HOUR)])
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await replica.stub.GetTimer(pb.GetTimerRequest(timer_id=timer_id, key=key))
    error = error_from_rpc(refused.value)
    assert (error.reason, error.resource) == (ErrorReason.ERROR_REASON_NOT_FOUND, f"timers/{timer_id}")


@pytest.mark.parametrize(
    ("call", "request_"),
    [
        ("ScheduleTimers", pb.ScheduleTimersRequest()),
        ("ScheduleTimers", pb.ScheduleTimersRequest(timers=[pb.Timer()] * 10_001)),
        ("CancelTimers", pb.CancelTimersRequest()),
        ("GetTimer", pb.GetTimerRequest(timer_id="a")),
        ("ListTimers", pb.ListTimersRequest(page_token="?")),
    ],
)
async def test_a_call_that_makes_no_sense_is_an_invalid_argument(scheduler, call, request_) -> None:
    replica = await scheduler()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await getattr(replica.stub, call)(request_)
    error = error_from_rpc(refused.value)
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert error.violations


async def test_lists_are_in_order_of_due_time_over_all_shards_and_pages(scheduler, timer) -> None:
    replica = await scheduler()
    start = now_us() + HOUR
    # Three timers share each due time, so that a page may end in the middle of them.
    made = [timer(f"t{n:03}", due_us=start + n // 3) for n in range(100)]
    await replica.schedule(reversed(made))
    pages = await replica.pages(page_size=7)
    assert [len(page) for page in pages] == [7] * 14 + [2]
    listed = [found.timer for page in pages for found in page]
    assert sorted(listed, key=lambda t: t.timer_id) == made
    due = [t.due_time.ToMicroseconds() for t in listed]
    assert due == sorted(due)
    ((mine,),) = await replica.pages(key="t042")
    assert mine.timer == made[42]
    assert await replica.pages(overdue=True) == [[]]
    assert await replica.pages(parked=True) == [[]]


async def test_too_much_at_a_time_is_refused_at_the_door_and_harms_nothing(scheduler, timer) -> None:
    replica = await scheduler(max_timers_in_flight=10_000)
    batches = [[timer(f"{n}-{m}", in_us=HOUR) for m in range(4_000)] for n in range(8)]
    answers = await asyncio.gather(*(replica.schedule(batch) for batch in batches), return_exceptions=True)
    refused = [error_from_rpc(answer) for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
    assert refused
    for error in refused:
        assert error.reason == ErrorReason.ERROR_REASON_OVERLOADED
        assert error.retry_after_s
    taken = sum(answer.accepted for answer in answers if isinstance(answer, pb.ScheduleTimersResponse))
    assert taken == 4_000 * (8 - len(refused))
    # Repeated as told, what was refused is taken.
    for batch in batches:
        await replica.schedule(batch)
    assert (await replica.schedule([made for batch in batches[:2] for made in batch])).known == 8_000
