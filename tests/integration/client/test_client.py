"""The client against real services: kills, a frozen Evaluator, an overloaded lane, one bad event among good ones."""

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Iterable, Iterator
from datetime import timedelta

import pytest
from house import Cairn, until

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from cairn.cli.suite import Suite
from cairn.client import EventClient, EventClientSettings, NotAcknowledgedError, Pending, event
from cairn.runtime.clock import now_us

# Each event begins an enrollment anew, so the timeline tells of each how often it acted, and in which order.
JOURNEY = """
name: counted
type: REAL_TIME
reentry: {mode: ALWAYS, while_active: RESTART}
stages:
  - name: only
    entry: event.name == "tick"
    steps:
      - wait: {duration: 20d}
"""

_stories = itertools.count(1)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Suite, int]]:
    """The suite with the journey, and the revision that serves it; a lane is full with a thousand events."""
    small = {"evaluator": {"CAIRN_EVALUATOR_LANE_BACKLOG": "1000", "CAIRN_EVALUATOR_BATCH_SIZE": "100"}}
    with Suite(log_dir=tmp_path_factory.mktemp("logs"), environment=small) as running:

        async def publish() -> int:
            house = Cairn(running)
            try:
                return await house.publish(JOURNEY)
            finally:
                await house.close()

        yield running, asyncio.run(publish())


@pytest.fixture
async def cairn(suite: tuple[Suite, int]) -> AsyncIterator[Cairn]:
    house = Cairn(suite[0], revision=suite[1])
    yield house
    await house.close()


class Story:
    """Profiles of one test, and what the client sends of them."""

    def __init__(self, cairn: Cairn, profiles: int) -> None:
        self.cairn = cairn
        self.profiles = [f"story-{next(_stories)}-{number}" for number in range(profiles)]
        self.waits = 0

    def client(self, **settings: float) -> EventClient:
        address = self.cairn.suite.address("evaluator")
        return EventClient(
            address,
            EventClientSettings(**settings),  # type: ignore[arg-type]
            min_revision=self.cairn.revision,
            chance=self._chance,
        )

    def _chance(self) -> float:
        """Asked for whenever the client has to wait before it sends again."""
        self.waits += 1
        return 0.5

    def ticks(self, of_each: int) -> list[pb.Event]:
        return [
            event("tick", profile, {"number": number}, event_id=f"tick-{number}")
            for number in range(of_each)
            for profile in self.profiles
        ]

    async def acted(self, profile: str) -> list[str]:
        """The ids of the events that began an enrollment, in the order in which they did."""
        stub = EvaluatorServiceStub(self.cairn.channel("evaluator"))
        request = pb.GetTimelineRequest(profile=f"profiles/{profile}", page_size=1000)
        found: list[str] = []
        while True:
            answer = await stub.GetTimeline(request, timeout=20, wait_for_ready=True)
            found += [
                entry.transition.cause.removeprefix("event ")
                for entry in answer.entries
                if entry.transition.kind == pb.TRANSITION_KIND_ENTERED
            ]
            if not answer.next_page_token:
                return found[::-1]
            request.page_token = answer.next_page_token


async def test_kills_of_the_evaluator_cost_no_event_and_double_none(cairn: Cairn) -> None:
    story, of_each = Story(cairn, 40), 100
    kills = {900, 2000, 3100}
    pending: list[Pending] = []
    async with story.client(max_events=800, batch_events=50) as client:
        for count, each in enumerate(story.ticks(of_each)):
            pending.append(await client.submit(each))
            if count in kills:
                assert client.waiting > 0, "a kill has to find something under way"
                cairn.suite.kill_service("evaluator")
                cairn.suite.launch("evaluator")
        outcomes = [await each for each in pending]
    assert all(each.taken for each in outcomes)
    assert client.totals.taken == len(story.profiles) * of_each
    assert story.waits >= len(kills)
    wanted = [f"tick-{number}" for number in range(of_each)]
    for profile in story.profiles:
        # Exactly once, and in order, also where a stream broke between.
        assert await story.acted(profile) == wanted


async def test_a_restart_under_load_costs_no_event_and_doubles_none(cairn: Cairn) -> None:
    story, of_each = Story(cairn, 20), 100
    evaluator = cairn.suite.instances["evaluator"].child
    ticks = story.ticks(of_each)
    async with story.client(max_events=400, batch_events=25) as client:
        for each in ticks[:1000]:
            await client.submit(each)
        assert client.waiting > 0
        evaluator.send(signal.SIGTERM)
        producing = asyncio.create_task(_submit(client, ticks[1000:]))
        await until(lambda: not evaluator.alive, "it has drained")
        cairn.suite.launch("evaluator")
        await producing
    assert client.totals.taken == len(ticks)
    assert story.waits > 0
    for profile in story.profiles:
        assert await story.acted(profile) == [f"tick-{number}" for number in range(of_each)]


async def _submit(client: EventClient, events: Iterable[pb.Event]) -> None:
    for each in events:
        await client.submit(each)


async def test_a_frozen_evaluator_holds_producers_back_and_then_lets_them_go(cairn: Cairn) -> None:
    story = Story(cairn, 20)
    evaluator = cairn.suite.instances["evaluator"].child
    ticks = story.ticks(50)
    sent = 0

    async def produce(client: EventClient) -> None:
        nonlocal sent
        for each in ticks:
            await client.submit(each)
            sent += 1

    async with story.client(max_events=300, batch_events=50) as client:
        await client.send(event("tick", story.profiles[0], event_id="first"))
        evaluator.send(signal.SIGSTOP)
        try:
            producing = asyncio.create_task(produce(client))
            await until(lambda: client.waiting == 300, "the client is full")
            await asyncio.wait((producing,), timeout=0.3)
            assert not producing.done()
            assert sent == 300
        finally:
            evaluator.send(signal.SIGCONT)
        await asyncio.wait_for(producing, 30)
    assert client.totals.taken == 1 + len(ticks)
    assert client.totals.given_up == 0


async def test_one_bad_event_among_good_ones(cairn: Cairn) -> None:
    story = Story(cairn, 1)
    (profile,) = story.profiles
    old = now_us() - round(timedelta(days=8).total_seconds()) * 1_000_000
    events = story.ticks(4)
    events[1:1] = [
        event("tick", "", event_id="nobody"),
        event("tick", profile, event_id="old", occur_time=old),
    ]
    async with story.client() as client:
        pending = [await client.submit(each) for each in events]
        outcomes = [await each for each in pending]
    assert [each.taken for each in outcomes] == [True, False, False, True, True, True]
    assert outcomes[1].reason == ErrorReason.ERROR_REASON_PROFILE_ID_INVALID
    assert outcomes[2].reason == ErrorReason.ERROR_REASON_EVENT_TOO_OLD
    assert "8.0 days ago" in outcomes[2].message
    assert await story.acted(profile) == [f"tick-{number}" for number in range(4)]


async def test_an_overloaded_lane_is_waited_for(cairn: Cairn) -> None:
    story = Story(cairn, 1)
    ticks = story.ticks(6000)
    # One stream alone is not read while half of the backlog waits; several side by side fill the lane.
    clients = [story.client(batch_events=500, batches_in_flight=16) for _ in range(6)]

    async def send(client: EventClient, share: list[pb.Event]) -> None:
        async with client:
            for each in share:
                await client.submit(each)

    await asyncio.gather(*(send(client, ticks[place::6]) for place, client in enumerate(clients)))
    assert sum(client.totals.taken for client in clients) == len(ticks)
    assert all(client.totals.refused == client.totals.given_up == 0 for client in clients)
    assert story.waits > 0, "the lane was never full"
    acted = await story.acted(story.profiles[0])
    assert len(acted) == len(ticks)
    assert set(acted) == {each.event_id for each in ticks}


async def test_what_is_given_up_at_its_deadline_may_be_sent_again(cairn: Cairn) -> None:
    story = Story(cairn, 1)
    (tick,) = story.ticks(1)
    cairn.suite.kill_service("evaluator")
    async with story.client(deadline_seconds=1) as client:
        with pytest.raises(NotAcknowledgedError, match="not acknowledged in 1 seconds") as caught:
            await client.send(tick)
        assert caught.value.reason == ErrorReason.ERROR_REASON_PEER_UNAVAILABLE
        assert client.totals.given_up == 1
        cairn.suite.start_service("evaluator")
    async with story.client() as client:
        assert (await client.send(tick)).taken
        assert (await client.send(tick)).taken
    assert (client.totals.taken, client.totals.duplicates) == (2, 1)
    assert await story.acted(story.profiles[0]) == ["tick-0"]
