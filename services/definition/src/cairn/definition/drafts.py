"""Owns what a draft is: its canonical form, its etag, how a change merges into it, what is wrong with it. Pure.

Refuses to know where a draft is stored, and what a journey does: that is `cairn.journey`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cairn.api.activation.v1.activation_pb2 import Destination
from cairn.api.definition.v1.journey_pb2 import Journey
from cairn.journey.parse import parse_journey
from cairn.journey.walk import full_name, walk_steps
from cairn.runtime.errors import FieldViolation

OUTPUT_ONLY = ("state", "etag", "latest_version", "create_time", "update_time", "pause")
"""Fields of Journey that only we write; a caller's are ignored."""

MAX_DRAFT_BYTES = 128 * 1024
"""Far above what any journey within the limits needs; it keeps each page of documents sendable."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A journey in canonical form: full resource names, nothing that only we write, nothing unknown to us.

    Equal content gives equal `document` bytes and an equal `etag`.
    """

    journey_id: str
    journey: Journey
    document: bytes
    etag: str


@dataclass(frozen=True, slots=True)
class NamedDestination:
    """A destination that a journey names, and the path of the activation that names it."""

    path: str
    destination: Destination


def draft_of(given: Journey) -> Draft:
    """The canonical form of what a caller or the store gave; names that are malformed stay as they are."""
    journey = Journey()
    journey.CopyFrom(given)
    journey.DiscardUnknownFields()
    for field in OUTPUT_ONLY:
        journey.ClearField(field)  # type: ignore[arg-type]
    journey.name = full_name("journeys", journey.name)
    if journey.goal.HasField("target"):
        journey.goal.target.journey = full_name("journeys", journey.goal.target.journey)
    for _, step in walk_steps(journey):
        if step.HasField("activation"):
            step.activation.channel = full_name("connections", step.activation.channel)
            step.activation.template = full_name("templates", step.activation.template)
        elif step.HasField("jump"):
            step.jump.journey = full_name("journeys", step.jump.journey)
    document = journey.SerializeToString(deterministic=True)
    etag = hashlib.sha256(document).hexdigest()[:32]
    return Draft(journey.name.removeprefix("journeys/"), journey, document, etag)


def merge(stored: Journey, given: Journey, paths: Sequence[str]) -> Journey:
    """The stored journey with the top-level fields in `paths` as given, cleared where they are not given.

    No paths at all means every field. The name and what is output only never change.
    """
    if not paths:
        return given
    merged = Journey()
    merged.CopyFrom(stored)
    part = Journey()
    part.CopyFrom(given)
    for field in Journey.DESCRIPTOR.fields:
        chosen = field.name in paths and field.name != "name"
        (merged if chosen else part).ClearField(field.name)  # type: ignore[arg-type]
    merged.MergeFrom(part)
    return merged


def mask_violations(paths: Sequence[str]) -> tuple[FieldViolation, ...]:
    """What is wrong with an update mask: only the top-level fields of a journey can be in it."""
    known = Journey.DESCRIPTOR.fields_by_name
    return tuple(
        FieldViolation(
            f"update_mask.paths[{index}]",
            f"'{path}' is no top-level field of a journey; they are {', '.join(known)}",
        )
        for index, path in enumerate(paths)
        if path not in known
    )


def draft_violations(draft: Draft) -> tuple[FieldViolation, ...]:
    """All that is wrong with a draft in itself, each with its path in the journey."""
    found = [FieldViolation(one.path, one.message) for one in parse_journey(draft.journey)[1]]
    if len(draft.document) > MAX_DRAFT_BYTES:
        found.append(
            FieldViolation(
                "",
                f"the journey has {len(draft.document):,} bytes; it may have {MAX_DRAFT_BYTES:,}",
            )
        )
    return tuple(found)


def destinations_of(draft: Draft, violations: Sequence[FieldViolation] = ()) -> tuple[NamedDestination, ...]:
    """The destinations that a draft names, without those of activations that `violations` speak of already."""
    named = []
    for place, step in walk_steps(draft.journey):
        path = f"{place}.activation"
        if step.HasField("activation") and not any(one.field.startswith(path) for one in violations):
            activation = step.activation
            destination = Destination(
                connection=activation.channel, template=activation.template, action=activation.action
            )
            named.append(NamedDestination(path, destination))
    return tuple(named)
