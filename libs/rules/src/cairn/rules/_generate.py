"""From a checked tree to Python source: fast where Python is sure to agree with CEL, silent where it may not.

The source is made from tree nodes only; of a criteria's text nothing but the `repr` of its constants gets in. What
this module does not know it refuses with UnsupportedError, and the library evaluates the expression; what turns out at
run time to be in doubt raises there (see `_operators`), and the library decides. CEL lets `true || error` and
`false && error` hold, so an exception anywhere is a doubt, not yet a failure.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from cairn.rules import _behavior, _library
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


class UnsupportedError(Exception):
    """The expression has a part for which no Python is generated."""


_SCALARS: Final = frozenset({"bool", "int", "double", "string", "null", "timestamp", "duration"})
_NUMBERS: Final = frozenset({"int", "double"})
_GENERATED: Final = _SCALARS | {"dyn", "list", "map"}
_ORDERED: Final = frozenset({"int", "double", "string", "timestamp", "duration"})
_CHAINS: Final = {"_&&_": " and ", "_||_": " or "}
_HELPERS: Final[Mapping[tuple[str, int], str]] = {
    ("_+_", 2): "add",
    ("_-_", 2): "subtract",
    ("_*_", 2): "multiply",
    ("_/_", 2): "divide",
    ("_%_", 2): "remainder",
    ("-_", 1): "negate",
    ("int", 1): "to_int",
    ("double", 1): "to_double",
    ("string", 1): "to_string",
}
# Together they stay below the library's budget of 10,000 steps for one evaluation; `_operators` bounds each.
_MOST_MACROS: Final = 8


@dataclass(frozen=True, slots=True)
class Generated:
    """Python expressions over `event`, `entry`, `profile` and `behavior`, and the constants that they name.

    When `first` is there and yields `verdict`, that is the answer; otherwise it is what `last` yields. `certain`
    says that nothing could absorb a failure in `last`: a missing key there is the criteria's failure.
    """

    first: str | None
    verdict: bool
    last: str
    certain: bool
    constants: Mapping[str, Any]


def generate(root: Node) -> Generated:
    """The Python of a checked expression that yields a condition; raises UnsupportedError."""
    macros = [node for node in walk(root) if isinstance(node, Comprehension)]
    nested = any(
        isinstance(inner, Comprehension) for macro in macros for inner in walk(macro) if inner is not macro
    )
    if nested or len(macros) > _MOST_MACROS:
        raise UnsupportedError
    generator = _Generator()
    function = root.function if isinstance(root, Call) and root.function in _CHAINS else ""
    *others, last = operands(root, function)
    conditions = [generator.condition(operand) for operand in others]
    return Generated(
        first=_joined(conditions, function) if conditions else None,
        verdict=function == "_||_",
        last=generator.condition(last),
        certain=not any(isinstance(part, Comprehension) or _absorbs(part) for part in walk(last)),
        constants=generator.constants,
    )


def conditions(parts: list[Node], function: str) -> str:
    """The Python of some parts of a chain of `&&` or `||`; raises UnsupportedError, also for what needs names of its own."""
    if any(isinstance(node, Comprehension) for part in parts for node in walk(part)):
        raise UnsupportedError
    generator = _Generator()
    source = _joined([generator.condition(part) for part in parts], function)
    if generator.constants:
        raise UnsupportedError
    return source


class _Generator:
    """Emits one expression; every string it returns is an atom or stands in parentheses."""

    def __init__(self) -> None:
        self.constants: dict[str, Any] = {}
        self._variables: dict[str, str] = {}
        self._temporaries = 0

    def condition(self, node: Node) -> str:
        """Source that yields True or False, or raises."""
        source = self.value(node)
        if node.type == "bool":
            return source
        if node.type == "dyn":
            return f"truth({source})"
        raise UnsupportedError

    def value(self, node: Node) -> str:
        """Source that yields the node's value, or raises."""
        if node.type not in _GENERATED:
            raise UnsupportedError
        match node:
            case Constant(value=value):
                return _literal(value)
            case Ident(name=name):
                return self._variable(name)
            case Select(operand=operand, field=field, test_only=test_only):
                return self._select(operand, field, test_only=test_only)
            case Call():
                return self._call(node)
            case Many(elements=elements):
                return self._many(node.type, elements)
            case Comprehension():
                return self._macro(node)
            case _:
                raise UnsupportedError

    def _variable(self, name: str) -> str:
        if name in self._variables:
            return self._variables[name]
        root, _, field = name.partition(".")
        if name == "profile":
            return "profile"
        if root in ("event", "entry") and field in _library.EVENT_FIELDS:
            return f'{root}["{field}"]'
        raise UnsupportedError

    def _select(self, operand: Node, field: str, *, test_only: bool) -> str:
        if isinstance(operand, Constant):
            raise UnsupportedError
        container = self.value(operand)
        if not test_only:
            # Only a dict can be indexed by a string, so the type needs no look.
            return f"{container}[{field!r}]"
        return f"({field!r} in {container})" if operand.type == "map" else f"has({container}, {field!r})"

    def _many(self, kind: str, elements: tuple[Node, ...]) -> str:
        values = [self.value(element) for element in elements]
        if kind == "list":
            return f"[{', '.join(values)}]"
        keys = values[::2]
        # The same key twice is a failure in CEL.
        if (
            kind == "map"
            and all(isinstance(key, Constant) for key in elements[::2])
            and len(set(keys)) == len(keys)
        ):
            pairs = zip(keys, values[1::2], strict=True)
            return f"{{{', '.join(f'{key}: {value}' for key, value in pairs)}}}"
        raise UnsupportedError

    def _macro(self, node: Comprehension) -> str:
        """`exists` and `all` with one variable; the other macros are the library's."""
        match node:
            case Comprehension(
                initial=Constant(value=bool() as initial),
                step=Call(function=function, args=(Ident(name=accumulator), predicate)),
                result=Ident(name=result),
            ) if accumulator == result == node.accumulator and function == ("_&&_" if initial else "_||_"):
                span = self.value(node.range)
                name = f"v{len(self._variables)}"
                self._variables[node.variable] = name
                test = self.condition(predicate)
                del self._variables[node.variable]
                return f"{'all' if initial else 'any'}(map(lambda {name}: {test}, elements({span})))"
            case _:
                raise UnsupportedError

    def _call(self, node: Call) -> str:
        function, args = node.function, node.args
        if emit := _OPERATORS.get((function, len(args))):
            return emit(self, node)
        if function in _behavior.FUNCTIONS:
            return self._behavior(node)
        if function in ("timestamp", "duration") and len(args) == 1:
            return self._moment(function, args[0])
        if helper := _HELPERS.get((function, len(args))):
            if node.type in ("timestamp", "duration"):
                return self._shift(function, args)
            return f"{helper}({', '.join(map(self.value, args))})"
        raise UnsupportedError

    def _chain(self, node: Call) -> str:
        return _joined([self.condition(part) for part in operands(node, node.function)], node.function)

    def _not(self, node: Call) -> str:
        return f"(not {self.condition(node.args[0])})"

    def _ternary(self, node: Call) -> str:
        test, yes, no = node.args
        return f"({self.value(yes)} if {self.condition(test)} else {self.value(no)})"

    def _equal(self, node: Call) -> str:
        left, right = node.args
        if isinstance(left, Constant):
            left, right = right, left
        a, b = self.value(left), self.value(right)
        if "string" in (left.type, right.type) or (left.type == right.type and left.type in _SCALARS):
            return f"({a} == {b})"
        if isinstance(right, Constant) and not isinstance(left, Constant):
            if right.value is None or isinstance(right.value, bool):
                return f"({a} is {b})"
            if _plain_number(right):
                if left.type in _NUMBERS or right.value not in (0, 1):
                    return f"({a} == {b})"
                name = self._temporary()
                return f"(({name} := {a}) == {b} and {name}.__class__ is not bool)"
        return f"equal({a}, {b})"

    def _differ(self, node: Call) -> str:
        return f"(not {self._equal(node)})"

    def _order(self, node: Call) -> str:
        left, right = node.args
        sign = node.function.strip("_")
        a, b = self.value(left), self.value(right)
        if left.type == right.type and left.type in _ORDERED:
            return f"({a} {sign} {b})"
        # Python refuses to order a string, a list or None with anything else; only a boolean slips through.
        if "string" in (left.type, right.type):
            return f"({a} {sign} {b})"
        for dynamic, number, source in ((left, right, a), (right, left, b)):
            if not (isinstance(number, Constant) and _plain_number(number)):
                continue
            if dynamic.type in _NUMBERS:
                return f"({a} {sign} {b})"
            if dynamic.type == "dyn":
                name = self._temporary()
                test = f"{name} {sign} {b}" if dynamic is left else f"{a} {sign} {name}"
                return f"({test} if ({name} := {source}).__class__ is not bool else unsure())"
        helper = "less_or_equal" if "=" in sign else "less"
        return f"{helper}({a}, {b})" if "<" in sign else f"{helper}({b}, {a})"

    def _in(self, node: Call) -> str:
        needle, container = node.args
        value = self.value(needle)
        if isinstance(container, Many) and container.type == "list":
            constants = [part for part in container.elements if isinstance(part, Constant)]
            if constants and len(constants) == len(container.elements):
                simple = all(
                    isinstance(part.value, str) or (_plain_number(part) and part.value not in (0, 1))
                    for part in constants
                )
                if simple:
                    return f"({value} in ({', '.join(_literal(part.value) for part in constants)},))"
        source = self.value(container)
        if needle.type == "string" and container.type == "map":
            return f"({value} in {source})"
        return f"contains({value}, {source})"

    def _index(self, node: Call) -> str:
        container, key = node.args
        source, value = self.value(container), self.value(key)
        return f"{source}[{value}]" if key.type == "string" else f"index({source}, {value})"

    def _size(self, node: Call) -> str:
        (operand,) = node.args
        source = self.value(operand)
        return f"len({source})" if operand.type in ("string", "list", "map") else f"size({source})"

    def _text(self, node: Call) -> str:
        target, part = (
            self.value(arg) if arg.type == "string" else f"text({self.value(arg)})" for arg in node.args
        )
        if node.function == "contains":
            return f"({part} in {target})"
        return f"{target}.{node.function.lower()}({part})"

    def _dyn(self, node: Call) -> str:
        # A call and not the bare value: Python warns about a literal that is indexed or compared by `is`.
        return f"same({self.value(node.args[0])})"

    def _moment(self, function: str, arg: Node) -> str:
        if arg.type == function:
            return self.value(arg)
        if not isinstance(arg, Constant) or not isinstance(arg.value, str):
            raise UnsupportedError
        try:
            # A fraction of a microsecond would be lost, so such a constant is left to the library.
            value = _library.exact_constant(function, arg.value)
        except _library.RefusedError:
            raise UnsupportedError from None
        name = f"k{len(self.constants)}"
        self.constants[name] = value
        return name

    def _shift(self, function: str, args: tuple[Node, ...]) -> str:
        """The difference of two moments, or a moment and a duration: exact in microseconds and in the same range."""
        kinds = tuple(arg.type for arg in args)
        if function == "_-_" and kinds == ("timestamp", "timestamp"):
            return f"({self.value(args[0])} - {self.value(args[1])})"
        if function in ("_+_", "_-_") and sorted(kinds) == ["duration", "timestamp"]:
            return f"({self.value(args[0])} {function[1]} {self.value(args[1])})"
        raise UnsupportedError

    def _behavior(self, node: Call) -> str:
        if node.function == _behavior.SEGMENT:
            return f"behavior.in_segment({_behavior.segment(node)!r})"
        ask = _behavior.ask(node)
        parts = (ask.name, ask.property, ask.window_us) if ask.property else (ask.name, ask.window_us)
        call = f"behavior.{ask.function}({', '.join(map(repr, parts))})"
        return f"happened({call})" if ask.function in EVENT_FUNCTIONS else call

    def _temporary(self) -> str:
        self._temporaries += 1
        return f"t{self._temporaries}"


_OPERATORS: Final[Mapping[tuple[str, int], Callable[[_Generator, Call], str]]] = {
    ("_&&_", 2): _Generator._chain,
    ("_||_", 2): _Generator._chain,
    ("!_", 1): _Generator._not,
    ("_?_:_", 3): _Generator._ternary,
    ("_==_", 2): _Generator._equal,
    ("_!=_", 2): _Generator._differ,
    ("_<_", 2): _Generator._order,
    ("_<=_", 2): _Generator._order,
    ("_>_", 2): _Generator._order,
    ("_>=_", 2): _Generator._order,
    ("@in", 2): _Generator._in,
    ("_[_]", 2): _Generator._index,
    ("size", 1): _Generator._size,
    ("startsWith", 2): _Generator._text,
    ("endsWith", 2): _Generator._text,
    ("contains", 2): _Generator._text,
    ("dyn", 1): _Generator._dyn,
}


def _joined(conditions: list[str], function: str) -> str:
    return conditions[0] if len(conditions) == 1 else f"({_CHAINS[function].join(conditions)})"


def _absorbs(node: Node) -> bool:
    return isinstance(node, Call) and node.function in _CHAINS


def _plain_number(node: Constant) -> bool:
    """A number that compares with any other in Python as it does in CEL."""
    return node.type in _NUMBERS and isinstance(node.value, int | float) and abs(node.value) <= EXACT_INT


def _literal(value: object) -> str:
    if value is None or isinstance(value, bool | int | str):
        return repr(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    raise UnsupportedError
