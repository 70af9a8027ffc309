"""Small batches go together; what goes wrong with one shard's stays that shard's."""

import asyncio
from collections.abc import Callable

import grpc
import pytest

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.scheduler import sending
from cairn.scheduler.sending import SMALL_BATCH, Sender
from cairn.scheduler.timer import Timer

NOW = 1_767_225_600_000_000
ACCEPTED, RETRY = pb.TIMER_ANSWER_ACCEPTED, pb.TIMER_ANSWER_RETRY


def failure(code: grpc.StatusCode) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata())


class Sink:
    """Notes its calls; `act` answers a call, or fails."""

    def __init__(self, act: Callable[[list[str]], list[int]] | None = None) -> None:
        self.calls: list[list[str]] = []
        self.deadlines: list[float] = []
        self.act = act or (lambda names: [ACCEPTED] * len(names))

    async def FireTimers(self, request: pb.FireTimersRequest, timeout: float) -> pb.FireTimersResponse:  # noqa: N802, ASYNC109
        names = [timer.timer_id for timer in request.timers]
        self.calls.append(names)
        self.deadlines.append(timeout)
        await asyncio.sleep(0)
        return pb.FireTimersResponse(answers=self.act(names))


def batch(*names: str) -> list[Timer]:
    """Timers that are due in the order of the numbers in their names."""
    return [Timer(name, name, NOW + int(name[1:]), b"") for name in names]


async def test_small_batches_go_together_in_order_of_due_time_and_each_gets_its_answers() -> None:
    sink = Sink(lambda names: [RETRY if name.startswith("b") else ACCEPTED for name in names])
    sender = Sender(sink, 10, 0.001)
    answers = await asyncio.gather(
        sender.send(batch("a1", "a4"), alone=False), sender.send(batch("b2", "b3"), alone=False)
    )
    assert sink.calls == [["a1", "b2", "b3", "a4"]]
    assert [list(each) for each in answers] == [[ACCEPTED, ACCEPTED], [RETRY, RETRY]]
    assert sink.deadlines == [sending.TOGETHER_SECONDS]


async def test_calls_with_small_batches_are_so_far_apart() -> None:
    sink = Sink()
    sender = Sender(sink, 10, 0.05)
    loop = asyncio.get_running_loop()
    await sender.send(batch("a1"), alone=False)
    began = loop.time()
    await asyncio.gather(*(sender.send(batch(f"a{n}"), alone=False) for n in range(2, 5)))
    assert loop.time() - began > 0.03
    assert sink.calls == [["a1"], ["a2", "a3", "a4"]]


async def test_a_large_batch_and_one_of_a_shard_in_trouble_go_alone() -> None:
    sink = Sink()
    sender = Sender(sink, 10, 60)
    many = batch(*(f"m{n}" for n in range(SMALL_BATCH + 1)))
    await asyncio.gather(sender.send(many, alone=False), sender.send(batch("a1"), alone=True))
    assert sorted(map(len, sink.calls)) == [1, SMALL_BATCH + 1]
    assert sink.deadlines == [10, 10]


async def test_a_call_holds_no_more_timers_than_the_contract_says() -> None:
    sink = Sink()
    sender = Sender(sink, 10, 0)
    await asyncio.gather(
        *(sender.send(batch(*(f"s{n}" for n in range(SMALL_BATCH))), alone=False) for _ in range(40))
    )
    assert sum(map(len, sink.calls)) == 40 * SMALL_BATCH
    assert max(map(len, sink.calls)) <= 1_000


@pytest.mark.parametrize("code", [grpc.StatusCode.INTERNAL, grpc.StatusCode.DEADLINE_EXCEEDED])
async def test_when_the_sink_fails_on_what_goes_together_only_the_culprit_is_told(
    code: grpc.StatusCode,
) -> None:
    def act(names: list[str]) -> list[int]:
        if "b2" in names:
            raise failure(code)
        return [ACCEPTED] * len(names)

    sink = Sink(act)
    sender = Sender(sink, 10, 0)
    fine, wrong, fine_too = await asyncio.gather(
        *(sender.send(batch(name), alone=False) for name in ("a1", "b2", "c3")), return_exceptions=True
    )
    assert [list(fine), list(fine_too)] == [[ACCEPTED], [ACCEPTED]]
    assert isinstance(wrong, grpc.aio.AioRpcError)
    assert sink.calls[0] == ["a1", "b2", "c3"]
    assert sorted(sink.calls[1:]) == [["a1"], ["b2"], ["c3"]]


@pytest.mark.parametrize("error", [failure(grpc.StatusCode.UNAVAILABLE), ValueError("a defect")])
async def test_when_the_sink_is_away_all_are_told_and_no_call_is_repeated(error: Exception) -> None:
    def act(names: list[str]) -> list[int]:
        raise error

    sink = Sink(act)
    sender = Sender(sink, 10, 0)
    told = await asyncio.gather(
        *(sender.send(batch(name), alone=False) for name in ("a1", "b2")), return_exceptions=True
    )
    assert told == [error, error]
    assert len(sink.calls) == 1


async def test_what_the_sink_left_out_counts_as_unanswered() -> None:
    sender = Sender(Sink(lambda names: [ACCEPTED]), 10, 0)
    answers = await asyncio.gather(*(sender.send(batch(name), alone=False) for name in ("a1", "b2")))
    assert [list(each) for each in answers] == [[ACCEPTED], [pb.TIMER_ANSWER_UNSPECIFIED]]


async def test_one_that_no_longer_waits_harms_no_other() -> None:
    sender = Sender(Sink(), 10, 0.01)
    await sender.send(batch("a0"), alone=False)
    gone = asyncio.create_task(sender.send(batch("a1"), alone=False))
    stays = asyncio.create_task(sender.send(batch("b2"), alone=False))
    await asyncio.sleep(0)
    gone.cancel()
    assert list(await stays) == [ACCEPTED]
