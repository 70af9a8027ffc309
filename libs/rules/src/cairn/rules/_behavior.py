"""The functions that ask for a profile's behavior: how they are called, what a call asks, what is wrong with one."""

import re
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache
from typing import Final, TypeAlias

from cairn.rules import _library
from cairn.rules._checked_ast import EVENT_FUNCTIONS, Call, Constant, Node, Select
from cairn.rules.model import MAX_WINDOW_US, Ask

SEGMENT: Final = "in_segment"
_LONGEST_NAME: Final = 256
_SEGMENT_NAME: Final = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME: Final = "the name of an event"
_PROPERTY: Final = "the name of a property"
_CALLS: Final = {
    "count": 'the name of an event and, if you like, a window, as in count("login", duration("168h"))',
    "sum": 'an event, a property and a window, as in sum("purchase", "total", duration("720h"))',
    "first": 'the name of an event and, if you like, a window, as in first("login", duration("168h"))',
    "last": 'the name of an event and, if you like, a window, as in last("login", duration("168h"))',
    SEGMENT: 'the name of a segment, as in in_segment("vip")',
}
FUNCTIONS: Final = frozenset(_CALLS)
"""The names of the functions that read behavior."""
_ARGUMENTS: Final = {"count": (1, 2), "sum": (3,), "first": (1, 2), "last": (1, 2), SEGMENT: (1,)}

Wrong: TypeAlias = tuple[int, str]
"""An offset in the source, and what is wrong there."""


def usage(function: str) -> str:
    """How one of `FUNCTIONS` is called."""
    return f"{function} takes {_CALLS[function]}"


def ask(call: Call) -> Ask:
    """What a sound call of `count`, `sum`, `first` or `last` asks."""
    texts = [arg.value for arg in call.args if isinstance(arg, Constant) and isinstance(arg.value, str)]
    window = _window_us(call.args[-1]) if len(call.args) > len(texts) else None
    match call.function, texts:
        case "sum", [name, property_name]:
            return Ask("sum", name, property_name, window)
        case "count" | "first" | "last" as function, [name]:
            return Ask(function, name, "", window)
        case _:
            raise AssertionError("a call that compiling refuses")


def segment(call: Call) -> str:
    """The segment that a sound call of `in_segment` names."""
    (name,) = call.args
    assert isinstance(name, Constant)
    return str(name.value)


def misused(source: str, nodes: list[Node]) -> Iterator[Wrong]:
    """What is wrong with the calls among a tree's nodes, parents before children."""
    read_by_field = set()
    for node in nodes:
        match node:
            case Select(operand=Call(function=function) as call) if function in EVENT_FUNCTIONS:
                read_by_field.add(id(call))
                yield from _field(node, function)
            case Call(function=function) if function in FUNCTIONS:
                start = max(source.rfind(function, 0, node.offset), 0)
                if wrong := list(_arguments(node, start)):
                    yield from wrong
                elif function in EVENT_FUNCTIONS and id(node) not in read_by_field:
                    fields = ", ".join(f"{function}(...).{field}" for field in _library.EVENT_FIELDS)
                    yield start, f"{function} gives an event, which is read by its fields: {fields}"
            case _:
                pass


def _field(node: Select, function: str) -> Iterator[Wrong]:
    if node.field not in _library.EVENT_FIELDS:
        yield node.offset, f"an event has no {node.field[:60]}; it has {', '.join(_library.EVENT_FIELDS)}"
    elif node.test_only:
        example = f"has({function}(...).properties.total)"
        yield node.offset, f"has() asks for a key of a map, as in {example}; an event always has {node.field}"


def _arguments(call: Call, start: int) -> Iterator[Wrong]:
    function, args = call.function, call.args
    if len(args) not in _ARGUMENTS[function]:
        yield start, usage(function)
        return
    if function == SEGMENT:
        yield from _segment(args[0])
        return
    yield from _text(function, _NAME, args[0])
    if function == "sum":
        yield from _text(function, _PROPERTY, args[1])
    if len(args) == _ARGUMENTS[function][-1]:
        yield from _window(function, args[-1])


def _text(function: str, what: str, node: Node) -> Iterator[Wrong]:
    if not isinstance(node, Constant) or not isinstance(node.value, str):
        yield node.offset, f"{what} is a text in quotes here; {usage(function)}"
    elif not 0 < len(node.value.encode()) <= _LONGEST_NAME:
        yield node.offset, f"{what} is not empty and has at most {_LONGEST_NAME} bytes"


def _segment(node: Node) -> Iterator[Wrong]:
    if not isinstance(node, Constant) or not isinstance(node.value, str):
        yield node.offset, f"the name of a segment is a text in quotes here; {usage(SEGMENT)}"
    elif not _SEGMENT_NAME.fullmatch(node.value):
        rule = "small letters, digits and inner hyphens, a letter first, 63 characters at most"
        yield node.offset, f'a segment\'s name has {rule}, as in {SEGMENT}("vip")'


def _window(function: str, node: Node) -> Iterator[Wrong]:
    window = _window_us(node)
    if window is None:
        yield node.offset, f'a window is a constant such as duration("168h"); {usage(function)}'
    elif not 0 < window <= MAX_WINDOW_US:
        yield node.offset, 'a window is more than 0 and at most 366 days, duration("8784h")'


def _window_us(node: Node) -> int | None:
    match node:
        case Call(function="duration", args=(Constant(value=str(text)),)):
            return _microseconds(text)
        case _:
            return None


@lru_cache(maxsize=1024)
def _microseconds(text: str) -> int | None:
    try:
        return int(_library.constant("duration", text) // timedelta(microseconds=1))
    except _library.RefusedError:
        return None


def calls(nodes: list[Node]) -> tuple[tuple[Ask, ...], frozenset[str]]:
    """What a sound tree's nodes ask, each once and in order, and the segments that they name."""
    found = [node for node in nodes if isinstance(node, Call) and node.function in FUNCTIONS]
    asks = dict.fromkeys(ask(call) for call in found if call.function != SEGMENT)
    return tuple(asks), frozenset(segment(call) for call in found if call.function == SEGMENT)
