"""What a checked criteria depends on: the roots it reads, the events that reach it, whether it can do without one."""

from cairn.rules._checked_ast import Call, Comprehension, Constant, Ident, Many, Node, children, walk


def reads(node: Node, root: str) -> bool:
    """Whether the node names `root` ("event", "entry" or "profile") or one of its fields."""
    return any(
        isinstance(part, Ident) and (part.name == root or part.name.startswith(f"{root}."))
        for part in walk(node)
    )


def event_names(node: Node) -> frozenset[str] | None:
    """The names of the events that reach the criteria: None for any, empty when it reads no event.

    A part that reads no event says nothing: it adds nothing to an `||` and bounds nothing in an `&&`.
    """
    if not reads(node, "event"):
        return frozenset()
    match node:
        case Call(function="_==_", args=(Ident(name="event.name"), Constant(value=str() as name))):
            return frozenset({name})
        case Call(function="_==_", args=(Constant(value=str() as name), Ident(name="event.name"))):
            return frozenset({name})
        case Call(function="@in", args=(Ident(name="event.name"), Many(elements=elements))):
            names = [
                part.value for part in elements if isinstance(part, Constant) and isinstance(part.value, str)
            ]
            return frozenset(names) if len(names) == len(elements) else None
        case Call(function="_&&_" | "_||_" as function, args=args):
            parts = [event_names(arg) for arg in args if reads(arg, "event")]
            named = [part for part in parts if part is not None]
            if function == "_&&_":
                return frozenset.intersection(*named) if named else None
            return frozenset().union(*named) if len(named) == len(parts) else None
        case _:
            return None


def fails_without(node: Node, root: str) -> bool:
    """Whether the criteria is sure to fail when `root` is absent.

    Every part is strict except logic, which may absorb one side's failure, a choice and a macro's body.
    """
    match node:
        case Ident(name=name):
            return name.startswith(f"{root}.")
        case Call(function="_||_" | "_&&_", args=args):
            return all(fails_without(arg, root) for arg in args)
        case Call(function="_?_:_", args=(test, yes, no)):
            return fails_without(test, root) or (fails_without(yes, root) and fails_without(no, root))
        case Comprehension(range=span):
            return fails_without(span, root)
        case _:
            return any(fails_without(part, root) for part in children(node))
