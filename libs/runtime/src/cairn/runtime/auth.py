"""Owns who may call what: bearer tokens, the roles of callers, the roles that methods ask for.

Refuses to keep a token: the file holds SHA-256 digests, and comparing takes the same time for every token.
"""

import hashlib
import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import Any

import yaml

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.runtime.errors import CairnError
from cairn.runtime.watched_file import WatchedFile


class Role(Enum):
    """What a caller may do, and what a method asks for. Not a ladder: a producer may not read."""

    READ = "READ"
    PRODUCE = "PRODUCE"
    OPERATE = "OPERATE"


ALLOWED: Mapping[Role, frozenset[Role]] = MappingProxyType(
    {
        Role.READ: frozenset({Role.READ, Role.OPERATE}),
        Role.PRODUCE: frozenset({Role.PRODUCE, Role.OPERATE}),
        Role.OPERATE: frozenset({Role.OPERATE}),
    }
)
"""For the role that a method asks for, the roles of the callers that it is open to."""

ANY_CALLER = frozenset(Role)
"""Open to every known caller: reflection."""

NO_CALLER = frozenset[Role]()
"""Needs no token at all: health, which probes ask."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling. `name` is the operator's word for it and may be logged."""

    name: str
    role: Role
    digest: bytes = b""


ANONYMOUS = Caller("anonymous", Role.OPERATE)
"""The one caller of a server without tokens, which listens on loopback only."""


class Authorizer:
    """Tells who a bearer token belongs to, and whether that caller may make the call."""

    def __init__(self, tokens: WatchedFile[tuple[Caller, ...]] | None) -> None:
        self._tokens = tokens

    def authorize(self, method: str, open_to: frozenset[Role], header: str | bytes | None) -> Caller | None:
        """The caller, or None where nobody is asked for. `header` is the `authorization` metadata.

        Raises CairnError UNAUTHENTICATED without a known token, PERMISSION_DENIED for a role that may not.
        """
        if self._tokens is None:
            return ANONYMOUS
        if not open_to:
            return None
        caller = self._caller(header)
        if caller.role not in open_to:
            raise CairnError(
                ErrorReason.ERROR_REASON_PERMISSION_DENIED,
                f"{caller.name} has the role {caller.role.value}, which may not call {method}; "
                f"it is open to {' and '.join(sorted(role.value for role in open_to))}.",
            )
        return caller

    def _caller(self, header: str | bytes | None) -> Caller:
        assert self._tokens is not None
        if not isinstance(header, str) or header[:7].lower() != "bearer ":
            raise CairnError(
                ErrorReason.ERROR_REASON_UNAUTHENTICATED,
                "The call carries no token; send the metadata `authorization: Bearer <token>`.",
            )
        digest = token_digest(header[7:].strip())
        found = None
        for caller in self._tokens.get():
            if hmac.compare_digest(caller.digest, digest):
                found = caller
        if found is None:
            raise CairnError(
                ErrorReason.ERROR_REASON_UNAUTHENTICATED,
                "The token is not known here; ask the operator of this service for one.",
            )
        return found


def token_digest(token: str) -> bytes:
    """The SHA-256 of a token as callers send it; `.hex()` of it is what the tokens file holds."""
    return hashlib.sha256(token.encode()).digest()


def parse_tokens(text: str) -> tuple[Caller, ...]:
    """The callers of a tokens file. Raises ValueError naming the entry that is wrong; never quotes a
    digest."""
    try:
        entries = yaml.safe_load(text)
    except yaml.YAMLError:
        raise ValueError("is not YAML") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError("must be a list of {name, role, sha256}")
    callers = tuple(_parse_caller(entry, f"entry {number}") for number, entry in enumerate(entries, 1))
    if len({caller.digest for caller in callers}) < len(callers):
        raise ValueError("two callers have the same token")
    return callers


def _parse_caller(entry: Any, where: str) -> Caller:
    if not isinstance(entry, dict) or set(entry) != {"name", "role", "sha256"}:
        raise ValueError(f"{where} must have exactly name, role and sha256")
    name, role, digest = entry["name"], entry["role"], entry["sha256"]
    if not isinstance(name, str) or not name:
        raise ValueError(f"{where}: name must be a text")
    if role not in Role.__members__:
        raise ValueError(f"{where}: role must be one of {', '.join(Role.__members__)}")
    try:
        parsed = bytes.fromhex(digest) if isinstance(digest, str) else b""
    except ValueError:
        parsed = b""
    if len(parsed) != 32:
        raise ValueError(f"{where}: sha256 must be 64 hexadecimal digits, in quotes")
    return Caller(name, Role[role], parsed)


def parse_token(text: str) -> str:
    """The one token of a peer token file. Raises ValueError when there is none, or one that can't be sent."""
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise ValueError("must hold one token of visible ASCII characters")
    return token


def is_loopback(host: str) -> bool:
    """Whether an address can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
