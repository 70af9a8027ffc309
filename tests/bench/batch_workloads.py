"""Owns the workloads of batch journeys: a run over a million profiles, and one in which nothing has changed."""

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import grpc
import msgspec
from stage import Stage, used_between
from workloads import Figures, Play, Workload

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from cairn.postgres.bucket import bucket_of

_CHUNK = 100_000
_POLL_SECONDS = 0.1
_PATIENCE_SECONDS = 600.0
_COUNTRIES = ("JP", "US", "DE", "FR", "BR")

# Of five countries and a hundred ages: a tenth of all.
JOURNEY = """
connection: {name: log, log: {}}
---
name: winback
type: BATCH
audience: profile.country == "JP"
stages:
  - name: first
    entry: profile.age >= 50
    milestone: profile.bought == true
    steps:
      - {name: hello, activation: {channel: log}}
      - {wait: {duration: 20d}}
  - name: second
    steps:
      - activation: {channel: log}
"""


def _is_met(place: int) -> bool:
    return place % 5 == 0 and place // 5 % 100 >= 50


async def fill(stage: Stage, count: int) -> None:
    """Profiles as an import leaves them: in no order of their ids."""
    buckets = await stage.database.fetchval("SELECT bucket_count FROM cairn.database")
    now = datetime.now(UTC)
    for start in range(0, count, _CHUNK):
        rows = []
        for place in range(start, min(start + _CHUNK, count)):
            profile_id = f"{place * 7_919 % 1_000_003:06}-{place}"
            attributes = {
                "email": f"{place}@example.test",
                "name": "Ada",
                "country": _COUNTRIES[place % 5],
                "age": float(place // 5 % 100),
            }
            rows.append(
                (
                    bucket_of(profile_id, buckets),
                    profile_id,
                    1,
                    msgspec.json.encode(attributes).decode(),
                    "",
                    "{}",
                    "[]",
                    now,
                )
            )
        await stage.database.copy_records_to_table(
            "profiles",
            schema_name="evaluator",
            records=rows,
            columns=(
                "bucket",
                "profile_id",
                "revision",
                "attributes",
                "time_zone",
                "standings",
                "seen",
                "update_time",
            ),
        )
    await stage.database.execute("VACUUM (ANALYZE) evaluator.profiles", timeout=300)


async def run_once(stage: Stage) -> tuple[pb.Run, float]:
    """One run, and the seconds from the call to its end."""
    options = [("grpc.max_send_message_length", 1 << 26)]
    async with grpc.aio.insecure_channel(stage.suite.address("evaluator"), options=options) as channel:
        stub = EvaluatorServiceStub(channel)
        began = time.monotonic()
        last = pb.Run()
        request = pb.RunBatchRequest(journey="journeys/winback", min_revision=stage.revision)
        async for answer in stub.RunBatch(request, timeout=_PATIENCE_SECONDS):
            last = answer.run
        if last.state != pb.RUN_STATE_DONE:
            raise AssertionError(f"the run is {pb.RunState.Name(last.state)}: {last.problem}")
        return last, time.monotonic() - began


async def handed_over(stage: Stage, count: int) -> None:
    """Waits until Activation has accepted so many."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (await stage.database.fetchval("SELECT count(*) FROM activation.deliveries")) < count:
        if time.monotonic() > deadline:
            raise AssertionError("the activations were not handed over")
        await asyncio.sleep(_POLL_SECONDS)


def peak_mb(pid: int) -> float:
    """The most memory that a process ever had, in MB of 1,000,000 bytes, what it shares included."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1_000_000
    return 0.0


async def judge(stage: Stage, count: int, run: pb.Run) -> dict[str, int]:
    """What is wrong, by kind: each who meets the criteria is enrolled and activated once, nobody else is."""
    expected = sum(map(_is_met, range(count)))
    wrong: dict[str, int] = {}
    progress = run.progress
    for name, seen, right in (
        ("seen", progress.seen, count),
        ("moved", progress.moved, expected),
        ("entered", progress.entered, expected),
        ("activated", progress.activated, expected),
        ("failed", progress.failed, 0),
    ):
        if seen != right:
            wrong[name] = seen - right
    met: set[str] = set()
    async with stage.database.transaction():
        cursor = stage.database.cursor(
            "SELECT p.profile_id, p.standings <> '{}', count(d.activation_id) FROM evaluator.profiles p "
            "LEFT JOIN activation.deliveries d ON d.profile_id = p.profile_id GROUP BY p.bucket, p.profile_id"
        )
        async for profile_id, stands, deliveries in cursor:
            meets = _is_met(int(profile_id.rpartition("-")[2]))
            met.update([profile_id] if meets else [])
            if stands != meets:
                wrong["enrolled"] = wrong.get("enrolled", 0) + 1
            if deliveries != int(meets):
                wrong["delivered"] = wrong.get("delivered", 0) + 1
    return wrong


async def run(play: Play) -> Figures:
    """A run over 1,000,000 profiles, two criteria, a tenth of them met: until all are enrolled and handed over to Activation."""
    stage, count = play.stage, play.size(1_000_000)
    play.say("filling")
    await stage.publish(JOURNEY)
    await fill(stage, count)
    pid = stage.suite.instances["evaluator"].child.pid
    play.say("running")
    before, began = stage.cpu(), time.monotonic()
    ended, seconds = await run_once(stage)
    await handed_over(stage, ended.progress.activated)
    handed = time.monotonic() - began
    used = used_between(before, stage.cpu())
    play.say("judging")
    wrong = await judge(stage, count, ended)
    return {
        "seconds": round(handed, 2),
        "run_seconds": round(seconds, 2),
        "people_per_s": round(count / handed),
        "evaluator_peak_mb": round(peak_mb(pid), 1),
        "cpu_s": {name: round(value, 2) for name, value in used.items()},
        "correct": not wrong,
        "judged": count,
        "wrong": wrong,
    }


async def run_unchanged(play: Play) -> Figures:
    """A second run over 1,000,000 profiles, a tenth of them enrolled, in which nothing has changed."""
    stage, count = play.stage, play.size(1_000_000)
    play.say("filling")
    await stage.publish(JOURNEY)
    await fill(stage, count)
    play.say("running for the first time")
    first, _ = await run_once(stage)
    await handed_over(stage, first.progress.activated)
    await _settled(stage)
    play.say("running again")
    before = stage.cpu()
    second, seconds = await run_once(stage)
    used = used_between(before, stage.cpu())
    done = second.progress
    wrong = (
        {} if (done.seen, done.moved, done.failed) == (count, 0, 0) else {"moved": done.moved + done.failed}
    )
    return {
        "seconds": round(seconds, 2),
        "people_per_s": round(count / seconds),
        "evaluator_peak_mb": round(peak_mb(stage.suite.instances["evaluator"].child.pid), 1),
        "cpu_s": {name: round(value, 2) for name, value in used.items()},
        "correct": not wrong,
        "judged": count,
        "wrong": wrong,
    }


async def _settled(stage: Stage) -> None:
    """Waits until no fate is on its way back: each is a write of a profile."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    open_ = "SELECT EXISTS (SELECT FROM activation.receipts) OR EXISTS (SELECT FROM activation.deliveries WHERE state <= 3)"
    while await stage.database.fetchval(open_):
        if time.monotonic() > deadline:
            raise AssertionError("the fates were not told")
        await asyncio.sleep(1.0)


BATCH_WORKLOADS: Mapping[str, Workload] = {"run": run, "run_unchanged": run_unchanged}
"""By name, in the order in which they run."""
