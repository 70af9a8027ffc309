"""Owns the channel that leads nowhere: a delivery is SENT when the ledger says so."""

import asyncio
from collections.abc import Sequence

from cairn.activation.channels.base import ChannelKind, Letter
from cairn.activation.ledger import Fate, Guarantee, Outcome
from cairn.activation.model import Member

LOGGED = Outcome(Fate.SENT, "logged")

_BATCH = 1_000
_TURNS = 8


class LogChannel:
    """For tests and measurements. What was pending already when its connection came to lead nowhere passes through here."""

    ordered = False
    batch_size = _BATCH
    linger_s = 0.0

    def __init__(self) -> None:
        self.turns = asyncio.Semaphore(_TURNS)

    def prepare(self, letter: Letter) -> Letter:
        return letter

    def address_of(self, prepared: Letter) -> str:
        return ""

    def member_of(self, prepared: Letter) -> Member | None:
        return None

    async def open(self) -> None:
        """Always there."""

    async def send(self, prepared: Sequence[Letter]) -> list[Outcome]:
        return [LOGGED] * len(prepared)

    async def close(self) -> None:
        """Holds nothing."""


KIND = ChannelKind(
    name="log",
    guarantee=Guarantee.AT_LEAST_ONCE,
    check=lambda connection, findings: None,
    open=lambda connection, tools: LogChannel(),
    stays=True,
)
