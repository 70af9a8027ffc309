"""Owns the normaliser `meta/1`: how identifiers are written and hashed for Meta's custom audiences. Pure.

Another platform writes the same person differently (Gmail's dots, the phone's plus sign), so each has its own
normaliser, and a change of rules is a new one.
"""

import hashlib
import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

NAME = "meta/1"
"""What this set of rules is called wherever it is recorded."""

UNHASHED = frozenset({"MADID", "EXTERN_ID"})
"""Identifiers that the platform takes in the clear."""

_SHA256 = re.compile(r"[0-9a-f]{64}")
_ADDRESS = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")


def _email(value: str) -> str:
    address = value.strip().lower()
    return address if _ADDRESS.fullmatch(address) else ""


def _digits(value: str) -> str:
    return "".join(character for character in value if character.isascii() and character.isdigit())


def _phone(value: str) -> str:
    return _digits(value).lstrip("0")


def _name(value: str) -> str:
    return "".join(c for c in value.strip().lower() if c.isalnum() or c.isspace())


def _letters(value: str) -> str:
    return "".join(character for character in value.lower() if character.isalpha())


def _zip(value: str) -> str:
    return "".join(character for character in value.lower() if not character.isspace() and character != "-")


def _country(value: str) -> str:
    code = value.strip().lower()
    return code if len(code) == 2 and code.isascii() and code.isalpha() else ""


def _two_digits(least: int, most: int) -> Callable[[str], str]:
    def rule(value: str) -> str:
        digits = _digits(value)
        return f"{int(digits):02d}" if digits and least <= int(digits) <= most else ""

    return rule


def _year(value: str) -> str:
    digits = _digits(value)
    return digits if len(digits) == 4 else ""


def _gender(value: str) -> str:
    first = value.strip().lower()[:1]
    return first if first in {"f", "m"} else ""


_RULES: Mapping[str, Callable[[str], str]] = MappingProxyType(
    {
        "EMAIL": _email,
        "PHONE": _phone,
        "FN": _name,
        "LN": _name,
        "CT": _letters,
        "ST": _letters,
        "ZIP": _zip,
        "COUNTRY": _country,
        "DOBY": _year,
        "DOBM": _two_digits(1, 12),
        "DOBD": _two_digits(1, 31),
        "GEN": _gender,
        "MADID": lambda value: value.strip().lower(),
        "EXTERN_ID": str.strip,
    }
)

IDENTIFIERS = frozenset(_RULES)
"""Identifiers that the platform knows and we can write."""


def normalize(identifier: str, value: str) -> str:
    """The value as the platform wants it, hashed where it wants a hash; "" when there is nothing that it could match.

    What is 64 lower-case hexadecimal digits already is taken for a hash, and never hashed again.
    """
    if identifier in UNHASHED:
        return _RULES[identifier](value)
    hashed = value.strip().lower()
    if _SHA256.fullmatch(hashed):
        return hashed
    written = _RULES[identifier](value)
    return hashlib.sha256(written.encode()).hexdigest() if written else ""
