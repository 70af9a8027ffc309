"""What comes from the other services, and what is damaged at home: none of it harms those that share its batch."""

import asyncio

import grpc
import pytest
from house import event

from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import ReceiptSinkServiceStub
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.api.scheduler.v1.scheduler_pb2_grpc import TimerSinkServiceStub
from cairn.runtime.clock import now_us, to_timestamp

REFUSED = scheduler_pb2.TIMER_ANSWER_REFUSED
STALE = scheduler_pb2.TIMER_ANSWER_STALE


def timer(key: str, timer_id: str = "nobody.t1") -> scheduler_pb2.Timer:
    return scheduler_pb2.Timer(
        timer_id=timer_id, key=key, due_time=to_timestamp(now_us()), payload=b"cart\xff\0"
    )


async def beside(door, people: list[str], *calls) -> list:
    """What calls end with while events of others go through the same lanes."""
    events = [asyncio.ensure_future(door.ingest(event(each, "cart_add"))) for each in people]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [(await each).accepted for each in events] == [1] * len(people)
    return answers


async def test_timers_that_can_be_nobodys_are_refused_alone(door, cairn, new_id) -> None:
    stub = TimerSinkServiceStub(cairn.channel("evaluator"))
    timeless = timer(new_id())
    timeless.due_time.seconds = 2**62
    bad = [timer(""), timer("a\0b"), timer("é" * 200), timeless]
    request = scheduler_pb2.FireTimersRequest(timers=[timer(new_id()), *bad, timer(new_id())])
    (answer,) = await beside(door, [new_id() for _ in range(16)], stub.FireTimers(request, timeout=20))
    assert list(answer.answers) == [STALE, *[REFUSED] * 4, STALE]


async def test_a_timer_with_an_old_id_changes_nothing(door, cairn, profile_id) -> None:
    await door.ingest(event(profile_id, "cart_add"))
    (before,) = await door.enrollments(profile_id)
    enrollment_id = before.name.rpartition("/")[2]
    stub = TimerSinkServiceStub(cairn.channel("evaluator"))
    old = [timer(profile_id, f"{enrollment_id}.t{number}") for number in (0, 2)]
    answer = await stub.FireTimers(scheduler_pb2.FireTimersRequest(timers=old))
    assert list(answer.answers) == [STALE] * 2
    assert await door.enrollments(profile_id) == [before]


async def test_receipts_that_can_be_nobodys_are_refused_with_their_places(door, cairn, new_id) -> None:
    good = activation_pb2.Receipt(profile_id=new_id(), activation_id="a", state_time=to_timestamp(now_us()))
    bad = activation_pb2.Receipt(profile_id="a\0b", activation_id="b")
    bad.state_time.seconds = 2**62
    stub = ReceiptSinkServiceStub(cairn.channel("evaluator"))
    call = door.refusal(
        stub.DeliverReceipts(activation_pb2.DeliverReceiptsRequest(receipts=[good, bad]), timeout=20)
    )
    (error,) = await beside(door, [new_id() for _ in range(16)], call)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in error.violations] == ["receipts[1].profile_id", "receipts[1].state_time"]


async def test_a_receipt_told_again_is_told_once(door, cairn, profile_id) -> None:
    await door.upsert(profile_id)
    receipt = activation_pb2.Receipt(
        profile_id=profile_id,
        activation_id="a",
        state=activation_pb2.DELIVERY_STATE_FAILED,
        state_time=to_timestamp(now_us()),
        detail="why\0not",
    )
    stub = ReceiptSinkServiceStub(cairn.channel("evaluator"))
    for _ in range(2):
        await stub.DeliverReceipts(activation_pb2.DeliverReceiptsRequest(receipts=[receipt, receipt]))
    (entry,) = await door.timeline(profile_id)
    assert (entry.receipt.activation_id, entry.receipt.detail) == ("a", "why\0not")


@pytest.mark.parametrize(
    "standings", ["[]", '{"cart": {"newer": true}}', '{"cart": [1, 2, true, 0, ["e", 1, 99]]}']
)
async def test_a_profile_that_is_not_understood_harms_no_other(
    door, database, profile_id, new_id, standings
) -> None:
    """A newer version may have written it. Every other profile of its batch, in its own lane too, goes on."""
    await database.execute(
        """
        INSERT INTO profiles (bucket, profile_id, revision, attributes, time_zone, standings, update_time)
        SELECT bucket, $1, 1, '{}', '', $2::text::json, now() FROM generate_series(0, 255) AS bucket
        """,
        profile_id,
        standings,
    )
    try:
        people = [new_id() for _ in range(40)]
        answer = await door.ingest(*(event(each, "cart_add") for each in [profile_id, *people]))
        (refusal,) = answer.refusals
        assert (answer.accepted, refusal.index) == (40, 0)
        assert refusal.reason == ErrorReason.ERROR_REASON_INTERNAL
        assert await door.states(people[0]) == {"cart": "WAITING"}
        call = door.stub.StreamEvents(iter([pb.StreamEventsRequest(events=[event(profile_id, "cart_add")])]))
        assert [len(each.refusals) async for each in call] == [1]
    finally:
        await database.execute("DELETE FROM profiles WHERE profile_id = $1", profile_id)
