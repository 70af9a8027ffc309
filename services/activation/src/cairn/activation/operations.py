"""Owns what the calls do to the ledger: each one transaction a bucket. Knows no transport."""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from cairn.activation import crash, metrics, store, store_feedback, store_listing, store_moves
from cairn.activation.board import Board
from cairn.activation.catalog import Catalog, Found
from cairn.activation.channels import kind_of
from cairn.activation.channels.log import LOGGED
from cairn.activation.erased import ErasedProfiles
from cairn.activation.guard import guard
from cairn.activation.ledger import State
from cairn.activation.model import Activation, Delivery, Fates, Receipt, Withdrawal
from cairn.activation.rules import Reason, has_own_rules
from cairn.activation.store_feedback import Feedback, Resolution
from cairn.activation.store_listing import Page
from cairn.activation.store_moves import Watched
from cairn.activation.watch import Watch
from cairn.activation.wire import Refusal, to_receipts, wrong_state
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.postgres.bucket import bucket_of
from cairn.postgres.pool import Pool
from cairn.runtime.errors import not_found

_Item = TypeVar("_Item", Activation, Withdrawal)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a batch: how many are new and how many were known; refusals by their place in the batch."""

    accepted: int
    known: int
    refusals: Mapping[int, Refusal]


class Ledger:
    """The ledger as callers use it."""

    def __init__(
        self,
        pool: Pool,
        catalog: Catalog,
        board: Board,
        bucket_count: int,
        attempts_budget: int,
        erased: ErasedProfiles,
        is_held: Callable[[Activation], bool] = lambda activation: False,
    ) -> None:
        self._pool = pool
        self._catalog = catalog
        self._board = board
        self._bucket_count = bucket_count
        self._attempts_budget = attempts_budget
        self._erased = erased
        self._is_held = is_held

    async def accept(self, batch: Mapping[int, Activation], now: int) -> Accepted:
        """Makes activations durable, those that are known already excepted. `batch` is by place in the request."""
        found = await self._catalog.find(
            self._pool, {a.connection for a in batch.values()}, {a.template for a in batch.values()} - {""}
        )
        refusals = _refuse(batch, found)
        if await self._erased.anywhere(range(self._bucket_count)):
            refusals |= await self._refuse_erased({i: a for i, a in batch.items() if i not in refusals})
        wanted = [activation for index, activation in batch.items() if index not in refusals]
        stays = {
            id_
            for id_, connection in found.connections.items()
            if kind_of(connection).stays and not has_own_rules(connection)
        }
        groups = self._by_bucket(wanted)
        counts = await _all([self._accept_in(bucket, group, stays, now) for bucket, group in groups])
        new = sum(counts)
        metrics.ACCEPTED.inc(new)
        return Accepted(new, len(wanted) - new, refusals)

    async def _refuse_erased(self, batch: Mapping[int, Activation]) -> dict[int, Refusal]:
        """Those that were requested before their profile was erased."""
        erased: dict[str, int] = {}
        for bucket, group in self._by_bucket(list(batch.values())):
            erased |= await self._erased.among(bucket, {activation.profile_id for activation in group})
        if not erased:
            return {}
        refusal = Refusal(
            ErrorReason.ERROR_REASON_PROFILE_ERASED, "the profile was erased after this was asked for"
        )
        return {i: refusal for i, a in batch.items() if a.request_us <= erased.get(a.profile_id, -1)}

    async def _accept_in(
        self, bucket: int, activations: Sequence[Activation], stays: Collection[str], now: int
    ) -> int:
        """Those of one bucket, in one statement; returns how many were new."""
        board = self._board
        sequence = board.take_numbers(len(activations), now)
        states = [
            self._first_state(activation) if activation.connection in stays else State.PENDING
            for activation in activations
        ]
        accepted = await store.accept(
            self._pool,
            bucket,
            activations,
            states,
            detail=LOGGED.detail,
            sequence=sequence,
            writer=board.holder,
            now=now,
        )
        crash.passing("after_accept_commit")
        if accepted.ids is not None:
            await self._bury(bucket, [a for a in activations if a.activation_id not in accepted.ids], now)
        fresh = [
            (activation, state)
            for activation, state in zip(activations, states, strict=True)
            if accepted.has(activation.activation_id)
        ]
        self._tell_sent(bucket, sequence, [a for a, state in fresh if state is State.SENT], now)
        pending = [a for a, state in fresh if state is State.PENDING]
        if pending:
            connections = Counter(a.connection for a in pending)
            if not board.accepted(bucket, connections, min(a.request_us for a in pending)):
                await store.tell_owner(self._pool, bucket, connections)
        return accepted.rows

    def _first_state(self, activation: Activation) -> State:
        """SENT, as nothing has to leave the house; what the guard stops is PENDING, and the lane writes down why."""
        stopped = guard(
            activation,
            attempts=1,
            has_connection=True,
            has_template=True,
            attempts_budget=self._attempts_budget,
        )
        return State.SENT if stopped is None and not self._is_held(activation) else State.PENDING

    def _tell_sent(self, bucket: int, sequence: int, activations: Sequence[Activation], now: int) -> None:
        if activations:
            metrics.DELIVERIES.labels("log", State.SENT.name).inc(len(activations))
            body = to_receipts(
                Receipt(a.activation_id, a.profile_id, a.enrollment, State.SENT, LOGGED.detail, now)
                for a in activations
            )
            self._board.on_fates(Fates(bucket, sequence, self._board.holder, len(activations), body))

    async def _bury(self, bucket: int, known: Sequence[Activation], now: int) -> None:
        """What is known may have been withdrawn before it came: its fate is to be told now."""
        board = self._board
        sequence = board.take_numbers(1, now)
        told = await store.describe_tombstones(
            self._pool, bucket, known, sequence=sequence, writer=board.holder
        )
        if told:
            metrics.PREVENTED.labels(Reason.WITHDRAWN.value).inc(told)
            board.on_untold(bucket)

    async def withdraw(self, withdrawals: Sequence[Withdrawal], now: int) -> tuple[int, int]:
        """Takes activations back: how many will not leave, and for how many it is too late."""
        groups = self._by_bucket(withdrawals)
        kept = sum(await _all([self._withdraw_in(bucket, group, now) for bucket, group in groups]))
        return kept, sum(len(group) for _, group in groups) - kept

    async def _withdraw_in(self, bucket: int, withdrawals: Sequence[Withdrawal], now: int) -> int:
        board = self._board
        withdrawals = await self._without_erased_names(bucket, withdrawals)
        async with self._pool.acquire() as connection, connection.transaction():
            withdrawn, moved = await store.withdraw(
                connection,
                bucket,
                withdrawals,
                sequence=board.take_numbers(1, now),
                writer=board.holder,
                now=now,
            )
        if moved:
            metrics.PREVENTED.labels(Reason.WITHDRAWN.value).inc(moved)
            board.on_untold(bucket)
        return withdrawn

    async def _without_erased_names(self, bucket: int, withdrawals: Sequence[Withdrawal]) -> list[Withdrawal]:
        """What is written down of an activation that never came must not name whoever was erased meanwhile."""
        erased = await self._erased.among(bucket, {withdrawal.profile_id for withdrawal in withdrawals})
        return [
            replace(withdrawal, profile_id=self._erased.pseudonym(withdrawal.profile_id))
            if withdrawal.request_us <= erased.get(withdrawal.profile_id, -1)
            else withdrawal
            for withdrawal in withdrawals
        ]

    async def get(self, activation_id: str) -> Delivery:
        """One delivery; its bucket is not known, so each is asked."""
        for bucket in range(self._bucket_count):
            delivery = await store_listing.read_delivery(self._pool, bucket, activation_id)
            if delivery is not None:
                return delivery
        raise not_found(f"deliveries/{activation_id}")

    async def read_feedback(self, delivery: Delivery) -> list[Feedback]:
        """What was told of a delivery, oldest first."""
        return await store_feedback.read_feedback(self._pool, delivery.bucket, delivery.activation_id)

    async def retry(self, activation_id: str, reason: str, now: int) -> Delivery:
        """Has a delivery sent again: a human's decision."""
        known = await self.get(activation_id)
        detail = f"sent again: {reason}" if reason else "sent again"
        delivery = await store_moves.retry(
            self._pool, known.bucket, activation_id, known.request_us, detail=detail, now=now
        )
        if delivery is None:
            raise wrong_state(await self.get(activation_id), "FAILED, REFUSED or UNKNOWN")
        work = {delivery.connection: 1}
        if not self._board.accepted(delivery.bucket, work, delivery.request_us):
            await store.tell_owner(self._pool, delivery.bucket, work)
        return delivery

    async def resolve(self, activation_id: str, state: State, reason: str, now: int) -> Delivery:
        """Says what became of a delivery in doubt: a human's word."""
        known = await self.get(activation_id)
        board = self._board
        detail = reason or f"a human says that it is {state.name}"
        resolved = await store_feedback.resolve(
            self._pool,
            known.bucket,
            [Resolution(activation_id, known.request_us, state, detail)],
            sequence=board.take_numbers(1, now),
            writer=board.holder,
            now=now,
        )
        present = await self.get(activation_id)
        if not resolved:
            raise wrong_state(present, State.UNKNOWN.name)
        board.on_untold(known.bucket)
        return present

    def watch(self, watched: Watched) -> Watch:
        """A watch of the buckets in which something of it can be."""
        buckets: Sequence[int] = range(self._bucket_count)
        if watched.profile_id:
            buckets = [bucket_of(watched.profile_id, self._bucket_count)]
        return Watch(self._pool, buckets, watched)

    async def list_page(self, page: Page, profile_id: str) -> tuple[list[Delivery], bool]:
        """A page, newest first, and whether there is more."""
        buckets: Iterable[int] = range(self._bucket_count)
        if profile_id:
            buckets = [bucket_of(profile_id, self._bucket_count)]
        one_more = Page(
            page.journey,
            page.states,
            page.before_us,
            page.after_bucket,
            page.after_id,
            page.size + 1,
        )
        rows = [
            delivery
            for bucket in buckets
            for delivery in await store_listing.list_deliveries(self._pool, bucket, one_more, profile_id)
        ]
        rows.sort(key=lambda d: (-d.request_us, d.bucket, d.activation_id))
        return rows[: page.size], len(rows) > page.size

    def _by_bucket(self, items: Sequence[_Item]) -> list[tuple[int, list[_Item]]]:
        """Items by bucket, each id once; in order of acceptance within a bucket, buckets in order."""
        groups: dict[int, dict[tuple[str, int], _Item]] = defaultdict(dict)
        for item in items:
            bucket = bucket_of(item.profile_id, self._bucket_count)
            groups[bucket].setdefault((item.activation_id, item.request_us), item)
        return [(bucket, list(groups[bucket].values())) for bucket in sorted(groups)]


async def _all(works: Sequence[Coroutine[None, None, int]]) -> list[int]:
    """What each comes to, all at once; the first error when all have ended, so that none goes on behind its caller's back."""
    if len(works) == 1:
        return [await works[0]]
    results = await asyncio.gather(*works, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
    return [result for result in results if not isinstance(result, BaseException)]


def _refuse(batch: Mapping[int, Activation], found: Found) -> dict[int, Refusal]:
    """Those that can't be accepted as things are. What decides is the same for most of a batch, and judged once."""
    judged: dict[tuple[str, str, int], Refusal | None] = {}
    refusals = {}
    for index, activation in batch.items():
        what = (activation.connection, activation.template, activation.action)
        if what not in judged:
            judged[what] = check_destination(activation, found)
        refusal = judged[what]
        if refusal is not None:
            refusals[index] = refusal
    return refusals


def check_destination(activation: Activation, found: Found) -> Refusal | None:
    """Why an activation can't be accepted as things are, or None."""
    connection = found.connections.get(activation.connection)
    if connection is None:
        text = f"connections/{activation.connection} does not exist; create it with PutConnection"
        return Refusal(ErrorReason.ERROR_REASON_CONNECTION_UNKNOWN, text)
    if activation.template and activation.template not in found.templates:
        text = f"templates/{activation.template} does not exist; create it with PutTemplate"
        return Refusal(ErrorReason.ERROR_REASON_TEMPLATE_UNKNOWN, text)
    kind = kind_of(connection)
    if kind.needs_template and not activation.template:
        text = f"connections/{activation.connection} sends e-mail, which needs a template"
        return Refusal(ErrorReason.ERROR_REASON_TEMPLATE_UNKNOWN, text)
    if kind.needs_action and not activation.action:
        text = f"connections/{activation.connection} is an audience, which needs the action ADD or REMOVE"
        return Refusal(ErrorReason.ERROR_REASON_ACTIVATION_INVALID, text)
    return None


def destination_problems(
    index: int, destination: pb.Destination, connection_id: str, template_id: str, found: Found
) -> list[pb.DestinationProblem]:
    """All that keeps a journey from using a destination."""
    problems = []

    def add(field: str, description: str) -> None:
        problems.append(pb.DestinationProblem(index=index, field=field, description=description))

    connection = found.connections.get(connection_id)
    if connection is None:
        shown = destination.connection[:100] or "the connection"
        add("channel", f"{shown} does not exist; create it first, or name one that does")
    if destination.template and template_id not in found.templates:
        add(
            "template", f"{destination.template[:100]} does not exist; create it first, or name one that does"
        )
    if connection is None:
        return problems
    kind = kind_of(connection)
    if kind.needs_template and not destination.template:
        add("template", f"connections/{connection_id} sends e-mail, which needs a template")
    if kind.needs_action and not destination.action:
        add("action", f"connections/{connection_id} is an audience, which needs the action ADD or REMOVE")
    if not kind.needs_action and destination.action:
        add("action", f"connections/{connection_id} is no audience and takes no action; leave it out")
    return problems
