"""How effects are cut into calls, and how one bad item among many is found."""

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.evaluator import peers
from cairn.runtime.errors import CairnError


def timers(count: int, payload: bytes = b"") -> list[scheduler_pb2.Timer]:
    return [scheduler_pb2.Timer(timer_id=f"t{n}", key=f"k{n}", payload=payload) for n in range(count)]


def rpc_error(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "told to fail")


@given(st.lists(st.integers(0, 60), max_size=40))
def test_chunks_hold_everything_in_order_and_keep_to_the_limits(sizes) -> None:
    items = [scheduler_pb2.Timer(payload=b"x" * size) for size in sizes]
    limit_bytes, limit_items = 100, 5
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(peers, "MAX_BYTES", limit_bytes)
        patch.setattr(peers, "MAX_ITEMS", limit_items)
        chunks = [list(chunk) for chunk in peers._chunks(items)]
    assert [item for chunk in chunks for item in chunk] == items
    for chunk in chunks:
        assert 1 <= len(chunk) <= limit_items
        assert len(chunk) == 1 or sum(item.ByteSize() for item in chunk) <= limit_bytes


def test_an_item_over_the_limit_goes_alone(monkeypatch) -> None:
    monkeypatch.setattr(peers, "MAX_BYTES", 50)
    items = [*timers(2), *timers(1, b"x" * 500), *timers(2)]
    assert [len(chunk) for chunk in peers._chunks(items)] == [2, 1, 2]


@given(st.integers(1, 70), st.sets(st.integers(0, 69)))
async def test_bad_items_are_refused_alone(count, bad) -> None:
    taken: list[str] = []
    wrong = {f"t{number}" for number in bad if number < count}

    async def call(items):
        if any(item.timer_id in wrong for item in items):
            raise rpc_error(grpc.StatusCode.INVALID_ARGUMENT)
        taken.extend(item.timer_id for item in items)
        return []

    refusals = await peers._call(timers(count), call)
    assert {refusal.effect_id for refusal in refusals} == wrong
    assert {refusal.profile_id for refusal in refusals} == {f"k{each[1:]}" for each in wrong}
    assert taken == [f"t{number}" for number in range(count) if f"t{number}" not in wrong]


async def test_one_bad_item_of_many_costs_few_calls() -> None:
    calls = 0

    async def call(items):
        nonlocal calls
        calls += 1
        if any(item.timer_id == "t700" for item in items):
            raise rpc_error(grpc.StatusCode.INVALID_ARGUMENT)
        return []

    (refusal,) = await peers._call(timers(1024), call)
    assert refusal.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert calls <= 21


@pytest.mark.parametrize(
    "code",
    [
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.PERMISSION_DENIED,
    ],
)
async def test_what_is_no_fault_of_the_items_is_raised_and_comes_again(code) -> None:
    calls = 0

    async def call(items):
        nonlocal calls
        calls += 1
        raise rpc_error(code)

    with pytest.raises(CairnError):
        await peers._call(timers(8), call)
    assert calls == 1


def test_withdrawals_and_cancellations_are_named_in_a_refusal() -> None:
    failure = CairnError(ErrorReason.ERROR_REASON_INVALID_ARGUMENT, "why")
    key = scheduler_pb2.TimerKey(timer_id="t", key="ann")
    assert peers._refusal(key, failure) == peers.Refusal("ann", "t", failure.reason, "why")
