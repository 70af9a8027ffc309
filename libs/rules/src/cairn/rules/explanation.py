"""Why a criteria holds or not on an input, part by part, for people; owns the words, refuses to decide anything.

Every verdict and every value comes from the library's reference evaluation of the part as `_unparse` writes it.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from cairn.rules import _behavior, _library, _words
from cairn.rules._checked_ast import Call, Comprehension, Ident, Node, Select, children, operands, walk
from cairn.rules._unparse import UnwritableError, unparse
from cairn.rules.model import Behavior, Criteria, CriteriaFailed, Scope

Verdict: TypeAlias = Literal["TRUE", "FALSE", "FAILED"]
Operator: TypeAlias = Literal["", "&&", "||", "!", "?:"]

_LOGIC: Final[Mapping[str, Operator]] = {"_&&_": "&&", "_||_": "||", "!_": "!", "_?_:_": "?:"}
_ABSENCES: Final = (_library.NO_KEY, _library.NO_ELEMENT, _library.NO_EVENT, _library.NO_SUCH_EVENT)
_OPPOSITE: Final[Mapping[Verdict, Verdict]] = {"TRUE": "FALSE", "FALSE": "TRUE", "FAILED": "FAILED"}


@dataclass(frozen=True, slots=True)
class Explanation:
    """One part of a criteria on one input; `children` are the operands of `&&`, `||`, `!` and `? :`, in order.

    `text` is the part in canonical CEL. A leaf says in `saw` what it met ("`profile.seats` was 40") and in `needed`
    what should have been there ("> 50"; below a `!` the opposite). `why` is the kind of a failure, with the path that
    is not there.
    """

    text: str
    verdict: Verdict
    saw: str = ""
    needed: str = ""
    why: str = ""
    operator: Operator = ""
    children: tuple["Explanation", ...] = ()

    @property
    def satisfied(self) -> float:
        """The share of it that holds, from 0 to 1, and 1 where it is true: to rank near misses.

        `&&` has the mean of its parts, `||` the best of them, `!` the opposite, a choice what its branch has.
        """
        return self._satisfied(True)

    def sentence(self) -> str:
        """The part in one line, such as "`profile.seats` was 40, needed > 50"; of a whole, what it misses."""
        if self.children:
            missing = "; ".join(leaf.sentence() for leaf in self.missing())
            return missing or f"`{self.text}` is {self.verdict.lower()}"
        if not self.saw:
            return f"`{self.text}` is {self.verdict.lower()}{f': {self.why}' if self.why else ''}"
        line = f"{self.saw}, needed {self.needed}" if self.needed else self.saw
        told = not self.why or self.why.startswith(_ABSENCES)
        return line if told else f"{line}, but {self.why}"

    def missing(self) -> tuple["Explanation", ...]:
        """The leaves that would have to change for it to hold: all of an `&&`, those of the best part of an `||`."""
        return tuple(self._missing(True))

    def _satisfied(self, wanted: bool) -> float:
        if not self.children:
            return float(self.verdict == ("TRUE" if wanted else "FALSE"))
        if self.operator == "!":
            return self.children[0]._satisfied(not wanted)
        if self.operator == "?:":
            branch = self._branch()
            return branch._satisfied(wanted) if branch else 0.0
        shares = [child._satisfied(wanted) for child in self.children]
        return sum(shares) / len(shares) if (self.operator == "&&") is wanted else max(shares)

    def _missing(self, wanted: bool) -> Iterator["Explanation"]:
        if not self.children:
            if self.verdict != ("TRUE" if wanted else "FALSE"):
                yield self
        elif self.operator == "!":
            yield from self.children[0]._missing(not wanted)
        elif self.operator == "?:":
            branch = self._branch()
            yield from branch._missing(wanted) if branch else self.children[0]._missing(True)
        elif (self.operator == "&&") is wanted:
            for child in self.children:
                yield from child._missing(wanted)
        else:
            yield from max(self.children, key=lambda child: child._satisfied(wanted))._missing(wanted)

    def _branch(self) -> "Explanation | None":
        test, yes, no = self.children
        return {"TRUE": yes, "FALSE": no}.get(test.verdict)


def explain(
    criteria: Criteria,
    event: Mapping[str, Any] | None,
    entry: Mapping[str, Any] | None,
    profile: Mapping[str, Any],
    behavior: Behavior | None = None,
) -> Explanation:
    """The criteria's parts on one input, the root's verdict being what `evaluate` says; takes milliseconds."""
    inputs = _Inputs(event, entry, profile, behavior)
    verdict, why = _decided(criteria.evaluate, inputs)
    try:
        root = _Explainer(criteria.scope, inputs).explain(criteria.tree, wanted=True)
    except UnwritableError:
        return Explanation(criteria.source, verdict, why=why)
    # Each part alone may stay below the budget of steps that the whole exceeds.
    return root if root.verdict == verdict else replace(root, verdict=verdict, why=why)


class _Inputs(NamedTuple):
    event: Mapping[str, Any] | None
    entry: Mapping[str, Any] | None
    profile: Mapping[str, Any]
    behavior: Behavior | None


def _decided(evaluate: Any, inputs: _Inputs) -> tuple[Verdict, str]:
    try:
        return ("TRUE" if evaluate(*inputs) else "FALSE"), ""
    except CriteriaFailed as failed:
        return "FAILED", str(failed)


@lru_cache(maxsize=2048)
def _expression(text: str, scope: Scope) -> _library.Expression:
    try:
        return _library.check(text, scope)
    except _library.RefusedError as refused:
        raise UnwritableError from refused


class _Explainer:
    """Explains the parts of one criteria on one input."""

    def __init__(self, scope: Scope, inputs: _Inputs) -> None:
        self._scope = scope
        self._inputs = inputs

    def explain(self, node: Node, *, wanted: bool) -> Explanation:
        """The node's tree; `wanted` is the outcome for which a leaf's words are chosen."""
        if not isinstance(node, Call) or node.function not in _LOGIC:
            return self._leaf(node, wanted=wanted)
        operator = _LOGIC[node.function]
        parts = operands(node, node.function) if operator in ("&&", "||") else list(node.args)
        ways = {"!": [not wanted], "?:": [True, wanted, wanted]}.get(operator, [wanted] * len(parts))
        found = tuple(self.explain(part, wanted=way) for part, way in zip(parts, ways, strict=True))
        verdict = _combined(operator, [child.verdict for child in found])
        why = next((child.why for child in found if child.why), "") if verdict == "FAILED" else ""
        return Explanation(unparse(node), verdict, why=why, operator=operator, children=found)

    def _leaf(self, node: Node, *, wanted: bool) -> Explanation:
        text = unparse(node)
        verdict, why = _decided(_expression(text, self._scope).evaluate, self._inputs)
        if why.startswith(_ABSENCES):
            why = f"{why}: {unparse(self._culprit(node))}"
        if isinstance(node, Select) and node.test_only:
            path = text.removeprefix("has(").removesuffix(")")
            saw, needed = (self._saw(node) or f"`{path}` is {'' if verdict == 'TRUE' else 'not '}there"), ""
        else:
            seen, needed = _words.needed(node, wanted=wanted)
            saw = " and ".join(filter(None, map(self._saw, seen)))
        return Explanation(text, verdict, saw, needed, why)

    def _saw(self, node: Node) -> str:
        """What a part yielded, in words; nothing where it is written out, or where it failed for its type."""
        test = isinstance(node, Select) and node.test_only
        if not _reads(node):
            return ""
        try:
            value = self._value(node)
        except CriteriaFailed as failed:
            return f"`{unparse(self._culprit(node))}` is not there" if str(failed) in _ABSENCES else ""
        return "" if test else f"`{unparse(node)}` was {_words.value(value)}"

    def _value(self, node: Node) -> Any:
        return _expression(unparse(node), self._scope).value(*self._inputs)

    def _culprit(self, node: Node) -> Node:
        """The innermost part whose own failure made the node fail."""
        below = (node.range,) if isinstance(node, Comprehension) else children(node)
        for child in below:
            try:
                self._value(child)
            except CriteriaFailed:
                return self._culprit(child)
        return node


def _reads(node: Node) -> bool:
    return any(
        isinstance(part, Ident) or (isinstance(part, Call) and part.function in _behavior.FUNCTIONS)
        for part in walk(node)
    )


def _combined(operator: Operator, verdicts: list[Verdict]) -> Verdict:
    """What the operands' verdicts make together, in CEL's logic: a failure is absorbed where it can't matter."""
    match operator, verdicts:
        case "!", [verdict]:
            return _OPPOSITE[verdict]
        case "?:", [test, yes, no]:
            return {"TRUE": yes, "FALSE": no, "FAILED": test}[test]
        case _:
            decisive: Verdict = "FALSE" if operator == "&&" else "TRUE"
            if decisive in verdicts:
                return decisive
            return "FAILED" if "FAILED" in verdicts else _OPPOSITE[decisive]
