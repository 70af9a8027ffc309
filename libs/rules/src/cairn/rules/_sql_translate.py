"""From a checked tree to an SQL condition: where SQL is sure to agree with `evaluate`, and refused in words elsewhere.

A failure is NULL, and SQL's AND, OR and NOT absorb it as CEL's do. See `_sql_values` for what keeps a row from making the statement
fail, and a text from being more than a constant.
"""

import math
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Final, TypeAlias

from cairn.rules import _behavior, _library
from cairn.rules import _sql_values as sql
from cairn.rules._checked_ast import (
    EVENT_FUNCTIONS,
    Call,
    Comprehension,
    Constant,
    Ident,
    Many,
    Node,
    Select,
    operands,
    walk,
)
from cairn.rules._operators import EXACT_INT
from cairn.rules._sql_behavior import Tracks, occurred
from cairn.rules._sql_values import NOTHING, SqlNames, Value
from cairn.rules._unparse import symbol
from cairn.rules.model import Criteria, Problem

MAX_SQL: Final = 65_536
"""Characters that a criteria may take as SQL, the segments counted that it names."""

Translated: TypeAlias = str | tuple[Problem, ...]
"""A criteria as SQL, or what is in the way."""

_KEEP: Final = "keep the answer in an attribute of the profile and read that"
_LONG: Final = f"takes more than {MAX_SQL:,} characters as SQL; use fewer segments, or {_KEEP}"
_NEVER: Final = "compares values of kinds that never compare; it would have the same answer for everybody"
_EVENT: Final = (
    "reads an event, and here there is none; read what is kept of events by count, sum, first and last"
)
_KEY: Final = 'a key is a constant here, as in profile["loyalty-level"] or profile.tags[0]'
_WRITTEN: Final = (
    'the elements of a list or map are constants here; write profile.a == profile.b || profile.a == "x"'
)
_NUMBER: Final = f"a number beyond {EXACT_INT:,} is not exact everywhere; keep such a value as a text"
_MACROS: Final = f"only exists and all can be asked of a database, and not within each other; {_KEEP}"
_IN_SEGMENT: Final = "in the segment "
# The library fails when an evaluation takes more steps in macros than these.
_MOST_STEPS: Final = 9_999
_MOST_INDEX: Final = 100_000
_ARITHMETIC: Final = frozenset({"_+_", "_-_", "_*_", "_/_", "_%_", "-_"})
_CHAINS: Final = {"_&&_": " AND ", "_||_": " OR "}
_NUMBERS: Final = frozenset({"int", "uint", "double"})
_MICROSECOND: Final = timedelta(microseconds=1)


class Translator:
    """Writes one criteria; what it can't write it notes in `refused`, as offset and words, and goes on to find the rest."""

    def __init__(
        self,
        segments: Mapping[str, Criteria],
        known: Mapping[str, Translated],
        names: SqlNames,
        root: Node,
    ) -> None:
        self.refused: list[tuple[int, str]] = []
        self._segments = segments
        self._known = known
        self._profile = Value("map", sql.atom(names.attributes))
        self._tracks = Tracks(names)
        self._variable: str | None = None
        nodes = list(walk(root))
        macros = sum(isinstance(node, Comprehension) for node in nodes)
        self._longest_list = _MOST_STEPS // max(macros, 1)
        for node in nodes:
            if isinstance(node, Constant) and isinstance(node.value, str) and "\0" in node.value:
                self._refuse(node, "a text with a NUL can't be asked of a database; take it out")

    def condition(self, node: Node) -> str:
        """A part that has to be true or false."""
        value = self.value(node)
        found = sql.as_condition(value)
        return self._refuse(node, "is neither true nor false").sql if found is None else found

    def value(self, node: Node) -> Value:
        """A part of any kind."""
        found = self._value(node)
        return found if len(found.sql) <= MAX_SQL else self._refuse(node, _LONG)

    def _value(self, node: Node) -> Value:
        match node:
            case Constant() | Many():
                return self._constant(node)
            case Ident(name="profile"):
                return self._profile
            case Ident(name=name) if name == self._variable:
                return Value("json", "_v")
            case Ident(name=name):
                return self._refuse(node, _EVENT if "." in name else f"{name} can't be asked of a database")
            case Select():
                return self._select(node)
            case Call(function=function, args=args):
                if write := _CALLS.get(function):
                    return write(self, node, *args)
                return self._unknown(node)
            case Comprehension():
                return self._macro(node)
            case _:
                return self._refuse(node, f"can't be asked of a database; {_KEEP}")

    def _refuse(self, node: Node, message: str) -> Value:
        self.refused.append((node.offset, message))
        return NOTHING

    def _unknown(self, node: Call) -> Value:
        if node.function in _ARITHMETIC:
            sign = "-" if node.function == "-_" else symbol(node.function)
            return self._refuse(node, f"{sign} is computed otherwise by a database; {_KEEP}")
        if node.function == "matches":
            hint = f"use startsWith, endsWith or contains, or {_KEEP}"
            return self._refuse(node, f"matches can't be asked of a database; {hint}")
        hint = "numbers compare by value without it, otherwise " if node.function in _NUMBERS else ""
        return self._refuse(node, f"{node.function} can't be asked of a database; {hint}{_KEEP}")

    def _constant(self, node: Node) -> Value:
        written = self._written(node)
        return NOTHING if written is sql.VARIES else sql.constant(written)

    def _written(self, node: Node) -> Any:
        """The JSON value that is written out, or VARIES where there is none that compares exactly."""
        match node:
            case Constant(value=None | bool() | str() as value):
                return value
            case Constant(value=int() | float() as value):
                if math.isfinite(value) and abs(value) <= EXACT_INT:
                    return value
                self._refuse(node, _NUMBER)
            case Many(type="list", elements=elements):
                values = [self._written(element) for element in elements]
                return sql.VARIES if sql.VARIES in values else values
            case Many(type=kind, elements=elements) if kind != "message":
                keys, values = ([self._written(part) for part in elements[start::2]] for start in (0, 1))
                if all(isinstance(key, str) for key in keys) and len(set(keys)) == len(keys):
                    return sql.VARIES if sql.VARIES in values else dict(zip(keys, values, strict=True))
                self._refuse(node, "a map has different texts as its keys here")
            case Constant():
                self._refuse(node, f"bytes can't be asked of a database; {_KEEP}")
            case _:
                self._refuse(node, _WRITTEN)
        return sql.VARIES

    def _select(self, node: Select) -> Value:
        if isinstance(node.operand, Call) and node.operand.function in EVENT_FUNCTIONS:
            return self._event_field(node, node.operand)
        container = self.value(node.operand)
        if container.kind not in ("json", "map"):
            return self._refuse(node, f"only a map has fields; {_KEEP}")
        if not node.test_only:
            return sql.member(container, node.field)
        there = f"({container.sql} ? {sql.quoted(node.field)})"
        if container.kind == "json":
            there = f"(CASE WHEN {sql.typed(container, 'object')} THEN {there} END)"
        return Value("bool", there)

    def _event_field(self, node: Select, call: Call) -> Value:
        event = self._tracks.event(_behavior.ask(call))
        match node.field:
            case "properties":
                return sql.member(event, node.field, "map")
            case "name":
                return sql.member(event, node.field, "string")
            case _:
                return Value("time", occurred(event))

    def _count(self, node: Call, *_: Node) -> Value:
        return self._tracks.count(_behavior.ask(node))

    def _sum(self, node: Call, *_: Node) -> Value:
        return self._tracks.sum(_behavior.ask(node))

    def _segment(self, node: Call, *_: Node) -> Value:
        name = _behavior.segment(node)
        if name not in self._segments:
            return sql.constant(False)
        found = self._known.get(name)
        if found is None:
            return self._refuse(node, f"the segment {name} leads back to itself")
        if isinstance(found, tuple):
            for problem in found:
                # Of segments within segments, the innermost says it all.
                is_inner = problem.message.startswith(_IN_SEGMENT)
                self._refuse(node, problem.message if is_inner else f"{_IN_SEGMENT}{name} at {problem}")
            return NOTHING
        return Value("bool", f"coalesce({found}, false)")

    def _chain(self, node: Call, *_: Node) -> Value:
        parts = [self.condition(part) for part in operands(node, node.function)]
        return Value("bool", f"({_CHAINS[node.function].join(parts)})")

    def _not(self, node: Call, operand: Node) -> Value:
        return Value("bool", f"(NOT {self.condition(operand)})")

    def _ternary(self, node: Call, test: Node, yes: Node, no: Node) -> Value:
        condition, branches = self.condition(test), (self.value(yes), self.value(no))
        kinds = {branch.kind for branch in branches}
        texts = [branch.sql for branch in branches]
        if len(kinds) > 1:
            if kinds & {"time", "duration"}:
                return self._refuse(node, "? : takes two values of one kind here")
            texts = list(map(sql.as_json, branches))
        kind = kinds.pop() if len(kinds) == 1 else "json"
        return Value(kind, f"(CASE {condition} WHEN true THEN {texts[0]} WHEN false THEN {texts[1]} END)")

    def _dyn(self, node: Call, operand: Node) -> Value:
        return self.value(operand)

    def _equal(self, node: Call, left: Node, right: Node) -> Value:
        found = sql.equal(self.value(left), self.value(right))
        if found is None:
            return self._refuse(node, _NEVER)
        return Value("bool", found if node.function == "_==_" else f"(NOT {found})")

    def _order(self, node: Call, left: Node, right: Node) -> Value:
        found = sql.order(self.value(left), symbol(node.function), self.value(right))
        return self._refuse(node, _NEVER) if found is None else Value("bool", found)

    def _in(self, node: Call, left: Node, right: Node) -> Value:
        needle = self.value(left)
        if needle.kind in ("time", "duration"):
            return self._refuse(node, "no list holds times; compare them with == and ||")
        if isinstance(right, Many) and right.type == "list":
            values = self._constant(right)
            if values is NOTHING:
                return NOTHING
            listed = [sql.as_json(sql.constant(value)) for value in values.constant]
            source = sql.as_json(needle)
            if listed:
                return Value("bool", f"({source} IN ({', '.join(listed)}))")
            return Value("bool", f"(CASE WHEN {source} IS NOT NULL THEN false END)")
        container = self.value(right)
        if container.kind not in ("json", "list", "map"):
            return self._refuse(node, "only a list or a map has something in it")
        return Value("bool", _is_in(needle, container))

    def _index(self, node: Call, container: Node, key: Node) -> Value:
        values = self.value(container)
        match key:
            case Constant(value=str() as name) if values.kind in ("json", "map"):
                return sql.member(values, name)
            case Constant(type=kind, value=int() | float() as place) if (
                kind in _NUMBERS and 0 <= place <= _MOST_INDEX and place == int(place)
            ) and values.kind in ("json", "list"):
                return sql.element(values, int(place))
            case _:
                return self._refuse(key, _KEY)

    def _size(self, node: Call, operand: Node) -> Value:
        value = self.value(operand)
        if value.kind not in ("json", "string", "list", "map"):
            return self._refuse(node, "only a text, a list or a map has a size")
        text = value.text or f"({value.sql} #>> '{{}}')"
        return sql.number(
            f"CASE jsonb_typeof({value.sql}) WHEN 'string' THEN char_length({text}) "  # noqa: S608 - names are quoted
            f"WHEN 'array' THEN jsonb_array_length({value.sql}) "
            f"WHEN 'object' THEN (SELECT count(*) FROM jsonb_object_keys({value.sql})) END"
        )

    def _text_test(self, node: Call, target: Node, part: Node) -> Value:
        texts = [sql.as_text(self.value(side)) for side in (target, part)]
        if None in texts:
            return self._refuse(node, f"{node.function} takes texts")
        text, searched = texts
        match node.function:
            case "startsWith":
                return Value("bool", f"starts_with({text}, {searched})")
            case "endsWith":
                return Value("bool", f"(right({text}, char_length({searched})) = {searched})")
            case _:
                return Value("bool", f"(strpos({text}, {searched}) > 0)")

    def _time(self, node: Call, operand: Node) -> Value:
        match node.function, operand:
            case "timestamp" | "duration" as function, Constant(value=str(text)):
                try:
                    found = _library.exact_constant(function, text)
                except _library.RefusedError:
                    return self._refuse(node, f"a {function} is a constant in whole microseconds here")
                if function == "timestamp":
                    return Value("time", f"TIMESTAMPTZ '{found.isoformat()}'")
                microseconds = found // _MICROSECOND
                if abs(microseconds) <= EXACT_INT:
                    return Value("duration", f"({microseconds} * INTERVAL '1 microsecond')")
            case _ if operand.type == node.function:
                return self.value(operand)
            case _:
                pass
        return self._refuse(node, f"a {node.function} is a constant in whole microseconds here")

    def _between(self, node: Call, left: Node, right: Node) -> Value:
        """The time between two moments: the only difference that a database computes as we do."""
        values = [self.value(side) for side in (left, right)]
        if all(value.kind == "time" for value in values):
            return Value("duration", f"({values[0].sql} - {values[1].sql})")
        return self._unknown(node)

    def _macro(self, node: Comprehension) -> Value:
        match node:
            case Comprehension(
                initial=Constant(value=bool() as initial),
                step=Call(function=function, args=(Ident(name=accumulator), predicate)),
                result=Ident(name=result),
            ) if accumulator == result == node.accumulator and function == ("_&&_" if initial else "_||_"):
                if self._variable is None:
                    return self._walk(node, "ALL" if initial else "ANY", predicate)
            case _:
                pass
        return self._refuse(node, _MACROS)

    def _walk(self, node: Comprehension, quantifier: str, predicate: Node) -> Value:
        """`exists` and `all`: SQL's ANY and ALL absorb a NULL as these do a failure."""
        span = self.value(node.range)
        if span.kind not in ("json", "list", "map"):
            return self._refuse(node, "only a list or a map can be walked")
        self._variable = node.variable
        test = self.condition(predicate)
        self._variable = None
        # A scalar gives NULL, which has no length.
        elements = (
            f"CASE jsonb_typeof({span.sql}) WHEN 'array' THEN {span.sql} "
            f"WHEN 'object' THEN jsonb_path_query_array({span.sql}, '$.keyvalue().key') END"
        )
        walked = f"true = {quantifier} (SELECT {test} FROM jsonb_array_elements({elements}) AS _v(_v))"  # noqa: S608 - names are quoted
        return Value(
            "bool", f"(CASE WHEN jsonb_array_length({elements}) <= {self._longest_list} THEN {walked} END)"
        )


def _is_in(needle: Value, container: Value) -> str:
    """Whether a list has an equal element, or a map a key; a map has no keys but texts, and fails when asked for what can be none."""
    source, held = sql.as_json(needle), container.sql
    among = f"{source} = ANY (SELECT jsonb_array_elements({held}))"
    if needle.kind == "string":
        if needle.constant is not sql.VARIES:
            key = f"{held} ? {sql.as_text(needle)}"
            return f"(CASE WHEN {sql.typed(container, 'array', 'object')} THEN {key} END)"
    elif needle.constant is not sql.VARIES and needle.kind not in ("list", "map"):
        among = f"{held} @> {source}"
    keys = (
        f"CASE jsonb_typeof({source}) WHEN 'string' THEN {held} ? ({source} #>> '{{}}') "
        f"WHEN 'number' THEN false WHEN 'boolean' THEN false END"
    )
    return (
        f"(CASE WHEN {source} IS NOT NULL THEN CASE jsonb_typeof({held}) WHEN 'array' THEN {among} "
        f"WHEN 'object' THEN {keys} END END)"
    )


_CALLS: Final[Mapping[str, Callable[..., Value]]] = {
    "_&&_": Translator._chain,
    "_||_": Translator._chain,
    "!_": Translator._not,
    "_?_:_": Translator._ternary,
    "_==_": Translator._equal,
    "_!=_": Translator._equal,
    "_<_": Translator._order,
    "_<=_": Translator._order,
    "_>_": Translator._order,
    "_>=_": Translator._order,
    "_-_": Translator._between,
    "@in": Translator._in,
    "_[_]": Translator._index,
    "size": Translator._size,
    "startsWith": Translator._text_test,
    "endsWith": Translator._text_test,
    "contains": Translator._text_test,
    "dyn": Translator._dyn,
    "timestamp": Translator._time,
    "duration": Translator._time,
    "count": Translator._count,
    "sum": Translator._sum,
    "in_segment": Translator._segment,
}
