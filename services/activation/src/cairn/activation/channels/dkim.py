"""Owns DKIM signatures (RFC 6376, RFC 8463): relaxed/relaxed, rsa-sha256 or ed25519-sha256, whichever the key is for."""

import base64
import hashlib
import re
from collections.abc import Callable, Collection, Mapping

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
DOMAIN = re.compile(rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})+")
"""A domain that signs, in ASCII and lower case."""

SELECTOR = re.compile(r"(?=.{1,128}\Z)[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9]+)*")
"""What stands before `._domainkey` in the DNS."""

SIGNED_HEADERS = (
    "From",
    "To",
    "Subject",
    "Date",
    "Message-ID",
    "List-Unsubscribe",
    "List-Unsubscribe-Post",
    "MIME-Version",
    "Content-Type",
)
"""What a signature covers, as far as a message has it."""

LEAST_RSA_BITS = 1024
"""Signatures by shorter keys count for nothing (RFC 8301, section 3.2)."""

# Named once more than they occur, so that nobody can add a second one (RFC 6376, section 8.15).
_NO_SECOND = ("From", "To", "Subject")
_FOLDS = re.compile(r"[ \t\r\n]+")
_WIDTH = 72
_HASHED = SHA256()
_PADDING = PKCS1v15()
_Key = RSAPrivateKey | Ed25519PrivateKey


class BadKeyError(Exception):
    """The text is no private key that can sign; the error's text says why, and nothing of the key."""


def parse_key(pem: str) -> _Key:
    """The key of a PEM text; BadKeyError when it can't sign."""
    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except TypeError:
        raise BadKeyError("the key is encrypted; write it without a password") from None
    except (ValueError, UnsupportedAlgorithm):
        raise BadKeyError("it is no private key in PEM") from None
    if isinstance(key, RSAPrivateKey):
        if key.key_size < LEAST_RSA_BITS:
            raise BadKeyError(f"the RSA key has {key.key_size} bits; {LEAST_RSA_BITS} is the least")
        return key
    if isinstance(key, Ed25519PrivateKey):
        return key
    raise BadKeyError("the key is neither RSA nor Ed25519")


class Signer:
    """Signs messages for a domain. `read` gives the key's PEM text; what it gives is parsed when it has changed."""

    def __init__(
        self, domain: str, selector: str, read: Callable[[], str], unsigned: Collection[str] = ()
    ) -> None:
        """`unsigned` are headers that a signature does not cover, because somebody on the way replaces them."""
        self._read = read
        self._where = f"d={domain}; s={selector}"
        self._signed = [name for name in SIGNED_HEADERS if name not in unsigned]
        self._pem = ""
        self._key: _Key | None = None

    def load_key(self) -> None:
        """Takes the present key, which signs until the next time. BadKeyError; whatever `read` raises."""
        pem = self._read()
        if self._key is None or pem != self._pem:
            self._key, self._pem = parse_key(pem), pem

    def sign(self, headers: Mapping[str, str], body: bytes, now_seconds: int) -> str:
        """The value of the message's DKIM-Signature header, by the key that was loaded."""
        key = self._key
        assert key is not None, "load_key comes first"
        names = [name for name in self._signed if name in headers]
        listed = ":".join([*names, *(name for name in _NO_SECOND if name in headers)])
        algorithm = "rsa-sha256" if isinstance(key, RSAPrivateKey) else "ed25519-sha256"
        value = (
            f"v=1; a={algorithm}; c=relaxed/relaxed; {self._where}; t={now_seconds};\r\n h={listed};\r\n"
            f" bh={_base64(_hash(relaxed_body(body)))};\r\n b="
        )
        lines = [relaxed_header(name, headers[name]) for name in names]
        lines.append(relaxed_header("DKIM-Signature", value))
        digest = _hash("\r\n".join(lines).encode("ascii"))
        if isinstance(key, RSAPrivateKey):
            signature = _base64(key.sign(digest, _PADDING, Prehashed(_HASHED)))
        else:
            signature = _base64(key.sign(digest))
        return value + "\r\n ".join(signature[at : at + _WIDTH] for at in range(0, len(signature), _WIDTH))


def relaxed_header(name: str, value: str) -> str:
    """A header as the signature sees it, without its line end (RFC 6376, section 3.4.2)."""
    return f"{name.lower()}:{_FOLDS.sub(' ', value).strip(' ')}"


def relaxed_body(body: bytes) -> bytes:
    """A body as the signature sees it (RFC 6376, section 3.4.4); its lines end with CRLF, but for the last one."""
    lines = body.replace(b"\t", b" ")
    while b"  " in lines:  # a few times at most, and a tenth of what a regular expression takes
        lines = lines.replace(b"  ", b" ")
    lines = lines.replace(b" \r\n", b"\r\n").rstrip(b"\r\n ")
    return lines + b"\r\n" if lines else b""


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")
