"""Owns what replicas tell one another: "I accepted a timer of your shard that is due soon", by Postgres' NOTIFY.

A notice makes a timer punctual, never certain: one that is lost is made good by the owner's sweep. Refuses to say
anything about a timer but its shard and its due time.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from cairn.postgres.identity import close_quietly
from cairn.postgres.pool import Connection
from cairn.scheduler.alarms import Alarms
from cairn.scheduler.store import NOTICE_CHANNEL
from cairn.scheduler.wire import parse_notices

log = structlog.get_logger()

_RECONNECT_SECONDS = 1.0


class Notices:
    """A component: listens on a connection of its own, and when that died looks everywhere, for what it missed."""

    name = "notices"

    def __init__(self, connect: Callable[[], Awaitable[Connection]], alarms: Alarms) -> None:
        self._connect = connect
        self._alarms = alarms
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen; goes on trying when that fails."""
        self._task = asyncio.create_task(self._run(), name="notices")

    async def drain(self) -> None:
        """Nothing is owed to anybody."""

    async def stop(self) -> None:
        """Listen no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        failing = False
        while True:
            try:
                await self._listen()
                failing = False
            except Exception as error:  # noqa: BLE001 - whatever it was, this replica must hear again by itself
                if not failing:
                    log.warning("notices_unheard", error=type(error).__name__)
                failing = True
            await asyncio.sleep(_RECONNECT_SECONDS)

    async def _listen(self) -> None:
        """Listen until the connection dies."""
        connection = await self._connect()
        died = asyncio.Event()
        try:
            connection.add_termination_listener(lambda _: died.set())
            await connection.add_listener(NOTICE_CHANNEL, self._heard)
            self._alarms.look_everywhere()
            await died.wait()
        finally:
            await close_quietly(connection)

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        for bucket, due_us in parse_notices(str(payload)):
            self._alarms.notice(bucket, due_us)
