"""What needs no network: how an event is made and packed, what makes a batch, what a failure means."""

import enum
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1.evaluator_pb2 import Event, StreamEventsRequest
from cairn.client import EventClientSettings, event
from cairn.client.answers import Failure, NotAcknowledgedError, Outcome
from cairn.client.batch import MAX_FRAME_BYTES, Batch, frame
from cairn.client.buffer import Buffer
from cairn.client.retry import backoff, code_of, delay, is_passing, may_be_taken
from cairn.runtime.errors import CairnError
from cairn.runtime.settings_docs import render_settings_table

README = Path(__file__).parents[3] / "libs" / "client" / "README.md"


class Color(enum.StrEnum):
    RED = "red"


def buffer(**limits: Any) -> Buffer:
    return Buffer(
        **{
            "batch_events": 3,
            "batch_bytes": 1000,
            "batch_age": 0.5,
            "max_events": 10,
            "max_bytes": 10_000,
            **limits,
        }
    )


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"text": "é", "whole": 7, "part": -0.5, "yes": True, "no": False, "nothing": None, "empty": ""},
        {"list": [1, "a", None, [True, []], {"x": {}}], "object": {"a": {"b": [1.5]}}},
        {"empty list": [], "empty object": {}},
    ],
)
def test_properties_are_what_the_library_makes_of_them(properties: dict[str, Any]) -> None:
    wanted = Struct()
    wanted.update(properties)
    assert event("n", "p", properties, event_id="e").properties == wanted


def test_an_event_says_all_it_was_given() -> None:
    moment = datetime(2026, 11, 23, 18, 0, 0, 123_456, UTC)
    made = event("cart_add", "ada", {"color": Color.RED, "pair": (1, 2)}, event_id="e1", occur_time=moment)
    assert (made.name, made.profile_id, made.event_id) == ("cart_add", "ada", "e1")
    assert made.occur_time.ToDatetime(UTC) == moment
    assert made.properties["color"] == "red"
    assert list(made.properties["pair"]) == [1, 2]
    assert event("n", "p", event_id="e", occur_time=-1).occur_time.ToMicroseconds() == -1
    assert event("n", "p", event_id="e").HasField("occur_time")


def test_what_is_no_json_value_is_named() -> None:
    with pytest.raises(TypeError, match="a property is a bytes"):
        event("n", "p", {"x": b"1"}, event_id="e")
    with pytest.raises(ValueError, match="zone"):
        event("n", "p", event_id="e", occur_time=datetime(2026, 1, 1))


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16_383, 16_384, 70_000, 2_100_000])
def test_a_batch_reads_as_the_message_of_the_contract(size: int) -> None:
    events = [Event(event_id="first"), Event(), Event(name="x" * size)]
    batch = Batch(7, 0.0)
    for each in events:
        batch.add(each.SerializeToString())
    batch.seal()
    assert StreamEventsRequest.FromString(batch.message(9)) == StreamEventsRequest(
        sequence=7, min_revision=9, events=events
    )
    assert batch.events() == events
    assert len(batch.body) <= batch.size
    assert len(frame(size)) <= MAX_FRAME_BYTES


async def test_every_event_has_the_answer_of_its_place() -> None:
    batch = Batch(1, 0.0)
    first, second = batch.add(b""), batch.add(b"")
    assert not first.answered
    batch.answer({1: Outcome(False, ErrorReason.ERROR_REASON_TOO_LARGE, "big")})
    assert first.answered
    assert await first == Outcome(True)
    assert (await second).message == "big"


async def test_a_batch_that_was_given_up_raises_an_error_of_its_own_for_everybody() -> None:
    batch = Batch(1, 0.0)
    pending = batch.add(b"")
    batch.fail(Failure(ErrorReason.ERROR_REASON_OVERLOADED, "full", True))
    raised = []
    for _ in range(2):
        with pytest.raises(NotAcknowledgedError, match="full") as caught:
            await pending
        raised.append(caught.value)
    assert raised[0] is not raised[1]
    assert raised[0].maybe_taken


def test_a_batch_leaves_when_it_is_full_or_old_or_nothing_is_under_way() -> None:
    waiting = buffer()
    for number in range(4):
        waiting.put(bytes([number]), 10.0)
    full = waiting.take(10.0, idle=False)
    assert full is not None
    assert full.count == 3
    assert waiting.take(10.4, idle=False) is None
    assert waiting.due == 10.5
    old = waiting.take(10.5, idle=False)
    assert old is not None
    assert old.count == 1
    waiting.put(b"", 20.0)
    assert waiting.take(20.0, idle=True) is not None
    assert waiting.take(20.0, idle=True) is None


def test_no_batch_is_larger_than_its_bytes() -> None:
    waiting = buffer(batch_events=100, batch_bytes=1000)
    for _ in range(10):
        waiting.put(b"x" * 300, 0.0)
    waiting.close()
    batches = waiting.waiting()
    assert [batch.count for batch in batches] == [3, 3, 3, 1]
    assert all(len(batch.body) <= 1000 for batch in batches)


def test_room_is_given_up_with_the_answer_not_with_the_sending() -> None:
    waiting = buffer(max_events=3)
    for _ in range(3):
        waiting.put(b"x", 0.0)
    assert not waiting.has_room(1)
    batch = waiting.take(0.0, idle=False)
    assert batch is not None
    assert not waiting.has_room(1)
    waiting.drop(batch)
    assert waiting.has_room(1)
    assert (waiting.events, waiting.bytes) == (0, 0)


def test_bytes_bound_too_but_never_lock_out_a_single_event() -> None:
    waiting = buffer(max_bytes=100)
    assert waiting.has_room(500)
    waiting.put(b"x" * 60, 0.0)
    assert not waiting.has_room(60)
    assert waiting.has_room(20)


def test_what_comes_back_goes_to_its_old_place() -> None:
    waiting = buffer(batch_events=1)
    for _ in range(4):
        waiting.put(b"", 0.0)
    first, second = waiting.take(0.0, idle=False), waiting.take(0.0, idle=False)
    assert first is not None
    assert second is not None
    waiting.give_back([second, first])
    assert [batch.number for batch in waiting.waiting()] == [1, 2, 3, 4]


def test_only_what_has_waited_too_long_expires() -> None:
    waiting = buffer(batch_events=2)
    for now in (1.0, 1.0, 2.0):
        waiting.put(b"", now)
    waiting.close_old(2.9)
    assert waiting.due is not None
    waiting.close_old(3.0)
    assert waiting.due is None
    assert [batch.opened for batch in waiting.remove_expired(1.0)] == [1.0]
    assert [batch.opened for batch in waiting.waiting()] == [2.0]
    assert waiting.has_closed


def test_a_batch_may_grow_for_as_long_as_its_age_says() -> None:
    waiting = buffer(batch_age=20.0)
    waiting.put(b"", 0.0)
    waiting.close_old(19.9)
    assert not waiting.has_closed
    assert waiting.take(19.9, idle=False) is None
    waiting.close_old(20.0)
    assert waiting.has_closed


def test_delays_double_up_to_a_bound_and_never_undercut_what_was_asked() -> None:
    assert [backoff(tries, 1.0) for tries in (1, 2, 3)] == [0.05, 0.1, 0.2]
    assert backoff(1, 0.0) == 0.025
    assert backoff(10_000, 1.0) == 2.0
    asked = CairnError(ErrorReason.ERROR_REASON_OVERLOADED, "", retry_after_s=5.0)
    assert delay(asked, 1, 0.0) == 5.0
    assert delay(asked, 1, 1.0) == 6.0
    assert delay(CairnError(ErrorReason.ERROR_REASON_NOT_READY, ""), 2, 1.0) == 0.1


@pytest.mark.parametrize(
    ("reason", "passing", "maybe_taken"),
    [
        (ErrorReason.ERROR_REASON_OVERLOADED, True, False),
        (ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE, True, True),
        (ErrorReason.ERROR_REASON_NOT_READY, True, True),
        (ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED, True, True),
        (ErrorReason.ERROR_REASON_INVALID_ARGUMENT, False, False),
        (ErrorReason.ERROR_REASON_PERMISSION_DENIED, False, False),
        (ErrorReason.ERROR_REASON_INTERNAL, False, True),
    ],
)
def test_what_a_reason_means(reason: ErrorReason.ValueType, passing: bool, maybe_taken: bool) -> None:
    error = CairnError(reason, "")
    assert is_passing(error) is passing
    assert may_be_taken(error) is maybe_taken


def test_a_reason_of_a_later_contract_is_tried_again_when_that_was_asked() -> None:
    later: Any = 9999
    assert code_of(CairnError(later, "")) is grpc.StatusCode.UNKNOWN
    assert is_passing(CairnError(later, "", retry_after_s=1.0))
    assert not is_passing(CairnError(later, ""))


def test_the_settings_of_the_readme_are_fresh() -> None:
    assert render_settings_table(EventClientSettings) in README.read_text(), (
        "libs/client/README.md: its settings are stale"
    )
