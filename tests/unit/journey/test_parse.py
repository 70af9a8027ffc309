"""Everything that is refused when a journey is saved: all at once, each with its field path and what would be right."""

from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey.document import read_documents
from cairn.journey.model import Activation, AudienceAction, End, ReentryMode, Wait
from cairn.journey.parse import count_elements, parse_journey, short_name
from cairn.testing.journeys import read_journey

VALID = """
name: valid
type: REAL_TIME
goal: {criteria: event.name == "goal"}
exit_criteria: [{name: cold, stale: 24d, to: two}]
stages:
  - name: one
    entry: event.name == "begin"
    milestone: event.name == "on"
    exit_criteria: [{name: out, criteria: event.name == "out"}]
    steps:
      - wait: {duration: 1h}
      - activation: {channel: email, template: one}
      - end: {}
  - name: two
    steps: [{activation: {channel: ads, action: REMOVE}}]
"""
Change = Callable[[pb.Journey], Any]


def message(text: str = VALID) -> pb.Journey:
    (document,), violations = read_documents(text)
    assert not violations
    assert isinstance(document.message, pb.Journey)
    return document.message


def violations_of(*changes: Change) -> list[tuple[str, str]]:
    journey = message()
    for change in changes:
        change(journey)
    model, violations = parse_journey(journey)
    assert (model is None) is bool(violations)
    return [(violation.path, violation.message) for violation in violations]


def sets(path: str, value: Any) -> Change:
    """Sets one field, as in `stages[0].steps[1].name`."""

    def change(journey: pb.Journey) -> None:
        *parents, name = path.replace("[", ".").replace("]", "").split(".")
        target: Any = journey
        for part in parents:
            target = target[int(part)] if part.isdigit() else getattr(target, part)
        if hasattr(value, "DESCRIPTOR"):
            getattr(target, name).CopyFrom(value)
        else:
            setattr(target, name, value)

    return change


def clears(path: str, field: str) -> Change:
    def change(journey: pb.Journey) -> None:
        target: Any = journey
        for part in path.replace("[", ".").replace("]", "").split("."):
            if part:
                target = target[int(part)] if part.isdigit() else getattr(target, part)
        target.ClearField(field)

    return change


def exits(count: int) -> Change:
    def change(journey: pb.Journey) -> None:
        del journey.exit_criteria[:]
        for number in range(count):
            journey.exit_criteria.add(name=f"e{number}", criteria="true")

    return change


def stages(count: int) -> Change:
    """So many stages, each with a milestone but the last, and no steps: 1 + (count - 1) elements."""

    def change(journey: pb.Journey) -> None:
        journey.CopyFrom(pb.Journey(name="many", type=pb.JOURNEY_TYPE_REAL_TIME))
        for number in range(count):
            journey.stages.add(name=f"s{number}", milestone="true" if number < count - 1 else "")
        journey.stages[0].entry = "true"

    return change


def steps(count: int) -> Change:
    def change(journey: pb.Journey) -> None:
        for _ in range(count):
            journey.stages[-1].steps.add().activation.channel = "email"

    return change


WRONG: tuple[tuple[str, Change, str, str], ...] = (
    ("no name", sets("name", ""), "name", "is missing; it takes 1 to 63"),
    ("a name that is no id", sets("name", "Big Cart"), "name", "is 'Big Cart'; it takes 1 to 63"),
    ("a name that ends with a hyphen", sets("name", "cart-"), "name", "is 'cart-'"),
    ("a name that begins with a digit", sets("name", "1cart"), "name", "is '1cart'"),
    ("a name of 64 characters", sets("name", "a" * 64), "name", "it takes 1 to 63"),
    ("a name with a line feed", sets("name", "cart\n"), "name", "it takes 1 to 63"),
    ("a name of another collection", sets("name", "segments/vip"), "name", "is 'segments/vip'"),
    ("no type", sets("type", 0), "type", "is missing; say REAL_TIME"),
    ("an unknown type", sets("type", 9), "type", "is 9, which is no type; say REAL_TIME"),
    ("an unknown purpose", sets("purpose.kind", 77), "purpose.kind", "is 77, which is no kind of purpose"),
    (
        "a long description",
        sets("purpose.description", "x" * 1001),
        "purpose.description",
        "has 1001 characters; it has at most 1000",
    ),
    ("an empty goal", sets("goal.criteria", ""), "goal.criteria", "line 1, column 1: "),
    ("no stages", clears("", "stages"), "stages", "is empty; a journey has 1 to 8 stages"),
    ("nine stages", stages(9), "stages", "has 9 stages; a journey has at most 8"),
    (
        "25 elements",
        steps(19),
        "stages",
        "has 25 elements (the entry criteria, each milestone and each step count one); ",
    ),
    (
        "no entry criteria",
        sets("stages[0].entry", ""),
        "stages[0].entry",
        "is missing; the first stage needs entry criteria",
    ),
    (
        "entry criteria on a later stage",
        sets("stages[1].entry", "true"),
        "stages[1].entry",
        "is given; only the first stage has entry criteria, here it is the milestone of stages[0]",
    ),
    (
        "entry criteria that read the entry",
        sets("stages[0].entry", "entry.properties.x"),
        "stages[0].entry",
        "line 1, column 1: ",
    ),
    (
        "no milestone",
        sets("stages[0].milestone", ""),
        "stages[0].milestone",
        "is missing; every stage but the last has one",
    ),
    (
        "a milestone on the last stage",
        sets("stages[1].milestone", "true"),
        "stages[1].milestone",
        "is given; the last stage has none",
    ),
    ("a stage without a name", sets("stages[1].name", ""), "stages[1].name", "is missing"),
    (
        "a stage's name twice",
        sets("stages[1].name", "one"),
        "stages[1].name",
        "is 'one', as of stages[0]; names are unique",
    ),
    (
        "a CEL error",
        sets("stages[0].milestone", 'event.name ==\n"x" &&'),
        "stages[0].milestone",
        "line 2, column ",
    ),
    (
        "a criteria that is no condition",
        sets("goal.criteria", "1 + 1"),
        "goal.criteria",
        "line 1, column 1: ",
    ),
    ("seventeen exits", exits(17), "exit_criteria", "has 17 exit criteria; a list has at most 16"),
    ("an exit without a name", sets("exit_criteria[0].name", ""), "exit_criteria[0].name", "is missing"),
    (
        "an exit without a condition",
        clears("exit_criteria[0]", "stale"),
        "exit_criteria[0]",
        "has no condition; give criteria, or stale with a duration",
    ),
    (
        "an exit's criteria",
        sets("stages[0].exit_criteria[0].criteria", "event.nme"),
        "stages[0].exit_criteria[0].criteria",
        "line 1, column ",
    ),
    (
        "staleness under a minute",
        sets("exit_criteria[0].stale", Duration(seconds=59, nanos=999_999_999)),
        "exit_criteria[0].stale",
        "is 59.999999s; staleness lasts 1m to 24d",
    ),
    (
        "staleness over 24 days",
        sets("exit_criteria[0].stale", Duration(seconds=24 * 86_400 + 1)),
        "exit_criteria[0].stale",
        "is 24d1s; staleness lasts 1m to 24d",
    ),
    (
        "staleness before now",
        sets("exit_criteria[0].stale", Duration(seconds=-60)),
        "exit_criteria[0].stale",
        "is -1m; ",
    ),
    (
        "an exit to nowhere",
        sets("exit_criteria[0].to", "three"),
        "exit_criteria[0].to",
        "names the stage 'three', which does not exist; there are one, two",
    ),
    (
        "an exit of the journey to the first stage",
        sets("exit_criteria[0].to", "one"),
        "exit_criteria[0].to",
        "names the stage 'one', which is not a later one",
    ),
    (
        "an exit of a stage to itself",
        sets("stages[0].exit_criteria[0].to", "one"),
        "stages[0].exit_criteria[0].to",
        "names the stage 'one', which is not a later one; an exit leads on or out, never back",
    ),
    (
        "a step that does nothing",
        clears("stages[0].steps[0]", "wait"),
        "stages[0].steps[0]",
        "does nothing; give it a wait, an activation, a decision, an experiment, a jump or an end",
    ),
    (
        "a step's name that is no id",
        sets("stages[0].steps[0].name", "A"),
        "stages[0].steps[0].name",
        "is 'A'; it takes",
    ),
    (
        "a step after an end",
        lambda journey: journey.stages[0].steps.add().end.SetInParent(),
        "stages[0].steps[3]",
        "cannot be reached: an end step stands before it",
    ),
    (
        "no duration",
        clears("stages[0].steps[0].wait", "duration"),
        "stages[0].steps[0].wait.duration",
        "is missing; write it as 90s, 3h or 24d",
    ),
    (
        "a wait of nothing",
        sets("stages[0].steps[0].wait.duration", Duration()),
        "stages[0].steps[0].wait.duration",
        "is 0s; a wait lasts more than 0 to 366d",
    ),
    (
        "a wait of more than a year",
        sets("stages[0].steps[0].wait.duration", Duration(seconds=366 * 86_400 + 1)),
        "stages[0].steps[0].wait.duration",
        "is 366d1s; a wait lasts more than 0 to 366d",
    ),
    (
        "no channel",
        sets("stages[0].steps[1].activation.channel", ""),
        "stages[0].steps[1].activation.channel",
        "is missing",
    ),
    (
        "a channel that is no id",
        sets("stages[0].steps[1].activation.channel", "E mail"),
        "stages[0].steps[1].activation.channel",
        "is 'E mail'",
    ),
    (
        "a template that is no id",
        sets("stages[0].steps[1].activation.template", "A/b"),
        "stages[0].steps[1].activation.template",
        "is 'A/b'",
    ),
    (
        "an unknown action",
        sets("stages[0].steps[1].activation.action", 5),
        "stages[0].steps[1].activation.action",
        "is 5, which is no action; say ADD or REMOVE",
    ),
    ("an unknown mode", sets("reentry.mode", 8), "reentry.mode", "is 8, which is no mode of re-entry"),
    (
        "a cooldown of more than a year",
        sets("reentry.cooldown", Duration(seconds=367 * 86_400)),
        "reentry.cooldown",
        "is 367d; a cooldown lasts 0s to 366d",
    ),
    (
        "a negative maximum",
        sets("reentry.max_entries", -1),
        "reentry.max_entries",
        "is -1; it is 0 (no limit) to 1000000",
    ),
)


@pytest.mark.parametrize(
    ("change", "path", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_refused(change: Change, path: str, said: str) -> None:
    found = [text for place, text in violations_of(change) if place == path]
    assert len(found) == 1, violations_of(change)
    assert found[0].startswith(said) or said in found[0]


INDEPENDENT = [
    case for case in WRONG
    if case[0] in {
        "a name that is no id", "no type", "an unknown purpose", "a long description", "an empty goal", "no entry criteria",
        "a CEL error", "staleness under a minute", "an exit to nowhere", "an exit's criteria", "a step's name that is no id",
        "a wait of nothing", "no channel", "an unknown action", "an unknown mode", "a negative maximum",
        "a milestone on the last stage", "a step after an end", "entry criteria on a later stage",
    }
]  # fmt: skip


def test_all_at_once() -> None:
    assert len(INDEPENDENT) == 19
    found = dict(violations_of(*(case[1] for case in INDEPENDENT)))
    assert {case[2] for case in INDEPENDENT} <= set(found)


def test_twice_the_same_name_in_a_list_of_exits() -> None:
    def twice(journey: pb.Journey) -> None:
        journey.exit_criteria.add(name="cold", criteria="true")

    assert violations_of(twice) == [
        ("exit_criteria[1].name", "is 'cold', as of one before; names are unique in their list")
    ]


def test_the_same_name_in_two_lists_is_fine() -> None:
    assert violations_of(sets("stages[0].exit_criteria[0].name", "cold")) == []


def test_ids_of_steps_are_unique_in_the_journey() -> None:
    assert violations_of(
        sets("stages[0].steps[0].name", "same"), sets("stages[1].steps[0].name", "same")
    ) == [
        (
            "stages[1].steps[0].name",
            "is 'same', as of stages[0].steps[0]; ids of steps are unique in a journey",
        )
    ]


@pytest.mark.parametrize(
    "changes",
    [
        (stages(8),),
        (stages(1),),
        (steps(18),),
        (exits(16),),
        (sets("exit_criteria[0].stale", Duration(seconds=60)),),
        (sets("exit_criteria[0].stale", Duration(seconds=24 * 86_400)),),
        (sets("name", "a"),),
        (sets("name", "a" * 63),),
        (sets("name", "journeys/valid"),),
        (sets("stages[0].steps[0].wait.duration", Duration(nanos=1_000)),),
        (sets("stages[0].steps[0].wait.duration", Duration(seconds=366 * 86_400)),),
        (sets("reentry.max_entries", 1_000_000),),
        (clears("", "goal"), clears("", "exit_criteria")),
    ],
)
def test_at_the_limit_is_within_it(changes: tuple[Change, ...]) -> None:
    assert violations_of(*changes) == []


def test_what_a_journey_is_then() -> None:
    journey = read_journey(VALID)
    assert journey.journey_id == "valid"
    assert count_elements(message()) == 6
    assert journey.skip_stages
    assert journey.reentry.mode is ReentryMode.UNLESS_GOAL_ACHIEVED
    (cold,) = journey.exits
    assert (cold.name, cold.criteria, cold.stale_us, cold.to) == ("cold", None, 24 * 86_400_000_000, 1)
    one, two = journey.stages
    assert [(step.step_id, step.kind) for step in one.steps] == [
        ("one/1", Wait(3_600_000_000)),
        ("one/2", Activation("connections/email", "templates/one", AudienceAction.NONE)),
        ("one/3", End()),
    ]
    assert two.milestone is None
    assert two.steps[0].kind == Activation("connections/ads", "", AudienceAction.REMOVE)


def test_a_long_value_is_cut_where_it_is_shown() -> None:
    ((_, said),) = violations_of(sets("name", "X" * 10_000))
    assert len(said) < 200


def test_the_name_of_a_collection_may_be_left_out() -> None:
    assert short_name("journeys", "journeys/welcome") == short_name("journeys", "welcome") == "welcome"
