"""Owns the rules `tiktok/1`: how identifiers are written and hashed for TikTok's custom audiences. Pure.

Source: ads.tiktok.com/help, "How to create a Custom Audience with a customer file" (September 2025): addresses without blanks and in
lower case, telephone numbers in E.164 with their plus sign, advertising ids in one case throughout. An earlier page of theirs dropped dots
and what follows a plus sign, for every domain; some connectors still do, and their hashes differ from these.
"""

from types import MappingProxyType

from cairn.activation.normalize import Normalizer, address_without_blanks, advertising_id, phone, sha256

TIKTOK = Normalizer(
    "tiktok/1",
    MappingProxyType(
        {
            "EMAIL_SHA256": sha256(address_without_blanks),
            "PHONE_SHA256": sha256(phone),
            "IDFA_SHA256": sha256(advertising_id),
            "AAID_SHA256": sha256(advertising_id),
        }
    ),
)
"""TikTok's rules: everything is hashed."""
