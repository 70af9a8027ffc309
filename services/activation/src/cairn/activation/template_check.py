"""Owns what can be known of a template without rendering it: what is wrong, and which variables it uses. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import jinja2
from jinja2 import meta, nodes

from cairn.activation.template_sandbox import Sandbox, path_of
from cairn.activation.templates import HTML, PLAIN, ROOTS

EVENT_FIELDS = ("event_id", "name", "occur_time", "properties")
"""What an event has, the one that began an enrollment and the latest one."""

MAX_NODES = 10_000
"""The most expressions, statements and pieces of text of one part: more take seconds to compile."""

_EVENTS = ("entry", "event")
_METHODS = ("get", "items", "keys", "values")
_MOST_PROBLEMS = 20
_ALONE = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
# Filters that are given the name of a filter or a test, and at which place.
_FILTER_NAMED = {"map": 0}
_TEST_NAMED = {"select": 0, "reject": 0, "selectattr": 1, "rejectattr": 1}


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong in a part of a template ("subject", "text", "html" or "mjml"); `line` counts from 1, 0 where it is not known."""

    part: str
    line: int
    message: str


def check_parts(parts: Mapping[str, str]) -> list[Problem]:
    """All that can be known to be wrong in these parts, by part and line; after a syntax error nothing more of its part."""
    return [problem for part, source in parts.items() for problem in _check_part(part, source)]


def variables_of(parts: Mapping[str, str]) -> list[str]:
    """The variables that these parts use, such as `profile.first_name`, in order; of a loop's variable as `entry.items[].title`."""
    found: set[str] = set()
    for part, source in parts.items():
        tree = _environment(part).read(source)
        found.update(_Paths(tree).found)
    return sorted(found)


def _environment(part: str) -> Sandbox:
    return HTML if part in ("html", "mjml") else PLAIN


def _check_part(part: str, source: str) -> list[Problem]:
    environment = _environment(part)
    try:
        tree = environment.read(source)
        size = sum(1 for _ in tree.find_all(nodes.Node))
        if size > MAX_NODES:
            what = f"has {size:,} expressions, statements and pieces of text"
            return [Problem(part, 0, f"{what}; at most {MAX_NODES:,} can be taken")]
        problems = sorted(_look_through(tree, environment))
        if not problems:
            environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        return [Problem(part, error.lineno, error.message or "is no template")]
    except (RecursionError, SyntaxError, ValueError, MemoryError):
        # What Jinja2 lets through and Python's own compiler does not: nesting, constants beyond any use.
        return [Problem(part, 1, "is nested too deeply, or uses a constant that is too large")]
    return [Problem(part, line, message) for line, message in problems[:_MOST_PROBLEMS]]


def _look_through(tree: nodes.Template, environment: Sandbox) -> Iterator[tuple[int, str]]:
    for alone in tree.find_all(_ALONE):
        word = type(alone).__name__.removeprefix("From").lower()
        yield alone.lineno, f"a template stands alone: `{word}` is not available"
    named = list(_unknown_names(tree, environment))
    yield from named
    if not named:
        yield from _unknown_roots(tree)
    yield from _unknown_fields(tree)


def _unknown_names(tree: nodes.Template, environment: Sandbox) -> Iterator[tuple[int, str]]:
    for filter_ in tree.find_all(nodes.Filter):
        if filter_.name not in environment.filters:
            yield filter_.lineno, f"there is no filter `{filter_.name}`"
        for places, known, what in (
            (_FILTER_NAMED, environment.filters, "filter"),
            (_TEST_NAMED, environment.tests, "test"),
        ):
            name = _constant(filter_.args, places.get(filter_.name))
            if name is not None and name not in known:
                yield filter_.lineno, f"there is no {what} `{name[:50]}`"
    for test in tree.find_all(nodes.Test):
        if test.name not in environment.tests:
            yield test.lineno, f"there is no test `{test.name}`"


def _constant(arguments: list[nodes.Expr], place: int | None) -> str | None:
    if place is None or place >= len(arguments):
        return None
    argument = arguments[place]
    return argument.value if isinstance(argument, nodes.Const) and isinstance(argument.value, str) else None


def _unknown_roots(tree: nodes.Template) -> Iterator[tuple[int, str]]:
    lines: dict[str, int] = {}
    for node in tree.find_all(nodes.Name):
        lines[node.name] = min(lines.get(node.name, node.lineno), node.lineno)
    for name in sorted(meta.find_undeclared_variables(tree) - set(ROOTS)):
        yield lines.get(name, 1), f"there is no variable `{name[:50]}`; there are {', '.join(ROOTS)}"


def _unknown_fields(tree: nodes.Template) -> Iterator[tuple[int, str]]:
    own = _own_names(tree)
    members: list[nodes.Getattr | nodes.Getitem] = [
        *tree.find_all(nodes.Getattr),
        *tree.find_all(nodes.Getitem),
    ]
    for node in members:
        base = node.node
        if not isinstance(base, nodes.Name) or base.name not in _EVENTS or base.name in own:
            continue
        field = node.attr if isinstance(node, nodes.Getattr) else _constant([node.arg], 0)
        if field is not None and field not in EVENT_FIELDS and field not in _METHODS:
            has = ", ".join(EVENT_FIELDS)
            hint = f"write {base.name}.properties.{field[:50]} for a property"
            yield node.lineno, f"there is no `{base.name}.{field[:50]}`: an event has {has}; {hint}"


def _own_names(tree: nodes.Template) -> set[str]:
    """The names that a template gives itself; of what they stand for nothing is known."""
    return {name.name for name in tree.find_all(nodes.Name) if name.ctx != "load"}


class _Paths:
    """Gathers the paths below the roots that a tree reads."""

    def __init__(self, tree: nodes.Template) -> None:
        self.found: set[str] = set()
        self._own = _own_names(tree)
        self._stands_for: dict[str, str] = {}
        self._visit(tree)

    def _visit(self, node: nodes.Node) -> None:
        if isinstance(node, nodes.For):
            self._visit_for(node)
            return
        if isinstance(node, nodes.Call) and isinstance(node.node, nodes.Getattr):
            # `profile.get('name')`: what is called is no variable.
            self._visit(node.node.node)
            for child in node.iter_child_nodes(exclude=["node"]):
                self._visit(child)
            return
        if isinstance(node, (nodes.Name, nodes.Getattr, nodes.Getitem)) and (path := self._path(node)):
            self.found.add(path)
            return
        for child in node.iter_child_nodes():
            self._visit(child)

    def _visit_for(self, node: nodes.For) -> None:
        self._visit(node.iter)
        path = self._path(node.iter)
        if path and isinstance(node.target, nodes.Name):
            self._stands_for[node.target.name] = f"{path}[]"
        for child in node.iter_child_nodes(exclude=["iter", "target"]):
            self._visit(child)

    def _path(self, node: nodes.Node) -> str:
        path = path_of(node)
        if not path:
            return ""
        root = path.partition(".")[0].partition("[")[0]
        if root in self._stands_for:
            return self._stands_for[root] + path.removeprefix(root)
        return path if root in ROOTS and root not in self._own else ""
