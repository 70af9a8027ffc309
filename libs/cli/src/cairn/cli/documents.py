"""Owns definition files: finds them, checks all of them, knows the line of every field, writes a journey back.

Refuses to send anything while one of the files has a violation: all are told at once, with file and line.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from cairn.api.definition.v1.journey_pb2 import Journey
from cairn.cli.failures import CommandError
from cairn.journey.document import Document, read_documents
from cairn.journey.parse import parse_journey
from cairn.runtime.clock import from_duration

STDIN = "-"
_SUFFIXES = (".yaml", ".yml")
_SECOND_US = 1_000_000
_UNITS_US = (
    ("d", 86_400 * _SECOND_US),
    ("h", 3_600 * _SECOND_US),
    ("m", 60 * _SECOND_US),
    ("s", _SECOND_US),
    ("ms", 1_000),
)
_RESOURCES = frozenset({"name", "channel", "template"})
_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Source:
    """One document and where it was written: the file's name, and its root node, which knows the lines."""

    document: Document
    file: str
    node: yaml.Node

    @property
    def name(self) -> str:
        """The document's own id: "abandoned-cart"."""
        return str(getattr(self.document.message, "name", "")).rpartition("/")[2]

    def finding(self, path: str, message: str) -> str:
        """A violation as a line for people: `cart.yaml:7: stages[0].steps[1].wait.duration: is 25 days; ...`."""
        return (
            f"{self.file}:{_line_of(self.node, path)}: {path}: {message}"
            if path
            else f"{self.at()}: {message}"
        )

    def at(self) -> str:
        """Where the document begins: "cart.yaml:1"."""
        return f"{self.file}:{self.document.line}"


def read_sources(files: Iterable[str]) -> list[Source]:
    """The documents of all files, each checked as far as that goes without a server.

    A folder stands for the YAML files in it, `-` for stdin. Raises CommandError with every violation of every file.
    """
    sources: list[Source] = []
    findings: list[str] = []
    for name, text in _texts(files):
        documents, violations = read_documents(text)
        findings += [
            f"{name}:{violation.line}: {violation}" if violation.line else f"{name}: {violation}"
            for violation in violations
        ]
        nodes = _nodes_by_line(text) if documents else {}
        for document in documents:
            source = Source(document, name, nodes[document.line])
            sources.append(source)
            if isinstance(document.message, Journey):
                _, wrong = parse_journey(document.message)
                findings += [source.finding(each.path, each.message) for each in wrong]
    findings += _doubles(sources)
    if findings:
        raise CommandError(f"{_count(findings)}; nothing was sent.", findings)
    return sources


def write_journey(journey: Journey) -> str:
    """A journey as YAML the way people write it; `read_documents` makes the same journey of it."""
    written = {
        name: value
        for name, value in _written(journey).items()
        if journey.DESCRIPTOR.fields_by_name[name].number < 20
    }
    return yaml.safe_dump(written, sort_keys=False, allow_unicode=True, width=110)


def _written(message: Message) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.is_repeated:
            found[field.name] = [_written(each) for each in value]
        elif isinstance(value, Duration):
            found[field.name] = _write_duration(value)
        elif isinstance(value, Message):
            found[field.name] = _written(value)
        elif field.enum_type is not None:
            found[field.name] = _short_enum(
                field.enum_type.values_by_number[value].name, field.enum_type.name
            )
        else:
            found[field.name] = value.rpartition("/")[2] if field.name in _RESOURCES else value
    return found


def _short_enum(value: str, enum: str) -> str:
    """`JOURNEY_TYPE_REAL_TIME` of `JourneyType` is REAL_TIME."""
    return value.removeprefix(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum).upper() + "_")


def _write_duration(duration: Duration) -> str:
    """In the largest unit that leaves no rest: `3h`, `90s`, `500ms`."""
    micros = from_duration(duration)
    for unit, size in _UNITS_US:
        if micros % size == 0:
            return f"{micros // size}{unit}"
    return f"{micros / _SECOND_US:.6f}s"


def _count(findings: Sequence[str]) -> str:
    return "1 thing is wrong" if len(findings) == 1 else f"{len(findings)} things are wrong"


def _texts(files: Iterable[str]) -> Iterable[tuple[str, str]]:
    for given in files:
        if given == STDIN:
            yield "<stdin>", sys.stdin.read()
            continue
        path = Path(given)
        found = (
            sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES) if path.is_dir() else [path]
        )
        if not found:
            raise CommandError(f"{given}: there is no .yaml file in this folder.")
        for each in found:
            try:
                yield str(each), each.read_text(encoding="utf-8")
            except UnicodeDecodeError:
                raise CommandError(f"{each}: is not UTF-8 text.") from None


def _nodes_by_line(text: str) -> dict[int, yaml.Node]:
    return {node.start_mark.line + 1: node for node in yaml.compose_all(text, yaml.SafeLoader)}


def _line_of(node: yaml.Node, path: str) -> int:
    """The line of the deepest field of a path that is written down."""
    line = node.start_mark.line
    for name, index in _PART.findall(path):
        if isinstance(node, yaml.SequenceNode) and index and int(index) < len(node.value):
            node = node.value[int(index)]
            line = node.start_mark.line
        elif isinstance(node, yaml.MappingNode):
            entry = next((pair for pair in node.value if _is_field(pair[0], name)), None)
            if entry is None:
                break
            line, node = entry[0].start_mark.line, entry[1]
        else:
            break
    return line + 1


def _is_field(key: yaml.Node, name: str) -> bool:
    """Whether a key is this field: the contract's name, or its JSON name."""
    written = str(key.value)
    return written == name or re.sub(r"(?<!^)([A-Z])", r"_\1", written).lower() == name


def _doubles(sources: Iterable[Source]) -> list[str]:
    seen: dict[tuple[str, str], Source] = {}
    findings = []
    for source in sources:
        first = seen.setdefault((source.document.kind, source.name), source)
        if first is not source:
            findings.append(
                f"{source.at()}: {source.document.kind} {source.name} is given twice, first at {first.at()}"
            )
    return findings
