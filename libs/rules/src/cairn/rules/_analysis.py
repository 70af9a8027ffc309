"""What a checked criteria depends on: the roots it reads, the events that reach it, whether it can do without one."""

from typing import TypeAlias

from cairn.rules import _behavior
from cairn.rules._checked_ast import Call, Comprehension, Constant, Ident, Many, Node, children, walk

Names: TypeAlias = frozenset[str] | None
"""Names of events; None for any."""


def roots(nodes: list[Node]) -> frozenset[str]:
    """Those of "event", "entry" and "profile" that the nodes of a tree read."""
    return frozenset(node.name.partition(".")[0] for node in nodes if isinstance(node, Ident))


def event_names(node: Node) -> Names:
    """The names of the events whose coming the criteria reads by `event`: None for any, empty when it reads none.

    A part that reads no event says nothing: it adds nothing to an `||` and bounds nothing in an `&&`.
    """
    if "event" not in roots(list(walk(node))):
        return frozenset()
    if (fixed := _fixed(node)) is not None:
        return fixed
    match node:
        case Call(function="_&&_" | "_||_" as function, args=args):
            parts = [event_names(arg) for arg in args if "event" in roots(list(walk(arg)))]
            return _all(parts) if function == "_&&_" else _any(parts)
        case _:
            return None


def event_names_needed(node: Node, outcome: bool = True) -> Names:
    """The names of the events with which the node can come out as `outcome`; None when it may with any input.

    Of no use is what an input that fails would give: failing is neither outcome, so `false(a && b)` is
    `false(a)` or `false(b)` whatever the other does.
    """
    match node:
        case Constant(value=bool() as value):
            return None if value is outcome else frozenset()
        case Call(function="!_", args=(arg,)):
            return event_names_needed(arg, not outcome)
        case Call(function="_&&_" | "_||_" as function, args=args):
            parts = [event_names_needed(arg, outcome) for arg in args]
            return _all(parts) if (function == "_&&_") is outcome else _any(parts)
        case Call(function="_?_:_", args=(test, yes, no)):
            branches = ((test, True, yes), (test, False, no))
            return _any(
                [
                    _all([event_names_needed(test, way), event_names_needed(branch, outcome)])
                    for test, way, branch in branches
                ]
            )
        case Call(function="_!=_", args=(left, right)):
            return None if outcome else _fixed(Call("bool", node.offset, "_==_", (left, right)))
        case _:
            return _fixed(node) if outcome else None


def is_by_name(node: Node) -> bool:
    """Whether the event's name alone decides: it holds with every event that it needs."""
    match node:
        case Call(function="_||_", args=args):
            return all(map(is_by_name, args))
        case _:
            return _fixed(node) is not None


def _fixed(node: Node) -> Names:
    """The names that a single comparison of `event.name` allows."""
    match node:
        case Call(function="_==_", args=(Ident(name="event.name"), Constant(value=str() as name))):
            return frozenset({name})
        case Call(function="_==_", args=(Constant(value=str() as name), Ident(name="event.name"))):
            return frozenset({name})
        case Call(function="@in", args=(Ident(name="event.name"), Many(type="list", elements=elements))):
            names = [
                part.value for part in elements if isinstance(part, Constant) and isinstance(part.value, str)
            ]
            return frozenset(names) if len(names) == len(elements) else None
        case _:
            return None


def _all(parts: list[Names]) -> Names:
    named = [part for part in parts if part is not None]
    return frozenset.intersection(*named) if named else None


def _any(parts: list[Names]) -> Names:
    named = [part for part in parts if part is not None]
    return frozenset[str]().union(*named) if len(named) == len(parts) else None


def fails_without(node: Node, root: str) -> bool:
    """Whether the criteria is sure to fail when `root` ("event", "entry" or "behavior") is absent.

    Every part is strict except logic, which may absorb one side's failure, a choice and a macro's body.
    """
    match node:
        case Ident(name=name):
            return name.startswith(f"{root}.")
        case Call(function=function) if function in _behavior.FUNCTIONS:
            return root == "behavior"
        case Call(function="_||_" | "_&&_", args=args):
            return all(fails_without(arg, root) for arg in args)
        case Call(function="_?_:_", args=(test, yes, no)):
            return fails_without(test, root) or (fails_without(yes, root) and fails_without(no, root))
        case Comprehension(range=span):
            return fails_without(span, root)
        case _:
            return any(fails_without(part, root) for part in children(node))
