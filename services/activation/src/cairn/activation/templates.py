"""Owns what becomes of a template and a context: a message, or why there can be none. Pure.

Refuses to guess: a variable that is not there is an error that names it. Errors hold no value of a variable.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context

from cairn.activation.template_limits import fresh_budget
from cairn.activation.template_sandbox import Sandbox

MAX_OUTPUT_BYTES = 1024 * 1024
"""The most that one part of a message may become."""

ROOTS = ("profile", "entry", "event", "unsubscribe_url")
"""The variables that a template has: three JSON objects of the activation's context, and an address, "" where there is none."""

PLAIN = Sandbox(autoescape=False)
"""The environment of subjects and texts."""

HTML = Sandbox(autoescape=True)
"""The environment of HTML, in which every value is escaped."""

_GLOBALS = {**PLAIN.globals}
_LINE_BREAKS = frozenset("\r\n\0")


class TemplateError(Exception):
    """A template can't be rendered for this profile; the text says why, without any value. `part` is "subject", "text" or "html"."""

    def __init__(self, part: str, reason: str) -> None:
        super().__init__(f"{part}: {reason}")
        self.part = part
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Message:
    """The words of one message; `html` is "" when the template has none."""

    subject: str
    text: str
    html: str


class CompiledTemplate:
    """A template that is ready to be rendered many times; `version` counts its changes, 0 when it is not saved.

    TemplateError when it can't be compiled.
    """

    def __init__(self, subject: str, text: str, html: str, version: int = 0) -> None:
        self.version = version
        self._parts = {
            "subject": _compile(PLAIN, "subject", subject),
            "text": _compile(PLAIN, "text", text),
        }
        if html:
            self._parts["html"] = _compile(HTML, "html", html)

    def render(self, variables: Mapping[str, Any]) -> Message:
        """The message for these variables; TemplateError when there can be none."""
        known = {**_GLOBALS, **variables}
        made = {part: _render(template, part, known) for part, template in self._parts.items()}
        return Message(made["subject"], made["text"], made.get("html", ""))

    def problems(self, variables: Mapping[str, Any]) -> list[TemplateError]:
        """Why there can be no message for these variables: the first problem of each part."""
        found = []
        for part, template in self._parts.items():
            try:
                _render(template, part, {**_GLOBALS, **variables})
            except TemplateError as error:
                found.append(error)
        return found


class BrokenTemplate(CompiledTemplate):
    """A template that a release before took and this one can't compile: there is no message of it, and the error says why."""

    def __init__(self, error: TemplateError, version: int) -> None:
        self.version = version
        self._error = error

    def render(self, variables: Mapping[str, Any]) -> Message:
        raise TemplateError(self._error.part, self._error.reason)

    def problems(self, variables: Mapping[str, Any]) -> list[TemplateError]:
        return [self._error]


def with_roots(context: Mapping[str, Any], unsubscribe_url: str) -> dict[str, Any]:
    """The variables of a template for an activation's context."""
    return {"profile": {}, "entry": {}, "event": {}, **context, "unsubscribe_url": unsubscribe_url}


def _compile(environment: Sandbox, part: str, source: str) -> jinja2.Template:
    try:
        return environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise TemplateError(part, f"the template can't be compiled: {error.message}") from None
    except Exception as error:  # noqa: BLE001 - Python's own compiler refuses some of what Jinja2 lets through
        raise TemplateError(part, f"the template can't be compiled ({type(error).__name__})") from None


def _render(template: jinja2.Template, part: str, known: dict[str, Any]) -> str:
    pieces: list[str] = []
    size = 0
    # What `template.generate` does, without copying the globals for each part, and without the work that it has with errors.
    context = Context(template.environment, known, None, template.blocks)
    try:
        with fresh_budget():
            for piece in template.root_render_func(context):
                size += len(piece)
                if size > MAX_OUTPUT_BYTES:
                    raise TemplateError(part, "would be larger than 1 MiB")
                pieces.append(piece)
    except TemplateError:
        raise
    except jinja2.UndefinedError as error:
        raise TemplateError(part, error.message or "the template needs what is not there") from None
    except SecurityError as error:
        raise TemplateError(part, f"the template does what it may not: {error}") from None
    except Exception as error:  # noqa: BLE001 - whatever operators write must harm this one message only
        raise TemplateError(part, f"the template failed with {type(error).__name__}") from None
    rendered = "".join(pieces)
    if size * 4 > MAX_OUTPUT_BYTES and len(rendered.encode("utf-8", "replace")) > MAX_OUTPUT_BYTES:
        raise TemplateError(part, "would be larger than 1 MiB")
    if part == "subject" and not _LINE_BREAKS.isdisjoint(rendered):
        raise TemplateError(part, "has more than one line")
    return rendered
