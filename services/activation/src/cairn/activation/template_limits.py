"""Owns how much a template may do: a budget of steps for each part, a limit on each value. Pure.

What takes time or memory is paid for before it is done: each round, call and filter, and the size of what they are given.
"""

import re
from collections import Counter
from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2.exceptions import SecurityError
from jinja2.runtime import Undefined
from jinja2.utils import Namespace
from markupsafe import Markup

MAX_STEPS = 100_000
"""The most rounds of loops, calls and filters that one part may take, with the elements of what they are given: some tenths of a second."""

MAX_VALUE_CHARS = 1024 * 1024
"""The longest text that a template may make on its way."""

_CHARS_A_STEP = 64
_MAX_REPEATED = 100_000
_MAX_NUMBER_BITS = 4096
_MAX_WIDTH = 1_000
_MAX_AFFIX = 100
_NUMBER_CHARS = 24
_CONTAINERS = (list, tuple, dict, set, KeysView, ValuesView, ItemsView)

# What could be wide comes from a format: `%1000000000d`, `%*d`, `{:1000000000}`, `{:{width}}`.
_WIDE_PERCENT = re.compile(r"%(\([^)]*\))?[-#0 +.\d]*(\d{4}|\*)")
_WIDE_BRACES = re.compile(r"\{[^{}]*:[^{}]*(\d{4}|\{)")
_KEY = re.compile(r"%\(([^)]*)\)")


class _Budget:
    __slots__ = ("left",)

    def __init__(self) -> None:
        self.left = MAX_STEPS


_BUDGET: ContextVar[_Budget] = ContextVar("template_budget")


@contextmanager
def fresh_budget() -> Iterator[None]:
    """A budget for what is rendered within."""
    token = _BUDGET.set(_Budget())
    try:
        yield
    finally:
        _BUDGET.reset(token)


def take(steps: int) -> None:
    """Pays for steps; SecurityError when there are none left."""
    budget = _BUDGET.get()
    budget.left -= steps
    if budget.left < 0:
        raise SecurityError(f"it takes more than {MAX_STEPS:,} rounds of loops and calls")


def rounds(values: Iterable[Any]) -> Iterator[Any]:
    """What a loop runs over: each round is a step."""
    budget = _BUDGET.get()
    for value in values:
        budget.left -= 1
        if budget.left < 0:
            take(0)
        yield value


def weigh(value: Any) -> None:
    """Pays for a value: its elements, however deep, and its text."""
    kind = type(value)
    if kind is int or kind is float or value is None:
        return
    if kind is str or kind is Markup:
        size = len(value)
        if size > MAX_VALUE_CHARS:
            raise SecurityError("a text is too long")
        steps = size // _CHARS_A_STEP
    elif kind is range:
        steps = len(value)
    elif kind is Namespace or isinstance(value, _CONTAINERS):
        steps = _elements(value)
    else:
        return
    if steps:
        take(steps)


def weigh_arguments(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Pays for what a call is given."""
    for argument in args:
        weigh(argument)
    for argument in kwargs.values():
        weigh(argument)


def weighed(value: Any) -> Any:
    """A result: paid for, or counted while it comes."""
    if type(value) is range:
        return value
    if hasattr(value, "__next__") and not isinstance(value, Undefined):
        return rounds(value)
    weigh(value)
    return value


def concat(pieces: Iterable[str]) -> str:
    """What macros, `{% set %}` blocks and filter blocks come to."""
    found = list(pieces)
    size = sum(map(len, found))
    if size > MAX_VALUE_CHARS:
        raise SecurityError("a text is too long")
    take(size // _CHARS_A_STEP)
    return "".join(found)


def _elements(container: Any) -> int:
    """The elements of a container and of those in it; counted no further than the budget goes, as one may be in it many times."""
    left, steps, stack = _BUDGET.get().left, 0, [container]
    while stack and steps <= left:
        value = stack.pop()
        if isinstance(value, str):
            steps += len(value) // _CHARS_A_STEP
            continue
        if type(value) is Namespace:
            value = value._Namespace__attrs
        if isinstance(value, dict):
            steps += 2 * len(value)
            stack += value.keys()
            stack += value.values()
        elif isinstance(value, _CONTAINERS):
            steps += len(value)
            stack += value
    return steps


def check_operation(operator: str, left: Any, right: Any) -> None:
    """Pays for `+`, `-` (of keys), `*`, `**` or `%`, whose result can be far larger than what it is made from."""
    if operator in ("+", "-"):
        weigh(left)
        weigh(right)
        return
    if operator == "%":
        weigh(left)
        weigh(right)
        check_format(left)
        if isinstance(left, str) and isinstance(right, dict):
            _check_named(left, right)
        return
    sizes = [len(x) if isinstance(x, (str, list, tuple)) else 0 for x in (left, right)]
    numbers = [abs(x) if isinstance(x, (int, float)) else 1 for x in (left, right)]
    if any(sizes) and max(sizes) * max(numbers) > _MAX_REPEATED:
        raise SecurityError("a repetition is too long")
    if operator == "**" and (numbers[0] > 1_000_000 or numbers[1] > 16):
        raise SecurityError("a power is too large")
    if sum(x.bit_length() for x in (left, right) if isinstance(x, int)) > _MAX_NUMBER_BITS:
        raise SecurityError("a number is too large")


def check_method(text: str, method: str, args: tuple[Any, ...]) -> None:
    """Refuses a method of a text whose result would be too long."""
    if method == "replace":
        _check_replace(text, args, {})
    elif method == "join" and args:
        _check_joined(text, args[0])


def check_format(value: Any) -> None:
    """Refuses a format whose widths make much out of nothing."""
    if isinstance(value, str) and _WIDE_PERCENT.search(value):
        raise SecurityError("a format is too wide")


def check_braces(text: str) -> None:
    """As `check_format`, for `str.format`."""
    if _WIDE_BRACES.search(text):
        raise SecurityError("a format is too wide")


def check_fields(text: str, values: Iterable[Any]) -> None:
    """Refuses a format for `str.format` that would come to too much if each of its fields were the longest of the values."""
    if text.count("{") * max(map(_characters, values), default=0) > MAX_VALUE_CHARS:
        raise SecurityError("a text is too long")


def _check_format_filter(value: Any, _args: object, kwargs: Mapping[str, Any]) -> None:
    check_format(value)
    if isinstance(value, str) and kwargs:
        _check_named(value, kwargs)


def _check_named(text: str, values: Mapping[Any, Any]) -> None:
    """Refuses a `%` format that names values, each perhaps many times, and comes to too much."""
    if text.count("%") * max(map(_characters, values.values()), default=0) <= MAX_VALUE_CHARS:
        return
    keys = Counter(_KEY.findall(text))
    size = sum(count * _characters(values.get(key)) for key, count in keys.items())
    if size > MAX_VALUE_CHARS or any("(" in key for key in keys):
        raise SecurityError("a text is too long")


def _characters(value: Any) -> int:
    """About how many characters a value that was weighed has as text; counted no further than a text may be long."""
    size, stack = 0, [value]
    while stack and size <= MAX_VALUE_CHARS:
        part = stack.pop()
        if isinstance(part, str):
            size += len(part)
            continue
        size += _NUMBER_CHARS
        if isinstance(part, dict):
            stack += part.keys()
            stack += part.values()
        elif isinstance(part, _CONTAINERS):
            stack += part
    return size


def _check_replace(value: Any, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> None:
    if len(args) < 2:
        raise SecurityError("`replace` needs what is replaced, and by what")
    text, old, new = str(value), str(args[0]), str(args[1])
    if len(text) + text.count(old) * len(new) > MAX_VALUE_CHARS:
        raise SecurityError("a text is too long")


def _check_join(value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    _check_joined(str(args[0] if args else kwargs.get("d", "")), value)


def _check_joined(between: str, values: Any) -> None:
    # Of what is counted while it comes, there may come as much as the budget is.
    count = len(values) if isinstance(values, (str, range, *_CONTAINERS)) else MAX_STEPS
    if count * len(between) > MAX_VALUE_CHARS:
        raise SecurityError("a text is too long")


def _check_width(value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Widths are short, and so is what is put in between, at each line or word."""
    widest, longest = 4, 1
    for argument in (*args, *kwargs.values()):
        if isinstance(argument, int):
            widest = max(widest, abs(argument))
        elif isinstance(argument, str):
            longest = max(longest, len(argument))
    if widest > _MAX_WIDTH:
        raise SecurityError(f"a width is more than {_MAX_WIDTH:,}")
    if longest > _MAX_AFFIX:
        raise SecurityError(f"what is put in between is longer than {_MAX_AFFIX} characters")
    if isinstance(value, str):
        lines = value.count("\n") + 1
        if lines * widest > MAX_VALUE_CHARS or len(value) * longest > 4 * MAX_VALUE_CHARS:
            raise SecurityError("a text is too long")


def _check_bare(_value: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    if args or kwargs:
        raise SecurityError("`tojson` takes no argument here")


CHARACTER_FILTERS = frozenset(
    """batch dictsort float groupby int join list map max min reject rejectattr select selectattr slice sort sum title unique urlencode
    urlize wordcount wordwrap xmlattr""".split()  # noqa: SIM905 - no line for each
)
"""Filters that have work with every character of a text, which is paid for one by one."""

FILTER_CHECKS: Mapping[str, Callable[[Any, tuple[Any, ...], Mapping[str, Any]], None]] = {
    "batch": _check_width,
    "center": _check_width,
    "format": _check_format_filter,
    "indent": _check_width,
    "join": _check_join,
    "replace": _check_replace,
    "round": _check_width,
    "slice": _check_width,
    "tojson": _check_bare,
    "urlize": _check_width,
    "wordwrap": _check_width,
}
"""What has to be looked at before a filter of that name is applied: those whose result can be far larger than what they are given."""
