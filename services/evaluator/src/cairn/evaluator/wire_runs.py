"""Owns the way between runs and messages: names and ids in, runs and what they would do out."""

from collections import Counter
from collections.abc import Iterable
from typing import Final

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.evaluator.store_runs import RunRow, RunState
from cairn.evaluator.wire import version_name
from cairn.journey.limits import ID_PATTERN
from cairn.journey.live import LiveJourney
from cairn.journey.state import Kind, Transition
from cairn.runtime.clock import to_duration, to_timestamp
from cairn.runtime.errors import CairnError, FieldViolation, invalid

MAX_REQUEST_ID_BYTES: Final = 128
_LONGEST_RUN_ID: Final = 64
_END_OF_STEPS: Final = 1_000_000

RunCounts = Counter[tuple[str, str, int, str]]
"""How often each thing happens: by stage, step, kind and way."""


def parse_journey(field: str, name: str) -> str:
    """The journey's id in `journeys/{id}`; INVALID_ARGUMENT for any other name."""
    journey_id = name.removeprefix("journeys/")
    if journey_id == name or not ID_PATTERN.fullmatch(journey_id):
        raise _wrong_name(field, name, "journeys/{id}")
    return journey_id


def parse_parent(name: str) -> str:
    """The journey's id in `journeys/{id}`, "" in `journeys/-`."""
    return "" if name == "journeys/-" else parse_journey("parent", name)


def parse_run(name: str) -> tuple[str, str]:
    """The ids of journey and run in `journeys/{id}/runs/{run_id}`."""
    journey, slash, run_id = name.partition("/runs/")
    journey_id = journey.removeprefix("journeys/")
    is_known = 0 < len(run_id) <= _LONGEST_RUN_ID and "\0" not in run_id
    if not slash or journey_id == journey or not is_known or not ID_PATTERN.fullmatch(journey_id):
        raise _wrong_name("name", name, "journeys/{id}/runs/{run_id}")
    return journey_id, run_id


def parse_request_id(request_id: str) -> str:
    """A caller's id of a call; may be empty."""
    if len(request_id.encode()) > MAX_REQUEST_ID_BYTES or "\0" in request_id:
        rule = f"is longer than {MAX_REQUEST_ID_BYTES} bytes, or holds a NUL character; a UUID is a good one"
        raise invalid("request_id can't be kept.", [FieldViolation("request_id", rule)])
    return request_id


def run_name(journey_id: str, run_id: str) -> str:
    """The resource name of a run; empty for one that only counts."""
    return f"journeys/{journey_id}/runs/{run_id}" if run_id else ""


def to_run(row: RunRow, bucket_count: int, now_us: int) -> pb.Run:
    """A run as callers see it, at a time."""
    message = pb.Run(
        name=run_name(row.journey_id, row.run_id),
        journey_version=version_name(row.journey_id, row.version),
        state=row.state,  # type: ignore[arg-type]  # the numbers are those of the contract
        cause=row.cause,
        run_time=to_timestamp(row.run_us),
        problem=row.problem,
        progress=_progress(row, bucket_count, now_us),
    )
    if row.end_us:
        message.end_time.CopyFrom(to_timestamp(row.end_us))
    return message


def _progress(row: RunRow, bucket_count: int, now_us: int) -> pb.RunProgress:
    profiles = row.profiles if row.buckets == bucket_count else max(row.profiles, row.estimate)
    profiles = row.seen if row.state == RunState.DONE else max(profiles, row.seen)
    progress = pb.RunProgress(
        profiles=profiles,
        seen=row.seen,
        moved=row.moved,
        entered=row.entered,
        activated=row.activated,
        failed=row.failed,
    )
    if row.take_us is not None and row.state != RunState.PAUSED:
        passed_us = (row.end_us or now_us) - row.take_us
        rate = max(0, row.seen - row.take_seen) * 1_000_000 / passed_us if passed_us > 0 else 0.0
        progress.profiles_per_second = rate
        if rate and row.state == RunState.RUNNING:
            progress.remaining.CopyFrom(to_duration(round((profiles - row.seen) / rate * 1_000_000)))
    return progress


def count(counts: RunCounts, journey_id: str, transitions: Iterable[Transition]) -> None:
    """Adds what happened to one profile in a journey."""
    for each in transitions:
        if each.journey_id == journey_id:
            counts[each.stage, each.step, int(each.kind), _way(each)] += 1


def _way(transition: Transition) -> str:
    for name in ("branch", "exit", "way", "reason"):
        if name in transition.detail:
            return str(transition.detail[name])
    return ""


def to_counts(counts: RunCounts, journey: LiveJourney) -> list[pb.RunCount]:
    """What would happen, in the order of the journey: stage by stage, its beginning, its steps, its end."""
    stages: dict[str, int] = {}
    steps: dict[str, int] = {}
    ways: dict[str, int] = {}
    for number in sorted(journey.plans, reverse=True):
        plan = journey.plans[number]
        for index, name in enumerate(plan.stage_names):
            stages.setdefault(name, index)
        for instruction in plan.program:
            for branch, *_ in (*getattr(instruction, "branches", ()), *getattr(instruction, "variants", ())):
                ways.setdefault(branch, len(ways))
            if step_id := getattr(instruction, "step_id", ""):
                steps.setdefault(step_id, len(steps))

    def place(key: tuple[str, str, int, str]) -> tuple[int, int, int, int, str]:
        stage, step, kind, way = key
        at = steps.get(step, _END_OF_STEPS) if step else _place_of(kind)
        return stages.get(stage, len(stages)), at, _ORDER.get(kind, kind), ways.get(way, len(ways)), way

    return [
        pb.RunCount(stage=key[0], step=key[1], kind=key[2], way=key[3], count=counts[key])  # type: ignore[arg-type]
        for key in sorted(counts, key=place)
    ]


def _place_of(kind: int) -> int:
    """Where what concerns no step stands among the steps of its stage."""
    return -1 if kind in _BEGINNINGS else _END_OF_STEPS + 1


_BEGINNINGS: Final = frozenset(
    int(each)
    for each in (Kind.ENTRY_REFUSED, Kind.RESTARTED, Kind.ENTERED, Kind.STAGE_SKIPPED, Kind.STAGE_ENTERED)
)
_ORDER: Final = {int(Kind.ENTRY_REFUSED): -2, int(Kind.RESTARTED): -1}


def in_way(journey_id: str, run_id: str) -> CairnError:
    """Another run of the journey is not over."""
    name = run_name(journey_id, run_id)
    return CairnError(
        ErrorReason.ERROR_REASON_FAILED_PRECONDITION,
        f"{name} is under way, and a journey has one run at a time: wait for its end, or end it with CancelRun.",
        resource=name,
        metadata={"run": name},
    )


def _wrong_name(field: str, name: str, pattern: str) -> CairnError:
    return invalid(
        f"{field} is no resource name of its kind.",
        [FieldViolation(field, f"is {name[:80]!r}; write it as {pattern}")],
    )
