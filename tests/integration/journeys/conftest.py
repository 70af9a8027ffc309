"""One Cairn of real processes, with two replicas of the Evaluator, for all tests of journeys through services."""

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass

import pytest
from house import Cairn
from service_engine import ENVIRONMENT, ServiceEngine

from cairn.cli.suite import Suite


@dataclass(frozen=True)
class Replicated:
    """The suite and the names of its Evaluators."""

    suite: Suite
    evaluators: tuple[str, str]


@pytest.fixture(scope="session")
def replicated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Replicated]:
    with Suite(log_dir=tmp_path_factory.mktemp("logs"), environment=ENVIRONMENT) as suite:
        yield Replicated(suite, ("evaluator", suite.add_replica("evaluator")))


@pytest.fixture(scope="session")
def engine(replicated: Replicated) -> ServiceEngine:
    return ServiceEngine(replicated.suite, replicated.evaluators)


@pytest.fixture
async def cairn(replicated: Replicated) -> AsyncIterator[Cairn]:
    house = Cairn(replicated.suite)
    yield house
    await house.close()
