"""Whatever the expression and the values: Python answers as the library does, and analysis and words agree with it."""

import math
from datetime import UTC, datetime, timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cairn.rules import CriteriaError, CriteriaFailed, Scope, compile_criteria, explain, implies
from cairn.rules import _library as library
from cairn.rules._unparse import unparse

START = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ("cart_add", "purchase", "x")
NUMBERS = (
    0,
    1,
    -1,
    2,
    50,
    2**53,
    2**53 + 1,
    -(2**53) - 1,
    2**63 - 1,
    -(2**63),
    0.0,
    1.0,
    -0.5,
    2.5,
    2.0**53,
    1e300,
)

scalars = st.one_of(
    st.sampled_from([None, True, False, "", "a", "b", "purchase", "é😀", "10"]), st.sampled_from(NUMBERS)
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
_kinds = {"a": scalars, "b": values, "c": scalars, "l": st.lists(scalars, max_size=4)}
attributes = st.fixed_dictionaries(_kinds) | st.fixed_dictionaries({}, optional=_kinds)
events = st.fixed_dictionaries(
    {
        "name": st.sampled_from(NAMES),
        "properties": attributes,
        "occur_time": st.integers(-(10**6), 10**6).map(lambda us: START + timedelta(microseconds=us * 977)),
    }
)
absent_or_event = st.integers(0, 4).flatmap(lambda n: events if n else st.none())


class Answers:
    """A behavior that gives an answer for each method whatever is asked, and raises where the answer is an error.

    An answer for a window differs from the one for all time, so that a window that gets lost is noticed.
    """

    def __init__(self, count, total, first, last, member):
        self._count, self._total, self._first, self._last, self._member = count, total, first, last, member

    def __repr__(self):
        return f"Answers{self._count, self._total, self._first, self._last, self._member}"

    def count(self, name, window_us):
        return _given(self._count) if window_us is None else _given(self._count) + window_us % 977

    def sum(self, name, property, window_us):
        return _given(self._total) + len(name + property)

    def first(self, name, window_us):
        return _given(self._first)

    def last(self, name, window_us):
        return _given(self._last if window_us is None else self._first)

    def in_segment(self, name):
        return _given(self._member)


def _given(answer):
    if isinstance(answer, Exception):
        raise answer
    return answer


errors = st.sampled_from([KeyError("x"), ValueError("no"), ZeroDivisionError(), CriteriaFailed("no")])
behaviors = st.none() | st.builds(
    Answers,
    st.integers(0, 3) | st.just(2**60) | errors,
    st.sampled_from([0.0, -1.0, 2.5, 50.0, 2.0**53, 1e300, math.inf, math.nan]) | errors,
    absent_or_event | errors,
    absent_or_event | errors,
    st.booleans() | errors,
)
inputs = st.tuples(absent_or_event, absent_or_event, attributes, behaviors)


def _number(value: float) -> str:
    return (
        str(value) if isinstance(value, int) else f"{value:.1f}" if math.fabs(value) < 1e20 else repr(value)
    )


literals = st.sampled_from(['"a"', '"purchase"', '"é😀"', "true", "false", "null", *map(_number, NUMBERS)])
counts = st.sampled_from(['count("a")', 'count("purchase", duration("1h"))', 'count("a", duration("1ms"))'])
sums = st.sampled_from(['sum("a", "b", duration("1h"))', 'sum("purchase", "total", duration("24h"))'])
asked = st.sampled_from(
    ['first("a")', 'last("a")', 'last("purchase", duration("1.5s"))', 'first("x", duration("1h"))']
)
roots = st.sampled_from(["event.properties", "entry.properties", "profile"]) | asked.map(
    "{}.properties".format
)
keys = st.sampled_from(list("abcl"))
paths = st.one_of(
    st.builds("{}.{}".format, roots, keys),
    st.builds('{}["{}"]'.format, roots, keys),
    st.builds("{}.{}.{}".format, roots, keys, keys),
    st.builds(
        "{}.{}[{}]".format, roots, keys, st.sampled_from(["0", "1", "-1", "1.0", "true", '"a"', "profile.a"])
    ),
)
names = st.sampled_from(["event.name", "entry.name", "x"]) | asked.map("{}.name".format)
leaves = st.one_of(paths, literals, names, counts, sums)
# Deferred only so that hypothesis describes each by its name instead of by all it is made of.
terms = st.deferred(lambda: _terms)
tests = st.deferred(lambda: _tests)
conditions = st.deferred(lambda: _conditions)
_terms = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from("+-*/%"), inner),
        st.builds("-({})".format, inner),
        st.builds("{}({})".format, st.sampled_from(["size", "int", "double", "string", "dyn"]), inner),
        st.builds("[{}, {}]".format, inner, inner),
        st.builds('{{"a": {}, "b": {}}}'.format, inner, inner),
        st.builds("({} ? {} : {})".format, inner, inner, inner),
    ),
    max_leaves=4,
)
moments = ["event.occur_time", "entry.occur_time", 'timestamp("2026-01-01T00:00:00.000977Z")']
times = st.sampled_from(moments) | asked.map("{}.occur_time".format)
durations = st.sampled_from(['duration("1ms")', 'duration("0s")', 'duration("1.5s")'])
spans = durations | st.builds("{} - {}".format, times, times)
orders = st.sampled_from(["==", "!=", "<", "<=", ">", ">="])
_tests = st.one_of(
    st.builds("{} {} {}".format, terms, orders, terms),
    st.builds("{} in {}".format, terms, terms),
    st.builds("{} in [{}, {}]".format, leaves, literals, literals),
    st.builds("has({}.{})".format, roots | paths, keys),
    st.builds("{} {} {}".format, times, orders, times),
    st.builds("{} + {} {} {}".format, times, spans, orders, times),
    st.builds("{} {} {}".format, spans, orders, spans),
    st.builds('event.name == "{}"'.format, st.sampled_from(NAMES)),
    st.builds('event.name in ["{}", "{}"]'.format, st.sampled_from(NAMES), st.sampled_from(NAMES)),
    st.builds("{} {} {}".format, paths, orders, literals),
    st.builds("{} {} {}".format, counts, orders, st.sampled_from("0123")),
    st.builds("{} {} {}".format, sums, orders, literals | paths),
    st.sampled_from(['in_segment("vip")', 'in_segment("a-1")']),
    st.builds(
        "{}.{}({})".format, leaves, st.sampled_from(["startsWith", "endsWith", "contains", "matches"]), leaves
    ),
    paths,
)
_conditions = st.recursive(
    tests,
    lambda inner: st.one_of(
        st.builds("({} && {})".format, inner, inner),
        st.builds("({} || {})".format, inner, inner),
        st.builds("{} && {} && {}".format, inner, inner, inner),
        st.builds("!({})".format, inner),
        st.builds("({} ? {} : {})".format, inner, inner, inner),
        st.builds("{}.{}(x, {})".format, paths, st.sampled_from(["exists", "all", "exists_one"]), inner),
    ),
    max_leaves=5,
)


def outcome(evaluate, *values):
    try:
        return evaluate(*values)
    except CriteriaFailed:
        return "failed"


def compiles(source: str) -> bool:
    try:
        compile_criteria(source, Scope.ENROLLMENT)
    except CriteriaError:
        return False
    return True


@settings(max_examples=120, deadline=None)
@given(source=conditions.filter(compiles), inputs=st.lists(inputs, min_size=1, max_size=6))
@example("profile.a == 1", [(None, None, {"a": True}, None)])
@example("profile.a == 9007199254740992.0", [(None, None, {"a": 2**53 + 1}, None)])
@example("profile.a > profile.b", [(None, None, {"a": True, "b": 0}, None)])
@example("profile.a % -1 == 0", [(None, None, {"a": -(2**63)}, None)])
@example('!profile.b["a"]', [(None, None, {"b": {"a": None}}, None)])
@example(
    'count("a", duration("1h")) > 3 && !(count("a") > 3)',
    [(None, None, {}, Answers(1, 0.0, None, None, True))],
)
@example('event.name == "x" || profile.a == 1', [(None, None, {"a": 1}, None)])
def test_generated_python_answers_as_the_library(source, inputs):
    criteria = compile_criteria(source, Scope.ENROLLMENT)
    reference = library.check(source, Scope.ENROLLMENT).evaluate
    for values in inputs:
        assert outcome(criteria.evaluate, *values) == outcome(reference, *values)


@settings(max_examples=40, deadline=None)
@given(source=conditions.filter(compiles), event=events, entry=events, profile=attributes, behavior=behaviors)
def test_events_that_do_not_reach_a_criteria_are_all_the_same_to_it(source, event, entry, profile, behavior):
    criteria = compile_criteria(source, Scope.ENROLLMENT)
    if criteria.event_names is None or event["name"] in criteria.event_names:
        return
    renamed = {**event, "name": "another", "properties": {}}
    assert outcome(criteria.evaluate, event, entry, profile, behavior) == outcome(
        criteria.evaluate, renamed, entry, profile, behavior
    )


fixed = st.sampled_from(
    [
        'event.name == "x"',
        'event.name != "x"',
        'event.name in ["x", "purchase"]',
        "profile.a",
        "true",
        "false",
    ]
)
about_names = st.recursive(
    fixed,
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||"]), inner),
        st.builds("!({})".format, inner),
        st.builds("({} ? {} : {})".format, inner, inner, inner),
    ),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(source=about_names)
def test_without_an_event_that_it_needs_a_criteria_does_not_hold(source):
    criteria = compile_criteria(source, Scope.ENROLLMENT)
    for name in (None, *NAMES):
        event = name and {"name": name, "properties": {}, "occur_time": START}
        for profile in ({"a": True}, {"a": False}, {}):
            if outcome(criteria.evaluate, event, None, profile) is True:
                assert criteria.event_names_needed is None or name in criteria.event_names_needed


@settings(max_examples=40, deadline=None)
@given(source=conditions.filter(compiles), values=inputs)
def test_a_criteria_written_anew_is_the_same(source, values):
    criteria = compile_criteria(source, Scope.ENROLLMENT)
    text = unparse(criteria.tree)
    again = library.check(text, Scope.ENROLLMENT)
    assert outcome(again.evaluate, *values) == outcome(criteria.evaluate, *values)
    if len(text) <= 4096:
        assert unparse(compile_criteria(text, Scope.ENROLLMENT).tree) == text


@settings(max_examples=40, deadline=None)
@given(source=conditions.filter(compiles), values=inputs)
def test_an_explanation_says_what_the_criteria_says(source, values):
    criteria = compile_criteria(source, Scope.ENROLLMENT)
    found = explain(criteria, *values)
    verdict = {True: "TRUE", False: "FALSE", "failed": "FAILED"}[outcome(criteria.evaluate, *values)]
    assert found.verdict == verdict
    assert (found.satisfied == 1.0) is (verdict == "TRUE")
    assert bool(found.missing()) is (verdict != "TRUE")
    assert bool(found.why) is (verdict == "FAILED")
    assert found.sentence()
    assert all(leaf.sentence() and not leaf.children for leaf in found.missing())


constants = ("0", "1", "2", "1.5", "2.0", '"a"', '"ab"', '"b"', "true", "false", "null")
subjects = st.sampled_from(
    ["profile.a", "profile.a", "profile.b.c", 'count("a")', 'sum("a", "b", duration("1h"))']
)
constant = st.sampled_from(constants)
claims = st.recursive(
    st.one_of(
        st.builds("{} {} {}".format, subjects, orders, constant),
        st.builds("{} {} {}".format, constant, orders, subjects),
        st.builds("{} in [{}, {}]".format, subjects, constant, constant),
        st.builds(
            "profile.a.{}({})".format, st.sampled_from(["startsWith", "endsWith", "contains"]), constant
        ),
        st.sampled_from(["profile.a", "has(profile.a)", "has(profile.b.c)", "true", "false"]),
    ),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||"]), inner),
        st.builds("!({})".format, inner),
    ),
    max_leaves=3,
).filter(compiles)
SEEN = [
    (None, None, profile, Answers(count, total, None, None, True))
    for profile, count, total in zip(
        [
            {"a": v, "b": {"c": w}}
            for v in (0, 1, 1.5, 2.0, 3, "a", "ab", "b", "bab", "", True, False, None)
            for w in (1, "a")
        ]
        + [{}, {"a": 1}, {"b": {}}, {"b": {"c": None}}],
        [0, 1, 2, 3, 4] * 6,
        [0.0, 1.0, 1.5, 2.0, 2.5, -3.0] * 5,
        strict=True,
    )
]


@settings(max_examples=300, deadline=None)
@given(
    later=claims,
    earlier=claims,
    joined=st.sampled_from(["{1}", "({0}) || ({1})", "({1}) || !({0})", "!(!({0}))"]),
)
@example(later="profile.a < true", earlier="profile.a != false", joined="{1}")
@example(later="profile.b.c == 1", earlier="has(profile.b.c)", joined="{1}")
@example(later="!(profile.a > 1)", earlier="profile.a <= 1", joined="{1}")
def test_what_is_implied_holds(later, earlier, joined):
    before = compile_criteria(joined.format(later, earlier), Scope.ENROLLMENT)
    after = compile_criteria(later, Scope.ENROLLMENT)
    if implies(after, before):
        for values in SEEN:
            if outcome(after.evaluate, *values) is True:
                assert outcome(before.evaluate, *values) is True
