"""Owns the rules `google/1`: how identifiers are written and hashed for Google's customer match. Pure.

Sources: developers.google.com/data-manager/api/devguides/concepts/formatting; what follows a plus sign is dropped as the Google Ads
API's guide "Normalize and hash user-provided data" says.
"""

from types import MappingProxyType

from cairn.activation.normalize import Normalizer, address_without_blanks, phone, sha256

_GMAIL_DOMAINS = frozenset({"gmail.com", "googlemail.com"})


def _address(value: str) -> str:
    text = address_without_blanks(value)
    local, _, domain = text.partition("@")
    if domain not in _GMAIL_DOMAINS:
        return text
    # To Gmail these are one mailbox: jane.doe+shop@, janedoe@. At any other domain they may be two.
    local = local.partition("+")[0].replace(".", "")
    return f"{local}@{domain}" if local else ""


GOOGLE = Normalizer("google/1", MappingProxyType({"EMAIL": sha256(_address), "PHONE": sha256(phone)}))
"""Google's rules. A phone number keeps its plus sign."""
