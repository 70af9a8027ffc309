"""Owns definition files: finds them, checks all of them, knows the line of every field, writes documents back.

Refuses to send anything while one of the files has a violation: all are told at once, with file and line.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from google.protobuf.message import Message

from cairn.api.activation.v1.activation_pb2 import Template
from cairn.api.definition.v1.journey_pb2 import Journey, Segment
from cairn.cli.failures import CommandError
from cairn.journey.askable import unaskable_segments
from cairn.journey.difference import written
from cairn.journey.document import Document, read_documents
from cairn.journey.parse import parse_journey
from cairn.journey.references import check_references
from cairn.journey.segments import SegmentDraft, ring_through, segment_draft_of, segment_violations

STDIN = "-"
_SUFFIXES = (".yaml", ".yml")
_PART = re.compile(r"([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, slots=True)
class Source:
    """One document and where it was written: the file's name, and its root node, which knows the lines."""

    document: Document
    file: str
    node: yaml.Node

    @property
    def name(self) -> str:
        """The document's own id: "abandoned-cart"; of the policy, which has none, its kind."""
        return str(getattr(self.document.message, "name", self.document.kind)).rpartition("/")[2]

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

    Journeys and segments are checked against each other; what is not in the files is taken to exist. A folder stands for
    the YAML files in it, `-` for stdin. Raises CommandError with every violation of every file.
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
    findings += _wrong_references(sources)
    findings += _wrong_segments(sources)
    findings += _doubles(sources)
    if findings:
        raise CommandError(f"{_count(findings)}; nothing was sent.", findings)
    return sources


def write_journey(journey: Journey) -> str:
    """A journey as YAML the way people write it; `read_documents` makes the same journey of it."""
    return _dump(_without_output(journey))


def write_document(kind: str, message: Message) -> str:
    """A connection, policy, segment or template as YAML the way people write it; `read_documents` makes the same message of it."""
    return _dump({kind: _without_output(message)})


def segment_drafts(sources: Iterable[Source]) -> dict[str, SegmentDraft]:
    """The segments among some documents, by id."""
    return {
        source.name: segment_draft_of(source.document.message)
        for source in sources
        if isinstance(source.document.message, Segment)
    }


def _without_output(message: Message) -> dict[str, object]:
    """What people write of a message: the fields from 20 on are the service's own, as is what it makes of a template."""
    fields = message.DESCRIPTOR.fields_by_name
    own = set()
    if isinstance(message, Template):
        own = {"version", "html"} if message.mjml else {"version"}
    return {
        name: value
        for name, value in written(message).items()
        if fields[name].number < 20 and name not in own
    }


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, so that a template can be read and edited."""


def _text_node(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text_node)


def _dump(content: object) -> str:
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110))


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


def _wrong_references(sources: Sequence[Source]) -> list[str]:
    """What journeys say of each other that can't be."""
    journeys = {
        source.name: source.document.message
        for source in sources
        if isinstance(source.document.message, Journey)
    }
    wrong = check_references(journeys, known=None, segments=None)
    return [
        source.finding(each.path, each.message)
        for source in sources
        if source.document.message is journeys.get(source.name)
        for each in wrong[source.name]
    ]


def _wrong_segments(sources: Sequence[Source]) -> list[str]:
    """What is wrong with segments, which of them lead back to themselves, and which no run of a journey can ask for."""
    drafts = segment_drafts(sources)
    graph = {name: draft.names for name, draft in drafts.items()}
    criteria = {name: draft.segment.criteria for name, draft in drafts.items()}
    findings = []
    for source in sources:
        message = source.document.message
        if isinstance(message, Journey):
            findings += [
                source.finding(each.path, each.message) for each in unaskable_segments(message, criteria)
            ]
        if isinstance(message, Segment):
            wrong = segment_violations(segment_draft_of(message))
            findings += [source.finding(f"segment.{each.path}", each.message) for each in wrong]
            if ring := ring_through(source.name, graph):
                text = f"goes round: {' > '.join(ring)}; a segment may not lead back to itself"
                findings.append(source.finding("segment.criteria", text))
    return findings


def _doubles(sources: Iterable[Source]) -> list[str]:
    seen: dict[tuple[str, str], Source] = {}
    findings = []
    for source in sources:
        first = seen.setdefault((source.document.kind, source.name), source)
        if first is not source:
            what = " ".join(dict.fromkeys((source.document.kind, source.name)))
            findings.append(f"{source.at()}: {what} is given twice, first at {first.at()}")
    return findings
