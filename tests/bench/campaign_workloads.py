"""Owns the workloads that go the whole way of a batch journey: a million people from a file into an ad audience, and a run beside real time."""

import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
from activation_workloads import PlatformStandIn
from batch_workloads import JOURNEY, fill, peak_mb, run_once
from load import Phase
from stage import Stage, used_between
from workloads import CARTS, Figures, Play, Workload, timers

_COUNTRIES = ("JP", "US", "DE", "FR", "BR")
_PATIENCE_SECONDS = 600.0
_POLL_SECONDS = 0.25
_BESIDE_RATE = 8_000

CAMPAIGN = """
connection:
  name: lapsed
  meta_audience: {{audience_id: "1", access_token_secret: bench-token, app_secret_secret: bench-app, base_url: "http://127.0.0.1:{port}/v25.0"}}
---
name: winback
type: BATCH
audience: profile.country == "JP"
stages:
  - name: first
    entry: profile.age >= 50
    steps:
      - {{name: audience, activation: {{channel: lapsed, action: ADD}}}}
      - {{wait: {{duration: 20d}}}}
"""


def _age(place: int) -> int:
    return place // 5 % 100


def _is_met(place: int) -> bool:
    """A tenth of all."""
    return place % 5 == 0 and _age(place) >= 50


def _email(place: int) -> str:
    return f"{place}@people.example.test"


def _lines(count: int) -> Iterator[str]:
    yield "profile_id,email,first_name,country,age,opt_in,time_zone\n"
    for place in range(count):
        # In no order of the ids.
        profile_id = f"{place * 7_919 % 1_000_003:06}-{place}"
        opt_in = "false" if place % 3 else "true"
        yield f"{profile_id},{_email(place)},Ada {place % 977},{_COUNTRIES[place % 5]},{_age(place)},{opt_in},Asia/Tokyo\n"


async def _import(stage: Stage, source: Path) -> tuple[dict[str, Any], float]:
    """What the command says of an import, and the seconds that it took, its own start included."""
    command = ["profiles", "import", str(source), "--number", "age", "--boolean", "opt_in", "--json"]
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "cairn.cli.main",
        *command,
        env={**os.environ, "CAIRN_EVALUATOR_ADDRESS": stage.suite.address("evaluator")},
        stdout=subprocess.PIPE,
    )
    output, _ = await process.communicate()
    return json.loads(output), time.monotonic() - began


async def campaign(play: Play) -> Figures:
    """1,000,000 people of a CSV by `cairn profiles import`, a run over them, and a tenth of them into an ad audience: each one is looked for."""
    stage, count = play.stage, play.size(1_000_000)
    with PlatformStandIn() as platform, tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "people.csv"
        play.say("writing the file")
        with source.open("w") as file:
            file.writelines(_lines(count))
        await stage.publish(CAMPAIGN.format(port=platform.port))
        play.say("importing")
        before = stage.cpu()
        told, import_s = await _import(stage, source)
        import_cpu = used_between(before, stage.cpu())
        play.say("running")
        before, began = stage.cpu(), time.monotonic()
        ended, run_s = await run_once(stage)
        play.say("waiting for the audience")
        expected = sum(map(_is_met, range(count)))
        await _all_sent(stage, expected)
        audience_s = time.monotonic() - began
        run_cpu = used_between(before, stage.cpu())
        play.say("judging")
        wrong = await _judge(stage, platform.port, count)
    if told != {"accepted": count, "refused": 0}:
        wrong["import"] = count - told["accepted"]
    if ended.progress.entered != expected:
        wrong["entered"] = ended.progress.entered - expected
    return {
        "import_per_s": round(count / import_s),
        "import_s": round(import_s, 2),
        "import_cpu_s": {name: round(value, 2) for name, value in import_cpu.items()},
        "run_s": round(run_s, 2),
        "run_and_audience_s": round(audience_s, 2),
        "run_cpu_s": {name: round(value, 2) for name, value in run_cpu.items()},
        "evaluator_peak_mb": round(peak_mb(stage.suite.instances["evaluator"].child.pid), 1),
        "members": expected,
        "correct": not wrong,
        "judged": count,
        "wrong": dict(wrong),
    }


async def _all_sent(stage: Stage, count: int) -> None:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while await stage.database.fetchval("SELECT count(*) FROM activation.deliveries WHERE state = 4") < count:
        if time.monotonic() > deadline:
            raise AssertionError("the audience was not complete after ten minutes")
        await asyncio.sleep(_POLL_SECONDS)


async def _judge(stage: Stage, port: int, count: int) -> Counter[str]:
    """Everybody in the file: who is to be in the audience is, once, with one delivery and one enrollment; nobody else."""
    async with aiohttp.ClientSession() as session, session.get(f"http://127.0.0.1:{port}/_state") as answer:
        held = Counter(values[0] for values in (await answer.json())["members"].get("1", []))
    wrong: Counter[str] = Counter()
    places: set[int] = set()
    async with stage.database.transaction():
        cursor = stage.database.cursor(
            "SELECT p.profile_id, p.standings <> '{}', count(d.activation_id) FROM evaluator.profiles p "
            "LEFT JOIN activation.deliveries d ON d.profile_id = p.profile_id GROUP BY p.bucket, p.profile_id",
            prefetch=20_000,
        )
        async for profile_id, stands, deliveries in cursor:
            place = int(profile_id.rpartition("-")[2])
            places.add(place)
            meets = _is_met(place)
            wrong["enrolled"] += stands != meets
            wrong["deliveries"] += deliveries != meets
            wrong["members"] += held.pop(hashlib.sha256(_email(place).encode()).hexdigest(), 0) != meets
    wrong["foreign members"] = sum(held.values())
    wrong["missing profiles"] = len(set(range(count)) ^ places)
    return +wrong


async def beside(play: Play) -> Figures:
    """A run over 1,000,000 profiles while carts come at half of the rate that they could: how late their timers are."""
    stage, count = play.stage, play.size(1_000_000)
    await stage.publish(JOURNEY)
    await stage.publish(CARTS.format(wait=3))
    await play.carts(range(2_000), 3, prefix="warm")
    play.say("filling")
    await fill(stage, count)
    phase = Phase("cart_add", play.size(160_000), rate=_BESIDE_RATE)
    carts = asyncio.create_task(timers(play, phase, 3))
    await asyncio.sleep(3.0)
    ended, seconds = await run_once(stage)
    figures = await carts
    wrong = dict(figures["wrong"])
    if ended.progress.entered != (expected := sum(map(_is_met, range(count)))):
        wrong["entered"] = ended.progress.entered - expected
    return {**figures, "run_seconds": round(seconds, 2), "correct": not wrong, "wrong": wrong}


CAMPAIGN_WORKLOADS: Mapping[str, Workload] = {"campaign": campaign, "beside": beside}
"""By name, in the order in which they run."""
