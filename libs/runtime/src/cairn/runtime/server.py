"""Owns the gRPC server: its methods and their roles, its door (TLS, tokens, loopback), health, reflection.

Refuses to start open where others can reach it, with a method that nobody said who may call, or on a port in
use.
"""

import errno
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import structlog
from google.protobuf import descriptor_pool
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from cairn.runtime.auth import (
    ALLOWED,
    ANY_CALLER,
    NO_CALLER,
    Authorizer,
    Role,
    is_loopback,
    parse_tokens,
)
from cairn.runtime.drain import Drain
from cairn.runtime.errors import StartupError
from cairn.runtime.interceptors import LayeredInterceptor, Method, Surroundings
from cairn.runtime.settings import ClientSettings, ServiceSettings, environment_name
from cairn.runtime.watched_file import WatchedFile

_log = structlog.get_logger()

_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"].full_name


@dataclass(frozen=True)
class ServicerBinding:
    """One gRPC service of a process.

    `add` is the generated `add_XServicer_to_server`, `full_name` the service's full name as in its proto,
    `roles` the least role for each of its methods, `quiet_methods` the hot ones, whose calls are logged at
    DEBUG. Servicers' methods are coroutines or asynchronous generators; request streams are read by
    iterating.
    """

    add: Callable[[Any, grpc.aio.Server], None]
    servicer: object
    full_name: str
    roles: Mapping[str, Role]
    quiet_methods: frozenset[str] = field(default_factory=frozenset)


class GrpcServer:
    """A gRPC server that is built but not yet serving. All that can be wrong with its settings is found
    here."""

    def __init__(self, settings: ServiceSettings, bindings: Sequence[ServicerBinding], drain: Drain) -> None:
        self._settings = settings
        self._names = [binding.full_name for binding in bindings]
        self.port = 0
        self._health = health.aio.HealthServicer()
        check_door(settings)
        around = Surroundings(_authorizer(settings), drain, settings.default_deadline_seconds)
        self._server = grpc.aio.server(
            interceptors=(LayeredInterceptor(declared_methods(bindings), around),),
            options=_options(settings),
        )
        for binding in bindings:
            binding.add(binding.servicer, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((*self._names, _HEALTH, _REFLECTION), self._server)

    def bind(self) -> None:
        """Takes the port. StartupError when it is in use or the address is not this machine's."""
        settings = self._settings
        check_port(settings, settings.grpc_host, settings.grpc_port, "grpc_port")
        address = join_address(settings.grpc_host, settings.grpc_port)
        try:
            credentials = _server_credentials(settings)
            if credentials is None:
                self.port = self._server.add_insecure_port(address)
            else:
                self.port = self._server.add_secure_port(address, credentials)
        except RuntimeError:
            raise StartupError(
                f"{address} can't be served; see {environment_name(settings, 'grpc_port')} and the TLS files."
            ) from None

    async def start(self) -> None:
        """Begins to accept calls; health says NOT_SERVING until `set_serving`."""
        await self._set_health(health_pb2.HealthCheckResponse.NOT_SERVING)
        await self._server.start()

    async def set_serving(self) -> None:
        """Health says SERVING, for the whole process ("") and for each service by its full name."""
        await self._set_health(health_pb2.HealthCheckResponse.SERVING)

    async def set_not_serving(self) -> None:
        """Health says NOT_SERVING, for good."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace_s: float) -> None:
        """Accepts nothing more, finishes the calls that were accepted, and cancels what is left after the
        grace."""
        await self._server.stop(grace_s)

    async def _set_health(self, status: Any) -> None:
        for name in ("", *self._names):
            await self._health.set(name, status)


def declared_methods(bindings: Sequence[ServicerBinding]) -> dict[str, Method]:
    """Each method that may be called, by its path. StartupError when one has no role, or a role no method."""
    methods = {}
    for binding in bindings:
        try:
            service = descriptor_pool.Default().FindServiceByName(binding.full_name)
        except KeyError:
            raise StartupError(f"{binding.full_name} is no service of the contract.") from None
        names = {method.name for method in service.methods}
        for wrong in sorted(names - set(binding.roles)):
            raise StartupError(f"{binding.full_name}.{wrong} has no role: nobody said who may call it.")
        for wrong in sorted(set(binding.roles) | set(binding.quiet_methods)):
            if wrong not in names:
                raise StartupError(f"{binding.full_name} has no method {wrong}.")
        for name in names:
            path = f"/{binding.full_name}/{name}"
            methods[path] = Method(path, ALLOWED[binding.roles[name]], name in binding.quiet_methods)
    for name in ("Check", "Watch", "List"):
        path = f"/{_HEALTH}/{name}"
        methods[path] = Method(path, NO_CALLER, quiet=True)
    path = f"/{_REFLECTION}/ServerReflectionInfo"
    methods[path] = Method(path, ANY_CALLER, quiet=True)
    return methods


def check_door(settings: ServiceSettings) -> None:
    """Refuses, by StartupError, a server that others can reach without a token or that hears tokens in the
    clear."""
    if bool(settings.tls_certificate_file) != bool(settings.tls_key_file):
        raise StartupError(
            f"{environment_name(settings, 'tls_certificate_file')} and {environment_name(settings, 'tls_key_file')} "
            "belong together: set both or none."
        )
    if settings.tls_client_ca_file and not settings.tls_certificate_file:
        raise StartupError(
            f"{environment_name(settings, 'tls_client_ca_file')} asks callers for certificates, which needs TLS: "
            f"set {environment_name(settings, 'tls_certificate_file')} too."
        )
    if is_loopback(settings.grpc_host):
        return
    if not settings.tokens_file:
        raise StartupError(
            f"{settings.grpc_host} can be reached by others and nothing says who may call: "
            f"set {environment_name(settings, 'tokens_file')}, or bind {environment_name(settings, 'grpc_host')} "
            "to 127.0.0.1."
        )
    if not settings.tls_certificate_file and not settings.allow_plaintext:
        raise StartupError(
            f"{settings.grpc_host} can be reached by others and tokens would travel in the clear: "
            f"set {environment_name(settings, 'tls_certificate_file')}, or "
            f"{environment_name(settings, 'allow_plaintext')}=true where a mesh encrypts."
        )


def check_port(settings: ServiceSettings, host: str, port: int, setting: str) -> None:
    """Tries the port before gRPC or aiohttp do, whose words for a port in use are their own. StartupError
    says it in ours."""
    name = environment_name(settings, setting)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartupError(
                f"port {port} on {host} is in use ({name}); stop what listens there or choose another."
            ) from None
        why = error.strerror or "unknown"
        raise StartupError(f"port {port} on {host} can't be taken ({name}): {why}.") from None


def join_address(host: str, port: int) -> str:
    """Host and port as one word, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def read_pem(settings: ClientSettings, path: Path, setting: str) -> bytes:
    """A certificate or key file's content, or a StartupError that names the setting."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StartupError(
            f"{environment_name(settings, setting)}: {path} can't be read: {error.strerror}"
        ) from None
    if b"-----BEGIN " not in content:
        raise StartupError(f"{environment_name(settings, setting)}: {path} is no PEM file.")
    return content


def _authorizer(settings: ServiceSettings) -> Authorizer:
    if settings.tokens_file:
        setting = environment_name(settings, "tokens_file")
        return Authorizer(WatchedFile(settings.tokens_file, parse_tokens, setting=setting))
    _log.warning(
        "open_to_this_machine",
        meaning="no tokens: every program on this machine may make every call",
        setting=environment_name(settings, "tokens_file"),
    )
    return Authorizer(None)


def _server_credentials(settings: ServiceSettings) -> grpc.ServerCredentials | None:
    if not settings.tls_certificate_file or not settings.tls_key_file:
        return None
    pair = (
        read_pem(settings, settings.tls_key_file, "tls_key_file"),
        read_pem(settings, settings.tls_certificate_file, "tls_certificate_file"),
    )
    if not settings.tls_client_ca_file:
        return grpc.ssl_server_credentials([pair])
    authorities = read_pem(settings, settings.tls_client_ca_file, "tls_client_ca_file")
    return grpc.ssl_server_credentials([pair], authorities, require_client_auth=True)


def _options(settings: ServiceSettings) -> list[tuple[str, int]]:
    return [
        # Without it two servers share a port in silence, each getting some of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        # A caller that vanished without a word is found within a minute; callers may ask every ten seconds.
        ("grpc.keepalive_time_ms", 40_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
