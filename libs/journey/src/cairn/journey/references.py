"""Owns what journeys say of each other and of segments: whether what is named exists, and whether jumps could go round for ever.

A step takes time for sure only if it is a wait for a duration, or the timeout of a wait for a condition, of a minute at least. All
others may be over at once or nearly so: a loop that has none but those could turn endlessly in one instant, or a thousand times a second.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey import limits
from cairn.journey.violations import Violation
from cairn.journey.walk import short_name, step_ways, walk_criteria, walk_steps
from cairn.rules import CriteriaError, Scope, compile_criteria

_Place = tuple[str, str]
"""A journey's id and the name of one of its stages."""


@dataclass(frozen=True, slots=True)
class NamedTarget:
    """A stage of a journey that another one names: the path of the field that names it, the journey, the stage ("" for the first)."""

    path: str
    journey_id: str
    stage: str


def targets_of(message: pb.Journey) -> Iterator[NamedTarget]:
    """What a journey's goal and jumps lead to."""
    if message.goal.HasField("target"):
        target = message.goal.target
        yield NamedTarget("goal.target", short_name("journeys", target.journey), target.stage)
    for path, step in walk_steps(message):
        if step.WhichOneof("kind") == "jump":
            yield NamedTarget(f"{path}.jump", short_name("journeys", step.jump.journey), step.jump.stage)


def segments_of(message: pb.Journey) -> frozenset[str]:
    """The ids of the segments that a journey's criteria name; criteria that can't be compiled name none."""
    return frozenset(name for _, name in _named_segments(message))


def check_references(
    journeys: Mapping[str, pb.Journey],
    known: Mapping[str, pb.Journey] | None,
    segments: Collection[str] | None,
) -> dict[str, list[Violation]]:
    """What is wrong with what a set of journeys names, by the id of the journey that names it; all journeys of the set are keys.

    `known` are the other journeys that are live, `segments` the ids of those that exist; None: whatever is named is taken
    to exist. What a journey says of itself is not looked at: `parse_journey` tells it.
    """
    found: dict[str, list[Violation]] = {}
    everything = {**(known or {}), **journeys}
    rings = _Rings(everything)
    for journey_id, message in journeys.items():
        found[journey_id] = [
            *_missing_targets(journey_id, message, everything, known is None),
            *rings.violations(journey_id),
        ]
        if segments is not None:
            for path, name in _named_segments(message):
                if name not in segments:
                    text = (
                        f"names the segment {name!r}, which does not exist; put it first, or see ListSegments"
                    )
                    found[journey_id].append(Violation(path, text))
    return found


def loops_in(message: pb.Journey) -> list[Violation]:
    """The jumps of one journey to itself that could go round without a wait."""
    journey_id = short_name("journeys", message.name)
    return _Rings({journey_id: message}).violations(journey_id, alone=True)


def _missing_targets(
    journey_id: str, message: pb.Journey, everything: Mapping[str, pb.Journey], taken_to_exist: bool
) -> Iterator[Violation]:
    for target in targets_of(message):
        if target.journey_id in ("", journey_id):
            continue
        other = everything.get(target.journey_id)
        if other is None:
            if not taken_to_exist:
                text = f"names the journey {target.journey_id!r}, which is not live; publish it before, or together with this one"
                yield Violation(f"{target.path}.journey", text)
        elif target.stage and target.stage not in (names := [stage.name for stage in other.stages]):
            text = f"names the stage {target.stage!r}, which {target.journey_id} does not have; there are {', '.join(names)}"
            yield Violation(f"{target.path}.stage", text)


def _named_segments(message: pb.Journey) -> Iterator[tuple[str, str]]:
    for path, source in walk_criteria(message):
        try:
            criteria = compile_criteria(source, Scope.ENTRY if path.endswith(".entry") else Scope.ENROLLMENT)
        except CriteriaError:
            continue
        for name in sorted(criteria.segments):
            yield path, name


class _Rings:
    """The jumps that can follow each other without time in between, and which of them go round."""

    def __init__(self, journeys: Mapping[str, pb.Journey]) -> None:
        self._journeys = journeys
        self._edges: dict[_Place, list[tuple[str, _Place]]] = {}
        for journey_id, message in journeys.items():
            for index, stage in enumerate(message.stages):
                jumps, _ = _at_once(f"stages[{index}].steps", stage.steps)
                self._edges[journey_id, stage.name] = [(path, self._place(jump)) for path, jump in jumps]

    def violations(self, journey_id: str, *, alone: bool = False) -> list[Violation]:
        """The jumps of a journey that lie on a ring, one inside the journey if `alone`, else one with others."""
        found: dict[str, Violation] = {}
        for stage in self._journeys[journey_id].stages:
            source = journey_id, stage.name
            for path, target in self._edges[source]:
                ring = self._way(target, source, alone)
                if ring and (alone or any(place[0] != journey_id for place in ring)):
                    way = " > ".join("/".join(place) for place in (source, *ring))
                    text = f"could go round without a wait: {way}; put a wait of 1m or more in between"
                    found.setdefault(path, Violation(path, text))
        return list(found.values())

    def _place(self, jump: pb.Jump) -> _Place:
        journey_id = short_name("journeys", jump.journey)
        message = self._journeys.get(journey_id)
        first = message.stages[0].name if message and message.stages else ""
        return journey_id, jump.stage or first

    def _way(self, start: _Place, goal: _Place, alone: bool) -> list[_Place]:
        """A shortest way of jumps from a place to another, both included; empty when there is none."""
        before: dict[_Place, _Place | None] = {start: None}
        queue = [start]
        for place in queue:
            if place == goal:
                way = [place]
                while (previous := before[way[-1]]) is not None:
                    way.append(previous)
                return way[::-1]
            for _, target in self._edges.get(place, ()):
                if target not in before and not (alone and target[0] != goal[0]):
                    before[target] = place
                    queue.append(target)
        return []


def _takes_time(duration: Duration) -> bool:
    return duration.seconds * limits.SECOND_US >= limits.MIN_LOOP_US


def _at_once(path: str, steps: Sequence[pb.Step]) -> tuple[list[tuple[str, pb.Jump]], bool]:
    """The jumps that can be reached from the beginning of some steps in no time, and whether their end can."""
    jumps: list[tuple[str, pb.Jump]] = []
    for index, step in enumerate(steps):
        place = f"{path}[{index}]"
        match step.WhichOneof("kind"):
            case "jump":
                return [*jumps, (f"{place}.jump", step.jump)], False
            case "end":
                return jumps, False
            case "wait" if step.wait.HasField("duration"):
                if _takes_time(step.wait.duration):
                    return jumps, False
            case "wait" if not step.wait.condition:
                continue
            case "wait" | "decision" | "experiment":
                through = False
                for inner_path, way, inner in step_ways(place, step):
                    if way == "timed_out" and _takes_time(step.wait.timeout):
                        continue
                    found, falls = _at_once(inner_path, inner)
                    jumps += found
                    through |= falls
                if not through:
                    return jumps, False
            case _:
                continue
    return jumps, True
