"""The effects of a batch as the requests that carry them, and the values that cross the door."""

import math

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from cairn.api.activation.v1 import activation_pb2
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.evaluator.wire import Outgoing, is_id, is_time_zone, json_to_struct, struct_to_json
from cairn.journey.model import AudienceAction
from cairn.journey.state import CancelTimer, RequestActivation, ScheduleTimer, WithdrawActivation


def request(activation_id: str) -> RequestActivation:
    action = next(iter(AudienceAction))
    return RequestActivation(activation_id, 5, 2, "e", "one", "s", "email", "t", action, {"a": 1}, None, None)


def test_a_timer_that_is_canceled_in_its_own_batch_leaves_nothing() -> None:
    outgoing = Outgoing()
    outgoing.add("ann", "cart", [ScheduleTimer("e.t1", 10)])
    outgoing.add("ann", "cart", [CancelTimer("e.t1")])
    row = outgoing.to_row(1, 1)
    assert row.is_empty
    assert (row.schedule, row.cancel) == (None, None)


def test_a_timer_of_an_earlier_batch_is_canceled_there() -> None:
    outgoing = Outgoing()
    outgoing.add("ann", "cart", [CancelTimer("e.t1"), ScheduleTimer("e.t2", 10)])
    outgoing.add("ann", "cart", [CancelTimer("e.t2"), ScheduleTimer("e.t3", 20)])
    row = outgoing.to_row(1, 1)
    (key,) = scheduler_pb2.CancelTimersRequest.FromString(row.cancel).timers
    (timer,) = scheduler_pb2.ScheduleTimersRequest.FromString(row.schedule).timers
    assert (key.timer_id, key.key) == ("e.t1", "ann")
    assert (timer.timer_id, timer.key, timer.payload) == ("e.t3", "ann", b"cart")
    assert timer.due_time.ToMicroseconds() == 20


def test_an_activation_that_is_taken_back_in_its_own_batch_is_told_both_ways() -> None:
    """Its receiver remembers the withdrawal: only so is its fate on record."""
    outgoing = Outgoing()
    outgoing.add("ann", "cart", [request("e.1"), WithdrawActivation("e.1", 5, "goal")])
    row = outgoing.to_row(1, 1)
    (activation,) = activation_pb2.ActivateRequest.FromString(row.activate).activations
    (withdrawal,) = activation_pb2.WithdrawRequest.FromString(row.withdraw).withdrawals
    assert activation.activation_id == withdrawal.activation_id == "e.1"
    assert (activation.journey_version, activation.profile_id) == ("journeys/cart/versions/2", "ann")
    assert withdrawal.reason == "goal"


def test_an_activation_carries_the_time_zone_of_its_quiet_hours() -> None:
    outgoing = Outgoing()
    outgoing.add("ann", "cart", [replace(request("e.1"), time_zone="Asia/Tokyo"), request("e.2")])
    activate = outgoing.to_row(1, 1).activate
    assert activate is not None
    first, second = activation_pb2.ActivateRequest.FromString(activate).activations
    assert (first.time_zone, second.time_zone) == ("Asia/Tokyo", "")


def test_an_erasure_is_a_part_of_its_own() -> None:
    outgoing = Outgoing()
    outgoing.erase("ann", 1_500_000)
    row = outgoing.to_row(1, 1)
    assert not row.is_empty
    assert row.erase is not None
    (erasure,) = activation_pb2.EraseProfilesRequest.FromString(row.erase).erasures
    assert (erasure.profile_id, erasure.erase_time.ToMicroseconds()) == ("ann", 1_500_000)


def test_nothing_to_say_is_an_empty_row() -> None:
    assert Outgoing().to_row(1, 1).is_empty


JSON = st.recursive(
    st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_values_survive_the_way_in_and_out(values) -> None:
    assert struct_to_json(json_to_struct(values)) == values


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_does_not_have_is_null_from_the_beginning(number) -> None:
    struct = Struct()
    struct.update({"a": number, "b": [number], "c": {"d": number}})
    assert struct_to_json(struct) == {"a": None, "b": [None], "c": {"d": None}}


def test_a_value_that_is_not_set_is_null() -> None:
    assert struct_to_json(Struct(fields={"a": {}})) == {"a": None}


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("Asia/Tokyo", True),
        ("UTC", True),
        ("Europe", False),
        ("../UTC", False),
        ("x" * 5000, False),
        ("a\0", False),
    ],
)
def test_time_zones(name, known) -> None:
    assert is_time_zone(name) is known


@pytest.mark.parametrize(
    ("name", "good"),
    [("a", True), ("", False), ("a\0", False), ("é" * 128, True), ("é" * 129, False), ("🛒", True)],
)
def test_ids(name, good) -> None:
    assert is_id(name) is good
