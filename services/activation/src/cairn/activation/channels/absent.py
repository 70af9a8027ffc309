"""Owns what stands in for a channel whose package is not installed here: nothing leaves, each delivery waits for it and fails in the end.

So one connection that was left behind harms no other, and its deliveries leave if the package comes back in time.
"""

import asyncio
from collections.abc import Sequence

from cairn.activation.channels.base import ChannelKind, Letter, UnreachableError, down
from cairn.activation.ledger import Guarantee, Outcome
from cairn.activation.model import Member


class AbsentChannel:
    """Nobody to speak to; `reason` says why."""

    ordered = False
    batch_size = 100
    linger_s = 0.0

    def __init__(self, reason: str) -> None:
        self._reason = reason
        self.turns = asyncio.Semaphore(1)

    def prepare(self, letter: Letter) -> Letter:
        return letter

    def address_of(self, prepared: Letter) -> str:
        return ""

    def member_of(self, prepared: Letter) -> Member | None:
        return None

    async def open(self) -> None:
        raise UnreachableError(self._reason)

    async def send(self, prepared: Sequence[Letter]) -> list[Outcome]:
        return [down(self._reason)] * len(prepared)

    async def close(self) -> None:
        """Holds nothing."""


def absent_kind(name: str, reason: str) -> ChannelKind:
    """The kind of a connection whose channel is not there."""
    return ChannelKind(
        name=name,
        guarantee=Guarantee.AT_MOST_ONCE,
        check=lambda connection, findings: findings.add("plugin.channel", reason),
        open=lambda connection, tools: AbsentChannel(reason),
    )
