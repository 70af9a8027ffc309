"""Owns the erasure of profiles: what names a person goes, what only a platform can forget is asked of it.

What can't go at once is a delivery that is past the point of no return: the call waits a little for it, and is refused if that takes
longer; whoever asked repeats it. What is left of a person is a keyed hash, by which what was asked for before is known and refused.
"""

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import structlog

from cairn.activation import metrics, store, store_erasure
from cairn.activation.board import Board
from cairn.activation.catalog import Catalog
from cairn.activation.channels import kind_of
from cairn.activation.channels.base import Channel, Letter
from cairn.activation.channels.mail import parse_address
from cairn.activation.channels.mail_maker import DEFAULT_ADDRESS_ATTRIBUTE
from cairn.activation.keys import Keys
from cairn.activation.ledger import Outcome, State, is_final
from cairn.activation.model import Activation, Claim
from cairn.activation.rules import Reason
from cairn.activation.store_erasure import REMOVAL_PREFIX, ErasedProfile, Removal, Trace
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1 import journey_pb2
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.postgres.bucket import bucket_of
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us
from cairn.runtime.errors import CairnError

log = structlog.get_logger()

AGAIN_SECONDS = 5.0
"""How often it is looked whether profiles that were erased a while ago are due for a second look."""

_AGAIN_US = 10_000_000
_MOST_AGAIN = 10_000
_CHUNK = 250
_PATIENCE_US = 5_000_000
_PAUSE_S = 0.05


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did: deliveries that were withdrawn, and removals from audiences that were asked for."""

    withdrawn: int = 0
    removals: int = 0

    def __add__(self, other: "Erased") -> "Erased":
        return Erased(self.withdrawn + other.withdrawn, self.removals + other.removals)


class Eraser:
    """Erases profiles from the ledger and all that is beside it. `on_erased` is told of buckets in which somebody was erased."""

    def __init__(
        self,
        pool: Pool,
        keys: Keys,
        catalog: Catalog,
        board: Board,
        bucket_count: int,
        on_erased: Callable[[int], None],
    ) -> None:
        self._pool = pool
        self._on_erased = on_erased
        self._keys = keys
        self._catalog = catalog
        self._board = board
        self._bucket_count = bucket_count
        # Those to look at again, and when: an activation may have been on its way into the ledger while they were erased.
        self._again: list[tuple[int, int, Sequence[ErasedProfile]]] = []

    def profile(self, profile_id: str, erase_us: int) -> ErasedProfile:
        """A profile to erase, with its keyed hash."""
        return ErasedProfile(profile_id, self._keys.hash_profile(profile_id), erase_us)

    async def erase(self, profiles: Iterable[ErasedProfile], now: int) -> Erased:
        """Erases them. Idempotent; NOT_READY when something of them is being sent at this very moment: repeat it then."""
        groups: dict[int, dict[str, ErasedProfile]] = defaultdict(dict)
        for profile in profiles:
            group = groups[bucket_of(profile.profile_id, self._bucket_count)]
            known = group.get(profile.profile_id)
            if known is None or known.erase_us < profile.erase_us:
                group[profile.profile_id] = profile
        total, busy = Erased(), 0
        for bucket in sorted(groups):
            of_bucket = list(groups[bucket].values())
            erased, done = await self._erase_in(bucket, of_bucket, now + _PATIENCE_US)
            total += erased
            busy += not done
            if done and len(self._again) < _MOST_AGAIN:
                self._again.append((now + _AGAIN_US, bucket, of_bucket))
        if busy:
            raise CairnError(
                ErrorReason.ERROR_REASON_NOT_READY,
                "Something for one of these profiles is being sent at this moment; repeat the call to erase the rest.",
                retry_after_s=5.0,
            )
        return total

    async def look_again(self) -> None:
        """Erases once more what was erased a while ago, for what came into the ledger at the same moment."""
        now = now_us()
        due = [each for each in self._again if each[0] <= now]
        for each in due:
            _, bucket, profiles = each
            _, done = await self._erase_in(bucket, profiles, now)
            # What is being sent at this moment is found by the next look.
            if done:
                self._again.remove(each)

    async def _erase_in(
        self, bucket: int, profiles: Sequence[ErasedProfile], until_us: int
    ) -> tuple[Erased, bool]:
        """Erases profiles of a bucket; False when something was still being sent at a time."""
        async with self._pool.acquire() as connection, connection.transaction():
            # First: from here on nothing more comes in.
            await store_erasure.remember(connection, bucket, profiles)
            await store_erasure.forget_consents(connection, bucket, profiles)
        self._on_erased(bucket)
        withdrawn = 0
        while True:
            found, moved = await self._erase_some(bucket, profiles)
            withdrawn += moved
            if found:
                continue
            if not await store_erasure.any_trace(self._pool, bucket, profiles):
                break
            if now_us() >= until_us:
                return Erased(withdrawn), False
            await asyncio.sleep(_PAUSE_S)
        return Erased(withdrawn, await self._leave_audiences(bucket, profiles)), True

    async def _erase_some(self, bucket: int, profiles: Sequence[ErasedProfile]) -> tuple[int, int]:
        """Some of the profiles' deliveries, in one transaction: how many, and how many of them were withdrawn."""
        board, now = self._board, now_us()
        async with self._pool.acquire() as connection, connection.transaction():
            traces = await store_erasure.take_traces(connection, bucket, profiles, _CHUNK)
            if not traces:
                return 0, 0
            ids = {trace.connection for trace in traces} - {""}
            ways = (await self._catalog.find(connection, ids)).connections
            addresses = _addresses(ways, traces)
            hashes = [self._keys.hash_address(address) for address in addresses]
            await store_erasure.hide_addresses(connection, hashes)
            # What a platform answered to may have been taken nevertheless; who is no member is removed in vain, which harms nobody.
            await store_erasure.suppose_members(
                connection, bucket, await self._maybe_added(ways, traces), now
            )
            waiting = [trace for trace in traces if not is_final(trace.state)]
            over = [trace for trace in traces if is_final(trace.state)]
            await store_erasure.blank(connection, bucket, over)
            moved = await store_erasure.withdraw(
                connection,
                bucket,
                waiting,
                sequence=board.take_numbers(1, now),
                writer=board.holder,
                now=now,
            )
        if moved:
            metrics.PREVENTED.labels(Reason.ERASED.value).inc(moved)
            board.on_untold(bucket)
        return len(traces), moved

    async def _maybe_added(
        self, ways: Mapping[str, pb.Connection], traces: Sequence[Trace]
    ) -> list[tuple[Trace, Mapping[str, str]]]:
        """Those whom an audience may hold although it did not say that it took them, and the identifiers that it was given."""
        found: list[tuple[Trace, Mapping[str, str]]] = []
        for id_ in sorted({trace.connection for trace in traces if _may_hide_a_success(trace)} & ways.keys()):
            if not kind_of(ways[id_]).needs_action:
                continue
            tried = [trace for trace in traces if trace.connection == id_ and _may_hide_a_success(trace)]
            try:
                async with self._catalog.channel(ways[id_], id_) as channel:
                    found += [(trace, member) for trace in tried if (member := _given(channel, trace))]
            except Exception as error:  # noqa: BLE001 - a channel that can't be made must not keep anybody from being erased
                log.error("member_unknown", error=type(error).__name__)
        return found

    async def _leave_audiences(self, bucket: int, profiles: Sequence[ErasedProfile]) -> int:
        """Asks the audiences that hold the profiles to let them go; how many removals that are."""
        board, now = self._board, now_us()
        async with self._pool.acquire() as connection, connection.transaction():
            members = await store_erasure.take_members(connection, bucket, profiles)
            if not members:
                return 0
            found = await self._catalog.find(connection, {member.connection for member in members})
            known = [member for member in members if member.connection in found.connections]
            lost = [member for member in members if member.connection not in found.connections]
            await store_erasure.drop_members(connection, bucket, lost)
            asked = [_removal(member, now) for member in known]
            if asked:
                await store.accept(
                    connection,
                    bucket,
                    asked,
                    [State.PENDING] * len(asked),
                    detail="",
                    sequence=board.take_numbers(len(asked), now),
                    writer=board.holder,
                    now=now,
                )
        work = Counter(activation.connection for activation in asked)
        if work and not board.accepted(bucket, work, now):
            await store.tell_owner(self._pool, bucket, work)
        return len(asked)


def _addresses(ways: Mapping[str, pb.Connection], traces: Sequence[Trace]) -> set[str]:
    """The addresses of the persons, as far as what was to be sent to them tells."""
    names = {address_attribute(connection) for connection in ways.values()} | {DEFAULT_ADDRESS_ATTRIBUTE}
    contexts = {trace.context for trace in traces if trace.context}
    return {address for context in contexts for address in read_addresses(context, names)}


def _may_hide_a_success(trace: Trace) -> bool:
    # Of what was SENT it is known what the audience holds.
    return trace.action == journey_pb2.AUDIENCE_ACTION_ADD and trace.tried and trace.state is not State.SENT


def _given(channel: Channel[Any], trace: Trace) -> Mapping[str, str]:
    """The identifiers that an audience was given by a delivery; none where nothing could have been made of it."""
    claim = Claim(
        activation_id=trace.activation_id,
        request_us=trace.request_us,
        profile_id=trace.pseudonym,
        template="",
        action=trace.action,
        context=trace.context,
        accept_us=trace.request_us,
        attempts=1,
        enrollment="",
    )
    try:
        prepared = channel.prepare(Letter(claim, None))
        member = None if isinstance(prepared, Outcome) else channel.member_of(prepared)
    except Exception as error:  # noqa: BLE001 - nor what a channel of another package makes of one delivery
        log.error("member_unknown", error=type(error).__name__)
        return {}
    return {} if member is None else member.identifiers


def _removal(member: Removal, now: int) -> Activation:
    """The activation that takes an erased profile out of an audience, by what the audience got of it."""
    return Activation(
        activation_id=f"{REMOVAL_PREFIX}{member.pseudonym}:{member.connection}",
        profile_id=member.pseudonym,
        request_us=now,
        connection=member.connection,
        template="",
        action=int(journey_pb2.AUDIENCE_ACTION_REMOVE),
        journey_version="",
        stage="",
        step="",
        enrollment="",
        context=f'{{"hashed":{member.identifiers}}}'.encode(),
    )


def address_attribute(connection: pb.Connection) -> str:
    """The profile attribute that a connection takes addresses from; for what sends no mail the usual one."""
    kind = getattr(connection, connection.WhichOneof("kind") or "", None)
    attribute: str = getattr(kind, "address_attribute", "")
    return attribute or DEFAULT_ADDRESS_ATTRIBUTE


class _Context(msgspec.Struct):
    profile: dict[str, Any] = {}


def read_addresses(context: bytes, attributes: Iterable[str]) -> set[str]:
    """The addresses in a context's profile, in these attributes; none in what can't be read."""
    try:
        profile = msgspec.json.decode(context, type=_Context).profile
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return set()
    values = (profile.get(attribute) for attribute in attributes)
    return {parse_address(value) for value in values if isinstance(value, str)} - {""}
