"""Owns the rules `linkedin/1`: how identifiers are written and hashed for LinkedIn's DMP segments. Pure.

Source: learn.microsoft.com/linkedin/marketing/matched-audiences/create-and-manage-segment-users.
"""

from types import MappingProxyType

from cairn.activation.normalize import Normalizer, address_without_blanks, advertising_id, sha256, sha512

LINKEDIN = Normalizer(
    "linkedin/1",
    MappingProxyType(
        {
            "SHA256_EMAIL": sha256(address_without_blanks),
            "SHA512_EMAIL": sha512(address_without_blanks),
            "GOOGLE_AID": advertising_id,
        }
    ),
)
"""LinkedIn's rules. GOOGLE_AID goes in the clear."""
