"""Whatever the expression and the values: the generated Python answers as the library does, or both fail."""

import math
from datetime import UTC, datetime, timedelta

from hypothesis import example, given, settings
from hypothesis import strategies as st

from cairn.rules import CriteriaError, CriteriaFailed, Scope, compile_criteria
from cairn.rules import _library as library

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
inputs = st.tuples(absent_or_event, absent_or_event, attributes)


def _number(value: float) -> str:
    return (
        str(value) if isinstance(value, int) else f"{value:.1f}" if math.fabs(value) < 1e20 else repr(value)
    )


literals = st.sampled_from(['"a"', '"purchase"', '"é😀"', "true", "false", "null", *map(_number, NUMBERS)])
roots = st.sampled_from(["event.properties", "entry.properties", "profile"])
keys = st.sampled_from(list("abcl"))
paths = st.one_of(
    st.builds("{}.{}".format, roots, keys),
    st.builds('{}["{}"]'.format, roots, keys),
    st.builds("{}.{}.{}".format, roots, keys, keys),
    st.builds(
        "{}.{}[{}]".format, roots, keys, st.sampled_from(["0", "1", "-1", "1.0", "true", '"a"', "profile.a"])
    ),
)
leaves = st.one_of(paths, literals, st.sampled_from(["event.name", "entry.name", "x"]))
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
times = st.sampled_from(["event.occur_time", "entry.occur_time", 'timestamp("2026-01-01T00:00:00.000977Z")'])
spans = st.sampled_from(
    ['duration("1ms")', 'duration("0s")', 'duration("1.5s")', "event.occur_time - entry.occur_time"]
)
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


def outcome(evaluate, event, entry, profile):
    try:
        return evaluate(event, entry, profile)
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
@example("profile.a == 1", [(None, None, {"a": True})])
@example("profile.a == 9007199254740992.0", [(None, None, {"a": 2**53 + 1})])
@example("profile.a > profile.b", [(None, None, {"a": True, "b": 0})])
@example("profile.a % -1 == 0", [(None, None, {"a": -(2**63)})])
@example('!profile.b["a"]', [(None, None, {"b": {"a": None}})])
@example('event.name == "x" || profile.a == 1', [(None, None, {"a": 1})])
def test_generated_python_answers_as_the_library(source, inputs):
    criteria = compile_criteria(source, Scope.ENROLLMENT)
    reference = library.check(source, Scope.ENROLLMENT).evaluate
    for values in inputs:
        assert outcome(criteria.evaluate, *values) == outcome(reference, *values)


@settings(max_examples=40, deadline=None)
@given(source=conditions.filter(compiles), event=events, entry=events, profile=attributes)
def test_events_that_do_not_reach_a_criteria_are_all_the_same_to_it(source, event, entry, profile):
    criteria = compile_criteria(source, Scope.ENROLLMENT)
    if criteria.event_names is None or event["name"] in criteria.event_names:
        return
    renamed = {**event, "name": "another", "properties": {}}
    assert outcome(criteria.evaluate, event, entry, profile) == outcome(
        criteria.evaluate, renamed, entry, profile
    )
