"""Owns channels to Cairn's services: TLS, the token, the correlation id, a deadline on every unary call.

Refuses to wait for ever, and to send a token in the clear to another machine.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import grpc

from cairn.runtime.auth import is_loopback, parse_token
from cairn.runtime.correlation import METADATA_KEY, correlation_id
from cairn.runtime.errors import StartupError
from cairn.runtime.server import read_pem
from cairn.runtime.settings import ClientSettings, environment_name
from cairn.runtime.watched_file import WatchedFile

_Metadata = Iterable[tuple[str, str | bytes]]


def open_channel(address: str, settings: ClientSettings) -> grpc.aio.Channel:
    """A channel to "host:port", for any generated stub. It connects when first used, and again when it must.

    Adds the bearer token of `peer_token_file` and the correlation id of the running call to each call, and
    gives a unary call without a timeout `default_deadline_seconds`. Streams have the deadline that they ask
    for. StartupError for an address that is none, and for wrong files.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit():
        raise StartupError(f'"{address}" is no address; write host:port, as 127.0.0.1:7402.')
    token = None
    if settings.peer_token_file:
        setting = environment_name(settings, "peer_token_file")
        token = WatchedFile(settings.peer_token_file, parse_token, setting=setting)
    if settings.peer_ca_file:
        channel = grpc.aio.secure_channel(address, _credentials(settings), _options(settings))
    elif token and not is_loopback(host) and not settings.allow_plaintext:
        raise StartupError(
            f"the token would travel to {address} in the clear: set {environment_name(settings, 'peer_ca_file')}, or "
            f"{environment_name(settings, 'allow_plaintext')}=true where a mesh encrypts."
        )
    else:
        channel = grpc.aio.insecure_channel(address, _options(settings))
    return _CairnChannel(channel, token, settings.default_deadline_seconds)


class Channels:
    """A component: the channels to other services, closed after all that use them have stopped."""

    name = "channels"

    def __init__(self, channels: Sequence[grpc.aio.Channel]) -> None:
        self._channels = channels

    async def start(self) -> None:
        """They connect when they are first used."""

    async def drain(self) -> None:
        """What uses them finishes its own work."""

    async def stop(self) -> None:
        await asyncio.gather(*(channel.close() for channel in self._channels))


class _CairnChannel(grpc.aio.Channel):
    """Adds metadata and deadlines by wrapping the multicallables: an interceptor would cost a task for each
    call."""

    def __init__(
        self, channel: grpc.aio.Channel, token: WatchedFile[str] | None, deadline_seconds: float
    ) -> None:
        self._channel = channel
        self._token = token
        self._deadline_seconds = deadline_seconds

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_metadata(self._channel.unary_unary(*args, **kwargs), self._deadline_seconds)

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_metadata(self._channel.unary_stream(*args, **kwargs), None)

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_metadata(self._channel.stream_unary(*args, **kwargs), None)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_metadata(self._channel.stream_stream(*args, **kwargs), None)

    def _with_metadata(self, multicallable: Any, deadline_seconds: float | None) -> Callable[..., Any]:
        def call(
            *args: Any, timeout: float | None = None, metadata: _Metadata | None = None, **kwargs: Any
        ) -> Any:
            sent = list(metadata or ())
            if self._token is not None:
                sent.append(("authorization", f"Bearer {self._token.get()}"))
            call_id = correlation_id.get()
            if call_id and all(key != METADATA_KEY for key, _ in sent):
                sent.append((METADATA_KEY, call_id))
            return multicallable(
                *args, timeout=deadline_seconds if timeout is None else timeout, metadata=sent, **kwargs
            )

        return call

    async def close(self, grace: float | None = None) -> None:
        await self._channel.close(grace)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def __aenter__(self) -> Self:
        await self._channel.__aenter__()
        return self

    async def __aexit__(self, *exc: Any) -> bool | None:
        return await self._channel.__aexit__(*exc)


def _credentials(settings: ClientSettings) -> grpc.ChannelCredentials:
    assert settings.peer_ca_file
    authorities = read_pem(settings, settings.peer_ca_file, "peer_ca_file")
    if not settings.tls_certificate_file or not settings.tls_key_file:
        return grpc.ssl_channel_credentials(authorities)
    return grpc.ssl_channel_credentials(
        authorities,
        read_pem(settings, settings.tls_key_file, "tls_key_file"),
        read_pem(settings, settings.tls_certificate_file, "tls_certificate_file"),
    )


def _options(settings: ClientSettings) -> list[tuple[str, int | str]]:
    return [
        # A name that stands for several replicas (a headless service) is spread over all of them.
        ("grpc.lb_policy_name", "round_robin"),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # A peer that vanished without a word is given up within a minute, also under a stream that is silent.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.max_pings_without_data", 0),
        # A service that was restarted is found again within seconds, not after gRPC's default of two minutes.
        ("grpc.initial_reconnect_backoff_ms", 200),
        # Despite its name: how long one attempt to connect may take, TLS included.
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 3_000),
    ]
