"""What compiling tells: what an expression reads, which events reach it, and all that is wrong with it."""

from datetime import UTC, datetime

import pytest

from cairn.rules import CriteriaError, CriteriaFailed, Problem, Scope, compile_criteria

ANY = None
NONE: frozenset[str] = frozenset()


@pytest.mark.parametrize(
    ("source", "names"),
    [
        ('event.name == "a"', {"a"}),
        ('"a" == event.name', {"a"}),
        ('event.name in ["a", "b"]', {"a", "b"}),
        ("event.name in []", NONE),
        ("profile.vip", NONE),
        ('entry.name == "a"', NONE),
        ('event.name == "a" && event.properties.total > 5', {"a"}),
        ('event.properties.total > 5 && event.name == "a"', {"a"}),
        ('event.name == "a" && profile.vip', {"a"}),
        ('event.name in ["a", "b"] && event.name in ["b", "c"]', {"b"}),
        ('event.name == "a" && event.name == "b"', NONE),
        ('event.name == "a" || event.name == "b"', {"a", "b"}),
        ('event.name == "a" || profile.vip', {"a"}),
        ('event.name == "a" || event.properties.total > 5', ANY),
        ('event.name == "a" && (event.name == "a" || event.properties.total > 5)', {"a"}),
        ('(event.name == "a" && profile.vip) || (event.name == "b" && !profile.vip)', {"a", "b"}),
        ('event.name != "a"', ANY),
        ('!(event.name == "a")', ANY),
        ("!profile.vip", NONE),
        ('profile.vip ? event.name == "a" : event.name == "b"', ANY),
        ('event.name.startsWith("a")', ANY),
        ("event.name == profile.wanted", ANY),
        ('event.name in ["a", profile.wanted]', ANY),
        ("event.name in profile.wanted", ANY),
        ("event.properties.total > 5", ANY),
        ('profile.tags.exists(t, event.name == "a")', ANY),
        ('event.occur_time > timestamp("2026-01-01T00:00:00Z")', ANY),
        ('event.name == "a" && event.name == "a" && profile.a && profile.b && profile.c', {"a"}),
    ],
)
def test_the_events_that_reach_a_criteria(source, names):
    found = compile_criteria(source, Scope.ENROLLMENT).event_names
    assert found == (names if names is None else frozenset(names))


@pytest.mark.parametrize(
    ("source", "names", "needed"),
    [
        ('event.name == "a"', {"a"}, {"a"}),
        ('event.name in ["a", "b"] && profile.vip', {"a", "b"}, {"a", "b"}),
        ('count("login") >= 5', {"login"}, ANY),
        ('event.name == "a" && count("b") > 2', {"a", "b"}, {"a"}),
        ('event.name == "a" || count("b") > 2', {"a", "b"}, ANY),
        (
            'last("a").properties.x == first("b").properties.x && sum("c", "x", duration("1h")) > 1',
            set("abc"),
            ANY,
        ),
        ('event.properties.total > 5 && count("b") > 2', ANY, ANY),
        ("profile.x > 1", NONE, ANY),
        ('in_segment("vip")', NONE, ANY),
        ('!(event.name != "a")', ANY, {"a"}),
        ('!(event.name != "a" || event.properties.total > 5)', ANY, {"a"}),
        ('!(event.name == "a")', ANY, ANY),
        ('profile.vip ? event.name == "a" : event.name == "b"', ANY, {"a", "b"}),
        ('event.name == "a" ? profile.vip : false', ANY, {"a"}),
        ('event.name == "a" && event.name == "b"', NONE, NONE),
        ("false", NONE, NONE),
    ],
)
def test_the_events_that_reach_it_and_those_that_it_needs(source, names, needed):
    criteria = compile_criteria(source, Scope.ENTRY)
    assert criteria.event_names == names
    assert criteria.event_names_needed == needed


@pytest.mark.parametrize(
    ("source", "by_name"),
    [
        ('event.name == "a"', True),
        ('"a" == event.name', True),
        ('event.name in ["a", "b"]', True),
        ('event.name == "a" || event.name in ["b"]', True),
        ('event.name == "a" || profile.x', False),
        ('event.name == "a" && event.properties.x', False),
        ('event.name != "a"', False),
        ('event.name == "a" ? true : false', False),
        ('event.name.startsWith("a")', False),
        ("true", False),
    ],
)
def test_what_the_name_alone_decides_holds_with_each_name_that_it_needs(source: str, by_name: bool) -> None:
    criteria = compile_criteria(source, Scope.ENTRY)
    assert criteria.is_by_name is by_name
    for name in criteria.event_names_needed or () if by_name else ():
        assert criteria.evaluate({"name": name, "properties": {}, "occur_time": datetime.now(UTC)}, None, {})


@pytest.mark.parametrize(
    ("source", "reads"),
    [
        ("true", ()),
        ('event.name == "a"', ("event",)),
        ("has(entry.properties.a)", ("entry",)),
        ("profile.tags.all(t, t == entry.name)", ("entry", "profile")),
        ('event.occur_time == entry.occur_time || "a" in profile', ("event", "entry", "profile")),
    ],
)
def test_what_a_criteria_reads(source, reads):
    criteria = compile_criteria(source, Scope.ENROLLMENT)
    found = {"event": criteria.reads_event, "entry": criteria.reads_entry, "profile": criteria.reads_profile}
    assert tuple(root for root, read in found.items() if read) == reads


@pytest.mark.parametrize(
    ("source", "places"),
    [
        ("", ["1:1 is empty"]),
        (" \n\t", ["1:1 is empty"]),
        ("true" + " " * 4093, ["1:1 is 4,097 characters long; at most 4,096"]),
        ("1 +", ["1:4 ends too early"]),
        ('("a" == event.name', ["1:19 ')' is missing here"]),
        ('event.name = "a"', ["1:12 use == to compare", "1:14 can't stand here"]),
        ('event.name == "a" and true', ["1:19 and is not an operator; use &&"]),
        ('event.name == "a', ["1:15 a quote is not closed", "1:17 ends too early"]),
        ("profile.in == 1", ['1:9 in is a reserved word; write ["in"]', "1:12 can't stand here"]),
        (
            'event.nam == "a"',
            ["1:1 event has no nam; there are event.name, event.properties, event.occur_time"],
        ),
        ('event == "a"', ["1:1 event is read by its fields"]),
        ('profile.a == 1 &&\n  evnt.name == "a"', ["2:3 there is nothing named evnt.name"]),
        ("foo || bar", ["1:1 there is nothing named foo", "1:8 there is nothing named bar"]),
        ('"é😀" == foo', ["1:9 there is nothing named foo"]),
        ("now() > event.occur_time", ["1:4 there is no function now; there are has, size"]),
        ('event.name.lowerAscii() == "a"', ["1:22 there is no function lowerAscii"]),
        ('event.name == 1 || event.name == "a"', ["1:12 == compares values of one type, not (string, int)"]),
        ("event.name && true", ["1:12 && takes conditions, not (string, bool)"]),
        ("true ? 1 == 1 : 'a'", ["1:6 ? : takes a condition and two values of one type"]),
        ("size(5) == 1", ["1:5 size can't be applied to (int)"]),
        ('event.name.first == "a"', ["1:11 a string has no fields"]),
        ('event.name.matches("(unclosed")', ["1:20 (unclosed is no regular expression as RE2 has them"]),
        ("event.name", ["1:1 must be true or false, but is a string"]),
        ("1 + 1", ["1:1 must be true or false, but is an int"]),
        ("profile", ["1:1 must be true or false, but is a map"]),
        ("has(event.name)", ["1:4 has() asks for a key of a map"]),
        ('has(event.name) == "a"', ["1:4 has() asks for a key of a map"]),
        ('.event.name == "a"', ["1:1 a dot before event means nothing"]),
        ('profile.l.exists(event, event.name == "a")', ["1:17 event names something else already"]),
        ("99999999999999999999 == 1", ["1:1 is no int; an integer has 64 bits"]),
        ("as == 1", ["1:1 as is a reserved word"]),
        ("(" * 100, ["1:1 is nested too deeply"]),
        ("profile" + ".a" * 100, ["1:1 is nested too deeply"]),
        ("parsetree", ["1:1 there is nothing named parsetree"]),
        ('has(// why\nevent.name) == "a"', ["1:4 has() asks for a key of a map"]),
        ('google.protobuf.Duration{seconds: 1} == duration("1s")', ["1:1 there are no messages here"]),
        ('event.name == "a\0"', ["1:17 has a character that is not text"]),
        ('true &&\n"\ud800" == event.name', ["2:2 has a character that is not text"]),
    ],
)
def test_every_problem_has_its_place_and_says_what_would_be_right(source, places):
    with pytest.raises(CriteriaError) as refused:
        compile_criteria(source, Scope.ENTRY)
    found = refused.value.problems
    assert len(found) == len(places), found
    for problem, expected in zip(found, places, strict=True):
        place, _, said = expected.partition(" ")
        assert f"{problem.line}:{problem.column}" == place
        assert said in problem.message


def test_entry_is_refused_in_entry_criteria_only():
    source = 'entry.name == "cart_add"'
    with pytest.raises(CriteriaError, match="entry criteria can't read"):
        compile_criteria(source, Scope.ENTRY)
    assert compile_criteria(source, Scope.ENROLLMENT).reads_entry


def test_an_error_tells_its_problems():
    with pytest.raises(CriteriaError) as refused:
        compile_criteria("", Scope.ENTRY)
    (problem,) = refused.value.problems
    assert isinstance(problem, Problem)
    assert str(refused.value) == f"1:1: {problem.message}"


def test_the_same_source_is_compiled_once():
    assert compile_criteria("profile.vip", Scope.ENTRY) is compile_criteria("profile.vip", Scope.ENTRY)
    assert compile_criteria("profile.vip", Scope.ENTRY) is not compile_criteria(
        "profile.vip", Scope.ENROLLMENT
    )


@pytest.mark.parametrize(
    "source",
    ['profile.a == "\\"); import os; (\\""', 'profile["a\\"]"] == \'\\\\\'', "profile.`import os` == 1"],
)
def test_texts_get_into_the_generated_source_as_constants_only(source):
    criteria = compile_criteria(source, Scope.ENTRY)
    assert criteria.evaluate(None, None, {"a": '"); import os; ("', 'a"]': "\\", "import os": 1}) is True


@pytest.mark.parametrize(
    "source",
    [
        'event.name == "purchase" && event.properties.total > 50',
        'profile.country in ["JP", "US"] || !profile.opt_in',
        'event.occur_time - entry.occur_time > duration("1h")',
        'has(profile.tags) && profile.tags.exists(t, t == "vip")',
    ],
)
def test_common_criteria_run_as_python(source):
    python = compile_criteria(source, Scope.ENROLLMENT).python
    assert "    try:\n" in python


def test_what_generated_python_looks_like():
    assert compile_criteria('event.name == "a" && profile.seats > 5', Scope.ENTRY).python == (
        "def evaluate(event, entry, profile, behavior=None, /):\n"
        # Without an event the other part alone may decide, and where it does not there is no answer.
        "    if event is None:\n"
        "        try:\n"
        "            if not (t1 > 5 if (t1 := profile['seats']).__class__ is not bool else unsure()):\n"
        "                return False\n"
        "        except Exception:\n"
        "            return reference(event, entry, profile, behavior)\n"
        "        raise CriteriaFailed('it reads an event where there is none')\n"
        "    try:\n"
        "        if not (event[\"name\"] == 'a'):\n"
        "            return False\n"
        "    except Exception:\n"
        "        return reference(event, entry, profile, behavior)\n"
        "    try:\n"
        "        return (t1 > 5 if (t1 := profile['seats']).__class__ is not bool else unsure())\n"
        "    except KeyError:\n"
        "        raise CriteriaFailed('it reads a key that is not there') from None\n"
        "    except Exception:\n"
        "        return reference(event, entry, profile, behavior)\n"
    )


@pytest.mark.parametrize(("seats", "answer"), [(6.0, True), (5.0, None), ("many", None)])
def test_without_an_event_what_reads_none_decides(seats, answer):
    criteria = compile_criteria('event.name == "a" || profile.seats > 5', Scope.ENTRY)
    if answer is None:
        with pytest.raises(CriteriaFailed):
            criteria.evaluate(None, None, {"seats": seats})
    else:
        assert criteria.evaluate(None, None, {"seats": seats}) is answer
