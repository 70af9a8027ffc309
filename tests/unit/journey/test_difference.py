"""What changed between two journeys: told by element, once, in the words of YAML."""

from collections.abc import Callable

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from cairn.api.definition.v1 import definition_pb2
from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey.difference import Difference, DifferenceKind, diff_journeys, written
from cairn.journey.document import read_documents

ADDED, REMOVED, CHANGED, MOVED = DifferenceKind

TRIAL = """
name: trial
purpose: {kind: CUSTOM, description: Turn a trial into a subscription}
type: REAL_TIME
goal: {criteria: event.name == "subscribe", target: {journey: loyalty, stage: thanks}}
reentry: {mode: ALWAYS, cooldown: 7d, max_entries: 3, while_active: RESTART}
skip_stages: false
key: event.properties.account_id
time_zone: Asia/Tokyo
exit_criteria:
  - {name: closed, criteria: event.name == "account_closed"}
  - {name: stale, stale: 24d}
stages:
  - name: first-steps
    entry: event.name == "signup"
    milestone: event.name == "project_created"
    exit_criteria:
      - {name: gave-up, criteria: event.name == "uninstall", to: win-back}
    steps:
      - {name: hello, activation: {channel: email, template: welcome}}
      - wait: {duration: 2d}
      - wait: {until_time: "09:00", weekdays: [MON, FRI]}
      - wait: {until: "2027-01-31T09:00:00Z"}
      - wait:
          condition: event.name == "login"
          timeout: 3d
          met: [{activation: {channel: email, template: tips}}]
          timed_out: [{activation: {channel: email, template: nudge}}]
  - name: active
    milestone: event.name == "x"
    steps:
      - name: size
        decision:
          branches:
            - {name: big, criteria: profile.seats > 50, steps: [{activation: {channel: crm-webhook}}]}
            - {name: small, criteria: profile.seats <= 5}
          otherwise: [{activation: {channel: email, template: upgrade}}]
      - experiment:
          variants:
            - {name: control, percent: 20}
            - {name: discount, percent: 80, steps: [{activation: {channel: email, template: discount}}]}
  - name: win-back
    steps:
      - {name: on, jump: {journey: loyalty, stage: thanks}}
"""


def read(text: str) -> pb.Journey:
    (document,), violations = read_documents(text)
    assert not violations
    assert isinstance(document.message, pb.Journey)
    return document.message


def changed(edit: Callable[[pb.Journey], object]) -> tuple[Difference, ...]:
    before, after = read(TRIAL), read(TRIAL)
    edit(after)
    return diff_journeys(before, after)


def test_the_numbers_of_kinds_are_those_of_the_contract() -> None:
    for kind in DifferenceKind:
        assert definition_pb2.DifferenceKind.Name(int(kind)) == f"DIFFERENCE_KIND_{kind.name}"


def test_what_is_equal_has_no_difference_and_what_only_we_write_is_none() -> None:
    def stamp(journey: pb.Journey) -> None:
        journey.etag, journey.latest_version, journey.state = "x", 4, pb.JOURNEY_STATE_LIVE
        journey.pause.mode = pb.PAUSE_MODE_RUN

    assert changed(stamp) == ()


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("duration: 2d", "duration: 3h", (CHANGED, "step first-steps/2", "wait.duration", "2d", "3h")),
        ("duration: 2d", "duration: 90m", (CHANGED, "step first-steps/2", "wait.duration", "2d", "90m")),
        ("duration: 2d", "duration: 100ms", (CHANGED, "step first-steps/2", "wait.duration", "2d", "100ms")),
        ('"09:00"', '"10:30"', (CHANGED, "step first-steps/3", "wait.until_time", "09:00", "10:30")),
        ("[MON, FRI]", "[SUN]", (CHANGED, "step first-steps/3", "wait.weekdays", "[MON, FRI]", "[SUN]")),
        ("2027-01-31", "2028-01-31", (CHANGED, "step first-steps/4", "wait.until", "2027-01-31T09:00:00Z", "2028-01-31T09:00:00Z")),
        ('"login"', '"log_in"', (CHANGED, "step first-steps/5", "wait.condition", 'event.name == "login"', 'event.name == "log_in"')),
        ("timeout: 3d", "timeout: 24h", (CHANGED, "step first-steps/5", "wait.timeout", "3d", "1d")),
        ("template: nudge", "template: poke", (CHANGED, "step first-steps/5/timed_out/1", "activation.template", "nudge", "poke")),
        ("template: tips", "template: hint", (CHANGED, "step first-steps/5/met/1", "activation.template", "tips", "hint")),
        ("seats > 50", "seats > 60", (CHANGED, "step size", "decision.branches[big].criteria", "profile.seats > 50", "profile.seats > 60")),
        ("crm-webhook", "crm-hook", (CHANGED, "step size/big/1", "activation.channel", "crm-webhook", "crm-hook")),
        ("template: upgrade", "template: more", (CHANGED, "step size/otherwise/1", "activation.template", "upgrade", "more")),
        ("percent: 20", "percent: 0", (CHANGED, "step active/2", "experiment.variants[control].percent", "20", "0")),
        ("template: discount}", "template: ten}", (CHANGED, "step active/2/discount/1", "activation.template", "discount", "ten")),
        ("skip_stages: false", "skip_stages: true", (CHANGED, "journey", "skip_stages", "false", "true")),
        ("skip_stages: false", "", (CHANGED, "journey", "skip_stages", "false", "")),
        ("cooldown: 7d", "cooldown: 1w", None),
        ("mode: ALWAYS", "mode: NEVER", (CHANGED, "journey", "reentry.mode", "ALWAYS", "NEVER")),
        (", while_active: RESTART", "", (CHANGED, "journey", "reentry.while_active", "RESTART", "")),
        ("{journey: loyalty, stage: thanks}}\nreentry", "{journey: vip, stage: thanks}}\nreentry", (CHANGED, "journey", "goal.target.journey", "loyalty", "vip")),
        ("key: event.properties.account_id", "", (CHANGED, "journey", "key", "event.properties.account_id", "")),
        ("kind: CUSTOM", "kind: WIN_BACK", (CHANGED, "journey", "purpose.kind", "CUSTOM", "WIN_BACK")),
        ("stale: 24d", "stale: 23d", (CHANGED, "exit stale", "stale", "24d", "23d")),
        (", to: win-back", "", (CHANGED, "exit first-steps/gave-up", "to", "win-back", "")),
        ('== "signup"', '== "sign_up"', (CHANGED, "stage first-steps", "entry", 'event.name == "signup"', 'event.name == "sign_up"')),
        ("- {name: on, jump: {journey: loyalty", "- {name: on, jump: {journey: vip", (CHANGED, "step on", "jump.journey", "loyalty", "vip")),
        ("wait: {duration: 2d}", "end: {}", (CHANGED, "step first-steps/2", "", "wait: {duration: 2d}", "end: {}")),
        ("  - {name: stale, stale: 24d}\n", "", (REMOVED, "exit stale", "", "stale: 24d", "")),
        ("  - {name: stale, stale: 24d}\n", "  - {name: stale, stale: 24d}\n  - {name: late, stale: 2d, to: active}\n", (ADDED, "exit late", "", "", "{stale: 2d, to: active}")),
        ("            - {name: small, criteria: profile.seats <= 5}\n", "", (REMOVED, "step size", "decision.branches[small]", "criteria: profile.seats <= 5", "")),
        ("            - {name: control, percent: 20}\n", "            - {name: control, percent: 20}\n            - {name: off, percent: 0}\n", (ADDED, "step active/2", "experiment.variants[off]", "", "percent: 0")),
    ],
)  # fmt: skip
def test_one_change_is_one_difference(old: str, new: str, told: tuple[object, ...] | None) -> None:
    assert TRIAL.count(old) == 1
    found = diff_journeys(read(TRIAL), read(TRIAL.replace(old, new)))
    assert found == ((Difference(*told),) if told else ())
    back = diff_journeys(read(TRIAL.replace(old, new)), read(TRIAL))
    assert [(one.before, one.after) for one in back] == [(one.after, one.before) for one in found]


def test_a_stage_that_comes_is_told_with_all_that_is_in_it_where_it_stands() -> None:
    new = """\
  - name: between
    milestone: event.name == "y"
    exit_criteria: [{name: bored, stale: 1d}]
    steps:
      - wait: {condition: event.name == "z", timeout: 1d, met: [{end: {}}]}
  - name: win-back
"""
    found = diff_journeys(read(TRIAL), read(TRIAL.replace("  - name: win-back\n", new)))
    assert [(one.kind, one.element, one.field, one.after) for one in found] == [
        (ADDED, "stage between", "", 'milestone: event.name == "y"'),
        (ADDED, "exit between/bored", "", "stale: 1d"),
        (ADDED, "step between/1", "", "wait: {condition: event.name == \"z\", timeout: 1d}"),
        (ADDED, "step between/1/met/1", "", "end: {}"),
    ]  # fmt: skip


def test_a_decision_that_goes_takes_its_branches_with_it_and_is_told_where_it_stood() -> None:
    def edit(journey: pb.Journey) -> None:
        del journey.stages[1].steps[0]
        journey.stages[1].steps[0].name = "toss"
        journey.stages[2].steps.add().end.SetInParent()

    assert [(one.kind, one.element, one.field) for one in changed(edit)] == [
        (REMOVED, "step size", ""),
        (REMOVED, "step size/big/1", ""),
        (REMOVED, "step size/otherwise/1", ""),
        (REMOVED, "step active/2", ""),
        (REMOVED, "step active/2/discount/1", ""),
        (ADDED, "step toss", ""),
        (ADDED, "step toss/discount/1", ""),
        (ADDED, "step win-back/2", ""),
    ]
    whole = changed(edit)[0].before
    assert yaml.safe_load(whole)["decision"]["branches"][1] == {
        "name": "small",
        "criteria": "profile.seats <= 5",
    }


def test_what_is_gone_before_everything_else_comes_first() -> None:
    def edit(journey: pb.Journey) -> None:
        del journey.exit_criteria[0]
        journey.purpose.description = "x"

    assert [one.element for one in changed(edit)] == ["journey", "exit closed"]
    nothing = pb.Journey()
    assert {one.kind for one in diff_journeys(read(TRIAL), nothing)} == {CHANGED, REMOVED}
    assert {one.kind for one in diff_journeys(nothing, read(TRIAL))} == {CHANGED, ADDED}


def test_a_named_step_that_stands_elsewhere_has_moved_with_what_it_holds() -> None:
    def edit(journey: pb.Journey) -> None:
        step = journey.stages[1].steps.pop(0)
        journey.stages[2].steps.insert(0, step)
        journey.stages[1].steps[0].name = "toss"

    found = [one for one in changed(edit) if one.element.startswith("step size")]
    assert found == [Difference(MOVED, "step size", "", "active/1", "win-back/1")]


def test_of_what_changed_places_as_few_as_possible_have_moved() -> None:
    def edit(journey: pb.Journey) -> None:
        journey.stages.insert(0, journey.stages.pop(2))
        journey.exit_criteria.reverse()
        branches = journey.stages[2].steps[0].decision.branches
        branches.insert(0, branches.pop())

    assert changed(edit) == (
        Difference(MOVED, "exit stale", "", "2", "1"),
        Difference(MOVED, "stage win-back", "", "3", "1"),
        Difference(MOVED, "step size", "decision.branches[small]", "2", "1"),
    )


def test_a_step_can_move_and_change_at_once() -> None:
    def edit(journey: pb.Journey) -> None:
        journey.stages[2].steps.append(journey.stages[0].steps.pop(0))
        journey.stages[2].steps[1].activation.template = "bye"

    found = [one for one in changed(edit) if one.element == "step hello"]
    assert found == [
        Difference(CHANGED, "step hello", "activation.template", "welcome", "bye"),
        Difference(MOVED, "step hello", "", "first-steps/1", "win-back/2"),
    ]


def test_presence_alone_is_a_difference() -> None:
    before, after = pb.Journey(), pb.Journey()
    after.goal.SetInParent()
    after.skip_stages = False
    assert [(one.field, one.before, one.after) for one in diff_journeys(before, after)] == [
        ("goal", "", "{}"),
        ("skip_stages", "", "false"),
    ]


def test_a_journey_written_is_the_journey_read() -> None:
    journey = read(TRIAL)
    journey.stages[1].steps[0].decision.branches[0].steps[0].activation.channel = "connections/crm-webhook"
    assert read(yaml.safe_dump(written(journey), sort_keys=False)) == read(TRIAL)


names = st.sampled_from("abc")


@st.composite
def steps(draw: st.DrawFn, used: set[str], depth: int = 0) -> pb.Step:
    step = pb.Step()
    name = draw(st.sampled_from(["", "", "p", "q", "r", "s", "t"]))
    if name not in used:
        used.add(name)
        step.name = name
    used.discard("")
    kind = draw(st.sampled_from(["wait", "activation", "end", "decision", "experiment", "jump"]))
    inner = st.integers(0, 2 if depth < 2 else 0)
    match kind:
        case "wait":
            step.wait.duration.seconds = draw(st.integers(0, 3))
        case "activation":
            step.activation.channel = draw(names)
        case "end":
            step.end.SetInParent()
        case "jump":
            step.jump.journey = draw(names)
        case "decision":
            step.decision.SetInParent()
            for way in draw(st.lists(names, unique=True)):
                branch = step.decision.branches.add(name=way, criteria=draw(names))
                branch.steps.extend(draw(steps(used, depth + 1)) for _ in range(draw(inner)))
            step.decision.otherwise.extend(draw(steps(used, depth + 1)) for _ in range(draw(inner)))
        case "experiment":
            step.experiment.SetInParent()
            for way in draw(st.lists(names, unique=True)):
                variant = step.experiment.variants.add(name=way, percent=draw(st.integers(0, 2)))
                variant.steps.extend(draw(steps(used, depth + 1)) for _ in range(draw(inner)))
    return step


@st.composite
def journeys(draw: st.DrawFn) -> pb.Journey:
    journey = pb.Journey(name="x")
    used: set[str] = set()
    for name in draw(st.lists(names, unique=True)):
        journey.exit_criteria.add(name=name, criteria=draw(names))
    for name in draw(st.lists(names, unique=True)):
        stage = journey.stages.add(name=name, milestone=draw(st.sampled_from(["", "m"])))
        for way in draw(st.lists(names, unique=True, max_size=1)):
            stage.exit_criteria.add(name=way).stale.seconds = draw(st.integers(1, 2))
        stage.steps.extend(draw(steps(used)) for _ in range(draw(st.integers(0, 3))))
    return journey


@given(journeys(), journeys())
def test_there_is_no_difference_only_where_there_is_none(before: pb.Journey, after: pb.Journey) -> None:
    found = diff_journeys(before, after)
    assert (found == ()) == (before == after)
    assert diff_journeys(before, before) == ()
    assert len(set(found)) == len(found)
    back = diff_journeys(after, before)
    turned = {ADDED: REMOVED, REMOVED: ADDED, CHANGED: CHANGED}
    assert {(turned[one.kind], one.element, one.field) for one in found if one.kind is not MOVED} == {
        (one.kind, one.element, one.field) for one in back if one.kind is not MOVED
    }


def test_what_only_a_batch_journey_has_is_told_by_field() -> None:
    text = """
name: back
type: BATCH
audience: profile.a == true
schedule: {cron: 0 6 * * *, missed: SKIP}
rate: 10/s
stages: [{name: one, entry: profile.b == true}]
"""
    (document,), _ = read_documents(text)
    assert isinstance(document.message, pb.Journey)
    assert written(document.message)["schedule"] == {"cron": "0 6 * * *", "missed": "SKIP"}
    changed = (
        text.replace("a == true", "a == 1")
        .replace("0 6", "0 7")
        .replace("SKIP", "RUN_LATE")
        .replace("rate: 10/s\n", "")
    )
    (other,), _ = read_documents(changed)
    assert isinstance(other.message, pb.Journey)
    assert diff_journeys(document.message, other.message) == (
        Difference(CHANGED, "journey", "audience", "profile.a == true", "profile.a == 1"),
        Difference(CHANGED, "journey", "schedule.cron", "0 6 * * *", "0 7 * * *"),
        Difference(CHANGED, "journey", "schedule.missed", "SKIP", "RUN_LATE"),
        Difference(CHANGED, "journey", "rate", "10/s", ""),
    )
