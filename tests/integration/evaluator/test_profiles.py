"""What describing a profile does: to its attributes, and to the journeys that read them."""

import itertools

import grpc
import pytest
from house import event

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.runtime.clock import from_timestamp, now_us


async def test_a_description_is_merged_by_its_top_level_names(door, profile_id) -> None:
    await door.upsert(profile_id, name="Ann", tags=["a", "b"], address={"city": "Kyoto", "street": "Sanjo"})
    await door.upsert(profile_id, tags=["c"], address={"city": "Nara"}, age=30)
    assert await door.attributes(profile_id) == {
        "name": "Ann",
        "tags": ["c"],
        "address": {"city": "Nara"},
        "age": 30.0,
    }


async def test_null_removes_an_attribute_only_at_the_top(door, profile_id) -> None:
    await door.upsert(profile_id, name="Ann", age=30, address={"city": "Kyoto"})
    await door.upsert(profile_id, age=None, unknown=None, address={"city": None})
    assert await door.attributes(profile_id) == {"name": "Ann", "address": {"city": None}}


async def test_on_request_a_description_replaces_all(door, profile_id) -> None:
    await door.upsert(profile_id, name="Ann", age=30, time_zone="Asia/Tokyo")
    await door.upsert(profile_id, mode="REPLACE", city="Kyoto", nothing=None)
    profile = await door.profile(profile_id)
    assert dict(profile.attributes) == {"city": "Kyoto"}
    assert profile.time_zone == "Asia/Tokyo"


async def test_a_profile_tells_its_time_zone_revision_and_last_change(door, profile_id) -> None:
    before = now_us()
    await door.upsert(profile_id, time_zone="Europe/Zurich")
    await door.upsert(profile_id, age=30)
    await door.upsert(profile_id, time_zone="Asia/Tokyo")
    profile = await door.profile(profile_id)
    assert (profile.name, profile.profile_id) == (f"profiles/{profile_id}", profile_id)
    assert (profile.time_zone, dict(profile.attributes), profile.revision) == ("Asia/Tokyo", {"age": 30.0}, 3)
    assert before <= from_timestamp(profile.update_time) <= now_us()


async def test_what_is_known_already_changes_nothing(door, profile_id) -> None:
    await door.upsert(profile_id, age=30)
    await door.upsert(profile_id, age=30)
    assert (await door.profile(profile_id)).revision == 1


async def test_a_profile_of_which_nothing_is_said_is_known_nevertheless(door, profile_id) -> None:
    await door.upsert(profile_id)
    assert await door.attributes(profile_id) == {}


async def test_replicas_take_turns_in_describing_a_profile(door, second_door, profile_id) -> None:
    """What one remembers is stale when the other has written: saying again what it remembers has to be an answer to
    what is stored."""
    for each, plan in zip(itertools.cycle((door, second_door)), "abababab", strict=False):
        await each.upsert(profile_id, plan="x")
        await each.upsert(profile_id, plan=plan)
        assert await door.attributes(profile_id) == {"plan": plan}
    await door.upsert(profile_id, plan="gray")
    await second_door.upsert(profile_id, plan="red")
    await door.upsert(profile_id, plan="gray")
    assert await door.attributes(profile_id) == {"plan": "gray"}


async def test_a_refusal_is_judged_by_what_is_stored(door, second_door, profile_id) -> None:
    await door.upsert(profile_id, blob="x" * 20_000)
    await second_door.upsert(profile_id, mode="REPLACE")
    assert not (await door.upsert(profile_id, more="y" * 20_000)).refusals


BAD = {
    "no id": ({"profile_id": ""}, "PROFILE_ID_INVALID", "missing"),
    "id too long": ({"profile_id": "é" * 129}, "PROFILE_ID_INVALID", "256 bytes"),
    "NUL in the id": ({"profile_id": "a\0"}, "PROFILE_ID_INVALID", "NUL"),
    "no such zone": ({"time_zone": "Mars/Olympus"}, "TIME_ZONE_INVALID", "Asia/Tokyo"),
    "a folder of zones": ({"time_zone": "Europe"}, "TIME_ZONE_INVALID", "IANA"),
    "a path": ({"time_zone": "../../etc/passwd"}, "TIME_ZONE_INVALID", "IANA"),
    "NUL in the zone": ({"time_zone": "UTC\0"}, "TIME_ZONE_INVALID", "IANA"),
    "an endless zone": ({"time_zone": "x" * 20_000}, "TIME_ZONE_INVALID", "IANA"),
    "too large": ({"attributes": {"blob": "x" * 32_768}}, "TOO_LARGE", "at most 32768"),
}


@pytest.mark.parametrize(("fields", "reason", "words"), BAD.values(), ids=BAD)
async def test_a_bad_profile_is_refused_alone(door, new_id, fields, reason, words) -> None:
    people = [new_id() for _ in range(3)]
    profiles = [pb.Profile(profile_id=each) for each in people]
    profiles[1].MergeFrom(pb.Profile(**{"attributes": None, **fields}))
    if "profile_id" in fields:
        profiles[1].profile_id = fields["profile_id"]
    answer = await door.stub.UpsertProfiles(pb.UpsertProfilesRequest(profiles=profiles))
    assert answer.accepted == 2
    (refusal,) = answer.refusals
    assert (refusal.index, refusal.reason) == (1, ErrorReason.Value(f"ERROR_REASON_{reason}"))
    assert words in refusal.message
    assert len(refusal.message) < 300
    assert [(await door.profile(each)).revision for each in (people[0], people[2])] == [1, 1]


async def test_a_profile_may_not_grow_beyond_its_limit_by_merging(door, profile_id) -> None:
    await door.upsert(profile_id, one="x" * 20_000)
    answer = await door.upsert(profile_id, two="y" * 20_000)
    (refusal,) = answer.refusals
    assert (answer.accepted, refusal.reason) == (0, ErrorReason.ERROR_REASON_TOO_LARGE)
    assert set(await door.attributes(profile_id)) == {"one"}
    assert not (await door.upsert(profile_id, two="y" * 20_000, one=None)).refusals
    assert set(await door.attributes(profile_id)) == {"two"}


@pytest.mark.parametrize("count", [0, 10_001])
async def test_an_empty_or_too_long_list_is_none(door, count) -> None:
    request = pb.UpsertProfilesRequest(profiles=[pb.Profile(profile_id="p")] * count)
    error = await door.refusal(door.stub.UpsertProfiles(request))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in error.violations] == ["profiles"]


async def test_an_unknown_mode_is_refused(door, profile_id) -> None:
    request = pb.UpsertProfilesRequest(profiles=[pb.Profile(profile_id=profile_id)], mode=9)
    error = await door.refusal(door.stub.UpsertProfiles(request))
    assert (error.code, error.violations[0].field) == (grpc.StatusCode.INVALID_ARGUMENT, "mode")


async def test_the_same_profile_twice_in_a_batch_is_described_in_order(door, profile_id) -> None:
    profiles = [pb.Profile(profile_id=profile_id) for _ in range(50)]
    for number, profile in enumerate(profiles):
        profile.attributes.update({"last": number, f"n{number}": True})
    await door.stub.UpsertProfiles(pb.UpsertProfilesRequest(profiles=profiles))
    attributes = await door.attributes(profile_id)
    assert attributes["last"] == 49
    assert len(attributes) == 51


# Journeys that read profiles


async def test_a_profile_that_meets_an_entry_begins(door, profile_id) -> None:
    await door.upsert(profile_id, plan="silver")
    assert await door.states(profile_id) == {}
    await door.upsert(profile_id, plan="gold")
    assert await door.states(profile_id) == {"gold": "WAITING"}
    assert (await door.timeline(profile_id))[0].transition.cause == "profile"


async def test_a_profile_that_meets_the_goal_ends(door, profile_id) -> None:
    await door.upsert(profile_id, plan="gold")
    await door.upsert(profile_id, churned=True)
    assert await door.states(profile_id) == {"gold": "GOAL_ACHIEVED"}
    await door.upsert(profile_id, age=1)
    assert await door.states(profile_id) == {"gold": "GOAL_ACHIEVED"}


async def test_a_refused_description_moves_nothing(door, profile_id) -> None:
    await door.upsert(profile_id, one="x" * 20_000)
    await door.upsert(profile_id, plan="gold", two="y" * 20_000)
    assert await door.states(profile_id) == {}


async def test_events_and_descriptions_of_a_profile_do_not_meet_each_other(
    door, second_door, profile_id
) -> None:
    """Writers at two replicas lose swaps to each other and lose nothing else."""
    for number in range(15):
        await door.ingest(event(profile_id, "cart_add", number))
        await second_door.upsert(profile_id, **{f"n{number}": number})
        await second_door.ingest(event(profile_id, "purchase", number))
        await door.upsert(profile_id, plan="gold")
    assert len(await door.attributes(profile_id)) == 16
    assert (await door.kinds(profile_id, "cart")).count("GOAL_ACHIEVED") == 15
    assert await door.states(profile_id) == {"cart": "GOAL_ACHIEVED", "gold": "WAITING"}


# Names


@pytest.mark.parametrize("name", ["nobody", "no/slash", "-", "é🛒"])
async def test_an_unknown_profile_is_named(door, name) -> None:
    error = await door.refusal(door.profile(name))
    assert (error.code, error.resource) == (grpc.StatusCode.NOT_FOUND, f"profiles/{name}")


@pytest.mark.parametrize("name", ["", "profiles/", "ann", "profile/ann", "profiles/a\0b", "PROFILES/ann"])
async def test_a_name_of_no_profile_is_refused_with_the_pattern(door, name) -> None:
    error = await door.refusal(door.stub.GetProfile(pb.GetProfileRequest(name=name)))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = error.violations
    assert violation.field == "name"
    assert "profiles/{profile_id}" in violation.description
