"""What is refused of steps that nest, waits of every kind, jumps, keys and zones: each with its field and what would be right."""

import pytest

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey.document import read_documents
from cairn.journey.parse import count_elements, parse_journey
from cairn.journey.references import check_references

HEAD = """
name: refused
type: REAL_TIME
EXTRA
stages:
  - name: one
    entry: event.name == "begin"
    milestone: event.name == "on"
    steps: [STEPS]
  - name: two
"""
SEND = "{activation: {channel: log}}"


def message(steps: str, extra: str = "") -> pb.Journey:
    (document,), violations = read_documents(HEAD.replace("STEPS", steps).replace("EXTRA", extra))
    assert violations == ()
    assert isinstance(document.message, pb.Journey)
    return document.message


def found(steps: str, extra: str = "") -> list[tuple[str, str]]:
    model, violations = parse_journey(message(steps, extra))
    assert (model is None) is bool(violations)
    return [(each.path.removeprefix("stages[0].steps"), each.message) for each in violations]


def decision(*branches: str, otherwise: str = "") -> str:
    rest = f", otherwise: [{otherwise}]" if otherwise else ""
    return f"{{decision: {{branches: [{', '.join(branches)}]{rest}}}}}"


def branch(name: str, criteria: str, steps: str = "") -> str:
    return f"{{name: {name}, criteria: '{criteria}', steps: [{steps}]}}"


def branches(count: int) -> str:
    return decision(*(branch(f"b{n}", f"profile.n == {n}.0") for n in range(count)))


def experiment(*variants: tuple[str, int, str]) -> str:
    listed = ", ".join(
        f"{{name: {name}, percent: {percent}, steps: [{steps}]}}" for name, percent, steps in variants
    )
    return f"{{experiment: {{variants: [{listed}]}}}}"


A, B = branch("a", "profile.a"), branch("b", "profile.b")
UNREACHED = "cannot be reached"

WRONG = (
    # Waits
    ("a wait for nothing", "{wait: {}}", "[0].wait.duration", "is missing; write it as 90s, 3h or 24d, or wait until, until_time or a condition"),
    ("two kinds of wait", '{wait: {duration: 1h, until_time: "09:00"}}', "[0].wait.until_time", "is given beside duration; a wait has one of duration, until, until_time, condition"),
    ("until and a condition", '{wait: {until: "2027-01-01T00:00:00Z", condition: profile.a, timeout: 1h}}', "[0].wait.condition", "is given beside until"),
    ("no time of day", '{wait: {until_time: "9:00"}}', "[0].wait.until_time", "is '9:00'; a time of day is written as 09:00, 00:00 to 23:59"),
    ("a time of another day", '{wait: {until_time: "24:00"}}', "[0].wait.until_time", "is '24:00'"),
    ("a time with seconds", '{wait: {until_time: "09:00:00"}}', "[0].wait.until_time", "is '09:00:00'"),
    ("a weekday twice", '{wait: {until_time: "09:00", weekdays: [MON, MON]}}', "[0].wait.weekdays[1]", "is given twice"),
    ("weekdays without a time", "{wait: {duration: 1h, weekdays: [MON]}}", "[0].wait.weekdays", "is given, and belongs to a wait with until_time"),
    ("a condition without a timeout", "{wait: {condition: profile.a}}", "[0].wait.timeout", "is missing; a wait for a condition needs a timeout"),
    ("a timeout without a condition", "{wait: {duration: 1h, timeout: 1h}}", "[0].wait.timeout", "is given, and belongs to a wait with condition"),
    ("ways without a condition", f"{{wait: {{duration: 1h, met: [{SEND}]}}}}", "[0].wait.met", "belongs to a wait with condition"),
    ("the other way without one", f"{{wait: {{duration: 1h, timed_out: [{SEND}]}}}}", "[0].wait.timed_out", "belongs to a wait with condition"),
    ("a timeout of nothing", "{wait: {condition: profile.a, timeout: 0s}}", "[0].wait.timeout", "is 0s; a timeout lasts more than 0 to 366d"),
    ("a timeout of more than a year", "{wait: {condition: profile.a, timeout: 367d}}", "[0].wait.timeout", "is 367d"),
    ("a condition that is no CEL", "{wait: {condition: 'event.nme', timeout: 1h}}", "[0].wait.condition", "line 1, column "),
    ("a step in a way", "{wait: {condition: profile.a, timeout: 1h, met: [{wait: {duration: 367d}}]}}", "[0].wait.met[0].wait.duration", "is 367d; a wait lasts more than 0 to 366d"),
    # Decisions
    ("one branch", decision(A), "[0].decision.branches", "has 1 branches; a decision has 2 to 6, otherwise not counted"),
    ("no branch", "{decision: {}}", "[0].decision.branches", "has 0 branches"),
    ("seven branches", branches(7), "[0].decision.branches", "has 7 branches; a decision has 2 to 6"),
    ("a branch without a name", decision(A, "{criteria: profile.b}"), "[0].decision.branches[1].name", "is missing"),
    ("a name twice", decision(A, branch("a", "profile.b")), "[0].decision.branches[1].name", "is 'a', which is taken; names are unique in their step"),
    ("a branch named otherwise", decision(A, branch("otherwise", "profile.b")), "[0].decision.branches[1].name", "is 'otherwise', which is taken"),
    ("a branch without criteria", decision(A, "{name: b}"), "[0].decision.branches[1].criteria", "is missing; what holds for nobody else belongs to otherwise"),
    ("a branch's criteria", decision(A, branch("b", "profile.b +")), "[0].decision.branches[1].criteria", "line 1, column "),
    ("a branch that never holds", decision(branch("a", "false"), B), "[0].decision.branches[0].criteria", "never holds, so that the branch cannot be reached"),
    ("a branch after one that always holds", decision(branch("a", "true"), B), "[0].decision.branches[1].criteria", "cannot be reached: whenever it holds, the branch 'a' before it does"),
    ("otherwise after one that always holds", decision(A, branch("b", "true"), otherwise=SEND), "[0].decision.otherwise", "cannot be reached: the branch 'b' holds for everybody"),
    ("the same criteria twice", decision(A, branch("b", "profile.a")), "[0].decision.branches[1].criteria", UNREACHED),
    ("criteria within those of an earlier branch", decision(branch("a", "profile.n > 5"), branch("b", "profile.n > 50")), "[0].decision.branches[1].criteria", UNREACHED),
    ("a step of a branch", decision(branch("a", "profile.a", "{wait: {}}"), B), "[0].decision.branches[0].steps[0].wait.duration", "is missing"),
    ("a step of otherwise", decision(A, B, otherwise="{activation: {}}"), "[0].decision.otherwise[0].activation.channel", "is missing"),
    # Experiments
    ("no variant", "{experiment: {}}", "[0].experiment.variants", "has 0 variants; an experiment has 1 to 10"),
    ("eleven variants", experiment(*((f"v{n}", 10 if n else 0, "") for n in range(11))), "[0].experiment.variants", "has 11 variants"),
    ("99 percent", experiment(("a", 50, ""), ("b", 49, "")), "[0].experiment.variants", "have 99 percent together; percentages sum to 100"),
    ("101 percent", experiment(("a", 50, ""), ("b", 51, "")), "[0].experiment.variants", "have 101 percent together"),
    ("a negative share", experiment(("a", -1, ""), ("b", 101, "")), "[0].experiment.variants[0].percent", "is -1; it is 0 to 100"),
    ("a variant's name twice", experiment(("a", 50, ""), ("a", 50, "")), "[0].experiment.variants[1].name", "is 'a', which is taken"),
    # What can't be reached
    ("a step after a jump", f"{{jump: {{journey: other}}}}, {SEND}", "[1]", "cannot be reached: a jump stands before it"),
    ("a step after an end", f"{{end: {{}}}}, {SEND}", "[1]", "cannot be reached: an end step stands before it"),
    ("a step after ways that all end", decision(branch("a", "profile.a", "{end: {}}"), branch("b", "profile.b", "{jump: {journey: other}}"), otherwise="{end: {}}") + f", {SEND}", "[1]", "cannot be reached: a step all of whose ways end stands before it"),
    ("a step after variants that all end, one switched off aside", experiment(("a", 100, "{end: {}}"), ("b", 0, "")) + f", {SEND}", "[1]", "cannot be reached: a step all of whose ways end"),
    ("a step after both ways of a wait end", f"{{wait: {{condition: profile.a, timeout: 1h, met: [{{end: {{}}}}], timed_out: [{{end: {{}}}}]}}}}, {SEND}", "[1]", "cannot be reached: a step all of whose ways end"),
    ("a step in a way, after an end in it", decision(branch("a", "profile.a", f"{{end: {{}}}}, {SEND}"), B), "[0].decision.branches[0].steps[1]", "cannot be reached: an end step"),
    # Names
    ("a step's name twice, one in a branch", decision(branch("a", "profile.a", "{name: same, end: {}}"), B) + ", {name: same, end: {}}", "[1].name", "is 'same', as of stages[0].steps[0].decision.branches[0].steps[0]"),
    # Jumps
    ("a jump to nowhere", "{jump: {}}", "[0].jump.journey", "is missing"),
    ("a jump to what is no journey", "{jump: {journey: Other}}", "[0].jump.journey", "is 'Other'; it takes"),
    ("a jump to a stage of its own that does not exist", "{wait: {duration: 1h}}, {jump: {journey: refused, stage: three}}", "[1].jump.stage", "names the stage 'three', which does not exist; there are one, two"),
    ("a jump to itself without a wait", "{jump: {journey: refused}}", "[0].jump", "could go round without a wait: refused/one > refused/one; put a wait of 1m or more in between"),
    ("a wait that is nothing to speak of", "{wait: {duration: 59s}}, {jump: {journey: refused}}", "[1].jump", "could go round without a wait"),
    ("until a time of day is no time for sure", '{wait: {until_time: "09:00"}}, {jump: {journey: refused}}', "[1].jump", "could go round without a wait"),
    ("until a moment neither", '{wait: {until: "2027-01-01T00:00:00Z"}}, {jump: {journey: refused}}', "[1].jump", "could go round without a wait"),
    ("a condition that may be met at once neither", "{wait: {condition: profile.a, timeout: 1h, met: [{jump: {journey: refused}}]}}", "[0].wait.met[0].jump", "could go round without a wait"),
    ("a jump behind a condition that may be met at once", "{wait: {condition: profile.a, timeout: 1h}}, {jump: {journey: refused}}", "[1].jump", "could go round without a wait"),
    ("a jump in a branch", decision(branch("a", "profile.a", "{jump: {journey: refused}}"), B), "[0].decision.branches[0].steps[0].jump", "could go round without a wait"),
)  # fmt: skip


@pytest.mark.parametrize(
    ("steps", "path", "said"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG]
)
def test_refused(steps: str, path: str, said: str) -> None:
    told = [text for place, text in found(steps) if place == path]
    assert len(told) == 1, found(steps)
    assert said in told[0]


FINE = (
    ("a moment", '{wait: {until: "2027-01-01T00:00:00Z"}}'),
    ("a moment that is past", '{wait: {until: "1999-01-01T00:00:00Z"}}'),
    ("midnight on a Sunday", '{wait: {until_time: "00:00", weekdays: [SUN]}}'),
    ("a condition whose ways are empty", "{wait: {condition: profile.a, timeout: 366d}}"),
    ("two branches", branches(2)),
    ("six branches and otherwise", decision(*(branch(f"b{n}", f"profile.n == {n}.0") for n in range(6)), otherwise=SEND)),
    ("criteria that overlap, neither within the other", decision(branch("a", "profile.n > 5"), branch("b", "profile.m > 5"))),
    ("wider criteria after narrow ones", decision(branch("a", "profile.n > 50"), branch("b", "profile.n > 5"))),
    ("otherwise left out after one that always holds", decision(A, branch("b", "true"))),
    ("one variant", experiment(("a", 100, ""))),
    ("ten variants", experiment(*((f"v{n}", 10, "") for n in range(10)))),
    ("an arm switched off", experiment(("a", 0, SEND), ("b", 100, ""))),
    ("a step after ways of which one goes on", decision(branch("a", "profile.a", "{end: {}}"), B) + f", {SEND}"),
    ("a step after an arm that ends and is switched off", experiment(("a", 0, "{end: {}}"), ("b", 100, "")) + f", {SEND}"),
    ("a jump elsewhere", "{jump: {journey: other, stage: some}}"),
    ("a jump by resource name", "{jump: {journey: journeys/other}}"),
    ("a jump to itself after a wait", "{wait: {duration: 1m}}, {jump: {journey: refused}}"),
    ("a jump to itself after a timeout", "{wait: {condition: profile.a, timeout: 1h, timed_out: [{jump: {journey: refused}}], met: [{end: {}}]}}"),
    ("a jump on to a stage from which none leads back", "{jump: {journey: refused, stage: two}}"),
    ("names of ways in two steps", decision(A, B) + ", " + decision(A, B)),
)  # fmt: skip


@pytest.mark.parametrize("steps", [case[1] for case in FINE], ids=[case[0] for case in FINE])
def test_fine(steps: str) -> None:
    assert found(steps) == []


def test_steps_of_all_branches_count_as_elements() -> None:
    """The entry criteria, the milestone, and every step wherever it lies."""
    inner = decision(
        branch("a", "profile.a", ", ".join([SEND] * 5)), branch("b", "profile.b", SEND), otherwise=SEND
    )
    steps = ", ".join([inner, *[SEND] * 14])
    assert count_elements(message(steps)) == 24
    assert found(steps) == []
    assert [each.message.split(" (")[0] for each in parse_journey(message(f"{steps}, {SEND}"))[1]] == [
        "has 25 elements"
    ]


def test_steps_nest_as_deep_as_elements_allow() -> None:
    steps = SEND
    for depth in range(10):
        steps = decision(branch("a", f"profile.a{depth}", steps), B)
    assert found(steps) == []


def test_everything_at_once() -> None:
    steps = ", ".join(
        [
            "{wait: {}}",
            decision(A),
            experiment(("a", 1, "{jump: {}}"), ("b", 1, "")),
            '{wait: {until_time: "9"}}',
            "{activation: {}}",
        ]
    )
    assert [path for path, _ in found(steps, "key: cart\ntime_zone: Mars")] == [
        "[0].wait.duration",
        "[1].decision.branches",
        "[2].experiment.variants[0].steps[0].jump.journey",
        "[2].experiment.variants",
        "[3].wait.until_time",
        "[4].activation.channel",
        "key",
        "time_zone",
    ]


@pytest.mark.parametrize(
    ("extra", "path", "said"),
    [
        ("key: cart_id", "key", "is 'cart_id'; it names an event property, as event.properties.cart_id"),
        ("key: event.name", "key", "is 'event.name'"),
        ("key: profile.cart", "key", "is 'profile.cart'"),
        ("key: event.properties", "key", "is 'event.properties'"),
        ("key: event.properties.a + event.properties.b", "key", "it names an event property"),
        ("time_zone: Mars/Phobos", "time_zone", "is 'Mars/Phobos', which is no IANA time zone; one is Asia/Tokyo"),
        ("time_zone: +09:00", "time_zone", "is '+09:00'"),
        ("time_zone: ../etc", "time_zone", "is '../etc'"),
        ("goal: {criteria: profile.a, target: {}}", "goal.target.journey", "is missing"),
        ("goal: {criteria: profile.a, target: {journey: refused, stage: x}}", "goal.target.stage", "names the stage 'x', which does not exist; there are one, two"),
        ("goal: {criteria: profile.a, target: {journey: X}}", "goal.target.journey", "is 'X'"),
    ],
)  # fmt: skip
def test_the_head(extra: str, path: str, said: str) -> None:
    told = [text for place, text in found(SEND, extra) if place == path]
    assert len(told) == 1
    assert said in told[0]


@pytest.mark.parametrize(
    "extra",
    [
        "key: event.properties.cart_id",
        "key: event.properties.cart.id",
        """key: 'event.properties["cart id"]'""",
        "time_zone: Asia/Tokyo",
        "reentry: {while_active: RESTART}",
        "goal: {criteria: profile.a, target: {journey: other, stage: any}}",
        "goal: {criteria: profile.a, target: {journey: refused, stage: two}}",
    ],
)
def test_a_head_that_is_fine(extra: str) -> None:
    assert found(SEND, extra) == []


# Journeys of one set


def together(**journeys: str) -> dict[str, list[str]]:
    messages = {}
    for name, steps in journeys.items():
        messages[name] = message(steps)
        messages[name].name = name
    wrong = check_references(messages, known=None, segments=None)
    return {
        name: [f"{each.path}: {each.message}" for each in found] for name, found in wrong.items() if found
    }


def test_a_loop_of_jumps_through_several_journeys_is_told_where_it_goes() -> None:
    found = together(a="{jump: {journey: b}}", b="{jump: {journey: c, stage: one}}", c="{jump: {journey: a}}")
    assert sorted(found) == ["a", "b", "c"]
    assert found["a"] == [
        "stages[0].steps[0].jump: could go round without a wait: a/one > b/one > c/one > a/one; "
        "put a wait of 1m or more in between"
    ]


def test_one_wait_in_a_loop_is_enough() -> None:
    assert together(a="{jump: {journey: b}}", b="{wait: {duration: 1m}}, {jump: {journey: a}}") == {}


def test_a_stage_of_another_journey_that_does_not_exist() -> None:
    assert together(a="{jump: {journey: b, stage: three}}", b=SEND) == {
        "a": [
            "stages[0].steps[0].jump.stage: names the stage 'three', which b does not have; there are one, two"
        ]
    }


def test_a_journey_that_is_not_among_them_is_taken_to_exist() -> None:
    assert together(a="{jump: {journey: elsewhere, stage: any}}") == {}
    wrong = check_references({"a": message("{jump: {journey: elsewhere}}")}, known={}, segments=())
    assert [each.path for each in wrong["a"]] == ["stages[0].steps[0].jump.journey"]


def test_segments_that_do_not_exist_are_told_where_they_are_known() -> None:
    steps = decision(branch("a", 'in_segment("vip")'), branch("b", 'in_segment("gold")'))
    wrong = check_references({"a": message(steps)}, known=None, segments={"gold"})
    assert [str(each) for each in wrong["a"]] == [
        "stages[0].steps[0].decision.branches[0].criteria: names the segment 'vip', which does not exist; "
        "put it first, or see ListSegments"
    ]
    assert check_references({"a": message(steps)}, known=None, segments=None) == {"a": []}


def test_a_moment_lies_in_years_that_a_calendar_can_count_on_from() -> None:
    text = "name: far\ntype: REAL_TIME\nstages: [{name: one, entry: event.name == 'a', steps: [{wait: {until: YEAR-01-01T00:00:01Z}}]}]"
    for year, wrong in (("8999", 0), ("9000", 1)):
        (document,), _ = read_documents(text.replace("YEAR", year))
        found = parse_journey(document.message)[1]
        assert len(found) == wrong
        assert all("years 1 to 9000" in each.message for each in found)
