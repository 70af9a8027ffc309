"""Publishing: sets that go live together, versions that never change, revisions without gaps."""

import asyncio

import asyncpg
import grpc
import pytest

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.definition.v1.journey_pb2 import Journey, JourneyState, JourneyType, Stage
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
        # As in the first round: a neighbor may publish it before that has begun.
        await replicas[0].create(replicas[0].welcome(name, wait_s=100))
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


async def test_a_target_has_to_be_live_or_in_the_set_and_to_have_the_stage(definition) -> None:
    await definition.create(definition.jumping("a", "b"))
    await definition.create(definition.jumping("c", "b", "none"))
    goal = definition.welcome("d")
    goal.goal.criteria = 'event.name == "x"'
    goal.goal.target.journey = "b"
    goal.goal.target.stage = "neither"
    await definition.create(goal)
    await definition.create(definition.welcome("b"))
    error = await definition.refusal(definition.publish("a"))
    assert [one.field for one in error.violations] == ["items[0].stages[0].steps[0].jump.journey"]
    error = await definition.refusal(definition.publish("a", "b", "c", "d"))
    assert [one.field for one in error.violations] == [
        "items[2].stages[0].steps[0].jump.stage",
        "items[3].goal.target.stage",
    ]
    assert error.violations[0].description.startswith("journeys/c: ")
    assert (await definition.publish("a", "b")).revision == 2
    await definition.update(definition.jumping("c", "b", "signed-up"))
    await definition.pause("b")
    assert (await definition.publish("c")).revision == 4
    await definition.end("b")
    await definition.create(definition.jumping("e", "b"))
    error = await definition.refusal(definition.publish("e"))
    assert [one.field for one in error.violations] == ["items[0].stages[0].steps[0].jump.journey"]


async def test_what_is_live_counts_and_not_its_draft(definition) -> None:
    await definition.create(definition.welcome("b"))
    await definition.publish("b")
    renamed = definition.welcome("b")
    renamed.stages[0].name = "other"
    await definition.update(renamed)
    await definition.create(definition.jumping("a", "b", "other"))
    error = await definition.refusal(definition.publish("a"))
    assert [one.field for one in error.violations] == ["items[0].stages[0].steps[0].jump.stage"]
    assert (await definition.publish("a", "b")).revision == 3


async def test_targets_in_every_way_are_checked(definition) -> None:
    journey = definition.welcome("a")
    decision = journey.stages[0].steps.add().decision
    for name in ("x", "y"):
        decision.branches.add(name=name, criteria=f"profile.{name}").steps.add(jump={"journey": "none"})
    await definition.create(journey)
    error = await definition.refusal(definition.publish("a"))
    assert [one.field for one in error.violations] == [
        f"items[0].stages[0].steps[2].decision.branches[{index}].steps[0].jump.journey" for index in (0, 1)
    ]


async def test_destinations_in_every_way_are_checked(definition) -> None:
    journey = definition.welcome("a")
    wait = journey.stages[0].steps.add().wait
    wait.condition, wait.timeout.seconds = 'event.name == "x"', 60
    wait.timed_out.add(activation={"channel": "nowhere"})
    await definition.create(journey)
    error = await definition.refusal(definition.publish("a"))
    assert [one.field for one in error.violations] == [
        "items[0].stages[0].steps[2].wait.timed_out[0].activation.channel"
    ]


async def test_jumps_may_not_go_round_without_a_wait_with_what_is_live(definition) -> None:
    await definition.create(definition.welcome("c"))
    await definition.create(definition.jumping("b", "c"))
    await definition.create(definition.jumping("a", "b"))
    await definition.publish("a", "b", "c")
    await definition.update(definition.jumping("c", "a"))
    error = await definition.refusal(definition.publish("c"))
    assert [one.field for one in error.violations] == ["items[0].stages[0].steps[0].jump"]
    assert "without a wait" in error.violations[0].description
    await definition.update(definition.jumping("c", "a", wait_s=60))
    assert (await definition.publish("c")).revision == 4


async def test_an_unchanged_member_of_a_set_counts_as_live(definition) -> None:
    await definition.create(definition.welcome("b"))
    await definition.publish("b")
    await definition.create(definition.jumping("a", "b"))
    answer = await definition.publish("a", "b")
    assert [one.revision for one in answer.versions] == [2, 1]


async def test_two_sets_that_go_round_only_together_are_not_both_published(
    start_replica, destinations
) -> None:
    here, there = await start_replica(), await start_replica()
    for name in ("a", "b"):
        await here.create(here.welcome(name))
    await here.publish("a", "b")
    await here.update(here.jumping("a", "b"))
    back = here.jumping("b", "a")
    back.stages[0].steps.insert(0, here.welcome().stages[0].steps[1])
    await here.update(back)

    async def publish_the_other() -> None:
        destinations.meanwhile = None
        await there.publish("a")

    # Only b asks for a destination: a is published while b has been checked and is not yet frozen.
    destinations.meanwhile = publish_the_other
    error = await here.refusal(here.publish("b"))
    assert [one.field for one in error.violations] == ["items[0].stages[0].steps[1].jump"]
    assert (await here.changes()).revision == 3


async def test_two_sets_frozen_at_once_are_judged_one_after_the_other(
    start_replica, definition_dsn, until
) -> None:
    here, there = await start_replica(), await start_replica()
    for name in ("a", "b"):
        await here.create(here.welcome(name))
    await here.publish("a", "b")
    await here.update(here.jumping("a", "b"))
    await here.update(here.jumping("b", "a"))

    async def publish(replica, name: str) -> bool:
        try:
            await replica.publish(name)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            return False
        return True

    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    holder, watcher = await asyncpg.connect(definition_dsn), await asyncpg.connect(definition_dsn)

    async def both_wait() -> bool:
        return await watcher.fetchval(waiting) == 2

    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM definition.revision FOR UPDATE")
            both = asyncio.gather(publish(here, "a"), publish(there, "b"))
            await until(both_wait)
        assert sorted(await both) == [False, True]
    finally:
        await holder.close()
        await watcher.close()


async def test_validation_knows_what_is_live(definition) -> None:
    assert [one.field for one in await definition.validate(definition.jumping("a", "b"))] == [
        "stages[0].steps[0].jump.journey"
    ]
    await definition.create(definition.jumping("b", "a", wait_s=60))
    await definition.create(definition.jumping("a", "b"))
    await definition.publish("a", "b")
    assert await definition.validate(definition.jumping("c", "b", "signed-up")) == []
    assert [one.field for one in await definition.validate(definition.jumping("b", "a"))] == [
        "stages[0].steps[0].jump"
    ]
    odd = definition.jumping("a\0", "b\0")
    assert {one.field for one in await definition.validate(odd)} >= {"name"}


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


def batch(name: str, audience: str) -> Journey:
    """A batch journey of one stage without steps."""
    stages = [Stage(name="only", entry="true")]
    return Journey(name=name, type=JourneyType.JOURNEY_TYPE_BATCH, audience=audience, stages=stages)


async def test_a_journey_keeps_the_type_of_its_published_versions(definition) -> None:
    await definition.create(definition.welcome())
    await definition.update(batch("welcome", "profile.a == 1"))
    await definition.update(definition.welcome())
    await definition.publish("welcome")
    await definition.update(batch("welcome", "profile.a == 1"))
    said = "is another one than that of the published versions, REAL_TIME, which some may still be in"
    error = await definition.refusal(definition.publish("welcome"))
    (violation,) = error.violations
    assert violation.field == "items[0].type"
    assert violation.description.startswith(f"journeys/welcome: {said}")
    (told,) = await definition.validate(batch("welcome", "profile.a == 1"))
    assert (told.field, told.description.startswith(said)) == ("type", True)
    assert (await definition.get("welcome")).latest_version == 1


async def test_a_batch_journey_names_no_segment_that_no_run_can_ask_for(definition) -> None:
    await definition.put_segment("grown", "profile.age * 2.0 > 36.0")
    await definition.put_segment("ours", 'in_segment("grown") && profile.customer == true')
    journey = batch("back", 'in_segment("ours")')
    await definition.create(journey)
    said = "uses the segment 'grown', for which no run of a BATCH journey can ask: line 1, column 13: * is computed"
    error = await definition.refusal(definition.publish("back"))
    (violation,) = error.violations
    assert violation.field == "items[0].audience"
    assert violation.description.startswith(f"journeys/back: {said}")
    (told,) = await definition.validate(journey)
    assert (told.field, told.description.startswith(said)) == ("audience", True)
    await definition.put_segment("grown", "profile.age > 18")
    (version,) = (await definition.publish("back")).versions
    assert version.journey.audience == 'in_segment("ours")'
    assert [segment.name for segment in version.segments] == ["segments/grown", "segments/ours"]
