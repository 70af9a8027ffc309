"""The same journey twice, moved by runs and moved as it happens: over equivalent input both end in the same enrollments."""

import random
from typing import Any

from house import event, until

from cairn.api.evaluator.v1 import evaluator_pb2 as pb

# An hour is a second here: no wait ends while the test runs, and no staleness.
TWIN = """
name: twin-{kind}
type: {type}
{audience}
goal: {{criteria: profile.done == true}}
reentry: {{mode: UNLESS_GOAL_ACHIEVED, cooldown: 300d}}
exit_criteria: [{{name: closed, criteria: profile.closed == true}}]
stages:
  - name: one
    entry: profile.twin == true && profile.age >= 18
    milestone: profile.bought == true
    exit_criteria: [{{name: gone, criteria: profile.gone == true, to: three}}]
    steps:
      - decision:
          branches:
            - {{name: old, criteria: profile.age >= 60, steps: [{{activation: {{channel: ledger}}}}]}}
            - {{name: rich, criteria: profile.spent > 100, steps: [{{end: {{}}}}]}}
      - wait:
          condition: profile.agreed == true
          timeout: 20d
          met: [{{activation: {{channel: ledger}}}}]
      - wait: {{duration: 20d}}
  - name: two
    milestone: profile.loyal == true
    steps:
      - decision:
          branches:
            - {{name: agreed, criteria: profile.agreed == true, steps: [{{activation: {{channel: ledger}}}}]}}
            - {{name: young, criteria: profile.age < 40}}
      - wait: {{duration: 20d}}
  - name: three
    steps: [{{activation: {{channel: ledger}}}}, {{wait: {{duration: 20d}}}}]
"""
FLAGS = ("bought", "gone", "closed", "loyal", "agreed", "done")
PEOPLE = 300
ROUNDS = 4


def changes(chance: random.Random, first: bool) -> dict[str, Any]:
    if first:
        known = {"twin": True, "age": chance.choice([16, 20, 70]), "spent": chance.choice([0, 500])}
        return {**known, **({"done": True} if chance.random() < 0.05 else {})}
    return dict.fromkeys(chance.sample(FLAGS, chance.choice([0, 1, 1, 2])), True) | (
        {"age": 30} if chance.random() < 0.1 else {}
    )


async def test_the_same_journey_as_batch_and_in_real_time(door) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    audience = "audience: profile.twin == true"
    batch = TWIN.format(kind="batch", type="BATCH", audience=audience)
    real = TWIN.format(kind="real", type="REAL_TIME", audience="")
    await door.cairn.publish(f"{batch}---{real}")
    # An upsert waits for no revision: an event does.
    await door.ingest(event("nobody", "served"))
    names = [f"twins-{number:03}" for number in range(PEOPLE)]
    for turn in range(ROUNDS):
        profiles = [pb.Profile(profile_id=name) for name in names]
        for profile in profiles:
            profile.attributes.update(changes(chance, turn == 0))
        await door.stub.UpsertProfiles(pb.UpsertProfilesRequest(profiles=profiles), timeout=30)
        await run(door)
        ended = 0
        for name in names:
            of_batch, of_real = await told(door, name, "batch"), await told(door, name, "real")
            assert of_batch == of_real, name
            ended += bool(of_batch[0]) and of_batch[0][0] not in ("WAITING", "RESTING")
        assert turn == 0 or ended > 10, "there was something to tell"


async def run(door) -> None:
    request = pb.StartRunRequest(journey="journeys/twin-batch", min_revision=door.cairn.revision)
    started = (await door.stub.StartRun(request, timeout=20)).run

    async def is_done() -> bool:
        found = (await door.stub.GetRun(pb.GetRunRequest(name=started.name), timeout=20)).run
        return found.state == pb.RUN_STATE_DONE

    await until(is_done, "the run is over")


async def told(door, name: str, kind: str) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Where somebody is, or was last, and how they came there: everything but ids, times and causes."""
    journey = f"journeys/twin-{kind}"
    where: tuple[str, ...] = ()
    for each in await door.enrollments(name, journey=journey):
        where = (pb.EnrollmentState.Name(each.state)[17:], each.stage, each.step, each.exit)
    way = []
    for entry in reversed(await door.timeline(name)):
        transition = entry.transition
        if transition.journey_version.startswith(f"{journey}/"):
            branch = dict(transition.detail).get("branch", "")
            kind_of = pb.TransitionKind.Name(transition.kind)[16:]
            # Receipts come when they like: what is taken back depends on them. And a run tells nobody day after day that he may not enter.
            if kind_of not in ("ACTIVATION_WITHDRAWN", "ENTRY_REFUSED"):
                way.append((kind_of, transition.stage, transition.step, str(branch)))
    return where, way
