"""Values of criteria as SQL expressions: owns how each kind is written, and how two of them compare, with NULL for CEL's failure.

Refuses to know criteria. Nothing written here can make a statement fail, whatever the row holds, and of a text nothing gets in but a
quoted constant.
"""

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

Kind: TypeAlias = Literal["json", "number", "string", "list", "map", "null", "bool", "time", "duration"]
"""What an expression yields: jsonb of which only the row tells the type ("json"), jsonb of a known one, or a boolean, a
timestamptz, an interval."""

VARIES: Final[Any] = object()
"""The `constant` of a value that is none."""
_NAME: Final = re.compile(r'[A-Za-z_$"][\w.$"]*')
_PLAIN: Final = frozenset({"bool", "time", "duration"})
_TYPES: Final = {"number": "number", "bool": "boolean"}
_TURNED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}


@dataclass(frozen=True, slots=True)
class SqlNames:
    """SQL expressions of what a criteria reads: `attributes`, jsonb, an object; `behavior`, jsonb, an object of tracks or NULL;
    `now_us`, bigint, microseconds since the epoch.

    Each may be written many times and is computed as often: name columns of a subselect that is not flattened.
    """

    attributes: str
    behavior: str
    now_us: str


@dataclass(frozen=True, slots=True)
class Value:
    """An expression that yields the value or NULL, and binds at least as tightly as `->`.

    `text` is a cheaper way to the text of a jsonb that is one; `at_least` writes whether a count reaches a number.
    """

    kind: Kind
    sql: str
    text: str = ""
    at_least: Callable[[int], str] | None = None
    constant: Any = VARIES


NOTHING: Final = Value("json", "NULL::jsonb")
"""What stands for a value that can't be written."""


def atom(expression: str) -> str:
    """An expression so that what follows it takes all of it."""
    return expression if _NAME.fullmatch(expression) else f"({expression})"


def quoted(text: str) -> str:
    """A text as an SQL constant, whatever the server takes a backslash for."""
    doubled = text.replace("'", "''")
    return "E'" + doubled.replace("\\", "\\\\") + "'" if "\\" in doubled else f"'{doubled}'"


def constant(value: Any) -> Value:
    """A JSON value that is written out; its numbers are finite."""
    if isinstance(value, bool):
        return Value("bool", str(value).lower(), constant=value)
    sql = f"{quoted(json.dumps(value, ensure_ascii=False, allow_nan=False))}::jsonb"
    match value:
        case None:
            return Value("null", sql, constant=value)
        case str():
            return Value("string", sql, quoted(value), constant=value)
        case list():
            return Value("list", sql, constant=value)
        case dict():
            return Value("map", sql, constant=value)
        case _:
            return Value("number", sql, constant=value)


def member(container: Value, key: str, kind: Kind = "json") -> Value:
    """What an object has under a key; NULL where it has not, or is no object."""
    name = quoted(key)
    return Value(kind, f"{container.sql}->{name}", f"{container.sql}->>{name}")


def element(container: Value, index: int) -> Value:
    """What a list has at a place from 0; NULL where it has not, or is no list."""
    # Not `->`, which takes a scalar for a list of one.
    return Value("json", f"jsonb_path_query_first({container.sql}, 'strict $[{index}]', '{{}}', true)")


def number(sql: str, at_least: Callable[[int], str] | None = None) -> Value:
    """An int or a finite double of SQL as JSON has numbers."""
    return Value("number", f"({sql})::text::jsonb", at_least=at_least)


def as_json(value: Value) -> str:
    """A value that is no time and no duration as jsonb."""
    if value.kind != "bool":
        return value.sql
    if value.constant is not VARIES:
        return f"'{value.sql}'::jsonb"
    return f"(CASE {value.sql} WHEN true THEN 'true'::jsonb WHEN false THEN 'false'::jsonb END)"


def as_condition(value: Value) -> str | None:
    """A value where a condition is needed; None of a kind that never is one."""
    if value.kind == "bool":
        return value.sql
    if value.kind != "json":
        return None
    return f"(CASE {value.sql} WHEN 'true'::jsonb THEN true WHEN 'false'::jsonb THEN false END)"


def as_text(value: Value) -> str | None:
    """A value where a text is needed; None of a kind that never is one."""
    text = value.text or f"({value.sql} #>> '{{}}')"
    match value.kind:
        case "string":
            return text
        case "json":
            return f"(CASE WHEN {typed(value, 'string')} THEN {text} END)"
        case _:
            return None


def typed(value: Value, *names: str) -> str:
    """Whether a jsonb is of one of these types, as `jsonb_typeof` names them."""
    if len(names) == 1:
        return f"jsonb_typeof({value.sql}) = '{names[0]}'"
    listed = ", ".join(map(quoted, names))
    return f"jsonb_typeof({value.sql}) IN ({listed})"


def equal(left: Value, right: Value) -> str | None:
    """`left == right`: numbers by value, different types never; None where the kinds say it already."""
    if NOTHING in (left, right):
        return NOTHING.sql
    for counted, limit in ((left, right), (right, left)):
        if counted.at_least and limit.kind == "number" and limit.constant is not VARIES:
            return _reaches(counted.at_least, "==", limit.constant)
    if left.kind in ("time", "duration") or right.kind in ("time", "duration"):
        return f"({left.sql} = {right.sql})" if left.kind == right.kind else None
    if left.kind == right.kind == "bool":
        return f"({left.sql} = {right.sql})"
    return f"({as_json(left)} = {as_json(right)})"


def order(left: Value, sign: str, right: Value) -> str | None:
    """`left < right` and the like: two numbers, texts, booleans or times; NULL of anything else, None where it always would be."""
    if NOTHING in (left, right):
        return NOTHING.sql
    if right.at_least and left.kind == "number":
        left, sign, right = right, _TURNED[sign], left
    if left.at_least and right.kind == "number" and right.constant is not VARIES:
        return _reaches(left.at_least, sign, right.constant)
    kinds = {left.kind, right.kind} - {"json"}
    if not kinds:
        return _by_type(left, sign, right)
    if len(kinds) > 1 or kinds & {"null", "list", "map"}:
        return None
    (kind,) = kinds
    if left.kind == right.kind and kind in _PLAIN:
        return f"({left.sql} {sign} {right.sql})"
    if kind == "string":
        return f'({as_text(left)} {sign} {as_text(right)} COLLATE "C")'
    if kind not in _TYPES:
        return None
    # jsonb puts numbers in order by value; `false` comes before `true`.
    test = f"{as_json(left)} {sign} {as_json(right)}"
    guards = [typed(side, _TYPES[kind]) for side in (left, right) if side.kind == "json"]
    return f"(CASE WHEN {' AND '.join(guards)} THEN {test} END)" if guards else f"({test})"


def _by_type(left: Value, sign: str, right: Value) -> str:
    """The order of two values of which only the row tells the type."""
    texts = [side.text or f"({side.sql} #>> '{{}}')" for side in (left, right)]
    test = f"{left.sql} {sign} {right.sql}"
    return (
        f"(CASE WHEN jsonb_typeof({left.sql}) = jsonb_typeof({right.sql}) THEN CASE jsonb_typeof({left.sql}) "
        f"WHEN 'number' THEN {test} WHEN 'boolean' THEN {test} "
        f"WHEN 'string' THEN {texts[0]} {sign} {texts[1]} COLLATE \"C\" END END)"
    )


def _reaches(at_least: Callable[[int], str], sign: str, limit: float) -> str:
    """How a count compares with a number."""
    reached, passed = at_least(math.ceil(limit)), at_least(math.floor(limit) + 1)
    match sign:
        case ">=":
            return reached
        case "<":
            return f"(NOT {reached})"
        case ">":
            return passed
        case "<=":
            return f"(NOT {passed})"
        case _:
            # Between two whole numbers there is none.
            return f"({reached} AND NOT {passed})" if limit == math.floor(limit) else "false"
