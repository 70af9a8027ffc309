"""Words for people: why a criteria holds or not."""

from datetime import UTC, datetime

import pytest

from cairn.rules import Scope, compile_criteria, explain

EVENT = {
    "name": "purchase",
    "properties": {"total": 40.0, "items": ["shoe", 2.5, None], "id": "c-1", "long": "x" * 500},
    "occur_time": datetime(2026, 1, 1, 12, tzinfo=UTC),
}
PROFILE = {"seats": 5, "country": "JP", "opt_out": False, "nested": {"a": {"b": [[[[[1]]]]]}}}


class Store:
    def count(self, name, window_us):
        return 3

    def sum(self, name, property, window_us):
        return 120.5

    def first(self, name, window_us):
        return None

    def last(self, name, window_us):
        return EVENT

    def in_segment(self, name):
        return name == "vip"


def explained(source, event=EVENT):
    return explain(compile_criteria(source, Scope.ENROLLMENT), event, None, PROFILE, Store())


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ("event.properties.total > 50", "`event.properties.total` was 40, needed > 50"),
        ("50 < event.properties.total", "`event.properties.total` was 40, needed > 50"),
        ('event.name == "a"', '`event.name` was "purchase", needed == "a"'),
        ('profile.country in ["US"]', '`profile.country` was "JP", needed in ["US"]'),
        ('profile.country.startsWith("U")', '`profile.country` was "JP", needed startsWith("U")'),
        ("has(profile.vip)", "`profile.vip` is not there"),
        ("has(profile.a.b)", "`profile.a` is not there"),
        ("!has(profile.seats)", "`profile.seats` is there"),
        ('profile.city == "Kyoto"', '`profile.city` is not there, needed == "Kyoto"'),
        ("profile.opt_out", "`profile.opt_out` was false, needed true"),
        ("!(profile.seats > 4)", "`profile.seats` was 5, needed <= 4"),
        ("!(profile.seats == 5 ? profile.seats > 4 : true)", "`profile.seats` was 5, needed <= 4"),
        ("!(profile.seats == 6 ? true : profile.seats > 4)", "`profile.seats` was 5, needed <= 4"),
        ("!(profile.seats in [5])", "`profile.seats` was 5, needed not in [5]"),
        (
            "profile.seats == event.properties.total",
            "`profile.seats` was 5 and `event.properties.total` was 40, needed == event.properties.total",
        ),
        (
            "profile.country > 5",
            '`profile.country` was "JP", needed > 5, but a value is of another type than the expression needs',
        ),
        (
            'count("login", duration("168h")) >= 5',
            '`count("login", duration("168h"))` was 3, needed >= 5',
        ),
        (
            'sum("order", "total", duration("24h")) > 200',
            '`sum("order", "total", duration("24h"))` was 120.5, needed > 200',
        ),
        ('first("a").properties.total > 5', '`first("a")` is not there, needed > 5'),
        ('last("a").properties.total > 50', '`last("a").properties.total` was 40, needed > 50'),
        ('in_segment("beta")', '`in_segment("beta")` was false, needed true'),
        (
            'event.properties.items.exists(i, i == "hat")',
            '`event.properties.items` was ["shoe", 2.5, null], needed exists(i, i == "hat")',
        ),
        (
            'event.occur_time > timestamp("2026-02-01T00:00:00Z")',
            '`event.occur_time` was 2026-01-01T12:00:00Z, needed > timestamp("2026-02-01T00:00:00Z")',
        ),
        (
            'event.occur_time - timestamp("2026-01-01T10:29:59.5Z") > duration("48h")',
            '`event.occur_time - timestamp("2026-01-01T10:29:59.5Z")` was 1h30m0.5s, needed > duration("48h")',
        ),
        ("profile.nested == 1", '`profile.nested` was {"a": {"b": [[[…]]]}}, needed == 1'),
        ("1 > 2", "`1 > 2` is false"),
        (
            'event.name == "a" && (profile.seats > 9 || profile.opt_out)',
            '`event.name` was "purchase", needed == "a"; `profile.seats` was 5, needed > 9',
        ),
        ("true && profile.seats == 5", "`true && profile.seats == 5` is true"),
    ],
)
def test_a_sentence(source, sentence):
    assert explained(source).sentence() == sentence


def test_without_an_event():
    found = explained("event.properties.total > 50", event=None)
    assert found.sentence() == "`event.properties` is not there, needed > 50"
    assert (found.verdict, found.why) == ("FAILED", "it reads an event where there is none: event.properties")


def test_a_long_value_is_cut():
    saw = explained('event.properties.long == "a"').saw
    assert saw.startswith('`event.properties.long` was "xxx')
    assert saw.endswith("x…")
    assert len(saw.removeprefix("`event.properties.long` was ")) == 80


def test_a_failure_names_the_path_that_is_not_there():
    assert explained("profile.nested.x.y == 1").why == "it reads a key that is not there: profile.nested.x"
    assert (
        explained("profile.nested.a.b[3] == 1").why
        == "it reads an element that is not there: profile.nested.a.b[3]"
    )


def test_a_tree():
    found = explained('event.name=="purchase"&&(profile.seats>9||!(profile.country=="JP"))')
    assert found.text == 'event.name == "purchase" && (profile.seats > 9 || !(profile.country == "JP"))'
    assert (found.operator, found.verdict) == ("&&", "FALSE")
    name, either = found.children
    assert (name.verdict, name.children) == ("TRUE", ())
    assert (either.operator, [part.operator for part in either.children]) == ("||", ["", "!"])
    assert either.children[1].children[0].needed == '!= "JP"'


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("(profile.a)&&(profile.b&&profile.c)", "profile.a && profile.b && profile.c"),
        ("(profile.a||profile.b)&&profile.c", "(profile.a || profile.b) && profile.c"),
        ("!(!profile.a)", "!(!profile.a)"),
        ("profile.a-(profile.b-1)==2", "profile.a - (profile.b - 1) == 2"),
        ("(profile.a-profile.b)-1==2", "profile.a - profile.b - 1 == 2"),
        ("profile.a*(profile.b+1)==-2", "profile.a * (profile.b + 1) == -2"),
        ("-(-profile.a)==-(1)", "-(-profile.a) == -(1)"),
        ("(1==1)==(2==2)", "1 == 1 == (2 == 2)"),
        ("(profile.a?profile.b:profile.c)?true:false", "(profile.a ? profile.b : profile.c) ? true : false"),
        (
            "(profile.a ? 1 : 2) in [1,2u,1e3,null,b'\\xff']",
            '(profile.a ? 1 : 2) in [1, 2u, 1000.0, null, b"\\xff"]',
        ),
        ("profile.`in`.`a-b`['c d'][0]=='é\\n\"'", 'profile.`in`.`a-b`["c d"][0] == "é\\n\\""'),
        ('profile.a=={"a":{},"b":[]}', 'profile.a == {"a": {}, "b": []}'),
        ("matches(event.name,'x')&&'a'.contains('b')", 'event.name.matches("x") && "a".contains("b")'),
        ("(profile.a+[1]).all(x,x==1)", "(profile.a + [1]).all(x, x == 1)"),
        ("profile.a.exists_one(x,x.exists(y,y))", "profile.a.exists_one(x, x.exists(y, y))"),
        (
            "profile.a.map(x,x+1)==profile.a.map(x,x>1,-x)",
            "profile.a.map(x, x + 1) == profile.a.map(x, x > 1, -x)",
        ),
        ("profile.a.filter(x,x>1)==[]", "profile.a.filter(x, x > 1) == []"),
        ('has(last("a").properties.b.c)', 'has(last("a").properties.b.c)'),
    ],
)
def test_the_text_is_canonical(source, text):
    assert explained(source).text == text
    assert explained(text).text == text


def test_a_failure_is_absorbed_as_the_criteria_does():
    assert explained("profile.x == 1 || profile.seats == 5").verdict == "TRUE"
    assert explained("profile.x == 1 && profile.seats == 6").verdict == "FALSE"
    assert explained("profile.x == 1 && profile.seats == 5").verdict == "FAILED"


@pytest.mark.parametrize(
    ("source", "satisfied", "missing"),
    [
        ("profile.seats == 5", 1.0, []),
        ("profile.seats == 6", 0.0, ["profile.seats == 6"]),
        ("profile.seats == 5 && profile.x && profile.opt_out && true", 0.5, ["profile.x", "profile.opt_out"]),
        ("profile.opt_out || (profile.seats == 5 && profile.x)", 0.5, ["profile.x"]),
        ("!(profile.seats == 5 || profile.opt_out)", 0.5, ["profile.seats == 5"]),
        ("!(profile.seats == 5 && true)", 0.0, ["profile.seats == 5"]),
        ("!(profile.seats == 5 && false)", 1.0, []),
        ("profile.seats == 5 ? profile.x : true", 0.0, ["profile.x"]),
        ("profile.seats == 6 ? profile.x : true", 1.0, []),
        ("profile.x ? true : true", 0.0, ["profile.x"]),
    ],
)
def test_how_near_it_was_and_what_it_missed(source, satisfied, missing):
    found = explained(source)
    assert found.satisfied == satisfied
    assert [leaf.text for leaf in found.missing()] == missing


def test_a_budget_that_only_the_whole_exceeds():
    walk = "profile.l.all(a, profile.l.all(b, a >= 0))"
    criteria = compile_criteria(f"{walk} && {walk}", Scope.ENTRY)
    found = explain(criteria, None, None, {"l": list(range(80))})
    assert [part.verdict for part in found.children] == ["TRUE", "TRUE"]
    assert (found.verdict, found.why) == ("FAILED", "it walks through too many values")
