"""Owns tables of cases in YAML: how they are written, and what is wrong with one, with its line.

journeys: [abandoned-cart.yaml]        # files beside this one, or a text of journeys
cases:
  - case: one reminder, three hours after the cart
    given: {attributes: {first_name: Ann}}
    steps:
      - when: cart_add
      - after: 3h
      - then:
          - 0s ENTERED cart
          - ...
"""

from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
import yaml

from cairn.journey.live import PauseMode
from cairn.journey.state import Kind
from cairn.journey.times import to_us
from cairn.testing import moments as at
from cairn.testing.cases import Case, Place
from cairn.testing.moments import Moment, duration_us, offset_us
from cairn.testing.story import read_journeys

_GIVEN: Final = ("attributes", "time_zone", "profile_id", "start")


class TableError(ValueError):
    """A table that can't be read: the file, the line, and what would be right."""

    def __init__(self, file: str, line: int, message: str) -> None:
        super().__init__(f"{file}:{line}: {message}")


def read_table(path: Path) -> tuple[Case, ...]:
    """The cases of a table. Raises TableError, OSError."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), yaml.SafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise TableError(
            str(path), mark.line + 1 if mark else 1, f"is not YAML: {getattr(error, 'problem', error)}"
        ) from None
    return tuple(_Table(path).cases(root))


class _Table:
    """Reads one table; every node knows its line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def cases(self, root: yaml.Node | None) -> Iterator[Case]:
        if root is None:
            raise TableError(str(self.path), 1, "is empty; a table has journeys and cases")
        fields = self.fields(root, ("journeys", "given", "only", "cases"), "a table")
        for name in ("journeys", "cases"):
            if name not in fields:
                raise self.wrong(root, f"has no {name}; a table has journeys and cases")
        journeys = self.journeys(fields["journeys"])
        given = self.given(fields["given"]) if "given" in fields else {}
        only = self.only(fields["only"]) if "only" in fields else ()
        for node in self.items(fields["cases"], "cases"):
            yield self.case(node, journeys, given, only)

    def case(self, node: yaml.Node, journeys: str, given: Mapping[str, Any], only: tuple[str, ...]) -> Case:
        fields = self.fields(node, ("case", "given", "only", "steps"), "a case")
        if "case" not in fields or "steps" not in fields:
            raise self.wrong(node, "is no case; one has `case`, what it is in words, and `steps`")
        if "given" in fields:
            own = self.given(fields["given"])
            merged = {**given.get("attributes", {}), **own.get("attributes", {})}
            given = {**given, **own, "attributes": merged}
        moments: list[Moment] = []
        then: list[tuple[str, int]] = []
        expects = False
        for step in self.items(fields["steps"], "steps"):
            ((name, value),) = self.one(step, ("when", "after", "then"), "a step").items()
            if name == "then":
                expects = True
                then += [(str(self.value(each)), _line(each)) for each in self.items(value, "then")]
            elif name == "after":
                moments.append(at.Passes(self.take(value, duration_us)))
            else:
                moments.append(self.moment(value))
        if not expects:
            raise self.wrong(node, "expects nothing; its steps need a `then`, which may be empty: []")
        return Case(
            words=str(self.value(fields["case"])),
            journeys=journeys,
            moments=tuple(moments),
            then=tuple(line for line, _ in then),
            only=self.only(fields["only"]) if "only" in fields else only,
            place=Place(str(self.path), _line(node), tuple(line for _, line in then)),
            **given,
        )

    def moment(self, node: yaml.Node) -> Moment:
        """What follows `when`: the name of an event, or a mapping that says what happens."""
        if isinstance(node, yaml.ScalarNode):
            return at.Event(str(self.value(node)))
        for name, (extra, make) in _MOMENTS.items():
            if isinstance(node, yaml.MappingNode) and any(key.value == name for key, _ in node.value):
                fields = self.fields(node, (name, *extra), f"`when` with {name}")
                values = {each: self.value(value) for each, value in fields.items()}
                if name == "publish":
                    values[name] = self.journeys(fields[name])
                try:
                    return make(values)
                except (ValueError, KeyError, TypeError) as error:
                    raise self.wrong(node, f"is no {name}: {error}") from None
        raise self.wrong(
            node, f"does nothing that is known; `when` takes an event's name, or one of {', '.join(_MOMENTS)}"
        )

    def journeys(self, node: yaml.Node) -> str:
        """The text of journeys: given as text, or as a list of files beside the table."""
        value = self.value(node)
        if isinstance(value, list):
            try:
                value = "\n---\n".join(
                    (self.path.parent / str(each)).read_text(encoding="utf-8") for each in value
                )
            except OSError as error:
                raise self.wrong(node, f"can't be read: {error}") from None
        if not isinstance(value, str):
            raise self.wrong(node, "is neither a text of journeys nor a list of files")
        try:
            read_journeys(value)
        except ValueError as error:
            raise self.wrong(node, str(error)) from None
        return value

    def given(self, node: yaml.Node) -> dict[str, Any]:
        values = {name: self.value(value) for name, value in self.fields(node, _GIVEN, "`given`").items()}
        if not isinstance(values.get("attributes", {}), dict):
            raise self.wrong(node, "has attributes that are no mapping")
        if "start" in values:
            start = values.pop("start")
            try:
                values["start_us"] = to_us(start.isoformat() if isinstance(start, datetime) else str(start))
            except (ValueError, TypeError):
                raise self.wrong(node, f'has the start {start!r}; one is "2026-01-01T00:00:00Z"') from None
        return values

    def only(self, node: yaml.Node) -> tuple[str, ...]:
        names = tuple(str(self.value(each)) for each in self.items(node, "only"))
        for name in names:
            if name not in Kind.__members__:
                raise self.wrong(
                    node,
                    f"names {name}, which is no kind of transition; there are {', '.join(Kind.__members__)}",
                )
        return names

    # Nodes

    def fields(self, node: yaml.Node, known: tuple[str, ...], what: str) -> dict[str, yaml.Node]:
        if not isinstance(node, yaml.MappingNode):
            raise self.wrong(node, f"is no mapping; {what} has {', '.join(known)}")
        found = {}
        for key, value in node.value:
            name = str(key.value)
            if name not in known:
                raise self.wrong(key, f"{name} is unknown; {what} has {', '.join(known)}")
            if name in found:
                raise self.wrong(key, f"{name} is given twice")
            found[name] = value
        return found

    def one(self, node: yaml.Node, known: tuple[str, ...], what: str) -> dict[str, yaml.Node]:
        fields = self.fields(node, known, what)
        if len(fields) != 1:
            raise self.wrong(
                node, f"has {' and '.join(fields) or 'nothing'}; {what} has one of {', '.join(known)}"
            )
        return fields

    def items(self, node: yaml.Node, what: str) -> list[yaml.Node]:
        if not isinstance(node, yaml.SequenceNode):
            raise self.wrong(node, f"is no list; {what} is one")
        return list(node.value)

    def value(self, node: yaml.Node) -> Any:
        """A node as Python has it."""
        loader = yaml.SafeLoader("")
        try:
            return loader.construct_object(node, deep=True)
        except yaml.YAMLError as error:
            raise self.wrong(node, str(error)) from None
        finally:
            loader.dispose()

    def take(self, node: yaml.Node, read: Callable[[str], int]) -> int:
        try:
            return read(str(self.value(node)))
        except ValueError as error:
            raise self.wrong(node, str(error)) from None

    def wrong(self, node: yaml.Node, message: str) -> TableError:
        return TableError(str(self.path), _line(node), message)


def _line(node: yaml.Node) -> int:
    return int(node.start_mark.line) + 1


def _event(values: Mapping[str, Any]) -> Moment:
    properties = msgspec.convert(values.get("properties", {}), dict[str, Any])
    return at.Event(str(values["event"]), _at(values), properties, str(values.get("event_id", "")))


def _change(values: Mapping[str, Any]) -> Moment:
    attributes = msgspec.convert(values["profile"] or {}, dict[str, Any])
    return at.Change(_at(values), attributes, str(values.get("time_zone", "")))


def _pause(values: Mapping[str, Any]) -> Moment:
    mode = str(values.get("mode", "FREEZE"))
    if mode not in PauseMode.__members__:
        raise ValueError(f"the mode is {mode}; it is one of {', '.join(PauseMode.__members__)}")
    return at.Pause(PauseMode[mode], str(values["pause"] or ""))


def _at(values: Mapping[str, Any]) -> int | None:
    return offset_us(str(values["at"])) if "at" in values else None


_MOMENTS: Final[Mapping[str, tuple[tuple[str, ...], Callable[[Mapping[str, Any]], Moment]]]] = {
    "event": (("at", "properties", "event_id"), _event),
    "profile": (("at", "time_zone"), _change),
    "run": (("at",), lambda values: at.Run(_at(values), str(values["run"] or ""))),
    "receipt": ((), lambda values: at.Receipt(str(values["receipt"]))),
    "alarm": ((), lambda values: at.Alarm(bool(values["alarm"]))),
    "publish": ((), lambda values: at.Publish(values["publish"])),
    "pause": (("mode",), _pause),
    "resume": ((), lambda values: at.Resume(str(values["resume"] or ""))),
    "end": (("remove",), lambda values: at.End(bool(values.get("remove", False)), str(values["end"] or ""))),
}
"""What can happen: the fields beside its name, and how it is made of the values of all."""
