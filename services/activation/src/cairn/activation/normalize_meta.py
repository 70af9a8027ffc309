"""Owns the rules `meta/1`: how identifiers are written and hashed for Meta's custom audiences. Pure.

Source: developers.facebook.com, Marketing API, customer file custom audiences.
"""

from types import MappingProxyType

from cairn.activation.normalize import Normalizer, Rule, address, digits, sha256


def _phone(value: str) -> str:
    return digits(value).lstrip("0")


def _name(value: str) -> str:
    return "".join(c for c in value.strip().lower() if c.isalnum() or c.isspace())


def _letters(value: str) -> str:
    return "".join(character for character in value.lower() if character.isalpha())


def _zip(value: str) -> str:
    return "".join(character for character in value.lower() if not character.isspace() and character != "-")


def _country(value: str) -> str:
    code = value.strip().lower()
    return code if len(code) == 2 and code.isascii() and code.isalpha() else ""


def _two_digits(least: int, most: int) -> Rule:
    def rule(value: str) -> str:
        number = digits(value)
        return f"{int(number):02d}" if 1 <= len(number) <= 4 and least <= int(number) <= most else ""

    return rule


def _year(value: str) -> str:
    number = digits(value)
    return number if len(number) == 4 else ""


def _gender(value: str) -> str:
    first = value.strip().lower()[:1]
    return first if first in {"f", "m"} else ""


def _device(value: str) -> str:
    return value.strip().lower()


META = Normalizer(
    "meta/1",
    MappingProxyType(
        {
            "EMAIL": sha256(address),
            "PHONE": sha256(_phone),
            "FN": sha256(_name),
            "LN": sha256(_name),
            "CT": sha256(_letters),
            "ST": sha256(_letters),
            "ZIP": sha256(_zip),
            "COUNTRY": sha256(_country),
            "DOBY": sha256(_year),
            "DOBM": sha256(_two_digits(1, 12)),
            "DOBD": sha256(_two_digits(1, 31)),
            "GEN": sha256(_gender),
            "MADID": _device,
            "EXTERN_ID": str.strip,
        }
    ),
)
"""Meta's rules. MADID and EXTERN_ID go in the clear."""
