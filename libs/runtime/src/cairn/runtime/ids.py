"""Owns randomness: the one place that asks the system for any. Refuses to name what a caller should name."""

import secrets


def random_id() -> int:
    """A positive 63-bit number that no other process will ever draw: fits a Postgres `bigint`.

    For identities of processes and correlation ids. Ids of domain objects are derived, never drawn.
    """
    return secrets.randbits(63) or 1
