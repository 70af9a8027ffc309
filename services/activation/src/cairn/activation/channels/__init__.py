"""Owns the registry of channels: one line for each kind of connection."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from cairn.activation.channels.base import Channel
from cairn.activation.channels.log import LogChannel
from cairn.activation.channels.meta_audience import MetaAudienceChannel
from cairn.activation.channels.smtp import SmtpChannel
from cairn.activation.ledger import Guarantee
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.api.activation.v1 import activation_pb2 as pb

_Open = Callable[[pb.Connection, Secrets, ActivationSettings], Channel[Any]]

_KINDS: Mapping[str, _Open] = MappingProxyType(
    {
        "smtp": lambda c, secrets, s: SmtpChannel(c.smtp, secrets, s.smtp_timeout_seconds),
        "meta_audience": lambda c, secrets, s: MetaAudienceChannel(
            c.meta_audience, secrets, s.http_timeout_seconds
        ),
        "log": lambda c, secrets, s: LogChannel(),
    }
)

REPEATABLE_KINDS: tuple[str, ...] = tuple(
    kind
    for kind, channel in (("smtp", SmtpChannel), ("metaAudience", MetaAudienceChannel), ("log", LogChannel))
    if channel.guarantee is Guarantee.AT_LEAST_ONCE
)
"""The kinds, by their JSON names, whose deliveries may be sent again after a crash."""

STAYS = frozenset({"log"})
"""The kinds through which nothing leaves the house: a delivery is SENT (`log.LOGGED`) by being accepted."""

NEEDS_TEMPLATE = frozenset({"smtp"})
"""The kinds that can't do without a template."""

NEEDS_ACTION = frozenset({"meta_audience"})
"""The kinds that add somebody or remove somebody."""


def open_channel(connection: pb.Connection, secrets: Secrets, settings: ActivationSettings) -> Channel[Any]:
    """The channel of a connection that was checked when it was put."""
    kind = connection.WhichOneof("kind")
    assert kind is not None, "checked when the connection was put"
    return _KINDS[kind](connection, secrets, settings)
