"""From one journey into another: jumps, and the target of a goal."""

import pytest

from cairn.journey import limits
from cairn.journey.state import Kind
from cairn.testing.journeys import Case, Story, alarm, event, passes, play, profile, tell

TRIAL = """
name: trial
type: REAL_TIME
goal: {criteria: event.name == "subscribe", target: {journey: loyalty, stage: thanks}}
reentry: {mode: ALWAYS}
stages:
  - name: one
    entry: event.name == "signup"
    steps:
      - wait: {duration: 1h}
      - activation: {channel: email}
      - decision:
          branches:
            - {name: leaves, criteria: profile.leaves, steps: [{end: {}}]}
            - {name: stage, criteria: profile.late, steps: [{jump: {journey: loyalty, stage: thanks}}]}
          otherwise: [{jump: {journey: loyalty}}]
"""
LOYALTY = """
name: loyalty
type: REAL_TIME
goal: {criteria: event.name == "gold"}
reentry: {REENTRY}
stages:
  - name: hello
    entry: event.name == "join" && profile.never
    milestone: event.name in ["subscribe", "order"]
    steps: [{wait: {duration: 1d}}, {activation: {channel: log}}]
  - name: thanks
    steps: [{wait: {duration: 2d}}]
"""


def both(reentry: str = "mode: ALWAYS", trial: str = TRIAL) -> str:
    return f"{trial}\n---\n{LOYALTY.replace('REENTRY', reentry)}"


SIGNED_UP = ("trial 0s ENTERED one", "trial 0s STAGE_ENTERED one", "trial 0s WAIT_STARTED one/1 until 1h")
ASKED = ("trial 1h WAIT_ENDED one/1", "trial 1h ACTIVATION_REQUESTED one/2 through email")
JUMPED = (*ASKED, "trial 1h BRANCH_TAKEN one/3 otherwise", "trial 1h JUMPED one/3/otherwise/1 to loyalty")
JUMPED_ON = (*ASKED, "trial 1h BRANCH_TAKEN one/3 stage", "trial 1h JUMPED one/3/stage/1 to loyalty/thanks")
THANKS_WITH = "trial 5m GOAL_ACHIEVED one to loyalty/thanks"


def hello(at: str, until: str) -> tuple[str, ...]:
    return (
        f"loyalty {at} ENTERED hello",
        f"loyalty {at} STAGE_ENTERED hello",
        f"loyalty {at} WAIT_STARTED hello/1 until {until}",
    )


def thanks(at: str, until: str) -> tuple[str, ...]:
    return (
        f"loyalty {at} ENTERED thanks",
        f"loyalty {at} STAGE_ENTERED thanks",
        f"loyalty {at} WAIT_STARTED thanks/1 until {until}",
    )


ITSELF = """
name: ring
type: REAL_TIME
reentry: {REENTRY}
goal: {criteria: event.name == "goal"}
stages:
  - {name: one, entry: event.name == "begin", milestone: event.name == "on", steps: [{wait: {duration: 1h}}, {jump: {journey: ring, stage: two}}]}
  - {name: two, steps: [{wait: {duration: 1h}}, {jump: {journey: ring}}]}
"""
ITSELF_BEGUN = (
    "0s ENTERED one",
    "0s STAGE_ENTERED one",
    "0s WAIT_STARTED one/1 until 1h",
    "1h WAIT_ENDED one/1",
)

CASES = (
    Case(
        "a jump ends the one and begins the other, at the same logical time; what was asked for stays asked for",
        both(),
        (event("signup"), passes("1h")),
        (*SIGNED_UP, *JUMPED, *hello("1h", "1d1h")),
    ),
    Case(
        "a jump to a stage begins there",
        both(),
        (event("signup"), passes("1h")),
        (*SIGNED_UP, *JUMPED_ON, *thanks("1h", "2d1h")),
        {"late": True},
    ),
    Case(
        "a way that ends without a jump: no jump",
        both(),
        (event("signup"), passes("1h")),
        (*SIGNED_UP, *ASKED, "trial 1h BRANCH_TAKEN one/3 leaves", "trial 1h RESTED one/3/leaves/1"),
        {"leaves": True},
    ),
    Case(
        "a goal's target, and the input that met the goal is not tested there",
        both(),
        (event("signup"), event("subscribe", at="5m")),
        (*SIGNED_UP, "trial 5m WAIT_CANCELED one/1", THANKS_WITH, *thanks("5m", "2d5m")),
    ),
    Case(
        "not tested there, where it is a milestone; the next of its kind is",
        both(trial=TRIAL.replace(", stage: thanks}}\nreentry", "}}\nreentry")),
        (event("signup"), event("subscribe", at="5m"), event("order", at="6m")),
        (
            *SIGNED_UP,
            "trial 5m WAIT_CANCELED one/1",
            "trial 5m GOAL_ACHIEVED one to loyalty",
            *hello("5m", "1d5m"),
            "loyalty 6m WAIT_CANCELED hello/1",
            "loyalty 6m STAGE_ENTERED thanks",
            "loyalty 6m WAIT_STARTED thanks/1 until 2d6m",
        ),
    ),
    Case(
        "the target's mode holds: who was there is refused, and has left all the same",
        both("mode: NEVER"),
        (event("signup"), passes("1h"), event("gold", at="2h"), event("signup", at="3h"), passes("1h")),
        (
            *SIGNED_UP,
            *JUMPED,
            *hello("1h", "1d1h"),
            "loyalty 2h WAIT_CANCELED hello/1",
            "loyalty 2h GOAL_ACHIEVED hello",
            *(line.replace(" 1h", " 4h").replace(" 0s", " 3h") for line in (*SIGNED_UP, *JUMPED)),
            "loyalty 4h ENTRY_REFUSED hello because of mode",
        ),
    ),
    Case(
        "the target's cooldown holds",
        both("mode: ALWAYS, cooldown: 7d"),
        (
            event("signup"),
            passes("1h"),
            event("gold", at="2h"),
            event("signup", at="3h"),
            event("subscribe", at="4h"),
        ),
        (
            *SIGNED_UP,
            *JUMPED,
            *hello("1h", "1d1h"),
            "loyalty 2h WAIT_CANCELED hello/1",
            "loyalty 2h GOAL_ACHIEVED hello",
            *(line.replace(" 1h", " 4h").replace(" 0s", " 3h") for line in SIGNED_UP),
            "trial 4h WAIT_CANCELED one/1",
            "trial 4h GOAL_ACHIEVED one to loyalty/thanks",
            "loyalty 4h ENTRY_REFUSED thanks because of cooldown",
        ),
    ),
    Case(
        "the target's maximum holds",
        both("mode: ALWAYS, max_entries: 1"),
        (event("signup"), passes("1h"), event("gold", at="2h"), event("signup", at="3h"), passes("1h")),
        (
            *SIGNED_UP,
            *JUMPED,
            *hello("1h", "1d1h"),
            "loyalty 2h WAIT_CANCELED hello/1",
            "loyalty 2h GOAL_ACHIEVED hello",
            *(line.replace(" 1h", " 4h").replace(" 0s", " 3h") for line in (*SIGNED_UP, *JUMPED)),
            "loyalty 4h ENTRY_REFUSED hello because of maximum",
        ),
    ),
    Case(
        "still on the way there: ignored, without a word",
        both(),
        (event("signup"), passes("1h"), event("signup", at="2h"), passes("1h")),
        (
            *SIGNED_UP,
            *JUMPED,
            *hello("1h", "1d1h"),
            *(line.replace(" 1h", " 3h").replace(" 0s", " 2h") for line in (*SIGNED_UP, *JUMPED)),
        ),
    ),
    Case(
        "still on the way there, where it restarts: restarted",
        both("mode: NEVER, while_active: RESTART"),
        (event("signup"), passes("1h"), event("signup", at="2h"), passes("1h")),
        (
            *SIGNED_UP,
            *JUMPED,
            *hello("1h", "1d1h"),
            *(line.replace(" 1h", " 3h").replace(" 0s", " 2h") for line in (*SIGNED_UP, *JUMPED)),
            "loyalty 3h WAIT_CANCELED hello/1",
            "loyalty 3h RESTARTED hello",
            *hello("3h", "1d3h"),
        ),
    ),
    Case(
        "at rest in the last stage there: begins again, the old one is completed",
        both(),
        (event("signup"), event("subscribe", at="5m"), passes("3d"), event("signup"), passes("1h")),
        (
            *SIGNED_UP,
            "trial 5m WAIT_CANCELED one/1",
            THANKS_WITH,
            *thanks("5m", "2d5m"),
            "loyalty 2d5m WAIT_ENDED thanks/1",
            "loyalty 2d5m RESTED thanks",
            *(line.replace(" 1h", " 3d1h5m").replace(" 0s", " 3d5m") for line in (*SIGNED_UP, *JUMPED)),
            "loyalty 3d1h5m COMPLETED thanks",
            *hello("3d1h5m", "4d1h5m"),
        ),
    ),
    Case(
        "the goal there was met later already: overtaken",
        both(trial=TRIAL.replace("1h", "10m")),
        (event("gold", at="1h"), event("signup", at="5m"), passes("1h")),
        (
            "trial 5m ENTERED one",
            "trial 5m STAGE_ENTERED one",
            "trial 5m WAIT_STARTED one/1 until 15m",
            *(line.replace(" 1h", " 15m") for line in JUMPED),
            "loyalty 15m ENTRY_REFUSED hello because of goal",
        ),
    ),
    Case(
        "a journey that is not there: it is taken to exist, and nothing begins",
        TRIAL,
        (event("signup"), passes("1h"), event("signup", at="2h")),
        (
            *(line.removeprefix("trial ") for line in (*SIGNED_UP, *JUMPED)),
            "2h ENTERED one",
            "2h STAGE_ENTERED one",
            "2h WAIT_STARTED one/1 until 3h",
        ),
    ),
    Case(
        "to itself, back to the first stage: a new enrollment, for ever",
        ITSELF.replace("REENTRY", "mode: ALWAYS"),
        (event("begin"), passes("2h")),
        (
            *ITSELF_BEGUN,
            "1h JUMPED one/2 to ring/two",
            "1h ENTERED two",
            "1h STAGE_ENTERED two",
            "1h WAIT_STARTED two/1 until 2h",
            "2h WAIT_ENDED two/1",
            "2h JUMPED two/2 to ring",
            "2h ENTERED one",
            "2h STAGE_ENTERED one",
            "2h WAIT_STARTED one/1 until 3h",
        ),
    ),
    Case(
        "to itself, under its own rules of re-entry",
        ITSELF.replace("REENTRY", "mode: NEVER"),
        (event("begin"), passes("2h")),
        (*ITSELF_BEGUN, "1h JUMPED one/2 to ring/two", "1h ENTRY_REFUSED two because of mode"),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_jump(case: Case) -> None:
    case.check()


def test_a_jump_is_no_reason_to_take_a_message_back() -> None:
    assert play(both(), event("signup"), passes("1h")).withdrawn == []


def test_a_goal_is_though_it_leads_on() -> None:
    story = play(
        both(), event("signup"), passes("1h"), profile(leaves=True), event("signup", at="2h"), passes("1h")
    )
    event("subscribe", at="4h")(story)
    assert [each.reason for each in story.withdrawn] == ["goal"]


def test_what_a_jump_begins_says_whence() -> None:
    story = play(both(), event("signup"), passes("1h"))
    (entered,) = [
        each for each in story.transitions if each.journey_id == "loyalty" and each.kind is Kind.ENTERED
    ]
    assert entered.cause == "jump trial"


SEES = """
name: sees
type: REAL_TIME
stages:
  - name: only
    entry: event.name == "never"
    steps:
      - decision:
          branches:
            - {name: event, criteria: event.name == "subscribe" && entry.name == "subscribe"}
            - {name: entry, criteria: entry.name == "signup" && entry.properties.plan == "pro"}
"""


def test_a_goals_target_sees_the_event_that_met_it_a_later_jump_the_event_that_began() -> None:
    trial = TRIAL.replace("journey: loyalty, stage: thanks", "journey: sees").replace(
        "journey: loyalty", "journey: sees"
    )
    text = f"{trial}\n---\n{SEES}"
    by_goal = tell(text, event("signup", plan="pro"), event("subscribe", at="5m"))
    assert "sees 5m BRANCH_TAKEN only/1 event" in by_goal
    by_jump = tell(text, event("signup", plan="pro"), passes("1h"))
    assert "sees 1h BRANCH_TAKEN only/1 entry" in by_jump


def test_a_message_after_a_jump_carries_the_event_that_began_the_first_journey() -> None:
    story = play(both(), event("signup", plan="pro"), passes("2d"))
    (request,) = [each for each in story.requested if each.step_id == "hello/2"]
    assert request.entry is not None
    assert (request.entry["name"], request.entry["properties"]) == ("signup", {"plan": "pro"})


KEYED = """
name: accounts
type: REAL_TIME
key: event.properties.account
reentry: {mode: ALWAYS}
stages: [{name: only, entry: event.name == "open", steps: [{wait: {duration: 1d}}]}]
"""


def test_a_jump_into_a_keyed_journey_takes_the_key_of_the_event_it_carries() -> None:
    trial = TRIAL.replace("journey: loyalty, stage: thanks", "journey: accounts").replace(
        "journey: loyalty", "journey: accounts"
    )
    story = play(f"{trial}\n---\n{KEYED}", event("signup", account="a"), passes("1h"))
    assert "accounts/a" in story.standings
    without = play(f"{trial}\n---\n{KEYED}", event("signup"), passes("1h"))
    assert [each for each in without.standings if each.startswith("accounts")] == []
    assert "trial 1h JUMPED one/3/otherwise/1 to accounts" in without.lines


def test_an_event_that_begins_the_target_itself_begins_it_once() -> None:
    loyalty = LOYALTY.replace("REENTRY", "mode: ALWAYS").replace(
        'event.name == "join" && profile.never', 'event.name == "subscribe"'
    )
    story = play(f"{TRIAL}\n---\n{loyalty}", event("signup"), event("subscribe", at="5m"))
    assert [each.kind for each in story.transitions if each.journey_id == "loyalty"].count(Kind.ENTERED) == 1


def test_journeys_that_go_round_in_one_instant_stop_after_a_hundred_steps() -> None:
    """Publishing refuses them; a ring that came about otherwise comes to rest."""
    one = """
name: NAME
type: REAL_TIME
reentry: {mode: ALWAYS}
stages: [{name: only, entry: event.name == "NAME", steps: [{jump: {journey: OTHER}}]}]
"""
    story = Story(one.replace("NAME", "left").replace("OTHER", "right"))
    story.publish(one.replace("NAME", "right").replace("OTHER", "left"))
    event("left")(story)
    jumps = [each for each in story.transitions if each.kind is Kind.JUMPED]
    assert len(jumps) == limits.MAX_STEPS == 100
    rested = [line for line in story.lines if " RESTED " in line]
    assert rested == ["left 0s RESTED only because of more than 100 steps"]


def test_a_ring_that_takes_time_goes_on() -> None:
    story = play(ITSELF.replace("REENTRY", "mode: ALWAYS"), event("begin"), passes("200h"))
    assert len([each for each in story.transitions if each.kind is Kind.JUMPED]) == 200


def test_a_ring_that_takes_time_is_caught_up_with_in_one_go() -> None:
    """The Scheduler was down for two hundred turns; steps are counted by the instant."""
    text = ITSELF.replace("REENTRY", "mode: ALWAYS")
    silent = tell(text, event("begin"), alarm(on=False), passes("12030m"), event("goal"))
    assert silent == tell(text, event("begin"), passes("12030m"), event("goal"))
    assert sum(" JUMPED " in line for line in silent) == 200


@pytest.mark.parametrize("mode", ["mode: NEVER", ""])
def test_a_goal_with_the_journey_itself_as_target_needs_rules_that_allow_it(mode: str) -> None:
    text = ITSELF.replace("REENTRY", mode).replace(
        'event.name == "goal"}', 'event.name == "goal", target: {journey: ring}}'
    )
    lines = tell(text, event("begin"), event("goal", at="5m"))
    assert lines[-2:] == ["5m GOAL_ACHIEVED one to ring", "5m ENTRY_REFUSED one because of mode"]
    again = tell(
        text.replace("reentry: {" + mode, "reentry: {mode: ALWAYS"), event("begin"), event("goal", at="5m")
    )
    assert again[-4:-2] == ["5m GOAL_ACHIEVED one to ring", "5m ENTERED one"]
