"""Owns what a batch does to one profile: runs the machine over its arrivals, in order. No I/O, no clock."""

from collections.abc import Mapping, Sequence, Set
from hashlib import blake2b
from typing import Any

import msgspec
import structlog

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.evaluator import metrics
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.inputs import (
    Arrival,
    ErasureArrival,
    EventArrival,
    LifeArrival,
    ProfileArrival,
    ReceiptArrival,
    ReplayArrival,
    Result,
    RunArrival,
    TimerArrival,
)
from cairn.evaluator.recent import RecentInput, remember
from cairn.evaluator.replaying import due_first, remembered, silence
from cairn.evaluator.seen import NOTHING, Seen
from cairn.evaluator.seen import remember as remember_seen
from cairn.evaluator.store import ProfileRow, ProfileWrite, RowKind, TimelineRow, to_json
from cairn.evaluator.wire import DAY_US, MAX_ITEM_BYTES, Refused, too_large_profile
from cairn.journey.behavior import Track, Tracks
from cairn.journey.dispatch import Dispatched, dispatch_event, dispatch_profile, dispatch_run, dispatch_to
from cairn.journey.machine import UnknownVersionError
from cairn.journey.state import (
    CancelTimer,
    Effect,
    EnrollmentState,
    Profile,
    Standing,
    TimerInput,
    Transition,
    merge_attributes,
    same_json,
)

log = structlog.get_logger()

_STANDINGS = msgspec.json.Decoder(dict[str, Standing])
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_TRACKS = msgspec.json.Decoder(dict[str, Track])
_RECENT = msgspec.json.Decoder(tuple[RecentInput, ...])
_SEEN = msgspec.json.Decoder(Seen)

_MEMORY_FOR_ITSELF = 1_000
_MEMORY_FOR_A_BYTE = 3
"""What a profile takes in memory, in bytes: for itself, and for each byte of its stored form. Measured, to about a third."""


class ProfileState(msgspec.Struct):
    """A profile in memory. `revision` is the stored one; 0 when there is no such profile. `standings` are by their ids,
    `recent` are the last events that reached a journey and changed nothing in it, `seen` tells which events were acted on.
    `is_erased` says that it was erased and not made anew: then all that is known are the revision that it had come to, and when, in `seen`.
    `memory` is about what it takes, in bytes."""

    profile_id: str
    revision: int = 0
    attributes: dict[str, Any] = {}
    time_zone: str = ""
    standings: dict[str, Standing] = {}
    behavior: Tracks = {}
    recent: tuple[RecentInput, ...] = ()
    update_us: int = 0
    """When it was stored; 0 when it never was."""
    seen: Seen = NOTHING
    memory: int = _MEMORY_FOR_ITSELF
    is_erased: bool = False

    @property
    def is_stored(self) -> bool:
        """Whether there is such a profile."""
        return self.revision > 0 and not self.is_erased


def erased_profile(profile_id: str, revision: int, erased_us: int) -> ProfileState:
    """A profile of which only a tombstone is there."""
    return ProfileState(profile_id, revision, seen=Seen(erased_us=erased_us), is_erased=True)


def decode_profile(row: ProfileRow) -> ProfileState:
    """A stored profile."""
    return ProfileState(
        row.profile_id,
        row.revision,
        _OBJECT.decode(row.attributes),
        row.time_zone,
        _STANDINGS.decode(row.standings),
        decode_tracks(row.behavior),
        _RECENT.decode(row.recent) if row.recent else (),
        row.update_us,
        # Of one that was written before ids stood with profiles, all that it has seen is in the table.
        _SEEN.decode(row.seen) if row.seen else Seen({}, row.update_us // DAY_US),
        _MEMORY_FOR_ITSELF + _MEMORY_FOR_A_BYTE * row.stored_bytes,
    )


def decode_standings(text: str) -> dict[str, Standing]:
    """Stored standings by their ids."""
    return _STANDINGS.decode(text)


def decode_tracks(text: str) -> Tracks:
    """Stored behavior by the names of its events; the text may be empty."""
    return _TRACKS.decode(text) if text else {}


class Evaluated(msgspec.Struct):
    """What came of a profile's arrivals. `state` is the profile afterwards, with the revision it will have if `write` wins;
    `write` is None when nothing is to be stored. `results` has one for each arrival; `effects` come with their standing's id; `spilled` are
    (profile_id, event_id) pairs that no longer stand with the profile; `later` says that a version was not known."""

    state: ProfileState
    results: list[Result | Refused]
    write: ProfileWrite | None = None
    spilled: list[tuple[str, str]] = []
    effects: list[tuple[str, Sequence[Effect]]] = []
    transitions: list[Transition] = []
    receipts: list[TimelineRow] = []
    later: bool = False


def evaluate(
    book: JourneyBook,
    state: ProfileState,
    arrivals: Sequence[Arrival],
    seen: Set[tuple[str, str]],
    now_us: int,
    oldest_day: int,
) -> Evaluated:
    """Runs a profile's arrivals in order. `state` is left as it is; `seen` holds the (profile_id, event_id) pairs that the table knows;
    `oldest_day` is the first day of arrival that is still known. A failure of the machine is the result of its arrival alone."""
    return _Evaluation(book, state).run(arrivals, seen, now_us, oldest_day)


class _Evaluation:
    """One profile in one batch. Copies what it changes."""

    __slots__ = (
        "before",
        "changed",
        "event_ids",
        "is_erased",
        "live",
        "out",
        "profile",
        "recent",
        "silent_us",
        "standings",
    )

    def __init__(self, book: JourneyBook, state: ProfileState) -> None:
        self.live = book.live
        self.before = state
        self.standings = dict(state.standings)
        self.recent = state.recent
        self.profile = Profile(state.profile_id, state.attributes, state.time_zone, state.behavior)
        self.changed = False
        self.is_erased = state.is_erased
        self.event_ids: list[str] = []
        self.silent_us = 0
        self.out = Evaluated(state, [])

    def run(
        self, arrivals: Sequence[Arrival], seen: Set[tuple[str, str]], now_us: int, oldest_day: int
    ) -> Evaluated:
        erased_us = self.before.seen.erased_us
        for arrival in arrivals:
            if self.silent_us or type(arrival) is ReplayArrival:
                self.hush(arrival)
            if erased_us and (answer := self.answer_after_erasure(arrival, erased_us)) is not None:
                self.out.results.append(answer)
            elif isinstance(arrival, EventArrival) and self.is_known(arrival.event.event_id, seen):
                self.out.results.append(Result.DUPLICATE)
            else:
                self.out.results.append(self.one(arrival))
        if self.silent_us:
            self.hush(None)
        if self.changed:
            self.finish(now_us // DAY_US, oldest_day)
        return self.out

    def answer_after_erasure(self, arrival: Arrival, erased_us: int) -> Result | Refused | None:
        """What becomes of an arrival because the profile was erased; None when it is taken like any other.

        Of one that was made anew since, what happened before is not acted on either: which of it was seen is forgotten.
        """
        match arrival:
            case EventArrival(event=event) if self.is_erased or event.time_us <= erased_us:
                return Refused(
                    ErrorReason.ERROR_REASON_PROFILE_ERASED,
                    "the profile was erased after this happened"
                    + ("; only UpsertProfiles makes it anew" if self.is_erased else ""),
                )
            case ReceiptArrival(enrollment_id=enrollment_id) if not self.has(enrollment_id):
                # Of what was asked for before: its timeline is gone.
                return Result.STALE
            case TimerArrival() | LifeArrival() if self.is_erased:
                return Result.STALE
            case RunArrival(run=run) if self.is_erased or run.time_us <= erased_us:
                return Result.STALE
            case _:
                return None

    def has(self, enrollment_id: str) -> bool:
        """Whether an enrollment is among those that are known."""
        for standing in self.standings.values():
            if standing.enrollment is not None and standing.enrollment.enrollment_id == enrollment_id:
                return True
        return False

    def is_known(self, event_id: str, seen: Set[tuple[str, str]]) -> bool:
        """Whether an event was acted on before."""
        return (
            event_id in self.before.seen.ids
            or event_id in self.event_ids
            or (bool(seen) and (self.before.profile_id, event_id) in seen)
        )

    def one(self, arrival: Arrival) -> Result | Refused:
        """One arrival, all or nothing: the machine works on copies, so that a failure leaves nothing behind."""
        try:
            return self.take(arrival)
        except UnknownVersionError:
            self.out.later = True
            return Result.LATER
        except Refused as refusal:
            return refusal
        except Exception as error:
            metrics.INPUTS_FAILED.inc()
            log.error("machine_failed", input=type(arrival).__name__, exc_info=error)
            return Result.FAILED

    def take(self, arrival: Arrival) -> Result:
        match arrival:
            case ReplayArrival() if not arrival.moves:
                self.profile = remembered(self.live, self.profile, arrival.event)
                return self.note_event(arrival)
            case EventArrival():
                return self.take_event(arrival)
            case TimerArrival():
                done = self.dispatch_to(arrival.standing_id, arrival.timer)
                return Result.ACTED_ON if done else Result.STALE
            case LifeArrival():
                return self.take_life(arrival)
            case ReceiptArrival():
                return self.take_receipt(arrival)
            case ProfileArrival():
                return self.take_profile(arrival)
            case RunArrival():
                return self.take_run(arrival)
            case ErasureArrival():
                raise AssertionError("erasures are not evaluated")

    def take_event(self, arrival: EventArrival) -> Result:
        done = dispatch_event(self.live, self.profile, self.standings, arrival.event)
        self.apply(done)
        for journey_id in done.quiet:
            self.recent = remember(self.recent, journey_id, arrival.event)
        return self.note_event(arrival)

    def note_event(self, arrival: EventArrival) -> Result:
        self.event_ids.append(arrival.event.event_id)
        self.changed = True
        return Result.ACTED_ON

    def hush(self, arrival: Arrival | None) -> None:
        """Before an arrival, or at the end: begins or ends the silence in which events of the past are made up for.

        What is due by then has nothing to do with them: it acts first, as ever. What they make due by then acts in the end, in silence.
        """
        if isinstance(arrival, ReplayArrival) and arrival.moves:
            if not self.silent_us:
                self.pass_time(arrival.arrival_us)
            self.silent_us = max(self.silent_us, arrival.arrival_us)
        elif self.silent_us:
            self.pass_time(self.silent_us)
            self.silent_us = 0

    def pass_time(self, until_us: int) -> None:
        """Does what the Scheduler would have done by a moment: one due timer after the other. Who can't be moved waits for it."""
        left_out = set(self.live.batch_ids)
        while found := due_first(self.standings, until_us, left_out):
            due_us, standing_id = found
            enrollment = self.standings[standing_id].enrollment
            assert enrollment is not None
            timer_id = enrollment.timer_id
            if self.one(TimerArrival(self.profile.profile_id, standing_id, TimerInput(timer_id, due_us))) is (
                Result.ACTED_ON
            ):
                self.out.effects.append((standing_id, (CancelTimer(timer_id),)))
            else:
                left_out.add(standing_id)

    def take_receipt(self, arrival: ReceiptArrival) -> Result:
        self.out.receipts.append(_receipt_row(arrival))
        for standing_id, standing in self.standings.items():
            enrollment = standing.enrollment
            if enrollment is not None and enrollment.enrollment_id == arrival.enrollment_id:
                return Result.ACTED_ON if self.dispatch_to(standing_id, arrival.receipt) else Result.STALE
        return Result.STALE

    def take_life(self, arrival: LifeArrival) -> Result:
        """Tells all that the profile has to do with a journey what became of the journey."""
        journey_id, result = arrival.journey_id, Result.STALE
        for standing_id in [each for each in self.standings if each.partition("/")[0] == journey_id]:
            if self.dispatch_to(standing_id, arrival.life):
                result = Result.ACTED_ON
        return result

    def take_run(self, arrival: RunArrival) -> Result:
        journey_id, run = arrival.journey_id, arrival.run
        moved = self.apply(dispatch_run(self.live, self.profile, self.standings, journey_id, run))
        standing = self.standings.get(journey_id)
        last = standing.last_run if standing is not None else None
        # Of one that was moved when the run came by before, too: then this one changes nothing.
        arrival.did = last if last is not None and last.time_us == run.time_us else None
        return Result.ACTED_ON if moved else Result.STALE

    def take_profile(self, arrival: ProfileArrival) -> Result:
        before = self.profile
        attributes = merge(before.attributes, arrival)
        time_zone = arrival.time_zone or before.time_zone
        if (
            same_json(attributes, before.attributes)
            and time_zone == before.time_zone
            and (self.before.is_stored or self.changed)
        ):
            return Result.ACTED_ON
        size = len(msgspec.json.encode(attributes)) + len(arrival.profile_id)
        if size > MAX_ITEM_BYTES:
            raise too_large_profile(size)
        after = Profile(arrival.profile_id, attributes, time_zone, before.behavior)
        # What it asks for has to be younger than the erasure, by whatever clock.
        time_us = max(arrival.arrival_us, self.before.seen.erased_us + 1)
        self.apply(dispatch_profile(self.live, before, after, self.standings, time_us))
        self.changed = True
        self.is_erased = False
        return Result.ACTED_ON

    def dispatch_to(self, standing_id: str, input: Any) -> bool:
        """Runs the machine for one standing; whether anything changed."""
        return self.apply(dispatch_to(self.live, self.profile, self.standings, standing_id, input))

    def apply(self, done: Dispatched) -> bool:
        """Takes over what came of one input; whether a standing changed."""
        if done.unserved:
            # Published as one set, but not all of it has come yet.
            raise UnknownVersionError(done.unserved[0])
        if self.silent_us:
            silence(done)
        if done.failures:
            for journey_id, failures in done.failures.items():
                metrics.CRITERIA_FAILED.labels(journey_id).inc(failures)
        self.profile = done.profile
        if done.effects:
            self.out.effects += done.effects
        if done.transitions:
            self.out.transitions += done.transitions
        if not done.standings:
            return False
        for standing_id, standing in done.standings.items():
            if standing is None:
                self.standings.pop(standing_id, None)
            else:
                self.standings[standing_id] = standing
        self.changed = True
        return True

    def finish(self, day: int, oldest_day: int) -> None:
        """Makes what is to be written of what came out."""
        before, profile = self.before, self.profile
        revision, is_new = before.revision + 1, not before.is_stored
        described = profile.attributes is not before.attributes
        attributes = dict(profile.attributes) if described else before.attributes
        seen = before.seen
        if self.event_ids:
            seen, moved = remember_seen(seen, self.event_ids, day, oldest_day)
            self.out.spilled = [(profile.profile_id, event_id) for event_id in moved]
        write = self.out.write = ProfileWrite(
            profile.profile_id,
            revision,
            to_json(attributes) if described or is_new else None,
            profile.time_zone,
            to_json(self.standings),
            to_json(profile.behavior) if profile.behavior is not before.behavior else None,
            to_json(self.recent) if self.recent is not before.recent else None,
            held_in(self.standings),
            # Also when nothing was seen: that the table need not be asked.
            to_json(seen) if self.event_ids or is_new else None,
            is_new=is_new,
        )
        self.out.state = ProfileState(
            profile.profile_id,
            revision,
            attributes,
            profile.time_zone,
            self.standings,
            profile.behavior,
            self.recent,
            0,
            seen,
            # What stays as it was counts as it did.
            max(before.memory, _MEMORY_FOR_ITSELF + _MEMORY_FOR_A_BYTE * write.stored_bytes),
        )


def held_in(standings: Mapping[str, Standing]) -> list[str] | None:
    """The journeys whose pause holds something: a step, an entry, or a wake-up that came meanwhile. None where nothing is held."""
    found = None
    for standing_id, standing in standings.items():
        if _is_held(standing):
            found = found or set()
            found.add(standing_id.partition("/")[0])
    return sorted(found) if found else None


def _is_held(standing: Standing) -> bool:
    enrollment = standing.enrollment
    if standing.remembered is not None:
        return True
    if enrollment is None or not enrollment.is_open:
        return False
    # Time always does something to an open enrollment in the end, unless its clock stands still.
    return enrollment.state is EnrollmentState.HELD or not enrollment.wake_us


def merge(attributes: Mapping[str, Any], arrival: ProfileArrival) -> dict[str, Any]:
    """A profile's attributes after an upsert."""
    return merge_attributes({} if arrival.replace else attributes, arrival.attributes)


def stamp(evaluated: Evaluated, before: ProfileState, now_us: int) -> None:
    """Sets when a profile was written: later than the revision before, whatever replica wrote that and by what clock, so that
    the timeline is in the order of the revisions."""
    assert evaluated.write is not None
    evaluated.write.update_us = evaluated.state.update_us = max(now_us, before.update_us + 1)


def transitions_row(evaluated: Evaluated) -> TimelineRow:
    """The transitions of one revision as a row of the timeline."""
    assert evaluated.write is not None
    return TimelineRow(
        evaluated.state.profile_id,
        evaluated.write.update_us,
        evaluated.write.revision,
        RowKind.TRANSITIONS,
        to_json(evaluated.transitions),
    )


class _NamedTransition(Transition, frozen=True, array_like=False, gc=False):
    """A transition as earlier releases stored it, with the names of its fields."""


_TRANSITIONS = msgspec.json.Decoder(list[Transition])
_NAMED_TRANSITIONS = msgspec.json.Decoder(list[_NamedTransition])


def decode_transitions(entries: str) -> Sequence[Transition]:
    """The stored transitions of one revision, in order."""
    if entries.startswith("[{"):
        return _NAMED_TRANSITIONS.decode(entries)
    return _TRANSITIONS.decode(entries)


def told_id(*facts: str) -> int:
    """The id of a row that tells something: the same facts give the same id, so that telling them twice changes nothing."""
    return int.from_bytes(blake2b("\0".join(facts).encode(), digest_size=8).digest()) >> 1


def _receipt_row(arrival: ReceiptArrival) -> TimelineRow:
    row_id = told_id(arrival.receipt.activation_id, arrival.entry)
    return TimelineRow(arrival.profile_id, arrival.state_us, row_id, RowKind.RECEIPT, arrival.entry)
