"""What a criteria means: a table of expression, input, answer."""

from datetime import UTC, datetime, timedelta

import pytest

from cairn.rules import CriteriaFailed, Scope, compile_criteria

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
PURCHASE = {
    "name": "purchase",
    "occur_time": NOON,
    "properties": {
        "total": 60,
        "price": 2.5,
        "gift": True,
        "note": None,
        "text": "60",
        "items": [1, 2.5, "x", True],
        "cart": {"id": "c-1", "lines": [{"sku": "é😀"}]},
    },
}
ENTRY = {"name": "cart_add", "occur_time": NOON - timedelta(hours=3), "properties": {"cart": {"id": "c-1"}}}
PROFILE = {
    "country": "JP",
    "seats": 5,
    "vip": True,
    "tags": ["vip", "beta"],
    "empty": [],
    "big": 2**53 + 1,
    "broken_pattern": "(",
}
FAILS = "fails"

CASES = {
    "equality": [
        ('event.name == "purchase"', True),
        ('"purchase" == event.name', True),
        ('event.name != "purchase"', False),
        ("event.properties.total == 60", True),
        ("event.properties.total == 60.0", True),
        ("event.properties.price == 2.5", True),
        ('event.properties.text == "60"', True),
        ("event.properties.text == 60", False),
        ("event.properties.text != 60", True),
        ("event.properties.items == [1.0, 2.5, 'x', true]", True),
        ("event.properties.items == [1, 2.5, 'x', 1]", False),
        ('event.properties.cart == {"id": "c-1"}', False),
        ('entry.properties.cart == {"id": "c-1"}', True),
        ("event.properties.cart.id == entry.properties.cart.id", True),
        ("profile.big == 9007199254740992.0", True),
        ("profile.seats == 5u", True),
    ],
    "a boolean is no number": [
        ("event.properties.gift == true", True),
        ("event.properties.gift == 1", False),
        ("event.properties.gift != 1", True),
        ("event.properties.gift in [1, 2]", False),
        ("event.properties.items[0] == true", False),
        ("1 in event.properties.items", True),
        ("event.properties.gift < 2", FAILS),
        ("event.properties.gift > profile.seats", FAILS),
        ("event.properties.gift + 1 == 2", FAILS),
        ("profile.tags[true] == 'vip'", FAILS),
    ],
    "order": [
        ("event.properties.total > 50", True),
        ("event.properties.total >= 60.0", True),
        ("50 < event.properties.total", True),
        ("event.properties.price < event.properties.total", True),
        ("event.properties.price <= 2", False),
        ('event.properties.text > "5"', True),
        ('event.name < "q"', True),
        ("false < event.properties.gift", True),
        ("event.properties.text > 5", FAILS),
        ("event.properties.note < 1", FAILS),
        ("event.properties.items > event.properties.items", FAILS),
        ("profile.big > 9007199254740992.0", False),
    ],
    "membership": [
        ('event.name in ["cart_add", "purchase"]', True),
        ('profile.country in ["US"]', False),
        ("profile.seats in [1, 5]", True),
        ("profile.seats in [1.0, 5.0]", True),
        ('"vip" in profile.tags', True),
        ('"gold" in profile.tags', False),
        ('"total" in event.properties', True),
        ('"id" in event.properties.cart', True),
        ('"J" in profile.country', FAILS),
        ("profile.seats in []", False),
    ],
    "what is there": [
        ("has(event.properties.total)", True),
        ("has(event.properties.color)", False),
        ("has(event.properties.cart.id)", True),
        ("has(event.properties.cart.color)", False),
        ("has(event.properties.color.hue)", FAILS),
        ("has(event.properties.text.size)", FAILS),
        ('event.properties.cart.lines[0].sku == "é😀"', True),
        ('event.properties["cart"]["id"] == "c-1"', True),
        ('{"a": 1, "a": 2} == {}', FAILS),
        ("event.properties.color == 1", FAILS),
        ("event.properties.color != 1", FAILS),
        ("event.properties.items[4] == 1", FAILS),
        ("event.properties.items[-1] == true", FAILS),
        ("event.properties.items[1.0] == 2.5", True),
        ('event.properties.text[0] == "6"', FAILS),
    ],
    "null": [
        ("event.properties.note == null", True),
        ("event.properties.total == null", False),
        ("event.properties.total != null", True),
        ("null in event.properties.items", False),
        ("event.properties.color == null", FAILS),
    ],
    "logic absorbs a failure": [
        ("event.properties.color == 1 || true", True),
        ("true || event.properties.color == 1", True),
        ("event.properties.color == 1 && false", False),
        ("event.properties.color == 1 && event.properties.total == 1", False),
        ("event.properties.color == 1 || event.properties.total == 60", True),
        ("event.properties.color == 1 && event.properties.total == 60", FAILS),
        ("event.properties.total == 60 && event.properties.color == 1", FAILS),
        ("event.properties.color == 1 || event.properties.total == 1", FAILS),
        ("event.properties.total == 1 || event.properties.color == 1 || profile.vip", True),
        ("profile.vip && (event.properties.color == 1 || true)", True),
        ("(event.properties.color == 1 || true) == true", True),
        ("profile.tags.exists(t, t == event.properties.color || t == 'vip')", True),
        ("profile.seats && false", False),
        ("profile.seats || true", True),
        ("profile.seats && true", FAILS),
        ("!(event.properties.color == 1)", FAILS),
        ("!event.properties.gift", False),
        ("!profile.seats", FAILS),
        ("profile.vip ? event.properties.total > 50 : event.properties.color == 1", True),
        ("profile.seats ? true : true", FAILS),
    ],
    "arithmetic": [
        ("event.properties.total + 1 == 61", True),
        ("event.properties.price * 2.0 == 5.0", True),
        ("event.properties.total + 1.5 > 1.0", FAILS),
        ("-event.properties.total / 7 == -8", True),
        ("-event.properties.total % 7 == -4", True),
        ("event.properties.total / 0 == 1", FAILS),
        ("event.properties.price / 0.0 > 1.0", True),
        ("profile.seats + 9223372036854775807 > 0", FAILS),
        ("profile.seats - 6 == -1", True),
        ('profile.country + "!" == "JP!"', True),
        ("size(profile.tags + [1]) == 3", True),
    ],
    "texts and sizes": [
        ('event.name.startsWith("pur")', True),
        ('profile.country.endsWith("P")', True),
        ('profile.country.contains("x")', False),
        ('profile.seats.contains("x")', FAILS),
        ('event.name.matches("^p.*e$")', True),
        ("event.name.matches(profile.broken_pattern)", FAILS),
        ("size(profile.tags) == 2", True),
        ("event.properties.cart.lines[0].sku.size() == 2", True),
        ("size(profile.seats) == 1", FAILS),
    ],
    "conversions": [
        ("int(event.properties.price) == 2", True),
        ("int(event.properties.text) == 60", True),
        ("double(event.properties.total) / 8.0 == 7.5", True),
        ('string(event.properties.total) == "60"', True),
        ("int(profile.country) == 1", FAILS),
        ("type(profile.seats) == int", True),
    ],
    "what the checker infers from a use says nothing of the value": [
        ('!event.properties.cart["id"]', FAILS),
        ('event.properties.cart["id"] && true', FAILS),
        ("event.properties.items[0] || false", FAILS),
        ('event.properties.cart["lines"].startsWith("x")', FAILS),
        ("size(event.properties.items[0]) == 1", FAILS),
        ("event.properties.items[3] + 1 == 2", FAILS),
        ("event.properties.items[3] == event.properties.items[0]", False),
        ('(profile.vip ? event.properties.cart["id"] : true) || false', FAILS),
        ("[event.properties.items[0]].exists(x, !x)", FAILS),
        ('-event.properties.cart["id"] < 1', FAILS),
    ],
    "macros": [
        ('profile.tags.exists(t, t == "beta")', True),
        ('profile.tags.all(t, t.startsWith("v"))', False),
        ("profile.empty.all(t, t.x)", True),
        ("profile.empty.exists(t, t.x)", False),
        ("event.properties.items.exists(i, i > 2)", True),
        ("event.properties.items.exists(i, i > 3)", FAILS),
        ('event.properties.cart.lines.exists(line, line.sku == "é😀" && event.name == "purchase")', True),
        ('event.properties.cart.exists(key, key == "id")', True),
        ("profile.tags.exists_one(t, t == 'vip')", True),
        ("profile.tags.filter(t, t == 'vip').size() == 1", True),
        ("profile.tags.exists(t, profile.tags.exists(u, t != u))", True),
    ],
    "time": [
        ('event.occur_time > timestamp("2026-01-01T11:59:59.999999Z")', True),
        ('event.occur_time == timestamp("2026-01-01T21:00:00+09:00")', True),
        ('event.occur_time - entry.occur_time == duration("3h")', True),
        ('entry.occur_time + duration("2h59m59.999999s") < event.occur_time', True),
        ('entry.occur_time + duration("3h") < event.occur_time', False),
        ("event.occur_time.getHours() == 12", True),
        ("timestamp(profile.country) > event.occur_time", FAILS),
    ],
    "results": [
        ("event.properties.gift", True),
        ("event.properties.total", FAILS),
        ("event.properties.color", FAILS),
        ("true", True),
    ],
}


def answer(source, event, entry, profile):
    try:
        return compile_criteria(source, Scope.ENROLLMENT).evaluate(event, entry, profile)
    except CriteriaFailed:
        return FAILS


@pytest.mark.parametrize(
    ("source", "expected"),
    [pytest.param(*case, id=f"{topic}: {case[0]}") for topic in CASES for case in CASES[topic]],
)
def test_meaning(source, expected):
    assert answer(source, PURCHASE, ENTRY, PROFILE) is expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('event.name == "purchase"', FAILS),
        ('event.name != "purchase"', FAILS),
        ("has(event.properties.total)", FAILS),
        ('event.name == "purchase" && profile.vip', FAILS),
        ('event.name == "purchase" && profile.seats == 6', False),
        ('event.name == "purchase" || profile.vip', True),
        ('event.name == "purchase" || entry.name == "cart_add"', True),
        ('profile.vip ? profile.seats == 5 : event.name == "purchase"', True),
        ("event.properties.items.exists(i, i == 1)", FAILS),
        ("profile.empty.exists(t, t == event.name)", False),
        ("profile.empty.map(t, event.name).size() == 0", True),
        ("profile.vip", True),
    ],
)
def test_without_an_event(source, expected):
    assert answer(source, None, ENTRY, PROFILE) is expected


def test_a_profile_never_described_is_an_empty_one():
    assert answer("has(profile.country)", PURCHASE, ENTRY, {}) is False
    assert answer('profile.country == "JP"', PURCHASE, ENTRY, {}) is FAILS


def test_entry_criteria_need_no_entry():
    criteria = compile_criteria('event.name == "purchase" && profile.vip', Scope.ENTRY)
    assert criteria.evaluate(PURCHASE, None, PROFILE) is True


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("profile.missing == 1", "key that is not there"),
        ("profile[profile.country] == 1", "key that is not there"),
        ('event.name == "x"', "where there is none"),
        ("profile.country > 1", "another type"),
        ("profile.seats", "neither true nor false"),
        ("profile.seats / 0 == 1", "divides by zero"),
    ],
)
def test_a_failure_says_its_kind_and_no_value(source, said):
    with pytest.raises(CriteriaFailed) as failed:
        compile_criteria(source, Scope.ENTRY).evaluate(None, None, PROFILE)
    assert said in str(failed.value)
    assert "JP" not in str(failed.value)


def test_a_walk_without_end_fails_instead_of_hanging():
    profile = {"l": list(range(500))}
    assert (
        answer("profile.l.all(a, profile.l.all(b, profile.l.all(c, a >= 0)))", None, None, profile) is FAILS
    )


def test_a_text_that_is_not_unicode_fails_and_harms_nothing():
    assert answer('profile.a.matches("x")', None, None, {"a": "\ud800"}) is FAILS
