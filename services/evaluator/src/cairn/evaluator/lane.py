"""Owns the hot path: a lane takes what arrived for its bucket while its last batch was committing, and commits it as one.

One profile, one lane, in order. A batch costs two reads at most and one statement that writes, however many inputs it holds.
The commit is the acknowledgement; effects leave after it.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import msgspec
import structlog

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.evaluator import metrics, store, store_erasure
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.cache import ProfileCache
from cairn.evaluator.erasing import Eraser
from cairn.evaluator.evaluation import (
    Evaluated,
    ProfileState,
    decode_profile,
    erased_profile,
    evaluate,
    stamp,
    transitions_row,
)
from cairn.evaluator.inputs import (
    Arrival,
    ErasureArrival,
    EventArrival,
    Part,
    Result,
    RunArrival,
    Submission,
)
from cairn.evaluator.relay import Relay
from cairn.evaluator.tally import Tally
from cairn.evaluator.wire import DAY_US, MAX_AHEAD_US, Outgoing
from cairn.postgres.pool import Pool, is_unavailable, translate_errors
from cairn.runtime.clock import now_us
from cairn.runtime.drain import stopping
from cairn.runtime.errors import CairnError

log = structlog.get_logger()

_RETRY_SECONDS = 0.2
_COMPANY_SECONDS = 0.2
_PATIENCE_SECONDS = 1.0
_MANY = 8
_WORTH_A_BATCH = 500
_GATHER_SECONDS = 0.015
_MOST_ERASED = 100  # of at most 1,000 that Activation takes in a call
"""Profiles that one transaction erases: it looks into every day of their timelines, and holds up who makes profiles in its bucket."""


class _Share:
    """What one profile has in a batch: its arrivals, and where the result of each belongs. `verified` says that its state was read for this
    batch, not found in the cache, nor by a run a moment ago, which then is `row`; `passing` that only a run asks for one that was not in the
    cache."""

    __slots__ = ("arrivals", "evaluated", "passing", "places", "row", "state", "verified")

    def __init__(self) -> None:
        self.arrivals: list[Arrival] = []
        self.row: store.ProfileRow | None = None
        self.passing = False
        self.places: list[tuple[Submission, int]] = []
        self.state: ProfileState | None = None
        self.verified = True
        self.evaluated: Evaluated | None = None


@dataclass(frozen=True)
class LaneSettings:
    """What all lanes share: the writer's id, sizes (of the cache in bytes), and how many days an event id is known again."""

    writer: int
    batch_size: int
    backlog: int
    cache_bytes: int
    dedup_days: int


class Lane:
    """One bucket's inputs, in order. `reload_journeys` is called when an enrollment is in a version that is not known."""

    def __init__(
        self,
        bucket: int,
        pool: Pool,
        book: JourneyBook,
        relay: Relay,
        eraser: Eraser,
        settings: LaneSettings,
        reload_journeys: Callable[[], Awaitable[None]],
    ) -> None:
        self.on_taken: Callable[[], None] = lambda: None
        """Called when a batch was taken out of what waits."""
        self.bucket = bucket
        self._pool = pool
        self._book = book
        self._relay = relay
        self._eraser = eraser
        self._settings = settings
        self._reload_journeys = reload_journeys
        self._waiting: deque[Part] = deque()
        # Fates of activations, which change nothing that anybody waits for: they give way, but not for ever.
        self._patient: deque[Part] = deque()
        self._patient_since = 0.0
        self._count = 0
        self._urgent = 0
        self._wake = asyncio.Event()
        self._cache = ProfileCache(settings.cache_bytes)
        self._sequence = 0
        # How many erasures of the bucket are known here; None: nobody has asked yet. There may have been more.
        self._erasures: int | None = None
        self._stopping = False
        self._task: asyncio.Task[None] | None = None
        self._backlog = metrics.LANE_BACKLOG.labels(str(bucket))

    @property
    def waiting(self) -> int:
        """How many inputs wait."""
        return self._count

    @property
    def urgent(self) -> int:
        """How many of those are not patient."""
        return self._urgent

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be put into the lane for now."""
        return self._count >= self._settings.backlog

    def submit(self, submission: Submission, *, patient: bool = False) -> None:
        """Puts arrivals behind those that wait. `patient` ones go with whoever comes next, or alone: at once where they make a batch,
        else after a while."""
        count, most = len(submission.arrivals), self._settings.batch_size
        if submission.erases:
            most = min(most, _MOST_ERASED)
        queue = self._patient if patient else self._waiting
        if patient:
            if not queue:
                self._patient_since = time.monotonic()
                asyncio.get_running_loop().call_later(_COMPANY_SECONDS, self._wake.set)
        else:
            self._urgent += count
            self._wake.set()
        for start in range(0, count, most):
            queue.append((submission, range(start, min(start + most, count))))
        self._count += count
        if self._are_many_patient:
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
        for submission, _ in (*self._waiting, *self._patient):
            submission.fail(stopping())

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting or self._are_many_patient or self._has_lost_patience(_COMPANY_SECONDS):
                await self._process(self._take())
                if _MANY <= self._urgent < _WORTH_A_BATCH and not self._stopping:
                    # They come faster than one at a time: what a batch costs is better shared by more of them.
                    await asyncio.sleep(_GATHER_SECONDS)
            if self._stopping:
                return
            if self._patient:
                # Whoever woke us may have been early by a hair: nobody else would look after them.
                asyncio.get_running_loop().call_later(_COMPANY_SECONDS, self._wake.set)

    @property
    def _are_many_patient(self) -> bool:
        """Whether the patient make a batch by themselves: then they gain nothing by waiting for company."""
        return self._count - self._urgent >= _WORTH_A_BATCH

    def _has_lost_patience(self, seconds: float) -> bool:
        """Whether the patient have waited that long."""
        if not self._patient:
            return False
        return self._stopping or time.monotonic() - self._patient_since >= seconds

    def _take(self) -> list[Part]:
        """What makes the next batch: all that waits, up to the size of one."""
        parts: list[Part] = []
        count = 0
        queues = [self._waiting, self._patient]
        if self._has_lost_patience(_PATIENCE_SECONDS):
            queues.reverse()
        for queue in queues:
            while queue and (not parts or self._goes_along(queue[0], parts, count)):
                submission, indexes = queue.popleft()
                parts.append((submission, indexes))
                count += len(indexes)
                if queue is self._waiting:
                    self._urgent -= len(indexes)
                else:
                    self._patient_since = time.monotonic()
            if queue:
                break
        self._count -= count
        self._backlog.set(self._count)
        metrics.BATCH_INPUTS.observe(count)
        self.on_taken()
        return parts

    def _goes_along(self, part: Part, parts: list[Part], count: int) -> bool:
        """Whether a part can share a batch. Erasures can't: what came before them is done before, what came after them after."""
        submission, indexes = part
        if submission.erases or parts[0][0].erases:
            return False
        return count + len(indexes) <= self._settings.batch_size

    async def _process(self, parts: list[Part]) -> None:
        """One batch from its first read to its answers. A failure is told to its callers; the lane goes on."""
        began = time.perf_counter()
        self._sequence += 1
        try:
            with translate_errors():
                if self._erasures is None:
                    self._erasures = await store_erasure.open_bucket(self._pool, self.bucket)
                again = await self._commit(parts) if not parts[0][0].erases else await self._erase(parts)
        except Exception as error:  # noqa: BLE001 - told to the callers, who come again with the same ids
            await self._fail(parts, error)
            return
        metrics.BATCH_SECONDS.observe(time.perf_counter() - began)
        self._waiting.extendleft(reversed(again))
        more = sum(len(indexes) for _, indexes in again)
        self._count += more
        self._urgent += more

    async def _commit(self, parts: list[Part]) -> list[Part]:
        """Writes what the batch does, answers what is durable, and returns what has to run again."""
        now = now_us()
        shares = _shares(parts)
        await self._load(shares)
        seen = await self._seen(shares, now)
        book, oldest_day, later = self._book, self._oldest_day(now), False
        for share in shares.values():
            assert share.state is not None
            evaluated = share.evaluated = evaluate(book, share.state, share.arrivals, seen, now, oldest_day)
            if evaluated.write is not None:
                stamp(evaluated, share.state, now)
            elif not share.verified:
                # It may have been erased since, and then has no timeline: it will be looked at again.
                evaluated.receipts = []
            later |= evaluated.later
        if later:
            await self._reload_journeys()
        won, row = await self._write(shares, now)
        if row is not None and not row.is_empty:
            self._relay.send(self.bucket, row)
        return self._answer(shares, won)

    async def _erase(self, parts: list[Part]) -> list[Part]:
        """Erases what a batch of erasures names, and answers; nothing has to run again."""
        asked: dict[str, int] = {}
        for submission, indexes in parts:
            for index in indexes:
                arrival = submission.arrivals[index]
                assert isinstance(arrival, ErasureArrival)
                asked[arrival.profile_id] = arrival.arrival_us
        self._cache.drop(asked)
        erased = await self._eraser.erase(self.bucket, self._sequence, asked)
        self._erasures = erased.number
        self._relay.send(self.bucket, erased.outbox)
        metrics.PROFILES_ERASED.inc(len(erased.existed))
        for submission, indexes in parts:
            for index in indexes:
                existed = submission.arrivals[index].profile_id in erased.existed
                submission.settle(index, Result.ACTED_ON if existed else Result.STALE)
        return []

    def _oldest_day(self, now: int) -> int:
        """The day from which on arrivals are known again: an event may be five minutes ahead when it arrives, so that it is too old that
        much later."""
        return (now - MAX_AHEAD_US) // DAY_US - self._settings.dedup_days

    async def _load(self, shares: dict[str, _Share]) -> None:
        missing, found = [], []
        for profile_id, share in shares.items():
            share.state = self._cache.get(profile_id)
            row = share.row
            if row is not None and (share.state is None or share.state.revision < row.revision):
                # As a run found it a moment ago: the swap tells if it is old.
                share.passing = share.state is None and all(
                    type(each) is RunArrival for each in share.arrivals
                )
                share.verified = False
                found.append(row)
                continue
            share.verified = share.state is None
            if share.state is None:
                missing.append(profile_id)
        self._decode(shares, found)
        if not missing:
            return
        for profile_id in missing:
            shares[profile_id].state = ProfileState(profile_id)
        self._decode(shares, await store.load_profiles(self._pool, self.bucket, missing))
        if self._erasures:
            await self._look_for_tombstones(shares)

    def _decode(self, shares: dict[str, _Share], rows: Iterable[store.ProfileRow]) -> None:
        for row in rows:
            try:
                shares[row.profile_id].state = decode_profile(row)
            except msgspec.DecodeError as error:
                # Written by a newer version, or damaged: it must not stop those that share its batch.
                log.error("profile_not_understood", bucket=self.bucket, error=type(error).__name__)
                for submission, index in shares.pop(row.profile_id).places:
                    submission.settle(index, Result.FAILED)

    async def _look_for_tombstones(self, shares: dict[str, _Share]) -> None:
        """Of profiles that are not there: whether they were erased."""
        absent = [each for each, share in shares.items() if not (share.state and share.state.revision)]
        if absent:
            for profile_id, stone in (await self._eraser.find(self.bucket, absent)).items():
                shares[profile_id].state = erased_profile(profile_id, stone.revision, stone.erase_us)

    async def _seen(self, shares: dict[str, _Share], now: int) -> set[tuple[str, str]]:
        """Which events were acted on before and stand in the table, not with their profile."""
        oldest_day = self._oldest_day(now)
        pairs = [
            (profile_id, arrival.event.event_id)
            for profile_id, share in shares.items()
            if share.state is not None and share.state.seen.needs_table(oldest_day)
            for arrival in share.arrivals
            if isinstance(arrival, EventArrival)
        ]
        if not pairs:
            return set()
        return await store.find_seen(self._pool, self.bucket, pairs, oldest_day * DAY_US)

    async def _write(
        self, shares: dict[str, _Share], now: int
    ) -> tuple[set[str] | None, store.OutboxRow | None]:
        """One transaction: the swaps in the order of their keys, then what goes with those that were won. Returns who won, and the effects
        as they were committed; None for nobody, when there were erasures that were not known here."""
        done, anew = [], []
        for profile_id, share in sorted(shares.items()):
            assert share.evaluated is not None
            assert share.state is not None
            done.append(share.evaluated)
            if share.state.is_erased and share.evaluated.write is not None:
                anew.append(profile_id)
        writes = [each.write for each in done if each.write is not None]
        tells = any(each.receipts and each.write is None for each in done)
        if not writes and not tells:
            return set(), None
        everybody = {write.profile_id for write in writes}
        appendix = self._appendix(done, everybody)
        # Nearly always nobody else had a profile of the batch: then all is one statement, and one round trip.
        erasures = self._erasures if tells or any(write.is_new for write in writes) else None
        if not anew and await store.write_batch(self._pool, self.bucket, writes, appendix, now, erasures):
            return everybody, appendix.outbox
        async with self._pool.acquire() as connection, connection.transaction():
            number = await store_erasure.hold_erasures(connection, self.bucket)
            if number != self._erasures:
                self._erasures = number
                return None, None
            won = await store.swap_profiles(connection, self.bucket, writes)
            if lifted := [each for each in anew if each in won]:
                hashes = await self._eraser.hashes_of(lifted)
                await store_erasure.lift_tombstones(connection, self.bucket, hashes)
            appendix = self._appendix(done, won)
            await store.append(connection, self.bucket, appendix, now)
        return won, appendix.outbox

    def _appendix(self, done: list[Evaluated], won: set[str]) -> store.Appendix:
        """What goes with the swaps that were won, and what is told of profiles that stay as they are."""
        outgoing, appendix = Outgoing(), store.Appendix()
        for each in done:
            if each.write is not None and each.state.profile_id not in won:
                continue
            appendix.timeline += each.receipts
            if each.write is None:
                continue
            appendix.event_ids += each.spilled
            if each.transitions:
                appendix.timeline.append(transitions_row(each))
            for standing_id, effects in each.effects:
                outgoing.add(each.state.profile_id, standing_id, effects)
        appendix.outbox = outgoing.to_row(self._settings.writer, self._sequence)
        return appendix

    def _answer(self, shares: dict[str, _Share], won: set[str] | None) -> list[Part]:
        """Settles what is durable; what is not has lost its swap, or was judged by a state that may be stale. With nobody in `won` nothing
        is."""
        again: list[Part] = []
        tally = Tally()
        for profile_id, share in shares.items():
            evaluated = share.evaluated
            assert evaluated is not None
            lost = won is None or (evaluated.write is not None and profile_id not in won)
            if lost and won is not None:
                metrics.SWAPS_LOST.inc()
            # What was seen before was read for this batch; all else without a write was judged by the state alone. To a run it is enough
            # that nothing was to be done when it looked.
            unsure = (
                not share.verified
                and evaluated.write is None
                and any(
                    result is not Result.DUPLICATE and type(arrival) is not RunArrival
                    for arrival, result in zip(share.arrivals, evaluated.results, strict=True)
                )
            )
            if lost or unsure:
                self._cache.drop((profile_id,))
                _forget_rows(share.arrivals)
                again += [(submission, (index,)) for submission, index in share.places]
                continue
            if evaluated.state.is_stored and not share.passing:
                # Of one that is not, only the tables can tell that it still is not.
                self._cache.put(evaluated.state)
            tally.add(share.arrivals, evaluated)
            for (submission, index), result in zip(share.places, evaluated.results, strict=True):
                submission.settle(index, result)
        tally.tell(now_us())
        return again

    async def _fail(self, parts: list[Part], error: Exception) -> None:
        """After a failed commit it is not known whether it took effect: what it may have written is read back first."""
        metrics.BATCHES_FAILED.inc()
        self._cache.drop(
            {submission.arrivals[index].profile_id for submission, indexes in parts for index in indexes}
        )
        if not isinstance(error, CairnError):
            log.error("lane_failed", bucket=self.bucket, exc_info=error)
            error = CairnError(
                ErrorReason.ERROR_REASON_INTERNAL,
                "The batch failed on a defect of ours, and the log tells more; it may yet have taken effect.",
            )
        for submission, _ in parts:
            submission.fail(error)
        while not self._stopping:
            try:
                await self._relay.read_back(self.bucket, self._sequence)
                return
            except Exception as again:
                if not is_unavailable(again):
                    log.error("lane_read_back_failed", bucket=self.bucket, exc_info=again)
                    return
            # Those who came meanwhile are told at once rather than kept waiting.
            for submission, _ in (*self._waiting, *self._patient):
                submission.fail(error)
            self._waiting.clear()
            self._patient.clear()
            self._count = self._urgent = 0
            self.on_taken()
            await asyncio.sleep(_RETRY_SECONDS)


def _forget_rows(arrivals: Iterable[Arrival]) -> None:
    """What a run found is old: it is read again."""
    for each in arrivals:
        if type(each) is RunArrival:
            each.row = None


def _shares(parts: list[Part]) -> dict[str, _Share]:
    """The arrivals of a batch by profile, in order."""
    shares: dict[str, _Share] = {}
    for submission, indexes in parts:
        for index in indexes:
            arrival = submission.arrivals[index]
            share = shares.get(arrival.profile_id)
            if share is None:
                share = shares[arrival.profile_id] = _Share()
            share.arrivals.append(arrival)
            share.places.append((submission, index))
            if type(arrival) is RunArrival and arrival.row is not None:
                share.row = arrival.row
    return shares
