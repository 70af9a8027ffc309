"""Owns the numbers of advisory locks: all of Cairn's locks in one database, without two meanings for one number."""

import hashlib


def lock_key(*parts: str | int) -> int:
    """The 64-bit key of the lock with this name, for `pg_advisory_lock(bigint)`; the same in every process.

    Part of the protocol between releases that run at the same time: it never changes.
    """
    return int.from_bytes(_digest(parts, 8), "big", signed=True)


def lock_class(*parts: str | int) -> int:
    """The class, a positive 31-bit number, of a family of locks for `pg_advisory_lock(int, int)`."""
    return int.from_bytes(_digest(parts, 4), "big") & 0x7FFFFFFF


def _digest(parts: tuple[str | int, ...], size: int) -> bytes:
    name = "\0".join(("cairn", *map(str, parts)))
    return hashlib.blake2b(name.encode(), digest_size=size).digest()
