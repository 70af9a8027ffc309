"""Owns what a segment is: its canonical form, its etag, what is wrong with it and with what it names. Pure.

Refuses to know where a segment is stored, and what its criteria mean: that is `cairn.rules`.
"""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from cairn.api.definition.v1.journey_pb2 import Segment
from cairn.journey import limits
from cairn.journey.difference import Difference, DifferenceKind
from cairn.journey.violations import Violation
from cairn.journey.walk import full_name
from cairn.rules import CriteriaError, Problem, Scope, compile_criteria

MAX_SEGMENTS = 64
"""Segments that one journey or one segment may use, those counted that they name: a version holds them all."""


@dataclass(frozen=True, slots=True)
class SegmentDraft:
    """A segment in canonical form: full resource name, nothing that only we write, nothing unknown to us.

    Equal content gives equal `document` bytes and an equal `etag`. `names` are the segments that its criteria name, by id and
    in order; `problems` what is wrong with the criteria, and then it names none.
    """

    segment_id: str
    segment: Segment
    document: bytes
    etag: str
    names: tuple[str, ...]
    problems: tuple[Problem, ...]


def segment_draft_of(given: Segment) -> SegmentDraft:
    """The canonical form of what a caller gave; a name that is malformed stays as it is."""
    segment = Segment()
    segment.CopyFrom(given)
    segment.DiscardUnknownFields()
    segment.ClearField("etag")
    segment.ClearField("update_time")
    segment.name = full_name("segments", segment.name)
    document = segment.SerializeToString(deterministic=True)
    names: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    try:
        names = tuple(sorted(compile_criteria(segment.criteria, Scope.SEGMENT).segments))
    except CriteriaError as error:
        problems = error.problems
    return SegmentDraft(
        segment.name.removeprefix("segments/"),
        segment,
        document,
        hashlib.sha256(document).hexdigest()[:32],
        names,
        problems,
    )


def segment_violations(draft: SegmentDraft) -> list[Violation]:
    """All that is wrong with a segment in itself."""
    found = []
    segment = draft.segment
    if segment.name != f"segments/{draft.segment_id}" or not limits.ID_PATTERN.fullmatch(draft.segment_id):
        rule = f"has to be segments/{{id}}; an id has {limits.ID_RULE}"
        found.append(Violation("name", rule))
    if not segment.criteria:
        rule = "is missing; write a condition on the profile, for example profile.spent > 1000.0"
        found.append(Violation("criteria", rule))
    else:
        for problem in draft.problems:
            text = f"line {problem.line}, column {problem.column}: {problem.message}"
            found.append(Violation("criteria", text))
    if (length := len(segment.description)) > limits.MAX_DESCRIPTION:
        text = f"has {length:,} characters; it may have {limits.MAX_DESCRIPTION:,}"
        found.append(Violation("description", text))
    return found


def naming_violations(draft: SegmentDraft, others: Mapping[str, Collection[str]]) -> list[Violation]:
    """What is wrong with the segments that one names. `others` are those that exist, by id, with what each of them names."""
    graph = {**others, draft.segment_id: draft.names}
    found = [
        Violation("criteria", f"names the segment '{name}', which does not exist; put that one first")
        for name in draft.names
        if name not in graph
    ]
    if ring := ring_through(draft.segment_id, graph):
        text = f"goes round: {' > '.join(ring)}; a segment may not lead back to itself"
        found.append(Violation("criteria", text))
    elif (count := len(named_through(draft.names, graph))) > MAX_SEGMENTS:
        text = f"uses {count} segments, those counted that they name; at most {MAX_SEGMENTS} are allowed"
        found.append(Violation("criteria", text))
    return found


def ring_through(segment_id: str, graph: Mapping[str, Collection[str]]) -> tuple[str, ...]:
    """A shortest way from a segment back to itself, it first and last; empty when there is none."""
    before: dict[str, str] = {}
    queue = [segment_id]
    for place in queue:
        for name in sorted(graph.get(place, ())):
            if name == segment_id:
                way = [name, place]
                while way[-1] != segment_id:
                    way.append(before[way[-1]])
                return tuple(reversed(way))
            if name not in before:
                before[name] = place
                queue.append(name)
    return ()


def named_through(names: Collection[str], graph: Mapping[str, Collection[str]]) -> list[str]:
    """These segments and all that they name, through however many others, as far as they are in the graph; in order of id."""
    found: set[str] = set()
    waiting = set(names)
    while waiting:
        name = waiting.pop()
        if name in graph and name not in found:
            found.add(name)
            waiting.update(graph[name])
    return sorted(found)


def diff_segments(before: Sequence[Segment], after: Sequence[Segment]) -> list[Difference]:
    """What changed from some segments to others, by name."""
    old = {segment.name: segment for segment in before}
    new = {segment.name: segment for segment in after}
    found = []
    for name in sorted(old.keys() | new.keys()):
        element = f"segment {name.removeprefix('segments/')}"
        if name not in old:
            found.append(Difference(DifferenceKind.ADDED, element, after=new[name].criteria))
        elif name not in new:
            found.append(Difference(DifferenceKind.REMOVED, element, before=old[name].criteria))
        else:
            pairs = (
                ("criteria", old[name].criteria, new[name].criteria),
                ("description", old[name].description, new[name].description),
            )
            found += [
                Difference(DifferenceKind.CHANGED, element, field, was, now)
                for field, was, now in pairs
                if was != now
            ]
    return found
