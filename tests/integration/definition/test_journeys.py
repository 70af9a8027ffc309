"""Drafts over real gRPC and a real Postgres: every call, and every refusal."""

import asyncio

import asyncpg
import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.definition.v1.journey_pb2 import Journey, JourneyState
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason

# Those of this database that wait for a lock.
# Outside a transaction each time: within one, Postgres answers from the statistics it saw first.
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


async def test_a_draft_is_saved_with_full_names_and_what_only_we_write(definition) -> None:
    given = definition.welcome()
    given.latest_version = 7
    given.state = JourneyState.JOURNEY_STATE_LIVE
    given.etag = "mine"
    saved = await definition.create(given)
    assert saved.name == "journeys/welcome"
    assert saved.stages[0].steps[1].activation.channel == "connections/email"
    assert saved.stages[0].steps[1].activation.template == "templates/welcome"
    assert (saved.latest_version, saved.state) == (0, JourneyState.JOURNEY_STATE_DRAFT)
    assert saved.etag not in ("", "mine")
    assert saved.create_time == saved.update_time
    assert saved.create_time.seconds > 0
    assert await definition.get("welcome") == await definition.get("journeys/welcome") == saved


async def test_a_name_is_taken_once(definition) -> None:
    await definition.create(definition.welcome())
    error = await definition.refusal(
        definition.stub.CreateJourney(pb.CreateJourneyRequest(journey=definition.welcome()))
    )
    assert error.reason == ErrorReason.ERROR_REASON_ALREADY_EXISTS
    assert error.resource == "journeys/welcome"


async def test_every_violation_comes_at_once_with_its_path(definition) -> None:
    wrong = definition.welcome(wait_s=0)
    wrong.stages[0].entry = "event.name =="
    wrong.stages[0].milestone = "true"
    wrong.stages[0].steps[1].activation.channel = ""
    error = await definition.refusal(definition.stub.CreateJourney(pb.CreateJourneyRequest(journey=wrong)))
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert {one.field for one in error.violations} >= {
        "stages[0].entry",
        "stages[0].milestone",
        "stages[0].steps[0].wait.duration",
        "stages[0].steps[1].activation.channel",
    }
    assert (await definition.refusal(definition.get("welcome"))).reason == ErrorReason.ERROR_REASON_NOT_FOUND


@pytest.mark.parametrize(
    "call",
    [
        lambda stub: stub.GetJourney(pb.GetJourneyRequest(name="journeys/none")),
        lambda stub: stub.UpdateJourney(pb.UpdateJourneyRequest(journey=Journey(name="none"))),
        lambda stub: stub.DeleteJourney(pb.DeleteJourneyRequest(name="journeys/none")),
        lambda stub: stub.PublishJourneys(pb.PublishJourneysRequest(items=[pb.PublishItem(name="none")])),
        lambda stub: stub.ListJourneyVersions(pb.ListJourneyVersionsRequest(parent="journeys/none")),
    ],
)
async def test_an_unknown_journey_is_named(definition, call) -> None:
    error = await definition.refusal(call(definition.stub))
    assert error.reason == ErrorReason.ERROR_REASON_NOT_FOUND
    assert error.resource == "journeys/none"
    assert "journeys/none" in error.message


async def test_an_unknown_version_is_named(definition) -> None:
    await definition.create(definition.welcome())
    request = pb.GetJourneyVersionRequest(name="journeys/welcome/versions/1")
    error = await definition.refusal(definition.stub.GetJourneyVersion(request))
    assert (error.code, error.resource) == (grpc.StatusCode.NOT_FOUND, request.name)


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (lambda stub: stub.GetJourney(pb.GetJourneyRequest()), "name"),
        (lambda stub: stub.GetJourney(pb.GetJourneyRequest(name="templates/x")), "name"),
        (lambda stub: stub.DeleteJourney(pb.DeleteJourneyRequest(name="Upper")), "name"),
        (lambda stub: stub.UpdateJourney(pb.UpdateJourneyRequest()), "journey.name"),
        (lambda stub: stub.CreateJourney(pb.CreateJourneyRequest()), "name"),
        (lambda stub: stub.ListJourneys(pb.ListJourneysRequest(page_size=-1)), "page_size"),
        (lambda stub: stub.ListJourneys(pb.ListJourneysRequest(page_size=1001)), "page_size"),
        (lambda stub: stub.ListJourneys(pb.ListJourneysRequest(page_token="?")), "page_token"),
        (lambda stub: stub.ListJourneyVersions(pb.ListJourneyVersionsRequest(parent="")), "parent"),
        (
            lambda stub: stub.ListJourneyVersions(
                pb.ListJourneyVersionsRequest(parent="welcome", page_token="d2VsY29tZQ==")
            ),
            "page_token",
        ),
        (lambda stub: stub.GetJourneyVersion(pb.GetJourneyVersionRequest(name="journeys/x")), "name"),
        (lambda stub: stub.PublishJourneys(pb.PublishJourneysRequest()), "items"),
        (
            lambda stub: stub.PublishJourneys(pb.PublishJourneysRequest(items=[pb.PublishItem()])),
            "items[0].name",
        ),
        (
            lambda stub: stub.ListJourneyChanges(pb.ListJourneyChangesRequest(after_revision=-1)),
            "after_revision",
        ),
        (
            lambda stub: stub.ListJourneyChanges(pb.ListJourneyChangesRequest(after_revision=1)),
            "after_revision",
        ),
        (lambda stub: stub.AcknowledgeRevision(pb.AcknowledgeRevisionRequest()), "watcher"),
        (lambda stub: stub.AcknowledgeRevision(pb.AcknowledgeRevisionRequest(watcher="w" * 65)), "watcher"),
        (
            lambda stub: stub.AcknowledgeRevision(pb.AcknowledgeRevisionRequest(watcher="w", revision=-1)),
            "revision",
        ),
        (
            lambda stub: stub.CreateJourney(pb.CreateJourneyRequest(request_id="r" * 65)),
            "request_id",
        ),
    ],
)
async def test_a_malformed_request_is_refused_by_its_field(definition, call, field: str) -> None:
    error = await definition.refusal(call(definition.stub))
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert field in {one.field for one in error.violations}


async def test_an_update_replaces_the_draft_and_changes_its_etag(definition) -> None:
    before = await definition.create(definition.welcome())
    after = (
        await definition.stub.UpdateJourney(pb.UpdateJourneyRequest(journey=definition.welcome(wait_s=7200)))
    ).journey
    assert after.etag != before.etag
    assert after.create_time == before.create_time
    assert after.stages[0].steps[0].wait.duration.seconds == 7200
    assert await definition.get("welcome") == after


async def test_an_update_without_a_change_leaves_everything(definition) -> None:
    before = await definition.create(definition.welcome())
    assert (
        await definition.stub.UpdateJourney(pb.UpdateJourneyRequest(journey=definition.welcome()))
    ).journey == before


async def test_an_update_changes_only_the_fields_of_its_mask(definition) -> None:
    await definition.create(definition.welcome())
    change = Journey(name="welcome", goal={"criteria": 'event.name == "purchase"'}, latest_version=9)
    mask = FieldMask(paths=["goal", "latest_version", "name"])
    after = (
        await definition.stub.UpdateJourney(pb.UpdateJourneyRequest(journey=change, update_mask=mask))
    ).journey
    assert after.goal.criteria == 'event.name == "purchase"'
    assert len(after.stages) == 1
    assert after.latest_version == 0
    cleared = pb.UpdateJourneyRequest(journey=Journey(name="welcome"), update_mask=FieldMask(paths=["goal"]))
    assert not (await definition.stub.UpdateJourney(cleared)).journey.HasField("goal")


async def test_an_unknown_path_of_a_mask_is_refused(definition) -> None:
    await definition.create(definition.welcome())
    mask = FieldMask(paths=["goal.criteria", "nonsense"])
    error = await definition.refusal(
        definition.stub.UpdateJourney(pb.UpdateJourneyRequest(journey=definition.welcome(), update_mask=mask))
    )
    assert [one.field for one in error.violations] == ["update_mask.paths[0]", "update_mask.paths[1]"]


async def test_an_update_that_would_be_wrong_changes_nothing(definition) -> None:
    before = await definition.create(definition.welcome())
    request = pb.UpdateJourneyRequest(
        journey=Journey(name="welcome"), update_mask=FieldMask(paths=["stages"])
    )
    assert (
        await definition.refusal(definition.stub.UpdateJourney(request))
    ).code is grpc.StatusCode.INVALID_ARGUMENT
    assert await definition.get("welcome") == before


async def test_a_stale_etag_is_told(definition) -> None:
    before = await definition.create(definition.welcome())
    await definition.stub.UpdateJourney(pb.UpdateJourneyRequest(journey=definition.welcome(wait_s=60)))
    stale = definition.welcome(wait_s=90)
    stale.etag = before.etag
    calls = (
        definition.stub.UpdateJourney(pb.UpdateJourneyRequest(journey=stale)),
        definition.stub.DeleteJourney(pb.DeleteJourneyRequest(name="welcome", etag=before.etag)),
        definition.stub.PublishJourneys(
            pb.PublishJourneysRequest(items=[pb.PublishItem(name="welcome", etag=before.etag)])
        ),
    )
    for call in calls:
        error = await definition.refusal(call)
        assert error.reason == ErrorReason.ERROR_REASON_ETAG_MISMATCH
        assert error.code is grpc.StatusCode.ABORTED
        assert error.resource == "journeys/welcome"


async def test_of_two_updates_from_one_state_exactly_one_is_made(definition, definition_dsn, until) -> None:
    etag = (await definition.create(definition.welcome())).etag

    async def change(wait_s: int) -> str:
        journey = definition.welcome(wait_s=wait_s)
        journey.etag = etag
        try:
            return (await definition.update(journey)).etag
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ABORTED:
                raise
            return ""

    holder = await asyncpg.connect(definition_dsn)
    watcher = await asyncpg.connect(definition_dsn)

    async def both_wait() -> bool:
        return await watcher.fetchval(WAITING) == 2

    try:
        async with holder.transaction():
            await holder.execute("SELECT FROM definition.journeys FOR UPDATE")
            changes = asyncio.gather(change(60), change(61))
            await until(both_wait)
        etags = [one for one in await changes if one]
    finally:
        await holder.close()
        await watcher.close()
    assert etags == [(await definition.get("welcome")).etag]


async def test_an_update_may_create(definition) -> None:
    request = pb.UpdateJourneyRequest(
        journey=definition.welcome(), allow_missing=True, update_mask=FieldMask(paths=["goal"])
    )
    created = (await definition.stub.UpdateJourney(request)).journey
    assert len(created.stages) == 1
    stale = pb.UpdateJourneyRequest(journey=definition.welcome("other"), allow_missing=True)
    stale.journey.etag = "seen"
    assert (
        await definition.refusal(definition.stub.UpdateJourney(stale))
    ).reason == ErrorReason.ERROR_REASON_ETAG_MISMATCH


async def test_only_what_was_never_published_can_be_deleted(definition) -> None:
    await definition.create(definition.welcome())
    await definition.create(definition.welcome("live"))
    await definition.publish("live")
    await definition.stub.DeleteJourney(pb.DeleteJourneyRequest(name="journeys/welcome"))
    assert (await definition.refusal(definition.get("welcome"))).reason == ErrorReason.ERROR_REASON_NOT_FOUND
    error = await definition.refusal(definition.stub.DeleteJourney(pb.DeleteJourneyRequest(name="live")))
    assert error.reason == ErrorReason.ERROR_REASON_FAILED_PRECONDITION
    assert "journeys/live" in error.message


async def test_pages_are_in_order_of_name_and_the_last_has_no_token(definition) -> None:
    names = ["b", "a1", "a-1", "a"]
    for name in names:
        await definition.create(definition.welcome(name))
    seen: list[str] = []
    request = pb.ListJourneysRequest(page_size=2)
    pages = 0
    while True:
        page = await definition.stub.ListJourneys(request)
        seen += [journey.name for journey in page.journeys]
        pages += 1
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [f"journeys/{name}" for name in sorted(names)]
    assert pages == 2


async def test_a_repeated_request_answers_as_the_first_did(definition) -> None:
    first = await definition.create(definition.welcome(), request_id="r1")
    await definition.stub.UpdateJourney(pb.UpdateJourneyRequest(journey=definition.welcome(wait_s=60)))
    assert await definition.create(definition.welcome(), request_id="r1") == first
    assert (await definition.get("welcome")).etag != first.etag


async def test_a_request_id_belongs_to_one_request(definition) -> None:
    await definition.create(definition.welcome(), request_id="r1")
    others = (
        definition.stub.CreateJourney(
            pb.CreateJourneyRequest(journey=definition.welcome("other"), request_id="r1")
        ),
        definition.stub.UpdateJourney(pb.UpdateJourneyRequest(journey=definition.welcome(), request_id="r1")),
        definition.publish("welcome", request_id="r1"),
    )
    for call in others:
        error = await definition.refusal(call)
        assert [one.field for one in error.violations] == ["request_id"]


async def test_a_refused_request_may_be_repeated_under_its_id(definition) -> None:
    assert await definition.refusal(definition.create(definition.welcome(wait_s=0), request_id="r1"))
    assert await definition.create(definition.welcome(), request_id="r1")


async def test_one_request_sent_many_times_at_once_acts_once(definition) -> None:
    answers = await asyncio.gather(
        *(definition.create(definition.welcome(), request_id="r1") for _ in range(8))
    )
    assert all(answer == answers[0] for answer in answers)


async def test_validation_tells_what_saving_and_publishing_would_refuse(definition, destinations) -> None:
    good = await definition.stub.ValidateJourney(pb.ValidateJourneyRequest(journey=definition.welcome()))
    assert (list(good.violations), good.elements) == ([], 3)
    wrong = definition.welcome(template="none", wait_s=0)
    found = await definition.stub.ValidateJourney(pb.ValidateJourneyRequest(journey=wrong))
    assert {one.field for one in found.violations} == {
        "stages[0].steps[0].wait.duration",
        "stages[0].steps[1].activation.template",
    }
    assert (await definition.refusal(definition.get("welcome"))).reason == ErrorReason.ERROR_REASON_NOT_FOUND


async def test_a_journey_of_absurd_size_is_refused(definition) -> None:
    huge = definition.welcome()
    huge.stages[0].entry = 'event.name == "' + "x" * 140_000 + '"'
    error = await definition.refusal(definition.stub.CreateJourney(pb.CreateJourneyRequest(journey=huge)))
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
