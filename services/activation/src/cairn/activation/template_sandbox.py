"""Owns what a template's code may do: Jinja2's sandbox, with everything paid for that could go on for long. Pure.

A template is written by people who may write to everybody, and rendered for data that anybody may send us: neither may stop the service.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer
from markupsafe import Markup

from cairn.activation import template_limits as limits

_COUNTED, _PAID, _WEIGHED = "cairn_counted", "cairn_paid", "cairn_weighed"
_SHOWN, _JOINED, _ITEM = "cairn_shown", "cairn_joined", "cairn_item"
_NODES_A_STEP = 16

_METHODS: Mapping[type, frozenset[str]] = {
    dict: frozenset({"get", "items", "keys", "values"}),
    list: frozenset({"count", "index"}),
    tuple: frozenset({"count", "index"}),
    int: frozenset(),
    bool: frozenset(),
    float: frozenset({"is_integer"}),
    set: frozenset(),
    type({}.keys()): frozenset(),
    type({}.values()): frozenset(),
    type({}.items()): frozenset(),
}
_TEXT_METHODS = frozenset(
    """capitalize casefold count endswith find format format_map index isalnum isalpha isascii isdecimal isdigit islower isnumeric
    isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind rindex rpartition rsplit rstrip split
    splitlines startswith strip striptags swapcase title unescape upper""".split()  # noqa: SIM905 - no line for each
)


_TEXT_FILTERS = frozenset(
    """capitalize center e escape forceescape format indent lower replace safe string striptags title trim truncate upper urlencode urlize
    wordcount wordwrap""".split()  # noqa: SIM905 - no line for each
)
"""Filters that would make the word None of what is null."""


class Missing(jinja2.StrictUndefined):
    """Refuses any use, naming what is missing but not what it is missing from."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        return f"the template needs `{self._undefined_name}`, which is not there"


@jinja2.pass_context
def _counted(_context: Context, values: Iterable[Any]) -> Iterable[Any]:
    return limits.rounds(values)


@jinja2.pass_context
def _pay(_context: Context, steps: int) -> None:
    if type(steps) is not int or steps < 0:  # a template can write the name of this filter as well
        raise SecurityError("nothing is given back")
    limits.take(steps)


@jinja2.pass_context
def _weighed(_context: Context, value: Any) -> Any:
    limits.weigh(value)
    return value


@jinja2.pass_context
def _shown(_context: Context, value: Any, name: str) -> Any:
    """What is put out. Null is no word: what a profile has as null is missing."""
    kind = type(value)
    if kind is str or kind is Markup or kind is int or kind is float:
        return value
    if value is None:
        raise jinja2.UndefinedError(f"the template shows `{name}`, which is null")
    if isinstance(value, (list, dict, tuple)):
        limits.weigh(value)
        return value
    if isinstance(value, (str, bool, Undefined)):
        return value
    raise SecurityError(f"`{name}` is nothing that can be shown")


@jinja2.pass_context
def _joined(context: Context, values: list[Any]) -> str:
    """What `~` joins."""
    if None in values:
        raise jinja2.UndefinedError("the template joins what is null")
    limits.weigh(values)
    joined = Markup("").join(values) if context.eval_ctx.autoescape else "".join(map(str, values))
    limits.weigh(joined)
    return joined


@jinja2.pass_context
def _item(context: Context, value: Any, key: Any, name: str) -> Any:
    """What stands under a computed key. The key is a value: where there is nothing, it is not told, but how it was computed."""
    limits.weigh(key)
    found = context.environment.getitem(value, key)
    return context.environment.undefined(name=name) if isinstance(found, Undefined) else found


@jinja2.pass_context
def _or_default(_context: Context, value: Any, default_value: Any = "", boolean: bool = False) -> Any:
    """As Jinja2's `default`, but what is null is missing too."""
    if value is None or isinstance(value, Undefined) or (boolean and not value):
        return default_value
    return value


class Sandbox(ImmutableSandboxedEnvironment):
    """The environment of templates: nothing is loaded, nothing is changed, nothing goes on for long."""

    intercepted_binops = frozenset({"*", "**", "+", "-", "%"})

    def __init__(self, *, autoescape: bool) -> None:
        super().__init__(autoescape=autoescape, undefined=Missing, keep_trailing_newline=True)
        self.concat = limits.concat  # type: ignore[method-assign]
        del self.globals["lipsum"]
        del self.filters["pprint"]
        self.filters = {name: _paid(name, filter_) for name, filter_ in self.filters.items()}
        self.tests = {name: _paid(name, test) for name, test in self.tests.items()}
        self.filters["default"] = self.filters["d"] = _or_default
        self.filters |= {
            _COUNTED: _counted,
            _PAID: _pay,
            _WEIGHED: _weighed,
            _SHOWN: _shown,
            _JOINED: _joined,
            _ITEM: _item,
        }

    def read(self, source: str) -> nodes.Template:
        """The syntax tree of a template as it was written; TemplateSyntaxError."""
        return super()._parse(source, None, None)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree: nodes.Template = _Paying().visit(super()._parse(source, name, filename))
        tree.set_environment(self)
        return tree

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Of a JSON object its own members come first: `cart.items` are the cart's items."""
        if type(obj) is dict:
            try:
                return obj[attribute]
            except KeyError:
                if attribute not in _METHODS[dict]:
                    return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Of values only what is cheap, or paid for by `call`."""
        if isinstance(obj, str):
            return attr in _TEXT_METHODS
        known = _METHODS.get(type(obj))
        return super().is_safe_attribute(obj, attr, value) if known is None else attr in known

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """As in the sandbox of Jinja2, but for widths, and for what it comes to."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        text: str = value.__self__
        limits.check_braces(text)

        def checked(*args: Any, **kwargs: Any) -> str:
            limits.check_fields(text, (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        return checked

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805 - as the sandbox has it
        limits.take(1)
        limits.weigh_arguments(args, kwargs)
        owner = getattr(__obj, "__self__", None)
        limits.weigh(owner)
        if isinstance(owner, str):
            limits.check_method(owner, getattr(__obj, "__name__", ""), args)
        return limits.weighed(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """As far as the result is no monster."""
        limits.check_operation(operator, left, right)
        return limits.weighed(super().call_binop(context, operator, left, right))


class _Paying(NodeTransformer):
    """Puts a counter wherever a template could do much that no call shows, and a name to what it puts out."""

    def visit_For(self, node: nodes.For) -> nodes.Node:  # noqa: N802 - the node's name
        _pay_for_body(node)
        self.generic_visit(node)
        node.iter = _filtered(node.iter, _COUNTED)
        return node

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:  # noqa: N802 - the node's name
        _pay_for_body(node)
        return self.generic_visit(node)

    def visit_CallBlock(self, node: nodes.CallBlock) -> nodes.Node:  # noqa: N802 - the node's name
        _pay_for_body(node)
        return self.generic_visit(node)

    def visit_Block(self, node: nodes.Block) -> nodes.Node:  # noqa: N802 - the node's name
        _pay_for_body(node)
        return self.generic_visit(node)

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:  # noqa: N802 - the node's name
        self.generic_visit(node)
        for operand in node.ops:
            if not isinstance(operand.expr, nodes.Const):
                operand.expr = _filtered(operand.expr, _WEIGHED)
        if node.ops[0].op in ("in", "notin"):
            # It is hashed, however deep it is.
            node.expr = _filtered(node.expr, _WEIGHED)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Node:  # noqa: N802 - the node's name
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _filtered(node.key, _WEIGHED)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802 - the node's name
        name = f"{path_of(node.node)}[{path_of(node.arg) or '…'}]"
        self.generic_visit(node)
        if isinstance(node.arg, nodes.Slice):
            node.node = _filtered(node.node, _WEIGHED)
        elif not isinstance(node.arg, nodes.Const):
            return _filtered(node.node, _ITEM, node.arg, nodes.Const(name, lineno=node.lineno))
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802 - the node's name
        self.generic_visit(node)
        return _filtered(nodes.List(node.nodes, lineno=node.lineno), _JOINED)

    def visit_Output(self, node: nodes.Output) -> nodes.Node:  # noqa: N802 - the node's name
        names = [path_of(child) for child in node.nodes]
        self.generic_visit(node)
        node.nodes = [
            child
            if isinstance(child, (nodes.TemplateData, nodes.Const))
            else _filtered(child, _SHOWN, nodes.Const(name or "an expression", lineno=child.lineno))
            for child, name in zip(node.nodes, names, strict=True)
        ]
        return node


def _pay_for_body(node: nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block) -> None:
    """Makes a long body, each time that it is run, cost more than a short one."""
    steps = sum(1 for _ in node.find_all(nodes.Node)) // _NODES_A_STEP
    if steps:
        cost = _filtered(nodes.Const(steps, lineno=node.lineno), _PAID)
        node.body.insert(0, nodes.ExprStmt(cost, lineno=node.lineno))


def path_of(node: nodes.Node) -> str:
    """The variable that an expression is about, `profile.name` of `{{ profile.name | upper }}`; "" when that can't be said."""
    if isinstance(node, nodes.Name):
        return node.name
    if isinstance(node, nodes.Getattr):
        base = path_of(node.node)
        return f"{base}.{node.attr}" if base else ""
    if isinstance(node, nodes.Getitem) and isinstance(node.arg, nodes.Const):
        base, key = path_of(node.node), node.arg.value
        if base and isinstance(key, str):
            return f"{base}.{key}"
        return f"{base}[{key}]" if base and isinstance(key, int) else ""
    if isinstance(node, nodes.Filter) and node.node is not None:
        return path_of(node.node)
    return ""


def _filtered(node: Any, name: str, *arguments: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(node, name, list(arguments), [], None, None, lineno=node.lineno)


def _paid(name: str, function: Any) -> Callable[..., Any]:
    """A filter or a test that is paid for. It asks for the context, so that none is computed while a template compiles."""
    passed = getattr(getattr(function, "jinja_pass_arg", None), "name", "")
    check = limits.FILTER_CHECKS.get(name)
    of_text = name in _TEXT_FILTERS
    by_character = name in limits.CHARACTER_FILTERS

    @jinja2.pass_context
    def paid(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        if value is None and of_text:
            raise jinja2.UndefinedError(f"the template gives what is null to `{name}`")
        limits.take(len(value) if by_character and isinstance(value, str) else 1)
        limits.weigh(value)
        limits.weigh_arguments(args, kwargs)
        if check is not None:
            check(value, args, kwargs)
        if passed == "context":
            return limits.weighed(function(context, value, *args, **kwargs))
        if passed == "eval_context":
            return limits.weighed(function(context.eval_ctx, value, *args, **kwargs))
        if passed == "environment":
            return limits.weighed(function(context.environment, value, *args, **kwargs))
        return limits.weighed(function(value, *args, **kwargs))

    return paid
