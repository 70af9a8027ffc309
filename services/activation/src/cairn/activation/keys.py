"""Owns the service's own keys: what hashes addresses and erased profiles, and what makes unsubscribe addresses unreadable.

Refuses to go on under a hash key other than the one that the stored hashes were made with: every suppression would be forgotten.
"""

import hashlib
import hmac
import os
from dataclasses import dataclass, field

from cairn.activation import store_people
from cairn.activation.secrets import MissingSecretError, Secrets
from cairn.activation.settings import ActivationSettings
from cairn.activation.store import Database
from cairn.runtime.errors import StartupError
from cairn.runtime.settings import environment_name

KEY_BYTES = 32
LEAST_SECRET_CHARS = 32
"""Fewer characters than this could be guessed."""

_HASH = "hash"
_LINKS = "links"
_CHECK = "hash.check"


@dataclass(frozen=True, slots=True)
class Keys:
    """The keys of one database: `hash` for keyed hashes, `links` for unsubscribe addresses; 32 bytes each."""

    hash: bytes = field(repr=False)
    links: bytes = field(repr=False)

    def hash_address(self, address: str) -> bytes:
        """The keyed hash of an address, as `mail.parse_address` gives it, whatever its case: 32 bytes."""
        return _keyed(self.hash, b"address\0", address.strip().lower())

    def hash_profile(self, profile_id: str) -> bytes:
        """The keyed hash under which an erased profile is remembered: 32 bytes."""
        return _keyed(self.hash, b"profile\0", profile_id)


async def load_keys(database: Database, secrets: Secrets, settings: ActivationSettings) -> Keys:
    """The keys: from the secrets that the settings name, else those of the database, made there when it has none.

    StartupError when a secret is missing or short, or when the hash key is not the one that was in use before.
    """
    given = {
        _HASH: _read_secret(secrets, settings, "hash_key_secret"),
        _LINKS: _read_secret(secrets, settings, "link_key_secret"),
    }
    made = {name: os.urandom(KEY_BYTES) for name, key in given.items() if key is None}
    kept = await store_people.keep_keys(database, made)
    keys = Keys(given[_HASH] or kept[_HASH], given[_LINKS] or kept[_LINKS])
    check = _keyed(keys.hash, b"check\0", "cairn")
    if (await store_people.keep_keys(database, {_CHECK: check}))[_CHECK] != check:
        name = environment_name(settings, "hash_key_secret")
        raise StartupError(
            f"{name}: this is not the key that the suppressions of this database were hashed with; "
            "give the one that was used before, or unset it if there was none."
        )
    return keys


def _read_secret(secrets: Secrets, settings: ActivationSettings, setting: str) -> bytes | None:
    """The key that a secret's text makes; None when the setting names none."""
    name: str = getattr(settings, setting)
    if not name:
        return None
    try:
        text = secrets.read(name)
    except MissingSecretError as error:
        raise StartupError(f"{environment_name(settings, setting)}: {error}.") from None
    if len(text) < LEAST_SECRET_CHARS:
        raise StartupError(
            f"{environment_name(settings, setting)}: the secret `{name}` has {len(text)} characters; "
            f"at least {LEAST_SECRET_CHARS} make a key."
        )
    return hashlib.sha256(text.encode()).digest()


def _keyed(key: bytes, domain: bytes, text: str) -> bytes:
    return hmac.digest(key, domain + text.encode("utf-8", "surrogatepass"), "sha256")
