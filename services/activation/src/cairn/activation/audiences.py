"""Owns the reconciliation of audiences: whom each should hold, as far as this ledger put them there. Knows no transport."""

import re
from collections.abc import Sequence
from dataclasses import replace

from cairn.activation import store_members
from cairn.activation.catalog import CONNECTIONS, Catalog
from cairn.activation.channels import kind_of
from cairn.activation.store_erasure import find_erased
from cairn.activation.store_members import Membership
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.postgres.pool import Pool
from cairn.runtime.errors import CairnError, not_found

# A keyed hash in hexadecimal, which an erasure leaves of a profile's id.
_PSEUDONYM = re.compile(r"[0-9a-f]{64}")


class Audiences:
    """The audiences of all connections."""

    def __init__(self, pool: Pool, catalog: Catalog, bucket_count: int) -> None:
        self._pool = pool
        self._catalog = catalog
        self._bucket_count = bucket_count

    async def list_page(
        self, connection_id: str, after: tuple[int, str], size: int, *, include_removed: bool
    ) -> tuple[list[Membership], tuple[int, str] | None]:
        """A page of an audience's members behind a (bucket, profile id), and the place that the next page begins behind, if there is one.

        NOT_FOUND; FAILED_PRECONDITION when the connection leads to no audience.
        """
        await self._check(connection_id)
        bucket, after_id = after
        found: list[Membership] = []
        while bucket < self._bucket_count and len(found) <= size:
            found += await self._read(bucket, connection_id, after_id, size + 1 - len(found), include_removed)
            bucket, after_id = bucket + 1, ""
        page = found[:size]
        more = (page[-1].bucket, page[-1].profile_id) if len(found) > size else None
        return await self._without_pseudonyms(page), more

    async def _check(self, connection_id: str) -> None:
        found = await self._catalog.find(self._pool, [connection_id], ())
        connection = found.connections.get(connection_id)
        name = f"{CONNECTIONS}/{connection_id}"
        if connection is None:
            raise not_found(name)
        if not kind_of(connection).needs_action:
            raise CairnError(
                ErrorReason.ERROR_REASON_FAILED_PRECONDITION,
                f"{name} leads to no audience; name a connection that does.",
                resource=name,
            )

    async def _read(
        self, bucket: int, connection_id: str, after: str, limit: int, include_removed: bool
    ) -> list[Membership]:
        return await store_members.list_members(
            self._pool, bucket, connection_id, after=after, include_removed=include_removed, limit=limit
        )

    async def _without_pseudonyms(self, page: Sequence[Membership]) -> list[Membership]:
        """Those who were erased have no name any more, until their audience has let them go."""
        suspects: dict[int, list[bytes]] = {}
        for member in page:
            if _PSEUDONYM.fullmatch(member.profile_id):
                suspects.setdefault(member.bucket, []).append(bytes.fromhex(member.profile_id))
        erased = {
            (bucket, profile_hash.hex())
            for bucket, hashes in suspects.items()
            for profile_hash in await find_erased(self._pool, bucket, hashes)
        }
        return [
            replace(member, profile_id="") if (member.bucket, member.profile_id) in erased else member
            for member in page
        ]
