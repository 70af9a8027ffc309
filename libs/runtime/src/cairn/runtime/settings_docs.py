"""Owns the settings tables of the READMEs: rendered from the classes, so that a test can find a stale one."""

from typing import Any

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from cairn.runtime.settings import environment_name

_BOUNDS = ((Ge, "ge", "at least"), (Gt, "gt", "more than"), (Le, "le", "at most"), (Lt, "lt", "less than"))


def render_settings_table(settings_class: type[BaseSettings]) -> str:
    """A Markdown table (variable, default, meaning) of all settings of a class, in order of their names.

    Ends with a newline. Secrets show no default.
    """
    lines = ["| variable | default | meaning |", "|---|---|---|"]
    for name, field in sorted(settings_class.model_fields.items()):
        meaning = " ".join(part for part in ((field.description or "").strip(), _bounds(field)) if part)
        row = (f"`{environment_name(settings_class, name)}`", _default(field), meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
    return "\n".join(lines) + "\n"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value: Any = field.get_default(call_default_factory=False)
    if value is None or value == "" or isinstance(value, SecretStr):
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value}`"


def _bounds(field: FieldInfo) -> str:
    words = []
    for rule in field.metadata:
        for kind, attribute, phrase in _BOUNDS:
            if isinstance(rule, kind):
                words.append(f"{phrase} {getattr(rule, attribute)}")
    return f"({', '.join(words)})" if words else ""
