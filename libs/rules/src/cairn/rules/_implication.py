"""Whether one criteria's holding makes sure of another's: by their structure, and never wrongly yes."""

from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from cairn.rules import _library
from cairn.rules._checked_ast import Call, Constant, Many, Node, Select, children
from cairn.rules._operators import EXACT_INT, UnsureError, equal
from cairn.rules._unparse import UnwritableError, symbol, unparse
from cairn.rules.model import Criteria

_TURNED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}
_LOGIC: Final = frozenset({"_&&_", "_||_", "_?_:_"})
_ORDERS: Final = frozenset({"_<_", "_<=_", "_>_", "_>=_"})
_TESTS: Final = frozenset({"startsWith", "endsWith", "contains"})
_NOTHING: Final = object()

Claim: TypeAlias = tuple[Node, bool]
"""A part of a criteria, and the outcome that it is claimed to have; a failed part has neither outcome."""


def implies(later: Criteria, earlier: Criteria) -> bool:
    """Whether `earlier` is sure to hold on every input on which `later` does; False where that can't be told."""
    try:
        return _Implication().holds((later.tree, True), (earlier.tree, True))
    except UnwritableError:
        return False


@dataclass(frozen=True, slots=True)
class _Fact:
    """What a claim says of the value of `subject`: it "is" one of `values`, is "not" any of them, or compares so with
    the only one ("<", ">=", "startsWith", ...)."""

    subject: str
    relation: str
    values: tuple[Any, ...]


class _Implication:
    """Compares the claims of two trees, each pair once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, bool, int, bool], bool] = {}
        self._facts: dict[tuple[int, bool], _Fact] = {}

    def holds(self, later: Claim, earlier: Claim) -> bool:
        """Whether the one claim makes sure of the other."""
        later, earlier = _stripped(later), _stripped(earlier)
        key = (id(later[0]), later[1], id(earlier[0]), earlier[1])
        if key not in self._known:
            self._known[key] = self._decide(later, earlier)
        return self._known[key]

    def _decide(self, later: Claim, earlier: Claim) -> bool:
        # A conjunction is true exactly if all its parts are, a disjunction if any is, whatever fails beside it; and
        # the same for false with the two exchanged.
        if parts := _parts(earlier, "_&&_"):
            return all(self.holds(later, part) for part in parts)
        if parts := _parts(later, "_||_"):
            return all(self.holds(part, earlier) for part in parts)
        if any(self.holds(later, part) for part in _parts(earlier, "_||_")):
            return True
        if parts := _parts(later, "_&&_"):
            return any(self.holds(part, earlier) for part in parts)
        return self._leaf(later, earlier)

    def _leaf(self, later: Claim, earlier: Claim) -> bool:
        if _settled(later) is False or _settled(earlier) is True:
            return True
        node, outcome = earlier
        if isinstance(node, Select) and node.test_only and outcome and unparse(node) in _found(later[0]):
            return True
        try:
            return _follows(self._fact(later), self._fact(earlier))
        except UnsureError:
            return False

    def _fact(self, claim: Claim) -> _Fact:
        key = (id(claim[0]), claim[1])
        if key not in self._facts:
            self._facts[key] = _fact(claim)
        return self._facts[key]


def _settled(claim: Claim) -> bool | None:
    """Whether a claim about `true` or `false` is right; None of anything else."""
    node, outcome = claim
    return node.value is outcome if isinstance(node, Constant) and isinstance(node.value, bool) else None


def _stripped(claim: Claim) -> Claim:
    node, outcome = claim
    while isinstance(node, Call) and node.function == "!_":
        node, outcome = node.args[0], not outcome
    return node, outcome


def _parts(claim: Claim, function: str) -> tuple[Claim, ...]:
    """The parts that the claim, seen as `&&` or as `||` of claims, consists of; none when it is something else."""
    node, outcome = claim
    if (
        isinstance(node, Call)
        and node.function in ("_&&_", "_||_")
        and (node.function == function) is outcome
    ):
        return tuple((part, outcome) for part in node.args)
    return ()


def _fact(claim: Claim) -> _Fact:
    node, outcome = claim
    match node:
        case Call(function="_==_" | "_!=_" as function, args=args):
            for subject, other in (args, args[::-1]):
                if (value := _constant(other)) is not _NOTHING:
                    relation = "is" if (function == "_==_") is outcome else "not"
                    return _Fact(unparse(subject), relation, (value,))
        case Call(function="@in", args=(subject, Many(type="list", elements=elements))):
            values = tuple(map(_constant, elements))
            if _NOTHING not in values:
                return _Fact(unparse(subject), "is" if outcome else "not", values)
        case Call(function=function, args=(left, right)) if outcome and function in _ORDERS:
            sign = symbol(function)
            for subject, other, relation in ((left, right, sign), (right, left, _TURNED[sign])):
                value = _constant(other)
                # Booleans have an order too, which nobody uses and `_has` does not know.
                if value is not _NOTHING and value is not None and not isinstance(value, bool):
                    return _order(subject, relation, value)
        case Call(function=function, args=(subject, part)) if outcome and function in _TESTS:
            if isinstance(value := _constant(part), str):
                return _Fact(unparse(subject), function, (value,))
        case _:
            pass
    return _Fact(unparse(node), "is", (outcome,))


def _order(subject: Node, sign: str, value: Any) -> _Fact:
    if subject.type == "int" and isinstance(value, int) and sign in ("<", ">"):
        # Between integers `> 4` is `>= 5`.
        sign, value = f"{sign}=", value + (1 if sign == ">" else -1)
    return _Fact(unparse(subject), sign, (value,))


def _constant(node: Node) -> Any:
    """A value that compares in Python as in CEL, or `_NOTHING`."""
    match node:
        case Constant(value=None | bool() | str() as value):
            return value
        case Constant(type="int" | "double", value=int() | float() as value) if abs(value) <= EXACT_INT:
            return value
        case Call(function="timestamp" | "duration" as function, args=(Constant(value=str(text)),)):
            try:
                return _library.exact_constant(function, text)
            except _library.RefusedError:
                return _NOTHING
        case _:
            return _NOTHING


def _follows(known: _Fact, wanted: _Fact) -> bool:
    """Whether a value of which one thing is known has the other; raises UnsureError."""
    if known.subject != wanted.subject:
        return False
    if known == wanted and _same_types(known, wanted):
        return True
    if known.relation == "is":
        return all(_has(value, wanted) for value in known.values)
    if known.relation == "not":
        return wanted.relation == "not" and all(
            any(equal(value, other) for other in known.values) for value in wanted.values
        )
    (limit,) = known.values
    if known.relation in _TESTS:
        return _text_follows(known.relation, limit, wanted)
    if wanted.relation == "not":
        return not any(_has(value, known) for value in wanted.values)
    if wanted.relation not in ("<", "<=", ">", ">=") or known.relation[0] != wanted.relation[0]:
        return False
    # Whatever is beyond the known limit is beyond a limit that the known one has reached or passed.
    strict = wanted.relation in ("<", ">") and known.relation not in ("<", ">")
    return _has(
        limit, _Fact(wanted.subject, wanted.relation if strict else f"{wanted.relation[0]}=", wanted.values)
    )


def _same_types(known: _Fact, wanted: _Fact) -> bool:
    return [type(value) for value in known.values] == [type(value) for value in wanted.values]


def _has(value: Any, fact: _Fact) -> bool:
    """Whether a fact is true of a value."""
    if fact.relation == "is":
        return any(equal(value, other) for other in fact.values)
    if fact.relation == "not":
        return not any(equal(value, other) for other in fact.values)
    (limit,) = fact.values
    if fact.relation in _TESTS:
        return isinstance(value, str) and _text_has(value, fact.relation, limit)
    if not _comparable(value, limit):
        return False
    return bool(
        {"<": value < limit, "<=": value <= limit, ">": value > limit, ">=": value >= limit}[fact.relation]
    )


def _comparable(value: Any, limit: Any) -> bool:
    if isinstance(value, bool) or isinstance(limit, bool) or value is None or limit is None:
        return False
    numbers = isinstance(value, int | float) and isinstance(limit, int | float)
    return numbers or type(value) is type(limit)


def _text_has(text: str, test: str, part: str) -> bool:
    match test:
        case "startsWith":
            return text.startswith(part)
        case "endsWith":
            return text.endswith(part)
        case _:
            return part in text


def _text_follows(test: str, part: str, wanted: _Fact) -> bool:
    """Whether a text of which a part is known passes another test."""
    if wanted.relation not in _TESTS or wanted.relation not in (test, "contains"):
        return False
    return _text_has(part, wanted.relation, wanted.values[0])


def _found(node: Node) -> frozenset[str]:
    """The `has(...)` that are sure to be true where the node has an outcome at all: it reads what they ask for."""
    found = set()
    pending = [node]
    while pending:
        part = pending.pop()
        match part:
            case Call(function=function) if function in _LOGIC:
                continue
            case Select(operand=operand, field=field, test_only=False):
                found.add(unparse(Select("bool", part.offset, operand, field, True)))
            case _:
                pass
        pending.extend(children(part)[:1] if not isinstance(part, Select | Call | Many) else children(part))
    return frozenset(found)
