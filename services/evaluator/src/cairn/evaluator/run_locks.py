"""Owns who goes on with a run: the session locks of this process on runs, all on one connection, so that they die with it."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from hashlib import blake2b
from typing import Final

from cairn.postgres.identity import close_quietly, try_adopt
from cairn.postgres.pool import Connection

_NAMESPACE: Final = "evaluator-run"
_PING: Final = "SELECT 1"
_PING_SECONDS: Final = 4.0


class RunLocks:
    """The runs that this process goes on with. `connect` opens the dedicated connection, which exists from the first lock on."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._connection: Connection | None = None
        self._held: dict[tuple[str, str], AsyncExitStack] = {}
        self._turn = asyncio.Lock()

    async def take(self, run: tuple[str, str]) -> bool:
        """Takes a run's lock; False when another process has it. Raises the driver's errors."""
        async with self._turn:
            if self._connection is None or self._connection.is_closed():
                self._held.clear()
                self._connection = await self._connect()
            stack = AsyncExitStack()
            if not await stack.enter_async_context(try_adopt(self._connection, _NAMESPACE, _number(run))):
                await stack.aclose()
                return False
            self._held[run] = stack
            return True

    def holds(self, run: tuple[str, str]) -> bool:
        """Whether a run's lock is ours, as far as this side can know."""
        return run in self._held and self._connection is not None and not self._connection.is_closed()

    async def release(self, run: tuple[str, str]) -> None:
        """Gives a lock back; one that was lost is no error."""
        async with self._turn:
            if stack := self._held.pop(run, None):
                await stack.aclose()

    async def check(self) -> None:
        """Looks whether the connection lives, if anything depends on it: one that does not is closed. Raises the driver's errors."""
        async with self._turn:
            if self._held and self._connection is not None and not self._connection.is_closed():
                try:
                    await self._connection.execute(_PING, timeout=_PING_SECONDS)
                except BaseException:
                    self._connection.terminate()
                    raise

    async def close(self) -> None:
        """Gives all back."""
        async with self._turn:
            self._held.clear()
            connection, self._connection = self._connection, None
            if connection is not None:
                await close_quietly(connection)


def _number(run: tuple[str, str]) -> int:
    """The 63-bit number of a run among locks."""
    return int.from_bytes(blake2b("/".join(run).encode(), digest_size=8).digest()) >> 1
