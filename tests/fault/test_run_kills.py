"""A run under kills: SIGKILL of whoever executes it at random moments, and yet everybody is moved, and activated, as by an undisturbed run."""

import asyncio
import json
import random
from collections import Counter

import asyncpg
import grpc
import msgspec
from house import FINAL, Cairn, event, until

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from cairn.cli.suite import Suite
from cairn.postgres.bucket import bucket_of

PROFILES = 8_000
KILLS = 6
GREETED = 200

# The same journey twice: one is run undisturbed. And a real-time one, whose events come for some of the same people meanwhile.
JOURNEYS = """
connection: {name: ledger, log: {}}
---
name: calm
type: BATCH
audience: profile.age >= 18.0
stages: &stages
  - name: one
    entry: profile.plan == "gold"
    milestone: profile.bought == true
    steps:
      - {name: hello, activation: {channel: ledger}}
      - decision:
          branches:
            - {name: old, criteria: profile.age >= 60.0, steps: [{activation: {channel: ledger}}]}
            - {name: middle, criteria: profile.age >= 40.0, steps: [{wait: {duration: 20d}}]}
  - name: two
    steps: [{activation: {channel: ledger}}, {wait: {duration: 20d}}]
---
name: disturbed
type: BATCH
rate: 1500/s
audience: profile.age >= 18.0
stages: STAGES
---
name: greeting
type: REAL_TIME
stages:
  - name: one
    entry: event.name == "signup"
    steps: [{activation: {channel: ledger}}, {wait: {duration: 20d}}]
"""


def journeys() -> str:
    """The journeys, the stages of the first written out for the second."""
    head, _, rest = JOURNEYS.partition("stages: &stages\n")
    stages, _, others = rest.partition("---\n")
    return f"{head}stages:\n{stages}---\n{others}".replace("stages: STAGES\n", f"stages:\n{stages}")


async def fill(suite: Suite) -> dict[str, dict[str, object]]:
    """Profiles put into the table by hand, which is quicker; their attributes."""
    chance = random.Random(7)
    people: dict[str, dict[str, object]] = {}
    for number in range(PROFILES):
        people[f"p{number:05}"] = {
            "age": float(chance.randrange(10, 80)),
            "plan": chance.choice(("gold", "gold", "plain")),
            "bought": chance.random() < 0.2,
        }
    connection = await asyncpg.connect(
        suite.dsn, server_settings={"search_path": "evaluator", "role": "cairn_evaluator"}
    )
    count = await connection.fetchval("SELECT bucket_count FROM cairn.database")
    await connection.executemany(
        "INSERT INTO profiles (bucket, profile_id, revision, attributes, time_zone, standings, seen, update_time) "
        "VALUES ($1, $2, 1, $3, '', '{}', '[]', now())",
        [
            (bucket_of(each, count), each, msgspec.json.encode(attributes).decode())
            for each, attributes in people.items()
        ],
    )
    await connection.close()
    return people


async def standings(suite: Suite, journey: str) -> dict[str, object]:
    """How everybody stands with a journey, without what differs from run to run: ids and times."""
    connection = await asyncpg.connect(
        suite.dsn, server_settings={"search_path": "evaluator", "role": "cairn_evaluator"}
    )
    found = {}
    for profile_id, text in await connection.fetch("SELECT profile_id, standings FROM profiles"):
        standing = json.loads(text).get(journey)
        if standing is not None:
            enrollment, last_run = standing[4], standing[7]
            found[profile_id] = (standing[0], enrollment[1:5], last_run[1:])
    await connection.close()
    return found


async def test_a_run_that_is_killed_again_and_again_ends_as_an_undisturbed_one(
    suite: Suite, cairn: Cairn
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    await cairn.publish(journeys())
    people = await fill(suite)
    stub = EvaluatorServiceStub(cairn.channel("evaluator"))

    async def progress(name: str) -> pb.Run:
        try:
            return (await stub.GetRun(pb.GetRunRequest(name=name), timeout=5)).run
        except grpc.aio.AioRpcError:
            return pb.Run(name=name)

    async def is_over(name: str) -> bool:
        return (await progress(name)).HasField("end_time")

    async def begin(journey: str) -> str:
        request = pb.StartRunRequest(journey=f"journeys/{journey}", min_revision=cairn.revision)
        return (await stub.StartRun(request, timeout=20)).run.name

    calm = await begin("calm")
    await until(lambda: is_over(calm), "the undisturbed run is over")
    disturbed = await begin("disturbed")
    greeted = chance.sample(sorted(people), GREETED)
    kills = 0

    async def kill() -> None:
        nonlocal kills
        while True:
            await asyncio.sleep(chance.uniform(0.1, 0.8))
            if await is_over(disturbed) or kills == KILLS:
                return
            suite.kill_service("evaluator")
            kills += 1
            suite.launch("evaluator")
            await until(lambda: suite.ready("evaluator"), "the Evaluator is back")

    async def greet() -> None:
        for start in range(0, GREETED, 20):
            await cairn.send([event(each, "signup") for each in greeted[start : start + 20]])
            await asyncio.sleep(0.1)

    async with asyncio.timeout(120):
        await asyncio.gather(kill(), greet())
        await until(lambda: is_over(disturbed), "the disturbed run is over")
    assert kills >= 2
    once, twice = await progress(calm), await progress(disturbed)
    assert once.state == twice.state == pb.RUN_STATE_DONE
    counted = [
        (each.seen, each.moved, each.entered, each.activated, each.failed)
        for each in (once.progress, twice.progress)
    ]
    assert counted[0] == counted[1]
    assert counted[0][0] == PROFILES
    expected = {each for each, has in people.items() if has["age"] >= 18 and has["plan"] == "gold"}  # type: ignore[operator]
    assert counted[0][1] == len(expected)
    assert set(await standings(suite, "calm")) == expected
    assert await standings(suite, "calm") == await standings(suite, "disturbed")

    async def all_sent() -> bool:
        deliveries = await cairn.deliveries()
        return len(deliveries) >= 2 * once.progress.activated + GREETED and all(
            each.state in FINAL for each in deliveries
        )

    await until(all_sent, "everything is delivered")
    by_journey: dict[str, Counter[tuple[str, str]]] = {
        "calm": Counter(),
        "disturbed": Counter(),
        "greeting": Counter(),
    }
    for each in await cairn.deliveries():
        by_journey[each.journey_version.split("/")[1]][each.profile_id, each.step] += 1
    assert by_journey["calm"] == by_journey["disturbed"]
    assert sum(by_journey["calm"].values()) == once.progress.activated
    assert set(by_journey["calm"].values()) == {1}
    assert by_journey["greeting"] == Counter({(each, "one/1"): 1 for each in greeted})
