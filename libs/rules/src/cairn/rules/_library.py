"""The only module that touches the CEL library: what criteria may read, parse, check, and reference evaluation.

Owns the library's quirks and its error texts; refuses to let any of its types or exceptions out.
"""

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from cel_expr_python import cel  # type: ignore[import-untyped]  # its stubs come without py.typed

from cairn.rules.model import CriteriaFailed, Scope

EVENT_FIELDS: Final = ("name", "properties", "occur_time")

_ATTRIBUTES: Final = cel.Type.Map(cel.Type.STRING, cel.Type.DYN)
_EVENT_TYPES: Final = dict(zip(EVENT_FIELDS, (cel.Type.STRING, _ATTRIBUTES, cel.Type.TIMESTAMP), strict=True))

# The library tells failures apart only by text; a value may stand in it, so we answer with sentences of our own.
_FAILURES: Final = (
    ("No value with name", "it reads an event where there is none"),
    ("Key not found", "it reads a key that is not there"),
    ("Index error", "it reads an element that is not there"),
    ("divide by zero", "it divides by zero"),
    ("modulus by zero", "it divides by zero"),
    ("OUT_OF_RANGE", "a number is out of range"),
    ("Iteration budget", "it walks through too many values"),
)
_OTHER_FAILURE: Final = "a value is of another type than the expression needs"


class RefusedError(Exception):
    """The library's own text about a source that it can't compile."""


class Expression:
    """A checked expression: the tree for our generator, and the evaluation that settles what it means."""

    def __init__(self, compiled: cel.Expression, scope: Scope) -> None:
        self._compiled = compiled
        self._scope = scope
        self.serialized: bytes = compiled.serialize()

    def evaluate(
        self,
        event: Mapping[str, Any] | None,
        entry: Mapping[str, Any] | None,
        profile: Mapping[str, Any],
    ) -> bool:
        """The answer with all of CEL's semantics, some 7 us; raises CriteriaFailed."""
        data: dict[str, Any] = {"profile": profile}
        for root, value in (("event", event), ("entry", entry)):
            if value is not None and root in self._scope.value:
                data.update({f"{root}.{field}": value[field] for field in EVENT_FIELDS})
        try:
            result = self._compiled.eval(data=data)
            outcome = result.value()
        except Exception as error:  # noqa: BLE001 - text that is not Unicode, a spent budget: this input's failure
            raise CriteriaFailed(_explain(str(error))) from None
        if outcome is True or outcome is False:
            return outcome
        if result.type() == cel.Type.ERROR:
            raise CriteriaFailed(_explain(str(outcome)))
        raise CriteriaFailed("its result is neither true nor false")


def parse(source: str, scope: Scope) -> bytes:
    """The serialized tree of a source whose names and types were not looked at; raises RefusedError."""
    serialized: bytes = _compile(source, scope, check=False).serialize()
    return serialized


def check(source: str, scope: Scope) -> Expression:
    """The expression, its names and types checked; raises RefusedError."""
    return Expression(_compile(source, scope, check=True), scope)


def constant(function: str, text: str) -> Any:
    """The value of `timestamp("...")` or `duration("...")` as a datetime or timedelta; raises RefusedError."""
    try:
        compiled = _environment(Scope.ENTRY).compile(f"{function}(profile.text)")
        result = compiled.eval(data={"profile": {"text": text}})
    except Exception as error:  # noqa: BLE001 - the library names no exceptions of its own
        raise RefusedError(str(error)) from None
    if result.type() == cel.Type.ERROR:
        raise RefusedError(str(result.value()))
    return result.value()


def is_pattern(text: str) -> bool:
    """Whether `matches` can use a text: only when it is run does the library look at it."""
    compiled = _environment(Scope.ENTRY).compile('"".matches(profile.text)')
    try:
        result = compiled.eval(data={"profile": {"text": text}})
    except Exception:  # noqa: BLE001 - the library names no exceptions of its own
        return False
    return bool(result.type() != cel.Type.ERROR)


def _compile(source: str, scope: Scope, *, check: bool) -> cel.Expression:
    try:
        return _environment(scope).compile(source, disable_check=not check)
    except Exception as error:  # noqa: BLE001 - a source never ends in another exception than ours
        raise RefusedError(str(error)) from None


@cache
def _environment(scope: Scope) -> cel.Env:
    # Qualified variables rather than a message type: `event.nam` is a checked error, and properties stay dynamic.
    variables = {"profile": _ATTRIBUTES}
    for root in scope.value:
        if root != "profile":
            variables.update({f"{root}.{field}": kind for field, kind in _EVENT_TYPES.items()})
    return cel.NewEnv(variables=variables)


def _explain(text: str) -> str:
    return next((sentence for fragment, sentence in _FAILURES if fragment in text), _OTHER_FAILURE)
