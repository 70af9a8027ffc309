"""Owns unsubscribe addresses: short, opaque, always the same for a connection and an address, and impossible to forge. Pure.

The token is the encrypted pair itself, so there is no table of tokens; without the key it tells nothing.
"""

import base64
import binascii
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESSIV

MAX_TOKEN_CHARS = 600
"""No token of ours is longer: 16 bytes, a connection's id, and an address, in base64."""

PATH = "/u/"
"""What an unsubscribe address has between the public base and its token."""

_SEPARATOR = "\0"
_WHAT_FOR = [b"cairn unsubscribe 1"]


@dataclass(frozen=True, slots=True)
class Subscriber:
    """Whom a token stands for: the id of the connection that wrote, and the address it wrote to."""

    connection: str
    address: str


class Links:
    """Makes and reads unsubscribe addresses below `base_url`; without one only the tokens make sense."""

    def __init__(self, key: bytes, base_url: str) -> None:
        self._cipher = AESSIV(key)
        self._base_url = base_url.rstrip("/")

    def unsubscribe_url(self, connection_id: str, address: str) -> str:
        """The one-click address of whoever has this address, as `mail.parse_address` gives it, on a connection."""
        return f"{self._base_url}{PATH}{self.token(connection_id, address)}"

    def token(self, connection_id: str, address: str) -> str:
        """What the address has behind its path: letters, digits, dashes and underscores."""
        sealed = self._cipher.encrypt(f"{connection_id}{_SEPARATOR}{address}".encode(), _WHAT_FOR)
        return base64.urlsafe_b64encode(sealed).decode().rstrip("=")

    def read(self, token: str) -> Subscriber | None:
        """Whom a token stands for; None for one that was forged, cut or made with another key."""
        if len(token) > MAX_TOKEN_CHARS:
            return None
        try:
            sealed = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            plain = self._cipher.decrypt(sealed, _WHAT_FOR).decode()
        except (binascii.Error, ValueError, InvalidTag):
            return None
        connection, separator, address = plain.partition(_SEPARATOR)
        return Subscriber(connection, address) if separator else None
