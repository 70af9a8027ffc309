"""Owns running all of Cairn on one machine: four service processes, and a Postgres unless one is given.

Used by `cairn up`, the demo and tests. Prints nothing, and restarts nothing by itself.
"""

import asyncio
import http.client
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cairn.cli.migrate import SERVICES, prepare_database
from cairn.cli.processes import Child, free_ports, is_free
from cairn.postgres.embedded import EmbeddedPostgres
from cairn.postgres.roles import role_of
from cairn.runtime.errors import StartupError

HOST = "127.0.0.1"
DEFAULT_PORT_BASE = 7401
HTTP_PORT_OFFSET = 2000
PUBLIC_PORT_OFFSET = 1000
PUBLIC_SERVICE = "activation"
"""The service that the world reaches: people unsubscribe there, and providers tell it what became of mails."""
READY_SECONDS = 60.0
STOP_SECONDS = 30.0  # more than a service's own drain

_PEERS: Mapping[str, tuple[str, ...]] = {
    "definition": ("activation",),
    "evaluator": ("definition", "scheduler", "activation"),
    "scheduler": ("evaluator",),
    "activation": ("evaluator", "definition"),
}
_POLL_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Instance:
    """One service process: which service, where it listens, and the process. `public_port` is 0 where there is none."""

    service: str
    grpc_port: int
    http_port: int
    public_port: int
    child: Child

    @property
    def address(self) -> str:
        """Where its gRPC calls go: "127.0.0.1:7402"."""
        return f"{HOST}:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        """Where `/metrics` and `/healthz` are."""
        return f"http://{HOST}:{self.http_port}"

    @property
    def public_url(self) -> str:
        """Where people unsubscribe; empty where nobody does."""
        return f"http://{HOST}:{self.public_port}" if self.public_port else ""


@dataclass(frozen=True, slots=True)
class _Ports:
    """Where one process listens; `public` is 0 for those that have no such port."""

    grpc: int
    http: int
    public: int = 0

    def all(self) -> tuple[int, ...]:
        return tuple(filter(None, (self.grpc, self.http, self.public)))


class Suite:
    """The four services, each under its own name ("evaluator"), and the Postgres they share.

    `dsn` is a Postgres of the caller's; without it an embedded one keeps its data in `data`, or in a temporary
    folder that is removed at the end. `port_base` is the first of the gRPC ports (HTTP 2000 above, Activation's public one
    1000 above its own); 0 takes free ones.
    `speed` is the Evaluator's divisor of waits, for demonstrations and tests. `environment` adds variables for
    each service. The `CAIRN_*` variables of this process reach the services only when `inherit_settings` says so.

    Start and kill from the main thread; the rest may be called from any. Everything ends with this process.
    """

    def __init__(
        self,
        *,
        log_dir: Path,
        dsn: str = "",
        data: Path | None = None,
        port_base: int = 0,
        speed: int = 1,
        environment: Mapping[str, Mapping[str, str]] | None = None,
        inherit_settings: bool = False,
    ) -> None:
        self.log_dir = log_dir
        self.postgres = None if dsn else EmbeddedPostgres(data)
        self.instances: dict[str, Instance] = {}
        self._dsn = dsn
        self._temporary = data is None
        self._speed = speed
        self._environment = environment or {}
        self._inherit_settings = inherit_settings
        self._ports: dict[str, _Ports] = {}
        for index, service in enumerate(SERVICES):
            self._ports[service] = (
                _ports_from(service, port_base + index) if port_base else self._free_ports(service)
            )

    @property
    def dsn(self) -> str:
        """The address of the Postgres in use, password included: never log it."""
        return self.postgres.dsn if self.postgres else self._dsn

    def address(self, name: str) -> str:
        """Where the gRPC calls of a service go: "127.0.0.1:7402"."""
        return f"{HOST}:{self._ports[name].grpc}"

    @property
    def public_url(self) -> str:
        """Where the mails' unsubscribe addresses lead, unless the environment names another place."""
        return f"http://{HOST}:{self._ports[PUBLIC_SERVICE].public}"

    def start(self) -> None:
        """Start Postgres, migrate, start the services, return when all are ready.

        Raises StartupError with one line; what was started by then is stopped again.
        """
        for ports in self._ports.values():
            for port in ports.all():
                # A service would say so itself, but whoever has the port might pass for it meanwhile.
                if not is_free(port):
                    raise StartupError(
                        f"Port {port} on {HOST} is in use: is the suite running already? "
                        "Stop what listens there, or choose other ports (--port-base, --free-ports)."
                    )
        try:
            if self.postgres:
                self.postgres.start()
            asyncio.run(prepare_database(self.dsn))
            for service in SERVICES:
                self.launch(service)
            for service in SERVICES:
                self.wait_ready(service)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Let every service drain and end, then stop Postgres. Harmless when nothing runs."""
        for instance in self.instances.values():
            instance.child.send(signal.SIGTERM)
        for instance in self.instances.values():
            # A second SIGTERM would end it at once, in the middle of its drain.
            if instance.child.wait(STOP_SECONDS) is None:
                instance.child.kill()
        if self.postgres:
            if self._temporary:
                self.postgres.remove()
            else:
                self.postgres.stop()

    def launch(self, name: str) -> Instance:
        """Start one service without waiting for it; does nothing when it runs."""
        if name not in self.instances:
            self.instances[name] = self._instance(name, name)
        self.instances[name].child.start()
        return self.instances[name]

    def add_replica(self, service: str) -> str:
        """Start one more process of a service on free ports; return its name ("evaluator-2"), for all other calls."""
        number = 1 + sum(each.service == service for each in self.instances.values())
        name = f"{service}-{number}"
        self._ports[name] = self._free_ports(service)
        self.instances[name] = self._instance(service, name)
        self.start_service(name)
        return name

    def start_service(self, name: str) -> None:
        """Start one service and return when it is ready."""
        self.launch(name)
        self.wait_ready(name)

    def stop_service(self, name: str) -> int | None:
        """SIGTERM: let it drain and end. Returns its exit code, None when it did not run."""
        return self.instances[name].child.stop(STOP_SECONDS)

    def kill_service(self, name: str) -> None:
        """SIGKILL: it ends at whatever instruction it is."""
        self.instances[name].child.kill()

    def restart_service(self, name: str) -> None:
        """Stop it cleanly and start it again, on the same ports."""
        self.stop_service(name)
        self.start_service(name)

    def ready(self, name: str) -> bool:
        """Whether a service says that it serves."""
        connection = http.client.HTTPConnection(HOST, self._ports[name].http, timeout=2)
        try:
            connection.request("GET", "/healthz")
            return connection.getresponse().status == http.HTTPStatus.OK
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def wait_ready(self, name: str, timeout_s: float = READY_SECONDS) -> None:
        """Return when a service is ready; StartupError with its last words when it ends before, or takes too long."""
        child = self.instances[name].child
        deadline = time.monotonic() + timeout_s
        while child.alive:
            if self.ready(name):
                return
            if time.monotonic() > deadline:
                raise StartupError(f"{name} was not ready after {timeout_s:.0f} s: see {child.log}.")
            time.sleep(_POLL_SECONDS)
        raise StartupError(f"{name} did not start: {child.obituary()}")

    def casualties(self) -> list[str]:
        """One line for each part that ended without being stopped through this object."""
        lines = [
            f"{name} ended by itself: {instance.child.obituary()}"
            for name, instance in self.instances.items()
            if instance.child.exit_code is not None
        ]
        if self.postgres and not self.postgres.running:
            lines.insert(0, f"Postgres ended by itself: see {self.postgres.data / 'postgres.log'}")
        return lines

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _free_ports(self, service: str) -> _Ports:
        """Ports that nobody has, nor any other part of this suite is going to have."""
        promised = {port for ports in self._ports.values() for port in ports.all()}
        return _Ports(*free_ports(3 if service == PUBLIC_SERVICE else 2, without=promised))

    def _instance(self, service: str, name: str) -> Instance:
        prefix = f"CAIRN_{service.upper()}_"
        ports = self._ports[name]
        own = {
            "GRPC_PORT": str(ports.grpc),
            "HTTP_PORT": str(ports.http),
            "POSTGRES_DSN": self.dsn,
            "POSTGRES_ROLE": role_of(service),
        }
        own |= {f"{peer.upper()}_ADDRESS": self.address(peer) for peer in _PEERS[service]}
        if service == "evaluator":
            own["SPEED"] = str(self._speed)
        inherited = {
            key: value
            for key, value in os.environ.items()
            if self._inherit_settings or not key.startswith("CAIRN_")
        }
        if ports.public:
            own["PUBLIC_PORT"] = str(ports.public)
            # Of all replicas the same: any of them takes back what any of them gave out.
            own["PUBLIC_BASE_URL"] = inherited.get(f"{prefix}PUBLIC_BASE_URL", self.public_url)
        environment = inherited | {prefix + key: value for key, value in own.items()}
        environment |= {"CAIRN_DIE_WITH_PARENT": "1", **self._environment.get(service, {})}
        command = (sys.executable, "-m", f"cairn.{service}", "serve")
        return Instance(
            service,
            ports.grpc,
            ports.http,
            ports.public,
            Child(name, command, environment, self.log_dir / f"{name}.log"),
        )


def _ports_from(service: str, port: int) -> _Ports:
    """The ports of a service whose gRPC port is given."""
    public = port + PUBLIC_PORT_OFFSET if service == PUBLIC_SERVICE else 0
    return _Ports(port, port + HTTP_PORT_OFFSET, public)
