"""Simulations on request: what they say is what the service itself records, and what is wrong with a request is told at once."""

import grpc
import pytest
from house import event, until

from cairn.api.definition.v1 import journey_pb2
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.journey.document import read_documents
from cairn.runtime.clock import now_us, to_timestamp

DRAFT = """
name: tried
type: REAL_TIME
goal: {criteria: event.name == "tried_purchase"}
stages:
  - name: cart
    entry: event.name == "tried_add" && in_segment("regulars")
    steps:
      - wait: {duration: 3h}
      - activation: {channel: ledger}
"""
HOUR_US = 3_600_000_000
START_US = 1_767_225_600_000_000
SEGMENT = journey_pb2.Segment(name="regulars", criteria='count("tried_add") > 1')


def draft(text: str = DRAFT) -> journey_pb2.Journey:
    (document,), violations = read_documents(text)
    assert not violations
    assert isinstance(document.message, journey_pb2.Journey)
    return document.message


def happens(*events: pb.Event) -> list[pb.SimulatedInput]:
    return [pb.SimulatedInput(event=each) for each in events]


def at(profile_id: str, name: str, number: int, hours: float) -> pb.Event:
    return event(profile_id, name, number, START_US + round(hours * HOUR_US))


def told(found: list[pb.SimulatedTransition]) -> list[str]:
    return [
        f"{each.profile_id} {pb.TransitionKind.Name(each.transition.kind).removeprefix('TRANSITION_KIND_')}"
        for each in found
    ]


async def run(door, **fields) -> list[pb.SimulatedTransition]:
    found: list[pb.SimulatedTransition] = []
    async for answer in door.stub.Simulate(pb.SimulateRequest(**fields), timeout=20):
        found += answer.transitions
    return found


async def test_a_draft_runs_with_its_segments_under_a_virtual_clock(door) -> None:
    inputs = happens(
        at("ann", "tried_add", 1, 0),
        at("ann", "tried_add", 2, 1),
        at("ann", "tried_add", 2, 1),
        at("bob", "tried_add", 1, 0),
        at("bob", "tried_add", 2, 2),
        at("bob", "tried_purchase", 3, 3),
    )
    found = await run(door, journeys=[draft()], segments=[SEGMENT], inputs=inputs)
    begun = ["ENTERED", "STAGE_ENTERED", "WAIT_STARTED"]
    assert told(found) == [
        *(f"ann {kind}" for kind in begun),
        *(f"bob {kind}" for kind in begun),
        "bob WAIT_CANCELED",
        "bob GOAL_ACHIEVED",
        *(f"ann {kind}" for kind in ("WAIT_ENDED", "ACTIVATION_REQUESTED", "RESTED", "COMPLETED")),
    ]
    until_ = to_timestamp(START_US + 3 * HOUR_US)
    shorter = await run(door, journeys=[draft()], segments=[SEGMENT], inputs=inputs, until=until_)
    assert told(shorter) == told(found)[:8]


async def test_a_version_says_word_for_word_what_the_service_records(door, profile_id) -> None:
    sent = event(profile_id, "signup", 1, now_us() - 600_000_000)
    await door.ingest(sent)

    async def is_over() -> bool:
        return "COMPLETED" in await door.kinds(profile_id, "greeting")

    await until(is_over, "the greeting is sent")
    recorded = [
        each.transition for each in reversed(await door.timeline(profile_id)) if each.HasField("transition")
    ]
    found = await run(door, versions=["journeys/greeting/versions/1"], inputs=happens(sent))
    assert [each.transition for each in found] == recorded


async def test_the_unary_twin_gives_the_same(door) -> None:
    fields = {"journeys": [draft()], "segments": [SEGMENT]}
    inputs = happens(*(at("ann", "tried_add", number, number) for number in range(3)))
    request = pb.SimulateOnceRequest(simulation=pb.SimulateRequest(inputs=inputs, **fields))
    answer = await door.stub.SimulateOnce(request, timeout=20)
    assert list(answer.transitions) == await run(door, inputs=inputs, **fields)
    assert not answer.cut


async def test_all_that_is_wrong_is_told_at_once(door) -> None:
    broken = draft()
    broken.stages[0].entry = "event.name =="
    call = run(
        door,
        journeys=[broken],
        versions=["journeys/nowhere/versions/1"],
        segments=[journey_pb2.Segment(name="odd", criteria="event.name == 1")],
        inputs=[
            pb.SimulatedInput(event=pb.Event(event_id="1", profile_id="ann", name="x")),
            pb.SimulatedInput(
                profile=pb.SimulatedProfile(profile_id="ann", time=to_timestamp(START_US), time_zone="Mars")
            ),
            pb.SimulatedInput(),
        ],
    )
    refused = await door.refusal(call)
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in refused.violations] == [
        "segments[0].criteria",
        "journeys[0].stages[0].entry",
        "versions[0]",
        "inputs[0].event.occur_time",
        "inputs[1].profile.time_zone",
        "inputs[2]",
    ]


@pytest.mark.parametrize("fields", [{}, {"journeys": [draft(), draft()]}])
async def test_there_has_to_be_a_journey_and_each_once(door, fields) -> None:
    refused = await door.refusal(run(door, **fields))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
