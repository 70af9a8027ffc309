"""Owns the last look before a delivery leaves: the one place that may stop it, or make it wait.

A withdrawal needs no look here: the ledger's step to SENDING leaves a withdrawn row alone.
"""

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from cairn.activation import metrics, store_guard
from cairn.activation.caps import Tally
from cairn.activation.channels import WRITING_KINDS, plugin
from cairn.activation.channels.base import ChannelKind, failed
from cairn.activation.ledger import Fate, Outcome
from cairn.activation.model import Activation, Claim
from cairn.activation.pauses import Pauses
from cairn.activation.policy import Policies
from cairn.activation.rules import Facts, Rules, Verdict, journey_of, judge, removes, rules_of
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us

_FRESH_SECONDS = 1.0

_MOST_LATE_US = 3 * 86_400_000_000
"""How long after its request a send is looked for when nothing is known to have left later."""


@dataclass(frozen=True, slots=True)
class Item:
    """A delivery that is ready to leave, and the address that suppressions are looked up for; "" where there is none."""

    claim: Claim
    address: str


def guard(
    item: Activation | Claim, *, attempts: int, has_connection: bool, has_template: bool, attempts_budget: int
) -> Outcome | None:
    """Why this delivery can't leave at the attempt that begins, or None. `has_template` is also true for one that names none. Pure.

    It is asked by the lane before anything is prepared, and when it is accepted on a connection through which nothing leaves the house.
    """
    if not has_connection:
        return failed("its connection was deleted")
    if not has_template:
        return failed(f"its template templates/{item.template} was deleted")
    if attempts > attempts_budget:
        return failed(f"given up: {attempts_budget} attempts were begun and none ended")
    return None


@dataclass(slots=True)
class _Said:
    """Whether people have said anything in a bucket, and until when (monotonic) that need not be asked again."""

    suppressions: bool
    consents: bool
    fresh_until: float


class Guard:
    """Looks at a batch of prepared deliveries just before they leave.

    `hash_address` makes the keyed hash that suppressions are stored under. A batch costs at most one statement for each kind of fact, and
    none for facts that nothing in it is held against; rules, and whether people have said anything at all, are asked again after a second.
    """

    def __init__(
        self, pool: Pool, policies: Policies, pauses: Pauses, hash_address: Callable[[str], bytes]
    ) -> None:
        self._pool = pool
        self._policies = policies
        self._pauses = pauses
        self._hash_address = hash_address
        self._locks: dict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._said: dict[int, _Said] = {}
        self._changes = 0
        self._writing: tuple[frozenset[str], float] = (frozenset(), 0.0)
        self._latest: dict[int, tuple[int, int]] = {}

    def lock(self, bucket: int) -> asyncio.Lock:
        """To be held from a look until what may leave is SENDING: no other lane takes the same place under a cap meanwhile."""
        return self._locks[bucket]

    def forget(self) -> None:
        """A suppression or a consent was written by this process: it holds from the next look on."""
        self._changes += 1
        self._said.clear()

    def is_held(self, activation: Activation) -> bool:
        """Whether a delivery that has just been asked for has to wait, because its journey is paused."""
        return self._pauses.any and self._pauses.since(journey_of(activation.journey_version)) is not None

    async def look(
        self,
        bucket: int,
        connection: pb.Connection,
        kind: ChannelKind,
        items: Sequence[Item],
        *,
        floor_us: int,
    ) -> list[Outcome | None]:
        """What stops each item, in their order: REFUSED or HELD with the reason in words; None for what may leave.

        All are of one bucket and go through one connection, and nothing that is open was requested before `floor_us`. Raises what Postgres
        raises; then nothing may leave.
        """
        policy = await self._policies.find(self._pool)
        rules = rules_of(connection, policy, writes_to_people=kind.writes_to_people)
        if rules.asks_nothing and not self._pauses.any:
            return [None] * len(items)
        id_ = connection.name.partition("/")[2]
        said = await self._ask_said(bucket, rules)
        suppressions = await self._suppressions(id_, rules, said, items)
        consents = await self._consents(bucket, id_, rules, said, items)
        tally = await self._tally(bucket, id_, rules, items)
        waiting = await self._waiting(bucket, id_, items, floor_us)
        now = now_us()
        verdicts = []
        for item in items:
            claim = item.claim
            facts = Facts(
                paused_us=self._paused_us(claim),
                suppressions=suppressions.get(item.address, ()),
                consent=consents.get(claim.profile_id),
                follows=any(place < claim.sequence for place in waiting.get(claim.profile_id, ())),
            )
            verdict = judge(claim, rules, facts, tally, now)
            verdicts.append(verdict)
            if claim.profile_id in waiting and (verdict is None or verdict.outcome.fate is not Fate.HELD):
                waiting[claim.profile_id].discard(claim.sequence)
        _count(verdicts)
        if rules.caps:
            through = [i.claim.request_us for i, v in zip(items, verdicts, strict=True) if v is None]
            self._note_latest(bucket, through, now)
        return [None if verdict is None else verdict.outcome for verdict in verdicts]

    async def _ask_said(self, bucket: int, rules: Rules) -> _Said:
        if not (rules.asks_suppressions or rules.asks_consent):
            return _Said(suppressions=False, consents=False, fresh_until=0.0)
        now = time.monotonic()
        said = self._said.get(bucket)
        if said is None or said.fresh_until < now:
            changes = self._changes
            said = _Said(*await store_guard.any_at_all(self._pool, bucket), now + _FRESH_SECONDS)
            # What was written while we asked may not be in the answer.
            if changes == self._changes:
                self._said[bucket] = said
        return said

    async def _suppressions(
        self, connection: str, rules: Rules, said: _Said, items: Sequence[Item]
    ) -> Mapping[str, Sequence[int]]:
        """The reasons for which addresses are suppressed, by address."""
        if not (rules.asks_suppressions and said.suppressions):
            return {}
        hashes = {item.address: self._hash_address(item.address) for item in items if item.address}
        if not hashes:
            return {}
        found = await store_guard.suppressions(self._pool, list(hashes.values()), connection)
        return {address: found.get(hashed, ()) for address, hashed in hashes.items()}

    async def _consents(
        self, bucket: int, connection: str, rules: Rules, said: _Said, items: Sequence[Item]
    ) -> Mapping[str, bool]:
        if not (rules.asks_consent and said.consents):
            return {}
        return await store_guard.consents(self._pool, bucket, _profiles(items), connection)

    def _paused_us(self, claim: Claim) -> int | None:
        return self._pauses.since(journey_of(claim.journey_version))

    async def _waiting(
        self, bucket: int, connection: str, items: Sequence[Item], floor_us: int
    ) -> Mapping[str, set[int]]:
        """The places, in the order of acceptance, of what is not done for those whom paused journeys remove: all of the batch, and the
        first one beside it."""
        claims = [item.claim for item in items]
        removed = {each.profile_id for each in claims if removes(each) and self._paused_us(each) is not None}
        if not removed:
            return {}
        ids = [each.activation_id for each in claims if each.profile_id in removed]
        first = await store_guard.first_open(
            self._pool, bucket, sorted(removed), connection, floor_us=floor_us, besides=ids
        )
        waiting = {profile_id: {place} for profile_id, place in first.items()}
        for claim in claims:
            if claim.profile_id in removed:
                waiting.setdefault(claim.profile_id, set()).add(claim.sequence)
        return waiting

    async def _tally(self, bucket: int, connection: str, rules: Rules, items: Sequence[Item]) -> Tally:
        periods_us = sorted({cap.period_us for cap in rules.caps})
        if not periods_us:
            return Tally(connection, (), ())
        writing = frozenset[str]()
        if rules.counts_people:
            writing = await self._find_writing() | {connection}
        tally = Tally(connection, writing, periods_us)
        now = now_us()
        for sends in await store_guard.recent_sends(
            self._pool,
            bucket,
            _profiles(items),
            connections=sorted(writing | {connection}),
            periods_us=periods_us,
            floor_us=self._floor_us(bucket, periods_us[-1], now),
            now=now,
        ):
            tally.add(sends)
        return tally

    async def _find_writing(self) -> frozenset[str]:
        """The connections whose sends count under the policy's caps."""
        writing, fresh_until = self._writing
        now = time.monotonic()
        if now >= fresh_until:
            rows = await store_guard.writing_connections(self._pool, WRITING_KINDS)
            writing = frozenset(id_ for id_, name in rows if not name or _plugin_writes(name))
            self._writing = writing, now + _FRESH_SECONDS
        return writing

    def _floor_us(self, bucket: int, longest_us: int, now: int) -> int:
        """The request time of the oldest send that can count: most leave within days, and of those that did not we know."""
        floor_us = now - longest_us - _MOST_LATE_US
        oldest_us, noted_us = self._latest.get(bucket, (now, 0))
        return min(floor_us, oldest_us) if noted_us > now - longest_us else floor_us

    def _note_latest(self, bucket: int, requests_us: Iterable[int], now: int) -> None:
        oldest_us = min(requests_us, default=now)
        if oldest_us < now - _MOST_LATE_US:
            known_us, _ = self._latest.get(bucket, (now, 0))
            self._latest[bucket] = min(oldest_us, known_us), now


def _profiles(items: Sequence[Item]) -> list[str]:
    return list(dict.fromkeys(item.claim.profile_id for item in items))


def _plugin_writes(name: str) -> bool:
    try:
        return plugin(name).writes_to_people
    except LookupError:
        return False


def _count(verdicts: Iterable[Verdict | None]) -> None:
    found = Counter((v.outcome.fate, v.reason) for v in verdicts if v is not None)
    for (fate, reason), count in found.items():
        counter = metrics.PREVENTED if fate is Fate.REFUSED else metrics.HELD
        counter.labels(reason.value).inc(count)
