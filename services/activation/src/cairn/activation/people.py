"""Owns what people said and what became of their addresses: suppressions, consents, feedback; each operation one transaction a bucket.

Knows no transport.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from cairn.activation import feedback_sendgrid, feedback_ses, store_feedback, store_people
from cairn.activation.board import Board
from cairn.activation.keys import Keys
from cairn.activation.ledger import State, is_final
from cairn.activation.store import Database
from cairn.activation.store_feedback import DROPPED, Feedback, Resolution, Subject, Told
from cairn.activation.store_people import Consent, Suppression
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.postgres.bucket import bucket_of
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us
from cairn.runtime.errors import not_found

MAX_TIME_US = 4_102_444_800_000_000
"""2100: after everything that is stored."""

_SUPPRESSING: Mapping[int, int] = MappingProxyType(
    {
        pb.FEEDBACK_KIND_HARD_BOUNCE: pb.SUPPRESSION_REASON_HARD_BOUNCE,
        pb.FEEDBACK_KIND_COMPLAINT: pb.SUPPRESSION_REASON_COMPLAINT,
        pb.FEEDBACK_KIND_UNSUBSCRIBE: pb.SUPPRESSION_REASON_UNSUBSCRIBE,
    }
)
SUPPRESSING_KINDS = frozenset(_SUPPRESSING)
"""Feedback that suppresses the address it is about."""

_FATES: Mapping[int, tuple[State, str]] = MappingProxyType(
    {
        pb.FEEDBACK_KIND_DELIVERED: (State.SENT, "the destination says that it arrived"),
        pb.FEEDBACK_KIND_COMPLAINT: (State.SENT, "it arrived: its recipient complained"),
        pb.FEEDBACK_KIND_UNSUBSCRIBE: (State.SENT, "it arrived: its recipient unsubscribed"),
        pb.FEEDBACK_KIND_HARD_BOUNCE: (State.FAILED, "the destination says that the address takes nothing"),
    }
)
"""What feedback makes of a delivery in doubt. A soft bounce decides nothing: the destination may try again."""

_DROPPED = (State.FAILED, "the destination says that it did not try to deliver it")
_OUR_READERS = frozenset({feedback_sendgrid.PROVIDER, feedback_ses.PROVIDER})
_RESOLVED_AT_ONCE = 1_000

_FORGOTTEN_AT_ONCE = 5_000

DOUBT_SECONDS = 2.0
"""How often what was told too early is tried again."""

_DOUBT_US = 60_000_000
_MOST_DOUBTS = 10_000

NEWEST = (MAX_TIME_US, b"", "")
"""The place before the first page of suppressions."""


@dataclass(frozen=True, slots=True)
class Reported:
    """What became of feedback: how much was new and how much known, addresses that became suppressed, deliveries that were resolved."""

    accepted: int = 0
    known: int = 0
    suppressed: int = 0
    resolved: int = 0

    def __add__(self, other: "Reported") -> "Reported":
        return Reported(
            self.accepted + other.accepted,
            self.known + other.known,
            self.suppressed + other.suppressed,
            self.resolved + other.resolved,
        )


class People:
    """What is known of people, as callers use it."""

    def __init__(self, pool: Pool, keys: Keys, board: Board, bucket_count: int) -> None:
        self._pool = pool
        self._keys = keys
        self._board = board
        self._bucket_count = bucket_count
        # What is told of deliveries that are still on their way, by bucket and activation, and until when it is kept.
        self._doubts: dict[tuple[int, str], tuple[Resolution, int]] = {}

    def suppression(
        self, address: str, connection: str, reason: int, source: str, detail: str = ""
    ) -> Suppression:
        """The suppression of an address, as `mail.parse_address` gives it, with its hash."""
        return Suppression(self._keys.hash_address(address), connection, address, reason, source, detail)

    async def suppress(self, suppressions: Sequence[Suppression], now: int) -> int:
        """Writes them; how many are new."""
        added = await store_people.suppress(self._pool, suppressions, now)
        self._board.on_said()
        return added

    async def unsubscribe(self, address: str, connection: str, source: str, now: int) -> None:
        """An address's owner wants no more mail through a connection, or none at all (""). Idempotent."""
        one = self.suppression(address, connection, pb.SUPPRESSION_REASON_UNSUBSCRIBE, source)
        await store_people.suppress(self._pool, [one], now)
        self._board.on_said()

    async def list_suppressions(
        self, before: tuple[int, bytes, str], size: int, address: str
    ) -> tuple[list[Suppression], bool]:
        """A page of suppressions, newest first, of one address unless it is "", and whether there is more."""
        hash_ = self._keys.hash_address(address) if address else b""
        rows = await store_people.list_suppressions(self._pool, before, size + 1, hash_)
        return rows[:size], len(rows) > size

    async def lift(self, address: str, connection: str) -> None:
        """Lifts the suppression of an address for a connection, or the one for all e-mail (""). NOT_FOUND."""
        hash_ = self._keys.hash_address(address)
        if not await store_people.lift(self._pool, hash_, connection):
            raise not_found(f"suppressions/{hash_.hex()}")

    async def set_consents(self, consents: Sequence[Consent]) -> int:
        """Writes what profiles have said; how many changed something. Of two about the same the later one counts."""
        groups: dict[int, dict[tuple[str, str], Consent]] = defaultdict(dict)
        for consent in consents:
            group = groups[bucket_of(consent.profile_id, self._bucket_count)]
            key = (consent.profile_id, consent.connection)
            if key not in group or group[key].update_us <= consent.update_us:
                group[key] = consent
        changed = 0
        for bucket in sorted(groups):
            of_bucket = list(groups[bucket].values())
            hashes = [self._keys.hash_profile(consent.profile_id) for consent in of_bucket]
            changed += await store_people.set_consents(self._pool, bucket, of_bucket, hashes)
            self._board.on_said()
        return changed

    async def get_consents(self, profile_id: str) -> list[Consent]:
        """What one profile has said, by connection."""
        bucket = bucket_of(profile_id, self._bucket_count)
        return await store_people.get_consents(self._pool, bucket, profile_id)

    async def report(self, feedback: Sequence[Feedback], now: int) -> Reported:
        """Takes what destinations tell: written, suppressing and resolving in one transaction for each bucket. Idempotent by event."""
        subjects = await self._find_subjects({one.activation_id for one in feedback} - {""}, now)
        groups: dict[int, dict[tuple[str, str], Feedback]] = defaultdict(dict)
        for one in feedback:
            subject = subjects.get(one.activation_id)
            # Without a delivery the event's own id decides, so that it is found again when it is told again.
            bucket = subject.bucket if subject else bucket_of(one.event_id, self._bucket_count)
            groups[bucket].setdefault(one.key, one)
        total = Reported(known=len(feedback) - sum(len(group) for group in groups.values()))
        for bucket in sorted(groups):
            total += await self._report_in(bucket, list(groups[bucket].values()), subjects, now)
        return total

    async def _find_subjects(self, activation_ids: set[str], now: int) -> dict[str, Subject]:
        """The deliveries that are known here; only their ids are, so each bucket is asked."""
        found: dict[str, Subject] = {}
        for bucket in range(self._bucket_count):
            missing = activation_ids - found.keys()
            if not missing:
                break
            since_us = now - store_feedback.WINDOW_US
            found |= await store_feedback.find_subjects(self._pool, bucket, missing, since_us)
        return found

    async def _report_in(
        self, bucket: int, feedback: Sequence[Feedback], subjects: Mapping[str, Subject], now: int
    ) -> Reported:
        async with self._pool.acquire() as connection, connection.transaction():
            new = await store_feedback.record(connection, bucket, feedback, now)
            fresh = [one for one in feedback if one.key in new]
            # Deliveries before suppressions, as an erasure takes them: so that neither waits for the other for ever.
            resolutions = [
                Resolution(subject.activation_id, subject.request_us, *fate)
                for one in fresh
                if (fate := _DROPPED if one.dropped else _FATES.get(one.kind))
                and (subject := subjects.get(one.activation_id))
            ]
            resolved = await self._resolve(connection, bucket, resolutions, now)
            suppressions = [
                self._suppression_of(one, subjects.get(one.activation_id))
                for one in fresh
                if one.kind in _SUPPRESSING and one.address
            ]
            suppressed = await store_people.suppress(connection, suppressions, now)
        if suppressed:
            self._board.on_said()
        if resolved:
            self._board.on_untold(bucket)
        if len(self._doubts) < _MOST_DOUBTS:
            self._doubts.update(
                ((bucket, one.activation_id), (one, now + _DOUBT_US))
                for one in resolutions
                if not is_final(subjects[one.activation_id].state)
            )
        return Reported(len(new), len(feedback) - len(new), suppressed, resolved)

    async def _resolve(
        self, database: Database, bucket: int, resolutions: Sequence[Resolution], now: int
    ) -> int:
        if not resolutions:
            return 0
        board = self._board
        return await store_feedback.resolve(
            database,
            bucket,
            resolutions,
            sequence=board.take_numbers(1, now),
            writer=board.holder,
            now=now,
        )

    async def settle_doubts(self) -> None:
        """Resolves what came to be UNKNOWN after its destination had told of it: the telling can overtake whoever was sending."""
        now = now_us()
        waiting: dict[int, list[Resolution]] = defaultdict(list)
        for (bucket, _), (resolution, _) in self._doubts.items():
            waiting[bucket].append(resolution)
        for bucket, resolutions in waiting.items():
            if await self._resolve(self._pool, bucket, resolutions, now):
                self._board.on_untold(bucket)
        self._doubts = {key: doubt for key, doubt in self._doubts.items() if now < doubt[1]}

    def _suppression_of(self, one: Feedback, subject: Subject | None) -> Suppression:
        connection = ""  # an address that bounces or complains gets no mail at all
        if one.kind == pb.FEEDBACK_KIND_UNSUBSCRIBE:
            # Of a connection that nobody knows, the careful reading: of all.
            connection = subject.connection if subject else one.connection
        return self.suppression(one.address, connection, _SUPPRESSING[one.kind], one.provider, one.detail)

    async def read_feedback(self, bucket: int, activation_id: str) -> list[Feedback]:
        """What was told of a delivery, oldest first."""
        return await store_feedback.read_feedback(self._pool, bucket, activation_id)

    async def forget_feedback(self, before_us: int) -> None:
        """Deletes what was told before a time."""
        for bucket in range(self._bucket_count):
            while await store_feedback.forget(self._pool, bucket, before_us, _FORGOTTEN_AT_ONCE):
                pass


async def resolve_told(
    database: Database, bucket: int, unknown: Sequence[tuple[str, int]], board: Board
) -> int:
    """Resolves deliveries that became UNKNOWN, by activation and request time, where their destination told of them before; how many."""
    resolved = 0
    for start in range(0, len(unknown), _RESOLVED_AT_ONCE):
        batch = unknown[start : start + _RESOLVED_AT_ONCE]
        fates: dict[str, list[tuple[State, str]]] = defaultdict(list)
        for told in await store_feedback.told_of(database, bucket, [id_ for id_, _ in batch]):
            if fate := _fate_of(told):
                fates[told.activation_id].append(fate)
        resolutions = [
            Resolution(id_, request_us, *fate) for id_, request_us in batch for fate in fates.get(id_, ())
        ]
        if resolutions:
            now = now_us()
            resolved += await store_feedback.resolve(
                database,
                bucket,
                resolutions,
                sequence=board.take_numbers(1, now),
                writer=board.holder,
                now=now,
            )
    return resolved


def _fate_of(told: Told) -> tuple[State, str] | None:
    dropped = told.provider in _OUR_READERS and told.detail.startswith(DROPPED)
    return _DROPPED if dropped else _FATES.get(told.kind)
