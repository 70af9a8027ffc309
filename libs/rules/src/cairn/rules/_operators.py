"""What generated criteria call at run time: CEL's operators on values whose type only the value can tell.

Each function answers where Python can be exact, and otherwise raises UnsureError: then the library decides the whole
expression. So a function here may be narrow, but never wrong. Booleans are no numbers here, as in CEL.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn

EXACT_INT: Final = 2**53 - 1
"""Beyond this magnitude the library compares an int with a double inexactly, and Python exactly."""
_INT64_MIN: Final = -(2**63)
_INT64_MAX: Final = 2**63 - 1
_MOST_ELEMENTS: Final = 1000


class UnsureError(Exception):
    """Python's answer may differ from CEL's, or there is none."""


class MissingEventError(UnsureError):
    """Behavior was asked for an event, and there is none of that name."""


def unsure() -> NoReturn:
    """Leave the answer to the library."""
    raise UnsureError


def truth(value: Any) -> bool:
    """The value where a condition is needed."""
    if value is True or value is False:
        return value
    raise UnsureError


def text(value: Any) -> str:
    """The value where a string is needed."""
    if value.__class__ is str:
        return value
    raise UnsureError


def same(value: Any) -> Any:
    """`dyn(value)`: the value."""
    return value


def happened(event: Any) -> Any:
    """An event that behavior was asked for."""
    if event is None:
        raise MissingEventError
    return event


def equal(left: Any, right: Any) -> bool:
    """`==` over JSON values: numbers by value whatever their type, lists and maps by their content."""
    kind, other = left.__class__, right.__class__
    if kind is other:
        if kind is list:
            return len(left) == len(right) and all(map(equal, left, right))
        if kind is dict:
            return len(left) == len(right) and all(
                key in right and equal(value, right[key]) for key, value in left.items()
            )
        return bool(left == right)
    if (kind is int and other is float) or (kind is float and other is int):
        return _exactly(left, right) and bool(left == right)
    return False


def less(left: Any, right: Any) -> bool:
    """`left < right` for two numbers, two strings or two booleans."""
    kind, other = left.__class__, right.__class__
    if kind is other and kind in (int, float, str, bool):
        return bool(left < right)
    if (kind is int and other is float) or (kind is float and other is int):
        return _exactly(left, right) and bool(left < right)
    raise UnsureError


def less_or_equal(left: Any, right: Any) -> bool:
    """`left <= right`, as `less`."""
    kind, other = left.__class__, right.__class__
    if kind is other and kind in (int, float, str, bool):
        return bool(left <= right)
    if (kind is int and other is float) or (kind is float and other is int):
        return _exactly(left, right) and bool(left <= right)
    raise UnsureError


def contains(value: Any, container: Any) -> bool:
    """`value in container`: an element of a list, or a key of a map."""
    if container.__class__ is list:
        return any(equal(value, element) for element in container)
    if container.__class__ is dict and value.__class__ is str:
        return value in container
    raise UnsureError


def has(container: Any, key: str) -> bool:
    """`has(container.key)`."""
    if container.__class__ is dict:
        return key in container
    raise UnsureError


def index(container: Any, key: Any) -> Any:
    """`container[key]`: a map by a string, a list by an int from 0."""
    if container.__class__ is dict and key.__class__ is str:
        return container[key]
    if container.__class__ is list and key.__class__ is int and 0 <= key < len(container):
        return container[key]
    raise UnsureError


def size(value: Any) -> int:
    """Characters of a string, elements of a list, keys of a map."""
    if value.__class__ in (str, list, dict):
        return len(value)
    raise UnsureError


def elements(value: Any) -> Iterable[Any]:
    """What a macro walks: a list's elements or a map's keys, as long as the library's budget is far."""
    if value.__class__ in (list, dict) and len(value) <= _MOST_ELEMENTS:
        return value
    raise UnsureError


def add(left: Any, right: Any) -> Any:
    """`+`: a sum of ints or of doubles, strings or lists joined."""
    kind = left.__class__
    if kind is right.__class__:
        if kind is int:
            return _int64(left + right)
        if kind in (float, str, list):
            return left + right
    raise UnsureError


def subtract(left: Any, right: Any) -> Any:
    """`-` of two ints or two doubles."""
    if left.__class__ is right.__class__ is int:
        return _int64(left - right)
    if left.__class__ is right.__class__ is float:
        return left - right
    raise UnsureError


def multiply(left: Any, right: Any) -> Any:
    """`*` of two ints or two doubles."""
    if left.__class__ is right.__class__ is int:
        return _int64(left * right)
    if left.__class__ is right.__class__ is float:
        return left * right
    raise UnsureError


def divide(left: Any, right: Any) -> Any:
    """`/` of two ints, toward zero, or of two doubles."""
    if left.__class__ is right.__class__ is int and right != 0:
        quotient = abs(left) // abs(right)
        return _int64(quotient if (left < 0) == (right < 0) else -quotient)
    if left.__class__ is right.__class__ is float and right != 0.0:
        return left / right
    raise UnsureError


def remainder(left: Any, right: Any) -> Any:
    """`%` of two ints, with the sign of the left one."""
    if left.__class__ is right.__class__ is int and right not in (0, -1):
        return abs(left) % abs(right) * (-1 if left < 0 else 1)
    raise UnsureError


def negate(value: Any) -> Any:
    """`-value` of an int or a double."""
    if value.__class__ is int:
        return _int64(-value)
    if value.__class__ is float:
        return -value
    raise UnsureError


def to_int(value: Any) -> int:
    """`int(value)` of an int or of a double well inside the range."""
    if value.__class__ is int:
        return _int64(value)
    if value.__class__ is float and abs(value) < EXACT_INT:
        return int(value)
    raise UnsureError


def to_double(value: Any) -> float:
    """`double(value)` of a number."""
    if value.__class__ in (int, float):
        return float(value)
    raise UnsureError


def to_string(value: Any) -> str:
    """`string(value)` of a string or an int."""
    if value.__class__ is str:
        return value
    if value.__class__ is int:
        return str(_int64(value))
    raise UnsureError


def _exactly(left: Any, right: Any) -> bool:
    if abs(left if left.__class__ is int else right) <= EXACT_INT:
        return True
    raise UnsureError


def _int64(value: int) -> int:
    if _INT64_MIN <= value <= _INT64_MAX:
        return value
    raise UnsureError


NAMESPACE: Final[Mapping[str, Callable[..., Any]]] = {
    function.__name__: function
    for function in (
        unsure,
        truth,
        text,
        same,
        happened,
        equal,
        less,
        less_or_equal,
        contains,
        has,
        index,
        size,
        elements,
        add,
        subtract,
        multiply,
        divide,
        remainder,
        negate,
        to_int,
        to_double,
        to_string,
    )
}
"""The functions by the names under which generated code knows them."""
