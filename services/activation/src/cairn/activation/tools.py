"""Owns what every lane of a process works with."""

from dataclasses import dataclass, field

import asyncpg

from cairn.activation.board import Board
from cairn.activation.breaker import Breakers
from cairn.activation.catalog import Catalog
from cairn.activation.guard import Guard
from cairn.activation.ledger import RetryPolicy
from cairn.postgres.pool import Pool
from cairn.runtime.ids import random_id

_CHANCES = 1 << 63


@dataclass(frozen=True, slots=True)
class Tools:
    """Shared by all lanes: `breakers` are of this process alone."""

    pool: Pool
    catalog: Catalog
    board: Board
    policy: RetryPolicy
    guard: Guard
    breakers: Breakers = field(default_factory=Breakers)


def chance() -> float:
    """A number from 0 to 1 that nobody can foresee."""
    return random_id() / _CHANCES


def describe(error: Exception) -> dict[str, object]:
    """What the log may know of an error: Postgres' own text can quote a row."""
    if isinstance(error, asyncpg.PostgresError):
        return {"error": type(error).__name__, "sqlstate": error.sqlstate}
    return {"exc_info": error}
