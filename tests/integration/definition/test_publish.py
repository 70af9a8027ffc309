"""Publishing: sets that go live together, versions that never change, revisions without gaps."""

import asyncio

import asyncpg
import grpc
import pytest

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.definition.v1.journey_pb2 import JourneyState
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason


async def test_a_published_draft_is_version_one_and_live(definition) -> None:
    draft = await definition.create(definition.welcome())
    answer = await definition.publish("welcome")
    (version,) = answer.versions
    assert (version.name, version.version) == ("journeys/welcome/versions/1", 1)
    assert version.revision == answer.revision == 1
    assert version.publish_time.seconds > 0
    assert version.journey.stages == draft.stages
    assert (version.journey.name, version.journey.etag) == ("journeys/welcome", "")
    after = await definition.get("welcome")
    assert (after.state, after.latest_version) == (JourneyState.JOURNEY_STATE_LIVE, 1)
    assert (after.etag, after.update_time) == (draft.etag, draft.update_time)


async def test_a_version_never_changes(definition) -> None:
    await definition.create(definition.welcome())
    first = (await definition.publish("welcome")).versions[0]
    await definition.update(definition.welcome(wait_s=60))
    second = (await definition.publish("welcome")).versions[0]
    assert (second.version, second.revision) == (2, 2)
    stored = await definition.stub.GetJourneyVersion(pb.GetJourneyVersionRequest(name=first.name))
    assert stored.journey_version == first


async def test_an_unchanged_draft_is_not_published_again(definition, destinations) -> None:
    await definition.create(definition.welcome())
    first = await definition.publish("welcome")
    destinations.connections.clear()
    assert await definition.publish("welcome") == first
    assert (await definition.changes()).revision == 1


async def test_a_set_is_published_in_the_order_of_the_request(definition) -> None:
    for name in ("a", "b", "c"):
        await definition.create(definition.welcome(name))
    await definition.publish("b")
    answer = await definition.publish("c", "b", "a")
    assert [(one.journey.name, one.revision) for one in answer.versions] == [
        ("journeys/c", 2),
        ("journeys/b", 1),
        ("journeys/a", 3),
    ]
    assert answer.revision == 3


async def test_a_set_with_something_wrong_is_refused_whole_with_all_that_is_wrong(definition) -> None:
    for name, template in (("a", "welcome"), ("b", "none"), ("c", "neither")):
        await definition.create(definition.welcome(name, template))
    error = await definition.refusal(definition.publish("a", "b", "c"))
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert [(one.field, one.description) for one in error.violations] == [
        ("items[1].stages[0].steps[1].activation.template", "journeys/b: templates/none does not exist"),
        ("items[2].stages[0].steps[1].activation.template", "journeys/c: templates/neither does not exist"),
    ]
    assert (await definition.get("a")).latest_version == 0
    assert (await definition.changes()).revision == 0


async def test_a_check_publishes_nothing(definition) -> None:
    await definition.create(definition.welcome())
    await definition.create(definition.welcome("bad", "none"))
    assert not (await definition.publish("welcome", validate_only=True)).versions
    error = await definition.refusal(definition.publish("bad", validate_only=True))
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert (await definition.get("welcome")).latest_version == 0


async def test_a_journey_named_twice_is_refused(definition) -> None:
    await definition.create(definition.welcome())
    error = await definition.refusal(definition.publish("welcome", "journeys/welcome", "Bad"))
    assert [one.field for one in error.violations] == ["items[1].name", "items[2].name"]


async def test_a_repeated_publication_answers_as_the_first_did(definition, destinations) -> None:
    await definition.create(definition.welcome())
    first = await definition.publish("welcome", request_id="p1")
    await definition.update(definition.welcome(wait_s=60))
    destinations.connections.clear()
    assert await definition.publish("welcome", request_id="p1") == first
    assert (await definition.changes()).revision == 1


async def test_a_draft_that_changed_while_it_was_checked_is_not_published(definition, destinations) -> None:
    await definition.create(definition.welcome())

    async def change() -> None:
        await definition.update(definition.welcome(template="unknown"))

    destinations.meanwhile = change
    error = await definition.refusal(definition.publish("welcome"))
    assert error.reason == ErrorReason.ERROR_REASON_ETAG_MISMATCH
    assert (await definition.changes()).revision == 0


async def test_what_another_publisher_was_faster_with_is_not_published_twice(
    definition, destinations
) -> None:
    await definition.create(definition.welcome())

    async def publish() -> None:
        destinations.meanwhile = None
        await definition.publish("welcome")

    destinations.meanwhile = publish
    assert (await definition.publish("welcome")).versions[0].version == 1
    assert (await definition.changes()).revision == 1


async def test_destinations_are_asked_for_with_full_names(definition, destinations) -> None:
    await definition.create(definition.welcome())
    await definition.publish("welcome")
    (asked,) = destinations.asked[-1].destinations
    assert (asked.connection, asked.template) == ("connections/email", "templates/welcome")


async def test_nothing_is_published_while_activation_is_away(start_replica, destinations) -> None:
    replica = await start_replica(activation_address="127.0.0.1:1")
    await replica.create(replica.welcome())
    for call in (
        replica.publish("welcome"),
        replica.stub.ValidateJourney(pb.ValidateJourneyRequest(journey=replica.welcome())),
    ):
        error = await replica.refusal(call)
        assert error.reason == ErrorReason.ERROR_REASON_PEER_UNAVAILABLE
        assert error.code is grpc.StatusCode.UNAVAILABLE
        assert error.retry_after_s
    assert (await replica.get("welcome")).latest_version == 0


async def test_versions_are_listed_newest_first(definition) -> None:
    await definition.create(definition.welcome())
    for wait_s in (60, 61, 62):
        await definition.update(definition.welcome(wait_s=wait_s))
        await definition.publish("welcome")
    request = pb.ListJourneyVersionsRequest(parent="welcome", page_size=2)
    first = await definition.stub.ListJourneyVersions(request)
    request.page_token = first.next_page_token
    second = await definition.stub.ListJourneyVersions(request)
    assert [one.version for one in [*first.journey_versions, *second.journey_versions]] == [3, 2, 1]
    assert first.next_page_token
    assert not second.next_page_token
    await definition.create(definition.welcome("never"))
    never = await definition.stub.ListJourneyVersions(pb.ListJourneyVersionsRequest(parent="never"))
    assert not never.journey_versions


async def test_publishers_at_once_leave_no_gap_and_a_reader_misses_nothing(start_replica) -> None:
    replicas = [await start_replica(), await start_replica()]
    names = [f"j{number}" for number in range(6)]
    for name in names:
        await replicas[0].create(replicas[0].welcome(name))
    seen: list[int] = []
    rounds = 4
    wanted = rounds * len(names)

    async def read() -> None:
        after = 0
        while after < wanted:
            changes = await replicas[1].changes(after)
            seen.extend(one.revision for one in changes.versions)
            after = changes.revision

    async def publish(number: int) -> None:
        replica = replicas[number % 2]
        # Overlapping sets in different orders: they must wait for each other, not lock each other out.
        pair = [names[number], names[(number + 1) % len(names)]]
        for wait_s in range(rounds):
            await replica.update(replica.welcome(names[number], wait_s=100 + wait_s))
            while True:
                try:
                    await replica.publish(*pair)
                    break
                except grpc.aio.AioRpcError as error:
                    # The neighbor's draft changed between the check and the freeze: that alone may be repeated.
                    if error.code() is not grpc.StatusCode.ABORTED:
                        raise

    async with asyncio.timeout(60):
        await asyncio.gather(read(), *(publish(number) for number in range(len(names))))
    assert seen == list(range(1, wanted + 1))


async def test_the_database_itself_keeps_versions_unique(definition, definition_dsn) -> None:
    await definition.create(definition.welcome())
    await definition.publish("welcome")
    connection = await asyncpg.connect(definition_dsn)
    try:
        with pytest.raises(asyncpg.UniqueViolationError):
            await connection.execute(
                "INSERT INTO definition.versions SELECT journey_id, 2, document, etag, publish_time, revision "
                "FROM definition.versions"
            )
    finally:
        await connection.close()
