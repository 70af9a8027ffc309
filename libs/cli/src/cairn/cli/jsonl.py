"""Owns reading what people send: JSON Lines of events and profiles, and `key=value` options.

A wrong line is a finding with its number; it harms no other line.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import IO, Any, Generic, TypeVar

import click
import msgspec
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from cairn.api.evaluator.v1.evaluator_pb2 import Event, Profile
from cairn.runtime.clock import now_us, to_timestamp
from cairn.runtime.ids import random_id

BATCH_SIZE = 500

MAX_DEPTH = 24
"""How deep lists and objects may lie in each other: protobuf reads 100 levels, and a JSON level takes up to three."""

_TOO_DEEP = f"is nested too deeply; at most {MAX_DEPTH} levels can be sent"

T = TypeVar("T")
M = TypeVar("M", bound=Message)


class TooDeepError(ValueError):
    """JSON with more than MAX_DEPTH levels."""


class EventLine(msgspec.Struct, forbid_unknown_fields=True):
    """One event, with the field names of the contract; `occur_time` is RFC 3339."""

    event_id: str
    profile_id: str
    name: str
    occur_time: str
    properties: dict[str, Any] = {}

    def to_message(self) -> Event:
        """The event on the wire; ValueError for a time or properties that can't be sent."""
        return Event(
            event_id=self.event_id,
            profile_id=self.profile_id,
            name=self.name,
            occur_time=parse_time(self.occur_time),
            properties=to_struct(self.properties),
        )


class ProfileLine(msgspec.Struct, forbid_unknown_fields=True):
    """One profile, with the field names of the contract."""

    profile_id: str
    attributes: dict[str, Any] = {}
    time_zone: str = ""

    def to_message(self) -> Profile:
        """The profile on the wire; ValueError for attributes that can't be sent."""
        return Profile(
            profile_id=self.profile_id, attributes=to_struct(self.attributes), time_zone=self.time_zone
        )


@dataclass(frozen=True, slots=True)
class Line(Generic[M]):
    """One line of input: its number from 1, and what it says or, in `problem`, why it says nothing."""

    number: int
    message: M | None = None
    problem: str = ""


def read_events(source: IO[bytes]) -> Iterator[Line[Event]]:
    """The events of a JSON Lines file; empty lines are passed over."""
    decoder = msgspec.json.Decoder(EventLine)
    return _read(source, lambda text: decoder.decode(text).to_message())


def read_profiles(source: IO[bytes]) -> Iterator[Line[Profile]]:
    """The profiles of a JSON Lines file; empty lines are passed over."""
    decoder = msgspec.json.Decoder(ProfileLine)
    return _read(source, lambda text: decoder.decode(text).to_message())


def _read(source: IO[bytes], parse: Callable[[bytes], M]) -> Iterator[Line[M]]:
    for number, text in enumerate(source, start=1):
        if not text.strip():
            continue
        try:
            yield Line(number, parse(text))
        except RecursionError:
            yield Line(number, problem=_TOO_DEEP)
        except (msgspec.MsgspecError, ValueError) as error:
            yield Line(number, problem=str(error))


def batches(items: Iterable[T], size: int = BATCH_SIZE) -> Iterator[list[T]]:
    """The items in lists of at most `size`, read no further than asked for."""
    iterator = iter(items)
    while batch := list(islice(iterator, size)):
        yield batch


def count_lines(source: IO[bytes]) -> int | None:
    """How many lines a file has, for a progress bar; None for a pipe, which can be read only once."""
    if not source.seekable():
        return None
    start = source.tell()
    count = sum(block.count(b"\n") for block in iter(lambda: source.read(1 << 20), b""))
    source.seek(start)
    return count


def parse_pairs(pairs: Sequence[str], option: str) -> dict[str, Any]:
    """`key=value` options as an object: a value that is JSON is taken as that, any other is a string."""
    found: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{pair!r} is not like key=value.", param_hint=option)
        try:
            found[key] = json.loads(value)
            _require_flat(found)
        except (TooDeepError, RecursionError):
            raise click.BadParameter(f"{key} {_TOO_DEEP}.", param_hint=option) from None
        except ValueError:
            found[key] = value
    return found


def parse_time(text: str) -> Timestamp:
    """An RFC 3339 time; ValueError when it is none."""
    timestamp = Timestamp()
    try:
        timestamp.FromJsonString(text)
    except ValueError:
        raise ValueError(f"{text!r} is no RFC 3339 time, such as 2026-11-23T18:00:00Z") from None
    return timestamp


def to_struct(value: dict[str, Any]) -> Struct:
    """A JSON object on the wire; TooDeepError when no service could read it there."""
    _require_flat(value)
    struct = Struct()
    struct.update(value)
    return struct


def _require_flat(value: object, left: int = MAX_DEPTH) -> None:
    if isinstance(value, dict | list):
        if not left:
            raise TooDeepError(_TOO_DEEP)
        for each in value.values() if isinstance(value, dict) else value:
            _require_flat(each, left - 1)


def single_event(profile: str, name: str, properties: dict[str, Any], event_id: str, at: str) -> Event:
    """One event given by options: without an id it gets a fresh one, without a time it happens now."""
    return Event(
        event_id=event_id or f"cli-{random_id():x}",
        profile_id=profile,
        name=name,
        occur_time=parse_time(at) if at else to_timestamp(now_us()),
        properties=to_struct(properties),
    )
