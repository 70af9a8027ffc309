"""Any text, however wrong, deep or large, is a criteria or a CriteriaError, and nothing else."""

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.rules import CriteriaError, CriteriaFailed, Scope, compile_criteria, explain, implies

VALID = (
    'event.name == "purchase" && event.properties.total > 50',
    'has(profile.country) && profile.country in ["JP", "US"]',
    'profile.tags.exists(t, t.startsWith("vip")) || !profile.opt_in',
    'event.occur_time - entry.occur_time > duration("1h") ? profile.a == 1 : profile["b"] != null',
    'count("login", duration("168h")) >= 5 || sum("purchase", "total", duration("720h")) > 100',
    'has(last("x").properties.total) && first("x").occur_time < last("y", duration("1h")).occur_time',
    'in_segment("vip") && !(count("a") > 2)',
    '{"a": [1, 2.5, 3u, b"x"]}.a.map(x, x)[0] == 1e3',
)
PIECES = (
    "(",
    ")",
    "[",
    "]",
    "{",
    "}",
    "?",
    ":",
    "!",
    "-",
    ".",
    ",",
    '"',
    "'",
    '"""',
    "\\",
    "\n",
    "\r\n",
    "\0",
    "//",
    "`",
)
WORDS = (
    "event",
    "entry",
    "profile",
    ".name",
    "&&",
    "||",
    "==",
    " in ",
    "has(",
    ".all(x,",
    "count(",
    "sum(",
    "last(",
    "first",
    "in_segment(",
    'duration("1h")',
    ".properties",
    '"x"',
    "null",
    "1",
    "1e9",
    "é",
    "😀",
    "\ud800",
)


def problems_of(source: str) -> tuple[object, ...]:
    try:
        criteria = compile_criteria(source, Scope.ENROLLMENT)
    except CriteriaError as error:
        return error.problems
    with contextlib.suppress(CriteriaFailed):
        criteria.evaluate(None, None, {})
    assert explain(criteria, None, None, {}).sentence()
    assert implies(criteria, criteria)
    return ()


def check(source: str) -> None:
    lines = source.split("\n")
    for problem in problems_of(source):
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 2
        assert problem.message
        assert "<input>" not in problem.message


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.text(st.characters(codec=None), max_size=20))
def test_random_text(source):
    check(source)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(PIECES + WORDS), max_size=40).map("".join))
def test_random_pieces(source):
    check(source)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(VALID), st.integers(0, 100), st.integers(0, 20), st.sampled_from(PIECES + WORDS + ("",))
)
def test_mutated_criteria(source, at, length, piece):
    check(source[:at] + piece + source[at + length :])


@pytest.mark.parametrize(
    "piece", [*PIECES, *WORDS, "a.", "true&&", "1+", "size(", "{1:", "true?", "!(", "[1].exists(x,"]
)
@pytest.mark.parametrize("length", [40, 1000, 4000, 10_000, 200_000])
def test_one_piece_again_and_again(piece, length):
    count = length // len(piece)
    check(piece * count)
    check(piece * count + "true")
    check(piece * (count // 2) + "1" + ")" * (count // 2))
