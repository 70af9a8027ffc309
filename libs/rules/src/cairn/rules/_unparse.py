"""From a tree back to canonical CEL: one spelling for one meaning, which compiles to the same tree again."""

import json
import math
import re
from collections.abc import Mapping
from typing import Final

from cairn.rules._checked_ast import Call, Comprehension, Constant, Ident, Many, Node, Select, operands


class UnwritableError(Exception):
    """The tree has a part that no criteria is made of."""


# How tightly a form binds, loosest first; an operand that binds less tightly than its place asks for gets brackets.
_CHOICE, _OR, _AND, _RELATION, _SUM, _PRODUCT, _UNARY, _MEMBER = range(8)
_BINARY: Final[Mapping[str, tuple[str, int]]] = {
    "_||_": ("||", _OR),
    "_&&_": ("&&", _AND),
    "_==_": ("==", _RELATION),
    "_!=_": ("!=", _RELATION),
    "_<_": ("<", _RELATION),
    "_<=_": ("<=", _RELATION),
    "_>_": (">", _RELATION),
    "_>=_": (">=", _RELATION),
    "@in": ("in", _RELATION),
    "_+_": ("+", _SUM),
    "_-_": ("-", _SUM),
    "_*_": ("*", _PRODUCT),
    "_/_": ("/", _PRODUCT),
    "_%_": ("%", _PRODUCT),
}
# Functions that are written before their arguments; all others are methods of the first one.
_PREFIX: Final = frozenset(
    [
        "size",
        "int",
        "uint",
        "double",
        "string",
        "bytes",
        "bool",
        "timestamp",
        "duration",
        "type",
        "dyn",
        "count",
        "sum",
        "first",
        "last",
        "in_segment",
    ]
)
_FIELD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RESERVED: Final = frozenset(
    [
        "in",
        "as",
        "break",
        "const",
        "continue",
        "else",
        "for",
        "function",
        "if",
        "import",
        "let",
        "loop",
        "package",
        "namespace",
        "return",
        "var",
        "void",
        "while",
        "true",
        "false",
        "null",
    ]
)


def unparse(node: Node) -> str:
    """The node in canonical CEL; raises UnwritableError."""
    return _form(node)[0]


def symbol(function: str) -> str:
    """How an operator's function is written: "_==_" as "=="."""
    return _BINARY[function][0]


def macro(node: Comprehension) -> tuple[Node, str]:
    """What a macro walks, and the rest of its text, as in `exists(x, x > 1)`; raises UnwritableError."""
    name, *parts = _macro(node)
    texts = [unparse(part) if isinstance(part, Node) else part for part in parts]
    return node.range, f"{name}({', '.join([node.variable, *texts])})"


def _at_least(level: int, node: Node) -> str:
    text, own = _form(node)
    return text if own >= level else f"({text})"


def _form(node: Node) -> tuple[str, int]:
    match node:
        case Constant():
            return _constant(node)
        case Ident(name=name):
            return name, _MEMBER
        case Select(operand=operand, field=field, test_only=test_only):
            name = field if _FIELD.fullmatch(field) and field not in _RESERVED else f"`{field}`"
            text = f"{_at_least(_MEMBER, operand)}.{name}"
            return (f"has({text})" if test_only else text), _MEMBER
        case Call():
            return _call(node)
        case Many(type="list", elements=elements):
            return f"[{', '.join(map(unparse, elements))}]", _MEMBER
        case Many(type=kind, elements=elements) if kind != "message":
            texts = list(map(unparse, elements))
            pairs = zip(texts[::2], texts[1::2], strict=True)
            return f"{{{', '.join(f'{key}: {value}' for key, value in pairs)}}}", _MEMBER
        case Comprehension():
            span, rest = macro(node)
            return f"{_at_least(_MEMBER, span)}.{rest}", _MEMBER
        case _:
            raise UnwritableError


def _constant(node: Constant) -> tuple[str, int]:
    value = node.value
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value], _MEMBER
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False), _MEMBER
    if isinstance(value, bytes):
        return f'b"{"".join(f"{chr(92)}x{byte:02x}" for byte in value)}"', _MEMBER
    if isinstance(value, float):
        return (repr(value) if math.isfinite(value) else "1e999"), _UNARY
    # A number is put in brackets wherever more than an operand stands: `-(1)` is not the constant -1.
    return (f"{value}u" if node.type == "uint" else str(value)), _UNARY


def _call(node: Call) -> tuple[str, int]:
    function, args = node.function, node.args
    if function in ("_&&_", "_||_"):
        sign, level = _BINARY[function]
        return f" {sign} ".join(_at_least(level + 1, part) for part in operands(node, function)), level
    if function in _BINARY:
        sign, level = _BINARY[function]
        left, right = args
        return f"{_at_least(level, left)} {sign} {_at_least(level + 1, right)}", level
    match function, args:
        case "_?_:_", (test, yes, no):
            return f"{_at_least(_OR, test)} ? {_at_least(_OR, yes)} : {_at_least(_CHOICE, no)}", _CHOICE
        case "!_" | "-_", (operand,):
            return f"{function[0]}{_at_least(_MEMBER, operand)}", _UNARY
        case "_[_]", (container, key):
            return f"{_at_least(_MEMBER, container)}[{unparse(key)}]", _MEMBER
        case _:
            pass
    if not _FIELD.fullmatch(function):
        raise UnwritableError
    if function in _PREFIX or not args:
        return f"{function}({', '.join(map(unparse, args))})", _MEMBER
    target, *others = args
    return f"{_at_least(_MEMBER, target)}.{function}({', '.join(map(unparse, others))})", _MEMBER


def _macro(node: Comprehension) -> tuple[str | Node, ...]:
    """The name of the macro that was spelled out so, and what follows its variable."""

    def accumulator(part: Node) -> bool:
        return isinstance(part, Ident) and part.name == node.accumulator

    match node.initial, node.step, node.result:
        case Constant(value=True), Call(function="_&&_", args=(_, test)), _:
            return "all", test
        case Constant(value=False), Call(function="_||_", args=(_, test)), _:
            return "exists", test
        case Constant(value=0), Call(function="_?_:_", args=(test, _, _)), Call(function="_==_"):
            return "exists_one", test
        case Many(), Call(function="_+_", args=(before, Many(elements=(made,)))), after if accumulator(
            before
        ) and accumulator(after):
            return "map", made
        case Many(), Call(function="_?_:_", args=(test, step, _)), _:
            match step:
                case Call(function="_+_", args=(_, Many(elements=(Ident(name=node.variable),)))):
                    return "filter", test
                case Call(function="_+_", args=(_, Many(elements=(made,)))):
                    return "map", test, made
                case _:
                    raise UnwritableError
        case _:
            raise UnwritableError
