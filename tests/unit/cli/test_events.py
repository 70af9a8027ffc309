"""Sending events over a stream: batches, answers out of order, refusals by line, repeats, breaks.

The other side is a real gRPC server that answers as the contract allows an Evaluator to.
"""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import Result

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import (
    EvaluatorServiceServicer,
    add_EvaluatorServiceServicer_to_server,
)

Run = Callable[..., Result]


class Evaluator(EvaluatorServiceServicer):
    """Takes what it is told to take; `answer` decides about each batch."""

    def __init__(self) -> None:
        self.batches: list[pb.StreamEventsRequest] = []
        self.breaks_after = -1
        self.lets_in = True
        self.profiles: list[pb.UpsertProfilesRequest] = []
        self.answer: Callable[[pb.StreamEventsRequest], list[pb.StreamEventsResponse]] = lambda request: [
            taken(request)
        ]

    def StreamEvents(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        if not self.lets_in:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "you may not")
        for request in request_iterator:
            if len(self.batches) == self.breaks_after:
                context.abort(grpc.StatusCode.INTERNAL, "gone")
            self.batches.append(request)
            yield from self.answer(request)

    def UpsertProfiles(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.profiles.append(request)
        refusal = pb.Refusal(
            index=1, reason=ErrorReason.ERROR_REASON_TIME_ZONE_INVALID, message="no such zone"
        )
        wrong = [refusal] if len(request.profiles) > 1 else []
        return pb.UpsertProfilesResponse(accepted=len(request.profiles) - len(wrong), refusals=wrong)


def taken(request: pb.StreamEventsRequest, **more: Any) -> pb.StreamEventsResponse:
    return pb.StreamEventsResponse(sequence=request.sequence, accepted=len(request.events), **more)


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Evaluator]:
    servicer = Evaluator()
    server = grpc.server(ThreadPoolExecutor(4))
    add_EvaluatorServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("CAIRN_EVALUATOR_ADDRESS", f"127.0.0.1:{port}")
    yield servicer
    server.stop(None).wait()


def lines(count: int) -> str:
    return "".join(
        json.dumps(
            {
                "event_id": f"e{n}",
                "profile_id": f"p{n % 7}",
                "name": "x",
                "occur_time": "2026-11-23T18:00:00Z",
            }
        )
        + "\n"
        for n in range(count)
    )


def sent(evaluator: Evaluator) -> list[str]:
    return [event.event_id for request in evaluator.batches for event in request.events]


def test_a_file_goes_in_batches_in_order(evaluator: Evaluator, run: Run, tmp_path: Path) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text(lines(6_123))
    result = run("events", "send", "-f", str(file), "--json", "--min-revision", "7")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"accepted": 6123, "duplicates": 0, "refused": 0}
    assert sent(evaluator) == [f"e{n}" for n in range(6_123)]
    assert [len(request.events) for request in evaluator.batches] == [500] * 12 + [123]
    assert {request.min_revision for request in evaluator.batches} == {7}


def test_several_batches_are_under_way_and_may_be_answered_in_any_order(
    evaluator: Evaluator, run: Run
) -> None:
    held: list[pb.StreamEventsResponse] = []

    def answer(request: pb.StreamEventsRequest) -> list[pb.StreamEventsResponse]:
        held.insert(0, taken(request, duplicates=1))
        if len(held) < 4:
            return []
        answers = held[:]
        held.clear()
        return answers

    evaluator.answer = answer
    result = run("events", "send", "-f", "-", input=lines(2_000))
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "2,000 accepted, 4 of them known already.\n"


def test_what_is_refused_is_listed_by_line_and_the_rest_is_taken(evaluator: Evaluator, run: Run) -> None:
    def answer(request: pb.StreamEventsRequest) -> list[pb.StreamEventsResponse]:
        refusal = pb.Refusal(index=1, reason=ErrorReason.ERROR_REASON_EVENT_TOO_OLD, message="is 8 days old")
        return [pb.StreamEventsResponse(sequence=request.sequence, accepted=1, refusals=[refusal])]

    evaluator.answer = answer
    good = lines(2).splitlines()
    text = "\n".join([good[0], "", "{", '{"event_id": "x"}', '{"nam": 1}', good[1]])
    result = run("events", "send", "-f", "-", input=text)
    assert result.exit_code == 1
    assert sent(evaluator) == ["e0", "e1"]
    told = result.stderr.splitlines()
    assert told[:2] == ["1 accepted.", "cairn: 4 events were refused; all others were taken."]
    assert [line.split(": ")[:2] for line in told[2:]] == [
        ["  line 3", "INVALID_ARGUMENT"],
        ["  line 4", "INVALID_ARGUMENT"],
        ["  line 5", "INVALID_ARGUMENT"],
        ["  line 6", "EVENT_TOO_OLD"],
    ]
    assert "missing required field `profile_id`" in told[3]


def test_programs_get_each_refusal_as_json(evaluator: Evaluator, run: Run) -> None:
    result = run("events", "send", "-f", "-", "--json", input="[]\n" + lines(1))
    assert result.exit_code == 1
    refusal, summary = map(json.loads, result.stdout.splitlines())
    assert (refusal["line"], refusal["reason"]) == (1, "INVALID_ARGUMENT")
    assert summary == {"accepted": 1, "duplicates": 0, "refused": 1}


def test_a_batch_that_fails_for_now_is_sent_again(evaluator: Evaluator, run: Run) -> None:
    failed = threading.Event()

    def answer(request: pb.StreamEventsRequest) -> list[pb.StreamEventsResponse]:
        if request.sequence == 2 and not failed.is_set():
            failed.set()
            error = pb.BatchError(reason=ErrorReason.ERROR_REASON_OVERLOADED, message="full")
            error.retry_delay.FromMilliseconds(1)
            return [pb.StreamEventsResponse(sequence=2, error=error)]
        return [taken(request)]

    evaluator.answer = answer
    result = run("events", "send", "-f", "-", "--json", input=lines(1_500))
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["accepted"] == 1500
    assert sorted(request.sequence for request in evaluator.batches) == [1, 2, 2, 3]


def test_a_batch_that_fails_for_good_ends_the_command_and_says_what_was_taken(
    evaluator: Evaluator, run: Run
) -> None:
    def answer(request: pb.StreamEventsRequest) -> list[pb.StreamEventsResponse]:
        if request.sequence == 1:
            return [taken(request)]
        error = pb.BatchError(reason=ErrorReason.ERROR_REASON_TOO_LARGE, message="too large")
        return [pb.StreamEventsResponse(sequence=request.sequence, error=error)]

    evaluator.answer = answer
    result = run("events", "send", "-f", "-", input=lines(1_000))
    assert result.exit_code == 1
    assert result.stderr == (
        "cairn: TOO_LARGE: too large; 500 events are known to be taken. Send the same events again: what was "
        "taken counts once.\n"
    )


def test_a_stream_that_breaks_says_that_sending_again_is_safe(evaluator: Evaluator, run: Run) -> None:
    evaluator.breaks_after = 1
    result = run("events", "send", "-f", "-", input=lines(9_000))
    assert result.exit_code == 1
    assert result.stderr.startswith("cairn: ")
    assert "events are known to be taken. Send the same events again" in result.stderr
    assert "Core" not in result.stderr


def test_who_is_not_let_in_is_told_why_however_early_the_refusal_comes(
    evaluator: Evaluator, run: Run
) -> None:
    evaluator.lets_in = False
    # A refusal that overtakes the first write is met in some of these runs.
    told = {run("events", "send", "-f", "-", input=lines(2_000)).stderr for _ in range(40)}
    assert told == {"cairn: you may not\n"}


def test_a_single_event_has_typed_properties_an_id_and_a_time(evaluator: Evaluator, run: Run) -> None:
    options = ("--property", "total=81.5", "--property", 'products=["Boots"]', "--property", "note=two words")
    result = run("events", "send", "--profile", "ben", "--name", "cart_add", *options)
    assert result.exit_code == 0, result.stderr
    event = evaluator.batches[0].events[0]
    assert event.event_id.startswith("cli-")
    assert event.occur_time.seconds > 0
    assert event.properties["total"] == 81.5
    assert list(event.properties["products"]) == ["Boots"]
    assert event.properties["note"] == "two words"


def test_profiles_go_in_batches_and_refusals_have_lines(evaluator: Evaluator, run: Run) -> None:
    text = '\n{"profile_id": "a", "attributes": {"n": null}}\n{"profile": 1}\n{"profile_id": "b", "time_zone": "X"}\n'
    result = run("profiles", "upsert", "-f", "-", "--replace", input=text)
    assert result.exit_code == 1
    assert [line.split(": ")[:2] for line in result.stderr.splitlines()[2:]] == [
        ["  line 3", "Object contains unknown field `profile`"],
        ["  line 4", "TIME_ZONE_INVALID"],
    ]
    request = evaluator.profiles[0]
    assert request.mode == pb.UPSERT_MODE_REPLACE
    assert request.profiles[0].attributes.fields["n"].HasField("null_value")


@pytest.mark.parametrize("depth", [24, 60, 200, 900, 100_000])
@pytest.mark.parametrize("kind", ["[]", "{}"])
def test_a_line_nested_too_deeply_harms_no_other_line(
    evaluator: Evaluator, run: Run, kind: str, depth: int
) -> None:
    opening, closing = ("[", "]") if kind == "[]" else ('{"a":', "}")
    value = opening * depth + "1" + closing * depth
    first, second = lines(2).splitlines()
    deep = first.replace('"e0"', '"deep"').removesuffix("}") + f', "properties": {{"a": {value}}}}}'
    result = run("events", "send", "-f", "-", input="\n".join((first, deep, second)))
    assert result.exit_code == 1
    assert result.stderr.splitlines() == [
        "2 accepted.",
        "cairn: 1 event was refused; all others were taken.",
        "  line 2: INVALID_ARGUMENT: is nested too deeply; at most 24 levels can be sent",
    ]
    assert sent(evaluator) == ["e0", "e1"]


def test_the_deepest_line_that_is_taken_can_be_read_on_the_other_side(evaluator: Evaluator, run: Run) -> None:
    deep = lines(1).rstrip().removesuffix("}") + ', "properties": ' + '{"a":' * 23 + "{}" + "}" * 24
    result = run("events", "send", "-f", "-", input=deep)
    assert result.exit_code == 0, result.stderr
    assert sent(evaluator) == ["e0"]


def test_a_property_nested_too_deeply_is_told(run: Run) -> None:
    result = run("events", "send", "--profile", "a", "--name", "b", "--property", "x=" + "[" * 60 + "]" * 60)
    assert result.exit_code == 2
    assert "Invalid value for --property: x is nested too deeply" in result.stderr
