"""Owns what a template may do: Jinja2 in a sandbox, with a budget of work and a limit of output. Pure.

Refuses to guess: a variable that is not there is an error that names it. Errors hold no value of a variable.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

MAX_OUTPUT_BYTES = 1024 * 1024
"""The most that one part of a message may become."""

MAX_STEPS = 100_000
"""The most rounds of loops and calls that one part may take: some tenths of a second."""

_MAX_PRODUCT = 100_000
_STEPS = "cairn_steps"


class TemplateError(Exception):
    """A template can't be rendered for this profile; the text says why, without any value."""


@dataclass(frozen=True, slots=True)
class SyntaxProblem:
    """A template's part ("subject", "text" or "html") that is no Jinja2."""

    part: str
    line: int
    message: str


@dataclass(frozen=True, slots=True)
class Message:
    """The words of one message; `html` is "" when the template has none."""

    subject: str
    text: str
    html: str


class _Missing(jinja2.StrictUndefined):
    """Refuses any use, naming what is missing but not what it is missing from."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        return f"the template needs `{self._undefined_name}`, which is not there"


class _Sandbox(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset({"*", "**"})

    def __init__(self, *, autoescape: bool) -> None:
        super().__init__(autoescape=autoescape, undefined=_Missing, keep_trailing_newline=True)
        self.filters[_STEPS] = _counted

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _STEPS, [], [], None, None, lineno=loop.lineno)
        return tree

    def call(self, context: Context, obj: Any, *args: Any, **kwargs: Any) -> Any:
        _take_step(context)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sizes = [len(x) if isinstance(x, (str, bytes, list, tuple)) else 0 for x in (left, right)]
        numbers = [abs(x) if isinstance(x, (int, float)) else 1 for x in (left, right)]
        if any(sizes) and max(sizes) * max(numbers) > _MAX_PRODUCT:
            raise SecurityError("a repetition is too long")
        if operator == "**" and (numbers[0] > 1_000_000 or numbers[1] > 16):
            raise SecurityError("a power is too large")
        return super().call_binop(context, operator, left, right)


def _take_step(context: Context) -> None:
    left: list[int] = context[_STEPS]
    left[0] -= 1
    if left[0] < 0:
        raise SecurityError(f"it takes more than {MAX_STEPS:,} rounds of loops and calls")


@jinja2.pass_context
def _counted(context: Context, values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        _take_step(context)
        yield value


_PLAIN = _Sandbox(autoescape=False)
_HTML = _Sandbox(autoescape=True)


class CompiledTemplate:
    """A template that is ready to be rendered many times."""

    def __init__(self, subject: str, text: str, html: str) -> None:
        self._subject = _PLAIN.from_string(subject)
        self._text = _PLAIN.from_string(text)
        self._html = _HTML.from_string(html) if html else None

    def render(self, variables: Mapping[str, Any]) -> Message:
        """The message for these variables; TemplateError when there can be none."""
        subject = _render(self._subject, "subject", variables)
        if any(character in "\r\n\0" for character in subject):
            raise TemplateError("the subject has more than one line")
        return Message(
            subject=subject,
            text=_render(self._text, "text", variables),
            html=_render(self._html, "html", variables) if self._html else "",
        )


def check_syntax(subject: str, text: str, html: str) -> tuple[SyntaxProblem, ...]:
    """All parts that are no Jinja2, each with its first problem."""
    problems = []
    for part, source in (("subject", subject), ("text", text), ("html", html)):
        try:
            _PLAIN.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            problems.append(SyntaxProblem(part, error.lineno, error.message or "is no template"))
        except (RecursionError, SyntaxError, ValueError):
            # What Jinja2 lets through and Python's own compiler does not: nesting, constants beyond any use.
            problems.append(
                SyntaxProblem(part, 1, "is nested too deeply, or uses a constant that is too large")
            )
    return tuple(problems)


def _render(template: jinja2.Template, part: str, variables: Mapping[str, Any]) -> str:
    pieces: list[str] = []
    size = 0
    try:
        for piece in template.generate({**variables, _STEPS: [MAX_STEPS]}):
            size += len(piece)
            if size > MAX_OUTPUT_BYTES:
                raise TemplateError(f"the {part} would be larger than 1 MiB")
            pieces.append(piece)
    except TemplateError:
        raise
    except jinja2.UndefinedError as error:
        raise TemplateError(f"{part}: {error.message}") from None
    except SecurityError as error:
        raise TemplateError(f"{part}: the template does what it may not: {error}") from None
    except Exception as error:  # noqa: BLE001 - whatever operators write must harm this one message only
        raise TemplateError(f"{part}: the template failed with {type(error).__name__}") from None
    rendered = "".join(pieces)
    if len(rendered.encode("utf-8", "replace")) > MAX_OUTPUT_BYTES:
        raise TemplateError(f"the {part} would be larger than 1 MiB")
    return rendered
