"""Owns the registry of channels: one line for each kind of connection, and those that other packages bring."""

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any

from cairn.activation.channels import (
    absent,
    google_audience,
    linkedin_audience,
    log,
    meta_audience,
    sendgrid,
    ses,
    smtp,
    tiktok_audience,
    webhook,
)
from cairn.activation.channels.base import Channel, ChannelKind, ChannelTools
from cairn.activation.ledger import Guarantee
from cairn.api.activation.v1 import activation_pb2 as pb

ENTRY_POINTS = "cairn.activation.channels"
"""The group of entry points by which another package brings a `ChannelKind`."""

KINDS: Mapping[str, ChannelKind] = MappingProxyType(
    {
        kind.name: kind
        for kind in (
            smtp.KIND,
            ses.KIND,
            sendgrid.KIND,
            meta_audience.KIND,
            google_audience.KIND,
            tiktok_audience.KIND,
            linkedin_audience.KIND,
            webhook.KIND,
            log.KIND,
        )
    }
)
"""The kinds that come with the service, by the field of the contract's `Connection.kind`."""

REPEATABLE_KINDS: tuple[str, ...] = tuple(
    pb.Connection.DESCRIPTOR.fields_by_name[kind.name].json_name
    for kind in KINDS.values()
    if kind.guarantee is Guarantee.AT_LEAST_ONCE
)
"""The kinds, by their JSON names, whose deliveries may be sent again after a crash. Plug-ins are not among them."""

WRITING_KINDS: tuple[str, ...] = tuple(
    pb.Connection.DESCRIPTOR.fields_by_name[kind.name].json_name
    for kind in KINDS.values()
    if kind.writes_to_people
)
"""The kinds, by their JSON names, by which people are written to. Plug-ins are not among them."""


def kind_of(connection: pb.Connection) -> ChannelKind:
    """The kind of a connection that was checked; for a plug-in that is gone since, one whose deliveries wait for it (see `absent`)."""
    name = connection.WhichOneof("kind")
    if name == "plugin":
        try:
            return plugin(connection.plugin.channel)
        except LookupError as error:
            return absent.absent_kind(connection.plugin.channel, str(error))
    assert name is not None, "checked when the connection was put"
    return KINDS[name]


@cache
def plugin(name: str) -> ChannelKind:
    """The kind that another package brings under a name; LookupError when none does, or it can't be loaded."""
    for point in entry_points(group=ENTRY_POINTS, name=name):
        try:
            kind = point.load()
        except Exception as error:
            raise LookupError(f"the channel `{name}` can't be loaded ({type(error).__name__})") from error
        if isinstance(kind, ChannelKind):
            return kind
    raise LookupError(f"no installed package brings the channel `{name}`")


def open_channel(connection: pb.Connection, tools: ChannelTools) -> Channel[Any]:
    """The channel of a connection that was checked when it was put."""
    return kind_of(connection).open(connection, tools)
