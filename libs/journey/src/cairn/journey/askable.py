"""Owns whether a run can ask Postgres for a criteria: what of it SQL can't express is told when a batch journey is saved.

What a segment's criteria are is known only where segments are: that is told when the journey is published.
"""

from collections.abc import Mapping
from typing import Final

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey.segments import named_through
from cairn.journey.violations import Violation
from cairn.journey.walk import walk_criteria
from cairn.rules import Criteria, CriteriaError, Scope, SqlNames, SqlUnsupported, compile_criteria, to_sql

_ANY_NAMES: Final = SqlNames(attributes="attributes", behavior="behavior", now_us="now_us")


def unaskable(criteria: Criteria) -> list[str]:
    """What of a criteria SQL can't express, each with its place and what to write instead; its segments are not looked into."""
    try:
        to_sql(criteria, {}, _ANY_NAMES)
    except SqlUnsupported as error:
        return [f"line {each.line}, column {each.column}: {each.message}" for each in error.problems]
    return []


def unaskable_segments(message: pb.Journey, segments: Mapping[str, str]) -> list[Violation]:
    """The segments of a batch journey that SQL can't express, at each criteria that uses them, through however many others.

    `segments` are the sources of segments' criteria by id, as far as they are known. Empty for a real-time journey.
    """
    if message.type != pb.JOURNEY_TYPE_BATCH:
        return []
    graph: dict[str, frozenset[str]] = {}
    wrong: dict[str, str] = {}
    for name, source in segments.items():
        try:
            criteria = compile_criteria(source, Scope.SEGMENT)
        except CriteriaError:
            continue
        graph[name] = criteria.segments
        if found := unaskable(criteria):
            wrong[name] = found[0]
    told = []
    for path, source in walk_criteria(message) if wrong else ():
        try:
            names = compile_criteria(source, Scope.SEGMENT).segments
        except CriteriaError:
            continue
        for name in named_through(names, graph):
            if name in wrong:
                text = (
                    f"uses the segment {name!r}, for which no run of a BATCH journey can ask: {wrong[name]}"
                )
                told.append(Violation(path, text))
    return told
