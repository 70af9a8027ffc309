"""Owns the calls about connections and templates: parse, one operation, render."""

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

import grpc

from cairn.activation import previews, store_resources, trials, wire, wire_resources
from cairn.activation.catalog import (
    CONNECTIONS,
    TEMPLATES,
    Catalog,
    compile_template,
    read_connection,
    read_template,
    to_resource,
)
from cairn.activation.channels import kind_of
from cairn.activation.ledger import Fate
from cairn.activation.model import Resource
from cairn.activation.operations import destination_problems
from cairn.activation.secrets import Secrets
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.postgres.pool import Pool, translate_errors
from cairn.runtime.clock import now_us, to_timestamp
from cairn.runtime.errors import CairnError, FieldViolation, aborted_etag, invalid, not_found

_TIME_TO_ANSWER_S = 1.0
_STATES = {
    Fate.SENT: pb.DELIVERY_STATE_SENT,
    Fate.RETRY: pb.DELIVERY_STATE_PENDING,
    Fate.HELD: pb.DELIVERY_STATE_PENDING,
    Fate.REFUSED: pb.DELIVERY_STATE_REFUSED,
    Fate.FAILED: pb.DELIVERY_STATE_FAILED,
    Fate.UNKNOWN: pb.DELIVERY_STATE_UNKNOWN,
}
_M = TypeVar("_M")
_Context = grpc.aio.ServicerContext[Any, Any]


class ResourceCalls:
    """What operators set up: ways out and words."""

    _pool: Pool
    _catalog: Catalog
    _secrets: Secrets

    async def PutConnection(
        self, request: pb.PutConnectionRequest, _context: _Context
    ) -> pb.PutConnectionResponse:
        violations = wire_resources.check_connection(
            request.connection, self._secrets, self._catalog.tools.settings.webhook_allowed_networks
        )
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

    async def TestConnection(
        self, request: pb.TestConnectionRequest, context: _Context
    ) -> pb.TestConnectionResponse:
        connection = read_connection(await self._get(CONNECTIONS, request.name))
        answer = await trials.try_connection(connection, self._catalog.tools, self._limit_s(context))
        return pb.TestConnectionResponse(ok=answer.ok, detail=answer.detail, latency_ms=answer.latency_ms)

    async def SendTest(self, request: pb.SendTestRequest, context: _Context) -> pb.SendTestResponse:
        connection = read_connection(await self._get(CONNECTIONS, request.connection, "connection"))
        if kind_of(connection).stays:
            text = f"nothing leaves the house through {connection.name}; a test has nowhere to go."
            raise CairnError(ErrorReason.ERROR_REASON_FAILED_PRECONDITION, text, resource=connection.name)
        violations = trials.check_test(connection, request)
        if violations:
            raise invalid("The test can't be sent.", violations)
        template = await self._get_template(request.template, "template") if request.template else None
        sample = template.sample if template else b""
        outcome = await trials.send_test(
            connection,
            template and compile_template(template, trials.SUBJECT_PREFIX),
            trials.readdressed(connection, request.context or sample, request.to_address),
            request.action,
            self._catalog.tools,
            self._limit_s(context),
        )
        return pb.SendTestResponse(
            state=_STATES[outcome.fate], detail=outcome.detail, external_id=outcome.external_id
        )

    def _limit_s(self, context: _Context) -> float:
        """How long a trial may take, so that the caller still hears of it."""
        left_s: float | None = (
            context.time_remaining()
        )  # None, which the stub does not know, without a deadline
        if left_s is None:
            left_s = self._catalog.tools.settings.default_deadline_seconds
        return max(left_s - _TIME_TO_ANSWER_S, left_s / 2)

    async def PutTemplate(self, request: pb.PutTemplateRequest, _context: _Context) -> pb.PutTemplateResponse:
        violations = await asyncio.to_thread(wire_resources.check_template, request.template)
        if violations:
            raise invalid("The template is wrong.", violations)
        saved = await self._put(request.template, TEMPLATES)
        return pb.PutTemplateResponse(template=_to_template(saved))

    async def GetTemplate(self, request: pb.GetTemplateRequest, _context: _Context) -> pb.GetTemplateResponse:
        return pb.GetTemplateResponse(template=await self._get_template(request.name))

    async def ListTemplates(
        self, request: pb.ListTemplatesRequest, _context: _Context
    ) -> pb.ListTemplatesResponse:
        templates, token = await self._list(TEMPLATES, request.page_size, request.page_token, _to_template)
        return pb.ListTemplatesResponse(templates=templates, next_page_token=token)

    async def ListTemplateVersions(
        self, request: pb.ListTemplateVersionsRequest, _context: _Context
    ) -> pb.ListTemplateVersionsResponse:
        id_ = wire.require_id(TEMPLATES, request.name)
        size = wire.page_size(request.page_size)
        before = wire.read_versions_token(request.page_token)
        with translate_errors():
            rows = await store_resources.list_versions(self._pool, id_, before, size + 1)
        if not rows and not request.page_token:
            raise not_found(f"{TEMPLATES}/{id_}")
        more = len(rows) > size
        return pb.ListTemplateVersionsResponse(
            templates=[_to_version(row) for row in rows[:size]],
            next_page_token=wire.versions_token(rows[size - 1].version) if more else "",
        )

    async def PreviewTemplate(
        self, request: pb.PreviewTemplateRequest, _context: _Context
    ) -> pb.PreviewTemplateResponse:
        if request.WhichOneof("source") == "template":
            template = request.template
            violations = await asyncio.to_thread(wire_resources.check_unsaved, template)
        else:
            template = await self._get_template(request.name)
            violations = []
        violations += wire_resources.check_context("context", request.context)
        if violations:
            raise invalid("The template can't be shown.", violations)
        return await asyncio.to_thread(previews.preview, template, request.context or template.sample)

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

    async def _get_template(self, name: str, field: str = "name") -> pb.Template:
        """A template, its newest version or the one that the name has."""
        id_, version = wire_resources.parse_template_name(name, field)
        if not version:
            return _to_template(await self._get(TEMPLATES, id_, field))
        with translate_errors():
            row = await store_resources.find_version(self._pool, id_, version)
        if row is None:
            raise not_found(name)
        return _to_version(row)

    async def _get(self, kind: str, name: str, field: str = "name") -> Resource:
        id_ = wire.require_id(kind, name, field)
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


def _to_version(row: Resource) -> pb.Template:
    template = _to_template(row)
    template.name = f"{row.name}/versions/{row.version}"
    return template


def _to_template(row: Resource) -> pb.Template:
    template = read_template(row)
    template.update_time.CopyFrom(to_timestamp(row.update_us))
    return template
