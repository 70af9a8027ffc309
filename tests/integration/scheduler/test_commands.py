"""`cairn schedules` against a running Scheduler: what is listed, and what happens when a schedule is run by hand."""

import asyncio
import json

import pytest
from click.testing import CliRunner, Result

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.cli.main import cli

KEPT = (
    pb.Schedule(name="schedules/win-back", cron="0 0 1 1 *", time_zone="Asia/Tokyo"),
    pb.Schedule(name="schedules/yearly", cron="0 0 1 1 *", time_zone="UTC", skip_missed=True),
)


@pytest.fixture
async def replica(scheduler, monkeypatch: pytest.MonkeyPatch):
    """A Scheduler that keeps two schedules, where the commands look for it."""
    replica = await scheduler()
    for each in KEPT:
        await replica.stub.PutSchedule(pb.PutScheduleRequest(schedule=each))
    monkeypatch.delenv("CAIRN_DSN", raising=False)
    monkeypatch.setenv("CAIRN_SCHEDULER_ADDRESS", f"127.0.0.1:{replica.service.grpc_port}")
    return replica


async def command(*arguments: str) -> Result:
    """Run `cairn` as a program that is no terminal would, beside the Scheduler."""
    return await asyncio.to_thread(CliRunner().invoke, cli, ["schedules", *arguments])


async def test_schedules_are_listed_with_their_times(replica) -> None:
    result = await command()
    assert result.exit_code == 0, result.stderr
    # Midnight in Tokyo is afternoon of the day before by the clock that times are told in.
    for words in (
        "win-back",
        "0 0 1 1 *",
        "Asia/Tokyo",
        "-12-31 15:00:00.000Z",
        "late",
        "yearly",
        "left out",
    ):
        assert words in result.stdout
    listed = [json.loads(line) for line in (await command("list", "--json")).stdout.splitlines()]
    assert [each["name"] for each in listed] == ["schedules/win-back", "schedules/yearly"]
    assert len((await command("--json", "--limit", "1")).stdout.splitlines()) == 1


@pytest.mark.parametrize("name", ["win-back", "schedules/win-back"])
async def test_a_schedule_is_run_once_for_each_request(replica, sink, eventually, name: str) -> None:
    for _ in range(2):
        result = await command("run", name, "--request-id", "mine")
        assert result.exit_code == 0, result.stderr
        assert result.stderr == "win-back fires now.\n"
    await eventually(lambda: len(sink.fired) == 1)
    said = json.loads((await command("run", name, "--json")).stdout)
    assert said["schedule"] == "win-back"
    assert said["request_id"] not in ("", "mine")
    await eventually(lambda: len(sink.fired) == 2)
    assert {each.schedule for each in sink.fired} == {"schedules/win-back"}
    assert len({each.fire_id for each in sink.firings}) == 2


async def test_a_schedule_that_is_not_there_is_told(replica, sink) -> None:
    result = await command("run", "nobody")
    assert result.exit_code == 1
    assert result.stderr.startswith("cairn: ")
    assert "nobody" in result.stderr
    assert not sink.firings
