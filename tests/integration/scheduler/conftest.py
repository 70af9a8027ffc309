"""A real Postgres, the real Scheduler (in this process or as one of its own), and a sink that does as it is told.

The sink is the tests' own because its contract is open: anybody may serve TimerSinkService.
"""

import asyncio
import itertools
import json
import os
import signal
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.api.scheduler.v1.scheduler_pb2_grpc import (
    SchedulerServiceStub,
    TimerSinkServiceServicer,
    add_TimerSinkServiceServicer_to_server,
)
from cairn.postgres.embedded import EmbeddedPostgres
from cairn.postgres.migrations import load_migrations, migrate
from cairn.postgres.pool import connect
from cairn.postgres.roles import ensure_database, ensure_roles, role_of
from cairn.runtime.clock import now_us, to_timestamp
from cairn.runtime.lifecycle import Service
from cairn.scheduler.__main__ import build
from cairn.scheduler.settings import SchedulerSettings

_numbers = itertools.count(1)

SECOND = 1_000_000


@pytest.fixture(scope="session")
def scheduler_postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
async def scheduler_dsn(scheduler_postgres: EmbeddedPostgres) -> AsyncIterator[str]:
    """A new database with the Scheduler's schema, dropped afterwards."""
    name = f"scheduler_{next(_numbers)}"
    server = await connect(scheduler_postgres.dsn)
    await server.execute(f"CREATE DATABASE {name}")
    dsn = scheduler_postgres.dsn.rpartition("/")[0] + f"/{name}"
    admin = await connect(dsn)
    await ensure_roles(admin, ["scheduler"])
    await ensure_database(admin, 8)
    await admin.close()
    owner = await connect(dsn, role=role_of("scheduler"), schema="scheduler")
    await migrate(owner, "scheduler", load_migrations("cairn.scheduler"))
    await owner.close()
    yield dsn
    if server.is_closed():
        server = await connect(scheduler_postgres.dsn)
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


@dataclass
class Sink(TimerSinkServiceServicer):
    """Writes down what it was sent, and answers what `answer` says of each timer: ACCEPTED unless told otherwise."""

    answer: Callable[[pb.Timer], int] = lambda timer: pb.TIMER_ANSWER_ACCEPTED
    hang_on: Callable[[pb.Timer], bool] = lambda timer: False
    fail_on: Callable[[pb.Timer], bool] = lambda timer: False
    hold: asyncio.Event | None = None
    received: list[tuple[pb.Timer, int]] = field(default_factory=list)
    accepted: list[pb.Timer] = field(default_factory=list)
    batches: list[list[str]] = field(default_factory=list)
    schedule_answer: Callable[[pb.FireScheduleRequest], int] = lambda firing: pb.TIMER_ANSWER_ACCEPTED
    schedule_hold: Callable[[pb.FireScheduleRequest], bool] = lambda firing: False
    schedule_gate: asyncio.Event | None = None
    firings: list[pb.FireScheduleRequest] = field(default_factory=list)
    fired: list[pb.FireScheduleRequest] = field(default_factory=list)
    port: int = 0
    _server: grpc.aio.Server | None = None

    async def FireTimers(  # noqa: N802 - the contract names it
        self, request: pb.FireTimersRequest, context: grpc.aio.ServicerContext
    ) -> pb.FireTimersResponse:
        arrived_us = now_us()
        self.received += [(timer, arrived_us) for timer in request.timers]
        self.batches.append([timer.timer_id for timer in request.timers])
        if any(map(self.hang_on, request.timers)):
            await asyncio.Event().wait()
        if self.hold is not None:
            await self.hold.wait()
        if any(map(self.fail_on, request.timers)):
            raise RuntimeError("told to fail")
        answers = [self.answer(timer) for timer in request.timers]
        done = (pb.TIMER_ANSWER_ACCEPTED, pb.TIMER_ANSWER_STALE)
        self.accepted += [timer for timer, said in zip(request.timers, answers, strict=True) if said in done]
        return pb.FireTimersResponse(answers=answers)

    async def FireSchedule(  # noqa: N802 - the contract names it
        self, request: pb.FireScheduleRequest, context: grpc.aio.ServicerContext
    ) -> pb.FireScheduleResponse:
        self.firings.append(request)
        if self.schedule_hold(request):
            await asyncio.Event().wait()
        if self.schedule_gate is not None:
            await self.schedule_gate.wait()
        answer = self.schedule_answer(request)
        if answer == pb.TIMER_ANSWER_UNSPECIFIED:
            raise RuntimeError("told to fail")
        if answer != pb.TIMER_ANSWER_RETRY:
            self.fired.append(request)
        return pb.FireScheduleResponse(answer=answer)

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_TimerSinkServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(0)
            self._server = None

    @property
    def accepted_ids(self) -> list[str]:
        return [timer.timer_id for timer in self.accepted]

    def early(self) -> list[str]:
        """Those that came before they were due. Postgres' clock is this machine's own, as it runs here."""
        return [timer.timer_id for timer, at in self.received if at < timer.due_time.ToMicroseconds()]

    def by_key(self) -> dict[str, list[int]]:
        """The due times of each key's timers, in the order in which they were accepted."""
        keys: dict[str, list[int]] = defaultdict(list)
        for timer in self.accepted:
            keys[timer.key].append(timer.due_time.ToMicroseconds())
        return keys


@pytest.fixture
async def sink() -> AsyncIterator[Sink]:
    sink = Sink()
    await sink.start()
    yield sink
    await sink.stop()


@dataclass
class Replica:
    """A running Scheduler and the calls to it; `process` is None when it runs in this process."""

    stub: SchedulerServiceStub
    channel: grpc.aio.Channel
    log: Path | None = None
    process: asyncio.subprocess.Process | None = None
    service: Service | None = None

    async def schedule(self, timers: Iterable[pb.Timer]) -> pb.ScheduleTimersResponse:
        return await self.stub.ScheduleTimers(pb.ScheduleTimersRequest(timers=timers), timeout=30)

    async def cancel(self, *names: tuple[str, str]) -> int:
        keys = [pb.TimerKey(timer_id=timer_id, key=key) for timer_id, key in names]
        return (await self.stub.CancelTimers(pb.CancelTimersRequest(timers=keys), timeout=30)).canceled

    async def pages(self, **filters: object) -> list[list[pb.ListedTimer]]:
        pages = []
        token = ""
        while True:
            page = await self.stub.ListTimers(pb.ListTimersRequest(page_token=token, **filters), timeout=30)
            pages.append(list(page.timers))
            token = page.next_page_token
            if not token:
                return pages

    async def kill(self) -> None:
        assert self.process
        self.process.kill()
        await self.process.wait()

    async def stop(self) -> int | None:
        """Ask it to stop, as an orchestrator does; its exit code when it is a process."""
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
        "postgres_role": role_of("scheduler"),
        "evaluator_address": f"127.0.0.1:{sink.port}",
        "log_format": "JSON",
        **settings,
    }
    return {f"CAIRN_SCHEDULER_{name.upper()}": str(value) for name, value in values.items()}


def _connected(port: int, **parts: object) -> Replica:
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}")
    return Replica(SchedulerServiceStub(channel), channel, **parts)


@pytest.fixture
async def scheduler(
    scheduler_dsn: str, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Starter]:
    """Starts a Scheduler in this process."""
    replicas: list[Replica] = []

    async def start(**settings: object) -> Replica:
        with monkeypatch.context() as patch:
            for name, value in _environment(scheduler_dsn, sink, settings).items():
                patch.setenv(name, value)
            service = Service(await build(SchedulerSettings()))
        await service.start()
        replica = _connected(service.grpc_port, service=service)
        replicas.append(replica)
        return replica

    yield start
    for replica in replicas:
        await replica.stop()


@pytest.fixture
async def scheduler_process(scheduler_dsn: str, sink: Sink, tmp_path: Path) -> AsyncIterator[Starter]:
    """Starts a Scheduler as a process of its own, and returns when it serves."""
    replicas: list[Replica] = []

    async def start(**settings: object) -> Replica:
        log = tmp_path / f"scheduler-{len(replicas)}.log"
        with log.open("wb") as stderr:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "cairn.scheduler",
                env={**os.environ, **_environment(scheduler_dsn, sink, settings)},
                stderr=stderr,
            )
        serving = await _first_line(log, "serving", process)
        replica = _connected(serving["grpc_port"], log=log, process=process)
        replicas.append(replica)
        return replica

    yield start
    for replica in replicas:
        await replica.stop()


async def _first_line(log: Path, event: str, process: asyncio.subprocess.Process) -> dict[str, int]:
    async with asyncio.timeout(30):
        while process.returncode is None:
            for line in _log_lines(log):
                if line.get("event") == event:
                    return line
            await asyncio.sleep(0.02)
    raise AssertionError(f"the Scheduler ended: {_log_lines(log)}")


def _log_lines(log: Path) -> list[dict[str, int]]:
    """The complete lines of a log that is being written."""
    return [json.loads(line) for line in log.read_text().splitlines(keepends=True) if line.endswith("\n")]


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Poll until a condition holds; what never comes fails the test after 40 seconds."""

    async def wait(condition: Callable[[], bool]) -> None:
        try:
            async with asyncio.timeout(40):
                while not condition():  # noqa: ASYNC110 - what we wait for may be in another process
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError("waited in vain") from None

    return wait


@pytest.fixture
def owned_shards(scheduler_dsn: str) -> Callable[[list[int]], Awaitable[None]]:
    """Wait until so many shards are held by each replica, as the locks in Postgres show."""

    async def wait(expected: list[int]) -> None:
        database = await connect(scheduler_dsn)
        held: list[int] = []
        async with asyncio.timeout(30):
            while held != expected:
                await asyncio.sleep(0.05)
                rows = await database.fetch(
                    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND mode = 'ExclusiveLock'"
                    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) GROUP BY pid"
                )
                held = sorted(row[0] for row in rows)
        await database.close()

    return wait


@pytest.fixture
def timer() -> Callable[..., pb.Timer]:
    """A timer due `in_us` microseconds from now, or at `due_us`."""

    def make(timer_id: str, key: str | None = None, *, in_us: int = 0, due_us: int | None = None) -> pb.Timer:
        due = now_us() + in_us if due_us is None else due_us
        return pb.Timer(
            timer_id=timer_id, key=key or timer_id, due_time=to_timestamp(due), payload=timer_id.encode()
        )

    return make
