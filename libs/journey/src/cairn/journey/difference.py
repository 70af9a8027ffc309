"""Owns what changed between two journeys, element by element, and how a value of a journey is written in YAML.

Stages, steps, branches and variants are known again by their ids and names, exits by theirs; what moved is told once and not
as removed and added.
"""

import enum
import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import yaml
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey import limits
from cairn.journey.walk import step_ways

_UNITS_US: Final = (
    ("d", limits.DAY_US),
    ("h", limits.HOUR_US),
    ("m", limits.MINUTE_US),
    ("s", limits.SECOND_US),
    ("ms", 1_000),
)
_RESOURCES: Final = frozenset({"name", "channel", "template", "journey"})
_OUTPUT_ONLY: Final = 20
"""Fields from this number on are the service's own."""
_INNER: Final = frozenset({pb.Stage.DESCRIPTOR, pb.Step.DESCRIPTOR, pb.ExitCriterion.DESCRIPTOR})
"""What is an element of its own, and no part of the one that holds it."""

_Key = tuple[str, str]
"""The element, and the part of it: ("step active/1", "decision.branches[big]"); "" for the whole."""


class DifferenceKind(enum.IntEnum):
    """What happened to an element; the numbers are the contract's."""

    ADDED = 1
    REMOVED = 2
    CHANGED = 3
    MOVED = 4


@dataclass(frozen=True, slots=True)
class Difference:
    """One difference. `element` is `journey`, `stage cart`, `step cart/2`, `exit closed`, `exit cart/idle` (of a stage), `segment vip`.

    `field` is the field that differs, as `wait.duration` or `decision.branches[big].criteria`, "" for the whole element. `before`
    and `after` are as YAML writes them, "" where there is none; of what MOVED they are its places: `cart/2`, or a number from 1.
    """

    kind: DifferenceKind
    element: str
    field: str = ""
    before: str = ""
    after: str = ""


def diff_journeys(before: pb.Journey, after: pb.Journey) -> tuple[Difference, ...]:
    """What changed, in the order of `after`; what is gone comes behind what stood before it. Empty only if nothing did.

    Both journeys have to be valid; what only the service writes (state, etag, times) is not compared.
    """
    old = {element.key: element for element in _elements(before)}
    new = {element.key: element for element in _elements(after)}
    gone = _gone_behind(old, new)
    moved = _moved(old, new)
    found = [
        _whole(DifferenceKind.REMOVED, old[key]) for key in gone.get(None, ()) if _is_told(key, old, new)
    ]
    for key, element in new.items():
        if _is_told(key, old, new):
            if key in old:
                found += _changes(old[key], element)
            else:
                found.append(_whole(DifferenceKind.ADDED, element))
            if key in moved:
                place = old[key].place
                found.append(Difference(DifferenceKind.MOVED, *key, before=place, after=element.place))
        found += [
            _whole(DifferenceKind.REMOVED, old[each])
            for each in gone.get(key, ())
            if _is_told(each, old, new)
        ]
    return tuple(found)


def written(message: Message, *, inner: bool = True) -> dict[str, Any]:
    """A message as the mapping that YAML writes for it: durations as `3h`, enums without prefix, resources by their ids.

    Without `inner` the stages, steps and exits that it holds are left out.
    """
    found: dict[str, Any] = {}
    for descriptor, value in _given(message):
        if descriptor.message_type in _INNER and descriptor.is_repeated and not inner:
            continue
        if descriptor.message_type is not None and descriptor.message_type.GetOptions().map_entry:
            found[descriptor.name] = dict(sorted(value.items()))
        elif descriptor.is_repeated:
            found[descriptor.name] = [_written_value(descriptor, each, inner) for each in value]
        else:
            found[descriptor.name] = _written_value(descriptor, value, inner)
    return found


@dataclass(frozen=True, slots=True)
class _Element:
    """Something that can be added, removed, changed and moved. `owner` is what it is a part of, `home` what lists it."""

    key: _Key
    home: str
    place: str
    message: Message
    kind: str = ""
    owner: _Key | None = None
    fields: Mapping[str, str] = field(default_factory=dict)


def _elements(journey: pb.Journey) -> Iterator[_Element]:
    yield _Element(("journey", ""), "", "", journey, fields=_fields(journey, skip=()))
    yield from _exits("exit ", journey.exit_criteria)
    for number, stage in enumerate(journey.stages, start=1):
        yield _Element((f"stage {stage.name}", ""), "stages", str(number), stage, fields=_fields(stage))
        yield from _exits(f"exit {stage.name}/", stage.exit_criteria)
        yield from _steps(stage.steps, stage.name)


def _exits(prefix: str, exits: Sequence[pb.ExitCriterion]) -> Iterator[_Element]:
    for number, exit in enumerate(exits, start=1):
        yield _Element((prefix + exit.name, ""), prefix, str(number), exit, fields=_fields(exit))


def _steps(steps: Sequence[pb.Step], prefix: str) -> Iterator[_Element]:
    for number, step in enumerate(steps, start=1):
        place = f"{prefix}/{number}"
        step_id = step.name or place
        key = (f"step {step_id}", "")
        kind = step.WhichOneof("kind") or ""
        yield _Element(key, f"steps {prefix}", place, step, kind, fields=_fields(step))
        yield from _ways(key, "decision.branches", step.decision.branches)
        yield from _ways(key, "experiment.variants", step.experiment.variants)
        for _, way, inner in step_ways("", step):
            yield from _steps(inner, f"{step_id}/{way}")


def _ways(owner: _Key, path: str, ways: Sequence[pb.Branch | pb.Variant]) -> Iterator[_Element]:
    for number, way in enumerate(ways, start=1):
        key = (owner[0], f"{path}[{way.name}]")
        yield _Element(key, f"{owner[0]} {path}", str(number), way, owner=owner, fields=_fields(way))


def _is_told(key: _Key, old: Mapping[_Key, _Element], new: Mapping[_Key, _Element]) -> bool:
    """Whether an element is more than a part of one that is told as a whole."""
    owner = (new.get(key) or old[key]).owner
    return owner is None or (owner in old and owner in new and old[owner].kind == new[owner].kind)


def _gone_behind(old: Mapping[_Key, _Element], new: Mapping[_Key, _Element]) -> dict[_Key | None, list[_Key]]:
    """What is gone, by the element that is still there and stood before it."""
    gone: dict[_Key | None, list[_Key]] = {}
    last: _Key | None = None
    for key in old:
        if key in new:
            last = key
        else:
            gone.setdefault(last, []).append(key)
    return gone


def _moved(old: Mapping[_Key, _Element], new: Mapping[_Key, _Element]) -> set[_Key]:
    """What is listed elsewhere now, and as few as possible of those whose order among the others changed."""
    moved: set[_Key] = set()
    ranks = {key: rank for rank, key in enumerate(old)}
    homes: dict[str, list[_Key]] = {}
    for key, element in new.items():
        if key in old:
            if old[key].home == element.home:
                homes.setdefault(element.home, []).append(key)
            else:
                moved.add(key)
    for keys in homes.values():
        kept = _longest_rise([ranks[key] for key in keys])
        moved.update(key for key in keys if ranks[key] not in kept)
    return moved


def _longest_rise(ranks: Sequence[int]) -> set[int]:
    """The members of a longest subsequence that rises."""
    tails: list[int] = []
    before: dict[int, int | None] = {}
    for rank in ranks:
        place = bisect_left(tails, rank)
        before[rank] = tails[place - 1] if place else None
        tails[place : place + 1] = [rank]
    kept: set[int] = set()
    last = tails[-1] if tails else None
    while last is not None:
        kept.add(last)
        last = before[last]
    return kept


def _whole(kind: DifferenceKind, element: _Element) -> Difference:
    text = _flow(element.message)
    if kind is DifferenceKind.ADDED:
        return Difference(kind, *element.key, after=text)
    return Difference(kind, *element.key, before=text)


def _changes(old: _Element, new: _Element) -> Iterator[Difference]:
    element, part = new.key
    if old.kind != new.kind:
        yield Difference(DifferenceKind.CHANGED, element, part, _flow(old.message), _flow(new.message))
        return
    for path in dict.fromkeys((*new.fields, *old.fields)):
        if old.fields.get(path) != new.fields.get(path):
            whole_path = f"{part}.{path}" if part else path
            before, after = old.fields.get(path, ""), new.fields.get(path, "")
            yield Difference(DifferenceKind.CHANGED, element, whole_path, before, after)


def _fields(message: Message, path: str = "", skip: Sequence[str] = ("name",)) -> dict[str, str]:
    """The values of a message by path; what is an element or a part of its own is left out."""
    found: dict[str, str] = {}
    for descriptor, value in _given(message):
        place = path + descriptor.name
        if descriptor.name in skip or descriptor.number >= _OUTPUT_ONLY:
            continue
        if descriptor.is_repeated:
            if descriptor.message_type is None:
                found[place] = f"[{', '.join(_text(descriptor, each) for each in value)}]"
        elif isinstance(value, Message) and not isinstance(value, Duration | Timestamp):
            found |= _fields(value, f"{place}.", skip=()) or {place: "{}"}
        else:
            found[place] = _text(descriptor, value)
    return found


def _flow(message: Message) -> str:
    """A message on one line of YAML, without its name and what it holds."""
    own = {name: value for name, value in written(message, inner=False).items() if name != "name"}
    text = yaml.safe_dump(own, default_flow_style=True, sort_keys=False, allow_unicode=True, width=1 << 30)
    line = str(text).strip()
    return line[1:-1] if len(own) == 1 else line


def _given(message: Message) -> list[tuple[FieldDescriptor, Any]]:
    """The fields that are set, in the order of the contract. A variant's percentage is always said: 0 switches it off."""
    given = list(message.ListFields())
    if isinstance(message, pb.Variant) and not message.percent:
        given.append((pb.Variant.DESCRIPTOR.fields_by_name["percent"], 0))
        given.sort(key=lambda pair: pair[0].number)
    return given


def _written_value(descriptor: FieldDescriptor, value: Any, inner: bool) -> Any:
    if isinstance(value, Duration):
        return _duration(value)
    if isinstance(value, Timestamp):
        return value.ToJsonString()
    if isinstance(value, Struct):
        return json_format.MessageToDict(value)
    if isinstance(value, Message):
        return written(value, inner=inner)
    if isinstance(value, bytes):
        return json.loads(value)
    if descriptor.enum_type is not None:
        return _short_enum(descriptor, value)
    return value.rpartition("/")[2] if descriptor.name in _RESOURCES else value


def _text(descriptor: FieldDescriptor, value: Any) -> str:
    plain = _written_value(descriptor, value, inner=False)
    return str(plain).lower() if isinstance(plain, bool) else str(plain)


def _short_enum(descriptor: FieldDescriptor, number: int) -> Any:
    """`JOURNEY_TYPE_REAL_TIME` of `JourneyType` is REAL_TIME; a number without a name stays one."""
    enumeration = descriptor.enum_type
    assert enumeration is not None
    known = enumeration.values_by_number.get(number)
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enumeration.name).upper() + "_"
    return known.name.removeprefix(prefix) if known else number


def _duration(duration: Duration) -> str:
    """In the largest unit that leaves no rest: `3h`, `90s`, `500ms`."""
    micros = duration.seconds * limits.SECOND_US + duration.nanos // 1_000
    for unit, size in _UNITS_US:
        if micros % size == 0:
            return f"{micros // size}{unit}"
    return f"{micros / limits.SECOND_US:.6f}s"
