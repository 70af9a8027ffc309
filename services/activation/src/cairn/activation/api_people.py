"""Owns the calls about people: suppressions, consent, feedback, erasure: parse, one operation, render."""

from typing import Any

import grpc

from cairn.activation import wire, wire_people
from cairn.activation.erasure import Eraser
from cairn.activation.people import People
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.postgres.pool import translate_errors
from cairn.runtime.clock import now_us

_Context = grpc.aio.ServicerContext[Any, Any]


class PeopleCalls:
    """What people said, and what became of their addresses."""

    _people: People
    _eraser: Eraser

    async def PutSuppressions(
        self, request: pb.PutSuppressionsRequest, _context: _Context
    ) -> pb.PutSuppressionsResponse:
        people = self._people
        suppressions = [
            people.suppression(asked.address, asked.connection, asked.reason, asked.source, asked.detail)
            for asked in wire_people.parse_suppressions(request.suppressions)
        ]
        with translate_errors():
            added = await people.suppress(suppressions, now_us())
        return pb.PutSuppressionsResponse(added=added)

    async def ListSuppressions(
        self, request: pb.ListSuppressionsRequest, _context: _Context
    ) -> pb.ListSuppressionsResponse:
        address, _ = wire_people.parse_one_address(request.address, required=False)
        size = wire.page_size(request.page_size)
        before = wire_people.read_suppressions_token(request.page_token)
        with translate_errors():
            rows, more = await self._people.list_suppressions(before, size, address)
        return pb.ListSuppressionsResponse(
            suppressions=[wire_people.to_suppression(row) for row in rows],
            next_page_token=wire_people.suppressions_token(rows[-1]) if more else "",
        )

    async def DeleteSuppression(
        self, request: pb.DeleteSuppressionRequest, _context: _Context
    ) -> pb.DeleteSuppressionResponse:
        address, connection = wire_people.parse_one_address(request.address, request.connection)
        with translate_errors():
            await self._people.lift(address, connection)
        return pb.DeleteSuppressionResponse()

    async def SetConsents(self, request: pb.SetConsentsRequest, _context: _Context) -> pb.SetConsentsResponse:
        consents = wire_people.parse_consents(request.consents, now_us())
        with translate_errors():
            changed = await self._people.set_consents(consents)
        return pb.SetConsentsResponse(changed=changed)

    async def GetConsents(self, request: pb.GetConsentsRequest, _context: _Context) -> pb.GetConsentsResponse:
        profile_id = wire_people.parse_profile_id(request.profile_id)
        with translate_errors():
            rows = await self._people.get_consents(profile_id)
        return pb.GetConsentsResponse(consents=[wire_people.to_consent(row) for row in rows])

    async def ReportFeedback(
        self, request: pb.ReportFeedbackRequest, _context: _Context
    ) -> pb.ReportFeedbackResponse:
        now = now_us()
        feedback = wire_people.parse_feedback(request.feedback, now)
        with translate_errors():
            reported = await self._people.report(feedback, now)
        return pb.ReportFeedbackResponse(
            accepted=reported.accepted,
            known=reported.known,
            suppressed=reported.suppressed,
            resolved=reported.resolved,
        )

    async def EraseProfiles(
        self, request: pb.EraseProfilesRequest, _context: _Context
    ) -> pb.EraseProfilesResponse:
        now, eraser = now_us(), self._eraser
        asked = wire_people.parse_erasures(request.erasures, now)
        with translate_errors():
            erased = await eraser.erase([eraser.profile(*each) for each in asked], now)
        return pb.EraseProfilesResponse(withdrawn=erased.withdrawn, removals=erased.removals)
