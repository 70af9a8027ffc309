"""Events of the past, of any age: remembered only, moving in silence, or doing all that they would have done."""

import asyncio
import json
import subprocess
import sys

import pytest
from house import Cairn, event, until

from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.cli.suite import Suite
from cairn.runtime.clock import format_time, now_us

DAY_US = 24 * 3600 * 1_000_000

RETURN = """
name: replay-return
type: REAL_TIME
reentry: {mode: ALWAYS}
stages:
  - name: back
    entry: event.name == "replay_visit" && count("replay_order") >= 2
    steps: [{wait: {duration: 20d}}]
---
name: replay-later
type: REAL_TIME
reentry: {mode: ALWAYS}
stages:
  - name: one
    entry: event.name == "replay_begin"
    steps: [{wait: {duration: 12h}}, {activation: {channel: ledger}}]
"""


@pytest.fixture(scope="module")
def replay_revision(evaluator_suite: tuple[Suite, int]) -> int:
    """The revision that serves a journey which asks what happened before."""

    async def publish() -> int:
        house = Cairn(evaluator_suite[0])
        try:
            return await house.publish(RETURN)
        finally:
            await house.close()

    return asyncio.run(publish())


async def replay(door, mode: str, *events: pb.Event) -> pb.IngestEventsResponse:
    request = pb.IngestEventsRequest(
        events=events, replay=f"REPLAY_MODE_{mode}", min_revision=door.cairn.revision
    )
    return await door.stub.IngestEvents(request, timeout=20)


async def deliveries(cairn: Cairn, profile_id: str) -> list[activation_pb2.Delivery]:
    stub = ActivationServiceStub(cairn.channel("activation"))
    request = activation_pb2.ListDeliveriesRequest(profile_id=profile_id)
    return list((await stub.ListDeliveries(request, timeout=20)).deliveries)


def long_ago(profile_id: str, name: str, number: int = 1, days: float = 100) -> pb.Event:
    return event(profile_id, name, number, now_us() - int(days * DAY_US))


async def test_what_is_remembered_only_counts_and_moves_nothing(door, new_id, replay_revision) -> None:
    door.cairn.revision = replay_revision
    replayed, other = new_id(), new_id()
    past = [long_ago(replayed, "replay_order", n, days=400 + n) for n in range(2)]
    past += [long_ago(replayed, "signup"), long_ago(replayed, "replay_visit")]
    answer = await replay(door, "NONE", *past)
    assert (answer.accepted, answer.duplicates, list(answer.refusals)) == (4, 0, [])
    assert await door.states(replayed) == {}
    # What nobody asks for is not kept, so that it is not known again either.
    assert (await replay(door, "NONE", *past)).duplicates == 2
    await door.ingest(event(replayed, "replay_visit", 2), event(other, "replay_visit", 2))
    assert await door.states(replayed) == {"replay-return": "WAITING"}
    assert await door.states(other) == {}


async def test_silent_ones_move_up_to_now_and_nobody_is_written_to(door, cairn, profile_id) -> None:
    answer = await replay(door, "SILENT", long_ago(profile_id, "signup"))
    assert (answer.accepted, list(answer.refusals)) == (1, [])
    # When the call returns all of it has happened: the wait was over long ago.
    assert await door.states(profile_id) == {"greeting": "COMPLETED"}
    entries = [entry.transition for entry in await door.timeline(profile_id)]
    (asked,) = [each for each in entries if each.kind == pb.TRANSITION_KIND_ACTIVATION_REQUESTED]
    assert asked.detail["silent"] is True
    (enrollment,) = await door.enrollments(profile_id)
    assert list(enrollment.pending_activations) == []
    # A live one is written to, and is the only one.
    await door.ingest(event(profile_id, "signup", 2))

    async def delivered() -> bool:
        return bool(await deliveries(cairn, profile_id))

    await until(delivered, "the greeting of the live event")
    (delivery,) = await deliveries(cairn, profile_id)
    assert delivery.activation_id != asked.detail["activation_id"]


async def test_what_is_due_later_acts_as_ever(door, cairn, profile_id, replay_revision) -> None:
    door.cairn.revision = replay_revision
    # An hour is a second here: a part of the wait is over.
    await replay(door, "SILENT", event(profile_id, "replay_begin", 1, now_us() - 2_000_000))
    assert await door.states(profile_id) == {"replay-later": "WAITING"}

    async def delivered() -> bool:
        return bool(await deliveries(cairn, profile_id))

    await until(delivered, "the greeting that was due after the replay")


async def test_one_that_sends_does_all_that_it_would_have_done(door, cairn, profile_id) -> None:
    past = long_ago(profile_id, "signup")
    refused = await door.ingest(past)
    assert [each.reason for each in refused.refusals] == [ErrorReason.ERROR_REASON_EVENT_TOO_OLD]
    assert (await replay(door, "SEND", past)).accepted == 1

    async def delivered() -> bool:
        return bool(await deliveries(cairn, profile_id))

    await until(delivered, "the greeting of long ago")
    assert (await replay(door, "SEND", past)).duplicates == 1


async def test_a_mode_that_is_none_is_refused(door, profile_id) -> None:
    request = pb.IngestEventsRequest(events=[event(profile_id, "signup")], replay=9)  # type: ignore[arg-type]
    error = await door.refusal(door.stub.IngestEvents(request, timeout=20))
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert [each.field for each in error.violations] == ["replay"]


async def test_a_file_in_any_order_leads_to_where_life_would_have_led(
    door, cairn, new_id, tmp_path, evaluator_suite
) -> None:
    """Bought within the wait or after it: the order in which the file tells of it does not matter."""
    buyers, late = [new_id() for _ in range(3)], new_id()
    lines = [
        {"event_id": "p", "profile_id": each, "name": "purchase", "occur_time": at}
        for each, at in [
            *((buyer, format_time(now_us() - 99 * DAY_US)) for buyer in buyers),
            (late, format_time(now_us() - 20 * DAY_US)),
        ]
    ]
    lines += [{**each, "event_id": "c", "name": "cart_add"} for each in lines]
    for each in lines[4:]:
        # An hour is a second: 20 days of waiting are eight minutes.
        each["occur_time"] = format_time(now_us() - 99 * DAY_US - 60_000_000)
    file = tmp_path / "events.jsonl"
    file.write_text("".join(json.dumps(each) + "\n" for each in lines))
    done = await asyncio.to_thread(
        subprocess.run,
        [
            sys.executable,
            "-m",
            "cairn.cli.main",
            "events",
            "replay",
            str(file),
            "--enroll",
            "silent",
            "--json",
            "--address",
            evaluator_suite[0].address("evaluator"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"accepted": 8, "duplicates": 0, "refused": 0}
    for buyer in buyers:
        assert await door.states(buyer) == {"cart": "GOAL_ACHIEVED"}
        assert "ACTIVATION_REQUESTED" not in await door.kinds(buyer, "cart")
    assert (await door.kinds(late, "cart"))[3:6] == ["WAIT_ENDED", "ACTIVATION_REQUESTED", "RESTED"]
    assert await deliveries(cairn, late) == []
