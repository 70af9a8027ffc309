"""Owns the calls about audiences: parse, one operation, render."""

from typing import Any

import grpc

from cairn.activation import wire
from cairn.activation.audiences import Audiences
from cairn.activation.catalog import CONNECTIONS
from cairn.activation.store_members import Membership
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.postgres.pool import translate_errors
from cairn.runtime.clock import to_timestamp

_Context = grpc.aio.ServicerContext[Any, Any]
_MOST_BUCKET_DIGITS = 9


class AudienceCalls:
    """Whom the audiences should hold."""

    _audiences: Audiences

    async def ListAudienceMembers(
        self, request: pb.ListAudienceMembersRequest, _context: _Context
    ) -> pb.ListAudienceMembersResponse:
        connection = wire.require_id(CONNECTIONS, request.connection)
        size = wire.page_size(request.page_size)
        after = _read_token(request.page_token)
        with translate_errors():
            page, more = await self._audiences.list_page(
                connection, after, size, include_removed=request.include_removed
            )
        return pb.ListAudienceMembersResponse(
            members=[_to_member(member) for member in page],
            next_page_token=wire.resources_token(f"{more[0]} {more[1]}") if more else "",
        )


def _read_token(token: str) -> tuple[int, str]:
    """The place that a page begins behind, (bucket, profile id)."""
    bucket, _, profile_id = wire.read_resources_token(token).partition(" ")
    known = bucket.isascii() and bucket.isdigit() and len(bucket) <= _MOST_BUCKET_DIGITS
    return (int(bucket) if known else 0), profile_id.replace("\0", "")


def _to_member(member: Membership) -> pb.AudienceMember:
    return pb.AudienceMember(
        profile_id=member.profile_id,
        present=member.present,
        identifiers=member.identifiers,
        activation_id=member.activation_id,
        update_time=to_timestamp(member.update_us),
    )
