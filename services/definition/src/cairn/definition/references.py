"""Owns the look around a set of journeys: the segments and the other journeys that they name, as they are in Postgres.

What is wrong with what they name is for `cairn.journey.references` to say.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cairn.api.definition.v1.journey_pb2 import Journey, JourneyType, Segment
from cairn.definition import store, store_segments
from cairn.definition.packing import pack_segments
from cairn.definition.store_segments import SegmentRow
from cairn.journey.askable import unaskable_segments
from cairn.journey.limits import ID_PATTERN
from cairn.journey.references import check_references, segments_of, targets_of
from cairn.journey.segments import MAX_SEGMENTS, named_through
from cairn.runtime.errors import FieldViolation


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What some journeys name, as far as it exists and through however many others, by id."""

    journeys: Mapping[str, Journey]
    """Newest versions of other journeys that are live or paused."""

    segments: Mapping[str, SegmentRow]

    def segments_of(self, journey: Journey) -> list[SegmentRow]:
        """The segments that a journey uses, those that they name among them, in order of id."""
        graph = {segment_id: row.names for segment_id, row in self.segments.items()}
        return [self.segments[one] for one in named_through(segments_of(journey), graph)]

    def pack_segments(self, journey: Journey) -> bytes:
        """The segments that a journey uses, as a version keeps them."""
        return pack_segments([row.document for row in self.segments_of(journey)])


async def read_surroundings(database: store.Database, journeys: Mapping[str, Journey]) -> Surroundings:
    """What these journeys name. They themselves are not among it."""
    names = {name for journey in journeys.values() for name in segments_of(journey)}
    segments = await store_segments.get_segments_with_named(database, names) if names else {}
    found: dict[str, Journey] = {}
    seen = set(journeys)
    wanted = _targets(journeys.values()) - seen
    while wanted:
        # What can't be an id does not exist, and Postgres may not even take it as text.
        ids = sorted(one for one in wanted if ID_PATTERN.fullmatch(one))
        rows = await store.get_serving_versions(database, ids)
        fresh = {journey_id: Journey.FromString(row.document) for journey_id, row in rows.items()}
        found |= fresh
        seen |= wanted
        wanted = _targets(fresh.values()) - seen
    return Surroundings(found, segments)


def reference_violations(
    journeys: Mapping[str, Journey], known: Mapping[str, Journey], surroundings: Surroundings
) -> dict[str, list[FieldViolation]]:
    """What is wrong with what the journeys of a set name, by the id of the one that names it; `known` are others than the surroundings."""
    told = check_references(journeys, {**surroundings.journeys, **known}, surroundings.segments.keys())
    found = {
        journey_id: [FieldViolation(one.path, one.message) for one in told[journey_id]]
        for journey_id in journeys
    }
    for journey_id, journey in journeys.items():
        used = surroundings.segments_of(journey)
        sources = {row.segment_id: Segment.FromString(row.document).criteria for row in used}
        found[journey_id] += [
            FieldViolation(one.path, one.message) for one in unaskable_segments(journey, sources)
        ]
        if (count := len(used)) > MAX_SEGMENTS:
            text = (
                f"the journey uses {count} segments, those counted that they name; it may use {MAX_SEGMENTS}"
            )
            found[journey_id].append(FieldViolation("", text))
    return found


def type_violations(journey: Journey, newest: bytes) -> list[FieldViolation]:
    """What is wrong with a journey's type beside the document of its newest version: open enrollments go by that one."""
    kept = Journey.FromString(newest).type
    if kept == journey.type:
        return []
    name = JourneyType.Name(kept).removeprefix("JOURNEY_TYPE_")
    text = f"is another one than that of the published versions, {name}, which some may still be in; take another name for another type"
    return [FieldViolation("type", text)]


def _targets(journeys: Iterable[Journey]) -> set[str]:
    return {target.journey_id for journey in journeys for target in targets_of(journey)}
