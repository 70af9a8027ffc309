"""Owns the way from YAML to the contract's messages, by their descriptors: the messages are the only schema there is.

Field names are the contract's (its JSON names are taken too), a duration may be written as people write it (`90s`, `3h`,
`24d`), an enum without its prefix. Whatever is wrong is told with its line, all at once.
"""

import difflib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import yaml
from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from cairn.api.activation.v1 import activation_pb2
from cairn.api.definition.v1 import journey_pb2
from cairn.journey.parse import parse_journey
from cairn.journey.violations import Violation

MAX_DOCUMENT_BYTES: Final = 1 << 20
_MAX_NODES: Final = 50_000
_MAX_DEPTH: Final = 64

_WRAPPERS: Final[dict[str, type[Message]]] = {
    "connection": activation_pb2.Connection,
    "policy": activation_pb2.SendingPolicy,
    "segment": journey_pb2.Segment,
    "template": activation_pb2.Template,
}
_UNITS_US: Final = {
    "ms": 1_000,
    "s": 1_000_000,
    "m": 60_000_000,
    "h": 3_600_000_000,
    "d": 86_400_000_000,
    "w": 604_800_000_000,
}
_DURATION: Final = re.compile(r"(?:\d{1,12}(?:\.\d{1,6})?(?:ms|s|m|h|d|w))+", re.ASCII)
_DURATION_PART: Final = re.compile(r"(\d+)(?:\.(\d+))?(ms|s|m|h|d|w)", re.ASCII)
_INTEGERS: Final = {FieldDescriptor.CPPTYPE_INT32, FieldDescriptor.CPPTYPE_INT64}
_CLASSES: Final = {yaml.MappingNode: "a mapping", yaml.SequenceNode: "a list", yaml.ScalarNode: "a value"}


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a file: a journey bare; a connection, a policy, a segment or a template under a key of that name.

    `line` is its first.
    """

    kind: str
    message: Message
    line: int


def read_documents(text: str) -> tuple[tuple[Document, ...], tuple[Violation, ...]]:
    """The documents of a YAML text, and everything that is wrong with it. Documents with a violation are left out."""
    if len(text) > MAX_DOCUMENT_BYTES:
        return (), (
            Violation("", f"is {len(text)} characters long; a file has at most {MAX_DOCUMENT_BYTES}", 1),
        )
    documents: list[Document] = []
    violations: list[Violation] = []
    try:
        for node in _compose(text):
            reader = _Reader()
            document = reader.document(node)
            if document is not None and not reader.violations:
                documents.append(document)
            elif document is not None:
                reader.look_further(document)
            violations += reader.violations
    except yaml.YAMLError as error:
        violations.append(_yaml_violation(error))
    except (RecursionError, ValueError, OverflowError) as error:
        # The last two: PyYAML's own scanner on an absurd escape or version, as "\\UFFFFFFFF".
        message = "is nested too deep" if isinstance(error, RecursionError) else "is not YAML"
        violations.append(Violation("", message, 1))
    return tuple(documents), tuple(violations)


def parse_duration_us(text: str) -> int | None:
    """`90s`, `1h30m`, `24d`, `0.5s` as microseconds; None when it is no duration."""
    if not _DURATION.fullmatch(text):
        return None
    total = 0
    for whole, fraction, unit in _DURATION_PART.findall(text):
        scale = _UNITS_US[unit]
        total += int(whole) * scale + int(fraction.ljust(6, "0") if fraction else 0) * scale // 1_000_000
    return total


def _compose(text: str) -> Iterator[yaml.Node]:
    """The documents as nodes, which know their lines; empty documents are passed over."""
    loader = yaml.SafeLoader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            if node is not None and node.tag != "tag:yaml.org,2002:null":
                yield node
    finally:
        loader.dispose()


def _yaml_violation(error: yaml.YAMLError) -> Violation:
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or "holds characters that YAML does not allow"
    return Violation("", f"is not YAML: {problem}", mark.line + 1 if mark else 1)


class _Reader:
    """Reads one document and notes what is wrong with it."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.lines: dict[str, int] = {}
        self.meant: list[str] = []
        self.nodes = 0

    def look_further(self, document: Document) -> None:
        """Adds what else is wrong with a journey that could be read in part, so that one round of mending is enough."""
        if not isinstance(document.message, journey_pb2.Journey):
            return
        unread = (*self.meant, *(violation.path for violation in self.violations if violation.path))
        for found in parse_journey(document.message)[1]:
            # What could not be read is not missing: it was told already.
            if not any(_is_part(found.path, path) or _is_part(path, found.path) for path in unread):
                line = self.line_of(found.path) or document.line
                self.violations.append(Violation(found.path, found.message, line))

    def line_of(self, path: str) -> int:
        """The line of a field, or of what it would stand in; 0 when neither was read."""
        while path and path not in self.lines:
            path = path[: max(path.rfind("."), path.rfind("["), 0)]
        return self.lines.get(path, 0)

    def wrong(self, path: str, node: yaml.Node, message: str) -> None:
        self.violations.append(Violation(path, message, node.start_mark.line + 1))

    def document(self, node: yaml.Node) -> Document | None:
        line = node.start_mark.line + 1
        if not isinstance(node, yaml.MappingNode):
            self.wrong(
                "", node, f"is {_CLASSES[type(node)]}; a document is a mapping with name, type and stages"
            )
            return None
        if len(node.value) == 1:
            key, value = node.value[0]
            if isinstance(key, yaml.ScalarNode) and key.value in _WRAPPERS:
                wrapped = _WRAPPERS[key.value]()
                self.message(value, wrapped, key.value, 1)
                return Document(key.value, wrapped, line)
        message = journey_pb2.Journey()
        self.message(node, message, "", 1)
        return Document("journey", message, line)

    def message(self, node: yaml.Node, message: Message, path: str, depth: int) -> None:
        if isinstance(node, yaml.ScalarNode) and node.tag.endswith(":null"):
            return
        if not isinstance(node, yaml.MappingNode):
            self.wrong(
                path, node, f"is {_CLASSES[type(node)]}; it is a mapping with {_fields(message.DESCRIPTOR)}"
            )
            return
        seen: set[str] = set()
        for key_node, value in node.value:
            if not self.enough(value, path, depth):
                return
            field = self.field(key_node, message.DESCRIPTOR, path)
            if field is None:
                continue
            place = f"{path}.{field.name}" if path else field.name
            self.lines.setdefault(place, key_node.start_mark.line + 1)
            oneof = field.containing_oneof
            chosen = message.WhichOneof(oneof.name) if oneof is not None else None
            if field.name in seen:
                self.wrong(place, key_node, "is given twice")
            elif chosen is not None and oneof is not None:
                self.wrong(
                    place, key_node, f"is given beside {chosen}; only one of {_names(oneof.fields)} can be"
                )
            else:
                self.value(value, message, field, place, depth + 1)
            seen.add(field.name)

    def enough(self, node: yaml.Node, path: str, depth: int) -> bool:
        """Whether reading may go on: aliases can make a small text endless."""
        self.nodes += 1
        if self.nodes == _MAX_NODES:
            self.wrong(path, node, f"holds more than {_MAX_NODES} values")
        elif depth > _MAX_DEPTH:
            self.wrong(path, node, "is nested too deep")
        return self.nodes < _MAX_NODES and depth <= _MAX_DEPTH

    def field(self, key: yaml.Node, descriptor: Any, path: str) -> FieldDescriptor | None:
        name = key.value if isinstance(key, yaml.ScalarNode) else ""
        if not _is_text(name):
            self.wrong(path, key, "holds a lone surrogate, which is no text")
            return None
        field: FieldDescriptor | None = descriptor.fields_by_name.get(
            name
        ) or descriptor.fields_by_camelcase_name.get(name)
        if field is None:
            # Cut: a few aliases of a long key would make what is said of it endless.
            name = name if len(name) <= 80 else name[:77] + "..."
            near = difflib.get_close_matches(name, descriptor.fields_by_name, n=1)
            self.meant += [f"{path}.{each}" if path else each for each in near]
            hint = f"did you mean {near[0]}?" if near else f"known here: {_fields(descriptor)}"
            self.wrong(f"{path}.{name}" if path else name, key, f"is no field; {hint}")
        return field

    def value(self, node: yaml.Node, message: Message, field: FieldDescriptor, path: str, depth: int) -> None:
        entry = field.message_type
        if entry is not None and entry.GetOptions().map_entry:
            self.mapping(node, getattr(message, field.name), path)
        elif field.is_repeated:
            self.repeated(node, getattr(message, field.name), field, path, depth)
        elif entry is None:
            value = (
                self.json(node, path, depth)
                if field.type == FieldDescriptor.TYPE_BYTES
                else self.scalar(node, field, path)
            )
            if value is not None:
                setattr(message, field.name, value)
        else:
            child = getattr(message, field.name)
            child.SetInParent()
            self.child(node, child, path, depth)

    def child(self, node: yaml.Node, child: Message, path: str, depth: int) -> None:
        match child.DESCRIPTOR.full_name:
            case "google.protobuf.Duration":
                self.duration(node, child, path)
            case "google.protobuf.Timestamp":
                self.timestamp(node, child, path)
            case "google.protobuf.Struct":
                value = self.plain(node, path, depth)
                if isinstance(value, dict):
                    child.update(value)  # type: ignore[attr-defined]  # a Struct by its name
                else:
                    self.wrong(path, node, f"is {_CLASSES[type(node)]}; it is a mapping")
            case _:
                self.message(node, child, path, depth)

    def repeated(self, node: yaml.Node, target: Any, field: FieldDescriptor, path: str, depth: int) -> None:
        if not isinstance(node, yaml.SequenceNode):
            self.wrong(path, node, f"is {_CLASSES[type(node)]}; it is a list")
            return
        for index, item in enumerate(node.value):
            place = f"{path}[{index}]"
            if not self.enough(item, place, depth):
                return
            self.lines[place] = item.start_mark.line + 1
            if field.message_type is not None:
                self.child(item, target.add(), place, depth + 1)
            elif (value := self.scalar(item, field, place)) is not None:
                target.append(value)

    def mapping(self, node: yaml.Node, target: Any, path: str) -> None:
        """A map from text to text, the one kind of map that the contract has."""
        if not isinstance(node, yaml.MappingNode):
            self.wrong(path, node, f"is {_CLASSES[type(node)]}; it is a mapping of names to texts")
            return
        for key, value in node.value:
            if not (isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)):
                self.wrong(path, value, "is nested; it is a mapping of names to texts")
            elif not (_is_text(key.value) and _is_text(value.value)):
                self.wrong(path, value, "holds a lone surrogate, which is no text")
            else:
                target[key.value] = value.value

    def json(self, node: yaml.Node, path: str, depth: int) -> bytes | None:
        """A field that holds a JSON object: written as a mapping."""
        value = self.plain(node, path, depth)
        if isinstance(value, dict):
            return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
        if value is not None:
            self.wrong(path, node, f"is {_CLASSES[type(node)]}; it is a mapping")
        return None

    def plain(self, node: yaml.Node, path: str, depth: int) -> Any:
        """What a JSON document would hold: mappings, lists, texts, numbers, truth. What JSON has no word for stays the text it is."""
        if not self.enough(node, path, depth):
            return None
        if isinstance(node, yaml.MappingNode):
            return {
                self.plain_text(key, path): self.plain(value, path, depth + 1) for key, value in node.value
            }
        if isinstance(node, yaml.SequenceNode):
            return [self.plain(each, path, depth + 1) for each in node.value]
        match str(node.tag).rpartition(":")[2]:
            case "null":
                return None
            case "bool":
                return node.value.lower() in {"true", "yes", "on"}
            case "int" if re.fullmatch(r"-?(0|[1-9]\d{0,17})", node.value):
                return int(node.value)
            case "float" if re.fullmatch(r"-?\d{1,18}\.\d{1,18}", node.value):
                return float(node.value)
        return self.plain_text(node, path)

    def plain_text(self, node: yaml.Node, path: str) -> str:
        if not isinstance(node, yaml.ScalarNode):
            self.wrong(path, node, f"has {_CLASSES[type(node)]} for a name; a name is a text")
            return ""
        if not _is_text(node.value):
            self.wrong(path, node, "holds a lone surrogate, which is no text")
            return ""
        return str(node.value)

    def scalar(self, node: yaml.Node, field: FieldDescriptor, path: str) -> str | int | bool | None:
        if not isinstance(node, yaml.ScalarNode):
            self.wrong(path, node, f"is {_CLASSES[type(node)]}; it is a single value")
            return None
        if node.tag.endswith(":null"):
            return None
        if field.enum_type is not None:
            return self.enum(node, field.enum_type, path)
        if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
            return self.text(node, path)
        if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
            if node.tag.endswith(":bool"):
                return node.value.lower() in {"true", "yes", "on"}
            self.wrong(path, node, f"is {node.value[:80]!r}; it is true or false")
            return None
        return self.integer(node, field, path)

    def text(self, node: yaml.ScalarNode, path: str) -> str | None:
        if not node.tag.endswith(":str") and node.style is None and not node.tag.endswith(":bool"):
            self.wrong(
                path, node, f"is {node.value[:80]!r}, which YAML does not read as text; put it in quotes"
            )
            return None
        if not _is_text(node.value):
            self.wrong(path, node, "holds a lone surrogate, which is no text")
            return None
        return str(node.value)

    def integer(self, node: yaml.ScalarNode, field: FieldDescriptor, path: str) -> int | None:
        bits = 31 if field.cpp_type == FieldDescriptor.CPPTYPE_INT32 else 63
        if field.cpp_type in _INTEGERS and re.fullmatch(r"-?\d{1,18}", node.value):
            value = int(node.value)
            if -(1 << bits) <= value < 1 << bits:
                return value
        self.wrong(path, node, f"is {node.value[:80]!r}; it is a whole number")
        return None

    def enum(self, node: yaml.ScalarNode, enum: EnumDescriptor, path: str) -> int | None:
        prefix = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.name).upper() + "_"
        names = {value.name.removeprefix(prefix): value.number for value in enum.values if value.number}
        name = str(node.value).removeprefix(prefix)
        if name not in names:
            self.wrong(path, node, f"is {node.value[:80]!r}; it is one of {', '.join(names)}")
            return None
        return names[name]

    def duration(self, node: yaml.Node, target: Any, path: str) -> None:
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        value = parse_duration_us(text)
        if value is None or value >= 315_576_000_000 * 1_000_000:
            self.wrong(path, node, f"is {str(text)[:80]!r}; a duration is written as 90s, 3h, 1h30m or 24d")
            return
        target.seconds, micros = divmod(value, 1_000_000)
        target.nanos = micros * 1_000

    def timestamp(self, node: yaml.Node, target: Any, path: str) -> None:
        text = node.value if isinstance(node, yaml.ScalarNode) else ""
        try:
            moment = datetime.fromisoformat(text)
            if moment.tzinfo is None:
                raise ValueError(text)
            target.FromDatetime(moment)
        except (ValueError, OverflowError):
            self.wrong(path, node, f"is {str(text)[:80]!r}; a moment is written as 2027-01-31T09:00:00Z")


def _is_part(path: str, whole: str) -> bool:
    """Whether a path is another, or lies inside it."""
    return path == whole or path.startswith((f"{whole}.", f"{whole}["))


def _is_text(value: str) -> bool:
    """Whether a value can be written as UTF-8: an escape in quotes may hold a lone surrogate."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names(fields: Any) -> str:
    return ", ".join(field.name for field in fields)


def _fields(descriptor: Any) -> str:
    return _names(descriptor.fields)
