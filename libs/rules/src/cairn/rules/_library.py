"""The only module that touches the CEL library: what criteria may read, parse, check, and reference evaluation.

Owns the library's quirks and its error texts; refuses to let any of its types or exceptions out.
"""

import re
from collections.abc import Callable, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, Final

from cel_expr_python import cel  # type: ignore[import-untyped]  # its stubs come without py.typed
from google.protobuf.timestamp_pb2 import Timestamp

from cairn.rules.model import Behavior, CriteriaFailed, Scope

EVENT_FIELDS: Final = ("name", "properties", "occur_time")

_TEXT: Final = cel.Type.STRING
_ATTRIBUTES: Final = cel.Type.Map(_TEXT, cel.Type.DYN)
_EVENT_TYPES: Final = dict(zip(EVENT_FIELDS, (_TEXT, _ATTRIBUTES, cel.Type.TIMESTAMP), strict=True))
# name -> what it yields, and its parameters in each form. A sum is dynamic, or the checker would refuse `sum(...) > 100`;
# an event is a map, for the library can't be told of other types that have fields and dynamic properties.
_FUNCTIONS: Final[Mapping[str, tuple[cel.Type, tuple[tuple[cel.Type, ...], ...]]]] = {
    "count": (cel.Type.INT, ((_TEXT,), (_TEXT, cel.Type.DURATION))),
    "sum": (cel.Type.DYN, ((_TEXT, _TEXT, cel.Type.DURATION),)),
    "first": (_ATTRIBUTES, ((_TEXT,), (_TEXT, cel.Type.DURATION))),
    "last": (_ATTRIBUTES, ((_TEXT,), (_TEXT, cel.Type.DURATION))),
    "in_segment": (cel.Type.BOOL, ((_TEXT,),)),
}

NO_EVENT: Final = "it reads an event where there is none"
NO_KEY: Final = "it reads a key that is not there"
NO_ELEMENT: Final = "it reads an element that is not there"
NO_SUCH_EVENT: Final = "there is no such event"
NO_BEHAVIOR: Final = "it asks for behavior where none is given"
NOT_A_CONDITION: Final = "its result is neither true nor false"
_NO_ANSWER: Final = "the profile's behavior gave no answer"
# The library tells failures apart only by text; a value may stand in it, so we answer with sentences of our own.
_FAILURES: Final = (
    (NO_SUCH_EVENT, NO_SUCH_EVENT),
    (NO_BEHAVIOR, NO_BEHAVIOR),
    (_NO_ANSWER, _NO_ANSWER),
    ("No value with name", NO_EVENT),
    ("Key not found", NO_KEY),
    ("Index error", NO_ELEMENT),
    ("divide by zero", "it divides by zero"),
    ("modulus by zero", "it divides by zero"),
    ("OUT_OF_RANGE", "a number is out of range"),
    ("Iteration budget", "it walks through too many values"),
)
_MICROSECOND: Final = timedelta(microseconds=1)
_OTHER_FAILURE: Final = "a value is of another type than the expression needs"


class RefusedError(Exception):
    """The library's own text about a source that it can't compile."""


class Expression:
    """A checked expression: the tree for our generator, and the evaluation that settles what it means."""

    def __init__(self, compiled: cel.Expression, scope: Scope) -> None:
        self._compiled = compiled
        self._scope = scope
        self.serialized: bytes = compiled.serialize()
        # At least those that it calls: a text may look like a name.
        self._functions = [name for name in _FUNCTIONS if name.encode() in self.serialized]

    def evaluate(
        self,
        event: Mapping[str, Any] | None,
        entry: Mapping[str, Any] | None,
        profile: Mapping[str, Any],
        behavior: Behavior | None = None,
    ) -> bool:
        """The answer with all of CEL's semantics, some 7 us, 15 and more with behavior; raises CriteriaFailed."""
        outcome = self.value(event, entry, profile, behavior)
        if outcome is True or outcome is False:
            return outcome
        raise CriteriaFailed(NOT_A_CONDITION)

    def value(
        self,
        event: Mapping[str, Any] | None,
        entry: Mapping[str, Any] | None,
        profile: Mapping[str, Any],
        behavior: Behavior | None = None,
    ) -> Any:
        """What an expression of any type yields, as plain Python; raises CriteriaFailed."""
        data: dict[str, Any] = {"profile": profile}
        for root, value in (("event", event), ("entry", entry)):
            if value is not None and root in self._scope.value:
                data.update({f"{root}.{field}": value[field] for field in EVENT_FIELDS})
        try:
            functions = _bound(behavior, self._functions) if self._functions else None
            result = self._compiled.eval(data=data, functions=functions)
            outcome = result.plain_value()
        except Exception as error:  # noqa: BLE001 - text that is not Unicode, a spent budget: this input's failure
            raise CriteriaFailed(_explain(str(error))) from None
        if result.type() == cel.Type.ERROR:
            raise CriteriaFailed(_explain(str(outcome)))
        return outcome


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


def exact_constant(function: str, text: str) -> Any:
    """As `constant`, for texts that are sure to be whole microseconds; raises RefusedError for others."""
    if re.search(r"\.\d{7}|ns", text) or (function == "duration" and "." in text):
        raise RefusedError(text)
    return constant(function, text)


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
    # Declared in an extension and without code, a function is looked for among those given to each evaluation.
    functions = cel.CelExtension("cairn", [_declared(name) for name in _FUNCTIONS])
    return cel.NewEnv(variables=variables, extensions=[functions])


def _declared(name: str) -> cel.FunctionDecl:
    result, forms = _FUNCTIONS[name]
    return cel.FunctionDecl(
        name, [cel.Overload(f"{name}_{len(form)}", result, list(form), is_member=False) for form in forms]
    )


def _bound(behavior: Behavior | None, names: list[str]) -> list[cel.Function]:
    """The behavior functions of these names over one object."""

    def event_of(find: Callable[[str, int | None], Mapping[str, Any] | None]) -> Callable[..., Any]:
        def found(name: str, window: timedelta | None = None) -> Any:
            event = find(name, _microseconds(window))
            if event is None:
                raise CriteriaFailed(NO_SUCH_EVENT)
            occurred = Timestamp()
            occurred.FromDatetime(event["occur_time"])
            return {"name": event["name"], "properties": event["properties"], "occur_time": occurred}

        return found

    if behavior is None:
        calls: dict[str, Callable[..., Any]] = dict.fromkeys(_FUNCTIONS, _no_behavior)
    else:
        calls = {
            "count": lambda name, window=None: behavior.count(name, _microseconds(window)),
            "sum": lambda name, key, window: float(behavior.sum(name, key, window // _MICROSECOND)),
            "first": event_of(behavior.first),
            "last": event_of(behavior.last),
            "in_segment": behavior.in_segment,
        }
    return [
        cel.Function(name, list(form), False, _guarded(calls[name]), result)
        for name in names
        for result, forms in (_FUNCTIONS[name],)
        for form in forms
    ]


def _no_behavior(*_: object) -> Any:
    raise CriteriaFailed(NO_BEHAVIOR)


def _guarded(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, of whose failures only our own words get out."""

    def answer(*args: Any) -> Any:
        try:
            return call(*args)
        except CriteriaFailed:
            raise
        except Exception:  # noqa: BLE001 - whatever it is, this part of the criteria has no answer
            raise CriteriaFailed(_NO_ANSWER) from None

    return answer


def _microseconds(window: timedelta | None) -> int | None:
    return None if window is None else window // _MICROSECOND


def _explain(text: str) -> str:
    return next((sentence for fragment, sentence in _FAILURES if fragment in text), _OTHER_FAILURE)
