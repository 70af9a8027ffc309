"""Listing schedules and running one, against a real gRPC server that answers as the contract allows a Scheduler to."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from click.testing import Result
from google.protobuf.timestamp_pb2 import Timestamp

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.api.scheduler.v1.scheduler_pb2_grpc import (
    SchedulerServiceServicer,
    add_SchedulerServiceServicer_to_server,
)

Run = Callable[..., Result]

KEPT = [
    pb.Schedule(
        name="schedules/win-back",
        cron="0 6 * * *",
        time_zone="Asia/Tokyo",
        next_time=Timestamp(seconds=1_772_400_000),
    ),
    pb.Schedule(name="schedules/yearly", cron="0 0 1 1 *", time_zone="UTC", skip_missed=True),
]


class Scheduler(SchedulerServiceServicer):
    def __init__(self) -> None:
        self.runs: list[pb.RunScheduleRequest] = []

    def ListSchedules(self, request: Any, context: Any) -> Any:  # noqa: N802
        start = int(request.page_token or 0)
        more = start + 1 < len(KEPT)
        return pb.ListSchedulesResponse(
            schedules=KEPT[start : start + 1], next_page_token=str(start + 1) if more else ""
        )

    def RunSchedule(self, request: Any, context: Any) -> Any:  # noqa: N802
        self.runs.append(request)
        return pb.RunScheduleResponse()


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scheduler]:
    servicer = Scheduler()
    server = grpc.server(ThreadPoolExecutor(2))
    add_SchedulerServiceServicer_to_server(servicer, server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    monkeypatch.setenv("CAIRN_SCHEDULER_ADDRESS", f"127.0.0.1:{port}")
    yield servicer
    server.stop(None).wait()


def test_schedules_are_listed_page_by_page(run: Run, scheduler: Scheduler) -> None:
    result = run("schedules")
    assert result.exit_code == 0, result.stderr
    for words in ("win-back", "Asia/Tokyo", "2026-03-01 21:20:00.000Z", "late", "yearly", "left out"):
        assert words in result.stdout
    listed = [json.loads(line) for line in run("schedules", "list", "--json").stdout.splitlines()]
    assert [each["name"] for each in listed] == ["schedules/win-back", "schedules/yearly"]
    assert len(run("schedules", "--json", "--limit", "1").stdout.splitlines()) == 1


@pytest.mark.parametrize("name", ["win-back", "schedules/win-back"])
def test_a_schedule_is_run_once_for_each_request(run: Run, scheduler: Scheduler, name: str) -> None:
    assert run("schedules", "run", name, "--request-id", "mine").exit_code == 0
    said = json.loads(run("schedules", "run", name, "--json").stdout)
    mine, other = scheduler.runs
    assert (mine.name, mine.request_id) == ("schedules/win-back", "mine")
    assert said == {"schedule": "win-back", "request_id": other.request_id}
    assert other.request_id not in ("", "mine")
