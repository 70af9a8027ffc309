"""Any text, however wrong, is documents or violations, and any message a journey or violations: never an exception."""

import json
import time
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from reference_journeys import ENROLLMENT, Json, documents
from reference_play import examples

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey.document import parse_duration_us, read_documents
from cairn.journey.parse import parse_journey
from cairn.journey.plan import compile_plan
from cairn.journey.references import check_references
from cairn.journey.violations import Violation

VALID = """
name: valid
purpose: {kind: PURCHASE, description: any}
type: REAL_TIME
goal: {criteria: event.name == "goal"}
reentry: {mode: ALWAYS, cooldown: 7d, max_entries: 3}
skip_stages: true
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
PIECES = (
    *"{}[]:,-?!&*#|>%@`'\"\\\n\t \0~",
    "---\n", "...\n", "&a ", "*a", "? ", ": ", "- ", "<<: ", "!!str ", "!!binary ", "!x ", "\\ud800", '"\\ud800"',
    '"\\UFFFFFFFF"', "\ud800", "\ufeff", "é", "😀", "null", "true", "1", "-1", "1e9", "3h", "24d", "2027-01-31",
    "connection", "template", "name", "type", "stages", "steps", "wait", "duration", "goal", "criteria", "stale",
    "to", "entry", "milestone", "end", "activation", "REAL_TIME", "%YAML 1.1\n", "%TAG ! x\n", "[[[[", "{{{{",
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A valid journey, with pieces cut out, doubled and put in."""
    text = VALID
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 40)))
        text = text[:start] + draw(st.sampled_from(("", text[start:end] * 2, *PIECES))) + text[end:]
    return text


SOUP: SearchStrategy[str] = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


def check(text: str) -> tuple[Violation, ...]:
    found, violations = read_documents(text)
    lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + 2
    for violation in violations:
        assert 1 <= violation.line <= lines
        assert violation.message
        str(violation).encode()
    for document in found:
        if isinstance(document.message, pb.Journey):
            violations += check_message(document.message)
    return violations


def check_message(message: pb.Journey) -> tuple[Violation, ...]:
    journey, violations = parse_journey(message)
    assert (journey is None) is bool(violations)
    for violation in violations:
        assert violation.message
        assert violation.path, "a violation has a place"
        str(violation).encode()
    if journey is not None:
        compile_plan(journey, 1)
    check_references({message.name: message}, {}, ())
    return violations


# What is put in the place of any part of a journey.
ODD: SearchStrategy[Any] = st.one_of(
    st.sampled_from(
        (
            None, True, False, 0, -1, 1, 2**31, 2**63, 2**70, 1e308, float("nan"), float("inf"), "", " ", "a", "0h",
            "-1h", "1h", "999999999999d", "25:00", "24:00", "9:00", "2027-02-30T00:00:00Z", "0000-01-01T00:00:00Z",
            "2027-01-31", "journeys/", "journeys/j1/x", "j1", "x" * 5_000, "é", "😀", "\x00", [], {}, [[]], [None],
            [{}], {"": {}}, {"a": "b"}, ["a"] * 300, {"wait": {}}, {"end": {}, "jump": {}}, {"activation": {}},
            "REAL_TIME", "BATCH", "ALWAYS", "MON", "event.properties.cart", "event.properties['']", "event.properties",
        )
    ),
    st.recursive(st.sampled_from((1, "a", None)), lambda inner: st.lists(inner, max_size=3), max_leaves=8),
)  # fmt: skip
ODD_CRITERIA = st.sampled_from(
    (
        "", "true", "false", "1", '"a"', "event", "event.", "event.name", "event.name ==", 'event.name == "a" &&',
        "profile", "profile.level > ", "entry.name == 1", "nobody.name", "count()", "count(1)", 'count("a")',
        'count("a", duration("99999999999h")) > 1', 'count(event.name) > 1', 'sum("a") > 1', 'in_segment(profile.x)',
        'in_segment("")', 'in_segment("no such")', 'duration("1y") > duration("1h")', "1/0 == 1", "[1, 2][7] == 1",
        "profile.a.b.c.d.e.f == profile.a", "(" * 200 + "true" + ")" * 200, "!" * 3_000 + "true",
        " && ".join(["true"] * 500), "x" * 5_000, 'event.name == "' + "a" * 3_000 + '"', "true ? false : 1",
        "[1,2,3].map(x, [1,2,3].map(y, x*y)).size() > 1", 'matches(profile.x, "(a+)+$")', "\ud800", "a\nb", "// true",
        *ENROLLMENT,
    )
)  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, each in inner for place in places(each, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], change: Any) -> Any:
    """A copy with one place changed; `change` gets what stood there."""
    if not path:
        return change(value)
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = changed(value[path[0]], path[1:], change)
    return copy


def nested(steps: Any, depth: int) -> Json:
    """A step with a step within, so deep."""
    step: Json = {"activation": {"channel": "email"}}
    for number in range(depth):
        inner = [step] if number else steps
        wait = {"condition": "true", "timeout": "1h", "met": inner, "timed_out": []}
        step = {"wait": wait} if number % 2 else {"decision": {"branches": [], "otherwise": inner}}
    return step


@st.composite
def mutated_documents(draw: st.DrawFn) -> Json:
    """A journey of the whole grammar, with parts that are odd, left out, doubled, nested deep or repeated often."""
    document: Any = draw(documents("j1", ("j1", "j2"), key=draw(st.booleans())))
    for _ in range(draw(st.integers(1, 3))):
        path = draw(st.sampled_from(places(document)))
        times, depth = draw(st.sampled_from((2, 9, 40))), draw(st.sampled_from((1, 4, 24, 60)))
        odd, criteria = draw(ODD), draw(ODD_CRITERIA)
        names = ("entry", "milestone", "criteria", "condition")
        if path and path[-1] in names:
            instead = draw(st.sampled_from((odd, criteria)))
            document = changed(document, path, lambda _, instead=instead: instead)
            continue
        change = draw(
            st.sampled_from(
                (
                    lambda _, odd=odd: odd,
                    lambda was, times=times: was * times if isinstance(was, list) else [was],
                    lambda was: (
                        {**was, "names": 1, "stages": was.get("steps", [])} if isinstance(was, dict) else was
                    ),
                    lambda was: dict(list(was.items())[1:]) if isinstance(was, dict) else {"steps": was},
                    lambda was, depth=depth: [nested(was, depth)] if isinstance(was, list) else was,
                    lambda was, odd=odd: {**was, "criteria": odd} if isinstance(was, dict) else was,
                )
            )
        )
        document = changed(document, path, change)
    return document


@examples(150)
@given(mutated_documents())
def test_a_journey_of_the_whole_grammar_gone_wrong(document: Json) -> None:
    started = time.process_time()
    try:
        text = yaml.safe_dump(document, sort_keys=False, default_flow_style=None, allow_unicode=True)
    except RecursionError:
        return
    check(text)
    assert time.process_time() - started < 5, "it takes for ever"


@examples(10)
@given(documents("j1", ("j1", "j2")), st.sampled_from((2, 20, 120)))
def test_a_journey_many_times_too_large(document: Json, times: int) -> None:
    for part in ("stages", "exit_criteria"):
        if part in document:
            document = {**document, part: document[part] * times}
    document["stages"][0] = {**document["stages"][0], "steps": document["stages"][0]["steps"] * times}
    assert check(json.dumps(document))


@pytest.mark.parametrize("depth", [5, 15, 30, 61, 200])
def test_steps_within_steps(depth: int) -> None:
    stage = {"name": "one", "entry": 'event.name == "a"', "steps": [nested([{"end": {}}], depth)]}
    document = {"name": "deep", "type": "REAL_TIME", "stages": [stage]}
    assert check(json.dumps(document))


@settings(max_examples=300, deadline=None)
@given(st.one_of(st.text(max_size=200), SOUP, mutated()))
def test_any_text(text: str) -> None:
    check(text)


@settings(max_examples=300, deadline=None)
@given(mutated())
def test_a_journey_with_a_slip(text: str) -> None:
    check(text)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_message(data: st.DataObject) -> None:
    (document,), _ = read_documents(VALID)
    blob = bytearray(document.message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        blob[data.draw(st.integers(0, len(blob) - 1))] = data.draw(st.integers(0, 255))
    message = pb.Journey()
    try:
        message.ParseFromString(bytes(blob))
    except Exception:
        return
    check_message(message)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="0123456789.smhdw -", max_size=40))
def test_any_duration(text: str) -> None:
    value = parse_duration_us(text)
    assert value is None or value >= 0


@pytest.mark.parametrize("characters", ["[", "{", "- ", "? ", "a: ", "[{", "!", "&a ", "*", "'", '"', "|\n "])
def test_long_and_deep(characters: str) -> None:
    check(characters * 1_500)
