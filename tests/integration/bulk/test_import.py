"""ImportProfiles: what it makes of profiles, the same as UpsertProfiles would, whichever way they take."""

import asyncio

import grpc
import pytest
from house import event, until

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.runtime.errors import error_from_rpc


async def test_new_profiles_have_what_they_came_with(bulk) -> None:
    answer = await bulk.take(
        [("new-1", {"age": 36, "tags": ["a", 1], "gone": None}), ("new-2", {})], zones=["Asia/Tokyo", ""]
    )
    assert (answer.accepted, answer.refused) == (2, 0)
    found = await bulk.profile("new-1")
    assert dict(found.attributes) == {"age": 36.0, "tags": ["a", 1.0]}
    assert (found.time_zone, found.revision) == ("Asia/Tokyo", 1)
    assert (await bulk.profile("new-2")).revision == 1


@pytest.mark.parametrize("fresh", [True, False], ids=["mostly new", "mostly there"])
async def test_merge_and_replace(bulk, fresh: bool) -> None:
    name = f"merge-{fresh}"
    await bulk.take([(name, {"a": 1, "b": 2, "c": 3})], zones=["Asia/Tokyo"])
    # Whether those around it are new decides which way is tried first.
    others = [(f"{name}-{number if fresh else 0}-x{number}", {"n": number}) for number in range(50)]
    if not fresh:
        await bulk.take(others)
        await bulk.take(others)
    await bulk.take([*others, (name, {"b": 5, "c": None, "d": 4})])
    assert await bulk.attributes(name) == {"a": 1.0, "b": 5.0, "d": 4.0}
    assert (await bulk.profile(name)).time_zone == "Asia/Tokyo"
    await bulk.take([*others, (name, {"e": 1})], mode="REPLACE")
    assert await bulk.attributes(name) == {"e": 1.0}
    revision = (await bulk.profile(name)).revision
    await bulk.take([*others, (name, {"e": 1.0})])
    assert (await bulk.profile(name)).revision == revision, "what says nothing new changes nothing"


async def test_one_id_more_than_once_is_taken_in_order(bulk) -> None:
    first = [("twice", {"a": 1, "b": 1}), ("twice", {"a": 2}), ("twice", {"b": None, "c": 3})]
    await bulk.take(first, [("twice", {"c": 4})])
    assert await bulk.attributes("twice") == {"a": 2.0, "c": 4.0}


async def test_a_bad_row_is_refused_by_its_place_in_the_call_and_harms_no_other(bulk) -> None:
    deep = "[" * 30 + "]" * 30
    answer = await bulk.take(
        [("bad-1", {"ok": 1}), ("", {})],
        [
            ("bad-2", "[1]"),
            ("bad-3", '{"a": '),
            ("b" * 300, {}),
            ("bad-4", {"x": "y" * 33_000}),
            ("bad-5", f'{{"x": {deep}}}'),
            ("bad-6", {"ok": 1}),
        ],
    )
    assert (answer.accepted, answer.refused) == (2, 6)
    told = [
        (each.index, ErrorReason.Name(each.reason).removeprefix("ERROR_REASON_")) for each in answer.refusals
    ]
    assert told == [
        (1, "PROFILE_ID_INVALID"),
        (2, "INVALID_ARGUMENT"),
        (3, "INVALID_ARGUMENT"),
        (4, "PROFILE_ID_INVALID"),
        (5, "TOO_LARGE"),
        (6, "INVALID_ARGUMENT"),
    ]
    assert await bulk.attributes("bad-1") == await bulk.attributes("bad-6") == {"ok": 1.0}
    zones = await bulk.take([("zone", {})], zones=["Mars/Olympus"])
    assert [each.reason for each in zones.refusals] == [ErrorReason.ERROR_REASON_TIME_ZONE_INVALID]


async def test_one_that_grows_too_large_by_merging_is_refused(bulk) -> None:
    await bulk.take([("grown", {"a": "x" * 20_000})])
    answer = await bulk.take([("grown", {"b": "x" * 20_000})])
    assert [(each.index, each.reason) for each in answer.refusals] == [
        (0, ErrorReason.ERROR_REASON_TOO_LARGE)
    ]
    assert set(await bulk.attributes("grown")) == {"a"}


@pytest.mark.parametrize(
    ("columns", "field"),
    [
        ({"profile_ids": [], "attributes": []}, "profiles.profile_ids"),
        ({"profile_ids": ["a"], "attributes": []}, "profiles.attributes"),
        ({"profile_ids": ["a"], "attributes": ["{}"], "time_zones": ["", ""]}, "profiles.time_zones"),
    ],
)
async def test_columns_that_make_no_rows(bulk, columns, field: str) -> None:
    request = pb.ImportProfilesRequest(profiles=pb.ProfileRows(**columns))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bulk.stub.ImportProfiles(iter([request]), timeout=20)
    error = error_from_rpc(caught.value)
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert [each.field for each in error.violations] == [field]


async def test_a_journey_that_somebody_is_in_sees_the_change(bulk) -> None:
    names = [f"inside-{number}" for number in range(20)]
    await bulk.take([(name, {"plan": "free"}) for name in names])
    await bulk.cairn.send([event(name, "asked") for name in names])
    await bulk.take([(name, {"plan": "gold"}) for name in names])
    for name in names:
        timeline = (await bulk.stub.GetTimeline(pb.GetTimelineRequest(profile=f"profiles/{name}"))).entries
        kinds = [
            pb.TransitionKind.Name(each.transition.kind)[16:]
            for each in timeline
            if each.HasField("transition")
        ]
        assert kinds.count("ACTIVATION_REQUESTED") == 1, kinds


async def test_who_was_erased_is_made_anew(bulk) -> None:
    names = [f"leaver-{number}" for number in range(12)]
    await bulk.take([(name, {"secret": 1}) for name in names])
    await bulk.stub.EraseProfiles(pb.EraseProfilesRequest(profile_ids=names[:6]), timeout=20)
    answer = await bulk.take([(name, {"fresh": 1}) for name in [*names, *(f"{name}-new" for name in names)]])
    assert (answer.accepted, answer.refused) == (24, 0)
    assert [await bulk.attributes(name) for name in names] == [{"fresh": 1.0}] * 6 + [
        {"secret": 1.0, "fresh": 1.0}
    ] * 6
    assert {(await bulk.profile(name)).revision > 1 for name in names[:6]} == {True}, "the revision goes on"


async def test_writers_side_by_side_lose_nothing_of_each_other(bulk) -> None:
    """Imports, upserts and events of the same profiles at once: in the end everything is there."""
    names = [f"side-{number}" for number in range(60)]

    async def describe(key: str) -> None:
        profiles = [pb.Profile(profile_id=name) for name in names]
        for profile in profiles:
            profile.attributes.update({key: 1})
        await bulk.stub.UpsertProfiles(pb.UpsertProfilesRequest(profiles=profiles), timeout=30)

    async def ask() -> None:
        await bulk.cairn.send([event(name, "asked") for name in names])

    imports = [bulk.take([(name, {f"i{number}": 1}) for name in names]) for number in range(6)]
    await asyncio.gather(*imports, *(describe(f"u{number}") for number in range(3)), ask())
    wanted = {**{f"i{number}": 1.0 for number in range(6)}, **{f"u{number}": 1.0 for number in range(3)}}
    for name in names:
        assert await bulk.attributes(name) == wanted
    everybody = [pb.ListEnrollmentsRequest(parent=f"profiles/{name}") for name in names]
    found = [len((await bulk.stub.ListEnrollments(each)).enrollments) for each in everybody]
    assert found == [1] * len(names)


async def test_export_and_list_tell_everybody_once(bulk) -> None:
    wanted = {f"out-{number:05}": {"n": float(number)} for number in range(2_500)}
    await bulk.take(list(wanted.items()))
    found: dict[str, str] = {}
    tokens = []
    async for page in bulk.stub.ExportProfiles(pb.ExportProfilesRequest(), timeout=30):
        found.update(zip(page.profiles.profile_ids, page.profiles.attributes, strict=True))
        tokens.append(page.next_page_token)
    assert tokens[-1] == ""
    assert all(tokens[:-1])
    assert {name: text for name, text in found.items() if name.startswith("out-")} == {
        name: f'{{"n":{value["n"]}}}' for name, value in wanted.items()
    }
    # From any place on the rest comes, and nothing twice.
    rest: list[str] = []
    async for page in bulk.stub.ExportProfiles(pb.ExportProfilesRequest(page_token=tokens[0]), timeout=30):
        rest += page.profiles.profile_ids
    assert len(rest) == len(set(rest)) < len(found)
    chosen: list[str] = []
    request = pb.ListProfilesRequest(criteria="has(profile.n) && profile.n < 10", page_size=1000)
    while True:
        answer = await bulk.stub.ListProfiles(request, timeout=20)
        chosen += [each.profile_id for each in answer.profiles]
        request.page_token = answer.next_page_token
        if not request.page_token:
            break
    assert sorted(name for name in chosen if name.startswith("out-")) == list(wanted)[:10]


@pytest.mark.parametrize("criteria", ["profile.", 'in_segment("vip")', "event.name == 'x'"])
async def test_criteria_that_an_export_can_not_have(bulk, criteria: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await bulk.stub.ListProfiles(pb.ListProfilesRequest(criteria=criteria), timeout=20)
    assert [each.field for each in error_from_rpc(caught.value).violations] == ["criteria"]


async def test_a_broken_call_takes_what_came_before_and_the_service_goes_on(bulk) -> None:
    async def messages():
        yield pb.ImportProfilesRequest(
            profiles=pb.ProfileRows(profile_ids=["half"], attributes=['{"half": true}'])
        )
        yield pb.ImportProfilesRequest(
            profiles=pb.ProfileRows(profile_ids=["other"], attributes=['{"a": 1}'])
        )
        await asyncio.Event().wait()

    call = bulk.stub.ImportProfiles(messages(), timeout=30)

    async def is_there() -> bool:
        try:
            return await bulk.attributes("half") == {"half": True}
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return False

    await until(is_there, "the first message is taken")
    call.cancel()
    assert (await bulk.take([("after", {"a": 1})])).accepted == 1
