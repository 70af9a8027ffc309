"""Owns how things are called: ids for people, resource names and enum values for the services."""

import re
from typing import Any

from cairn.cli.output import short_name

Enum = Any
"""An enum of the contract, such as `DeliveryState`; its stubs make it a class, which it is not."""


def resource(kind: str, name: str) -> str:
    """`connections/{id}` of an id or a resource name, for the kind "connections"; empty stays empty."""
    return f"{kind}/{name.removeprefix(f'{kind}/')}" if name else ""


def versioned(name: str, version: int | None) -> str:
    """`templates/{id}` or `templates/{id}/versions/{version}`, of an id, a resource name, or `id/version` as tables show it."""
    name = resource("templates", name)
    id_, slash, number = name.removeprefix("templates/").partition("/")
    if slash and number.isdigit():
        name = f"templates/{id_}/versions/{number}"
    return f"{name}/versions/{version}" if version else name


def words(enum: Enum) -> list[str]:
    """The values that an enum's fields may have, without its prefix: PENDING, SENT."""
    return [key.name.removeprefix(_prefix(enum)) for key in enum.DESCRIPTOR.values if key.number]


def word(enum: Enum, number: int) -> str:
    """A value without its prefix; empty for the one that says nothing, a number for one of a later release."""
    if not number:
        return ""
    try:
        return str(enum.Name(number)).removeprefix(_prefix(enum))
    except ValueError:
        return str(number)


def value(enum: Enum, name: str) -> Any:
    """The number of a value that is given without its prefix."""
    return enum.Value(_prefix(enum) + name.upper())


def short(resource_name: str) -> str:
    """As `short_name`; what is empty stays so."""
    return short_name(resource_name) if resource_name else ""


def _prefix(enum: Enum) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", enum.DESCRIPTOR.name).upper() + "_"
