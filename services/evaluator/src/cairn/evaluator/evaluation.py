"""Owns what a batch does to one profile: runs the machine over its arrivals, in order. No I/O, no clock."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import msgspec
import structlog

from cairn.evaluator import metrics
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.inputs import (
    Arrival,
    EventArrival,
    LifeArrival,
    ProfileArrival,
    ReceiptArrival,
    Result,
    TimerArrival,
)
from cairn.evaluator.recent import RecentInput, remember
from cairn.evaluator.store import ProfileRow, ProfileWrite, RowKind, TimelineRow, to_json
from cairn.evaluator.wire import MAX_ITEM_BYTES, Refused, too_large_profile
from cairn.journey.behavior import Track, Tracks
from cairn.journey.dispatch import Dispatched, dispatch_event, dispatch_profile, dispatch_to
from cairn.journey.machine import UnknownVersionError
from cairn.journey.state import (
    Effect,
    EnrollmentState,
    Profile,
    Standing,
    Transition,
    merge_attributes,
    same_json,
)

log = structlog.get_logger()

_STANDINGS = msgspec.json.Decoder(dict[str, Standing])
_OBJECT = msgspec.json.Decoder(dict[str, Any])
_TRACKS = msgspec.json.Decoder(dict[str, Track])
_RECENT = msgspec.json.Decoder(tuple[RecentInput, ...])


@dataclass(slots=True)
class ProfileState:
    """A profile in memory. `revision` is the stored one; 0 when there is no such profile. `standings` are by their ids,
    `recent` are the last events that reached a journey and changed nothing in it."""

    profile_id: str
    revision: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)
    time_zone: str = ""
    standings: dict[str, Standing] = field(default_factory=dict)
    behavior: Tracks = field(default_factory=dict)
    recent: tuple[RecentInput, ...] = ()
    update_us: int = 0
    """When it was stored; 0 when it never was."""


def decode_profile(row: ProfileRow) -> ProfileState:
    """A stored profile."""
    return ProfileState(
        row.profile_id,
        row.revision,
        _OBJECT.decode(row.attributes),
        row.time_zone,
        _STANDINGS.decode(row.standings),
        _TRACKS.decode(row.behavior) if row.behavior else {},
        _RECENT.decode(row.recent) if row.recent else (),
        row.update_us,
    )


def decode_standings(text: str) -> dict[str, Standing]:
    """Stored standings by their ids."""
    return _STANDINGS.decode(text)


@dataclass(slots=True)
class Evaluated:
    """What came of a profile's arrivals. `state` is the profile afterwards, with the revision it will have if `write` wins;
    `write` is None when nothing is to be stored. `results` has one for each arrival; `effects` come with their standing's id."""

    state: ProfileState
    results: list[Result | Refused]
    write: ProfileWrite | None = None
    event_ids: list[tuple[str, str]] = field(default_factory=list)
    effects: list[tuple[str, Sequence[Effect]]] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    receipts: list[TimelineRow] = field(default_factory=list)


def evaluate(
    book: JourneyBook, state: ProfileState, arrivals: Sequence[Arrival], seen: set[tuple[str, str]]
) -> Evaluated:
    """Runs a profile's arrivals in order. `state` is left as it is; `seen` holds (profile_id, event_id) pairs that were
    acted on before. A failure of the machine is the result of its arrival alone."""
    return _Evaluation(book, state).run(arrivals, seen)


class _Evaluation:
    """One profile in one batch. Copies what it changes."""

    def __init__(self, book: JourneyBook, state: ProfileState) -> None:
        self.live = book.live
        self.before = state
        self.standings = dict(state.standings)
        self.recent = state.recent
        self.profile = Profile(state.profile_id, state.attributes, state.time_zone, state.behavior)
        self.changed = False
        self.out = Evaluated(state, [])

    def run(self, arrivals: Sequence[Arrival], seen: set[tuple[str, str]]) -> Evaluated:
        profile_id = self.before.profile_id
        for arrival in arrivals:
            if isinstance(arrival, EventArrival):
                pair = (profile_id, arrival.event.event_id)
                if pair in seen:
                    self.out.results.append(Result.DUPLICATE)
                    continue
            result = self.one(arrival)
            if result is Result.ACTED_ON and isinstance(arrival, EventArrival):
                seen.add((profile_id, arrival.event.event_id))
            self.out.results.append(result)
        if self.changed:
            self.finish()
        return self.out

    def one(self, arrival: Arrival) -> Result | Refused:
        """One arrival, all or nothing: the machine works on copies, so that a failure leaves nothing behind."""
        try:
            return self.take(arrival)
        except UnknownVersionError:
            return Result.LATER
        except Refused as refusal:
            return refusal
        except Exception as error:
            metrics.INPUTS_FAILED.inc()
            log.error("machine_failed", input=type(arrival).__name__, exc_info=error)
            return Result.FAILED

    def take(self, arrival: Arrival) -> Result:
        match arrival:
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

    def take_event(self, arrival: EventArrival) -> Result:
        done = dispatch_event(self.live, self.profile, self.standings, arrival.event)
        self.apply(done)
        for journey_id in done.quiet:
            self.recent = remember(self.recent, journey_id, arrival.event)
        self.out.event_ids.append((arrival.profile_id, arrival.event.event_id))
        self.changed = True
        return Result.ACTED_ON

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

    def take_profile(self, arrival: ProfileArrival) -> Result:
        before = self.profile
        attributes = merge(before.attributes, arrival)
        time_zone = arrival.time_zone or before.time_zone
        if (
            same_json(attributes, before.attributes)
            and time_zone == before.time_zone
            and self.before.revision
        ):
            return Result.ACTED_ON
        size = len(msgspec.json.encode(attributes)) + len(arrival.profile_id)
        if size > MAX_ITEM_BYTES:
            raise too_large_profile(size)
        after = Profile(arrival.profile_id, attributes, time_zone, before.behavior)
        self.apply(dispatch_profile(self.live, before, after, self.standings, arrival.arrival_us))
        self.changed = True
        return Result.ACTED_ON

    def dispatch_to(self, standing_id: str, input: Any) -> bool:
        """Runs the machine for one standing; whether anything changed."""
        return self.apply(dispatch_to(self.live, self.profile, self.standings, standing_id, input))

    def apply(self, done: Dispatched) -> bool:
        """Takes over what came of one input; whether a standing changed."""
        if done.unserved:
            # Published as one set, but not all of it has come yet.
            raise UnknownVersionError(done.unserved[0])
        for journey_id, failures in done.failures.items():
            metrics.CRITERIA_FAILED.labels(journey_id).inc(failures)
        self.profile = done.profile
        self.out.effects += [each for each in done.effects if each[1]]
        self.out.transitions += done.transitions
        for standing_id, standing in done.standings.items():
            if standing is None:
                self.standings.pop(standing_id, None)
            else:
                self.standings[standing_id] = standing
        if done.standings:
            self.changed = True
        return bool(done.standings)

    def finish(self) -> None:
        before, profile = self.before, self.profile
        revision = before.revision + 1
        attributes = dict(profile.attributes)
        described = profile.attributes is not before.attributes
        self.out.write = ProfileWrite(
            profile.profile_id,
            revision,
            to_json(attributes) if described or revision == 1 else None,
            profile.time_zone,
            to_json(self.standings),
            to_json(profile.behavior) if profile.behavior is not before.behavior else None,
            to_json(self.recent) if self.recent is not before.recent else None,
            held_in(self.standings),
        )
        self.out.state = ProfileState(
            profile.profile_id,
            revision,
            attributes if described else before.attributes,
            profile.time_zone,
            self.standings,
            profile.behavior,
            self.recent,
        )


def held_in(standings: Mapping[str, Standing]) -> list[str] | None:
    """The journeys whose pause holds something: a step, an entry, or a wake-up that came meanwhile. None where nothing is held."""
    found = {
        standing_id.partition("/")[0] for standing_id, standing in standings.items() if _is_held(standing)
    }
    return sorted(found) or None


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


def told_id(*facts: str) -> int:
    """The id of a row that tells something: the same facts give the same id, so that telling them twice changes nothing."""
    return int.from_bytes(blake2b("\0".join(facts).encode(), digest_size=8).digest()) >> 1


def _receipt_row(arrival: ReceiptArrival) -> TimelineRow:
    row_id = told_id(arrival.receipt.activation_id, arrival.entry)
    return TimelineRow(arrival.profile_id, arrival.state_us, row_id, RowKind.RECEIPT, arrival.entry)
