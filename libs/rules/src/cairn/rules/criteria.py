"""From a source to a compiled criteria: the order of the steps, and the one function that others call."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from cairn.rules import _analysis, _behavior, _generate, _library, _operators, _problems
from cairn.rules._checked_ast import Call, Node, TooDeepError, decode, operands, walk
from cairn.rules.model import Criteria, CriteriaError, CriteriaFailed, Evaluate, Problem, Scope

_CACHED: Final = 4096
_REFERENCE: Final = "return reference(event, entry, profile, behavior)"
# What checking resolves so that nothing is left to see of it: a leading dot, `has(event.name)`; a comment hides both.
_HIDDEN: Final = re.compile(
    r"(?:^|\bin|[^\w\s\])}\"'`])\s*\.\s*[A-Za-z_`]|has\s*\(\s*(?:event|entry)\s*\.\s*\w+\s*\)|//"
)
_OTHERWISE: Final = ("    except Exception:", f"        {_REFERENCE}")


def compile_criteria(source: str, scope: Scope) -> Criteria:
    """The criteria that a CEL expression states; the same one for the same source while it is remembered.

    Raises CriteriaError, and nothing else, with all that is wrong with the source.
    """
    return _compile(source, scope)


@lru_cache(maxsize=_CACHED)
def _compile(source: str, scope: Scope) -> Criteria:
    if problem := _problems.unreadable(source):
        raise CriteriaError((problem,))
    expression, root, nodes = _check(source, scope)

    def load() -> tuple[str, Evaluate]:
        return _load(root, expression)

    asks, segments = _behavior.calls(nodes)
    roots = _analysis.roots(nodes)
    names = _analysis.event_names(root) if "event" in roots else frozenset[str]()
    needed = _analysis.event_names_needed(root)
    return Criteria(
        source=source,
        scope=scope,
        reads_event="event" in roots,
        reads_entry="entry" in roots,
        reads_profile="profile" in roots,
        reads_behavior=bool(asks or segments),
        asks=asks,
        segments=segments,
        event_names=None if names is None else names.union(ask.name for ask in asks),
        event_names_needed=needed,
        is_by_name=_analysis.is_by_name(root),
        needs_event=needed is not None or _analysis.fails_without(root, "event"),
        tree=root,
        load=load,
    )


def _check(source: str, scope: Scope) -> tuple[_library.Expression, Node, list[Node]]:
    """The expression, its tree and the tree's nodes; raises CriteriaError."""
    try:
        expression = _library.check(source, scope)
        root = decode(expression.serialized)
        nodes = list(walk(root))
        problems = list(_problems.misused(source, nodes))
        if _HIDDEN.search(source):
            problems += _problems.misused(source, list(walk(decode(_library.parse(source, scope)))))
    except TooDeepError:
        raise CriteriaError((_problems.too_deep(),)) from None
    except _library.RefusedError as refused:
        raise _refused(source, scope, str(refused)) from None
    if root.type not in ("bool", "dyn") and not problems:
        problems.append(_problems.result_type(root.type))
    if problems:
        raise _error(problems)
    return expression, root, nodes


def _refused(source: str, scope: Scope, refusal: str) -> CriteriaError:
    """All that is wrong with a source that the library refused, what it does not know of included."""
    try:
        nodes = list(walk(decode(_library.parse(source, scope))))
    except TooDeepError:
        return CriteriaError((_problems.too_deep(),))
    except _library.RefusedError as unparsed:
        return _error(_problems.translate(str(unparsed), source, scope, said=False))
    problems = list(_problems.misused(source, nodes))
    return _error([*problems, *_problems.translate(refusal, source, scope, said=bool(problems))])


def _error(problems: Iterable[Problem]) -> CriteriaError:
    return CriteriaError(
        tuple(sorted(set(problems), key=lambda problem: (problem.line, problem.column, problem.message)))
    )


def _python(root: Node) -> tuple[str, Mapping[str, Any]]:
    """The source of a function `evaluate`, and the names that it needs besides the operators."""
    lines = ["def evaluate(event, entry, profile, behavior=None, /):"]
    for name in ("event", "entry", "behavior"):
        if _analysis.fails_without(root, name):
            why = _library.NO_BEHAVIOR if name == "behavior" else _library.NO_EVENT
            lines += [f"    if {name} is None:", f"        raise CriteriaFailed({why!r})"]
    lines += _without_event(root)
    try:
        generated = _generate.generate(root)
    except _generate.UnsupportedError:
        return "\n".join([*lines, f"    {_REFERENCE}", ""]), {}
    if generated.first:
        test = generated.first if generated.verdict else f"not {generated.first}"
        lines += ["    try:", f"        if {test}:", f"            return {generated.verdict}", *_OTHERWISE]
    lines += ["    try:", f"        return {generated.last}"]
    if generated.certain:
        lines += ["    except KeyError:", f"        raise CriteriaFailed({_library.NO_KEY!r}) from None"]
        if "happened(" in generated.last:
            failed = f"        raise CriteriaFailed({_library.NO_SUCH_EVENT!r}) from None"
            lines += ["    except MissingEventError:", failed]
    return "\n".join([*lines, *_OTHERWISE, ""]), generated.constants


def _without_event(root: Node) -> list[str]:
    """For an input that is no event, what is left of a chain of which some parts fail without one: timers and changes of profiles
    are many, and the library that would decide is slow."""
    function = root.function if isinstance(root, Call) and root.function in ("_&&_", "_||_") else ""
    if not function or _analysis.fails_without(root, "event"):
        return []
    parts = operands(root, function)
    rest = [part for part in parts if not _analysis.fails_without(part, "event")]
    if len(rest) == len(parts) or "event" in _analysis.roots([node for part in rest for node in walk(part)]):
        return []
    try:
        test = _generate.conditions(rest, function)
    except _generate.UnsupportedError:
        return []
    verdict = function == "_||_"
    return [
        "    if event is None:",
        "        try:",
        f"            if {test if verdict else f'not {test}'}:",
        f"                return {verdict}",
        "        except Exception:",
        f"            {_REFERENCE}",
        f"        raise CriteriaFailed({_library.NO_EVENT!r})",
    ]


def _load(root: Node, expression: _library.Expression) -> tuple[str, Evaluate]:
    """The generated source, and the function that it makes."""
    python, names = _python(root)
    namespace: dict[str, Any] = {
        **_operators.NAMESPACE,
        **names,
        "reference": expression.evaluate,
        "CriteriaFailed": CriteriaFailed,
        "MissingEventError": _operators.MissingEventError,
    }
    exec(compile(python, "<criteria>", "exec"), namespace)  # noqa: S102 - made from tree nodes, never from text
    evaluate: Evaluate = namespace["evaluate"]
    return python, evaluate
