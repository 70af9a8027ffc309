"""Which criteria make sure of which others."""

import pytest

from cairn.rules import Scope, compile_criteria, implies


def implied(later, earlier):
    return implies(compile_criteria(later, Scope.ENROLLMENT), compile_criteria(earlier, Scope.ENROLLMENT))


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        ("profile.a > 1", "profile.a>1"),
        ("profile.a", "profile.a == true"),
        ("!profile.a", "profile.a == false"),
        ("profile.a && profile.b && profile.c", "profile.c && profile.a"),
        ("profile.a", "profile.a || profile.b"),
        ("profile.a || profile.b", "profile.b || profile.c || profile.a"),
        ("(profile.a || profile.b) && profile.c", "profile.a || profile.b"),
        ("(profile.a && profile.c) || (profile.b && profile.c)", "profile.c"),
        ("!(profile.a || profile.b)", "!profile.b"),
        ("!(!profile.a)", "profile.a"),
        ("!(profile.a && profile.b)", "!profile.b || !profile.a"),
        ("profile.seats > 100", "profile.seats > 50"),
        ("profile.seats > 50", "profile.seats >= 50"),
        ("profile.seats >= 51", "profile.seats > 50"),
        ("100 < profile.seats", "profile.seats >= 50.5"),
        ("profile.seats < 3", "profile.seats != 3"),
        ("profile.seats == 100", "profile.seats > 50"),
        ("profile.seats > 5", 'profile.seats != "x"'),
        ('count("a") > 4', 'count("a") >= 5'),
        ('count("a", duration("1h")) < 5', 'count("a", duration("1h")) <= 4'),
        ('sum("a", "b", duration("1h")) > 5', 'sum("a", "b", duration("1h")) > 4.5'),
        ('profile.country == "JP"', 'profile.country in ["US", "JP"]'),
        ('profile.country in ["JP", "US"]', 'profile.country in ["US", "FR", "JP"]'),
        ('profile.country in ["JP"]', 'profile.country == "JP"'),
        ('profile.country == "JP"', 'profile.country != "US"'),
        ('!(profile.country in ["JP", "US"])', 'profile.country != "US"'),
        ('profile.country == "JP"', 'profile.country.startsWith("J")'),
        ('profile.country.startsWith("JP")', 'profile.country.contains("J")'),
        ('profile.country > "b"', 'profile.country > "a"'),
        ('profile.a.b == "x"', "has(profile.a.b)"),
        ('!(profile.a.b.c == "x")', "has(profile.a.b)"),
        (
            'event.occur_time > timestamp("2026-02-01T00:00:00Z")',
            'event.occur_time > timestamp("2026-01-01T00:00:00Z")',
        ),
        (
            'event.occur_time - entry.occur_time > duration("48h")',
            'event.occur_time - entry.occur_time > duration("24h")',
        ),
        ("profile.a", "true"),
        ("false", "profile.a"),
        ("profile.a in []", 'profile.a == "x"'),
    ],
)
def test_implied(later, earlier):
    assert implied(later, earlier)


@pytest.mark.parametrize(
    ("later", "earlier"),
    [
        ("profile.a", "profile.b"),
        ("profile.a", "profile.a && profile.b"),
        ("profile.a || profile.b", "profile.a"),
        ("profile.seats > 50", "profile.seats > 100"),
        ("profile.seats >= 50", "profile.seats > 50"),
        ("profile.seats > 4", "profile.seats >= 5"),
        ("profile.seats > 50", "profile.seats < 100"),
        ("profile.seats != 5", "profile.seats > 5"),
        ('profile.seats > "5"', "profile.seats > 4"),
        ("profile.a == 1", "profile.a == true"),
        ("profile.a < true", "profile.a != false"),
        ("!(profile.a > 5)", "profile.a <= 5"),
        ("profile.a > 9007199254740993", "profile.a > 9007199254740992.0"),
        ('profile.country in ["JP", "US"]', 'profile.country == "JP"'),
        ('profile.country.startsWith("J")', 'profile.country.startsWith("JP")'),
        ('profile.country.contains("J")', 'profile.country.startsWith("J")'),
        ('profile.a.b == "x" || profile.c', "has(profile.a.b)"),
        ("(profile.a.b || profile.c) == true", "has(profile.a.b)"),
        ("profile.c ? profile.a.b : true", "has(profile.a.b)"),
        ("profile.l.exists(x, x.b == profile.a.b)", "has(profile.a.b)"),
        ("has(profile.a.b)", 'profile.a.b == "x"'),
        ('count("a", duration("1h")) > 4', 'count("a", duration("2h")) > 4'),
        ("profile.a", "false"),
    ],
)
def test_not_implied(later, earlier):
    assert not implied(later, earlier)


def test_large_criteria_are_compared_in_no_time():
    many = " || ".join(f"(profile.a{n} && profile.b{n})" for n in range(110))
    assert implied(many, many)
    assert not implied(many, many.replace("b109", "c"))
