"""Owns the work on one connection in one bucket: claim, prepare, commit SENDING, send, write what came of it.

Refuses to have two batches at a time, and to let go of a batch that was sent before its results are written.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import asyncpg
import structlog

from cairn.activation import metrics, store_work, wire
from cairn.activation.board import Board
from cairn.activation.catalog import Catalog, Found
from cairn.activation.channels import kind_of
from cairn.activation.channels.base import Channel, ChannelKind, Letter, UnreachableError, failed, retry
from cairn.activation.guard import guard
from cairn.activation.ledger import Fate, Guarantee, Outcome, RetryPolicy, Settled, State, settle
from cairn.activation.model import Claim, Fates, Receipt
from cairn.postgres.pool import Pool, is_unavailable
from cairn.runtime.clock import now_us
from cairn.runtime.ids import random_id

log = structlog.get_logger()

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_LONGEST_UNREACHABLE_US = 30_000_000
_ANY_TIME_US = 4_102_444_800_000_000  # 2100
_UNKNOWN_BATCH = 16
_CHANCES = 1 << 63


@dataclass(frozen=True, slots=True)
class Tools:
    """What every lane of a process works with."""

    pool: Pool
    catalog: Catalog
    board: Board
    policy: RetryPolicy


class Lane:
    """Delivers what is pending on a connection in a bucket, in the order of acceptance, whenever it is woken."""

    def __init__(self, tools: Tools, bucket: int, connection: str) -> None:
        self._tools = tools
        self._bucket = bucket
        self._connection = connection
        self._wake = asyncio.Event()
        self._stopping = asyncio.Event()
        self._unclean = False
        self._unreachable = 0
        self._batch_size = _UNKNOWN_BATCH
        self._ordered = True
        self._kind = ""
        self._alarm: asyncio.TimerHandle | None = None
        self._task = asyncio.create_task(self._run(), name=f"lane-{bucket}-{connection}")

    def wake(self) -> None:
        """There may be something to do."""
        self._wake.set()

    def stop_soon(self) -> None:
        """Begins nothing new."""
        self._stopping.set()
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
        tools, now, limit = self._tools, now_us(), self._batch_size
        floor_us = tools.board.floor_us(self._bucket, now)
        if self._unclean:
            # After an error it is not known what was committed; nothing of it was sent (see `_send`).
            await store_work.give_back(
                tools.pool,
                self._bucket,
                self._connection,
                holder=tools.board.holder,
                floor_us=floor_us,
                now=now,
            )
        self._unclean = True
        claims = await store_work.claim(
            tools.pool,
            self._bucket,
            self._connection,
            due_us=_ANY_TIME_US if self._ordered else now,
            floor_us=floor_us,
            limit=limit,
            holder=tools.board.holder,
            now=now,
        )
        if claims:
            await self._deliver(claims)
        self._unclean = False
        return len(claims) == limit

    async def _deliver(self, claims: Sequence[Claim]) -> None:
        templates = {claim.template for claim in claims if claim.template}
        found = await self._tools.catalog.find(self._tools.pool, [self._connection], templates)
        connection = found.connections.get(self._connection)
        if connection is None:
            await self._write([(claim, self._guard(claim, found) or _gone()) for claim in claims])
            return
        kind = kind_of(connection)
        self._kind = kind.name
        async with self._tools.catalog.channel(connection, self._connection) as channel:
            self._batch_size, self._ordered = channel.batch_size, channel.ordered
            ready: list[tuple[Claim, Any]] = []
            stopped: list[tuple[Claim, Outcome]] = []
            for claim in claims:
                prepared = self._guard(claim, found) or _prepare(channel, claim, found)
                if isinstance(prepared, Outcome):
                    stopped.append((claim, prepared))
                else:
                    ready.append((claim, prepared))
            await self._write(stopped)
            if ready:
                async with channel.turns:
                    await self._send(kind, channel, ready)

    def _guard(self, claim: Claim, found: Found) -> Outcome | None:
        return guard(
            claim,
            attempts=claim.attempts,
            has_connection=self._connection in found.connections,
            has_template=not claim.template or claim.template in found.templates,
            attempts_budget=self._tools.policy.budget,
        )

    async def _send(
        self, kind: ChannelKind, channel: Channel[Any], ready: Sequence[tuple[Claim, Any]]
    ) -> None:
        tools = self._tools
        if self._stopping.is_set():
            await self._release([claim for claim, _ in ready])
            return
        try:
            await channel.open()
        except UnreachableError as error:
            self._unreachable += 1
            await self._write([(claim, retry(str(error))) for claim, _ in ready])
            pause_us = tools.policy.pause_us(self._unreachable, _chance())
            await self._pause(min(pause_us, _LONGEST_UNREACHABLE_US) / 1_000_000)
            return
        self._unreachable = 0
        sending = await store_work.mark_sending(
            tools.pool, self._bucket, tools.board.holder, [claim for claim, _ in ready], now_us()
        )
        batch = [(claim, prepared) for claim, prepared in ready if sending.has(claim.activation_id)]
        if not batch:
            return
        try:
            outcomes = await channel.send([prepared for _, prepared in batch])
        except Exception as error:  # noqa: BLE001 - from here on an error must not look like "nothing was sent"
            # Without its text, which may quote an address.
            log.error("channel_failed", kind=self._kind, error=type(error).__name__)
            outcomes = [_in_doubt(kind)] * len(batch)
        results = [(claim, outcome) for (claim, _), outcome in zip(batch, outcomes, strict=True)]
        await self._write_for_sure(results)
        if self._ordered and any(outcome.fate is Fate.RETRY for outcome in outcomes):
            worst = max(claim.attempts for claim, _ in batch)
            asked_us = max(outcome.retry_after_us for outcome in outcomes)
            pause_us = max(tools.policy.pause_us(worst, _chance()), asked_us)
            await self._pause(min(pause_us, tools.policy.cap_us) / 1_000_000)

    async def _release(self, claims: Sequence[Claim]) -> None:
        """Gives back what was only leased, and takes back the attempt that did not happen."""
        now = now_us()
        back = Settled(State.PENDING, now, "", "")
        await store_work.write_results(
            self._tools.pool,
            self._bucket,
            self._tools.board.holder,
            [(claim, back, claim.attempts - 1) for claim in claims],
            sequence=self._tools.board.take_numbers(1, now),
            now=now,
        )

    async def _write_for_sure(self, results: Sequence[tuple[Claim, Outcome]]) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._write(results)
            except Exception as error:  # noqa: BLE001 - forgetting a result would send a message twice
                log.warning("results_wait", bucket=self._bucket, error=type(error).__name__)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            else:
                return

    async def _write(self, results: Sequence[tuple[Claim, Outcome]]) -> None:
        if not results:
            return
        now = now_us()
        board, policy = self._tools.board, self._tools.policy
        settled = [
            (claim, settle(outcome, claim.attempts, policy, _chance(), now), claim.attempts)
            for claim, outcome in results
        ]
        sequence = board.take_numbers(1, now)
        written = await store_work.write_results(
            self._tools.pool, self._bucket, board.holder, settled, sequence=sequence, now=now
        )
        ours = [(claim, result) for claim, result, _ in settled if written.has(claim.activation_id)]
        metrics.count_results(self._kind, ours, now)
        final = [
            Receipt(c.activation_id, c.profile_id, c.enrollment, result.state, result.detail, now)
            for c, result in ours
            if result.final
        ]
        if final:
            body = wire.to_receipts(final)
            board.on_fates(Fates(self._bucket, sequence, board.holder, len(final), body))
        retries = [result.next_attempt_us for _, result in ours if not result.final]
        if retries:
            self._wake_in((min(retries) - now) / 1_000_000)

    def _wake_in(self, seconds: float) -> None:
        """Sets the alarm, unless it rings earlier anyway; whoever is woken too early finds nothing due."""
        loop = asyncio.get_running_loop()
        at = loop.time() + max(seconds, 0.0)
        if self._alarm is None or self._alarm.cancelled() or not loop.time() < self._alarm.when() < at:
            self._alarm = loop.call_at(at, self._wake.set)


def _prepare(channel: Channel[Any], claim: Claim, found: Found) -> Any:
    try:
        return channel.prepare(Letter(claim, found.templates.get(claim.template)))
    except Exception as error:  # noqa: BLE001 - one delivery that can't be made must not stop those beside it
        log.error("prepare_failed", error=type(error).__name__)
        return failed(f"it could not be prepared ({type(error).__name__})")


def _in_doubt(kind: ChannelKind) -> Outcome:
    if kind.guarantee is Guarantee.AT_LEAST_ONCE:
        return retry("the attempt ended without an answer")
    return Outcome(Fate.UNKNOWN, "the attempt ended without an answer; the destination may have it")


def _gone() -> Outcome:
    return failed("its connection was deleted")


def describe(error: Exception) -> dict[str, object]:
    """What the log may know of an error: Postgres' own text can quote a row."""
    if isinstance(error, asyncpg.PostgresError):
        return {"error": type(error).__name__, "sqlstate": error.sqlstate}
    return {"exc_info": error}


def _chance() -> float:
    return random_id() / _CHANCES
