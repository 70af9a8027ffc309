"""One Cairn of real processes for profiles in bulk. None of its journeys begins by a change of a profile: nothing need look at most of them."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import pytest
from house import Cairn

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from cairn.cli.suite import Suite

JOURNEY = """
connection: {name: ledger, log: {}}
---
name: upgrade
type: REAL_TIME
stages:
  - name: asked
    entry: event.name == "asked"
    steps:
      - wait:
          condition: profile.plan == "gold"
          timeout: 20d
          met: [{name: thanks, activation: {channel: ledger}}]
      - wait: {duration: 20d}
"""


@dataclass
class Bulk:
    """The Evaluator, as whoever brings many profiles sees it."""

    cairn: Cairn
    stub: EvaluatorServiceStub

    async def take(
        self, *messages: list[tuple[str, Any]], mode: str = "MERGE", zones: list[str] | None = None
    ) -> pb.ImportProfilesResponse:
        """Imports messages of (id, attributes) in one call; attributes that are a text go as they are."""
        requests = [
            pb.ImportProfilesRequest(
                profiles=pb.ProfileRows(
                    profile_ids=[profile_id for profile_id, _ in message],
                    attributes=[
                        each if isinstance(each, str) else msgspec.json.encode(each).decode()
                        for _, each in message
                    ],
                    time_zones=zones,
                ),
                mode=f"UPSERT_MODE_{mode}",
            )
            for message in messages
        ]
        return await self.stub.ImportProfiles(iter(requests), timeout=30)

    async def profile(self, profile_id: str) -> pb.Profile:
        request = pb.GetProfileRequest(name=f"profiles/{profile_id}")
        return (await self.stub.GetProfile(request, timeout=20)).profile

    async def attributes(self, profile_id: str) -> dict[str, Any]:
        return dict((await self.profile(profile_id)).attributes)


@pytest.fixture(scope="session")
def bulk_suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Suite, int]]:
    with Suite(log_dir=tmp_path_factory.mktemp("logs")) as suite:

        async def publish() -> int:
            house = Cairn(suite)
            try:
                return await house.publish(JOURNEY)
            finally:
                await house.close()

        yield suite, asyncio.run(publish())


@pytest.fixture
async def bulk(bulk_suite: tuple[Suite, int]) -> AsyncIterator[Bulk]:
    suite, revision = bulk_suite
    house = Cairn(suite, revision=revision)
    yield Bulk(house, EvaluatorServiceStub(house.channel("evaluator")))
    await house.close()
