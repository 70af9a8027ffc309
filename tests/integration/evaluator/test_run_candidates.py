"""SQL decides whom a run looks at, the machine whom it moves: whoever the machine would move is among those whom SQL finds."""

import random
from collections.abc import Sequence
from typing import Any

import pytest

from cairn.evaluator import store_runs
from cairn.evaluator.run_scan import scan_of
from cairn.evaluator.store import to_json
from cairn.journey.behavior import record
from cairn.journey.dispatch import dispatch_run, dispatch_to
from cairn.journey.document import read_documents
from cairn.journey.live import LiveJourney, LiveJourneys, Pause, PauseMode
from cairn.journey.parse import parse_journey
from cairn.journey.plan import Plan, compile_plan
from cairn.journey.state import LifeInput, Profile, ReceiptInput, RunInput, Standing
from cairn.journey.times import isoformat
from cairn.runtime.clock import to_datetime

HOUR_US = 3_600_000_000
START_US = 1_767_225_600_000_000
PROFILES = 600
SEGMENTS = {
    "grown": "profile.age >= 18",
    "busy": 'in_segment("grown") && count("login", duration("48h")) >= 2',
}

# By name: the versions of a journey, what differs between them in braces.
JOURNEYS = {
    "once": (
        """
audience: profile.age >= {0}
goal: {{criteria: profile.a == true}}
exit_criteria: [{{name: old, stale: 9d}}]
stages:
  - name: one
    entry: profile.b == true
    milestone: profile.c == {1}
    exit_criteria: [{{name: gone, criteria: profile.d == true, to: two}}, {{name: idle, stale: 3d}}]
    steps:
      - {{wait: {{duration: 26h}}}}
      - decision:
          branches:
            - {{name: big, criteria: profile.age > 30, steps: [{{activation: {{channel: x}}}}]}}
            - {{name: small, criteria: profile.age > 20, steps: [{{wait: {{duration: 5h}}}}]}}
          otherwise: [{{end: {{}}}}]
  - name: two
    steps: [{{wait: {{until_time: "09:00", weekdays: [MON, FRI]}}}}]
""",
        (("18", "true"), ("10", '"x"')),
    ),
    "again": (
        """
audience: "true"
reentry: {{mode: ALWAYS, cooldown: {0}, max_entries: 3}}
stages:
  - {{name: one, entry: profile.b == true, milestone: profile.c == true}}
  - {{name: two, milestone: profile.d == true, steps: [{{wait: {{condition: "{1}", timeout: 50h, met: [{{activation: {{channel: x}}}}]}}}}]}}
  - {{name: three, steps: [{{activation: {{channel: x}}}}]}}
""",
        (("20h", "profile.a == true"), ("1m", "profile.age == 40")),
    ),
    "restart": (
        """
audience: profile.age != 10
goal: {{criteria: profile.c == true}}
reentry: {{mode: UNLESS_GOAL_ACHIEVED, while_active: RESTART}}
skip_stages: false
stages:
  - {{name: one, entry: profile.b == true, milestone: profile.d == true, steps: [{{wait: {{duration: {0}}}}}]}}
  - {{name: two, milestone: profile.a == true}}
  - {{name: three, exit_criteria: [{{name: out, criteria: profile.b == {1}}}], steps: [{{wait: {{duration: 30h}}}}]}}
""",
        (("40h", "false"), ("2h", "true")),
    ),
    "behaved": (
        """
audience: in_segment("busy") || profile.a == true
goal: {{criteria: 'last("login").properties.n == {0}'}}
reentry: {{mode: ALWAYS}}
stages:
  - {{name: one, entry: count("login") >= {1}, milestone: 'sum("login", "n", duration("72h")) > 3.0', steps: [{{wait: {{duration: 9h}}}}]}}
  - {{name: two, exit_criteria: [{{name: quiet, criteria: 'count("login", duration("24h")) == 0'}}], steps: [{{wait: {{duration: 90h}}}}]}}
""",
        (("3", "1"), ("2", "2")),
    ),
}


def plans_of(name: str) -> list[Plan]:
    text, versions = JOURNEYS[name]
    plans = []
    for number, words in enumerate(versions, 1):
        (document,), wrong = read_documents(f"name: {name}\ntype: BATCH\n{text.format(*words)}")
        assert not wrong
        journey, violations = parse_journey(document.message)
        assert journey is not None, violations
        plans.append(compile_plan(journey, number, segments=SEGMENTS))
    return plans


class World:
    """Profiles that live through runs, versions, pauses and resumes of one journey."""

    def __init__(self, name: str, chance: random.Random) -> None:
        self.name = name
        self.chance = chance
        plans = plans_of(name)
        self.now_us = START_US
        first, both = {1: plans[0]}, {each.version: each for each in plans}
        since, until = START_US + 40 * HOUR_US, START_US + 47 * HOUR_US
        mode = chance.choice(list(PauseMode))
        paused, resumed = Pause(mode, since), Pause(mode, since, until)
        self.lives = [
            LiveJourney(first),
            LiveJourney(both),
            LiveJourney(both, pauses=(paused,)),
            LiveJourney(both, pauses=(resumed,)),
            LiveJourney(both, pauses=(resumed, Pause(PauseMode.FREEZE, START_US + 190 * HOUR_US))),
        ]
        # At the last moment of all: with a pause that lasts, or without.
        self.ends = chance.choice((3, 4))

    def attributes(self) -> dict[str, Any]:
        chance = self.chance
        flags = {each: chance.choice((True, True, False, 1, "x")) for each in "abcd" if chance.random() < 0.4}
        found = {**flags, "age": chance.choice((10, 19, 25, 40.0, "old", None))}
        if chance.random() < 0.02:
            found["note"] = "a\0b"
        return found

    def live_one(self, profile_id: str, end: int) -> tuple[Profile, dict[str, Standing]]:
        """A profile, and how it stands, after some of what may have happened by an hour, most of it not long before."""
        chance, name = self.chance, self.name
        standings: dict[str, Standing] = {}
        if chance.random() < 0.2:
            # What only looks like a standing with the journey.
            standings["other"] = Standing(remembered=None, enrollment=None)
        tracks: Any = {}
        profile = Profile(profile_id, self.attributes(), "")
        late = chance.sample(range(end - 20, end), chance.randrange(4))
        hours = sorted({*chance.sample(range(end - 20), chance.randrange(4)), *late})
        for number, hour in enumerate(hours):
            time_us = START_US + hour * HOUR_US
            stage = 0 if hour < 15 else 1 if hour < 40 else 2 if hour < 47 else 3
            live = LiveJourneys([self.lives[stage]])
            need = live.needs.get("login")
            if need is not None and chance.random() < 0.6:
                event = {
                    "event_id": f"e{number}",
                    "name": "login",
                    "occur_time": isoformat(to_datetime(time_us)),
                    "properties": {"n": chance.choice((1.0, 2.0, 3.0, "x"))},
                }
                tracks = record(tracks, need, event, time_us)
            if chance.random() < 0.7:
                profile = Profile(profile_id, self.attributes(), "", tracks)
            else:
                profile = Profile(profile_id, profile.attributes, "", tracks)
            if chance.random() < 0.8:
                done = dispatch_run(live, profile, standings, name, RunInput(time_us, f"r{hour}"))
            else:
                standing = standings.get(name)
                pending = standing.enrollment.pending if standing and standing.enrollment else ()
                life: Any = LifeInput(time_us)
                input = ReceiptInput(pending[0].activation_id) if pending else life
                done = dispatch_to(live, profile, standings, name, input)
            for standing_id, standing in done.standings.items():
                assert standing is not None
                standings[standing_id] = standing
        return Profile(
            profile_id, self.attributes() if chance.random() < 0.5 else profile.attributes, "", tracks
        ), standings


async def found_by_sql(
    database: Any, journey: LiveJourney, run_us: int, rows: Sequence[tuple[Profile, dict[str, Standing]]]
) -> set[str]:
    """Whom the statement of a run finds among profiles, in a table of their own that hides the real one."""
    await database.execute(
        "CREATE TEMP TABLE IF NOT EXISTS profiles (LIKE evaluator.profiles INCLUDING ALL) ON COMMIT PRESERVE ROWS"
    )
    await database.execute("TRUNCATE pg_temp.profiles")
    await database.executemany(
        "INSERT INTO profiles (bucket, profile_id, revision, attributes, standings, behavior, update_time) "
        "VALUES (0, $1, 1, $2, $3, $4, now())",
        [
            (
                profile.profile_id,
                to_json(dict(profile.attributes)),
                to_json(standings),
                to_json(profile.behavior) if profile.behavior else None,
            )
            for profile, standings in rows
        ],
    )
    statement = store_runs.find_statement(scan_of(journey))
    found = await database.fetch(statement, 0, "", "~", run_us, 1_000_000)
    return {row[0] for row in found}


@pytest.mark.parametrize("name", JOURNEYS)
async def test_whoever_the_machine_would_move_is_found_by_sql(name, database) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    world = World(name, random.Random(seed))
    # Hours after a pause, and long after it: then another may last.
    for hour, journey in ((48, world.lives[3]), (200, world.lives[world.ends])):
        rows = [world.live_one(f"p{number:04}", hour) for number in range(PROFILES)]
        run_us = START_US + hour * HOUR_US + 1
        live = LiveJourneys([journey])
        input = RunInput(run_us, "last")
        moved = set()
        for profile, standings in rows:
            done = dispatch_run(live, profile, standings, name, input)
            if done.standings or done.transitions:
                moved.add(profile.profile_id)
        found = await found_by_sql(database, journey, run_us, rows)
        assert moved - found == set()
        assert moved, "nobody is moved: the test shows nothing"
        # A journey that is paused, or was since, is looked at as a whole; else SQL leaves out most of whom nothing moves.
        if journey.pause is None:
            assert len(found) < PROFILES * 0.95


async def test_who_was_moved_by_this_very_run_is_found_again(database) -> None:
    """So that he is counted, when a page that was cut off comes again."""
    world = World("once", random.Random(1))
    live = LiveJourneys([world.lives[1]])
    run = RunInput(START_US, "r")
    rows, moved = [], set()
    for number in range(PROFILES):
        profile, standings = Profile(f"p{number:04}", world.attributes()), {}
        done = dispatch_run(live, profile, standings, "once", run)
        if done.standings:
            moved.add(profile.profile_id)
        rows.append((profile, dict(done.standings)))
    assert moved
    found = await found_by_sql(database, world.lives[1], run.time_us, rows)
    assert moved <= found
    later = await found_by_sql(database, world.lives[1], run.time_us + 1, rows)
    assert len(later & moved) < len(moved)
