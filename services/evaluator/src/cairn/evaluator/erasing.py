"""Owns the erasure of profiles: what goes, what stays of them, and what the other services are asked to do for it.

What stays is a tombstone: a keyed hash of the id, with the revision. It costs a lane nothing as long as its bucket has none, and it can't
be missed. Each bucket counts its erasures. A lane looks for tombstones of profiles that it does not find when it knows of any erasure; and
whoever makes a profile, or tells a timeline something without a swap, does so under a share of the lock that an erasure takes, and only if
the count is still the one it knew. An old state in a cache makes nobody again either: it is written by an update, never by an insert.
"""

import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import msgspec
import structlog

from cairn.evaluator import store, store_erasure
from cairn.evaluator.evaluation import decode_standings
from cairn.evaluator.store import OutboxRow, TimelineRow
from cairn.evaluator.store_erasure import ErasedRow, Tombstone
from cairn.evaluator.wire import Outgoing
from cairn.journey.state import CancelTimer, Effect, Enrollment, WithdrawActivation
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us

log = structlog.get_logger()

REASON: Final = "erased"
"""Why an activation of an erased profile is withdrawn."""
_KEY_NAME: Final = "tombstones"
_KEY_BYTES: Final = 32


class ProfileHashes:
    """Hashes of profile ids, HMAC-SHA256 under a key that is made once for all replicas, and read when it is first needed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._key: bytes | None = None

    async def of(self, profile_ids: Sequence[str]) -> list[bytes]:
        """The hash of each id, in order."""
        if self._key is None:
            made = secrets.token_bytes(_KEY_BYTES)
            self._key = await store_erasure.read_or_put_key(self._pool, _KEY_NAME, made)
        key = self._key
        return [hmac.digest(key, each.encode(), sha256) for each in profile_ids]


@dataclass(frozen=True, slots=True)
class Erased:
    """What an erasure did: which of the profiles there were, the number of the erasure in its bucket, and the effects as they were committed."""

    existed: frozenset[str]
    number: int
    outbox: OutboxRow


class Eraser:
    """Erases profiles of one bucket at a time, in one transaction. `writer` is this process's id in the outbox."""

    def __init__(self, pool: Pool, hashes: ProfileHashes, writer: int) -> None:
        self._pool = pool
        self._hashes = hashes
        self._writer = writer

    async def erase(self, bucket: int, sequence: int, asked: dict[str, int]) -> Erased:
        """Erases profiles, each as of when that was asked for, in microseconds. One that is not known leaves a tombstone too: Activation
        may know it, and an event of it may be on its way.

        Not a compare-and-swap: the rows are read under their locks, so that nobody is faster, and none has to be tried again.
        """
        ids = sorted(asked)
        hashes = dict(zip(ids, await self._hashes.of(ids), strict=True))
        async with self._pool.acquire() as connection, connection.transaction():
            number = await store_erasure.begin_erasure(connection, bucket)
            rows = {row.profile_id: row for row in await store_erasure.lock_profiles(connection, bucket, ids)}
            outgoing, tombstones = Outgoing(), []
            for profile_id in ids:
                row, erase_us, revision = rows.get(profile_id), asked[profile_id], 1
                if row is not None:
                    last_us = _take_back(row, outgoing)
                    # By whatever clocks: nothing that was asked for may seem to be younger.
                    erase_us, revision = max(erase_us, last_us), row.revision + 1
                outgoing.erase(profile_id, erase_us)
                tombstones.append(Tombstone(hashes[profile_id], revision, erase_us))
            outbox = outgoing.to_row(self._writer, sequence)
            await store_erasure.erase_profiles(connection, bucket, ids, tombstones, outbox, now_us())
        return Erased(frozenset(rows), number, outbox)

    async def find(self, bucket: int, profile_ids: Sequence[str]) -> dict[str, Tombstone]:
        """The tombstones of those of these profiles that were erased and not made anew."""
        hashes = await self._hashes.of(profile_ids)
        found = await store_erasure.find_tombstones(self._pool, bucket, hashes)
        return {
            each: found[hashed] for each, hashed in zip(profile_ids, hashes, strict=True) if hashed in found
        }

    async def hashes_of(self, profile_ids: Sequence[str]) -> list[bytes]:
        """The hashes under which tombstones of these profiles stand."""
        return await self._hashes.of(profile_ids)

    async def tell(self, bucket: int, rows: Sequence[TimelineRow]) -> None:
        """Adds rows to timelines outside a swap, but none to that of a profile that was erased."""
        hashes = await self._hashes.of([row.profile_id for row in rows])
        await store_erasure.open_bucket(self._pool, bucket)
        async with self._pool.acquire() as connection, connection.transaction():
            if await store_erasure.hold_erasures(connection, bucket):
                found = await store_erasure.find_tombstones(connection, bucket, hashes)
                rows = [row for row, hashed in zip(rows, hashes, strict=True) if hashed not in found]
            if rows:
                await store.insert_timeline(connection, bucket, rows)


def _take_back(row: ErasedRow, outgoing: Outgoing) -> int:
    """Cancels the timers and withdraws the pending activations of a profile; returns its last time of any kind, in microseconds.

    What an enrollment asked for at its end is not taken back: it is what audiences have to remove anyway.
    """
    last_us = row.update_us
    try:
        standings = decode_standings(row.standings)
    except msgspec.DecodeError as error:
        # Written by a newer version, or damaged: it goes all the same, and Activation takes back what it knows.
        log.error("profile_not_understood", error=type(error).__name__)
        return last_us
    for standing_id, standing in standings.items():
        enrollment = standing.enrollment
        if enrollment is not None:
            last_us = max(last_us, enrollment.now_us)
            outgoing.add(row.profile_id, standing_id, _withdrawals(enrollment))
    return last_us


def _withdrawals(enrollment: Enrollment) -> list[Effect]:
    effects: list[Effect] = []
    if enrollment.is_open:
        if enrollment.wake_us:
            effects.append(CancelTimer(enrollment.timer_id))
        for each in enrollment.pending:
            effects.append(WithdrawActivation(each.activation_id, each.request_us, REASON))
    return effects
