"""Owns one batch on its way: prepared, looked at a last time, SENDING, handed over, and what came of it written.

Refuses to let go of a batch that was sent before its results are written.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from cairn.activation import crash, metrics, rates, store_members, store_rates, store_work, wire
from cairn.activation.breaker import Breaker, Permit
from cairn.activation.catalog import Found
from cairn.activation.channels.base import Channel, ChannelKind, Letter, UnreachableError, down, failed, retry
from cairn.activation.guard import Item, guard
from cairn.activation.ledger import LONGEST_ASKED_US, Fate, Guarantee, Outcome, settle
from cairn.activation.model import Claim, Fates, Member, Receipt, Result
from cairn.activation.store import Changed
from cairn.activation.tools import Tools, chance
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import now_us

log = structlog.get_logger()

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 5.0
_RATE_PAUSE_S = 0.5
_PREPARED_AT_ONCE = 250
_DELETED = "its connection was deleted"


class Ready(NamedTuple):
    """A claim that only has to be handed over, and the version of the template that it was made with."""

    claim: Claim
    prepared: Any
    template_version: int


class Way(NamedTuple):
    """What a batch goes through: its connection as it is now, and what belongs to it."""

    connection: pb.Connection
    kind: ChannelKind
    channel: Channel[Any]
    breaker: Breaker
    permit: Permit


class Courier:
    """Brings the batches of a lane to their destination, one at a time. `wake_in` sets the lane's alarm, in seconds from now."""

    def __init__(
        self,
        tools: Tools,
        bucket: int,
        connection: str,
        stopping: asyncio.Event,
        wake_in: Callable[[float], None],
    ) -> None:
        self._tools = tools
        self._bucket = bucket
        self._connection = connection
        self._stopping = stopping
        self._wake_in = wake_in
        self._kind = ""
        self._ordered = False

    async def fail(self, claims: Sequence[Claim]) -> None:
        """Ends deliveries whose connection is gone."""
        await self._write([(Ready(claim, None, 0), failed(_DELETED)) for claim in claims])

    async def deliver(self, way: Way, found: Found, claims: Sequence[Claim]) -> None:
        """All of a batch, to its results."""
        crash.passing("after_claim")
        self._kind, self._ordered = way.kind.name, way.channel.ordered
        held: Mapping[str, Mapping[str, str]] = {}
        if way.kind.needs_action:
            held = await store_members.read_held(self._tools.pool, self._bucket, self._connection, claims)
        ready: list[Ready] = []
        stopped: list[tuple[Ready, Outcome]] = []
        for number, claim in enumerate(claims):
            if number and not number % _PREPARED_AT_ONCE:
                await asyncio.sleep(0)
            made = self._prepare(way.channel, claim, found, held.get(claim.activation_id))
            if isinstance(made, Outcome):
                stopped.append((Ready(claim, None, 0), made))
            else:
                ready.append(made)
        await self._write(stopped)
        if ready:
            async with way.channel.turns:
                tried = await self._send(way, ready)
            # Others have their turn meanwhile.
            await self._rest(way, tried)

    def _prepare(
        self, channel: Channel[Any], claim: Claim, found: Found, held: Mapping[str, str] | None
    ) -> Ready | Outcome:
        template = found.templates.get(claim.template)
        stopped = guard(
            claim,
            attempts=claim.attempts,
            has_connection=True,
            has_template=not claim.template or template is not None,
            attempts_budget=self._tools.policy.budget,
        )
        if stopped is not None:
            return stopped
        try:
            prepared = channel.prepare(Letter(claim, template, held))
        except Exception as error:  # noqa: BLE001 - one delivery that can't be made must not stop those beside it
            log.error("prepare_failed", kind=self._kind, error=type(error).__name__)
            return failed(f"it could not be prepared ({type(error).__name__})")
        if isinstance(prepared, Outcome):
            return prepared
        return Ready(claim, prepared, 0 if template is None else template.version)

    async def _send(self, way: Way, ready: Sequence[Ready]) -> Sequence[tuple[Ready, Outcome]]:
        """Those that were tried, each with what came of it, once that is written."""
        if self._stopping.is_set() or not await self._may_leave(way.connection, len(ready)):
            await self._release(ready)
            return []
        closed = await self._open(way)
        if closed is not None:
            self._judge(way, [closed])
            tried = [(item, closed) for item in ready]
            await self._write(tried)
            return tried
        leaving, stopped = await self._last_look(way, ready)
        if not leaving:
            await self._write(stopped)
            return []
        outcomes = await self._hand_over(way, leaving)
        crash.passing("in_send")
        tried = list(zip(leaving, outcomes, strict=True))
        await self._write_for_sure(way, [*stopped, *tried])
        self._judge(way, outcomes)
        return tried

    async def _open(self, way: Way) -> Outcome | None:
        """Why the destination can't be spoken to, or None."""
        try:
            await way.channel.open()
        except UnreachableError as error:
            return down(str(error))
        except Exception as error:  # noqa: BLE001 - nothing was sent, and what this connection lacks is no other's fault
            log.error("channel_not_opened", kind=self._kind, error=type(error).__name__)
            return down(f"the channel could not be opened ({type(error).__name__})")
        return None

    async def _may_leave(self, connection: pb.Connection, count: int) -> bool:
        """Waits for a share of the connection's rate; False when the process stops or the connection is changed meanwhile."""
        rate = rates.rate_of(connection)
        if rate is None:
            return True
        tools = self._tools
        while True:
            now = now_us()
            begins_us = await store_rates.reserve(
                tools.pool, self._connection, now=now, cost_us=rate.cost_us(count), stale_us=rate.stale_us
            )
            await self._pause(_RATE_PAUSE_S if begins_us is None else (begins_us - now_us()) / 1_000_000)
            if self._stopping.is_set():
                return False
            if begins_us is not None:
                return True
            found = await tools.catalog.find(tools.pool, [self._connection])
            present = found.connections.get(self._connection)
            if present is None or present.etag != connection.etag:
                return False

    async def _last_look(
        self, way: Way, ready: Sequence[Ready]
    ) -> tuple[list[Ready], list[tuple[Ready, Outcome]]]:
        """Those that are SENDING now, and those that were stopped. What was withdrawn meanwhile is neither."""
        tools = self._tools
        # Two lanes of a bucket must not both take a profile's last place under a cap.
        capped = way.kind.writes_to_people or way.connection.frequency_caps
        async with tools.guard.lock(self._bucket) if capped else contextlib.nullcontext():
            items = [Item(item.claim, way.channel.address_of(item.prepared)) for item in ready]
            floor_us = tools.board.floor_us(self._bucket, now_us())
            looks = await tools.guard.look(self._bucket, way.connection, way.kind, items, floor_us=floor_us)
            crash.passing("after_guard")
            stopped = [(item, look) for item, look in zip(ready, looks, strict=True) if look is not None]
            going = [item for item, look in zip(ready, looks, strict=True) if look is None]
            if not going:
                return [], stopped
            crash.passing("before_mark_sending")
            sending = await store_work.mark_sending(
                tools.pool, self._bucket, tools.board.holder, [item.claim for item in going], now_us()
            )
            crash.passing("after_mark_sending")
        return [item for item in going if sending.has(item.claim.activation_id)], stopped

    async def _hand_over(self, way: Way, leaving: Sequence[Ready]) -> Sequence[Outcome]:
        """What became of each; from here on an error must not look like "nothing was sent"."""
        try:
            outcomes = list(await way.channel.send([item.prepared for item in leaving]))
            if len(outcomes) != len(leaving) or not all(isinstance(outcome, Outcome) for outcome in outcomes):
                raise TypeError("a channel answers with an Outcome for each delivery")
        except Exception as error:  # noqa: BLE001 - see above
            # Without its text, which may quote an address.
            log.error("channel_failed", kind=self._kind, error=type(error).__name__)
            return [_in_doubt(way.kind)] * len(leaving)
        return outcomes

    def _judge(self, way: Way, outcomes: Sequence[Outcome]) -> None:
        """What a batch says about its destination, for all lanes of the connection."""
        breaker, now = way.breaker, now_us()
        asked_us = max((o.retry_after_us for o in outcomes if o.fate is Fate.RETRY), default=0)
        if asked_us > 0:
            breaker.asked_to_rest(now + min(asked_us, LONGEST_ASKED_US))
        if any(not o.down and o.fate is not Fate.UNKNOWN for o in outcomes):
            if breaker.good():
                metrics.BREAKER_CHANGES.labels(self._kind, breaker.phase.value).inc()
                log.info("connection_works_again", connection=self._connection)
        elif breaker.bad(now, chance(), probe=way.permit.probe):
            metrics.BREAKER_CHANGES.labels(self._kind, breaker.phase.value).inc()
            seconds = round((breaker.until_us - now) / 1_000_000, 1)
            log.warning("connection_rests", connection=self._connection, seconds=seconds)

    async def _rest(self, way: Way, tried: Sequence[tuple[Ready, Outcome]]) -> None:
        """Where nothing may overtake what is tried again, the lane waits with it; a pause that the destination asked for is the breaker's."""
        if not way.channel.ordered or all(outcome.fate is not Fate.RETRY for _, outcome in tried):
            return
        policy = self._tools.policy
        pause_us = policy.pause_us(max(item.claim.attempts for item, _ in tried), chance())
        await self._pause(pause_us / 1_000_000)
        self._wake_in(0.0)

    async def _release(self, ready: Sequence[Ready]) -> None:
        """Gives back what was only leased, and takes back the attempt that did not happen."""
        tools = self._tools
        claims = [item.claim for item in ready]
        await store_work.release(tools.pool, self._bucket, tools.board.holder, claims, now_us())
        self._wake_in(0.0)

    async def _pause(self, seconds: float) -> None:
        if seconds <= 0:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()

    async def _write_for_sure(self, way: Way, results: Sequence[tuple[Ready, Outcome]]) -> None:
        members = _members(way, results)
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._write(results, members)
            except Exception as error:  # noqa: BLE001 - forgetting a result would send a message twice
                log.warning("results_wait", bucket=self._bucket, error=type(error).__name__)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _LONGEST_PAUSE_S)
            else:
                return

    async def _write(
        self,
        results: Sequence[tuple[Ready, Outcome]],
        members: Sequence[tuple[Claim, Member]] = (),
    ) -> None:
        if not results:
            return
        now = now_us()
        board = self._tools.board
        settled = [self._settle(item, outcome, now) for item, outcome in results]
        sequence = board.take_numbers(1, now)
        crash.passing("before_write_results")
        written = await self._store(settled, members, sequence, now)
        crash.passing("after_write_results")
        ours = [
            (result.claim, result.settled) for result in settled if written.has(result.claim.activation_id)
        ]
        metrics.count_results(self._kind, ours, now)
        final = [
            Receipt(c.activation_id, c.profile_id, c.enrollment, result.state, result.detail, now)
            for c, result in ours
            if result.final
        ]
        if final:
            body = wire.to_receipts(final)
            board.on_fates(Fates(self._bucket, sequence, board.holder, len(final), body))
        waiting = [result.next_attempt_us for _, result in ours if not result.final]
        if waiting:
            self._wake_in((min(waiting) - now) / 1_000_000)

    async def _store(
        self, settled: Sequence[Result], members: Sequence[tuple[Claim, Member]], sequence: int, now: int
    ) -> Changed:
        tools = self._tools
        holder = tools.board.holder
        if not members:
            return await store_work.write_results(
                tools.pool, self._bucket, holder, settled, sequence=sequence, now=now
            )
        async with tools.pool.acquire() as database, database.transaction():
            written = await store_work.write_results(
                database, self._bucket, holder, settled, sequence=sequence, now=now
            )
            ours = [(claim, member) for claim, member in members if written.has(claim.activation_id)]
            if ours:
                await store_members.write_members(database, self._bucket, self._connection, ours, now)
            return written

    def _settle(self, item: Ready, outcome: Outcome, now: int) -> Result:
        claim = item.claim
        due_us = claim.next_attempt_us if self._ordered else None
        settled = settle(outcome, claim.attempts, self._tools.policy, chance(), now, due_us=due_us)
        return Result(claim, settled, item.template_version)


def _members(way: Way, results: Sequence[tuple[Ready, Outcome]]) -> list[tuple[Claim, Member]]:
    """What an audience holds now of those whose change it took."""
    if not way.kind.needs_action:
        return []
    found = []
    for item, outcome in results:
        if outcome.fate is Fate.SENT:
            try:
                member = way.channel.member_of(item.prepared)
            except Exception as error:  # noqa: BLE001 - it was sent, and its result has to be written
                log.error("member_unknown", kind=way.kind.name, error=type(error).__name__)
                continue
            if member is not None:
                found.append((item.claim, member))
    return found


def _in_doubt(kind: ChannelKind) -> Outcome:
    if kind.guarantee is Guarantee.AT_LEAST_ONCE:
        return retry("the attempt ended without an answer")
    return Outcome(Fate.UNKNOWN, "the attempt ended without an answer; the destination may have it")
