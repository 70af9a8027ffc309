"""Owns how identifiers become what ad platforms match by: written in one way, hashed once. Pure.

Platforms write the same person differently (Gmail's dots, the phone's plus sign), so each has a table of rules of its own with a
name, `meta/1`, and a change of rules is a new name.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Rule = Callable[[str], str]
"""From an attribute's text to what the platform gets; "" when there is nothing that it could match."""

_HEX = "0123456789abcdef"
_SHA256_CHARS = 64
_SHA512_CHARS = 128
# E.164: a country code and a number, at most 15 digits; what is shorter than 7 is no subscriber's number anywhere.
_FEWEST_PHONE_DIGITS = 7
_MOST_PHONE_DIGITS = 15


@dataclass(frozen=True, slots=True)
class Normalizer:
    """A platform's set of rules under the name by which it is recorded; `rules` by the platform's own names of identifiers."""

    name: str
    rules: Mapping[str, Rule]

    @property
    def identifiers(self) -> frozenset[str]:
        """Identifiers that the platform knows and we can write."""
        return frozenset(self.rules)

    def normalize(self, identifier: str, value: str) -> str:
        """The value as the platform wants it, hashed where it wants a hash; "" when there is nothing that it could match."""
        return self.rules[identifier](value)


def sha256(write: Rule) -> Rule:
    """The rule that hashes what `write` makes, as hexadecimal. What is such a hash already is never hashed again, nothing stays nothing."""

    def rule(value: str) -> str:
        if is_hash(hashed := value.strip().lower(), _SHA256_CHARS):
            return hashed
        written = write(value)
        return hashlib.sha256(written.encode()).hexdigest() if written else ""

    return rule


def sha512(write: Rule) -> Rule:
    """As `sha256`, with SHA-512."""

    def rule(value: str) -> str:
        if is_hash(hashed := value.strip().lower(), _SHA512_CHARS):
            return hashed
        written = write(value)
        return hashlib.sha512(written.encode()).hexdigest() if written else ""

    return rule


def is_hash(value: str, characters: int) -> bool:
    """Whether it is so many lower-case hexadecimal digits."""
    return len(value) == characters and not value.strip(_HEX)


def address(value: str) -> str:
    """An e-mail address without the blanks around it, in lower case; "" when it is none."""
    text = value.strip().lower()
    _, at, domain = text.partition("@")
    if not at or text[0] == "@" or "@" in domain or "." not in domain[1:-1] or len(text.split()) != 1:
        return ""
    return text


def address_without_blanks(value: str) -> str:
    """As `address`, with blanks taken out of the middle too."""
    return address("".join(value.split()))


def digits(value: str) -> str:
    """Its ASCII digits."""
    return "".join(character for character in value if character.isascii() and character.isdigit())


def phone(value: str) -> str:
    """A telephone number as E.164 writes it, "+18005550100".

    The number has to begin with its country code, after "+", "00" or nothing: one that begins with a single 0 is a national one, whose
    country nobody knows, and "".
    """
    number = digits(value)
    if number.startswith("00"):
        number = number[2:]
    if number.startswith("0") or not _FEWEST_PHONE_DIGITS <= len(number) <= _MOST_PHONE_DIGITS:
        return ""
    return f"+{number}"


def advertising_id(value: str) -> str:
    """A device's advertising id in lower case; "" for the zeros that a device gives whose owner wants no tracking."""
    text = value.strip().lower()
    return text if text.strip("0-") else ""
