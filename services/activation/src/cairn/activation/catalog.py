"""Owns connections and templates in memory: looked up afresh for each batch, parsed and compiled once for each etag."""

import copy
import hashlib
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format

from cairn.activation import store_resources
from cairn.activation.channels import open_channel
from cairn.activation.channels.base import Channel
from cairn.activation.model import Resource
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.activation.store import Database
from cairn.activation.templates import CompiledTemplate
from cairn.api.activation.v1 import activation_pb2 as pb

CONNECTIONS = "connections"
TEMPLATES = "templates"


@dataclass(frozen=True, slots=True)
class Found:
    """The connections and templates that exist, by id."""

    connections: Mapping[str, pb.Connection]
    templates: Mapping[str, CompiledTemplate]


@dataclass(slots=True)
class _Shared:
    channel: Channel[Any]
    etag: str
    users: int = 0
    retired: bool = False


@dataclass(slots=True)
class _Cached:
    etag: str
    value: pb.Connection | CompiledTemplate = field(repr=False)


class Catalog:
    """What this process knows of connections and templates, and its open channels."""

    def __init__(self, secrets: Secrets, settings: ActivationSettings) -> None:
        self._secrets = secrets
        self._settings = settings
        self._cache: dict[tuple[str, str], _Cached] = {}
        self._channels: dict[str, _Shared] = {}

    async def find(
        self, database: Database, connections: Iterable[str], templates: Iterable[str] = ()
    ) -> Found:
        """Those that exist at this moment; one statement, however many are asked for."""
        names = [(CONNECTIONS, id_) for id_ in connections] + [(TEMPLATES, id_) for id_ in templates]
        known = [cached.etag for name in names if (cached := self._cache.get(name))]
        rows = await store_resources.look_up(database, names, known)
        present = {(row.kind, row.id): row for row in rows}
        connections_found: dict[str, pb.Connection] = {}
        templates_found: dict[str, CompiledTemplate] = {}
        for name in names:
            row = present.get(name)
            if row is None:
                self._cache.pop(name, None)
                continue
            value = self._load(row)
            if isinstance(value, CompiledTemplate):
                templates_found[row.id] = value
            else:
                connections_found[row.id] = value
        return Found(connections_found, templates_found)

    @asynccontextmanager
    async def channel(self, connection: pb.Connection, id_: str) -> AsyncIterator[Channel[Any]]:
        """The open channel of a connection that `find` returned; an older one is closed when its last user is done."""
        shared = self._channels.get(id_)
        if shared is None or shared.etag != connection.etag:
            fresh = _Shared(open_channel(connection, self._secrets, self._settings), connection.etag)
            self._channels[id_] = fresh
            if shared is not None:
                await self._retire(shared)
            shared = fresh
        shared.users += 1
        try:
            yield shared.channel
        finally:
            shared.users -= 1
            if shared.retired and not shared.users:
                await shared.channel.close()

    async def close(self) -> None:
        """Closes every channel."""
        channels, self._channels = self._channels, {}
        for shared in channels.values():
            await shared.channel.close()

    async def _retire(self, shared: _Shared) -> None:
        shared.retired = True
        if not shared.users:
            await shared.channel.close()

    def _load(self, row: Resource) -> pb.Connection | CompiledTemplate:
        name = (row.kind, row.id)
        cached = self._cache.get(name)
        if cached is None or cached.etag != row.etag:
            value: pb.Connection | CompiledTemplate
            if row.kind == CONNECTIONS:
                value = read_connection(row)
            else:
                template = read_template(row)
                value = CompiledTemplate(template.subject, template.text, template.html)
            cached = self._cache[name] = _Cached(row.etag, value)
        return cached.value


def read_connection(row: Resource) -> pb.Connection:
    """The connection of a row that has its body."""
    connection = json_format.Parse(row.body, pb.Connection(), ignore_unknown_fields=True)
    connection.name = row.name
    connection.etag = row.etag
    return connection


def read_template(row: Resource) -> pb.Template:
    """The template of a row that has its body."""
    template = json_format.Parse(row.body, pb.Template(), ignore_unknown_fields=True)
    template.name = row.name
    template.etag = row.etag
    return template


def to_resource(message: pb.Connection | pb.Template, kind: str, id_: str, now: int) -> Resource:
    """The row of a message that was checked. Its etag is made from what it says, so the same twice is no change."""
    bare: pb.Connection | pb.Template = copy.deepcopy(message)
    bare.name = f"{kind}/{id_}"
    bare.ClearField("etag")
    bare.ClearField("update_time")
    body = json_format.MessageToJson(bare, indent=None, sort_keys=True)
    etag = hashlib.sha256(body.encode()).hexdigest()[:16]
    return Resource(kind, id_, body, etag, now)
