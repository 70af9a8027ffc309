"""An import that is killed anywhere, command or service, and then continued ends as an undisturbed one does."""

import asyncio
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import asyncpg
from house import Cairn

from cairn.cli.suite import Suite

PROFILES = 60_000
BAD = frozenset({17, 30_001, 59_999})
ROUNDS = 8


def line(number: int) -> str:
    age = "old" if number in BAD else str(18 + number % 70)
    return f"p{number:06},{number}@example.com,{age},{'yes' if number % 3 else 'no'}\n"


def launch(source: Path, address: str) -> "subprocess.Popen[str]":
    command = ["profiles", "import", str(source), "--number", "age", "--boolean", "vip", "--json"]
    return subprocess.Popen(
        [sys.executable, "-m", "cairn.cli.main", *command],
        env={**os.environ, "CAIRN_EVALUATOR_ADDRESS": address, "CAIRN_DIE_WITH_PARENT": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_lines(path: str) -> list[dict[str, object]]:
    return [json.loads(each) for each in Path(path).read_text().splitlines()]


async def exists(path: Path) -> None:
    async with asyncio.timeout(60):
        while not path.exists():  # noqa: ASYNC110, ASYNC240 - another process makes it
            await asyncio.sleep(0.005)


async def test_an_import_that_is_killed_and_continued(suite: Suite, cairn: Cairn, tmp_path: Path) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    await cairn.publish("connection: {name: ledger, log: {}}\n---\n" + JOURNEY)
    source = tmp_path / "people.csv"
    source.write_text("profile_id,email,age,vip\n" + "".join(map(line, range(PROFILES))))
    progress = tmp_path / "people.csv.cairn-progress"
    went_on = 0
    for turn in range(ROUNDS):
        process = launch(source, suite.address("evaluator"))
        if turn < ROUNDS - 1:
            if turn == 0:
                # Once for certain in the middle, when some of it is known to be taken.
                await exists(progress)
            else:
                await asyncio.sleep(chance.uniform(0.2, 2.0))
            suite.kill_service("evaluator")
            if turn % 2 == 0:
                process.kill()
            suite.launch("evaluator")
        output, errors = await asyncio.to_thread(process.communicate, None, 120)
        went_on += "Going on after row" in errors
        if process.returncode in (0, 1):
            break
        assert process.returncode == -9, errors
    assert went_on
    assert json.loads(output) == {"accepted": PROFILES - len(BAD), "refused": len(BAD)}, errors
    assert not progress.exists()
    assert read_lines(f"{source}.rejects") == [
        {"line": number + 2, "reason": "column age: 'old' is no number"} for number in sorted(BAD)
    ]

    connection = await asyncpg.connect(suite.dsn)
    rows = await connection.fetch(
        "SELECT profile_id, revision, attributes FROM evaluator.profiles ORDER BY profile_id"
    )
    await connection.close()
    assert [row["profile_id"] for row in rows] == [
        f"p{number:06}" for number in range(PROFILES) if number not in BAD
    ]
    for row in rows:
        number = int(row["profile_id"][1:])
        assert json.loads(row["attributes"]) == {
            "email": f"{number}@example.com",
            "age": 18 + number % 70,
            "vip": bool(number % 3),
        }
    # What was sent again said nothing new.
    assert {row["revision"] for row in rows} == {1}


JOURNEY = """
name: cart
type: REAL_TIME
stages:
  - name: filled
    entry: event.name == "cart_add"
    steps: [{activation: {channel: ledger}}]
"""
