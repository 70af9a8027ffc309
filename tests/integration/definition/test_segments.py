"""Segments: named criteria that a version keeps as they were."""

import asyncio

import asyncpg
import grpc
import pytest

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason


def using(replica, name: str, *segments: str):
    """The welcome journey for those in some segments alone."""
    journey = replica.welcome(name)
    tests = [f'in_segment("{segment}")' for segment in segments]
    journey.stages[0].entry = " && ".join(['event.name == "newsletter_signup"', *tests])
    return journey


async def get(replica, name: str):
    return (await replica.stub.GetSegment(pb.GetSegmentRequest(name=name))).segment


async def delete(replica, name: str, etag: str = ""):
    return await replica.stub.DeleteSegment(pb.DeleteSegmentRequest(name=name, etag=etag))


async def test_a_segment_is_saved_read_and_replaced(definition) -> None:
    saved = await definition.put_segment("vip", "profile.spent > 1000.0", description="Big spenders")
    assert (saved.name, saved.criteria, saved.description) == (
        "segments/vip",
        "profile.spent > 1000.0",
        "Big spenders",
    )
    assert saved.etag
    assert saved.update_time.seconds > 0
    assert await get(definition, "vip") == await get(definition, "segments/vip") == saved
    changed = await definition.put_segment("segments/vip", "profile.spent > 2000.0", etag=saved.etag)
    assert changed.etag != saved.etag
    assert await get(definition, "vip") == changed


async def test_the_same_again_changes_nothing(definition) -> None:
    saved = await definition.put_segment("vip", "profile.a")
    assert await definition.put_segment("vip", "profile.a") == saved


async def test_a_stale_etag_is_told(definition) -> None:
    old = await definition.put_segment("vip", "profile.a")
    await definition.put_segment("vip", "profile.b")
    calls = (
        definition.put_segment("vip", "profile.c", etag=old.etag),
        definition.put_segment("new", "profile.c", etag="seen"),
        delete(definition, "vip", old.etag),
    )
    for call in calls:
        error = await definition.refusal(call)
        assert error.reason == ErrorReason.ERROR_REASON_ETAG_MISMATCH
        assert error.resource.startswith("segments/")
    assert (await get(definition, "vip")).criteria == "profile.b"


async def test_all_that_is_wrong_is_told_at_once(definition) -> None:
    error = await definition.refusal(
        definition.put_segment("vip", 'event.name == "x"', description="x" * 1001)
    )
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert [one.field for one in error.violations] == ["segment.criteria", "segment.description"]
    error = await definition.refusal(definition.put_segment("VIP", ""))
    assert [one.field for one in error.violations] == ["segment.name", "segment.criteria"]
    assert (await definition.refusal(get(definition, "vip"))).reason == ErrorReason.ERROR_REASON_NOT_FOUND


async def test_a_segment_names_others_that_exist_and_never_itself(definition) -> None:
    error = await definition.refusal(definition.put_segment("top", 'in_segment("vip")'))
    assert [(one.field, "'vip'" in one.description) for one in error.violations] == [
        ("segment.criteria", True)
    ]
    await definition.put_segment("vip", "profile.a")
    await definition.put_segment("top", 'in_segment("vip")')
    for name, named in (("vip", "top"), ("self", "self")):
        error = await definition.refusal(definition.put_segment(name, f'in_segment("{named}")'))
        assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
        assert "goes round" in error.violations[0].description
    assert (
        "vip > top > vip"
        in (await definition.refusal(definition.put_segment("vip", 'in_segment("top")')))
        .violations[0]
        .description
    )
    error = await definition.refusal(definition.put_segment("odd", 'in_segment("a\\x00b")'))
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT


async def test_two_that_would_be_a_ring_together_are_not_both_saved(start_replica) -> None:
    here, there = await start_replica(), await start_replica()

    async def put(replica, name: str, named: str) -> bool:
        try:
            await replica.put_segment(name, f'in_segment("{named}")')
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            return False
        return True

    for number in range(10):
        a, b = f"a{number}", f"b{number}"
        await here.put_segment(a, "profile.x")
        await here.put_segment(b, "profile.x")
        assert sorted(await asyncio.gather(put(here, a, b), put(there, b, a))) == [False, True]


async def test_what_another_names_is_not_deleted(definition) -> None:
    await definition.put_segment("vip", "profile.a")
    await definition.put_segment("top", 'in_segment("vip") && profile.b')
    error = await definition.refusal(delete(definition, "vip"))
    assert error.reason == ErrorReason.ERROR_REASON_FAILED_PRECONDITION
    assert "segments/top" in error.message
    await delete(definition, "segments/top")
    await delete(definition, "vip")
    for name in ("top", "vip"):
        for call in (get(definition, name), delete(definition, name)):
            error = await definition.refusal(call)
            assert (error.reason, error.resource) == (
                ErrorReason.ERROR_REASON_NOT_FOUND,
                f"segments/{name}",
            )


async def test_pages_are_in_order_of_name(definition) -> None:
    names = ["b", "a1", "a-1", "a"]
    for name in names:
        await definition.put_segment(name, "profile.x")
    seen: list[str] = []
    request = pb.ListSegmentsRequest(page_size=3)
    while True:
        page = await definition.stub.ListSegments(request)
        seen += [one.name for one in page.segments]
        if not page.next_page_token:
            break
        request.page_token = page.next_page_token
    assert seen == [f"segments/{name}" for name in sorted(names)]
    for request in (pb.ListSegmentsRequest(page_size=-1), pb.ListSegmentsRequest(page_token="QQ==")):
        error = await definition.refusal(definition.stub.ListSegments(request))
        assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT


async def test_a_version_keeps_its_segments_and_those_that_they_name_as_they_were(definition) -> None:
    await definition.put_segment("base", "profile.a")
    await definition.put_segment("vip", 'in_segment("base") && profile.b', description="words")
    await definition.put_segment("other", "profile.c")
    await definition.create(using(definition, "a", "vip"))
    (version,) = (await definition.publish("a")).versions
    assert [(one.name, one.criteria, one.description) for one in version.segments] == [
        ("segments/base", "profile.a", ""),
        ("segments/vip", 'in_segment("base") && profile.b', "words"),
    ]
    await definition.put_segment("vip", "profile.z")
    await delete(definition, "base")
    await delete(definition, "vip")
    stored = await definition.stub.GetJourneyVersion(pb.GetJourneyVersionRequest(name=version.name))
    assert stored.journey_version == version
    assert list((await definition.changes()).versions) == [version]


async def test_a_changed_segment_makes_a_new_version_and_another_does_not(definition) -> None:
    await definition.put_segment("base", "profile.a")
    await definition.put_segment("vip", 'in_segment("base")')
    await definition.put_segment("other", "profile.c")
    await definition.create(using(definition, "a", "vip"))
    first = await definition.publish("a")
    await definition.put_segment("other", "profile.d")
    assert await definition.publish("a") == first
    await definition.put_segment("base", "profile.b")
    second = (await definition.publish("a")).versions[0]
    assert (second.version, second.revision) == (2, 2)
    assert second.journey == first.versions[0].journey
    assert second.segments[0].criteria == "profile.b"
    await definition.put_segment("base", "profile.a")
    third = (await definition.publish("a")).versions[0]
    assert (third.version, third.segments) == (3, first.versions[0].segments)


async def test_a_segment_that_is_not_there_is_refused_when_published_and_told_by_validation(
    definition,
) -> None:
    await definition.put_segment("vip", "profile.a")
    draft = await definition.create(using(definition, "a", "vip", "none"))
    error = await definition.refusal(definition.publish("a"))
    assert [(one.field, "'none'" in one.description) for one in error.violations] == [
        ("items[0].stages[0].entry", True)
    ]
    found = await definition.validate(draft)
    assert [(one.field, "'none'" in one.description) for one in found] == [("stages[0].entry", True)]
    odd = using(definition, "a", "a\\x00b")
    assert [one.field for one in await definition.validate(odd)] == ["stages[0].entry"]


async def test_a_segment_deleted_while_the_set_is_checked_is_missed(definition, destinations) -> None:
    await definition.put_segment("vip", "profile.a")
    await definition.create(using(definition, "a", "vip"))

    async def take_away() -> None:
        destinations.meanwhile = None
        await delete(definition, "vip")

    destinations.meanwhile = take_away
    error = await definition.refusal(definition.publish("a"))
    assert [one.field for one in error.violations] == ["items[0].stages[0].entry"]
    assert (await definition.changes()).revision == 0


async def test_a_segment_changed_while_the_set_is_checked_is_published_as_it_is(
    definition, destinations
) -> None:
    await definition.put_segment("vip", "profile.a")
    await definition.create(using(definition, "a", "vip"))

    async def change() -> None:
        destinations.meanwhile = None
        await definition.put_segment("vip", "profile.b")

    destinations.meanwhile = change
    (version,) = (await definition.publish("a")).versions
    assert version.segments[0].criteria == "profile.b"
    assert (await definition.publish("a")).versions[0] == version


async def test_a_version_uses_at_most_64_segments(definition, definition_dsn) -> None:
    await definition.put_segment("s0", "profile.a")
    for number in range(1, 64):
        await definition.put_segment(f"s{number}", f'in_segment("s{number - 1}")')
    await definition.create(using(definition, "a", "s63"))
    assert len((await definition.publish("a")).versions[0].segments) == 64
    await definition.put_segment("top", "profile.a")
    await definition.update(using(definition, "a", "s63", "top"))
    error = await definition.refusal(definition.publish("a"))
    assert [one.field for one in error.violations] == ["items[0]"]
    assert "uses 65 segments" in error.violations[0].description


async def test_a_change_of_segments_waits_for_another_but_readers_do_not(
    definition, definition_dsn, until
) -> None:
    await definition.put_segment("vip", "profile.a")
    holder, watcher = await asyncpg.connect(definition_dsn), await asyncpg.connect(definition_dsn)
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def one_waits() -> bool:
        return await watcher.fetchval(waiting) == 1

    try:
        async with holder.transaction():
            await holder.execute("LOCK TABLE definition.segments IN SHARE ROW EXCLUSIVE MODE")
            change = asyncio.ensure_future(definition.put_segment("vip", "profile.b"))
            await until(one_waits)
            assert (await get(definition, "vip")).criteria == "profile.a"
        assert (await change).criteria == "profile.b"
    finally:
        await holder.close()
        await watcher.close()


@pytest.mark.parametrize("call", [get, delete])
async def test_a_malformed_name_is_refused(definition, call) -> None:
    error = await definition.refusal(call(definition, "VIP"))
    assert [one.field for one in error.violations] == ["name"]
