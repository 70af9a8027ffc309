"""Owns the gRPC face of the service, and of it the calls about the ledger: parse, one operation, render."""

from collections.abc import AsyncIterator
from typing import Any

import grpc

from cairn.activation import wire
from cairn.activation.api_audiences import AudienceCalls
from cairn.activation.api_people import PeopleCalls
from cairn.activation.api_policy import PolicyCalls
from cairn.activation.api_resources import ResourceCalls
from cairn.activation.audiences import Audiences
from cairn.activation.catalog import Catalog
from cairn.activation.erasure import Eraser
from cairn.activation.model import Delivery
from cairn.activation.operations import Ledger
from cairn.activation.people import People
from cairn.activation.policy import Policies
from cairn.activation.secrets import Secrets
from cairn.activation.wire_people import to_feedback
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.activation.v1 import activation_pb2_grpc
from cairn.postgres.pool import Pool, translate_errors
from cairn.runtime.clock import now_us
from cairn.runtime.service import Role

_MOST_WATCHES = 32
"""Streams of WatchDeliveries at a time: each asks every bucket once a second."""

_Context = grpc.aio.ServicerContext[Any, Any]

ROLES = {
    "Activate": Role.OPERATE,
    "Withdraw": Role.OPERATE,
    "GetDelivery": Role.READ,
    "ListDeliveries": Role.READ,
    "PutConnection": Role.OPERATE,
    "GetConnection": Role.READ,
    "ListConnections": Role.READ,
    "DeleteConnection": Role.OPERATE,
    "PutTemplate": Role.OPERATE,
    "GetTemplate": Role.READ,
    "ListTemplates": Role.READ,
    "DeleteTemplate": Role.OPERATE,
    "CheckDestinations": Role.READ,
    "WatchDeliveries": Role.READ,
    "RetryDelivery": Role.OPERATE,
    "ResolveDelivery": Role.OPERATE,
    "ReportFeedback": Role.OPERATE,
    "TestConnection": Role.OPERATE,
    "SendTest": Role.OPERATE,
    "ListAudienceMembers": Role.READ,
    "ListTemplateVersions": Role.READ,
    "PreviewTemplate": Role.READ,
    "PutSuppressions": Role.OPERATE,
    "ListSuppressions": Role.READ,
    "DeleteSuppression": Role.OPERATE,
    "SetConsents": Role.PRODUCE,
    "GetConsents": Role.READ,
    "GetSendingPolicy": Role.READ,
    "PutSendingPolicy": Role.OPERATE,
    "EraseProfiles": Role.OPERATE,
}
"""The least role for each call."""


class ActivationServicer(
    ResourceCalls, PeopleCalls, PolicyCalls, AudienceCalls, activation_pb2_grpc.ActivationServiceServicer
):
    """`cairn.api.activation.v1.ActivationService`."""

    def __init__(
        self,
        ledger: Ledger,
        pool: Pool,
        catalog: Catalog,
        secrets: Secrets,
        most_under_way: int,
        *,
        people: People,
        eraser: Eraser,
        policies: Policies,
        audiences: Audiences,
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._catalog = catalog
        self._secrets = secrets
        self._people = people
        self._eraser = eraser
        self._policies = policies
        self._audiences = audiences
        self._most_under_way = most_under_way
        self._under_way = 0
        self._watches = 0

    async def Activate(self, request: pb.ActivateRequest, context: _Context) -> pb.ActivateResponse:
        size = len(request.activations)
        wire.check_batch("activations", size)
        if self._under_way + size > self._most_under_way:
            raise wire.overloaded(self._most_under_way)
        self._under_way += size
        try:
            now = now_us()
            batch, refusals = {}, {}
            for index, message in enumerate(request.activations):
                parsed = wire.parse_activation(message, now)
                if isinstance(parsed, wire.Refusal):
                    refusals[index] = parsed
                else:
                    batch[index] = parsed
            with translate_errors():
                result = await self._ledger.accept(batch, now)
        finally:
            self._under_way -= size
        refusals.update(result.refusals)
        return pb.ActivateResponse(
            accepted=result.accepted,
            known=result.known,
            refusals=[
                pb.ActivationRefusal(index=index, reason=refusal.reason, message=refusal.message)
                for index, refusal in sorted(refusals.items())
            ],
        )

    async def Withdraw(self, request: pb.WithdrawRequest, context: _Context) -> pb.WithdrawResponse:
        wire.check_batch("withdrawals", len(request.withdrawals))
        now = now_us()
        withdrawals = wire.parse_withdrawals(request.withdrawals, now)
        with translate_errors():
            withdrawn, too_late = await self._ledger.withdraw(withdrawals, now)
        return pb.WithdrawResponse(withdrawn=withdrawn, too_late=too_late)

    async def GetDelivery(self, request: pb.GetDeliveryRequest, context: _Context) -> pb.GetDeliveryResponse:
        activation_id = wire.delivery_id(request.name)
        with translate_errors():
            delivery = await self._ledger.get(activation_id)
            return pb.GetDeliveryResponse(delivery=await self._render(delivery))

    async def _render(self, delivery: Delivery) -> pb.Delivery:
        feedback = await self._ledger.read_feedback(delivery)
        return wire.to_delivery(delivery, [to_feedback(row) for row in feedback])

    async def ListDeliveries(
        self, request: pb.ListDeliveriesRequest, context: _Context
    ) -> pb.ListDeliveriesResponse:
        page = wire.parse_list(request)
        with translate_errors():
            deliveries, more = await self._ledger.list_page(page, request.profile_id.replace("\0", ""))
        return pb.ListDeliveriesResponse(
            deliveries=[wire.to_delivery(delivery) for delivery in deliveries],
            next_page_token=wire.deliveries_token(deliveries[-1]) if more else "",
        )

    async def WatchDeliveries(
        self, request: pb.WatchDeliveriesRequest, context: _Context
    ) -> AsyncIterator[pb.WatchDeliveriesResponse]:
        watched = wire.parse_watch(request)
        if self._watches >= _MOST_WATCHES:
            raise wire.too_many_watches(_MOST_WATCHES)
        self._watches += 1
        try:
            with translate_errors():
                async for page in self._ledger.watch(watched).changes():
                    yield pb.WatchDeliveriesResponse(deliveries=[wire.to_delivery(d) for d in page])
        finally:
            self._watches -= 1

    async def RetryDelivery(
        self, request: pb.RetryDeliveryRequest, context: _Context
    ) -> pb.RetryDeliveryResponse:
        activation_id = wire.delivery_id(request.name)
        reason = wire.parse_reason(request.reason)
        with translate_errors():
            delivery = await self._ledger.retry(activation_id, reason, now_us())
            return pb.RetryDeliveryResponse(delivery=await self._render(delivery))

    async def ResolveDelivery(
        self, request: pb.ResolveDeliveryRequest, context: _Context
    ) -> pb.ResolveDeliveryResponse:
        activation_id = wire.delivery_id(request.name)
        state, reason = wire.parse_resolution(request), wire.parse_reason(request.reason)
        with translate_errors():
            delivery = await self._ledger.resolve(activation_id, state, reason, now_us())
            return pb.ResolveDeliveryResponse(delivery=await self._render(delivery))
