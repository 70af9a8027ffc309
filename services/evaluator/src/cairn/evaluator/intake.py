"""Owns the door: checks what comes, refuses what is wrong alone and what is too much at once, and waits for the lanes."""

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import msgspec

from cairn.api.activation.v1 import activation_pb2
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.evaluator import metrics
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.inputs import (
    Arrival,
    ErasureArrival,
    EventArrival,
    ProfileArrival,
    ReceiptArrival,
    ReplayArrival,
    Result,
    Submission,
    TimerArrival,
)
from cairn.evaluator.lane import Lane
from cairn.evaluator.wire import (
    EARLIEST_US,
    Refused,
    check_event,
    check_profile,
    is_id,
    is_time,
    struct_to_json,
    to_event_input,
)
from cairn.journey.state import ReceiptInput, TimerInput
from cairn.postgres.bucket import bucket_of
from cairn.runtime.clock import from_timestamp, now_us
from cairn.runtime.errors import CairnError, FieldViolation, invalid

MAX_ITEMS = 10_000
MAX_ERASURES = 1_000
_RETRY_SECONDS = 0.5
_REVISION_SECONDS = 30.0
_ASKING = frozenset({pb.REPLAY_MODE_UNSPECIFIED, pb.REPLAY_MODE_SEND})
"""Modes of a replay in which events do all that they would have done."""


@dataclass(slots=True)
class Taken:
    """What became of a batch: how many were taken, how many of them were seen before, and those refused, by index."""

    accepted: int = 0
    duplicates: int = 0
    refusals: list[tuple[int, Refused]] = field(default_factory=list)

    def messages(self) -> list[pb.Refusal]:
        """The refusals as callers see them, in order of index."""
        ordered = sorted(self.refusals, key=lambda refusal: refusal[0])
        return [pb.Refusal(index=index, reason=each.reason, message=each.message) for index, each in ordered]


class Intake:
    """Where inputs come in. `dedup_us` is how long an event id is known again, in microseconds, `backlog` how many inputs may wait in all
    lanes together."""

    def __init__(self, lanes: Sequence[Lane], book: JourneyBook, dedup_us: int, backlog: int) -> None:
        self._lanes = lanes
        self._book = book
        self._dedup_us = dedup_us
        self._backlog = backlog
        self._room = asyncio.Event()
        self._room.set()
        for lane in lanes:
            lane.on_taken = self._on_taken

    async def room(self) -> None:
        """Returns when there is room for more: a stream that waits here reads nothing, which holds its sender."""
        await self._room.wait()

    def _on_taken(self) -> None:
        if not self._room.is_set() and self._waiting() < self._backlog // 2:
            self._room.set()

    def _waiting(self) -> int:
        return sum(lane.waiting for lane in self._lanes)

    async def ingest(
        self,
        events: Sequence[pb.Event],
        min_revision: int,
        replay: "pb.ReplayMode.ValueType" = pb.REPLAY_MODE_UNSPECIFIED,
    ) -> Taken:
        """Takes events; durable, and acted on, when it returns. With a `replay` they are of the past, and of any age."""
        check_size("events", events)
        if replay not in pb.ReplayMode.values():
            raise invalid(
                "replay is no mode of a replay.", [FieldViolation("replay", "say NONE, SILENT or SEND")]
            )
        await wait_served(self._book, min_revision)
        self._book.require()
        self._admit()
        now, taken = now_us(), Taken()
        oldest_us = now - self._dedup_us if replay == pb.REPLAY_MODE_UNSPECIFIED else EARLIEST_US
        live, only_remembers = self._book.live, replay == pb.REPLAY_MODE_NONE
        places: list[int] = []
        arrivals: list[Arrival] = []
        for index, event in enumerate(events):
            try:
                time_us = check_event(event, now, now - oldest_us)
            except Refused as refusal:
                taken.refusals.append((index, refusal))
                continue
            name = event.name
            if not live.has_need(name) and (only_remembers or not live.concerned_by_event(name)):
                continue
            of_event = to_event_input(event, time_us)
            if replay in _ASKING:
                arrivals.append(EventArrival(event.profile_id, of_event))
            else:
                arrivals.append(ReplayArrival(event.profile_id, of_event, now, not only_remembers))
            places.append(index)
        of_no_concern = len(events) - len(taken.refusals) - len(arrivals)
        results = await self._through_lanes(arrivals)
        _collect(taken, places, results)
        taken.accepted = len(events) - len(taken.refusals)
        _count_events(taken, of_no_concern)
        return taken

    async def upsert(self, profiles: Sequence[pb.Profile], mode: "pb.UpsertMode.ValueType") -> Taken:
        """Describes profiles; durable, and acted on, when it returns."""
        check_size("profiles", profiles)
        if mode not in pb.UpsertMode.values():
            raise invalid("mode is no mode of an upsert.", [FieldViolation("mode", "say MERGE or REPLACE")])
        self._book.require()
        self._admit()
        now, taken = now_us(), Taken()
        places: list[int] = []
        arrivals: list[Arrival] = []
        for index, profile in enumerate(profiles):
            try:
                check_profile(profile)
            except Refused as refusal:
                taken.refusals.append((index, refusal))
                continue
            attributes = struct_to_json(profile.attributes)
            replace = mode == pb.UPSERT_MODE_REPLACE
            arrivals.append(ProfileArrival(profile.profile_id, attributes, profile.time_zone, replace, now))
            places.append(index)
        _collect(taken, places, await self._through_lanes(arrivals))
        taken.accepted = len(profiles) - len(taken.refusals)
        return taken

    async def describe(self, arrivals: Sequence[ProfileArrival]) -> list[Result | Refused]:
        """Describes profiles that were checked; the result of each is durable when it returns."""
        return await self._through_lanes(arrivals)

    async def erase(self, profile_ids: Sequence[str]) -> int:
        """Erases profiles; durable when it returns. How many there were."""
        check_size("profile_ids", profile_ids, MAX_ERASURES)
        violations = [
            FieldViolation(f"profile_ids[{index}]", "is no id of a profile: 1 to 256 bytes without NUL")
            for index, each in enumerate(profile_ids)
            if not is_id(each)
        ]
        if violations:
            raise invalid("Some of the ids can be nobody's.", violations)
        self._admit()
        now = now_us()
        arrivals = [ErasureArrival(each, now) for each in dict.fromkeys(profile_ids)]
        results = await self._through_lanes(arrivals)
        return sum(result is Result.ACTED_ON for result in results)

    async def fire(
        self, timers: Sequence[scheduler_pb2.Timer]
    ) -> list["scheduler_pb2.TimerAnswer.ValueType"]:
        """Acts on due timers; one answer for each."""
        check_size("timers", timers)
        self._book.require()
        answers = [scheduler_pb2.TIMER_ANSWER_REFUSED] * len(timers)
        places = [index for index, timer in enumerate(timers) if is_id(timer.key) and is_time(timer.due_time)]
        arrivals = [
            TimerArrival(
                timer.key,
                timer.payload.decode(errors="replace"),
                TimerInput(timer.timer_id, from_timestamp(timer.due_time)),
            )
            for timer in (timers[index] for index in places)
        ]
        for index, result in zip(places, await self._through_lanes(arrivals), strict=True):
            answers[index] = _TIMER_ANSWERS[_plain(result)]
        return answers

    async def record(self, receipts: Sequence[activation_pb2.Receipt]) -> None:
        """Takes the fates of activations; durable when it returns."""
        check_size("receipts", receipts)
        if violations := [each for index, receipt in enumerate(receipts) for each in _wrong(index, receipt)]:
            raise invalid("Some receipts can be nobody's.", violations)
        self._book.require()
        arrivals = [_receipt(receipt) for receipt in receipts]
        results = await self._through_lanes(arrivals, patient=True)
        if any(result is Result.LATER for result in results):
            raise _not_yet()

    def _admit(self) -> None:
        """Refuses before anything is looked at, so that refusing costs next to nothing."""
        if self._waiting() >= self._backlog:
            raise _overloaded()

    async def _through_lanes(
        self, arrivals: Sequence[Arrival], *, patient: bool = False
    ) -> list[Result | Refused]:
        """The result of each arrival, in order. Nothing of a call that a full lane refuses is taken."""
        places: dict[int, list[int]] = {}
        count = len(self._lanes)
        for index, arrival in enumerate(arrivals):
            places.setdefault(bucket_of(arrival.profile_id, count), []).append(index)
        if any(self._lanes[bucket].is_full for bucket in places):
            raise _overloaded()
        loop = asyncio.get_running_loop()
        submissions = []
        for bucket, indexes in places.items():
            submission = Submission([arrivals[index] for index in indexes], loop.create_future())
            self._lanes[bucket].submit(submission, patient=patient)
            submissions.append(submission)
        if self._waiting() >= self._backlog // 2:
            self._room.clear()
        # All are waited for even if one fails: an exception that nobody fetches would be logged as lost.
        answers = await asyncio.gather(*(each.done for each in submissions), return_exceptions=True)
        results: list[Result | Refused] = [Result.FAILED] * len(arrivals)
        for indexes, answer in zip(places.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            for index, result in zip(indexes, answer, strict=True):
                results[index] = result
        return results


async def wait_served(book: JourneyBook, min_revision: int) -> None:
    """Waits until a revision is served; DEADLINE_EXCEEDED when that takes too long."""
    try:
        async with asyncio.timeout(_REVISION_SECONDS):
            await book.wait_for(min_revision)
    except TimeoutError:
        raise CairnError(
            ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
            f"revision {min_revision} is not served yet, {book.revision} is; repeat the call with the same ids.",
        ) from None


def check_size(field_name: str, items: Sequence[object], most: int = MAX_ITEMS) -> None:
    """Raises INVALID_ARGUMENT for a batch that is empty or too long."""
    if not 1 <= len(items) <= most:
        raise invalid(
            f"{field_name} has {len(items)} items.",
            [FieldViolation(field_name, f"has {len(items)} items; a call takes 1 to {most}")],
        )


def _collect(taken: Taken, places: Sequence[int], results: Sequence[Result | Refused]) -> None:
    for index, result in zip(places, results, strict=True):
        if isinstance(result, Refused):
            taken.refusals.append((index, result))
        elif result is Result.LATER:
            raise _not_yet()
        elif result is Result.FAILED:
            # Refused, not failed: the producer would send it for ever, and all that stands beside it.
            refusal = Refused(ErrorReason.ERROR_REASON_INTERNAL, "a defect of ours; the log tells more")
            taken.refusals.append((index, refusal))
        elif result is Result.DUPLICATE:
            taken.duplicates += 1


def _count_events(taken: Taken, of_no_concern: int) -> None:
    metrics.EVENTS.labels("acted_on").inc(taken.accepted - taken.duplicates - of_no_concern)
    metrics.EVENTS.labels("duplicate").inc(taken.duplicates)
    metrics.EVENTS.labels("of_no_concern").inc(of_no_concern)
    metrics.EVENTS.labels("refused").inc(len(taken.refusals))


def _wrong(index: int, receipt: activation_pb2.Receipt) -> Iterator[FieldViolation]:
    """What the tables could not hold, to the harm of all that shares its batch."""
    if not is_id(receipt.profile_id):
        yield FieldViolation(
            f"receipts[{index}].profile_id", "is no id of a profile; repeat the activation's"
        )
    if not is_time(receipt.state_time):
        yield FieldViolation(f"receipts[{index}].state_time", "is no valid time")


def _receipt(receipt: activation_pb2.Receipt) -> ReceiptArrival:
    state_us = from_timestamp(receipt.state_time)
    entry = msgspec.json.encode([receipt.activation_id, receipt.state, state_us, receipt.detail])
    return ReceiptArrival(
        receipt.profile_id, ReceiptInput(receipt.activation_id), receipt.enrollment, state_us, entry.decode()
    )


def _plain(result: Result | Refused) -> Result:
    return Result.FAILED if isinstance(result, Refused) else result


def _overloaded() -> CairnError:
    return CairnError(
        ErrorReason.ERROR_REASON_OVERLOADED,
        "More is waiting than can be taken now; repeat the call after the delay.",
        retry_after_s=_RETRY_SECONDS,
    )


def _not_yet() -> CairnError:
    return CairnError(
        ErrorReason.ERROR_REASON_NOT_READY,
        "A journey's version is not known here yet; repeat the call with the same ids.",
        retry_after_s=_RETRY_SECONDS,
    )


_TIMER_ANSWERS: dict[Result, "scheduler_pb2.TimerAnswer.ValueType"] = {
    Result.ACTED_ON: scheduler_pb2.TIMER_ANSWER_ACCEPTED,
    Result.DUPLICATE: scheduler_pb2.TIMER_ANSWER_STALE,
    Result.STALE: scheduler_pb2.TIMER_ANSWER_STALE,
    Result.LATER: scheduler_pb2.TIMER_ANSWER_RETRY,
    # A defect repeats itself: people have to see it.
    Result.FAILED: scheduler_pb2.TIMER_ANSWER_REFUSED,
}
