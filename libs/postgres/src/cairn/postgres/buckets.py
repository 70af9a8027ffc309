"""Owns which replica works on which bucket: session advisory locks, shared fairly, gone with their holder's connection.

Refuses to promise that never two replicas work on one bucket: for the seconds in which a cut-off holder has not yet
noticed, work on a bucket must bear to be done twice.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

import structlog

from cairn.postgres.identity import close_quietly
from cairn.postgres.locks import lock_class
from cairn.postgres.pool import Connection, translate_errors

log = structlog.get_logger()

_JOIN = "SELECT pg_advisory_lock_shared($1, 0)"
_SURVEY = """
SELECT classid::bigint AS class, objid::integer AS bucket
FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 2 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND classid::bigint IN ($1, $2)
"""
_TRY_LOCK = "SELECT bucket FROM unnest($2::integer[]) AS bucket WHERE pg_try_advisory_lock($1, bucket)"
_UNLOCK = "SELECT pg_advisory_unlock($1, $2)"
# Together with the interval below the 8 s after which the server frees a vanished host's locks (see `pool`).
_STATEMENT_SECONDS = 4.0


@dataclass(frozen=True, slots=True)
class Survey:
    """What `pg_locks` shows: how many replicas live, and which buckets are held by any of them."""

    members: int
    held: frozenset[int]


def fair_share(bucket_count: int, members: int) -> int:
    """The most buckets that one of `members` replicas may own, so that all are owned and none has twice as many."""
    return -(-bucket_count // max(members, 1))


def choose_buckets(free: Iterable[int], need: int, bucket_count: int, spread: int) -> list[int]:
    """Which free buckets to try first: `spread` differs between replicas, so that they seldom try the same."""
    return sorted(free, key=lambda bucket: (bucket - spread) % bucket_count)[: max(need, 0)]


class BucketOwner:
    """Owns a fair share of the buckets of `namespace` while it runs.

    A lone replica has all of them when `start` returns; after a join, a leave or a kill of another the shares
    are right again within a few times `interval_s` seconds. `on_acquired` is awaited after a bucket became ours;
    `on_lost` before one is given to another, or as soon as it is known that all were lost with the connection.
    Errors of both are logged; they stop nothing. `connect` opens the dedicated connection, through no transaction pooler.
    """

    def __init__(
        self,
        connect: Callable[[], Awaitable[Connection]],
        *,
        namespace: str,
        bucket_count: int,
        on_acquired: Callable[[int], Awaitable[None]],
        on_lost: Callable[[int], Awaitable[None]],
        interval_s: float = 1.0,
    ) -> None:
        self._connect = connect
        self._namespace = namespace
        self._bucket_count = bucket_count
        self._on_acquired = on_acquired
        self._on_lost = on_lost
        self._interval_s = interval_s
        self._member_class = lock_class(namespace, "members")
        self._bucket_class = lock_class(namespace, "buckets")
        self._owned: set[int] = set()
        self._connection: Connection | None = None
        self._wake = asyncio.Event()
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    @property
    def owned(self) -> frozenset[int]:
        """The buckets that are ours now, as far as this side can know."""
        return frozenset(self._owned)

    async def start(self) -> None:
        """Join the replicas and take the first buckets. An error is raised here; later ones are outlived."""
        try:
            with translate_errors():
                await self._balance()
        except BaseException:
            await self._lose_all()
            raise
        self._task = asyncio.create_task(self._run(), name=f"buckets-{self._namespace}")

    async def stop(self) -> None:
        """Give all buckets back, each after its `on_lost`."""
        self._stopping = True
        self._wake.set()
        if self._task is not None:
            await self._task
        await self._lose_all()

    async def _run(self) -> None:
        failing = False
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._wake.wait()
            self._wake.clear()
            if self._stopping:
                return
            try:
                await self._balance()
                failing = False
            except Exception as error:  # noqa: BLE001 - whatever it was, this replica must come back by itself
                if not failing:
                    log.warning("buckets_lost", namespace=self._namespace, error=type(error).__name__)
                failing = True
                await self._lose_all()

    async def _balance(self) -> None:
        connection = await self._joined()
        survey = await self._survey(connection)
        share = fair_share(self._bucket_count, survey.members)
        for bucket in sorted(self._owned)[share:]:
            await self._lose(bucket)
            await connection.execute(_UNLOCK, self._bucket_class, bucket, timeout=_STATEMENT_SECONDS)
        wanted = choose_buckets(
            set(range(self._bucket_count)) - survey.held - self._owned,
            share - len(self._owned),
            self._bucket_count,
            # Any number that two live replicas do not share.
            spread=connection.get_server_pid() * share,
        )
        if not wanted:
            return
        taken = await connection.fetch(_TRY_LOCK, self._bucket_class, wanted, timeout=_STATEMENT_SECONDS)
        for row in taken:
            self._owned.add(row["bucket"])
        for row in taken:
            await self._call(self._on_acquired, row["bucket"])

    async def _joined(self) -> Connection:
        """The connection, on which our membership is held."""
        if self._connection is None:
            connection = await self._connect()
            self._connection = connection
            connection.add_termination_listener(self._on_termination)
            await connection.execute(_JOIN, self._member_class, timeout=_STATEMENT_SECONDS)
        return self._connection

    async def _survey(self, connection: Connection) -> Survey:
        rows = await connection.fetch(
            _SURVEY, self._member_class, self._bucket_class, timeout=_STATEMENT_SECONDS
        )
        held = frozenset(row["bucket"] for row in rows if row["class"] == self._bucket_class)
        return Survey(members=len(rows) - len(held), held=held)

    async def _lose_all(self) -> None:
        for bucket in sorted(self._owned):
            await self._lose(bucket)
        connection, self._connection = self._connection, None
        if connection is not None:
            await close_quietly(connection)

    async def _lose(self, bucket: int) -> None:
        self._owned.discard(bucket)
        await self._call(self._on_lost, bucket)

    async def _call(self, callback: Callable[[int], Awaitable[None]], bucket: int) -> None:
        try:
            await callback(bucket)
        except Exception:
            log.exception("bucket_callback_failed", namespace=self._namespace, bucket=bucket)

    def _on_termination(self, _connection: object) -> None:
        self._wake.set()
