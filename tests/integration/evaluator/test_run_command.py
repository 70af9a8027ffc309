"""`cairn run` and `cairn runs` against the real service: what people see, and what programs get."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys

import pytest
from click.testing import CliRunner, Result

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.cli.main import cli

JOURNEY = """
name: {name}
type: BATCH
audience: profile.group == "{name}"
{more}
stages:
  - name: one
    entry: profile.age >= 18
    steps:
      - {{name: hello, activation: {{channel: ledger}}}}
      - decision:
          branches:
            - {{name: old, criteria: profile.age >= 60, steps: [{{wait: {{duration: 20d}}}}]}}
            - {{name: young, criteria: profile.age < 30, steps: [{{end: {{}}}}]}}
"""


@pytest.fixture
def command(cairn):
    """Runs a command as a person at no terminal does."""
    environment = {**os.environ, "CAIRN_EVALUATOR_ADDRESS": cairn.suite.address("evaluator")}

    async def run(*arguments: str) -> Result:
        return await asyncio.to_thread(CliRunner(env=environment).invoke, cli, arguments)

    return run


async def prepare(door, name: str, more: str = "", people: int = 6) -> None:
    await door.cairn.publish(JOURNEY.format(name=name, more=more))
    for number in range(people):
        await door.upsert(f"{name}-{number:03}", group=name, age=20 + 10 * (number % 6))
    request = pb.PreviewRunRequest(journey=f"journeys/{name}", min_revision=door.cairn.revision)
    await door.stub.PreviewRun(request, timeout=20)


async def test_what_would_happen_is_a_tree_with_numbers_and_then_it_happens(
    door, command, profile_id
) -> None:
    name = f"shown-{profile_id}"
    await prepare(door, name)
    counted = await command("run", name, "--dry-run")
    assert counted.exit_code == 0, counted.stderr
    lines = [" ".join(re.findall(r"[\w,/-]+", line)) for line in counted.stdout.splitlines()]
    assert lines == [
        f"{name}/1",
        "one",
        "6 ENTERED",
        "6 STAGE_ENTERED",
        "hello",
        "6 ACTIVATION_REQUESTED",
        "one/2",
        "2 BRANCH_TAKEN old",
        "1 BRANCH_TAKEN young",
        "3 BRANCH_TAKEN otherwise",
        "one/2/old/1",
        "2 WAIT_STARTED",
        "one/2/young/1",
        "1 RESTED",
        "3 RESTED",
        "4 COMPLETED",
    ]
    assert "6 would be moved, 6 enter, 6 activations" in counted.stderr
    document = json.loads((await command("run", name, "--dry-run", "--json")).stdout)
    assert "name" not in document["run"]
    assert {
        "stage": "one",
        "step": "hello",
        "kind": "TRANSITION_KIND_ACTIVATION_REQUESTED",
        "count": "6",
    } in document["counts"]
    done = await command("run", name)
    assert done.exit_code == 0, done.stderr
    assert "DONE: " in done.stderr
    assert "6 moved, 6 entered, 6 activations" in done.stderr
    listed = json.loads((await command("runs", "--journey", name, "--json")).stdout)
    assert listed["progress"]["moved"] == "6"
    shown = await command("runs", "show", name)
    assert "6 moved, 6 entered, 6 activations" in shown.stdout
    again = await command("run", name, "--json")
    assert "moved" not in json.loads(again.stdout)["progress"]


async def test_a_run_is_paused_resumed_and_canceled_by_its_journey(door, command, profile_id) -> None:
    name = f"slow-{profile_id}"
    await prepare(door, name, "rate: 1/m")
    begun = await command("run", name, "--no-wait")
    assert begun.exit_code == 0, begun.stderr
    run = begun.stdout.strip()
    assert run.startswith(f"{name}/")
    refused = await command("run", name)
    assert refused.exit_code == 1
    assert f"journeys/{name}/runs/" in refused.stderr
    for words, state in (("pause", "PAUSED"), ("resume", "RUNNING"), ("cancel", "CANCELED")):
        done = await command("runs", words, name)
        assert done.exit_code == 0, done.stderr
        assert f"{run} {state}: " in done.stderr
    assert (await command("runs", "cancel", run)).exit_code == 1
    nobodys = await command("runs", "show", "nobodys")
    assert nobodys.exit_code == 1
    assert "has no runs" in nobodys.stderr


async def test_ctrl_c_leaves_the_run_going(door, command, cairn, profile_id) -> None:
    name = f"left-{profile_id}"
    await prepare(door, name, "rate: 1/m")
    process = subprocess.Popen(  # noqa: ASYNC220 - it is talked to, and waits for nothing
        [sys.executable, "-m", "cairn.cli.main", "run", name, "--address", cairn.suite.address("evaluator")],
        stderr=subprocess.PIPE,
        text=True,
    )

    async def begun() -> bool:
        return bool((await command("runs", "--journey", name, "--json")).stdout)

    while not await begun():
        assert process.poll() is None, process.stderr
        await asyncio.sleep(0.1)
    # Its answer may be on the way still.
    await asyncio.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, told = await asyncio.to_thread(process.communicate, timeout=20)
    assert process.returncode == 130, told
    assert f"cairn runs cancel {name}/" in told
    assert "RUNNING" in (await command("runs", "show", name)).stdout
    assert (await command("runs", "cancel", name)).exit_code == 0
