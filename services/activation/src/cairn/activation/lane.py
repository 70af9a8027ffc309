"""Owns when a batch begins on one connection in one bucket: when something is due, gathered, and its destination not at rest.

Refuses to have two batches at a time.
"""

import asyncio
import contextlib

import structlog

from cairn.activation import rates, store_work
from cairn.activation.channels import kind_of
from cairn.activation.channels.base import Channel
from cairn.activation.courier import Courier, Way
from cairn.activation.model import Claim
from cairn.activation.tools import Tools, describe
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.postgres.pool import is_unavailable
from cairn.runtime.clock import now_us

log = structlog.get_logger()

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_BATCH_OF_NOTHING = 1_000
"""How many deliveries are failed at once whose connection is gone."""


class Lane:
    """Delivers what is due on a connection in a bucket, whenever it is woken: by the time of that, then in the order of acceptance."""

    def __init__(self, tools: Tools, bucket: int, connection: str) -> None:
        self._tools = tools
        self._bucket = bucket
        self._connection = connection
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._courier = Courier(tools, bucket, connection, self._stopping, self._wake_in)
        self._unclean = False
        self._templates: frozenset[str] = frozenset()
        # What was accepted since the last claim, as far as this process was told, and how much of it makes a batch.
        self._arrived = 0
        self._enough = 0
        self._gathered = asyncio.Event()
        # The alarm that is set, and the loop's time at which it rings.
        self._alarm: asyncio.Handle | None = None
        self._alarm_at = 0.0
        self._task = asyncio.create_task(self._run(), name=f"lane-{bucket}-{connection}")

    def wake(self, arrived: int = 0) -> None:
        """There may be something to do: `arrived` deliveries were accepted."""
        self._arrived += arrived
        if self._arrived >= self._enough:
            self._gathered.set()
        self._wake.set()

    def wake_at(self, due_us: int) -> None:
        """Something is due at a time, in microseconds since the epoch."""
        self._wake_in((due_us - now_us()) / 1_000_000)

    def stop_soon(self) -> None:
        """Begins nothing new."""
        self._stopping.set()
        self._gathered.set()
        self._wake.set()

    async def finish(self) -> None:
        """Ends after the batch that is under way."""
        self.stop_soon()
        await asyncio.gather(self._task, return_exceptions=True)

    def cancel(self) -> None:
        """Ends at once; what is SENDING stays so, and is settled by the bucket's next owner."""
        self._task.cancel()

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not self._stopping.is_set():
            await self._wake.wait()
            self._wake.clear()
            try:
                while not self._stopping.is_set() and await self._deliver_batch():
                    pause_s = _FIRST_PAUSE_S
            except Exception as error:  # noqa: BLE001 - a lane outlives whatever befalls a batch
                if is_unavailable(error):
                    log.debug("lane_waits_for_postgres", bucket=self._bucket, connection=self._connection)
                else:
                    log.error(
                        "lane_failed", bucket=self._bucket, connection=self._connection, **describe(error)
                    )
                await self._pause(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
                self._wake.set()

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _deliver_batch(self) -> bool:
        """One batch from claim to results; False when nothing more was due, as far as nobody has woken us since."""
        tools = self._tools
        found = await tools.catalog.find(tools.pool, [self._connection], self._templates)
        connection = found.connections.get(self._connection)
        if connection is None:
            tools.breakers.forget(self._connection)
            claims = await self._claim(_BATCH_OF_NOTHING)
            if claims:
                await self._courier.fail(claims)
            self._unclean = False
            return len(claims) == _BATCH_OF_NOTHING
        async with tools.catalog.channel(connection, self._connection) as channel:
            limit = channel.batch_size
            if rate := rates.rate_of(connection):
                limit = min(limit, rate.batch_size)
            if not await self._gather(channel, limit):
                return False
            return await self._deliver_through(connection, channel, limit)

    async def _deliver_through(self, connection: pb.Connection, channel: Channel[object], limit: int) -> bool:
        tools = self._tools
        breaker = tools.breakers.of(self._connection, connection.etag)
        permit = breaker.begin(now_us())
        if permit.wait_us:
            # In short steps: the connection may be changed meanwhile.
            await self._pause(min(permit.wait_us / 1_000_000, _LONGEST_PAUSE_S))
            return True
        if permit.probe:
            limit = 1
        try:
            claims = await self._claim(limit)
            if claims:
                templates = frozenset(claim.template for claim in claims if claim.template)
                found = await tools.catalog.find(tools.pool, (), templates)
                self._templates = templates
                way = Way(connection, kind_of(connection), channel, breaker, permit)
                await self._courier.deliver(way, found, claims)
        finally:
            if permit.probe:
                breaker.nothing(now_us())
        self._unclean = False
        return self._is_full(claims, limit)

    async def _claim(self, limit: int) -> list[Claim]:
        tools, now = self._tools, now_us()
        holder = tools.board.holder
        floor_us = tools.board.floor_us(self._bucket, now)
        if self._unclean:
            # After an error it is not known what was committed; nothing of it was sent (see the courier).
            await store_work.give_back(
                tools.pool, self._bucket, self._connection, holder=holder, floor_us=floor_us, now=now
            )
        self._unclean = True
        claims = await store_work.claim(
            tools.pool,
            self._bucket,
            self._connection,
            floor_us=floor_us,
            limit=limit,
            holder=holder,
            now=now,
        )
        self._arrived = max(self._arrived - limit, 0) if self._is_full(claims, limit) else 0
        if not claims:
            await self._set_alarm(floor_us)
        return claims

    def _is_full(self, claims: list[Claim], limit: int) -> bool:
        """Whether more may be due than was claimed."""
        if len(claims) == limit:
            return True
        return sum(len(claim.context) for claim in claims) >= store_work.MOST_CLAIMED_BYTES

    async def _gather(self, channel: Channel[object], limit: int) -> bool:
        """Waits for a full batch, or until the first that is due has waited for long enough. False when nothing is due."""
        if channel.linger_s <= 0:
            return True
        self._enough = limit
        if self._arrived < limit:
            self._gathered.clear()
        tools, now = self._tools, now_us()
        floor_us = tools.board.floor_us(self._bucket, now)
        due_us = await store_work.earliest(tools.pool, self._bucket, self._connection, floor_us)
        if due_us is None or due_us > now:
            self._arrived = 0
            if due_us is not None:
                self.wake_at(due_us)
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(channel.linger_s - (now - due_us) / 1_000_000):
                await self._gathered.wait()
        return True

    async def _set_alarm(self, floor_us: int) -> None:
        due_us = await store_work.earliest(self._tools.pool, self._bucket, self._connection, floor_us)
        if due_us is not None:
            # What is due and could not be claimed is in somebody's hands for a moment: it is being withdrawn.
            self._wake_in(max((due_us - now_us()) / 1_000_000, _FIRST_PAUSE_S))

    def _wake_in(self, seconds: float) -> None:
        """Sets the alarm, unless it rings earlier anyway; whoever is woken too early finds nothing due."""
        loop = asyncio.get_running_loop()
        at = loop.time() + max(seconds, 0.0)
        if self._alarm is not None:
            if self._alarm_at <= at:
                return
            self._alarm.cancel()
        # Its time is kept here: a loop may give no timer for what is due at once (uvloop), and that can't be asked.
        self._alarm, self._alarm_at = loop.call_at(at, self._ring), at

    def _ring(self) -> None:
        self._alarm = None
        self._wake.set()
