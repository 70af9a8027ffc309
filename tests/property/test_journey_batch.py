"""Batch journeys against the machine's own promises: a run that comes again changes nothing, no event moves one, and the same journey as BATCH and as
REAL_TIME over equivalent input comes to the same.

Equivalent: whenever the one is run, the other hears of a change of the profile that no criteria reads.
"""

from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st
from reference_play import examples

from cairn.journey.dispatch import dispatch_run
from cairn.journey.state import Kind, Profile, RequestActivation, RunInput, Standing, WithdrawActivation
from cairn.testing.journeys import Change, Event, Story
from cairn.testing.moments import Run

HOUR_US = 3_600_000_000
NAME = "both"
KEPT = ("entries", "last_entry_us", "achieved")

criteria = st.sampled_from(
    [
        "profile.a == true",
        "profile.b == true",
        "profile.n > 1",
        "profile.n < 2",
        "has(profile.c)",
        'count("x") > 0',
    ]
)
durations = st.sampled_from(["30m", "1h", "2h", "1d", "2d", "1w"])


def step(draw: st.DrawFn, nests: bool) -> dict[str, Any]:
    kinds = [
        "duration",
        "duration",
        "activation",
        "activation",
        "until_time",
        "condition",
        "decision",
        "experiment",
    ]
    kind = draw(st.sampled_from(kinds if nests else kinds[:5]))
    match kind:
        case "duration":
            return {"wait": {"duration": draw(durations)}}
        case "until_time":
            return {"wait": {"until_time": draw(st.sampled_from(["00:00", "09:00", "13:00"]))}}
        case "condition":
            ways = {way: steps(draw, 1, nests=False) for way in ("met", "timed_out")}
            return {"wait": {"condition": draw(criteria), "timeout": draw(durations), **ways}}
        case "decision":
            told = draw(st.lists(criteria, min_size=2, max_size=2, unique=True))
            branches = [
                {"name": f"b{n}", "criteria": each, "steps": steps(draw, 1, nests=False)}
                for n, each in enumerate(told)
            ]
            return {"decision": {"branches": branches, "otherwise": steps(draw, 1, nests=False)}}
        case "experiment":
            arms = [{"name": f"v{n}", "percent": 50, "steps": steps(draw, 1, nests=False)} for n in range(2)]
            return {"experiment": {"variants": arms}}
        case _:
            return {
                "activation": draw(
                    st.sampled_from(
                        [{"channel": "log"}, {"channel": "ads", "action": "ADD", "until": "EXIT"}]
                    )
                )
            }


def steps(draw: st.DrawFn, most: int, nests: bool = True) -> list[dict[str, Any]]:
    return [step(draw, nests) for _ in range(draw(st.integers(0, most)))]


@st.composite
def journeys(draw: st.DrawFn) -> dict[str, Any]:
    """A journey without its type, whose entry and audience are two criteria."""
    count = draw(st.integers(1, 3))
    stages = []
    for number in range(count):
        # So that there are at most 24 elements, as in a real-time journey.
        stage: dict[str, Any] = {"name": f"s{number}", "steps": steps(draw, 1 if number else 3)}
        if number < count - 1:
            stage["milestone"] = draw(criteria)
        exits = []
        if draw(st.booleans()):
            exits.append({"name": "cold", "stale": draw(st.sampled_from(["90m", "3d"]))})
        if draw(st.booleans()):
            later = {"to": f"s{count - 1}"} if number < count - 1 and draw(st.booleans()) else {}
            exits.append({"name": "out", "criteria": draw(criteria), **later})
        stages.append({**stage, "exit_criteria": exits})
    mode = draw(st.sampled_from(["NEVER", "UNLESS_GOAL_ACHIEVED", "ALWAYS"]))
    reentry: dict[str, Any] = {
        "mode": mode,
        "while_active": draw(st.sampled_from(["IGNORE", "IGNORE", "RESTART"])),
    }
    if draw(st.booleans()):
        reentry["cooldown"] = draw(durations)
    found = {"name": NAME, "reentry": reentry, "stages": stages, "skip_stages": draw(st.booleans())}
    return {**found, "goal": {"criteria": draw(criteria)}} if draw(st.booleans()) else found


def as_batch(journey: dict[str, Any], audience: str, entry: str) -> str:
    first, *others = journey["stages"]
    stages = [{**first, "entry": entry}, *others]
    return str(yaml.safe_dump({**journey, "type": "BATCH", "audience": audience, "stages": stages}))


def as_real_time(journey: dict[str, Any], audience: str, entry: str) -> str:
    first, *others = journey["stages"]
    stages = [{**first, "entry": f"({audience}) && ({entry})"}, *others]
    return str(yaml.safe_dump({**journey, "type": "REAL_TIME", "stages": stages}))


changes = st.lists(
    st.tuples(
        st.integers(1, 30),
        st.dictionaries(st.sampled_from(["a", "b", "c"]), st.sampled_from([True, False, None]), max_size=2),
        st.integers(0, 3),
        st.booleans(),
    ),
    min_size=1,
    max_size=6,
)


def told(story: Story) -> list[Any]:
    """All that came of a story, but for what is the cause's: ids, and refusals, of which runs do not tell."""
    without = ("activation_id",)
    return [
        (
            each.time_us,
            each.kind,
            each.stage,
            each.step,
            {k: v for k, v in each.detail.items() if k not in without},
        )
        for each in story.transitions
        if each.kind is not Kind.ENTRY_REFUSED
    ]


def asked(story: Story) -> list[Any]:
    found = []
    for each in story.effects:
        if isinstance(each, RequestActivation):
            found.append((each.request_us, each.step_id, each.channel, each.action))
        elif isinstance(each, WithdrawActivation):
            found.append((each.request_us, each.reason))
    return found


class Pair:
    """The same journey and profile twice: one is run, the other hears of a change that no criteria reads."""

    def __init__(self, journey: dict[str, Any], audience: str, entry: str) -> None:
        self.batch = Story(as_batch(journey, audience, entry))
        self.real = Story(as_real_time(journey, audience, entry))
        self.ticks = 0

    def become(self, time_us: int, attributes: dict[str, Any]) -> None:
        """The profile is another one from here on; nobody is told yet."""
        for story in (self.batch, self.real):
            story.go_to(story.start_us + time_us)
            story.individual.profile = story.individual.described(attributes)

    def look(self, time_us: int) -> None:
        """A run comes by, and what it does comes of it once."""
        batch, self.ticks = self.batch, self.ticks + 1
        before, count = batch.standings.get(NAME), len(batch.transitions)
        batch.happen(Run(time_us))
        self.real.happen(Change(time_us, {"tick": self.ticks}))
        standing = batch.standings.get(NAME)
        if len(batch.transitions) == count:
            assert standing is before
        for back_us in (0, 1, HOUR_US) if standing is not before else (0,):
            repeated = RunInput(batch.now_us - back_us, "repeated")
            done = dispatch_run(batch.live, batch.profile, batch.standings, NAME, repeated)
            assert (done.standings, done.transitions, done.effects) == ({}, [], [])

    def hear(self, time_us: int) -> None:
        """An event that criteria may count; it moves nobody in the batch journey, and is known of in the other one."""
        standing, count = self.batch.standings.get(NAME), len(self.batch.transitions)
        self.batch.happen(Event("x", time_us))
        assert self.batch.standings.get(NAME) is standing
        assert len(self.batch.transitions) == count
        profile, behavior = self.real.profile, self.batch.profile.behavior
        self.real.individual.profile = Profile(
            profile.profile_id, profile.attributes, profile.time_zone, behavior
        )


@examples(100)
@given(journeys(), criteria, criteria, changes)
def test_as_batch_and_as_real_time(
    journey: dict[str, Any], audience: str, entry: str, changes: list[tuple[int, dict[str, Any], int, bool]]
) -> None:
    pair, time_us = Pair(journey, audience, entry), 0
    for hours, attributes, n, hears in changes:
        time_us += hours * HOUR_US
        # All that was due before the change has seen the profile as it was.
        pair.look(time_us - 1)
        pair.become(time_us, {**attributes, "n": n})
        if hears:
            pair.hear(time_us)
        pair.look(time_us)
        assert told(pair.batch) == told(pair.real)
    for days in (40, 80):
        pair.look(time_us + days * 24 * HOUR_US)
    assert told(pair.batch) == told(pair.real)
    assert asked(pair.batch) == asked(pair.real)
    # The other one has a standing also where only the time of a goal is kept.
    ended, other = (story.standings.get(NAME) or Standing() for story in (pair.batch, pair.real))
    assert [getattr(ended, each) for each in KEPT] == [getattr(other, each) for each in KEPT]
