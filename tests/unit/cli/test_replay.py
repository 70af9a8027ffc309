"""Replaying a file: the events of a profile together and in order of time, whatever the file's order; refusals; going on where it broke off.

The other side is a real gRPC server that answers as the contract allows an Evaluator to.
"""

import io
import json
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import grpc
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import (
    EvaluatorServiceServicer,
    add_EvaluatorServiceServicer_to_server,
)
from cairn.cli import replaying
from cairn.cli.replaying import MAX_LINE_BYTES, SortedEvents, bounded_lines, by_profile

Run = Callable[..., Result]


class Evaluator(EvaluatorServiceServicer):
    """Takes all events, but for those that have no name; breaks off after so many batches."""

    def __init__(self) -> None:
        self.batches: list[pb.StreamEventsRequest] = []
        self.breaks_after = -1

    def StreamEvents(self, request_iterator: Iterator[Any], context: Any) -> Iterator[Any]:  # noqa: N802
        for request in request_iterator:
            if len(self.batches) == self.breaks_after:
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            self.batches.append(request)
            refusals = [
                pb.Refusal(index=n, reason=ErrorReason.ERROR_REASON_EVENT_NAME_INVALID, message="no name")
                for n, event in enumerate(request.events)
                if not event.name
            ]
            accepted = len(request.events) - len(refusals)
            yield pb.StreamEventsResponse(sequence=request.sequence, accepted=accepted, refusals=refusals)

    @property
    def events(self) -> list[pb.Event]:
        return [event for request in self.batches for event in request.events]


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Evaluator]:
    servicer = Evaluator()
    server = grpc.server(ThreadPoolExecutor(2))
    add_EvaluatorServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("CAIRN_EVALUATOR_ADDRESS", f"127.0.0.1:{port}")
    yield servicer
    server.stop(None).wait()


def line(profile: object, number: int, second: int, name: str = "x") -> str:
    time = f"2026-01-01T{second // 3600:02}:{second // 60 % 60:02}:{second % 60:02}Z"
    return json.dumps(
        {"event_id": f"e{number}", "profile_id": f"p{profile}", "name": name, "occur_time": time}
    )


def shuffled(count: int) -> list[str]:
    return [line(n % 97, n, second) for n, second in enumerate(random.Random(1).sample(range(80_000), count))]


def test_the_events_of_a_profile_go_together_in_order_of_time(
    evaluator: Evaluator, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(shuffled(3_000)))
    result = run("events", "replay", str(file), "--enroll", "silent", "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout) == {"accepted": 3000, "duplicates": 0, "refused": 0}
    assert {request.replay for request in evaluator.batches} == {pb.REPLAY_MODE_SILENT}
    assert sorted(int(event.event_id[1:]) for event in evaluator.events) == list(range(3_000))
    places = [profile for profile, _ in groupby(event.profile_id for event in evaluator.events)]
    assert len(places) == 97
    for _, events in groupby(evaluator.events, key=lambda event: event.profile_id):
        times = [event.occur_time.seconds for event in events]
        assert times == sorted(times)
    # A batch ends with a profile.
    ends = [(request.events[0].profile_id, request.events[-1].profile_id) for request in evaluator.batches]
    assert len(ends) > 3
    assert all(last != first for (_, last), (first, _) in pairwise(ends))
    assert list(tmp_path.iterdir()) == [file]


def test_what_is_not_taken_is_told_by_line_or_goes_to_a_file(
    evaluator: Evaluator, run: Run, tmp_path: Path
) -> None:
    bad = [
        line(1, 0, 0),
        "{",
        "x" * (MAX_LINE_BYTES + 2),
        "",
        line(1, 1, 1, name=""),
        line(1, 2, 2).replace("2026", "once"),
        '{"a": ' + "[" * 5_000,
    ]
    file, rejects = tmp_path / "events.jsonl", tmp_path / "rejects.jsonl"
    file.write_text("\n".join(bad))
    result = run("events", "replay", str(file), "--enroll", "none", "--rejects", str(rejects))
    assert result.exit_code == 1
    assert result.stderr.splitlines()[:2] == [
        "1 accepted.",
        "cairn: 5 events were refused; all others were taken.",
    ]
    written = [json.loads(each) for each in rejects.read_text().splitlines()]
    assert sorted(each["line"] for each in written) == [2, 3, 5, 6, 7]
    assert [each["reason"] for each in written if each["line"] == 5] == ["EVENT_NAME_INVALID: no name"]
    told = run("events", "replay", "-", "--enroll", "none", "--json", input="\n".join(bad))
    assert told.exit_code == 1
    *refusals, summary = map(json.loads, told.stdout.splitlines())
    assert [each["line"] for each in refusals] == [2, 3, 6, 7, 5]
    assert summary == {"accepted": 1, "duplicates": 0, "refused": 5}


def test_a_replay_that_broke_off_goes_on_where_it_was(
    evaluator: Evaluator, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "CHUNK_BATCHES", 2)
    file, rejects = tmp_path / "events.jsonl", tmp_path / "rejects.jsonl"
    file.write_text("\n".join(["nonsense", *shuffled(4_000), line(0, 4_000, 1, name="")]))
    command = ("events", "replay", str(file), "--enroll", "send", "--rejects", str(rejects))
    evaluator.breaks_after = 5
    broken = run(*command)
    assert broken.exit_code == 1
    assert broken.stderr.startswith("cairn: ")
    before = evaluator.events
    evaluator.breaks_after, evaluator.batches = -1, []
    result = run(*command, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout) == {"accepted": 4000, "duplicates": 0, "refused": 2}
    # What was answered for good is not sent again, what may not have been is.
    again = {event.event_id for event in evaluator.events}
    assert {event.event_id for event in before} | again == {f"e{n}" for n in range(4_001)}
    assert 1_500 <= len(again) < 2_100
    assert sorted(json.loads(each)["line"] for each in rejects.read_text().splitlines()) == [1, 4_002]
    assert sorted(each.name for each in tmp_path.iterdir()) == ["events.jsonl", "rejects.jsonl"]


def test_another_mode_begins_anew(
    evaluator: Evaluator, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replaying, "CHUNK_BATCHES", 1)
    file = tmp_path / "events.jsonl"
    file.write_text("\n".join(shuffled(3_000)))
    evaluator.breaks_after = 3
    assert run("events", "replay", str(file), "--enroll", "none").exit_code == 1
    evaluator.breaks_after, evaluator.batches = -1, []
    assert run("events", "replay", str(file), "--enroll", "silent").exit_code == 0
    assert len(evaluator.events) == 3_000


@pytest.mark.parametrize("arguments", [(), ("--enroll", "loud")])
def test_what_the_events_do_has_to_be_said(run: Run, arguments: tuple[str, ...]) -> None:
    assert run("events", "replay", "-", *arguments).exit_code == 2


def test_a_large_file_is_spread_over_parts_and_no_event_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replaying, "_PART_BYTES", 10_000)
    monkeypatch.setattr(replaying, "_IN_MEMORY_BYTES", 1_000)
    source = io.BytesIO("\n".join(shuffled(2_000)).encode())
    with SortedEvents(source) as found:
        found.read(lambda line, why: pytest.fail(why))
        events = [each.message for each in found.events() if each.message is not None]
    assert found.count == len({event.event_id for event in events}) == 2_000
    assert len([profile for profile, _ in groupby(event.profile_id for event in events)]) == 97


@given(sizes=st.lists(st.integers(1, 40), max_size=12), batch=st.integers(1, 30), most=st.integers(30, 60))
def test_batches_end_with_profiles_and_are_not_too_long(sizes: list[int], batch: int, most: int) -> None:
    items = [
        (n, pb.Event(profile_id=f"p{profile}", event_id=str(n)))
        for profile, size in enumerate(sizes)
        for n in range(size)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replaying, "BATCH_SIZE", batch)
        patch.setattr(replaying, "MAX_BATCH_EVENTS", most)
        made = list(by_profile(iter(items)))
        # Cut anew from where a batch begins, the rest is cut in the same way: so a replay can go on there.
        if made:
            assert list(by_profile(iter(items[len(made[0]) :]))) == made[1:]
    assert [each for part in made for each in part] == items
    assert all(0 < len(part) <= most for part in made)
    for part, following in pairwise(made):
        ends = part[-1][1].profile_id != following[0][1].profile_id
        assert len(part) >= batch if ends else len(part) == most


def test_a_line_without_end_is_never_held_whole() -> None:
    source = io.BytesIO(b"a\n" + b"x" * (3 << 20) + b"\nb\n" + b"y" * (MAX_LINE_BYTES + 1))
    assert list(bounded_lines(source)) == [(1, b"a\n"), (2, None), (3, b"b\n"), (4, None)]
