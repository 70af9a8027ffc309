"""A condition and the values it met, in words for people: "> 50", `"JP"`, 40, 2026-01-01T12:00:00Z."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

from cairn.rules._checked_ast import Call, Comprehension, Constant, Ident, Node, walk
from cairn.rules._unparse import macro, symbol, unparse

_LONGEST_VALUE: Final = 80
_MOST_ELEMENTS: Final = 20
_DEEPEST: Final = 4
_WHOLE: Final = 1e15
_TURNED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_NEGATED: Final = {"==": "!=", "!=": "==", "<": ">=", "<=": ">", ">": "<=", ">=": "<"}
_COMPARISONS: Final = frozenset({"_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_"})
_TESTS: Final = frozenset({"startsWith", "endsWith", "contains", "matches"})


def needed(node: Node, *, wanted: bool) -> tuple[tuple[Node, ...], str]:
    """The parts of a leaf whose values matter, and what they must be for it to come out as `wanted`."""
    prefix = "" if wanted else "not "
    match node:
        case Constant():
            return (), ""
        case Call(function=function, args=(left, right)) if function in _COMPARISONS:
            sign = symbol(function)
            if written(left) and not written(right):
                left, right, sign = right, left, _TURNED.get(sign, sign)
            return (left, right), f"{sign if wanted else _NEGATED[sign]} {unparse(right)}"
        case Call(function="@in", args=(left, right)):
            return (left, right), f"{prefix}in {unparse(right)}"
        case Call(function=function, args=(target, part)) if function in _TESTS:
            return (target, part), f"{prefix}{function}({unparse(part)})"
        case Comprehension(range=span) if not written(span):
            return (span,), f"{prefix}{macro(node)[1]}"
        case _:
            return (node,), "true" if wanted else "false"


def written(node: Node) -> bool:
    """Whether the node is written out, so that its text tells its value."""
    return not any(
        isinstance(part, Ident) or (isinstance(part, Call) and part.function not in ("duration", "timestamp"))
        for part in walk(node)
    )


def value(found: object) -> str:
    """A value as a person writes it, at most 80 characters."""
    text = "".join(_pieces(found, 0))
    return text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"


def _pieces(found: object, depth: int) -> Iterator[str]:
    match found:
        case None | bool():
            yield {None: "null", True: "true", False: "false"}[found]
        case float():
            yield str(int(found)) if found.is_integer() and abs(found) < _WHOLE else repr(found)
        case int():
            yield str(found)
        case str():
            yield json.dumps(found[: _LONGEST_VALUE + 1], ensure_ascii=False)
        case datetime():
            yield found.astimezone(UTC).isoformat().replace("+00:00", "Z")
        case timedelta():
            yield _span(found)
        case bytes():
            yield repr(found[:_LONGEST_VALUE])
        case Mapping() | Sequence():
            yield from _many(found, depth)
        case _:
            yield str(found)


def _many(found: Mapping[object, object] | Sequence[object], depth: int) -> Iterator[str]:
    brackets = "{}" if isinstance(found, Mapping) else "[]"
    yield brackets[0]
    if depth >= _DEEPEST:
        yield "…"
    else:
        for number, element in enumerate(islice(found, _MOST_ELEMENTS)):
            yield ", " if number else ""
            yield from _pieces(element, depth + 1)
            if isinstance(found, Mapping):
                yield ": "
                yield from _pieces(found[element], depth + 1)
        yield ", …" if len(found) > _MOST_ELEMENTS else ""
    yield brackets[1]


def _span(found: timedelta) -> str:
    """A duration as CEL writes it, in the largest units: 1h30m, 0.5s."""
    sign = "-" if found < timedelta() else ""
    found = abs(found)
    minutes, rest = divmod(found, timedelta(minutes=1))
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest.total_seconds():.6f}".rstrip("0").rstrip(".")
    parts = [f"{hours}h" if hours else "", f"{minutes}m" if minutes else "", f"{seconds}s" if rest else ""]
    return sign + ("".join(parts) or "0s")
