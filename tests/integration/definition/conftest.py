import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import grpc
import pytest

from cairn.api.activation.v1 import activation_pb2, activation_pb2_grpc
from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.api.definition.v1.journey_pb2 import Journey, Segment
from cairn.definition.__main__ import build
from cairn.definition.settings import DefinitionSettings
from cairn.postgres.database import migrate_service
from cairn.postgres.embedded import EmbeddedPostgres
from cairn.runtime.errors import CairnError, error_from_rpc
from cairn.runtime.service import Service

_database_numbers = itertools.count(1)


@dataclass
class Destinations(activation_pb2_grpc.ActivationServiceServicer):
    """The open contract that Definition asks: what is known here may be named by a journey."""

    connections: set[str] = field(default_factory=lambda: {"connections/email"})
    templates: set[str] = field(default_factory=lambda: {"templates/welcome", "templates/tips"})
    asked: list[activation_pb2.CheckDestinationsRequest] = field(default_factory=list)
    address: str = ""
    meanwhile: Callable[[], Awaitable[Any]] | None = None
    """What else happens while somebody waits for the answer."""

    async def CheckDestinations(self, request, context):  # noqa: N802 - named by the contract
        self.asked.append(request)
        if self.meanwhile is not None:
            await self.meanwhile()
        problems = []
        for index, one in enumerate(request.destinations):
            if one.connection not in self.connections:
                problems.append(("channel", index, f"{one.connection} does not exist"))
            if one.template and one.template not in self.templates:
                problems.append(("template", index, f"{one.template} does not exist"))
        return activation_pb2.CheckDestinationsResponse(
            problems=[
                activation_pb2.DestinationProblem(index=index, field=name, description=text)
                for name, index, text in problems
            ]
        )


def welcome(name: str = "welcome", template: str = "welcome", wait_s: int = 3600) -> Journey:
    """The seed's welcome journey."""
    journey = Journey(name=name, type="JOURNEY_TYPE_REAL_TIME")
    stage = journey.stages.add(name="signed-up", entry='event.name == "newsletter_signup"')
    stage.steps.add().wait.duration.FromSeconds(wait_s)
    activation = stage.steps.add().activation
    activation.channel = "email"
    activation.template = template
    return journey


def jumping(name: str, to: str, stage: str = "", wait_s: int = 0) -> Journey:
    """A journey of one stage, `signed-up`, that jumps to another after a wait."""
    journey = welcome(name)
    del journey.stages[0].steps[:]
    if wait_s:
        journey.stages[0].steps.add().wait.duration.FromSeconds(wait_s)
    journey.stages[0].steps.add(jump={"journey": to, "stage": stage})
    return journey


@dataclass
class Replica:
    """A running Definition service as its clients see it."""

    service: Service
    stub: DefinitionServiceStub
    welcome = staticmethod(welcome)
    jumping = staticmethod(jumping)

    async def create(self, journey: Journey, request_id: str = "") -> Journey:
        answer = await self.stub.CreateJourney(
            pb.CreateJourneyRequest(journey=journey, request_id=request_id)
        )
        return answer.journey

    async def update(self, journey: Journey, **options: Any) -> Journey:
        answer = await self.stub.UpdateJourney(pb.UpdateJourneyRequest(journey=journey, **options))
        return answer.journey

    async def get(self, name: str) -> Journey:
        return (await self.stub.GetJourney(pb.GetJourneyRequest(name=name))).journey

    async def publish(self, *names: str, **options: Any) -> pb.PublishJourneysResponse:
        items = [pb.PublishItem(name=name) for name in names]
        return await self.stub.PublishJourneys(pb.PublishJourneysRequest(items=items, **options))

    async def pause(self, name: str, mode: str = "FREEZE", **options: Any) -> pb.PauseJourneyResponse:
        request = pb.PauseJourneyRequest(name=name, mode=f"PAUSE_MODE_{mode}", **options)
        return await self.stub.PauseJourney(request)

    async def resume(self, name: str, **options: Any) -> pb.ResumeJourneyResponse:
        return await self.stub.ResumeJourney(pb.ResumeJourneyRequest(name=name, **options))

    async def end(self, name: str, **options: Any) -> pb.EndJourneyResponse:
        return await self.stub.EndJourney(pb.EndJourneyRequest(name=name, **options))

    async def put_segment(self, name: str, criteria: str, **options: Any) -> Segment:
        segment = Segment(name=name, criteria=criteria, **options)
        return (await self.stub.PutSegment(pb.PutSegmentRequest(segment=segment))).segment

    async def validate(self, journey: Journey) -> list[pb.Violation]:
        answer = await self.stub.ValidateJourney(pb.ValidateJourneyRequest(journey=journey))
        return list(answer.violations)

    async def changes(self, after_revision: int = 0) -> pb.ListJourneyChangesResponse:
        return await self.stub.ListJourneyChanges(pb.ListJourneyChangesRequest(after_revision=after_revision))

    def watch(self, after_revision: int = 0) -> grpc.aio.UnaryStreamCall:
        return self.stub.WatchJourneys(pb.WatchJourneysRequest(after_revision=after_revision))

    async def refusal(self, call: Awaitable[Any]) -> CairnError:
        """The error that a call ends with; it fails the test when it succeeds."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return error_from_rpc(caught.value)

    async def ending(self, call: grpc.aio.UnaryStreamCall) -> CairnError:
        """The error that a stream ends with, after whatever it may yet say."""
        async with asyncio.timeout(20):
            return await self.refusal(read_to_the_end(call))


StartReplica = Callable[..., Awaitable[Replica]]


async def read_to_the_end(call: grpc.aio.UnaryStreamCall) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


@pytest.fixture(scope="session")
def definition_postgres() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


async def make_database(server: EmbeddedPostgres) -> str:
    name = f"definition_{next(_database_numbers)}"
    admin = await asyncpg.connect(server.dsn)
    try:
        await admin.execute(f"CREATE DATABASE {name}")
    finally:
        await admin.close()
    dsn = urlsplit(server.dsn)._replace(path=f"/{name}").geturl()
    await migrate_service("definition", DefinitionSettings(postgres_dsn=dsn))
    return dsn


@pytest.fixture
def migrated_database() -> Callable[[EmbeddedPostgres], Awaitable[str]]:
    """Makes a migrated database on a server, and tells its address."""
    return make_database


@pytest.fixture
async def definition_dsn(definition_postgres: EmbeddedPostgres) -> str:
    """A migrated database of its own for each test."""
    return await make_database(definition_postgres)


@pytest.fixture
async def destinations() -> AsyncIterator[Destinations]:
    servicer = Destinations()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    activation_pb2_grpc.add_ActivationServiceServicer_to_server(servicer, server)
    servicer.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    yield servicer
    await server.stop(0)


@asynccontextmanager
async def running(dsn: str, activation_address: str, **settings) -> AsyncIterator[Replica]:
    service = Service(
        await build(
            DefinitionSettings(
                postgres_dsn=dsn,
                postgres_role="cairn_definition",
                postgres_pool_size=4,
                grpc_port=0,
                http_port=0,
                activation_address=activation_address,
                **{"heartbeat_seconds": 0.2, "drain_seconds": 5, **settings},
            )
        )
    )
    await service.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{service.grpc_port}") as channel:
            yield Replica(service, DefinitionServiceStub(channel))
    finally:
        await service.stop()


@pytest.fixture
def run_service() -> Callable[..., AbstractAsyncContextManager[Replica]]:
    """A service for the length of a block."""
    return running


@pytest.fixture
async def start_replica(definition_dsn: str, destinations: Destinations) -> AsyncIterator[StartReplica]:
    async with AsyncExitStack() as stack:

        async def start(**settings) -> Replica:
            address = settings.pop("activation_address", destinations.address)
            return await stack.enter_async_context(running(definition_dsn, address, **settings))

        yield start


@pytest.fixture
async def definition(start_replica: StartReplica) -> Replica:
    return await start_replica()


async def _until(condition: Callable[[], Awaitable[bool]], timeout_s: float = 20) -> None:
    async with asyncio.timeout(timeout_s):
        while not await condition():  # noqa: ASYNC110 - the other side is another process
            await asyncio.sleep(0.02)


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Waits until a condition holds, and fails the test if it never does."""
    return _until
