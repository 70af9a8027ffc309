"""Owns what a batch does to one profile: runs the machine over its arrivals, in order. No I/O, no clock."""

from collections.abc import Sequence
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
    ProfileArrival,
    ReceiptArrival,
    Result,
    TimerArrival,
)
from cairn.evaluator.store import ProfileRow, ProfileWrite, RowKind, TimelineRow, to_json
from cairn.evaluator.wire import MAX_ITEM_BYTES, Refused, too_large_profile
from cairn.journey.machine import UnknownVersionError, advance
from cairn.journey.plan import LiveJourney
from cairn.journey.state import Effect, Input, Profile, ProfileInput, Standing, Transition

log = structlog.get_logger()

_STANDINGS = msgspec.json.Decoder(dict[str, Standing])
_OBJECT = msgspec.json.Decoder(dict[str, Any])


@dataclass(slots=True)
class ProfileState:
    """A profile in memory. `revision` is the stored one; 0 when there is no such profile."""

    profile_id: str
    revision: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)
    time_zone: str = ""
    standings: dict[str, Standing] = field(default_factory=dict)


def decode_profile(row: ProfileRow) -> ProfileState:
    """A stored profile."""
    return ProfileState(
        row.profile_id,
        row.revision,
        _OBJECT.decode(row.attributes),
        row.time_zone,
        _STANDINGS.decode(row.standings),
    )


def decode_standings(text: str) -> dict[str, Standing]:
    """Stored standings by the id of their journey."""
    return _STANDINGS.decode(text)


@dataclass(slots=True)
class Evaluated:
    """What came of a profile's arrivals. `state` is the profile afterwards, with the revision it will have if `write` wins;
    `write` is None when nothing is to be stored. `results` has one for each arrival."""

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
        self.book = book
        self.before = state
        self.attributes = state.attributes
        self.time_zone = state.time_zone
        self.standings = dict(state.standings)
        self.profile = Profile(state.profile_id, state.attributes)
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
        """One arrival, all or nothing: what a failure left behind is taken back."""
        standings, effects, transitions = (
            dict(self.standings),
            len(self.out.effects),
            len(self.out.transitions),
        )
        try:
            return self.take(arrival)
        except UnknownVersionError:
            result: Result | Refused = Result.LATER
        except Refused as refusal:
            result = refusal
        except Exception as error:
            metrics.INPUTS_FAILED.inc()
            log.error("machine_failed", input=type(arrival).__name__, exc_info=error)
            result = Result.FAILED
        self.standings = standings
        del self.out.effects[effects:], self.out.transitions[transitions:]
        return result

    def take(self, arrival: Arrival) -> Result:
        match arrival:
            case EventArrival():
                for journey in self.book.concerned_by_event(arrival.event.view["name"]):
                    self.advance(journey, arrival.event)
                self.out.event_ids.append((arrival.profile_id, arrival.event.event_id))
                self.changed = True
                return Result.ACTED_ON
            case TimerArrival():
                return self.take_timer(arrival)
            case ReceiptArrival():
                return self.take_receipt(arrival)
            case ProfileArrival():
                return self.take_profile(arrival)

    def take_timer(self, arrival: TimerArrival) -> Result:
        if arrival.journey_id not in self.standings:
            return Result.STALE
        journey = self.book.get(arrival.journey_id)
        if journey is None:
            raise UnknownVersionError(arrival.journey_id)
        return Result.ACTED_ON if self.advance(journey, arrival.timer) else Result.STALE

    def take_receipt(self, arrival: ReceiptArrival) -> Result:
        self.out.receipts.append(_receipt_row(arrival))
        for journey_id, standing in self.standings.items():
            enrollment = standing.enrollment
            if enrollment is not None and enrollment.enrollment_id == arrival.enrollment_id:
                journey = self.book.get(journey_id)
                if journey is None:
                    raise UnknownVersionError(journey_id)
                return Result.ACTED_ON if self.advance(journey, arrival.receipt) else Result.STALE
        return Result.STALE

    def take_profile(self, arrival: ProfileArrival) -> Result:
        attributes = merge(self.attributes, arrival)
        time_zone = arrival.time_zone or self.time_zone
        if attributes == self.attributes and time_zone == self.time_zone and self.before.revision:
            return Result.ACTED_ON
        size = len(msgspec.json.encode(attributes)) + len(arrival.profile_id)
        if size > MAX_ITEM_BYTES:
            raise too_large_profile(size)
        before = self.attributes, self.time_zone, self.profile
        self.attributes, self.time_zone = attributes, time_zone
        self.profile = Profile(arrival.profile_id, attributes)
        try:
            for journey in self.concerned():
                self.advance(journey, ProfileInput(arrival.arrival_us, before[0]))
        except Exception:
            self.attributes, self.time_zone, self.profile = before
            raise
        self.changed = True
        return Result.ACTED_ON

    def concerned(self) -> list[LiveJourney]:
        """The journeys that a change of this profile reaches: those that it is in, and those that it could begin."""
        journeys = {journey.journey_id: journey for journey in self.book.concerned_by_profile()}
        for journey_id, standing in self.standings.items():
            if standing.enrollment is not None and standing.enrollment.is_open:
                journey = self.book.get(journey_id)
                if journey is None:
                    raise UnknownVersionError(journey_id)
                journeys[journey_id] = journey
        return list(journeys.values())

    def advance(self, journey: LiveJourney, input: Input) -> bool:
        """Runs the machine; whether anything changed."""
        journey_id = journey.journey_id
        standing = self.standings.get(journey_id) or Standing()
        outcome = advance(journey, self.profile, standing, input)
        if outcome.failures:
            metrics.CRITERIA_FAILED.labels(journey_id).inc(outcome.failures)
        if outcome.effects:
            self.out.effects.append((journey_id, outcome.effects))
        self.out.transitions += outcome.transitions
        if outcome.standing is standing:
            return False
        self.standings[journey_id] = outcome.standing
        self.changed = True
        return True

    def finish(self) -> None:
        revision = self.before.revision + 1
        profile_id = self.before.profile_id
        described = self.attributes is not self.before.attributes
        self.out.write = ProfileWrite(
            profile_id,
            revision,
            to_json(self.attributes) if described or revision == 1 else None,
            self.time_zone,
            to_json(self.standings),
        )
        self.out.state = ProfileState(profile_id, revision, self.attributes, self.time_zone, self.standings)


def merge(attributes: dict[str, Any], arrival: ProfileArrival) -> dict[str, Any]:
    """A profile's attributes after an upsert."""
    merged = {} if arrival.replace else dict(attributes)
    for name, value in arrival.attributes.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = value
    return merged


def transitions_row(evaluated: Evaluated, record_us: int) -> TimelineRow:
    """The transitions of one revision as a row of the timeline."""
    assert evaluated.write is not None
    return TimelineRow(
        evaluated.state.profile_id,
        record_us,
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
