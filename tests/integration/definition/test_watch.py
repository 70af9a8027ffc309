"""The watch of journeys: resumable, alive, and complete over replicas."""

import asyncio

import asyncpg
import grpc
from prometheus_client import REGISTRY

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.definition import store, store_lives
from cairn.postgres.pool import connect_pool


async def publish_fresh(replica, *names: str) -> int:
    for name in names:
        await replica.create(replica.welcome(name))
    return (await replica.publish(*names)).revision


async def names_until(call, revision: int) -> list[str]:
    """The journeys that a stream tells of up to a revision, in its order."""
    names: list[str] = []
    async with asyncio.timeout(20):
        while (answer := await call.read()) is not grpc.aio.EOF:
            names += [one.journey.name.removeprefix("journeys/") for one in answer.versions]
            if answer.revision >= revision:
                return names
    raise AssertionError("the stream ended early")


async def test_a_watch_begins_with_all_there_ever_was(definition) -> None:
    await publish_fresh(definition, "a", "b")
    first = await definition.watch().read()
    assert [(one.journey.name, one.revision) for one in first.versions] == [
        ("journeys/a", 1),
        ("journeys/b", 2),
    ]
    assert (first.revision, first.caught_up) == (2, True)


async def test_a_watch_of_nothing_says_so_at_once_and_keeps_saying_it(definition) -> None:
    call = definition.watch()
    for _ in range(3):
        answer = await call.read()
        assert (len(answer.versions), answer.revision, answer.caught_up) == (0, 0, True)


async def test_news_does_not_wait_for_a_heartbeat(start_replica) -> None:
    replica = await start_replica(heartbeat_seconds=60, poll_seconds=10)
    call = replica.watch()
    await call.read()
    revision = await publish_fresh(replica, "a")
    assert await names_until(call, revision) == ["a"]


async def test_news_of_another_replica_does_not_wait_for_a_heartbeat(start_replica) -> None:
    here, there = await start_replica(heartbeat_seconds=60), await start_replica()
    call = here.watch()
    await call.read()
    revision = await publish_fresh(there, "a")
    assert await names_until(call, revision) == ["a"]


async def test_a_watch_resumes_on_another_replica_where_it_was_cut(start_replica) -> None:
    here, there = await start_replica(), await start_replica()
    await publish_fresh(here, "a", "b")
    call = here.watch()
    seen = await names_until(call, 2)
    call.cancel()
    await publish_fresh(there, "c")
    await publish_fresh(here, "d")
    seen += await names_until(there.watch(2), 4)
    assert seen == ["a", "b", "c", "d"]


async def test_changes_too_large_for_one_answer_come_in_several(definition) -> None:
    words = ", ".join(f'"word-{number}"' for number in range(320))
    for number in range(24):
        journey = definition.welcome(f"j{number:02}")
        for place in range(15):
            journey.exit_criteria.add(name=f"a{place}", criteria=f"event.name in [{words}]")
            journey.stages[0].exit_criteria.add(name=f"b{place}", criteria=f"event.name in [{words}]")
        await definition.create(journey)
    names = [f"j{number:02}" for number in range(24)]
    await definition.publish(*names)
    answers = []
    call = definition.watch()
    async with asyncio.timeout(20):
        while not answers or not answers[-1].caught_up:
            answers.append(await call.read())
    assert [answer.caught_up for answer in answers] == [False, True]
    assert [one.revision for answer in answers for one in answer.versions] == list(range(1, 25))
    page = await definition.stub.ListJourneys(pb.ListJourneysRequest(page_size=100))
    rest = await definition.stub.ListJourneys(pb.ListJourneysRequest(page_token=page.next_page_token))
    assert [one.name for one in (*page.journeys, *rest.journeys)] == [f"journeys/{name}" for name in names]
    assert rest.journeys


async def all_changes(pool, after: int, limit: int, page_bytes: int) -> list[store_lives.Changes]:
    pages = []
    while not pages or pages[-1].reached < pages[-1].newest:
        pages.append(await store_lives.list_changes(pool, after, limit, page_bytes))
        assert pages[-1].reached > after
        after = pages[-1].reached
    return pages


async def test_wherever_pages_are_cut_everything_up_to_their_revision_has_been_told(
    definition, definition_dsn
) -> None:
    names = ["a", "b", "c", "d"]
    await publish_fresh(definition, *names)  # 1 to 4, each with its life
    await definition.pause("b")  # 5
    await definition.update(definition.welcome("c", wait_s=60))
    await definition.publish("c")  # 6
    await definition.pause("d")  # 7, overwritten by
    await definition.resume("d")  # 8
    await definition.end("a")  # 9, the life that was at 1
    versions = [1, 2, 3, 4, 6]
    lives = {"c": 3, "b": 5, "d": 8, "a": 9}
    pool = await connect_pool(
        definition_dsn, role="cairn_definition", schema="definition", application_name="test"
    )
    whole = await definition.changes()
    size = len(whole.versions[0].journey.SerializeToString())
    for after in range(10):
        for limit, page_bytes in ((1000, 1 << 20), (1, 1 << 20), (2, 1 << 20), (1000, 1), (1000, size + 1)):
            if after == 9:
                page = await store_lives.list_changes(pool, after, limit, page_bytes)
                assert page == store_lives.Changes((), (), 9, 9)
                continue
            pages = await all_changes(pool, after, limit, page_bytes)
            told = [one.revision for page in pages for one in page.versions]
            assert told == [one for one in versions if one > after]
            told = [(one.journey_id, one.revision) for page in pages for one in page.lives]
            assert told == [(name, one) for name, one in lives.items() if one > after]
            begin = after
            for page in pages:
                for one in (*page.versions, *page.lives):
                    assert begin < one.revision <= page.reached
                assert len({one.revision for one in (*page.versions, *page.lives)}) <= limit
                begin = page.reached
            if limit == 1 or page_bytes == 1:
                assert all(
                    len({one.revision for one in (*page.versions, *page.lives)}) == 1 for page in pages
                )
            if page_bytes == size + 1 and after == 0:
                assert [page.reached for page in pages] == [2, 4, 6, 9]
    await pool.close()


async def test_segments_and_pauses_count_for_the_size_of_a_page(definition, definition_dsn) -> None:
    await definition.put_segment("vip", " || ".join(f'profile.p == "{number:040}"' for number in range(20)))
    journey = definition.welcome("a")
    journey.stages[0].entry += ' && in_segment("vip")'
    await definition.create(journey)
    await definition.publish("a")
    await publish_fresh(definition, "b")
    for _ in range(30):
        await definition.pause("b")
        await definition.resume("b")
    await definition.create(definition.welcome("c"))
    await definition.publish("c")
    pool = await connect_pool(
        definition_dsn, role="cairn_definition", schema="definition", application_name="test"
    )
    pages = await all_changes(pool, 0, 1000, 1000)
    assert [[one.journey_id for one in page.versions] for page in pages] == [["a"], ["b"], ["c"]]
    assert [[one.journey_id for one in page.lives] for page in pages] == [["a"], ["b"], ["c"]]
    listed = [await store.list_versions(pool, "a", 2, 10)]
    assert [len(page.rows) for page in listed] == [1]
    await pool.close()


async def test_a_watch_begins_with_every_life_as_it_is(definition) -> None:
    await publish_fresh(definition, "a", "b")
    await definition.pause("a")
    await definition.resume("a")
    await definition.end("b")
    answer = await definition.watch().read()
    assert [(one.journey, one.revision) for one in answer.lives] == [("journeys/a", 4), ("journeys/b", 5)]
    assert (answer.revision, answer.caught_up) == (5, True)
    twin = await definition.changes()
    assert (twin.versions, twin.lives) == (answer.versions, answer.lives)
    assert (twin.revision, twin.caught_up) == (5, True)


async def test_a_watch_beyond_the_newest_revision_is_refused(definition) -> None:
    error = await definition.ending(definition.watch(5))
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert [one.field for one in error.violations] == ["after_revision"]


async def test_a_watch_ends_with_not_ready_when_the_service_stops(definition) -> None:
    call = definition.watch()
    await call.read()
    await definition.service.stop()
    assert (await definition.ending(call)).reason == ErrorReason.ERROR_REASON_NOT_READY


async def test_a_canceled_watch_is_let_go(definition, until) -> None:
    async def open_streams_are(count: int) -> bool:
        return REGISTRY.get_sample_value("cairn_definition_watch_streams") == count

    calls = [definition.watch() for _ in range(3)]
    for call in calls:
        await call.read()
    assert await open_streams_are(3)
    for call in calls:
        call.cancel()
    await until(lambda: open_streams_are(0))


async def acknowledge(replica, watcher: str, revision: int, *, leaving: bool = False) -> None:
    await replica.stub.AcknowledgeRevision(
        pb.AcknowledgeRevisionRequest(watcher=watcher, revision=revision, leaving=leaving)
    )


async def watchers(replica) -> dict[str, int]:
    answer = await replica.stub.ListWatchers(pb.ListWatchersRequest())
    assert all(one.seen_time.seconds > 0 for one in answer.watchers)
    return {one.watcher: one.revision for one in answer.watchers}


async def test_watchers_are_listed_with_what_they_serve_until_they_leave(start_replica) -> None:
    here, there = await start_replica(), await start_replica()
    await acknowledge(here, "w1", 0)
    await acknowledge(there, "w2", 0)
    await acknowledge(there, "w1", 1)
    assert await watchers(here) == {"w1": 1, "w2": 0}
    await acknowledge(here, "w2", 0, leaving=True)
    await acknowledge(here, "unknown", 0, leaving=True)
    assert await watchers(there) == {"w1": 1}


async def test_a_watcher_that_was_silent_for_long_is_not_listed(definition, definition_dsn) -> None:
    await acknowledge(definition, "w1", 0)
    await acknowledge(definition, "w2", 0)
    connection = await asyncpg.connect(definition_dsn)
    await connection.execute(
        "UPDATE definition.watchers SET seen_time = seen_time - interval '10 s' WHERE watcher = 'w1'"
    )
    await connection.close()
    assert await watchers(definition) == {"w2": 0}
