"""Owns the names that journeys, segments and events of a case have while services play it: each set of journeys has its own, so that nobody
is led into the journeys of another case."""

import functools
import json
import re
from collections.abc import Iterator
from typing import Any, Final

from google.protobuf import json_format
from google.protobuf.message import Message

from cairn.api.definition.v1 import journey_pb2
from cairn.journey.document import read_documents

HELD: Final = "-held"
"""Ends the name of a channel from which no receipt comes."""

AUDIENCE: Final = "-lets-go"
"""Ends the name of a channel that has to be an audience."""

_NAMED: Final = re.compile(r"""((?:\bevent|\bentry|\))\.name\s*[=!]=\s*)(["'])(.*?)\2""")
_LISTED: Final = re.compile(r"""((?:\bevent|\bentry|\))\.name\s+in\s*)(\[[^\]]*\])""")
_ASKED: Final = re.compile(r"""(\b(?:count|sum|first|last)\(\s*)(["'])(.*?)\2""")
_SEGMENT: Final = re.compile(r"""(\bin_segment\(\s*)(["'])(.*?)\2""")
_QUOTED: Final = re.compile(r"""(["'])(.*?)\1""")


def messages_of(text: str) -> Iterator[Message]:
    """The journeys and segments of a text, to be changed at will."""
    for each in _parsed(text):
        message = type(each)()
        message.CopyFrom(each)
        yield message


@functools.lru_cache
def _parsed(text: str) -> tuple[Message, ...]:
    documents, violations = read_documents(text)
    assert not violations, violations
    return tuple(each.message for each in documents if each.kind in ("journey", "segment"))


def named_segments(message: Message) -> Iterator[str]:
    for each in walk(message):
        for _, criteria in _criteria(each):
            yield from (found[3] for found in _SEGMENT.finditer(criteria))


def _criteria(message: Message) -> Iterator[tuple[str, str]]:
    """The fields of one message that hold criteria, with these."""
    for descriptor, value in message.ListFields():
        if descriptor.name in ("criteria", "entry", "milestone", "condition") and isinstance(value, str):
            yield descriptor.name, value


@functools.lru_cache
def renamed_text(text: str, tag: str, is_held: bool) -> str:
    return "\n---\n".join(json.dumps(each) for each in _renamed(text, tag, is_held))


def _renamed(text: str, tag: str, is_held: bool) -> Iterator[dict[str, Any]]:
    """The documents of a text, with names of their own for journeys, segments and events."""
    for message in messages_of(text):
        for each in walk(message):
            if isinstance(each, journey_pb2.Journey | journey_pb2.Segment):
                each.name = f"{tag}-{each.name.rpartition('/')[2]}"
            if isinstance(each, journey_pb2.JumpTarget | journey_pb2.Jump):
                each.journey = f"{tag}-{each.journey.rpartition('/')[2]}"
            if isinstance(each, journey_pb2.Activation):
                # The log takes no action; what is held goes by mail. Only who has to let go has to be an audience.
                is_audience = each.until in (journey_pb2.AUDIENCE_UNTIL_EXIT, journey_pb2.AUDIENCE_UNTIL_GOAL)
                if is_audience:
                    each.channel += AUDIENCE
                else:
                    each.action = journey_pb2.AUDIENCE_ACTION_UNSPECIFIED
                if is_held:
                    each.channel += HELD
                if is_held and not is_audience:
                    each.template = each.template or "held"
            for name, criteria in list(_criteria(each)):
                setattr(each, name, _renamed_criteria(criteria, tag))
        document = json_format.MessageToDict(message, preserving_proto_field_name=True)
        yield {"segment": document} if isinstance(message, journey_pb2.Segment) else document


def _renamed_criteria(criteria: str, tag: str) -> str:
    """Criteria about events of other names: wherever a text stands for an event's name."""
    criteria = _NAMED.sub(lambda found: f"{found[1]}{found[2]}{found[3]}.{tag}{found[2]}", criteria)
    criteria = _ASKED.sub(lambda found: f"{found[1]}{found[2]}{found[3]}.{tag}{found[2]}", criteria)
    criteria = _SEGMENT.sub(lambda found: f"{found[1]}{found[2]}{tag}-{found[3]}{found[2]}", criteria)
    return _LISTED.sub(
        lambda found: found[1] + _QUOTED.sub(lambda text: f"{text[1]}{text[2]}.{tag}{text[1]}", found[2]),
        criteria,
    )


def walk(message: Message) -> Iterator[Message]:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for each in value if descriptor.is_repeated else (value,):
                yield from walk(each)
