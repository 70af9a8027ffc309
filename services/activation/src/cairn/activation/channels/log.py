"""Owns the channel that leads nowhere: a delivery is SENT when the ledger says so."""

import asyncio
from collections.abc import Sequence

from cairn.activation.channels.base import Letter
from cairn.activation.ledger import Fate, Guarantee, Outcome

LOGGED = Outcome(Fate.SENT, "logged")

_BATCH = 1_000
_TURNS = 8


class LogChannel:
    """For tests and measurements. What was pending already when its connection came to lead nowhere passes through here."""

    guarantee = Guarantee.AT_LEAST_ONCE
    ordered = False
    batch_size = _BATCH

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(_TURNS)

    def prepare(self, letter: Letter) -> Letter:
        return letter

    async def open(self) -> None:
        """Always there."""

    async def send(self, prepared: Sequence[Letter]) -> list[Outcome]:
        return [LOGGED] * len(prepared)

    async def close(self) -> None:
        """Holds nothing."""
