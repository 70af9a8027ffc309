"""One Cairn of real processes for all tests of the Evaluator; each test has profiles of its own."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import asyncpg
import grpc
import pytest
from house import Cairn

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from cairn.cli.suite import Suite
from cairn.runtime.errors import CairnError, error_from_rpc

# An hour is a second: what shall wait for as long as the tests run waits for days.
SPEED = 3600

JOURNEYS = """
connection: {name: ledger, log: {}}
---
name: cart
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
reentry: {mode: ALWAYS}
stages:
  - name: filled
    entry: event.name == "cart_add"
    steps:
      - {name: pause, wait: {duration: 20d}}
      - activation: {channel: ledger}
---
name: greeting
type: REAL_TIME
reentry: {mode: ALWAYS}
stages:
  - name: signed-up
    entry: event.name == "signup"
    steps:
      - wait: {duration: 1h}
      - {name: hello, activation: {channel: ledger}}
---
name: gold
type: REAL_TIME
goal: {criteria: profile.churned == true}
reentry: {mode: ALWAYS}
stages:
  - name: member
    entry: profile.plan == "gold"
    steps:
      - wait: {duration: 20d}
"""

_numbers = itertools.count(1)


@dataclass
class Door:
    """One Evaluator as its callers see it."""

    cairn: Cairn
    stub: EvaluatorServiceStub

    async def ingest(self, *events: pb.Event) -> pb.IngestEventsResponse:
        request = pb.IngestEventsRequest(events=events, min_revision=self.cairn.revision)
        return await self.stub.IngestEvents(request, timeout=20)

    async def upsert(
        self, profile_id: str, *, mode: str = "UNSPECIFIED", time_zone: str = "", **attributes: Any
    ) -> pb.UpsertProfilesResponse:
        profile = pb.Profile(profile_id=profile_id, time_zone=time_zone)
        profile.attributes.update(attributes)
        request = pb.UpsertProfilesRequest(profiles=[profile], mode=f"UPSERT_MODE_{mode}")
        return await self.stub.UpsertProfiles(request, timeout=20)

    async def profile(self, profile_id: str) -> pb.Profile:
        request = pb.GetProfileRequest(name=f"profiles/{profile_id}")
        return (await self.stub.GetProfile(request, timeout=20)).profile

    async def attributes(self, profile_id: str) -> dict[str, Any]:
        return dict((await self.profile(profile_id)).attributes)

    async def enrollments(self, profile_id: str, **filters: Any) -> list[pb.Enrollment]:
        request = pb.ListEnrollmentsRequest(parent=f"profiles/{profile_id}", **filters)
        return list((await self.stub.ListEnrollments(request, timeout=20)).enrollments)

    async def states(self, profile_id: str) -> dict[str, str]:
        """The journeys in which a profile is or was last, each with where it is."""
        return {
            each.journey_version.split("/")[1]: pb.EnrollmentState.Name(each.state).removeprefix(
                "ENROLLMENT_STATE_"
            )
            for each in await self.enrollments(profile_id)
        }

    async def timeline(self, profile_id: str) -> list[pb.TimelineEntry]:
        request = pb.GetTimelineRequest(profile=f"profiles/{profile_id}", page_size=1000)
        return list((await self.stub.GetTimeline(request, timeout=20)).entries)

    async def kinds(self, profile_id: str, journey: str) -> list[str]:
        """The kinds of a profile's transitions in a journey, oldest first."""
        return [
            pb.TransitionKind.Name(entry.transition.kind).removeprefix("TRANSITION_KIND_")
            for entry in reversed(await self.timeline(profile_id))
            if entry.transition.journey_version.startswith(f"journeys/{journey}/")
        ]

    async def refusal(self, call: Awaitable[Any]) -> CairnError:
        """The error that a call ends with; it fails the test when it succeeds."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        return error_from_rpc(caught.value)


@pytest.fixture(scope="session")
def evaluator_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Suite, int]]:
    """The suite with the journeys of these tests, and the revision that serves them."""
    quick = {
        "evaluator": {"CAIRN_EVALUATOR_DRAIN_SECONDS": "3"},
        "activation": {"CAIRN_SECRET_NOBODYS": "token"},
    }
    with Suite(log_dir=tmp_path_factory.mktemp("logs"), speed=SPEED, environment=quick) as suite:

        async def publish() -> int:
            house = Cairn(suite)
            try:
                return await house.publish(JOURNEYS)
            finally:
                await house.close()

        yield suite, asyncio.run(publish())


@pytest.fixture(scope="session")
def second_evaluator(evaluator_suite: tuple[Suite, int]) -> str:
    """The name of one more replica of the Evaluator."""
    return evaluator_suite[0].add_replica("evaluator")


@pytest.fixture
async def cairn(evaluator_suite: tuple[Suite, int]) -> AsyncIterator[Cairn]:
    suite, revision = evaluator_suite
    house = Cairn(suite, revision=revision)
    yield house
    await house.close()


@pytest.fixture
def door(cairn: Cairn) -> Door:
    return Door(cairn, EvaluatorServiceStub(cairn.channel("evaluator")))


@pytest.fixture
def second_door(cairn: Cairn, second_evaluator: str) -> Door:
    return Door(cairn, EvaluatorServiceStub(cairn.channel(second_evaluator)))


@pytest.fixture
def new_id() -> Callable[[], str]:
    """Makes ids of profiles that no other test uses."""
    return lambda: f"profile-{next(_numbers)}"


@pytest.fixture
def profile_id(new_id: Callable[[], str]) -> str:
    return new_id()


@pytest.fixture
async def database(evaluator_suite: tuple[Suite, int]) -> AsyncIterator[asyncpg.Connection]:
    """A connection of the Evaluator's own role, to look at what is stored."""
    connection = await asyncpg.connect(
        evaluator_suite[0].dsn, server_settings={"search_path": "evaluator", "role": "cairn_evaluator"}
    )
    yield connection
    await connection.close()
