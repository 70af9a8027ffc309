"""Owns the calls that carry effects to the Scheduler and to Activation, and what their answers mean."""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import grpc

from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub
from cairn.evaluator import metrics
from cairn.evaluator.store import OutboxRow
from cairn.runtime.errors import CairnError, error_from_rpc

MAX_ITEMS = 5_000
MAX_BYTES = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Refusal:
    """An effect that was refused for good."""

    profile_id: str
    effect_id: str
    reason: ErrorReason.ValueType
    message: str


class Destination(Protocol):
    """A receiver of effects. `linger_s` is how long what is for it may wait for more, so that calls are fewer; `senders` how many calls may be
    under way, each about other buckets; `is_seldom` that few rows hold anything for it, so that none are read for its sake alone."""

    name: str
    linger_s: float
    senders: int
    is_seldom: bool

    def part(self, row: OutboxRow) -> tuple[bytes, ...]:
        """What of a row is for this destination; empty when nothing is."""

    async def deliver(self, rows: Sequence[OutboxRow]) -> list[Refusal]:
        """Hands over the effects of some rows, in order; returns those refused for good. CairnError when they have to come again."""


class Scheduler:
    """The Scheduler, as effects see it."""

    name = "scheduler"
    # Nobody waits for a timer to be set; only a wait that is shorter than this ends that much later.
    linger_s = 0.02
    senders = 1
    is_seldom = False

    def __init__(self, channel: grpc.aio.Channel, deadline_s: float) -> None:
        self._stub = SchedulerServiceStub(channel)
        self._deadline_s = deadline_s

    def part(self, row: OutboxRow) -> tuple[bytes, ...]:
        return tuple(part for part in (row.schedule, row.cancel) if part)

    async def deliver(self, rows: Sequence[OutboxRow]) -> list[Refusal]:
        # Serialized messages put one behind the other are one message, with the lists put one behind the other.
        schedule, cancel = _joined(row.schedule for row in rows), _joined(row.cancel for row in rows)
        timers = scheduler_pb2.ScheduleTimersRequest.FromString(schedule).timers
        keys = scheduler_pb2.CancelTimersRequest.FromString(cancel).timers
        refusals = await _hand_over("schedule", timers, len(schedule), self._schedule)
        return refusals + await _hand_over("cancel", keys, len(cancel), self._cancel)

    async def _schedule(self, timers: Sequence[scheduler_pb2.Timer]) -> list[Refusal]:
        request = scheduler_pb2.ScheduleTimersRequest(timers=timers)
        answer = await self._stub.ScheduleTimers(request, timeout=self._deadline_s)
        return [
            Refusal(timers[each.index].key, timers[each.index].timer_id, each.reason, each.message)
            for each in answer.refusals
        ]

    async def _cancel(self, keys: Sequence[scheduler_pb2.TimerKey]) -> list[Refusal]:
        await self._stub.CancelTimers(
            scheduler_pb2.CancelTimersRequest(timers=keys), timeout=self._deadline_s
        )
        return []


class Activation:
    """Activation, as effects see it."""

    name = "activation"
    linger_s = 0.0
    senders = 4
    is_seldom = False

    def __init__(self, channel: grpc.aio.Channel, deadline_s: float) -> None:
        self._stub = ActivationServiceStub(channel)
        self._deadline_s = deadline_s

    def part(self, row: OutboxRow) -> tuple[bytes, ...]:
        # What is taken back by an erasure goes with it.
        return tuple(part for part in (row.activate, None if row.erase else row.withdraw) if part)

    async def deliver(self, rows: Sequence[OutboxRow]) -> list[Refusal]:
        activate = _joined(row.activate for row in rows)
        withdraw = _joined(row.withdraw for row in rows if not row.erase)
        activations = activation_pb2.ActivateRequest.FromString(activate).activations
        # Withdrawals first: what is asked for and taken back in one go must not leave in between.
        refusals = await _withdraw(self._stub, withdraw, self._deadline_s)
        return refusals + await _hand_over("activate", activations, len(activate), self._activate)

    async def _activate(self, activations: Sequence[activation_pb2.Activation]) -> list[Refusal]:
        request = activation_pb2.ActivateRequest(activations=activations)
        answer = await self._stub.Activate(request, timeout=self._deadline_s)
        return [
            Refusal(
                activations[each.index].profile_id,
                activations[each.index].activation_id,
                each.reason,
                each.message,
            )
            for each in answer.refusals
        ]


class Erasures:
    """Activation, as erasures see it. They have a queue of their own: one waits until nothing of the profile is being sent, and must not hold
    up what others are to get. What of an erased profile is on its way in the other queue Activation knows by its time."""

    name = "erasures"
    linger_s = 0.0
    senders = 1
    is_seldom = True

    def __init__(self, channel: grpc.aio.Channel, deadline_s: float) -> None:
        self._stub = ActivationServiceStub(channel)
        self._deadline_s = deadline_s

    def part(self, row: OutboxRow) -> tuple[bytes, ...]:
        return tuple(part for part in (row.withdraw, row.erase) if part) if row.erase else ()

    async def deliver(self, rows: Sequence[OutboxRow]) -> list[Refusal]:
        refusals: list[Refusal] = []
        for row in rows:
            if row.erase:
                # Before the erasure: of what it does not know Activation would remember whose it was.
                refusals += await _withdraw(self._stub, row.withdraw or b"", self._deadline_s)
                erasures = activation_pb2.EraseProfilesRequest.FromString(row.erase).erasures
                refusals += await _hand_over("erase", erasures, len(row.erase), self._erase)
        return refusals

    async def _erase(self, erasures: Sequence[activation_pb2.Erasure]) -> list[Refusal]:
        request = activation_pb2.EraseProfilesRequest(erasures=erasures)
        await self._stub.EraseProfiles(request, timeout=self._deadline_s)
        return []


async def _withdraw(stub: Any, withdraw: bytes, deadline_s: float) -> list[Refusal]:
    async def call(withdrawals: Sequence[activation_pb2.Withdrawal]) -> list[Refusal]:
        await stub.Withdraw(activation_pb2.WithdrawRequest(withdrawals=withdrawals), timeout=deadline_s)
        return []

    withdrawals = activation_pb2.WithdrawRequest.FromString(withdraw).withdrawals
    return await _hand_over("withdraw", withdrawals, len(withdraw), call)


async def _hand_over(
    kind: str, items: Sequence[Any], size: int, call: Callable[[Sequence[Any]], Awaitable[list[Refusal]]]
) -> list[Refusal]:
    """Hands over items that have `size` bytes together: as one call where they fit one, which they mostly do."""
    refusals: list[Refusal] = []
    for chunk in [items] if size <= MAX_BYTES and len(items) <= MAX_ITEMS else _chunks(items):
        if not chunk:
            continue
        refused = await _call(chunk, call)
        metrics.EFFECTS_REFUSED.labels(kind).inc(len(refused))
        metrics.EFFECTS_SENT.labels(kind).inc(len(chunk) - len(refused))
        refusals += refused
    return refusals


async def _call(
    items: Sequence[Any], call: Callable[[Sequence[Any]], Awaitable[list[Refusal]]]
) -> list[Refusal]:
    """One call. When it is refused as a whole, its halves are tried, so that one bad item blocks nothing behind it."""
    try:
        return await call(items)
    except grpc.aio.AioRpcError as error:
        failure = error_from_rpc(error)
        if failure.code is not grpc.StatusCode.INVALID_ARGUMENT:
            raise failure from None
    if len(items) > 1:
        middle = len(items) // 2
        return await _call(items[:middle], call) + await _call(items[middle:], call)
    return [_refusal(items[0], failure)]


def _refusal(item: Any, failure: CairnError) -> Refusal:
    if isinstance(item, (scheduler_pb2.Timer, scheduler_pb2.TimerKey)):
        return Refusal(item.key, item.timer_id, failure.reason, failure.message)
    if isinstance(item, activation_pb2.Erasure):
        return Refusal(item.profile_id, "", failure.reason, failure.message)
    return Refusal(item.profile_id, item.activation_id, failure.reason, failure.message)


def _chunks(items: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Parts that fit a message, each with at least one item."""
    start = size = 0
    for index, item in enumerate(items):
        size += item.ByteSize()
        if index > start and (size > MAX_BYTES or index - start >= MAX_ITEMS):
            yield items[start:index]
            start, size = index, item.ByteSize()
    if start < len(items):
        yield items[start:]


def _joined(parts: Iterator[bytes | None]) -> bytes:
    return b"".join(part for part in parts if part)
