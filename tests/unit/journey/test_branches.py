"""Steps that hold steps: decisions, experiments, how they nest, where their ways meet, what ends a way."""

from collections import Counter

import pytest

from cairn.testing.journeys import Case, event, passes, play, read_journey, tell

HEAD = """
name: branches
type: REAL_TIME
goal: {criteria: event.name == "goal"}
reentry: {mode: ALWAYS}
stages:
  - name: one
    entry: event.name == "begin"
    milestone: event.name == "on"
    exit_criteria: [{name: left, criteria: event.name == "leave"}]
    steps:
STEPS
  - name: two
    steps: [{activation: {channel: log}}]
"""


def steps(text: str) -> str:
    return HEAD.replace("STEPS", "\n".join(f"      {line}" for line in text.strip().splitlines()))


IN = ("0s ENTERED one", "0s STAGE_ENTERED one")

DECISION = steps("""
- decision:
    branches:
      - {name: big, criteria: profile.seats > 50, steps: [{activation: {channel: webhook}}]}
      - {name: some, criteria: profile.seats > 5, steps: [{activation: {channel: email}}, {activation: {channel: log}}]}
      - {name: few, criteria: profile.seats > 0}
    otherwise: [{activation: {channel: ads}}]
- {name: after, activation: {channel: log}}
""")


def decided(branch: str, *steps: str) -> tuple[str, ...]:
    asked = (f"ACTIVATION_REQUESTED {step}" for step in (*steps, "after through log"))
    return (*IN, f"0s BRANCH_TAKEN one/1 {branch}", *(f"0s {what}" for what in asked), "0s RESTED one")


EXPERIMENT = steps("""
- experiment:
    variants:
      - {name: off, percent: 0, steps: [{activation: {channel: ads}}]}
      - {name: control, percent: CONTROL}
      - {name: offer, percent: OFFER, steps: [{activation: {channel: email}}]}
- {name: after, activation: {channel: log}}
""")


def experiment(control: int, offer: int) -> str:
    return EXPERIMENT.replace("CONTROL", str(control)).replace("OFFER", str(offer))


NESTED = steps("""
- decision:
    branches:
      - name: new
        criteria: profile.years < 1
        steps:
          - experiment:
              variants:
                - name: talk
                  percent: 100
                  steps:
                    - wait:
                        condition: event.name == "login"
                        timeout: 1d
                        met: [{name: hello, activation: {channel: email}}]
                        timed_out: [{activation: {channel: ads}}]
                    - activation: {channel: sms}
          - activation: {channel: webhook}
      - {name: gone, criteria: profile.years > 90, steps: [{end: {}}]}
- {name: after, activation: {channel: log}}
""")
NEW = (*IN, "0s BRANCH_TAKEN one/1 new", "0s BRANCH_TAKEN one/1/new/1 talk")
WAITING = (*NEW, "0s WAIT_STARTED one/1/new/1/talk/1 until 1d")


def met_again(at: str) -> tuple[str, ...]:
    return (
        f"{at} ACTIVATION_REQUESTED one/1/new/1/talk/2 through sms",
        f"{at} ACTIVATION_REQUESTED one/1/new/2 through webhook",
        f"{at} ACTIVATION_REQUESTED after through log",
        f"{at} RESTED one",
    )


CASES = (
    Case(
        "the first branch that holds, though the next ones do as well",
        DECISION,
        (event("begin"),),
        decided("big", "one/1/big/1 through webhook"),
        {"seats": 51},
    ),
    Case(
        "the second, when the first does not",
        DECISION,
        (event("begin"),),
        decided("some", "one/1/some/1 through email", "one/1/some/2 through log"),
        {"seats": 50},
    ),
    Case("a branch without steps does nothing", DECISION, (event("begin"),), decided("few"), {"seats": 5}),
    Case(
        "otherwise, when none does",
        DECISION,
        (event("begin"),),
        decided("otherwise", "one/1/otherwise/1 through ads"),
        {"seats": 0},
    ),
    Case(
        "criteria that fail are false: otherwise",
        DECISION,
        (event("begin"),),
        decided("otherwise", "one/1/otherwise/1 through ads"),
    ),
    Case(
        "criteria of another type fail as well",
        DECISION,
        (event("begin"),),
        decided("otherwise", "one/1/otherwise/1 through ads"),
        {"seats": "many"},
    ),
    Case(
        "nested: met, and all ways meet again",
        NESTED,
        (event("begin"), event("login", at="2h")),
        (
            *WAITING,
            "2h WAIT_ENDED one/1/new/1/talk/1 met",
            "2h ACTIVATION_REQUESTED hello through email",
            *met_again("2h"),
        ),
        {"years": 0},
    ),
    Case(
        "nested: timed out, and all ways meet again",
        NESTED,
        (event("begin"), passes("1d")),
        (
            *WAITING,
            "1d WAIT_ENDED one/1/new/1/talk/1 timed out",
            "1d ACTIVATION_REQUESTED one/1/new/1/talk/1/timed_out/1 through ads",
            *met_again("1d"),
        ),
        {"years": 0},
    ),
    Case(
        "nested: a milestone leaves from within",
        NESTED,
        (event("begin"), event("on", at="2h"), event("login", at="3h")),
        (
            *WAITING,
            "2h WAIT_CANCELED one/1/new/1/talk/1",
            "2h STAGE_ENTERED two",
            "2h ACTIVATION_REQUESTED two/1 through log",
            "2h RESTED two",
        ),
        {"years": 0},
    ),
    Case(
        "nested: an exit leaves from within",
        NESTED,
        (event("begin"), event("leave", at="2h")),
        (*WAITING, "2h WAIT_CANCELED one/1/new/1/talk/1", "2h EXITED one by left"),
        {"years": 0},
    ),
    Case(
        "an end in a branch ends the flow of the stage: what follows is not run, a milestone still moves",
        NESTED,
        (event("begin"), passes("1d"), event("on")),
        (
            *IN,
            "0s BRANCH_TAKEN one/1 gone",
            "0s RESTED one/1/gone/1",
            "1d STAGE_ENTERED two",
            "1d ACTIVATION_REQUESTED two/1 through log",
            "1d RESTED two",
        ),
        {"years": 99},
    ),
    Case(
        "no branch and no otherwise: on to where the ways meet",
        NESTED,
        (event("begin"),),
        (
            *IN,
            "0s BRANCH_TAKEN one/1 otherwise",
            "0s ACTIVATION_REQUESTED after through log",
            "0s RESTED one",
        ),
        {"years": 5},
    ),
    Case(
        "a variant of 100 %: everybody",
        experiment(0, 100),
        (event("begin"),),
        (
            *IN,
            "0s BRANCH_TAKEN one/1 offer",
            "0s ACTIVATION_REQUESTED one/1/offer/1 through email",
            "0s ACTIVATION_REQUESTED after through log",
            "0s RESTED one",
        ),
    ),
    Case(
        "a control group of 100 %: its empty way, and on",
        experiment(100, 0),
        (event("begin"),),
        (*IN, "0s BRANCH_TAKEN one/1 control", "0s ACTIVATION_REQUESTED after through log", "0s RESTED one"),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_branch(case: Case) -> None:
    case.check()


def test_a_decision_sees_the_event_at_hand_the_entry_and_the_profile() -> None:
    text = steps("""
- wait: {duration: 1h}
- decision:
    branches:
      - {name: event, criteria: event.name == "begin"}
      - {name: entry, criteria: entry.properties.size == profile.size}
""")
    assert "1h BRANCH_TAKEN one/2 entry" in tell(
        text, event("begin", size=3), passes("1h"), attributes={"size": 3}
    )
    at_once = text.replace("      - wait: {duration: 1h}\n", "")
    assert "0s BRANCH_TAKEN one/1 event" in tell(at_once, event("begin"))


def test_what_a_criteria_of_a_branch_fails_on_is_counted() -> None:
    assert play(DECISION, event("begin")).failures == 3


# Experiments


def variant(text: str, profile_id: str) -> str:
    (taken,) = [
        each.detail["branch"]
        for each in play(text, event("begin"), profile_id=profile_id).transitions
        if each.kind.name == "BRANCH_TAKEN"
    ]
    return str(taken)


PROFILES = [f"profile-{number}" for number in range(600)]


def test_variants_get_their_shares() -> None:
    shares = Counter(variant(experiment(20, 80), each) for each in PROFILES)
    assert shares["off"] == 0
    # Four standard deviations around 120 of 600.
    assert 80 < shares["control"] < 160
    assert shares["control"] + shares["offer"] == 600


def test_the_same_profile_always_falls_the_same_way() -> None:
    """Whenever it enters, in whatever version; and who is in 20 % is still in when they become 50 %."""
    twice = play(experiment(50, 50), event("begin"), event("goal", at="1h"), event("begin", at="2d"))
    first, second = (each.detail["branch"] for each in twice.transitions if each.kind.name == "BRANCH_TAKEN")
    assert first == second
    few = {each for each in PROFILES[:200] if variant(experiment(20, 80), each) == "control"}
    many = {each for each in PROFILES[:200] if variant(experiment(50, 50), each) == "control"}
    assert few < many


def test_who_falls_where_never_changes() -> None:
    """Another hash would move everybody into the other group, in the middle of their experiment."""
    fell = "".join(variant(experiment(50, 50), f"profile-{number}")[0] for number in range(24))
    assert fell == "ocococooccooocoooccccccc"


def test_journeys_and_steps_are_drawn_for_independently() -> None:
    other_journey = experiment(50, 50).replace("name: branches", "name: other")
    other_step = experiment(50, 50).replace("- experiment:", "- name: own\n        experiment:")
    assert read_journey(other_step).stages[0].steps[0].step_id == "own"
    drawn = [
        tuple(variant(text, each) for each in PROFILES[:64])
        for text in (experiment(50, 50), other_journey, other_step)
    ]
    assert len(set(drawn)) == 3


# Ids


def test_ids_below_steps_come_from_the_way_to_them() -> None:
    def ids(steps: object) -> list[str]:
        from cairn.journey.model import ways

        found = []
        for step in steps:  # type: ignore[attr-defined]
            found.append(step.step_id)
            for _, inner in ways(step.kind):
                found += ids(inner)
        return found

    assert ids(read_journey(NESTED).stages[0].steps) == [
        "one/1",
        "one/1/new/1",
        "one/1/new/1/talk/1",
        "hello",
        "one/1/new/1/talk/1/timed_out/1",
        "one/1/new/1/talk/2",
        "one/1/new/2",
        "one/1/gone/1",
        "after",
    ]


def test_below_a_step_with_a_name_ids_begin_with_it() -> None:
    text = steps("""
- name: pick
  decision:
    branches:
      - {name: a, criteria: profile.a, steps: [{activation: {channel: log}}]}
      - {name: b, criteria: profile.b}
    otherwise: [{activation: {channel: log}}, {activation: {channel: email}}]
""")
    assert [line for line in tell(text, event("begin")) if "ACTIVATION" in line] == [
        "0s ACTIVATION_REQUESTED pick/otherwise/1 through log",
        "0s ACTIVATION_REQUESTED pick/otherwise/2 through email",
    ]


def test_a_move_takes_back_what_branches_have_asked_for() -> None:
    story = play(DECISION, event("begin"), event("on", at="1h"), attributes={"seats": 51})
    assert [each.step_id for each in story.requested] == ["one/1/big/1", "after", "two/1"]
    assert [each.activation_id for each in story.withdrawn] == [
        each.activation_id for each in story.requested[:2]
    ]
