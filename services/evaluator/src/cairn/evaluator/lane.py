"""Owns the hot path: a lane takes what arrived for its bucket while its last batch was committing, and commits it as one.

One profile, one lane, in order. A batch costs two reads at most and one transaction, however many inputs it holds.
The commit is the acknowledgement; effects leave after it.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import structlog

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.evaluator import metrics, store
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.evaluation import (
    Evaluated,
    ProfileState,
    decode_profile,
    evaluate,
    stamp,
    transitions_row,
)
from cairn.evaluator.inputs import (
    Arrival,
    EventArrival,
    Item,
    LifeArrival,
    ProfileArrival,
    ReceiptArrival,
    Result,
    Submission,
    TimerArrival,
)
from cairn.evaluator.relay import Relay
from cairn.evaluator.wire import MAX_AHEAD_US, Outgoing, Refused
from cairn.journey.state import Kind
from cairn.postgres.pool import Pool, is_unavailable, translate_errors
from cairn.runtime.clock import now_us
from cairn.runtime.drain import stopping
from cairn.runtime.errors import CairnError

log = structlog.get_logger()

_RETRY_SECONDS = 0.2


class ProfileCache:
    """The profiles that a lane keeps in memory, least recently used out first. It may be stale, never wrong: the swap tells."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._states: OrderedDict[str, ProfileState] = OrderedDict()

    def get(self, profile_id: str) -> ProfileState | None:
        """The profile as it was last seen, or None."""
        state = self._states.get(profile_id)
        if state is not None:
            self._states.move_to_end(profile_id)
        return state

    def put(self, state: ProfileState) -> None:
        """Keeps a profile that was read or written."""
        self._states[state.profile_id] = state
        self._states.move_to_end(state.profile_id)
        if len(self._states) > self._capacity:
            self._states.popitem(last=False)

    def drop(self, profile_ids: Iterable[str]) -> None:
        """Forgets profiles."""
        for profile_id in profile_ids:
            self._states.pop(profile_id, None)


@dataclass(slots=True)
class _Share:
    """What one profile has in a batch. `verified` says that its state was read for this batch, not found in the cache."""

    items: list[Item] = field(default_factory=list)
    state: ProfileState | None = None
    verified: bool = True
    evaluated: Evaluated | None = None


@dataclass(frozen=True)
class LaneSettings:
    """What all lanes share: the writer's id, sizes, and how long an event id is known again, in microseconds."""

    writer: int
    batch_size: int
    backlog: int
    cached_profiles: int
    dedup_us: int


class Lane:
    """One bucket's inputs, in order. `reload_journeys` is called when an enrollment is in a version that is not known."""

    def __init__(
        self,
        bucket: int,
        pool: Pool,
        book: JourneyBook,
        relay: Relay,
        settings: LaneSettings,
        reload_journeys: Callable[[], Awaitable[None]],
    ) -> None:
        self.bucket = bucket
        self._pool = pool
        self._book = book
        self._relay = relay
        self._settings = settings
        self._reload_journeys = reload_journeys
        self._waiting: deque[Item] = deque()
        self._wake = asyncio.Event()
        self._cache = ProfileCache(settings.cached_profiles)
        self._sequence = 0
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._backlog = metrics.LANE_BACKLOG.labels(str(bucket))

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be put into the lane for now."""
        return len(self._waiting) >= self._settings.backlog

    def submit(self, submission: Submission) -> None:
        """Puts arrivals behind those that wait."""
        self._waiting.extend(Item(submission, index) for index in range(len(submission.arrivals)))
        self._backlog.set(len(self._waiting))
        self._wake.set()

    def start(self) -> None:
        """Begins to work."""
        self._task = asyncio.create_task(self._run(), name=f"lane-{self.bucket}")

    async def drain(self) -> None:
        """Finishes what was accepted; nothing new may come."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task

    async def stop(self) -> None:
        """Lets go of what a drain could not finish: its callers are told that nothing was acknowledged."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        for item in self._waiting:
            item.submission.fail(stopping())

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            while self._waiting:
                size = min(len(self._waiting), self._settings.batch_size)
                items = [self._waiting.popleft() for _ in range(size)]
                self._backlog.set(len(self._waiting))
                await self._process(items)
            if self._stopping:
                return
            self._wake.clear()

    async def _process(self, items: list[Item]) -> None:
        """One batch from its first read to its answers. A failure is told to its callers; the lane goes on."""
        began = time.perf_counter()
        self._sequence += 1
        try:
            with translate_errors():
                again = await self._commit(items)
        except Exception as error:  # noqa: BLE001 - told to the callers, who come again with the same ids
            await self._fail(items, error)
            return
        metrics.BATCH_INPUTS.observe(len(items))
        metrics.BATCH_SECONDS.observe(time.perf_counter() - began)
        self._waiting.extendleft(reversed(again))

    async def _commit(self, items: list[Item]) -> list[Item]:
        """Writes what the batch does, answers what is durable, and returns the items that have to run again."""
        now = now_us()
        shares = self._shares(items)
        await self._load(shares)
        seen = await self._seen(shares, now)
        for share in shares.values():
            assert share.state is not None
            share.evaluated = evaluate(self._book, share.state, [item.arrival for item in share.items], seen)
            if share.evaluated.write is not None:
                stamp(share.evaluated, share.state, now)
        if _has_result(shares, Result.LATER):
            await self._reload_journeys()
        won, row = await self._write(shares, now)
        if row is not None and not row.is_empty:
            self._relay.send(self.bucket, row)
        return self._answer(shares, won)

    def _shares(self, items: list[Item]) -> dict[str, _Share]:
        shares: dict[str, _Share] = {}
        for item in items:
            profile_id = item.arrival.profile_id
            if profile_id not in shares:
                shares[profile_id] = _Share()
            shares[profile_id].items.append(item)
        return shares

    async def _load(self, shares: dict[str, _Share]) -> None:
        missing = []
        for profile_id, share in shares.items():
            share.state = self._cache.get(profile_id)
            share.verified = share.state is None
            if share.state is None:
                missing.append(profile_id)
        if not missing:
            return
        for profile_id in missing:
            shares[profile_id].state = ProfileState(profile_id)
        for row in await store.load_profiles(self._pool, self.bucket, missing):
            try:
                shares[row.profile_id].state = decode_profile(row)
            except msgspec.DecodeError as error:
                # Written by a newer version, or damaged: it must not stop those that share its batch.
                log.error("profile_not_understood", bucket=self.bucket, error=type(error).__name__)
                for item in shares.pop(row.profile_id).items:
                    item.settle(Result.FAILED)

    async def _seen(self, shares: dict[str, _Share], now: int) -> set[tuple[str, str]]:
        """Which events were acted on before. A profile that does not exist has seen none."""
        pairs = [
            (profile_id, item.arrival.event.event_id)
            for profile_id, share in shares.items()
            if share.state is not None and share.state.revision
            for item in share.items
            if isinstance(item.arrival, EventArrival)
        ]
        if not pairs:
            return set()
        # An event may be that much ahead when it arrives, so that it is too old that much later.
        since = now - self._settings.dedup_us - MAX_AHEAD_US
        return await store.find_seen(self._pool, self.bucket, pairs, since)

    async def _write(self, shares: dict[str, _Share], now: int) -> tuple[set[str], store.OutboxRow | None]:
        """One transaction: the swaps in the order of their keys, then what goes with those that were won. Returns who won,
        and the effects as they were committed."""
        done = [share.evaluated for _, share in sorted(shares.items()) if share.evaluated is not None]
        writes = [each.write for each in done if each.write is not None]
        receipts = [row for each in done for row in each.receipts]
        if not writes and not receipts:
            return set(), None
        outgoing, appendix = Outgoing(), store.Appendix(timeline=receipts)
        async with self._pool.acquire() as connection, connection.transaction():
            won = await store.swap_profiles(connection, self.bucket, writes) if writes else set()
            for each in done:
                if each.state.profile_id not in won:
                    continue
                appendix.event_ids += each.event_ids
                if each.transitions:
                    appendix.timeline.append(transitions_row(each))
                for journey_id, effects in each.effects:
                    outgoing.add(each.state.profile_id, journey_id, effects)
            appendix.outbox = outgoing.to_row(self._settings.writer, self._sequence)
            await store.append(connection, self.bucket, appendix, now)
        return won, appendix.outbox

    def _answer(self, shares: dict[str, _Share], won: set[str]) -> list[Item]:
        """Settles what is durable; what is not has lost its swap, or was judged by a state that may be stale."""
        again: list[Item] = []
        for profile_id, share in shares.items():
            evaluated = share.evaluated
            assert evaluated is not None
            if evaluated.write is not None and profile_id not in won:
                metrics.SWAPS_LOST.inc()
                self._cache.drop((profile_id,))
                again += share.items
                continue
            verified = share.verified or evaluated.write is not None
            # What was seen before was read for this batch; all else without a write was judged by the state alone.
            if not verified and any(result is not Result.DUPLICATE for result in evaluated.results):
                self._cache.drop((profile_id,))
                again += share.items
                continue
            self._cache.put(evaluated.state)
            _count(evaluated)
            for item, result in zip(share.items, evaluated.results, strict=True):
                _observe(item.arrival, result)
                item.settle(result)
        return again

    async def _fail(self, items: list[Item], error: Exception) -> None:
        """After a failed commit it is not known whether it took effect: what it may have written is read back first."""
        metrics.BATCHES_FAILED.inc()
        self._cache.drop({item.arrival.profile_id for item in items})
        if not isinstance(error, CairnError):
            log.error("lane_failed", bucket=self.bucket, exc_info=error)
            error = CairnError(
                ErrorReason.ERROR_REASON_INTERNAL,
                "The batch failed on a defect of ours, and the log tells more; it may yet have taken effect.",
            )
        for item in items:
            item.submission.fail(error)
        while not self._stopping:
            try:
                await self._relay.read_back(self.bucket, self._sequence)
                return
            except Exception as again:
                if not is_unavailable(again):
                    log.error("lane_read_back_failed", bucket=self.bucket, exc_info=again)
                    return
            # Those who came meanwhile are told at once rather than kept waiting.
            for item in self._waiting:
                item.submission.fail(error)
            self._waiting.clear()
            await asyncio.sleep(_RETRY_SECONDS)


def _has_result(shares: dict[str, _Share], wanted: Result) -> bool:
    return any(wanted in share.evaluated.results for share in shares.values() if share.evaluated)


def _count(evaluated: Evaluated) -> None:
    for transition in evaluated.transitions:
        metrics.TRANSITIONS.labels(transition.journey_id, Kind(transition.kind).name).inc()


def _observe(arrival: Arrival, result: Result | Refused) -> None:
    metrics.INPUTS.labels(_KINDS[type(arrival)]).inc()
    if isinstance(arrival, TimerArrival) and result is Result.ACTED_ON:
        metrics.TIMER_LATENESS.observe(max(0, now_us() - arrival.timer.time_us) / 1_000_000)


_KINDS: dict[type[Arrival], str] = {
    EventArrival: "event",
    TimerArrival: "timer",
    LifeArrival: "life",
    ReceiptArrival: "receipt",
    ProfileArrival: "profile",
}
