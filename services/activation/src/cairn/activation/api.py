"""Owns the gRPC face of the service: parse, one operation, render."""

from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from cairn.activation import store_resources, wire, wire_resources
from cairn.activation.catalog import (
    CONNECTIONS,
    TEMPLATES,
    Catalog,
    read_connection,
    read_template,
    to_resource,
)
from cairn.activation.model import Resource
from cairn.activation.operations import Ledger, destination_problems
from cairn.activation.secrets import Secrets
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.activation.v1 import activation_pb2_grpc
from cairn.postgres.pool import Pool, translate_errors
from cairn.runtime.clock import now_us, to_timestamp
from cairn.runtime.errors import FieldViolation, aborted_etag, invalid, not_found
from cairn.runtime.service import Role

_M = TypeVar("_M")
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
}
"""The least role for each call."""


class ActivationServicer(activation_pb2_grpc.ActivationServiceServicer):
    """`cairn.api.activation.v1.ActivationService`."""

    def __init__(
        self, ledger: Ledger, pool: Pool, catalog: Catalog, secrets: Secrets, most_under_way: int
    ) -> None:
        self._ledger = ledger
        self._pool = pool
        self._catalog = catalog
        self._secrets = secrets
        self._most_under_way = most_under_way
        self._under_way = 0

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
        return pb.GetDeliveryResponse(delivery=wire.to_delivery(delivery))

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

    async def PutConnection(
        self, request: pb.PutConnectionRequest, context: _Context
    ) -> pb.PutConnectionResponse:
        violations = wire_resources.check_connection(request.connection, self._secrets)
        if violations:
            raise invalid("The connection is wrong.", violations)
        saved = await self._put(request.connection, CONNECTIONS)
        return pb.PutConnectionResponse(connection=_to_connection(saved))

    async def GetConnection(
        self, request: pb.GetConnectionRequest, context: _Context
    ) -> pb.GetConnectionResponse:
        return pb.GetConnectionResponse(connection=_to_connection(await self._get(CONNECTIONS, request.name)))

    async def ListConnections(
        self, request: pb.ListConnectionsRequest, context: _Context
    ) -> pb.ListConnectionsResponse:
        connections, token = await self._list(
            CONNECTIONS, request.page_size, request.page_token, _to_connection
        )
        return pb.ListConnectionsResponse(connections=connections, next_page_token=token)

    async def DeleteConnection(
        self, request: pb.DeleteConnectionRequest, context: _Context
    ) -> pb.DeleteConnectionResponse:
        await self._delete(CONNECTIONS, request.name)
        return pb.DeleteConnectionResponse()

    async def PutTemplate(self, request: pb.PutTemplateRequest, context: _Context) -> pb.PutTemplateResponse:
        violations = wire_resources.check_template(request.template)
        if violations:
            raise invalid("The template is wrong.", violations)
        saved = await self._put(request.template, TEMPLATES)
        return pb.PutTemplateResponse(template=_to_template(saved))

    async def GetTemplate(self, request: pb.GetTemplateRequest, context: _Context) -> pb.GetTemplateResponse:
        return pb.GetTemplateResponse(template=_to_template(await self._get(TEMPLATES, request.name)))

    async def ListTemplates(
        self, request: pb.ListTemplatesRequest, context: _Context
    ) -> pb.ListTemplatesResponse:
        templates, token = await self._list(TEMPLATES, request.page_size, request.page_token, _to_template)
        return pb.ListTemplatesResponse(templates=templates, next_page_token=token)

    async def DeleteTemplate(
        self, request: pb.DeleteTemplateRequest, context: _Context
    ) -> pb.DeleteTemplateResponse:
        await self._delete(TEMPLATES, request.name)
        return pb.DeleteTemplateResponse()

    async def CheckDestinations(
        self, request: pb.CheckDestinationsRequest, context: _Context
    ) -> pb.CheckDestinationsResponse:
        if len(request.destinations) > wire.MAX_BATCH:
            text = f"holds {len(request.destinations):,}; at most {wire.MAX_BATCH:,} can be checked at once"
            raise invalid("There are too many destinations.", [FieldViolation("destinations", text)])
        names = [
            (wire.parse_id(CONNECTIONS, d.connection), wire.parse_id(TEMPLATES, d.template))
            for d in request.destinations
        ]
        with translate_errors():
            found = await self._catalog.find(self._pool, {c for c, _ in names}, {t for _, t in names})
        return pb.CheckDestinationsResponse(
            problems=[
                problem
                for index, (destination, (connection, template)) in enumerate(
                    zip(request.destinations, names, strict=True)
                )
                for problem in destination_problems(index, destination, connection, template, found)
            ]
        )

    async def _put(self, message: pb.Connection | pb.Template, kind: str) -> Resource:
        id_ = wire.require_id(kind, message.name)
        with translate_errors():
            saved = await store_resources.put(
                self._pool, to_resource(message, kind, id_, now_us()), message.etag
            )
            self._catalog.forget(kind, id_)
        if saved is None:
            raise aborted_etag(f"{kind}/{id_}")
        return saved

    async def _get(self, kind: str, name: str) -> Resource:
        id_ = wire.require_id(kind, name)
        with translate_errors():
            rows = await store_resources.look_up(self._pool, [(kind, id_)])
        if not rows:
            raise not_found(f"{kind}/{id_}")
        return rows[0]

    async def _delete(self, kind: str, name: str) -> None:
        id_ = wire.require_id(kind, name)
        with translate_errors():
            gone = await store_resources.delete(self._pool, kind, id_)
            self._catalog.forget(kind, id_)
        if not gone:
            raise not_found(f"{kind}/{id_}")

    async def _list(
        self, kind: str, asked: int, token: str, render: Callable[[Resource], _M]
    ) -> tuple[list[_M], str]:
        size = wire.page_size(asked)
        after = wire.read_resources_token(token)
        with translate_errors():
            rows = await store_resources.list_page(self._pool, kind, after, size + 1)
        more = len(rows) > size
        return [render(row) for row in rows[:size]], wire.resources_token(rows[size - 1].id) if more else ""


def _to_connection(row: Resource) -> pb.Connection:
    connection = read_connection(row)
    connection.update_time.CopyFrom(to_timestamp(row.update_us))
    return connection


def _to_template(row: Resource) -> pb.Template:
    template = read_template(row)
    template.update_time.CopyFrom(to_timestamp(row.update_us))
    return template
