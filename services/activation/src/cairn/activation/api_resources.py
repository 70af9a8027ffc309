"""Owns the calls about connections, templates and the sending policy: parse, one operation, render."""

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
from cairn.activation.operations import destination_problems
from cairn.activation.secrets import Secrets
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.postgres.pool import Pool, translate_errors
from cairn.runtime.clock import now_us, to_timestamp
from cairn.runtime.errors import FieldViolation, aborted_etag, invalid, not_found

_M = TypeVar("_M")
_Context = grpc.aio.ServicerContext[Any, Any]


class ResourceCalls:
    """What operators set up: ways out, words, rules."""

    _pool: Pool
    _catalog: Catalog
    _secrets: Secrets

    async def PutConnection(
        self, request: pb.PutConnectionRequest, _context: _Context
    ) -> pb.PutConnectionResponse:
        violations = wire_resources.check_connection(request.connection, self._secrets)
        if violations:
            raise invalid("The connection is wrong.", violations)
        saved = await self._put(request.connection, CONNECTIONS)
        return pb.PutConnectionResponse(connection=_to_connection(saved))

    async def GetConnection(
        self, request: pb.GetConnectionRequest, _context: _Context
    ) -> pb.GetConnectionResponse:
        return pb.GetConnectionResponse(connection=_to_connection(await self._get(CONNECTIONS, request.name)))

    async def ListConnections(
        self, request: pb.ListConnectionsRequest, _context: _Context
    ) -> pb.ListConnectionsResponse:
        connections, token = await self._list(
            CONNECTIONS, request.page_size, request.page_token, _to_connection
        )
        return pb.ListConnectionsResponse(connections=connections, next_page_token=token)

    async def DeleteConnection(
        self, request: pb.DeleteConnectionRequest, _context: _Context
    ) -> pb.DeleteConnectionResponse:
        await self._delete(CONNECTIONS, request.name)
        return pb.DeleteConnectionResponse()

    async def PutTemplate(self, request: pb.PutTemplateRequest, _context: _Context) -> pb.PutTemplateResponse:
        violations = wire_resources.check_template(request.template)
        if violations:
            raise invalid("The template is wrong.", violations)
        saved = await self._put(request.template, TEMPLATES)
        return pb.PutTemplateResponse(template=_to_template(saved))

    async def GetTemplate(self, request: pb.GetTemplateRequest, _context: _Context) -> pb.GetTemplateResponse:
        return pb.GetTemplateResponse(template=_to_template(await self._get(TEMPLATES, request.name)))

    async def ListTemplates(
        self, request: pb.ListTemplatesRequest, _context: _Context
    ) -> pb.ListTemplatesResponse:
        templates, token = await self._list(TEMPLATES, request.page_size, request.page_token, _to_template)
        return pb.ListTemplatesResponse(templates=templates, next_page_token=token)

    async def DeleteTemplate(
        self, request: pb.DeleteTemplateRequest, _context: _Context
    ) -> pb.DeleteTemplateResponse:
        await self._delete(TEMPLATES, request.name)
        return pb.DeleteTemplateResponse()

    async def CheckDestinations(
        self, request: pb.CheckDestinationsRequest, _context: _Context
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
