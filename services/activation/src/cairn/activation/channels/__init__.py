"""Owns the registry of channels: one line for each kind of connection, and those that other packages bring."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from cairn.activation.channels import log, meta_audience, smtp
from cairn.activation.channels.base import Channel, ChannelKind, ChannelTools
from cairn.activation.ledger import Guarantee
from cairn.api.activation.v1 import activation_pb2 as pb

ENTRY_POINTS = "cairn.activation.channels"
"""The group of entry points by which another package brings a `ChannelKind`."""

KINDS: Mapping[str, ChannelKind] = MappingProxyType(
    {kind.name: kind for kind in (smtp.KIND, meta_audience.KIND, log.KIND)}
)
"""The kinds that come with the service, by the field of the contract's `Connection.kind`."""

REPEATABLE_KINDS: tuple[str, ...] = tuple(
    pb.Connection.DESCRIPTOR.fields_by_name[kind.name].json_name
    for kind in KINDS.values()
    if kind.guarantee is Guarantee.AT_LEAST_ONCE
)
"""The kinds, by their JSON names, whose deliveries may be sent again after a crash. Plug-ins are not among them."""


def kind_of(connection: pb.Connection) -> ChannelKind:
    """The kind of a connection that was checked; LookupError for a plug-in that is not installed."""
    name = connection.WhichOneof("kind")
    if name == "plugin":
        return plugin(connection.plugin.channel)
    assert name is not None, "checked when the connection was put"
    return KINDS[name]


@cache
def plugin(name: str) -> ChannelKind:
    """The kind that another package brings under a name; LookupError when none does."""
    for point in entry_points(group=ENTRY_POINTS, name=name):
        kind = point.load()
        if isinstance(kind, ChannelKind):
            return kind
    raise LookupError(f"no installed package brings the channel `{name}`")


def open_channel(connection: pb.Connection, tools: ChannelTools) -> Channel[Any]:
    """The channel of a connection that was checked when it was put."""
    return kind_of(connection).open(connection, tools)
