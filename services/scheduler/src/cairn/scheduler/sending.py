"""Owns the calls to the sink: large batches go as they are, small ones of several shards together in one call.

Refuses to let one shard's trouble become another's: when a call that carries several fails on what it carries, or
takes long, each of them goes alone.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.runtime.correlation import correlation_id, new_correlation_id
from cairn.scheduler.timer import MAX_FIRE_BATCH, Timer
from cairn.scheduler.wire import render_fire

if TYPE_CHECKING:
    # Of the asynchronous stub there is only a type: the generated class is the same for both kinds of channel.
    from cairn.api.scheduler.v1.scheduler_pb2_grpc import TimerSinkServiceAsyncStub

Answers = Sequence[int]

SMALL_BATCH = 64
"""Timers up to which a batch waits for others; more are worth a call."""

TOGETHER_SECONDS = 1.0
"""How long a call that carries several batches may take."""

# Failures of the sink as a whole. Any other may be the fault of one timer in the batch.
_NOT_ABOUT_THE_BATCH = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.CANCELLED,
    }
)


def is_about_the_batch(code: grpc.StatusCode) -> bool:
    """Whether a failure may be the fault of a timer that was sent."""
    return code not in _NOT_ABOUT_THE_BATCH


@dataclass(frozen=True, slots=True, eq=False)
class _Part:
    timers: Sequence[Timer]
    answers: asyncio.Future[Answers]


class Sender:
    """Sends for all shards. `gather_s` is the least time from one call with small batches to the next."""

    def __init__(self, sink: "TimerSinkServiceAsyncStub", deadline_s: float, gather_s: float) -> None:
        self._sink = sink
        self._deadline_s = deadline_s
        self._gather_s = gather_s
        self._waiting: list[_Part] = []
        self._next_s = 0.0
        self._calls: set[asyncio.Task[None]] = set()

    async def send(self, timers: Sequence[Timer], *, alone: bool) -> Answers:
        """One answer for each timer, less when the sink left some out. Raises the failure of the call."""
        if alone or len(timers) > SMALL_BATCH:
            return await self._call(timers, self._deadline_s)
        loop = asyncio.get_running_loop()
        part = _Part(timers, loop.create_future())
        if not self._waiting:
            loop.call_at(max(self._next_s, loop.time()), self._leave)
        self._waiting.append(part)
        return await part.answers

    def _leave(self) -> None:
        loop = asyncio.get_running_loop()
        self._next_s = loop.time() + self._gather_s
        size = MAX_FIRE_BATCH // SMALL_BATCH
        parts, self._waiting = self._waiting[:size], self._waiting[size:]
        if self._waiting:
            loop.call_at(self._next_s, self._leave)
        task = loop.create_task(self._send_together(parts))
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)

    async def _send_together(self, parts: Sequence[_Part]) -> None:
        if len(parts) == 1:
            await self._send_alone(parts[0])
            return
        # The contract says that a call's timers are in order of due time.
        places = sorted(
            (
                (timer, number, index)
                for number, part in enumerate(parts)
                for index, timer in enumerate(part.timers)
            ),
            key=lambda place: place[0].due_us,
        )
        try:
            answers = await self._call(
                [timer for timer, _, _ in places], min(TOGETHER_SECONDS, self._deadline_s)
            )
        except grpc.aio.AioRpcError as error:
            if is_about_the_batch(error.code()):
                await asyncio.gather(*map(self._send_alone, parts))
            else:
                for part in parts:
                    _settle(part, error)
            return
        except Exception as error:  # noqa: BLE001 - told to those who wait
            for part in parts:
                _settle(part, error)
            return
        told = [[int(pb.TIMER_ANSWER_UNSPECIFIED)] * len(part.timers) for part in parts]
        for (_, number, index), answer in zip(places, answers, strict=False):
            told[number][index] = answer
        for part, of_part in zip(parts, told, strict=True):
            _settle(part, of_part)

    async def _send_alone(self, part: _Part) -> None:
        try:
            _settle(part, await self._call(part.timers, self._deadline_s))
        except Exception as error:  # noqa: BLE001 - told to the one who waits
            _settle(part, error)

    async def _call(self, timers: Sequence[Timer], deadline_s: float) -> Answers:
        correlation_id.set(new_correlation_id())
        return (await self._sink.FireTimers(render_fire(timers), timeout=deadline_s)).answers


def _settle(part: _Part, outcome: Answers | Exception) -> None:
    """Hands over what came; the one who waited may be gone."""
    if part.answers.done():
        return
    if isinstance(outcome, Exception):
        part.answers.set_exception(outcome)
    else:
        part.answers.set_result(outcome)
