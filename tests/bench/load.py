"""Owns the load: which events a workload sends, as requests that are serialized before the clock starts.

The time of a batch's events is written into its bytes as it leaves, so that what a producer costs is neither the events' age nor
in the way of what is measured.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from cairn.api.evaluator.v1 import evaluator_pb2 as pb

# Both numbers take five bytes on the wire, as does any time of this century if the nanoseconds are padded.
_SECONDS, _NANOS = 1_234_567_890, 987_654_321


@dataclass(frozen=True)
class Phase:
    """Events of one kind, sent one after the other: for each place `first`, `first + step`, ... below `end` one event `name` of the profile
    of that place, and `noise` events before it that concern no journey.

    Their time is when they leave, or, `together`, when the first leaves. `rate` is events a second, 0 as fast as they are taken. `unary` sends one
    event a call; `window` calls, or batches of each of `streams`, are under way.
    """

    name: str
    end: int
    first: int = 0
    step: int = 1
    noise: int = 0
    batch: int = 500
    window: int = 16
    rate: float = 0.0
    together: bool = False
    streams: int = 1
    unary: bool = False
    round: int = 0
    prefix: str = "p"

    @property
    def places(self) -> range:
        """The places of its profiles."""
        return range(self.first, self.end, self.step)

    def to_json(self) -> dict[str, Any]:
        """For the way to the producer."""
        return asdict(self)


@dataclass(slots=True)
class Batch:
    """One request: its bytes with a stand-in for the time, and which places it holds (first and count)."""

    template: bytes
    first: int
    count: int
    events: int

    def at(self, time_us: int) -> bytes:
        """The request with all its events at one time."""
        return self.template.replace(_MARK, _time_bytes(time_us))


def batches(phase: Phase, revision: int) -> Iterator[Batch]:
    """The requests of a phase, in order; in a stream they are numbered from 0."""
    places = phase.places
    per_batch = max(1, phase.batch // (1 + phase.noise)) if not phase.unary else 1
    for number, start in enumerate(range(0, len(places), per_batch)):
        chunk = places[start : start + per_batch]
        events = [event for place in chunk for event in _events(phase, place)]
        message: pb.StreamEventsRequest | pb.IngestEventsRequest
        if phase.unary:
            message = pb.IngestEventsRequest(events=events, min_revision=revision)
        else:
            message = pb.StreamEventsRequest(sequence=number, events=events, min_revision=revision)
        yield Batch(message.SerializeToString(), chunk[0], len(chunk), len(events))


def profile_of(prefix: str, place: int) -> str:
    """The profile of a place."""
    return f"{prefix}-{place:07d}"


def _events(phase: Phase, place: int) -> Iterator[pb.Event]:
    profile_id = profile_of(phase.prefix, place)
    for number in range(phase.noise):
        yield _event(
            f"{profile_id}-{phase.round}-v{number}-{phase.name}",
            profile_id,
            "page_view",
            {"page": "/tents/4"},
        )
    properties = (
        {"product": f"tent-{place % 97}", "price": 129.0}
        if phase.name == "cart_add"
        else {"order": f"o-{place}"}
    )
    yield _event(f"{profile_id}-{phase.round}-{phase.name}", profile_id, phase.name, properties)


def _event(event_id: str, profile_id: str, name: str, properties: dict[str, Any]) -> pb.Event:
    event = pb.Event(event_id=event_id, profile_id=profile_id, name=name)
    event.occur_time.seconds, event.occur_time.nanos = _SECONDS, _NANOS
    event.properties.update(properties)
    return event


def _time_bytes(time_us: int) -> bytes:
    seconds, micros = divmod(time_us, 1_000_000)
    return b"\x08" + _padded(seconds) + b"\x10" + _padded(micros * 1_000)


def _padded(value: int) -> bytes:
    """A varint of five bytes, whatever the number."""
    return bytes((value >> (7 * place) & 0x7F) | (0x80 if place < 4 else 0) for place in range(5))


_MARK = b"\x08" + _padded(_SECONDS) + b"\x10" + _padded(_NANOS)
