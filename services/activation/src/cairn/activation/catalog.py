"""Owns connections and templates in memory: parsed and compiled once for each etag, looked up again after a second.

So a change holds at once for the process that took it, and within a second for the others. A template that is changed back to what it
was is not compiled again, but has a new version.
"""

import copy
import hashlib
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from google.protobuf import json_format

from cairn.activation import store_resources
from cairn.activation.channels import open_channel
from cairn.activation.channels.base import Channel, ChannelTools
from cairn.activation.model import Resource
from cairn.activation.store import Database
from cairn.activation.templates import BrokenTemplate, CompiledTemplate, TemplateError
from cairn.api.activation.v1 import activation_pb2 as pb

CONNECTIONS = "connections"
TEMPLATES = "templates"

_FRESH_SECONDS = 1.0
_MOST_CACHED = 1_000


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
    fresh_until: float = 0.0


class Catalog:
    """What this process knows of connections and templates, and its open channels."""

    def __init__(self, tools: ChannelTools) -> None:
        self._tools = tools
        self._cache: dict[tuple[str, str], _Cached] = {}
        self._channels: dict[str, _Shared] = {}
        self._changes = 0

    @property
    def tools(self) -> ChannelTools:
        """What its channels work with."""
        return self._tools

    async def find(
        self, database: Database, connections: Iterable[str], templates: Iterable[str] = ()
    ) -> Found:
        """Those that exist; one statement, however many are asked for, and none when all were seen a moment ago."""
        names = [(CONNECTIONS, id_) for id_ in connections] + [(TEMPLATES, id_) for id_ in templates]
        now = time.monotonic()
        if not all((cached := self._cache.get(name)) and now < cached.fresh_until for name in names):
            await self._look_up(database, names, now)
        connections_found: dict[str, pb.Connection] = {}
        templates_found: dict[str, CompiledTemplate] = {}
        for name in names:
            cached = self._cache.get(name)
            if cached is None:
                continue
            if isinstance(cached.value, CompiledTemplate):
                templates_found[name[1]] = cached.value
            else:
                connections_found[name[1]] = cached.value
        return Found(connections_found, templates_found)

    def forget(self, kind: str, id_: str) -> None:
        """It was changed: whoever asks next looks it up."""
        self._changes += 1
        if cached := self._cache.get((kind, id_)):
            cached.fresh_until = 0.0

    async def _look_up(self, database: Database, names: Sequence[tuple[str, str]], now: float) -> None:
        if len(self._cache) > _MOST_CACHED:
            self._cache.clear()
        changes = self._changes
        known = {name: cached for name in names if (cached := self._cache.get(name))}
        rows = await store_resources.look_up(database, names, [cached.etag for cached in known.values()])
        present = {(row.kind, row.id): row for row in rows}
        # What changed while we looked may be older than the change.
        fresh_until = now + _FRESH_SECONDS if changes == self._changes else 0.0
        for name in names:
            row = present.get(name)
            if row is None:
                self._cache.pop(name, None)
                continue
            cached = known.get(name)
            if cached is None or cached.etag != row.etag:
                cached = _Cached(row.etag, _load(row))
            elif isinstance(cached.value, CompiledTemplate):
                # It may have been changed, and changed back, since we looked.
                cached.value.version = row.version
            cached.fresh_until = fresh_until
            self._cache[name] = cached

    @asynccontextmanager
    async def channel(self, connection: pb.Connection, id_: str) -> AsyncIterator[Channel[Any]]:
        """The open channel of a connection that `find` returned; an older one is closed when its last user is done."""
        shared, outdated = self._channels.get(id_), None
        if shared is None or shared.etag != connection.etag:
            outdated, shared = shared, _Shared(open_channel(connection, self._tools), connection.etag)
            self._channels[id_] = shared
        # Before anything is waited for: whoever changes the connection meanwhile must not close it under us.
        shared.users += 1
        try:
            if outdated is not None:
                await self._retire(outdated)
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


def _load(row: Resource) -> pb.Connection | CompiledTemplate:
    if row.kind == CONNECTIONS:
        return read_connection(row)
    return compile_template(read_template(row))


def compile_template(template: pb.Template, subject_prefix: str = "") -> CompiledTemplate:
    """A template that was checked, ready to be rendered; of one that only a release before could compile each message fails."""
    try:
        return CompiledTemplate(
            subject_prefix + template.subject, template.text, template.html, template.version
        )
    except TemplateError as error:
        return BrokenTemplate(error, template.version)


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
    template.version = row.version
    return template


def to_resource(message: pb.Connection | pb.Template, kind: str, id_: str, now: int) -> Resource:
    """The row of a message that was checked. Its etag is made from what it says, so the same twice is no change."""
    bare: pb.Connection | pb.Template = copy.deepcopy(message)
    bare.name = f"{kind}/{id_}"
    bare.ClearField("etag")
    bare.ClearField("update_time")
    if isinstance(bare, pb.Template):
        bare.ClearField("version")
    body = json_format.MessageToJson(bare, indent=None, sort_keys=True)
    etag = hashlib.sha256(body.encode()).hexdigest()[:16]
    return Resource(kind, id_, body, etag, now)
