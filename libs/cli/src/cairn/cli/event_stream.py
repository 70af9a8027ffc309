"""Owns the stream that events are sent over: several batches under way, answers in any order, and what is sent again."""

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import grpc

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1.evaluator_pb2 import (
    Event,
    ReplayMode,
    StreamEventsRequest,
    StreamEventsResponse,
)
from cairn.cli.connect import Services
from cairn.cli.failures import CommandError
from cairn.cli.jsonl import Line, batches
from cairn.runtime.clock import from_duration
from cairn.runtime.errors import error_from_rpc

WINDOW = 8
"""How many batches are under way at once."""

_MAX_TRIES = 20
SHOWN_REFUSALS = 50
"""Refusals that an outcome keeps."""

_REFUSAL_SECONDS = 5.0
_NOT_LET_IN = frozenset({grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED})
_NEVER_BEGUN = _NOT_LET_IN | {grpc.StatusCode.UNAVAILABLE}


@dataclass(frozen=True, slots=True)
class Refused:
    """One event that was not taken: the line it came from, and why."""

    line: int
    reason: str
    message: str


@dataclass(slots=True)
class Outcome:
    """What became of the events so far. `refused` counts all, `refusals` keeps the first few."""

    accepted: int = 0
    duplicates: int = 0
    refused: int = 0
    refusals: list[Refused] = field(default_factory=list)

    def refuse(self, refusal: Refused) -> None:
        """Count one refusal, and keep it while there are few."""
        self.refused += 1
        if len(self.refusals) < SHOWN_REFUSALS:
            self.refusals.append(refusal)


@dataclass(slots=True)
class _Batch:
    """A batch under way: its events, the line of each, how often it was sent."""

    events: list[Event]
    lines: list[int]
    tries: int = 0


Numbered = tuple[int, Event]
"""An event, and the line that it came from."""


async def send_events(
    services: Services,
    lines: Iterable[Line[Event]],
    *,
    min_revision: int = 0,
    replay: ReplayMode.ValueType = ReplayMode.REPLAY_MODE_UNSPECIFIED,
    split: Callable[[Iterator[Numbered]], Iterator[list[Numbered]]] = batches,
    on_progress: Callable[[int], None] = lambda count: None,
    on_refusal: Callable[[Refused], None] = lambda refusal: None,
) -> Outcome:
    """Send events in order over one stream and wait until all are answered.

    A batch that the service could not take now is sent again after the delay it asked for. `split` makes the batches. CommandError says
    how many events were acknowledged when the stream breaks.
    """
    outcome = Outcome()

    def refuse(refusal: Refused) -> None:
        outcome.refuse(refusal)
        on_refusal(refusal)

    def readable() -> Iterator[Numbered]:
        for line in lines:
            if line.message is None:
                refuse(Refused(line.number, "INVALID_ARGUMENT", line.problem))
                on_progress(1)
            else:
                yield line.number, line.message

    call = services.evaluator.StreamEvents()
    waiting = split(readable())
    under_way: dict[int, _Batch] = {}
    sequence = 0

    async def send(number: int) -> None:
        batch = under_way[number]
        batch.tries += 1
        request = StreamEventsRequest(
            sequence=number, events=batch.events, min_revision=min_revision, replay=replay
        )
        try:
            await call.write(request)
        except asyncio.InvalidStateError:
            await call.read()  # the stream has ended: this raises why
            raise

    try:
        while True:
            while len(under_way) < WINDOW and (chunk := next(waiting, None)):
                sequence += 1
                under_way[sequence] = _Batch([event for _, event in chunk], [number for number, _ in chunk])
                await send(sequence)
            if not under_way:
                break
            answer = await call.read()
            if not isinstance(answer, StreamEventsResponse):
                raise CommandError(f"the Evaluator ended the stream; {_so_far(outcome)}")
            batch = under_way[answer.sequence]
            if answer.HasField("error"):
                await _wait_to_repeat(answer, batch, outcome)
                await send(answer.sequence)
                continue
            del under_way[answer.sequence]
            outcome.accepted += answer.accepted
            outcome.duplicates += answer.duplicates
            for refusal in answer.refusals:
                refuse(Refused(batch.lines[refusal.index], _reason(refusal.reason), refusal.message))
            on_progress(len(batch.events))
        # All is answered: how the stream ends is of no interest.
        with contextlib.suppress(grpc.aio.AioRpcError, grpc.aio.InternalError):
            await call.done_writing()
            await call.read()
    except grpc.aio.AioRpcError as broken:
        error = broken
        if _is_wordless(broken):
            error = await _refusal(services) or broken
        if error.code() in _NEVER_BEGUN and not outcome.accepted:
            raise error from None
        why = "the Evaluator ended the stream" if _is_wordless(error) else error_from_rpc(error).message
        raise CommandError(f"{why.removesuffix('.')}; {_so_far(outcome)}") from error
    finally:
        call.cancel()
    return outcome


async def _wait_to_repeat(answer: StreamEventsResponse, batch: _Batch, outcome: Outcome) -> None:
    """Wait as long as the service asked before its batch is sent again, or give up."""
    if not answer.error.HasField("retry_delay") or batch.tries >= _MAX_TRIES:
        raise CommandError(
            f"{_reason(answer.error.reason)}: {answer.error.message.removesuffix('.')}; {_so_far(outcome)}"
        )
    await asyncio.sleep(from_duration(answer.error.retry_delay) / 1_000_000)


def _is_wordless(error: grpc.aio.AioRpcError) -> bool:
    """Whether a write found that the other side has left: gRPC then loses what the other side said."""
    return error.code() is grpc.StatusCode.INTERNAL and "Core" in (error.details() or "")


async def _refusal(services: Services) -> grpc.aio.AioRpcError | None:
    """Why the Evaluator lets nobody with our token stream; None when it does. An empty stream has no write to fail."""
    call = services.evaluator.StreamEvents(timeout=_REFUSAL_SECONDS)
    try:
        # A call that has ended by itself can't be closed once more; why it ended is read all the same.
        with contextlib.suppress(grpc.aio.InternalError):
            await call.done_writing()
        await call.read()
    except grpc.aio.AioRpcError as error:
        return error if error.code() in _NOT_LET_IN else None
    finally:
        call.cancel()
    return None


def _so_far(outcome: Outcome) -> str:
    return (
        f"{outcome.accepted:,} events are known to be taken. "
        "Send the same events again: what was taken counts once."
    )


def _reason(reason: ErrorReason.ValueType) -> str:
    return ErrorReason.Name(reason).removeprefix("ERROR_REASON_")
