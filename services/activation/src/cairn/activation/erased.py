"""Owns what is asked at the door: whether a profile was erased after an activation for it was requested.

Where nobody was ever erased this costs a statement now and then. An erasure that another process takes holds here within seconds; what
comes in meanwhile the erasure finds when it looks again.
"""

import time
from collections.abc import Callable, Collection, Iterable

from cairn.activation import store, store_erasure
from cairn.postgres.pool import Pool

_ASKED_EVERY_SECONDS = 2.0


class ErasedProfiles:
    """The erased profiles of all buckets. `hash_profile` makes the keyed hash under which they are known."""

    def __init__(self, pool: Pool, hash_profile: Callable[[str], bytes]) -> None:
        self._pool = pool
        self._hash_profile = hash_profile
        # Buckets in which somebody was erased; in the others there was nobody until then (monotonic seconds).
        self._some: set[int] = set()
        self._none_until: dict[int, float] = {}

    def note(self, bucket: int) -> None:
        """Somebody was erased in a bucket, by this process: it holds at once."""
        self._some.add(bucket)

    async def anywhere(self, buckets: Iterable[int]) -> bool:
        """Whether anybody was ever erased in one of the buckets."""
        found = [await self._any(bucket) for bucket in buckets]
        return any(found)

    async def among(self, bucket: int, profile_ids: Collection[str]) -> dict[str, int]:
        """When each of these profiles of a bucket was erased, in microseconds; those that never were are left out."""
        if not await self._any(bucket):
            return {}
        hashes = {self._hash_profile(profile_id): profile_id for profile_id in set(profile_ids)}
        found = await store_erasure.find_erased(self._pool, bucket, list(hashes))
        return {hashes[hashed]: erase_us for hashed, erase_us in found.items()}

    def pseudonym(self, profile_id: str) -> str:
        """What stands for an erased profile's id in the ledger."""
        return self._hash_profile(profile_id).hex()

    async def _any(self, bucket: int) -> bool:
        now = time.monotonic()
        if bucket in self._some:
            return True
        if now < self._none_until.get(bucket, 0.0):
            return False
        if await store.any_erased(self._pool, bucket):
            self._some.add(bucket)
            return True
        self._none_until[bucket] = now + _ASKED_EVERY_SECONDS
        return False
