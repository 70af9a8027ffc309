"""What operators look at: enrollments and timelines, a page at a time and to the end."""

import base64
import json

import grpc
import pytest
from house import event, until

from cairn.api.activation.v1 import activation_pb2
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.runtime.clock import from_timestamp, now_us


def token(*place: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(place).encode()).decode()


BAD_TOKENS = {
    "no base64": "???",
    "no ASCII": "é",
    "no JSON": base64.urlsafe_b64encode(b"{").decode(),
    "no list": base64.urlsafe_b64encode(b"7").decode(),
    "too short": token(1),
    "too long": token(1, 2, 3, 4),
    "other types": token("a", []),
    "endless": token(10**30, 10**30),
    "far too early": token(-(10**18), 0),
    "past the end of time": token(2**62, 0),
    "a NUL": token(0, "a\0b"),
}


# Enrollments


async def everything(door, parent: str, **filters: object) -> list[pb.Enrollment]:
    """Every page to the end; none holds more than it was asked for."""
    request = pb.ListEnrollmentsRequest(parent=parent, **filters)
    found: list[pb.Enrollment] = []
    for _ in range(10_000):
        answer = await door.stub.ListEnrollments(request, timeout=20)
        assert len(answer.enrollments) <= (request.page_size or 100)
        found += answer.enrollments
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token
    raise AssertionError("the pages never end")


async def test_an_enrollment_tells_where_it_is(door, profile_id) -> None:
    began = now_us()
    await door.ingest(event(profile_id, "cart_add", time_us=began))
    (found,) = await door.enrollments(profile_id)
    assert found.journey_version == "journeys/cart/versions/1"
    assert (found.state, found.stage, found.step) == (pb.ENROLLMENT_STATE_WAITING, "filled", "pause")
    wait_us = 20 * 24 * 3600 * 1_000_000 // 3600
    assert from_timestamp(found.enter_time) == from_timestamp(found.stage_enter_time) == began
    assert from_timestamp(found.wait_until) == from_timestamp(found.due_time) == began + wait_us
    assert not found.HasField("end_time")
    await door.ingest(event(profile_id, "purchase", time_us=began + 1))
    (ended,) = await door.enrollments(profile_id)
    assert (ended.name, ended.state) == (found.name, pb.ENROLLMENT_STATE_GOAL_ACHIEVED)
    assert from_timestamp(ended.end_time) == began + 1
    assert not ended.step
    assert not ended.HasField("wait_until")
    assert not ended.HasField("due_time")


async def test_enrollments_of_one_profile_are_filtered(door, profile_id) -> None:
    await door.ingest(event(profile_id, "cart_add"), event(profile_id, "purchase"))
    await door.upsert(profile_id, plan="gold")
    assert await door.states(profile_id) == {"cart": "GOAL_ACHIEVED", "gold": "WAITING"}
    for filters, journeys in (
        ({"journey": "journeys/cart"}, ["cart"]),
        ({"journey": "cart"}, ["cart"]),
        ({"journey": "journeys/none"}, []),
        ({"states": ["ENROLLMENT_STATE_WAITING"]}, ["gold"]),
        ({"states": ["ENROLLMENT_STATE_GOAL_ACHIEVED", "ENROLLMENT_STATE_WAITING"]}, ["cart", "gold"]),
        ({"states": ["ENROLLMENT_STATE_EXITED"]}, []),
        ({"journey": "journeys/cart", "states": ["ENROLLMENT_STATE_WAITING"]}, []),
    ):
        found = await door.enrollments(profile_id, **filters)
        assert [each.journey_version.split("/")[1] for each in found] == journeys, filters


@pytest.mark.parametrize("size", [1, 7, 0])
async def test_all_enrollments_come_once_whatever_the_size_of_a_page(door, new_id, size) -> None:
    people = {new_id() for _ in range(60)}
    await door.ingest(*(event(each, name) for each in people for name in ("cart_add", "signup")))
    found = await everything(door, "profiles/-", page_size=size)
    names = [each.name for each in found]
    assert len(set(names)) == len(names)
    mine = [each for each in found if each.name.split("/")[1] in people]
    assert len(mine) == 120
    carts = await everything(door, "profiles/-", page_size=size, journey="journeys/cart")
    assert people <= {each.name.split("/")[1] for each in carts}
    assert {each.journey_version for each in carts} == {"journeys/cart/versions/1"}
    waiting = ["ENROLLMENT_STATE_WAITING"]
    here = await everything(door, "profiles/-", page_size=size, journey="journeys/cart", states=waiting)
    assert people <= {each.name.split("/")[1] for each in here}
    assert {each.state for each in here} == {pb.ENROLLMENT_STATE_WAITING}


async def test_several_enrollments_of_one_profile_keep_to_the_page(door, profile_id) -> None:
    await door.ingest(event(profile_id, "cart_add"), event(profile_id, "signup"))
    await door.upsert(profile_id, plan="gold")
    for size in (1, 2, 3):
        found = await everything(door, f"profiles/{profile_id}", page_size=size)
        assert {each.journey_version.split("/")[1] for each in found} == {"cart", "greeting", "gold"}


async def test_a_page_may_be_asked_for_without_measure(door, profile_id) -> None:
    await door.ingest(event(profile_id, "cart_add"))
    for size in (-1, 2**31 - 1):
        request = pb.ListEnrollmentsRequest(parent="profiles/-", page_size=size)
        assert len((await door.stub.ListEnrollments(request)).enrollments) <= 1000


@pytest.mark.parametrize("bad", BAD_TOKENS.values(), ids=BAD_TOKENS)
async def test_a_bad_token_is_refused(door, profile_id, bad) -> None:
    await door.ingest(event(profile_id, "cart_add"))
    for call in (
        door.stub.ListEnrollments(pb.ListEnrollmentsRequest(parent="profiles/-", page_token=bad)),
        door.stub.GetTimeline(pb.GetTimelineRequest(profile=f"profiles/{profile_id}", page_token=bad)),
    ):
        error = await door.refusal(call)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [each.field for each in error.violations] == ["page_token"]


@pytest.mark.parametrize("name", ["", "profiles/", "enrollments/x", "profiles/a\0b"])
async def test_a_bad_name_is_refused_with_the_pattern(door, name) -> None:
    for call, field in (
        (door.stub.ListEnrollments(pb.ListEnrollmentsRequest(parent=name)), "parent"),
        (door.stub.GetTimeline(pb.GetTimelineRequest(profile=name)), "profile"),
        (door.stub.GetEnrollment(pb.GetEnrollmentRequest(name=name)), "name"),
        (door.stub.GetEnrollment(pb.GetEnrollmentRequest(name=f"{name}/enrollments/e")), "name"),
    ):
        error = await door.refusal(call)
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT
        assert [each.field for each in error.violations] == [field]
        assert "profiles/{profile_id}" in error.violations[0].description


@pytest.mark.parametrize("journey", ["journeys/a\0b", "versions/1", "journeys/cart/versions/1"])
async def test_a_journey_that_can_be_none_is_refused(door, journey) -> None:
    request = pb.ListEnrollmentsRequest(parent="profiles/-", journey=journey)
    error = await door.refusal(door.stub.ListEnrollments(request))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in error.violations] == ["journey"]


async def test_what_is_not_there_is_named(door, profile_id) -> None:
    nobody = f"profiles/{profile_id}"
    for call, resource in (
        (door.stub.ListEnrollments(pb.ListEnrollmentsRequest(parent=nobody)), nobody),
        (door.stub.GetTimeline(pb.GetTimelineRequest(profile=nobody)), nobody),
        (
            door.stub.GetEnrollment(pb.GetEnrollmentRequest(name=f"{nobody}/enrollments/e")),
            f"{nobody}/enrollments/e",
        ),
    ):
        error = await door.refusal(call)
        assert (error.code, error.resource) == (grpc.StatusCode.NOT_FOUND, resource)


# Timelines


async def pages(door, profile_id: str, size: int) -> list[pb.TimelineEntry]:
    request = pb.GetTimelineRequest(profile=f"profiles/{profile_id}", page_size=size)
    found: list[pb.TimelineEntry] = []
    for _ in range(1000):
        answer = await door.stub.GetTimeline(request, timeout=20)
        assert len(answer.entries) <= size
        found += answer.entries
        if not answer.next_page_token:
            return found
        request.page_token = answer.next_page_token
    raise AssertionError("the pages never end")


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
async def test_a_timeline_is_told_from_its_end_to_its_beginning(door, profile_id, size) -> None:
    for number in range(6):
        await door.ingest(event(profile_id, "cart_add", number), event(profile_id, "purchase", number))
    entries = await pages(door, profile_id, size)
    kinds = [pb.TransitionKind.Name(entry.transition.kind).split("_", 2)[2] for entry in reversed(entries)]
    assert kinds == ["ENTERED", "STAGE_ENTERED", "WAIT_STARTED", "WAIT_CANCELED", "GOAL_ACHIEVED"] * 6
    times = [from_timestamp(entry.record_time) for entry in entries]
    assert times == sorted(times, reverse=True)
    causes = [entry.transition.cause for entry in reversed(entries)]
    assert causes[:5] == ["event cart_add-0"] * 3 + ["event purchase-0"] * 2


async def test_a_timeline_tells_what_became_of_an_activation(door, profile_id) -> None:
    await door.ingest(event(profile_id, "signup"))

    async def told() -> list[pb.TimelineEntry]:
        return [each for each in await door.timeline(profile_id) if each.HasField("receipt")]

    await until(told, "the greeting's receipt is on the timeline")
    entries = await door.timeline(profile_id)
    ids = {
        entry.transition.detail["activation_id"]
        for entry in entries
        if entry.transition.kind == pb.TRANSITION_KIND_ACTIVATION_REQUESTED
    }
    (receipt,) = [entry.receipt for entry in entries if entry.HasField("receipt")]
    assert {receipt.activation_id} == ids
    assert receipt.state == activation_pb2.DELIVERY_STATE_SENT
    (enrollment,) = await door.enrollments(profile_id)
    assert not enrollment.pending_activations


async def test_a_profile_without_a_history_has_an_empty_timeline(door, profile_id) -> None:
    await door.upsert(profile_id, age=1)
    assert await door.timeline(profile_id) == []
