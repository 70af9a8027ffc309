"""What a profile's JSON texts hold wherever a criteria is true, as SQL: owns a look that costs a tenth of reading the JSON.

Refuses to say more than "perhaps". Where nothing can be told it says `true`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from cairn.rules import _behavior
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
    children,
    operands,
)
from cairn.rules._unparse import symbol

MAX_SQL: Final = 4_096
"""Characters that the look may take; what is longer says `true`."""

_MOST_CHOICES: Final = 8
# A text that JSON writes as it is.
_PLAIN: Final = re.compile(r'[^\x00-\x1f\x7f"\\]*')
# Whole numbers that are written with all their digits, whether as 5 or as 5.0; a zero may have a sign.
_LARGEST_WHOLE: Final = 10**15
_ABSORBING: Final = frozenset({"_&&_", "_||_"})
_TURNED: Final = {"<": ">", "<=": ">="}


@dataclass(frozen=True, slots=True)
class Holds:
    """A text that is in a column."""

    column: str
    text: str


Needs: TypeAlias = Sequence["Holds | str"]
"""What has to be so, all of it; a str is SQL."""


def needed(root: Node, known: Mapping[str, str], attributes: str, behavior: str) -> str:
    """SQL that is true of the texts of two columns wherever the criteria is true; `known` has the same of the segments."""
    return _Look(known, sql.atom(attributes), sql.atom(behavior)).written(root)


class _Look:
    def __init__(self, known: Mapping[str, str], attributes: str, behavior: str) -> None:
        self._known = known
        self._attributes = attributes
        self._behavior = behavior

    def written(self, node: Node) -> str:
        """What has to be so for a part to be true."""
        needs = list(dict.fromkeys(self._true(node)))
        found = [need for need in needs if isinstance(need, str)]
        held = [need for need in needs if isinstance(need, Holds)]
        for each in held:
            # `"a":` goes without saying where there is `"a":1`.
            if not any(
                each is not other and each.column == other.column and each.text in other.text
                for other in held
            ):
                found.append(f"strpos({each.column}, {sql.quoted(each.text)}) > 0")
        found = [each for each in found if each != "true"]
        if not found or "false" in found:
            return "false" if found else "true"
        joined = found[0] if len(found) == 1 else f"({' AND '.join(found)})"
        return joined if len(joined) <= MAX_SQL else "true"

    def _true(self, node: Node) -> Needs:
        """What is so wherever a part is true."""
        match node:
            case Constant(value=False):
                return ["false"]
            case Select(operand=operand, field=field, test_only=True):
                return [*self._there(operand), *self._key(operand, field, ":")]
            case Select() | Call(function="_[_]"):
                return [*self._there(node), *self._member(node, ":true")]
            case Call(function="_&&_"):
                return [need for part in operands(node, "_&&_") for need in self._true(part)]
            case Call(function="_||_"):
                return [self._any([self.written(part) for part in operands(node, "_||_")])]
            case Call(function="_?_:_", args=(test, yes, no)):
                return [*self._there(test), self._any([self.written(yes), self.written(no)])]
            case Call(function="!_", args=(operand,)):
                return [*self._there(operand), *self._member(operand, ":false")]
            case Call(function="in_segment"):
                return [self._known.get(_behavior.segment(node), "false")]
            case Call(args=(left, right)):
                return [*self._there(node), *self._compared(node.function, left, right)]
            case _:
                return self._there(node)

    def _compared(self, function: str, left: Node, right: Node) -> Needs:
        """What more is so wherever a comparison is true."""
        match function, left, right:
            case _, Constant(), Constant():
                pass
            case "_==_", Constant(), _:
                return self._compared(function, right, left)
            case "_==_", Call(function="count" | "sum"), _:
                return self._counted("==", left, right)
            case "_==_" | "startsWith", _, Constant(value=value):
                return self._member(left, _beginning(value, is_whole=function == "_==_"))
            case "@in", _, Many(type="list", elements=elements) if 0 < len(elements) <= _MOST_CHOICES:
                choices = [self._compared("_==_", left, element) for element in elements]
                if all(choices):
                    return [self._any([_holds(choice) for choice in choices])]
            case "@in", Constant(value=str() as text), _ if _PLAIN.fullmatch(text):
                if column := self._column(right):
                    return [Holds(column, f'"{text}"')]
            case "_>_" | "_>=_", _, _:
                return self._counted(symbol(function), left, right)
            case "_<_" | "_<=_", _, _:
                return self._counted(_TURNED[symbol(function)], right, left)
            case _:
                pass
        return []

    def _counted(self, sign: str, call: Node, limit: Node) -> Needs:
        """Where there are more events than none, there is a track of them."""
        if isinstance(call, Call) and call.function in ("count", "sum") and isinstance(limit, Constant):
            value = limit.value
            if isinstance(value, int | float) and (value > 0 or (value == 0 and sign == ">")):
                return self._track(call)
        return []

    def _there(self, node: Node) -> Needs:
        """What is so wherever a part has a value at all."""
        match node:
            case Call(function=function) if function in _ABSORBING:
                return []
            case Call(function="_?_:_", args=(test, *_)):
                return self._there(test)
            case Comprehension(range=span):
                return self._there(span)
            case Call(function=function) if function in EVENT_FUNCTIONS:
                return self._track(node)
            case Select(operand=operand, test_only=True):
                return self._there(operand)
            case _:
                below = [need for part in children(node) for need in self._there(part)]
                return [*below, *self._member(node, ":")]

    def _track(self, call: Call) -> Needs:
        name = _behavior.ask(call).name
        return [Holds(self._behavior, f'"{name}":[')] if _PLAIN.fullmatch(name) else []

    def _member(self, node: Node, rest: str) -> Needs:
        """That what a path ends with has its key written, and this after it."""
        match node:
            case Select(operand=operand, field=key, test_only=False):
                return self._key(operand, key, rest)
            case Call(function="_[_]", args=(operand, Constant(value=str() as key))):
                return self._key(operand, key, rest)
            case _:
                return []

    def _key(self, operand: Node, key: str, rest: str) -> Needs:
        column = self._column(operand)
        return [Holds(column, f'"{key}"{rest}')] if column and _PLAIN.fullmatch(key) else []

    def _column(self, node: Node) -> str:
        """The column in which the value of a path is; empty when it may be made."""
        while True:
            match node:
                case Select(operand=operand, test_only=False) | Call(function="_[_]", args=(operand, _)):
                    node = operand
                case Ident(name="profile"):
                    return self._attributes
                case Call(function=function) if function in EVENT_FUNCTIONS:
                    return self._behavior
                case _:
                    return ""

    def _any(self, choices: Sequence[str]) -> str:
        possible = [each for each in choices if each != "false"]
        if not possible or "true" in possible:
            return "true" if possible else "false"
        return possible[0] if len(possible) == 1 else f"({' OR '.join(possible)})"


def _holds(needs: Needs) -> str:
    (need,) = needs
    return f"strpos({need.column}, {sql.quoted(need.text)}) > 0" if isinstance(need, Holds) else need


def _beginning(value: object, *, is_whole: bool) -> str:
    """What stands after a key that has this value, or a text that begins so."""
    match value:
        case None:
            return ":null"
        case bool():
            return f":{str(value).lower()}"
        case str() if _PLAIN.fullmatch(value):
            return f':"{value}"' if is_whole else f':"{value}'
        case int() | float() if 1 <= abs(value) < _LARGEST_WHOLE and value == int(value):
            return f":{int(value)}"
        case _:
            return ":"
