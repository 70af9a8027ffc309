"""From a source to a compiled criteria: the order of the steps, and the one function that others call."""

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any, Final

from cairn.rules import _analysis, _generate, _library, _operators, _problems
from cairn.rules._checked_ast import Node, TooDeepError, decode
from cairn.rules.model import Criteria, CriteriaError, CriteriaFailed, Evaluate, Problem, Scope

_CACHED: Final = 4096
_REFERENCE: Final = "return reference(event, entry, profile)"
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
    expression, root = _check(source, scope)
    python, names = _python(root, scope)
    return Criteria(
        source=source,
        reads_event=_analysis.reads(root, "event"),
        reads_entry=_analysis.reads(root, "entry"),
        reads_profile=_analysis.reads(root, "profile"),
        event_names=_analysis.event_names(root),
        evaluate=_load(python, names, expression),
        python=python,
    )


def _check(source: str, scope: Scope) -> tuple[_library.Expression, Node]:
    try:
        problems = list(_problems.misused(source, decode(_library.parse(source, scope))))
    except TooDeepError:
        raise CriteriaError((_problems.too_deep(),)) from None
    except _library.RefusedError as refused:
        raise _error(_problems.translate(str(refused), source, scope)) from None
    try:
        expression = _library.check(source, scope)
        root = decode(expression.serialized)
    except TooDeepError:
        raise CriteriaError((_problems.too_deep(),)) from None
    except _library.RefusedError as refused:
        raise _error([*problems, *_problems.translate(str(refused), source, scope)]) from None
    if root.type not in ("bool", "dyn") and not problems:
        problems.append(_problems.result_type(root.type))
    if problems:
        raise _error(problems)
    return expression, root


def _error(problems: Iterable[Problem]) -> CriteriaError:
    return CriteriaError(
        tuple(sorted(set(problems), key=lambda problem: (problem.line, problem.column, problem.message)))
    )


def _python(root: Node, scope: Scope) -> tuple[str, Mapping[str, Any]]:
    """The source of a function `evaluate`, and the names that it needs besides the operators."""
    lines = ["def evaluate(event, entry, profile):"]
    lines += [
        f'    if {name} is None:\n        raise CriteriaFailed("it reads an event where there is none")'
        for name in scope.value
        if name != "profile" and _analysis.fails_without(root, name)
    ]
    try:
        generated = _generate.generate(root)
    except _generate.UnsupportedError:
        return "\n".join([*lines, f"    {_REFERENCE}", ""]), {}
    if generated.first:
        test = generated.first if generated.verdict else f"not {generated.first}"
        lines += ["    try:", f"        if {test}:", f"            return {generated.verdict}", *_OTHERWISE]
    lines += ["    try:", f"        return {generated.last}"]
    if generated.certain:
        lines += [
            "    except KeyError:",
            '        raise CriteriaFailed("it reads a key that is not there") from None',
        ]
    return "\n".join([*lines, *_OTHERWISE, ""]), generated.constants


def _load(python: str, names: Mapping[str, Any], expression: _library.Expression) -> Evaluate:
    namespace: dict[str, Any] = {
        **_operators.NAMESPACE,
        **names,
        "reference": expression.evaluate,
        "CriteriaFailed": CriteriaFailed,
    }
    exec(compile(python, "<criteria>", "exec"), namespace)  # noqa: S102 - made from tree nodes, never from text
    evaluate: Evaluate = namespace["evaluate"]
    return evaluate
