"""The checked syntax tree of a criteria as plain values; owns how it is decoded, refuses to know what it means.

The library serializes a compiled expression as the protobuf message `CheckedExpr` of CEL's own specification. The
few fields that we need are mirrored here by number (a field left out is skipped by the decoder), and the message is
turned into frozen values at once, so that nothing else in the package touches protobuf.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

_PACKAGE: Final = "cairn.rules.checked"
_FIELD: Final = descriptor_pb2.FieldDescriptorProto

# message -> its fields: (name, number, type); "*" repeats, a capital letter names another message of this table.
_MESSAGES: Final[Mapping[str, tuple[tuple[str, int, str], ...]]] = {
    "Any": (("type_url", 1, "string"), ("value", 2, "bytes")),
    "Parsed": (("expr", 2, "Expr"), ("source_info", 3, "SourceInfo")),
    "Checked": (("types", 3, "*TypeEntry"), ("expr", 4, "Expr"), ("source_info", 5, "SourceInfo")),
    "TypeEntry": (("key", 1, "int64"), ("value", 2, "Type")),
    "SourceInfo": (("positions", 4, "*Position"),),
    "Position": (("key", 1, "int64"), ("value", 2, "int32")),
    "Type": (
        ("null", 2, "int64"),
        ("primitive", 3, "int64"),
        ("well_known", 5, "int64"),
        ("list_type", 6, "Nothing"),
        ("map_type", 7, "MapType"),
        ("type", 11, "Nothing"),
        ("dyn", 1, "Nothing"),
    ),
    "MapType": (("key_type", 1, "Type"),),
    "Nothing": (),
    "Expr": (
        ("id", 2, "int64"),
        ("const_expr", 3, "Constant"),
        ("ident_expr", 4, "Ident"),
        ("select_expr", 5, "Select"),
        ("call_expr", 6, "Call"),
        ("list_expr", 7, "List"),
        ("struct_expr", 8, "Struct"),
        ("comprehension_expr", 9, "Comprehension"),
    ),
    "Constant": (
        ("null_value", 1, "int64"),
        ("bool_value", 2, "bool"),
        ("int64_value", 3, "int64"),
        ("uint64_value", 4, "uint64"),
        ("double_value", 5, "double"),
        ("string_value", 6, "string"),
        ("bytes_value", 7, "bytes"),
    ),
    "Ident": (("name", 1, "string"),),
    "Select": (("operand", 1, "Expr"), ("field", 2, "string"), ("test_only", 3, "bool")),
    "Call": (("target", 1, "Expr"), ("function", 2, "string"), ("args", 3, "*Expr")),
    "List": (("elements", 1, "*Expr"),),
    "Struct": (("message_name", 1, "string"), ("entries", 2, "*Entry")),
    "Entry": (("map_key", 3, "Expr"), ("value", 4, "Expr")),
    "Comprehension": (
        ("iter_var", 1, "string"),
        ("iter_range", 2, "Expr"),
        ("accu_var", 3, "string"),
        ("accu_init", 4, "Expr"),
        ("loop_condition", 5, "Expr"),
        ("loop_step", 6, "Expr"),
        ("result", 7, "Expr"),
    ),
}
# Fields of which a message holds at most one, where "which one" or "there at all" matters for a scalar.
_ONEOFS: Final = {"Constant": "kind", "Expr": "kind", "Type": "kind"}
# Variables without a dot in their name; any other such name is a macro's, whose type is a guess of the checker.
_DECLARED: Final = frozenset({"profile"})
_PRIMITIVES: Final = {1: "bool", 2: "int", 3: "uint", 4: "double", 5: "string", 6: "bytes"}
_WELL_KNOWN: Final = {2: "timestamp", 3: "duration"}
EVENT_FUNCTIONS: Final = frozenset({"first", "last"})
"""The functions that yield an event, which the library knows as a map."""
_EVENT_TYPES: Final = {"name": "string", "properties": "map", "occur_time": "timestamp"}


def _build_classes() -> Mapping[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(
        name="cairn/rules/checked.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        if name in _ONEOFS:
            message.oneof_decl.add(name=_ONEOFS[name])
        for field_name, number, kind in fields:
            label = _FIELD.LABEL_REPEATED if kind.startswith("*") else _FIELD.LABEL_OPTIONAL
            field = message.field.add(name=field_name, number=number, label=label)
            kind = kind.removeprefix("*")
            if kind in _MESSAGES:
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                field.type = _FIELD.Type.Value(f"TYPE_{kind.upper()}")
            if name in _ONEOFS and field_name != "id":
                field.oneof_index = 0
    # A pool of our own: the mirror must not meet the real messages, which another package may have loaded.
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClassesForFiles([file.name], pool)


_CLASSES: Final = _build_classes()


@dataclass(frozen=True, slots=True)
class Node:
    """A part of an expression: `type` is CEL's name of what it is sure to yield ("dyn" when only its values can
    tell), `offset` its place in the source in characters."""

    type: str
    offset: int


@dataclass(frozen=True, slots=True)
class Constant(Node):
    """A literal: None, bool, int (a CEL uint when `type` says so), float, str or bytes."""

    value: bool | int | float | str | bytes | None


@dataclass(frozen=True, slots=True)
class Ident(Node):
    """A declared variable by its whole name ("event.name", "profile"), or the variable of a macro."""

    name: str


@dataclass(frozen=True, slots=True)
class Select(Node):
    """`operand.field`, or `has(operand.field)` when `test_only`."""

    operand: Node
    field: str
    test_only: bool


@dataclass(frozen=True, slots=True)
class Call(Node):
    """An operator ("_==_", "_&&_", "!_", ...) or a function; a method's target is the first of `args`."""

    function: str
    args: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Many(Node):
    """A list's elements, or (`type` "map") its keys and values in turn; nothing of a "message", which we refuse."""

    elements: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Comprehension(Node):
    """A macro that walks a list or a map's keys: `exists`, `all`, `map`, `filter`, `exists_one`, spelled out."""

    variable: str
    range: Node
    accumulator: str
    initial: Node
    condition: Node
    step: Node
    result: Node


class TooDeepError(Exception):
    """The expression nests deeper than the decoder goes."""


def decode(serialized: bytes) -> Node:
    """The tree of an expression as the library serialized it, checked or only parsed (then every type is "dyn").

    Raises TooDeepError when it nests too far.
    """
    try:
        envelope = _CLASSES[f"{_PACKAGE}.Any"].FromString(serialized)
        checked = envelope.type_url.endswith(".CheckedExpr")
        message = _CLASSES[f"{_PACKAGE}.{'Checked' if checked else 'Parsed'}"].FromString(envelope.value)
    except DecodeError as error:
        raise TooDeepError from error
    types = {entry.key: _type_name(entry.value) for entry in message.types} if checked else {}
    positions = {entry.key: entry.value for entry in message.source_info.positions}
    return _Converter(types, positions).convert(message.expr)


def children(node: Node) -> tuple[Node, ...]:
    """The parts that a node is made of, in the order in which they are written."""
    match node:
        case Select(operand=operand):
            return (operand,)
        case Call(args=args):
            return args
        case Many(elements=elements):
            return elements
        case Comprehension():
            return (node.range, node.initial, node.condition, node.step, node.result)
        case _:
            return ()


def walk(node: Node) -> Iterator[Node]:
    """The node and everything below it, parents before children, in the order in which they are written."""
    pending = [node]
    while pending:
        part = pending.pop()
        yield part
        if below := children(part):
            pending.extend(reversed(below))


def operands(node: Node, function: str) -> list[Node]:
    """The operands of a run of one of `&&` and `||`, which the parser balanced into a tree; else the node itself."""
    if isinstance(node, Call) and node.function == function:
        return [operand for arg in node.args for operand in operands(arg, function)]
    return [node]


def _type_name(message: Any) -> str:
    match message.WhichOneof("kind"):
        case "primitive":
            return _PRIMITIVES.get(message.primitive, "unknown")
        case "well_known":
            return _WELL_KNOWN.get(message.well_known, "unknown")
        case "null":
            return "null"
        case "list_type":
            return "list"
        case "map_type":
            return "map" if message.map_type.key_type.primitive == 5 else "map of other keys"
        case "type":
            return "type"
        case "dyn":
            return "dyn"
        case _:
            return "unknown"


def _settled(type_name: str, function: str, args: tuple[Node, ...]) -> str:
    """The type of a call's value, as far as its arguments settle it.

    The checker infers backwards: in `!profile.a["b"]` it calls the operand a bool, whatever the value will be.
    """
    kinds = tuple(arg.type for arg in args)
    match function:
        case "_[_]" | "dyn":
            return "dyn"
        case "sum":
            # The library knows it as dynamic, so that a person may compare it with 100 as with 100.0.
            return "double"
        case "_?_:_":
            return type_name if args[1].type == args[2].type == type_name else "dyn"
        case "_-_" if kinds == ("timestamp", "timestamp"):
            return "duration"
        case "_-_" if type_name == "duration":
            return "dyn"
        case "_+_" | "_-_" if sorted(kinds) == ["duration", "timestamp"] and kinds[1] != "timestamp":
            return "timestamp"
        case "_+_" | "_-_" | "_*_" | "_/_" | "_%_" | "-_":
            return type_name if any(arg.type == type_name for arg in args) else "dyn"
        case _:
            return type_name


class _Converter:
    """Turns messages into nodes, with the types and places that the library keeps in tables beside the tree."""

    def __init__(self, types: Mapping[int, str], positions: Mapping[int, int]) -> None:
        self._types = types
        self._positions = positions

    def convert(self, expr: Any) -> Node:
        type_name = self._types.get(expr.id, "dyn")
        offset = self._positions.get(expr.id, 0)
        match expr.WhichOneof("kind"):
            case "const_expr":
                constant = expr.const_expr
                kind = constant.WhichOneof("kind")
                return Constant(type_name, offset, None if kind == "null_value" else getattr(constant, kind))
            case "ident_expr":
                name = expr.ident_expr.name
                declared = "." in name or name in _DECLARED
                return Ident(type_name if declared else "dyn", offset, name)
            case "select_expr":
                select = expr.select_expr
                operand = self.convert(select.operand)
                kind = "bool" if select.test_only else "dyn"
                if isinstance(operand, Call) and operand.function in EVENT_FUNCTIONS:
                    kind = _EVENT_TYPES.get(select.field, "dyn")
                return Select(kind, offset, operand, select.field, select.test_only)
            case "call_expr":
                call = expr.call_expr
                target = (call.target,) if call.HasField("target") else ()
                args = tuple(map(self.convert, (*target, *call.args)))
                return Call(_settled(type_name, call.function, args), offset, call.function, args)
            case "list_expr":
                return Many(type_name, offset, tuple(map(self.convert, expr.list_expr.elements)))
            case "struct_expr":
                if expr.struct_expr.message_name:
                    return Many("message", offset, ())
                pairs = [part for entry in expr.struct_expr.entries for part in (entry.map_key, entry.value)]
                return Many(type_name, offset, tuple(map(self.convert, pairs)))
            case "comprehension_expr":
                loop = expr.comprehension_expr
                parts = (loop.accu_init, loop.loop_condition, loop.loop_step, loop.result)
                variable, span, accumulator = loop.iter_var, self.convert(loop.iter_range), loop.accu_var
                return Comprehension(
                    type_name, offset, variable, span, accumulator, *(self.convert(part) for part in parts)
                )
            case _:
                return Node("unknown", offset)
