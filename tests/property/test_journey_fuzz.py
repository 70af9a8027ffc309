"""Any text, however wrong, is documents or violations, and any message a journey or violations: never an exception."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey.document import parse_duration_us, read_documents
from cairn.journey.parse import parse_journey
from cairn.journey.plan import compile_plan

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


def check(text: str) -> None:
    documents, violations = read_documents(text)
    lines = text.count("\n") + text.count("\r") + text.count("\x85") + text.count("\u2028") + 2
    for violation in violations:
        assert 1 <= violation.line <= lines
        assert violation.message
        str(violation).encode()
    for document in documents:
        if isinstance(document.message, pb.Journey):
            check_message(document.message)


def check_message(message: pb.Journey) -> None:
    journey, violations = parse_journey(message)
    assert (journey is None) is bool(violations)
    for violation in violations:
        assert violation.message
        str(violation).encode()
    if journey is not None:
        compile_plan(journey, 1)


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
