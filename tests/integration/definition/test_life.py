"""The life of a published journey: paused, resumed, ended, and told to every watcher."""

import asyncio

import asyncpg
import grpc
import pytest

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.definition.v1.journey_pb2 import JourneyState, PauseMode
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.postgres.pool import connect_pool

LIVE, PAUSED, ENDED = (JourneyState.Value(f"JOURNEY_STATE_{name}") for name in ("LIVE", "PAUSED", "ENDED"))


async def publish_fresh(replica, *names: str) -> int:
    for name in names:
        await replica.create(replica.welcome(name))
    return (await replica.publish(*names)).revision


def us(timestamp) -> int:
    return timestamp.seconds * 1_000_000 + timestamp.nanos // 1000


async def test_a_first_publication_begins_a_life_and_a_second_leaves_it(definition) -> None:
    await publish_fresh(definition, "a")
    (life,) = (await definition.changes()).lives
    assert (life.journey, life.state, len(life.pauses), life.revision) == ("journeys/a", LIVE, 0, 1)
    assert not life.HasField("end_time")
    await definition.update(definition.welcome("a", wait_s=60))
    await definition.publish("a")
    news = await definition.changes(1)
    assert ([one.revision for one in news.versions], list(news.lives)) == ([2], [])


@pytest.mark.parametrize("mode", ["FREEZE", "RUN", "DROP"])
async def test_a_pause_is_shown_told_and_over_when_resumed(definition, mode: str) -> None:
    await publish_fresh(definition, "a")
    answer = await definition.pause("a", mode)
    assert answer.revision == 2
    assert (answer.journey.state, answer.journey.pause.mode) == (
        PAUSED,
        PauseMode.Value(f"PAUSE_MODE_{mode}"),
    )
    assert answer.journey == await definition.get("a")
    page = await definition.stub.ListJourneys(pb.ListJourneysRequest())
    assert list(page.journeys) == [answer.journey]
    (life,) = (await definition.changes(1)).lives
    assert (life.state, life.revision, list(life.pauses)) == (PAUSED, 2, [answer.journey.pause])
    assert not life.pauses[0].HasField("resume_time")

    resumed = await definition.resume("journeys/a")
    assert resumed.revision == 3
    assert (resumed.journey.state, resumed.journey.HasField("pause")) == (LIVE, False)
    (life,) = (await definition.changes(2)).lives
    assert (life.state, life.revision) == (LIVE, 3)
    (pause,) = life.pauses
    assert pause.pause_time == answer.journey.pause.pause_time
    assert us(pause.resume_time) >= us(pause.pause_time) > 0


async def test_a_pause_freezes_unless_it_is_said_otherwise(definition) -> None:
    await publish_fresh(definition, "a")
    answer = await definition.stub.PauseJourney(pb.PauseJourneyRequest(name="a"))
    assert answer.journey.pause.mode == PauseMode.PAUSE_MODE_FREEZE


async def test_all_pauses_are_told_oldest_first(definition) -> None:
    await publish_fresh(definition, "a")
    for mode in ("RUN", "DROP", "FREEZE"):
        await definition.pause("a", mode)
        await definition.resume("a")
    (life,) = (await definition.changes()).lives
    assert [PauseMode.Name(one.mode) for one in life.pauses] == [
        "PAUSE_MODE_RUN",
        "PAUSE_MODE_DROP",
        "PAUSE_MODE_FREEZE",
    ]
    times = [us(time) for one in life.pauses for time in (one.pause_time, one.resume_time)]
    assert times == sorted(times)


async def test_the_times_are_those_of_postgres(definition, definition_dsn) -> None:
    await publish_fresh(definition, "a")
    connection = await asyncpg.connect(definition_dsn)
    before = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp()) * 1000000")
    paused = await definition.pause("a")
    ended = await definition.end("a")
    after = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp()) * 1000000")
    await connection.close()
    (life,) = (await definition.changes()).lives
    assert before <= us(paused.journey.pause.pause_time) <= us(life.end_time) <= after
    assert ended.journey.state == ENDED


async def test_what_is_so_already_is_no_change(definition) -> None:
    await publish_fresh(definition, "a")
    assert (await definition.resume("a")).revision == 1
    assert (await definition.pause("a", "RUN")).revision == 2
    assert (await definition.pause("a", "RUN")).revision == 2
    assert (await definition.end("a")).revision == 3
    assert (await definition.end("a")).revision == 3
    assert (await definition.changes()).revision == 3


@pytest.mark.parametrize("remove", [False, True])
async def test_an_end_is_for_good(definition, remove: bool) -> None:
    await publish_fresh(definition, "a", "b")
    await definition.pause("a")
    answer = await definition.end("a", remove=remove)
    assert (answer.revision, answer.journey.state, answer.journey.HasField("pause")) == (4, ENDED, False)
    (life,) = (await definition.changes(3)).lives
    assert (life.state, life.removes, life.revision) == (ENDED, remove, 4)
    assert life.pauses[0].resume_time == life.end_time
    await definition.update(definition.welcome("a", wait_s=60))
    calls = (
        definition.pause("a"),
        definition.resume("a"),
        definition.publish("a"),
        definition.publish("b", "a"),
        definition.publish("a", validate_only=True),
    )
    for call in calls:
        error = await definition.refusal(call)
        assert error.reason == ErrorReason.ERROR_REASON_FAILED_PRECONDITION
        assert error.resource == "journeys/a"
        assert "ended for good" in error.message
    assert (await definition.changes()).revision == 4


async def test_an_ended_journey_is_refused_even_when_its_draft_is_what_was_published(definition) -> None:
    await publish_fresh(definition, "a")
    await definition.end("a")
    error = await definition.refusal(definition.publish("a"))
    assert error.reason == ErrorReason.ERROR_REASON_FAILED_PRECONDITION
    (violation,) = await definition.validate(definition.welcome("a"))
    assert (violation.field, "ended" in violation.description) == ("name", True)


async def test_a_journey_that_ends_while_it_is_checked_is_not_published(definition, destinations) -> None:
    await publish_fresh(definition, "a")
    await definition.update(definition.welcome("a", wait_s=60))

    async def end() -> None:
        await definition.end("a")

    destinations.meanwhile = end
    error = await definition.refusal(definition.publish("a"))
    assert error.reason == ErrorReason.ERROR_REASON_FAILED_PRECONDITION
    assert (await definition.get("a")).latest_version == 1


async def test_who_drains_can_still_be_removed(definition) -> None:
    await publish_fresh(definition, "a")
    drained = (await definition.end("a")).revision
    (life,) = (await definition.changes()).lives
    assert (await definition.end("a", remove=True)).revision == drained + 1
    (after,) = (await definition.changes(drained)).lives
    assert (after.removes, after.end_time) == (True, life.end_time)


async def test_a_paused_journey_is_published_and_stays_paused(definition) -> None:
    await publish_fresh(definition, "a")
    paused = (await definition.pause("a", "RUN")).journey
    await definition.update(definition.welcome("a", wait_s=60))
    answer = await definition.publish("a")
    assert (answer.versions[0].version, answer.revision) == (2, 3)
    after = await definition.get("a")
    assert (after.state, after.pause, after.latest_version) == (PAUSED, paused.pause, 2)
    assert [one.state for one in (await definition.changes()).lives] == [PAUSED]


async def test_a_draft_has_no_life(definition) -> None:
    await definition.create(definition.welcome("a"))
    for call in (definition.pause("a"), definition.resume("a"), definition.end("a")):
        error = await definition.refusal(call)
        assert error.reason == ErrorReason.ERROR_REASON_FAILED_PRECONDITION
        assert "never published" in error.message
    for call in (definition.pause("none"), definition.resume("none"), definition.end("none")):
        assert (await definition.refusal(call)).reason == ErrorReason.ERROR_REASON_NOT_FOUND
    assert (await definition.changes()).revision == 0


async def test_another_mode_is_refused_while_a_pause_lasts(definition) -> None:
    await publish_fresh(definition, "a")
    await definition.pause("a", "RUN")
    error = await definition.refusal(definition.pause("a", "DROP"))
    assert error.reason == ErrorReason.ERROR_REASON_FAILED_PRECONDITION
    assert "mode RUN" in error.message


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.PauseJourneyRequest(name="a", mode=9), "mode"),
        (pb.PauseJourneyRequest(name="A"), "name"),
        (pb.ResumeJourneyRequest(), "name"),
        (pb.EndJourneyRequest(name="a", request_id="r" * 65), "request_id"),
    ],
)
async def test_a_malformed_request_is_refused_by_its_field(definition, request_, field: str) -> None:
    method = type(request_).__name__.removesuffix("Request")
    error = await definition.refusal(getattr(definition.stub, method)(request_))
    assert [one.field for one in error.violations] == [field]


async def test_a_repeated_request_answers_as_the_first_did(definition) -> None:
    await publish_fresh(definition, "a")
    paused = await definition.pause("a", request_id="p")
    resumed = await definition.resume("a", request_id="r")
    ended = await definition.end("a", request_id="e")
    assert await definition.pause("a", request_id="p") == paused
    assert await definition.resume("a", request_id="r") == resumed
    assert await definition.end("a", request_id="e") == ended
    assert (await definition.changes()).revision == 4
    error = await definition.refusal(definition.end("a", remove=True, request_id="e"))
    assert [one.field for one in error.violations] == ["request_id"]


async def test_only_what_was_never_published_can_be_deleted(definition) -> None:
    await publish_fresh(definition, "a")
    await definition.end("a")
    error = await definition.refusal(definition.stub.DeleteJourney(pb.DeleteJourneyRequest(name="a")))
    assert error.reason == ErrorReason.ERROR_REASON_FAILED_PRECONDITION


async def test_a_journey_published_by_a_program_that_knew_no_lives_is_live(
    definition, definition_dsn
) -> None:
    await publish_fresh(definition, "a")
    connection = await asyncpg.connect(definition_dsn)
    await connection.execute("DELETE FROM definition.lives")
    await connection.close()
    assert (await definition.resume("a")).revision == 1
    assert (await definition.pause("a")).revision == 2
    assert [one.state for one in (await definition.changes()).lives] == [PAUSED]


async def test_news_of_a_pause_does_not_wait_for_a_heartbeat(start_replica) -> None:
    here = await start_replica(heartbeat_seconds=60, poll_seconds=10)
    there = await start_replica(heartbeat_seconds=60)
    await publish_fresh(here, "a")
    calls = [here.watch(1), there.watch(1)]
    for call in calls:
        await call.read()
    await here.pause("a")
    async with asyncio.timeout(9):
        for call in calls:
            answer = await call.read()
            assert [(one.state, one.revision) for one in answer.lives] == [(PAUSED, 2)]
            assert (answer.revision, answer.caught_up) == (2, True)


async def test_a_watch_tells_a_life_once(definition) -> None:
    await publish_fresh(definition, "a")
    call = definition.watch()
    assert len((await call.read()).lives) == 1
    await definition.pause("a")
    told: list[int] = []
    async with asyncio.timeout(20):
        # Two heartbeats after the pause: nothing is told again.
        while not told or len(told) < 3:
            answer = await call.read()
            if told or answer.lives:
                told.append(len(answer.lives))
                assert (answer.revision, answer.caught_up) == (2, True)
    assert told == [1, 0, 0]


async def test_operators_at_once_leave_no_gap_and_a_watcher_ends_with_the_truth(start_replica) -> None:
    replicas = [await start_replica(), await start_replica()]
    names = [f"j{number}" for number in range(5)]
    await publish_fresh(replicas[0], *names)
    rounds = 6

    async def operate(number: int) -> None:
        replica, name = replicas[number % 2], names[number]
        for turn in range(rounds):
            await replica.pause(name, ("FREEZE", "RUN")[turn % 2])
            await replica.update(replica.welcome(name, wait_s=100 + turn))
            await replica.publish(name)
            await replica.resume(name)
        if number % 2:
            await replica.end(name, remove=number == 1)

    last = len(names) * (1 + 3 * rounds) + 2
    versions: list[int] = []
    lives: dict[str, object] = {}
    told: list[int] = []

    async def read() -> None:
        after = 0
        while after < last:
            changes = await replicas[1].changes(after)
            revisions = [one.revision for one in (*changes.versions, *changes.lives)]
            assert all(after < one <= changes.revision for one in revisions)
            versions.extend(one.revision for one in changes.versions)
            told.extend(one.revision for one in changes.lives)
            lives.update((one.journey, one) for one in changes.lives)
            after = changes.revision

    async with asyncio.timeout(90):
        await asyncio.gather(read(), *(operate(number) for number in range(len(names))))
    assert versions == sorted(set(versions))
    assert len(versions) == len(names) * (1 + rounds)
    assert told == sorted(told)
    everything = await replicas[0].changes()
    assert everything.revision == last
    assert {one.journey: one for one in everything.lives} == lives
    for number, name in enumerate(names):
        life = lives[f"journeys/{name}"]
        assert len(life.pauses) == rounds
        assert life.state == (ENDED if number % 2 else LIVE)
        assert (await replicas[0].get(name)).state == life.state


async def test_of_two_pauses_at_once_one_is_made(definition) -> None:
    await publish_fresh(definition, "a")

    async def pause(mode: str) -> bool:
        try:
            await definition.pause("a", mode)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.FAILED_PRECONDITION:
                raise
            return False
        return True

    made = await asyncio.gather(*(pause(mode) for mode in ("FREEZE", "RUN", "DROP")))
    assert sorted(made) == [False, False, True]
    assert (await definition.changes()).revision == 2


async def test_the_gauges_count_every_state(definition, definition_dsn) -> None:
    from prometheus_client import REGISTRY

    from cairn.definition.upkeep import upkeep

    await publish_fresh(definition, "a", "b", "c")
    await definition.create(definition.welcome("d"))
    await definition.pause("a")
    await definition.end("b")
    pool = await connect_pool(
        definition_dsn, role="cairn_definition", schema="definition", application_name="test"
    )
    await upkeep(pool)
    await pool.close()
    read = REGISTRY.get_sample_value
    states = ("DRAFT", "LIVE", "PAUSED", "ENDED")
    assert [read("cairn_definition_journeys", {"state": state}) for state in states] == [1, 1, 1, 1]
