"""Owns the calls about people: suppressions, consent, feedback, erasure: parse, one operation, render."""

from cairn.postgres.pool import Pool


class PeopleCalls:
    """What people said, and what became of their addresses."""

    _pool: Pool
