"""A real Postgres, the real Activation (in this process or as one of its own), the stand-ins, and a sink for receipts.

The sink is the tests' own because its contract is open: anybody may serve ReceiptSinkService.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import grpc
import pytest

from cairn.activation.__main__ import build
from cairn.activation.settings import ActivationSettings
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.activation.v1.activation_pb2_grpc import (
    ActivationServiceStub,
    ReceiptSinkServiceServicer,
    add_ReceiptSinkServiceServicer_to_server,
)
from cairn.api.definition.v1 import journey_pb2
from cairn.postgres.embedded import EmbeddedPostgres
from cairn.postgres.migrations import load_migrations, migrate
from cairn.postgres.pool import connect
from cairn.postgres.roles import ensure_database, ensure_roles, role_of
from cairn.runtime.clock import now_us, to_timestamp
from cairn.runtime.lifecycle import Service
from cairn.testing.mail_server import read_index

_numbers = itertools.count(1)

TOKEN = "a-token"
APP_SECRET = "an-app-secret"
FINAL = {
    pb.DELIVERY_STATE_SENT,
    pb.DELIVERY_STATE_REFUSED,
    pb.DELIVERY_STATE_FAILED,
    pb.DELIVERY_STATE_UNKNOWN,
    pb.DELIVERY_STATE_WITHDRAWN,
}


@pytest.fixture(scope="session")
def activation_postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
async def activation_dsn(activation_postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A new database with Activation's schema, dropped afterwards."""
    name = f"activation_{next(_numbers)}"
    server = await connect(activation_postgres.dsn)
    await server.execute(f"CREATE DATABASE {name}")
    await server.close()
    dsn = activation_postgres.dsn.rpartition("/")[0] + f"/{name}"
    admin = await connect(dsn)
    await ensure_roles(admin, ["activation"])
    await ensure_database(admin, 8)
    await admin.close()
    owner = await connect(dsn, role=role_of("activation"), schema="activation")
    await migrate(owner, "activation", load_migrations("cairn.activation"))
    await owner.close()
    yield dsn
    server = await connect(activation_postgres.dsn)
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


@pytest.fixture
async def rows(activation_dsn: str) -> AsyncIterator[Callable[..., Awaitable[list[asyncpg.Record]]]]:
    """Looks into the tables."""
    connection = await connect(activation_dsn, role=role_of("activation"), schema="activation")
    yield connection.fetch
    await connection.close()


@dataclass
class Sink(ReceiptSinkServiceServicer):
    """Writes down the receipts it was sent."""

    receipts: list[pb.Receipt] = field(default_factory=list)
    port: int = 0
    _server: grpc.aio.Server | None = None

    async def DeliverReceipts(  # noqa: N802
        self, request: pb.DeliverReceiptsRequest, context: Any
    ) -> pb.DeliverReceiptsResponse:
        self.receipts += request.receipts
        return pb.DeliverReceiptsResponse()

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_ReceiptSinkServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    @property
    def states(self) -> dict[str, int]:
        return {receipt.activation_id: receipt.state for receipt in self.receipts}


@pytest.fixture
async def receipt_sink() -> AsyncIterator[Sink]:
    sink = Sink()
    await sink.start()
    yield sink
    await sink.stop()


@dataclass
class Replica:
    """A running Activation and the calls to it; `process` is None when it runs in this process."""

    stub: ActivationServiceStub
    channel: grpc.aio.Channel
    process: asyncio.subprocess.Process | None = None
    service: Service | None = None
    log: Path | None = None

    async def activate(self, *activations: pb.Activation) -> pb.ActivateResponse:
        return await self.stub.Activate(pb.ActivateRequest(activations=activations), timeout=30)

    async def withdraw(self, *activations: pb.Activation, reason: str = "goal") -> pb.WithdrawResponse:
        asked = [
            pb.Withdrawal(
                activation_id=a.activation_id,
                profile_id=a.profile_id,
                request_time=a.request_time,
                reason=reason,
            )
            for a in activations
        ]
        return await self.stub.Withdraw(pb.WithdrawRequest(withdrawals=asked), timeout=30)

    async def deliveries(self, **filters: Any) -> dict[str, pb.Delivery]:
        found: dict[str, pb.Delivery] = {}
        token = ""
        while True:
            request = pb.ListDeliveriesRequest(page_size=1000, page_token=token, **filters)
            page = await self.stub.ListDeliveries(request, timeout=30)
            found |= {d.activation_id: d for d in page.deliveries}
            token = page.next_page_token
            if not token:
                return found

    async def settled(self, count: int, seconds: float = 40) -> dict[str, pb.Delivery]:
        """All deliveries, once `count` are final."""
        pause = 0.05
        async with asyncio.timeout(seconds):
            while True:
                found = await self.deliveries()
                if sum(d.state in FINAL for d in found.values()) >= count:
                    return found
                await asyncio.sleep(pause)
                pause = min(pause * 2, 0.5)

    async def put(self, *things: pb.Connection | pb.Template) -> None:
        for thing in things:
            if isinstance(thing, pb.Connection):
                await self.stub.PutConnection(pb.PutConnectionRequest(connection=thing), timeout=30)
            else:
                await self.stub.PutTemplate(pb.PutTemplateRequest(template=thing), timeout=30)

    async def kill(self) -> None:
        assert self.process
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int | None:
        await self.channel.close()
        if self.service is not None:
            await self.service.stop()
            self.service = None
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(30):
                return await self.process.wait()
        return None if self.process is None else self.process.returncode


Starter = Callable[..., Awaitable[Replica]]


def _environment(dsn: str, sink: Sink, settings: dict[str, object]) -> dict[str, str]:
    values = {
        "grpc_port": 0,
        "http_port": 0,
        "postgres_dsn": dsn,
        "postgres_role": role_of("activation"),
        "evaluator_address": f"127.0.0.1:{sink.port}",
        "definition_address": "",
        "log_format": "JSON",
        "retry_base_seconds": 0.2,
        "retry_cap_seconds": 0.5,
        "attempts_budget": 50,
        **settings,
    }
    return {
        **{f"CAIRN_ACTIVATION_{name.upper()}": str(value) for name, value in values.items()},
        "CAIRN_SECRET_META_TOKEN": TOKEN,
        "CAIRN_SECRET_META_APP": APP_SECRET,
    }


def _connected(port: int, **parts: Any) -> Replica:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    return Replica(ActivationServiceStub(channel), channel, **parts)


@pytest.fixture
def patience(request: pytest.FixtureRequest) -> int:
    """For how many seconds an answer over HTTP is waited for: not for long where the other side hangs, else longer than any takes."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    return 1 if parameters.get("mode") == "hang" else 10


@pytest.fixture
async def activation(
    activation_dsn: str, receipt_sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Starter]:
    """Starts an Activation in this process."""
    replicas: list[Replica] = []

    async def start(**settings: object) -> Replica:
        for name, value in _environment(activation_dsn, receipt_sink, settings).items():
            monkeypatch.setenv(name, value)
        service = Service(await build(ActivationSettings()))
        await service.start()
        replica = _connected(service.grpc_port, service=service)
        replicas.append(replica)
        return replica

    yield start
    for replica in replicas:
        await replica.stop()


@pytest.fixture
async def activation_process(
    activation_dsn: str, receipt_sink: Sink, tmp_path: Path
) -> AsyncIterator[Starter]:
    """Starts an Activation as a process of its own, and returns when it serves."""
    replicas: list[Replica] = []

    async def start(**settings: object) -> Replica:
        log = tmp_path / f"activation-{len(replicas)}.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cairn.activation",
                env={**os.environ, **_environment(activation_dsn, receipt_sink, settings)},
                stderr=stderr,
            )
        port = await _serving_port(log, process)
        replica = _connected(port, log=log, process=process)
        replicas.append(replica)
        return replica

    yield start
    for replica in replicas:
        await replica.stop()


def _serving(log: Path) -> int:
    lines = [line for line in log.read_text().splitlines() if '"serving"' in line]
    return json.loads(lines[0])["grpc_port"] if lines else 0


async def _serving_port(log: Path, process: asyncio.subprocess.Process) -> int:
    async with asyncio.timeout(30):
        while not (port := _serving(log)):
            assert process.returncode is None, f"Activation ended, see {log}"
            await asyncio.sleep(0.02)
    return port


@dataclass
class StandIn:
    """A stand-in's process."""

    port: int
    process: asyncio.subprocess.Process

    async def stop(self) -> None:
        if self.process.returncode is None:
            self.process.terminate()
            await self.process.wait()


@dataclass
class MailServer(StandIn):
    mailbox: Path

    def received(self) -> list[dict[str, Any]]:
        return read_index(self.mailbox)

    def activations(self) -> list[str]:
        return [entry["activation"] for entry in self.received()]


@dataclass
class MetaPlatform(StandIn):
    async def state(self) -> dict[str, Any]:
        url = f"http://127.0.0.1:{self.port}/_state"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return await response.json()

    async def misbehave(self, mode: str, count: int) -> None:
        async with aiohttp.ClientSession() as session:
            url = f"http://127.0.0.1:{self.port}/_misbehave"
            async with session.post(url, json={"mode": mode, "count": count}) as response:
                assert response.status == 200


@dataclass
class SnsPlatform(StandIn):
    """Amazon SNS, as far as it signs."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def sign(self, **fields: Any) -> dict[str, Any]:
        url = f"http://{self.host}/_sign"
        async with aiohttp.ClientSession() as session, session.post(url, json=fields) as response:
            return await response.json()

    async def counts(self) -> dict[str, int]:
        url = f"http://{self.host}/_state"
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return (await response.json())["counts"]


async def _stand_in(module: str, *arguments: str) -> tuple[int, asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", f"cairn.testing.{module}", *arguments, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    async with asyncio.timeout(30):
        line = await process.stdout.readline()
    return json.loads(line)["port"], process


@pytest.fixture
async def mail_server(tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[MailServer]]]:
    """Starts a mail server; all of a test share one mailbox."""
    started: list[MailServer] = []

    async def start(*options: str, port: int = 0) -> MailServer:
        mailbox = tmp_path / "mailbox"
        arguments = ("--port", str(port), "--mailbox", str(mailbox), *options)
        server = MailServer(*await _stand_in("mail_server", *arguments), mailbox)
        started.append(server)
        return server

    yield start
    for server in started:
        await server.stop()


@pytest.fixture
async def meta_platform() -> AsyncIterator[MetaPlatform]:
    platform = MetaPlatform(*await _stand_in("meta_platform", "--token", TOKEN, "--app-secret", APP_SECRET))
    yield platform
    await platform.stop()


@pytest.fixture
async def sns_platform() -> AsyncIterator[SnsPlatform]:
    platform = SnsPlatform(*await _stand_in("sns_platform"))
    yield platform
    await platform.stop()


@dataclass
class Make:
    """Makes requests and resources."""

    def mail(
        self, id_: str, profile: str = "", context: dict[str, Any] | None = None, **fields: Any
    ) -> pb.Activation:
        profile = profile or f"profile-of-{id_}"
        made = (
            context
            if context is not None
            else {
                "profile": {"email": f"{profile}@example.com", "name": "Ada"},
                "entry": {},
                "event": {},
            }
        )
        values: dict[str, Any] = {"connection": "connections/email", "template": "templates/hello", **fields}
        return pb.Activation(
            activation_id=id_,
            profile_id=profile,
            request_time=values.pop("request_time", None) or to_timestamp(now_us()),
            journey_version="journeys/welcome/versions/1",
            stage="signed-up",
            step="one/2",
            enrollment=f"enrollment-of-{id_}",
            context=json.dumps(made).encode(),
            **values,
        )

    def log(self, id_: str, profile: str = "", **fields: Any) -> pb.Activation:
        return self.mail(id_, profile, connection="log", template="", **fields)

    def audience(self, id_: str, profile: str, action: str = "ADD", **fields: Any) -> pb.Activation:
        value = journey_pb2.AudienceAction.Value(f"AUDIENCE_ACTION_{action}")
        return self.mail(id_, profile, connection="meta", template="", action=value, **fields)

    def smtp_connection(self, port: int, **fields: Any) -> pb.Connection:
        smtp = pb.SmtpConnection(
            host="127.0.0.1", port=port, from_address="Shop <shop@example.com>", **fields
        )
        return pb.Connection(name="connections/email", smtp=smtp)

    def meta_connection(self, port: int, **fields: Any) -> pb.Connection:
        meta = pb.MetaAudienceConnection(
            audience_id="123",
            access_token_secret="meta-token",
            app_secret_secret="meta-app",
            base_url=f"http://127.0.0.1:{port}/v25.0",
            **fields,
        )
        return pb.Connection(name="connections/meta", meta_audience=meta)

    def log_connection(self) -> pb.Connection:
        return pb.Connection(name="connections/log", log=pb.LogConnection())

    def template(self, name: str = "hello", **parts: str) -> pb.Template:
        texts = {"subject": "Hello {{ profile.name }}", "text": "Dear {{ profile.name }}", **parts}
        return pb.Template(name=f"templates/{name}", **texts)

    def batch(self, kind: Callable[..., pb.Activation], prefix: str, count: int) -> Iterable[pb.Activation]:
        return [kind(f"{prefix}-{number}") for number in range(count)]


@pytest.fixture
def make() -> Make:
    return Make()


@pytest.fixture
def eventually() -> Callable[[Callable[[], Any]], Awaitable[Any]]:
    """Polls until a condition (or a coroutine function's result) holds; what never comes fails the test."""

    async def wait(condition: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(40):
                while True:
                    value = condition()
                    if asyncio.iscoroutine(value):
                        value = await value
                    if value:
                        return value
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError("waited in vain") from None

    return wait
