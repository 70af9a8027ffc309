"""Owns a process's name in the database: an advisory lock that is held while the process lives.

What a process leaves behind carries its name; once the lock is free, another may take that over. Refuses to promise
more than that: while the connection is down the lock may be free although the process lives.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

import asyncpg
import structlog

from cairn.postgres.locks import lock_key
from cairn.postgres.pool import AnyConnection, Connection, Pool, is_unavailable, translate_errors

log = structlog.get_logger()

_TRY_LOCK = "SELECT pg_try_advisory_lock($1)"
_UNLOCK = "SELECT pg_advisory_unlock($1)"
_PING = "SELECT 1"
# A bigint key shows in pg_locks as two halves; looking does not disturb an owner that is about to take it again.
_IS_HELD = """
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND objsubid = 1 AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND classid::bigint = $1 AND objid::bigint = $2)
"""
_PING_SECONDS = 4.0


class LockIdentity:
    """Holds the lock of (`namespace`, `id`) on a connection of its own, and takes it again when that dies.

    `id` is a 63-bit number that no other process uses (`cairn.runtime.ids.random_id`); `connect` opens the dedicated
    connection, through no transaction pooler; every `interval_s` seconds the connection is tried.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        namespace: str,
        id: int,
        interval_s: float = 1.0,
    ) -> None:
        self.id = id
        self._namespace = namespace
        self._connect = connect
        self._interval_s = interval_s
        self._connection: Connection | None = None
        self._held = False
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def held(self) -> bool:
        """Whether the lock is ours, as far as this side can know."""
        return self._held and self._connection is not None and not self._connection.is_closed()

    async def start(self) -> None:
        """Take the lock; an error of the first connection is raised, later ones are outlived."""
        try:
            with translate_errors():
                await self._hold()
        except BaseException:
            await self._drop()
            raise
        self._task = asyncio.create_task(self._run(), name=f"identity-{self._namespace}")

    async def stop(self) -> None:
        """Give the lock back."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._drop()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._wake.wait()
            self._wake.clear()
            if self._stopping:
                return
            was_held = self._held
            try:
                await self._hold()
            except Exception as error:  # noqa: BLE001 - giving up would leave this process nameless for good
                await self._drop()
                if was_held:
                    log.warning("identity_lost", namespace=self._namespace, error=type(error).__name__)
            else:
                if self._held and not was_held:
                    log.info("identity_regained", namespace=self._namespace)

    async def _hold(self) -> None:
        if self._connection is None or self._connection.is_closed():
            self._held = False
            self._connection = await self._connect()
            self._connection.add_termination_listener(self._on_termination)
        if self._held:
            await self._connection.execute(_PING, timeout=_PING_SECONDS)
        else:
            key = lock_key(self._namespace, self.id)
            self._held = bool(await self._connection.fetchval(_TRY_LOCK, key, timeout=_PING_SECONDS))

    async def _drop(self) -> None:
        self._held = False
        connection, self._connection = self._connection, None
        if connection is not None:
            await close_quietly(connection)

    def _on_termination(self, _connection: object) -> None:
        self._wake.set()


async def lock_is_free(database: Pool | AnyConnection, namespace: str, id: int) -> bool:
    """Whether nobody holds this identity now: its process is gone, or has lost its connection."""
    key = lock_key(namespace, id) & 0xFFFF_FFFF_FFFF_FFFF
    return not await database.fetchval(_IS_HELD, key >> 32, key & 0xFFFF_FFFF)


@contextlib.asynccontextmanager
async def try_adopt(database: Pool | AnyConnection, namespace: str, id: int) -> AsyncIterator[bool]:
    """Yield True and hold the identity of another, gone process meanwhile; False when it, or an adopter, lives.

    With a pool, one of its connections is taken for as long. Should that connection die meanwhile, another may adopt
    too: what is done with an adopted one's things must bear to be done twice.
    """
    async with contextlib.AsyncExitStack() as stack:
        if isinstance(database, asyncpg.Pool):
            connection: AnyConnection = await stack.enter_async_context(database.acquire())
        else:
            connection = database
        key = lock_key(namespace, id)
        adopted = bool(await connection.fetchval(_TRY_LOCK, key))
        try:
            yield adopted
        finally:
            if adopted:
                await _unlock(connection, key)


async def close_quietly(connection: Connection) -> None:
    """Close a connection that may be dead; its locks go with it."""
    try:
        await connection.close(timeout=_PING_SECONDS)
    except Exception:  # noqa: BLE001 - it is to be gone, in whatever state it is
        connection.terminate()


async def _unlock(connection: AnyConnection, key: int) -> None:
    if connection.is_closed():
        return
    try:
        await connection.execute(_UNLOCK, key)
    except Exception as error:
        if not is_unavailable(error):
            raise
