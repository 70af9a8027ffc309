"""An audience lets go of whom an enrollment added: what Activation is asked for, and what its answers do."""

from google.protobuf import json_format
from house import event, until

from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub
from cairn.api.definition.v1 import journey_pb2
from cairn.runtime.clock import from_timestamp

# Nobody listens there, and nothing is known by which an audience knows a person: each delivery comes to an end by failing.
AUDIENCE = """
connection:
  name: nobodys-ads
  meta_audience: {audience_id: "1", access_token_secret: nobodys, base_url: "http://127.0.0.1:9"}
---
name: shown-ads
type: REAL_TIME
reentry: {mode: ALWAYS}
exit_criteria: [{name: out, criteria: event.name == "out-of-ads"}]
stages:
  - name: one
    entry: event.name == "into-ads"
    milestone: event.name == "on-in-ads"
    steps: [{name: seen, activation: {channel: nobodys-ads, action: ADD, until: EXIT}}]
  - name: two
    steps: [{wait: {duration: 20d}}]
"""


async def test_who_leaves_is_removed_and_the_answer_opens_nothing(door, second_door, profile_id) -> None:
    await door.cairn.publish(AUDIENCE)
    activation = ActivationServiceStub(door.cairn.channel("activation"))

    async def deliveries() -> list[activation_pb2.Delivery]:
        request = activation_pb2.ListDeliveriesRequest(profile_id=profile_id)
        found = (await activation.ListDeliveries(request, timeout=10)).deliveries
        return sorted(found, key=lambda each: len(each.activation_id))

    await door.ingest(event(profile_id, "into-ads"))
    # State goes through Postgres: the other replica has to know whom the first added.
    moved_on, left = event(profile_id, "on-in-ads"), event(profile_id, "out-of-ads")
    await second_door.ingest(moved_on, left)

    async def are_both_there() -> bool:
        return len(await deliveries()) == 2

    await until(are_both_there, "an addition and a removal were asked for")
    added, removed = await deliveries()
    assert added.action == journey_pb2.AUDIENCE_ACTION_ADD
    assert removed.action == journey_pb2.AUDIENCE_ACTION_REMOVE
    assert removed.activation_id == f"{added.activation_id}.remove"
    assert (removed.stage, removed.step, removed.connection) == ("one", "seen", "connections/nobodys-ads")
    assert (
        from_timestamp(removed.request_time)
        == from_timestamp(left.occur_time)
        > from_timestamp(added.request_time)
    )
    told = [
        json_format.MessageToDict(entry.transition.detail)
        for entry in await door.timeline(profile_id)
        if entry.transition.step == "seen"
    ]
    asked = {
        "activation_id": removed.activation_id,
        "channel": "connections/nobodys-ads",
        "action": "REMOVE",
    }
    assert asked in told

    async def has_its_answer() -> bool:
        (enrollment,) = await door.enrollments(profile_id)
        return not enrollment.pending_activations

    await until(has_its_answer, "the removal's fate is known")
    assert await door.states(profile_id) == {"shown-ads": "EXITED"}
    assert (await door.kinds(profile_id, "shown-ads"))[-2:] == ["ACTIVATION_REQUESTED", "EXITED"]
