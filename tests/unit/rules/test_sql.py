"""How criteria are written as SQL: what is said of those that can't be, what gets into the text, and how long it is."""

import pytest

from cairn.rules import (
    Scope,
    SqlNames,
    SqlUnsupported,
    compile_criteria,
    json_expression,
    text_to_sql,
    to_sql,
)

NAMES = SqlNames(attributes="p.attributes", behavior="p.behavior", now_us="$2")


def written(source, segments=None, names=NAMES):
    inlined = {name: compile_criteria(criteria, Scope.SEGMENT) for name, criteria in (segments or {}).items()}
    return to_sql(compile_criteria(source, Scope.SEGMENT), inlined, names)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('profile.country == "JP"', """(p.attributes->'country' = '"JP"'::jsonb)"""),
        ('"JP" == profile["x-y"]', """('"JP"'::jsonb = p.attributes->'x-y')"""),
        ("profile.a.b != 5", """(NOT (p.attributes->'a'->'b' = '5'::jsonb))"""),
        ('profile.a in ["x", 1]', """(p.attributes->'a' IN ('"x"'::jsonb, '1'::jsonb))"""),
        ("has(profile.a)", "(p.attributes ? 'a')"),
        (
            "profile.a > 5",
            "(CASE WHEN jsonb_typeof(p.attributes->'a') = 'number' THEN p.attributes->'a' > '5'::jsonb END)",
        ),
        ('count("a") > 1', """(coalesce(p.behavior->'a'->0, '0'::jsonb) > '1'::jsonb)"""),
        (
            'count("a", duration("1s")) >= 5',
            "coalesce(p.behavior->'a'->1->(-5) > ($2 - 1000000)::text::jsonb, false)",
        ),
        ('last("a").properties.x == 1', "(p.behavior->'a'->4->'properties'->'x' = '1'::jsonb)"),
        ("true && (false || true)", "(true AND (false OR true))"),
    ],
)
def test_the_usual_is_short(source, expected):
    assert written(source) == expected


@pytest.mark.parametrize(
    ("source", "places"),
    [
        (
            "profile.a + 1 == 2",
            ["1:11: + is computed otherwise by a database; keep the answer in an attribute"],
        ),
        ("-profile.a < 1", ["1:1: - is computed otherwise"]),
        ("profile.a - 1 == 2", ["1:11: - is computed otherwise"]),
        ('profile.a.matches("x")', ["1:18: matches can't be asked of a database; use startsWith"]),
        (
            "int(profile.a) == 1",
            ["1:4: int can't be asked of a database; numbers compare by value without it"],
        ),
        ('string(profile.a) == "1"', ["1:7: string can't be asked of a database; keep the answer"]),
        ("type(profile.a) == int", ["1:5: type can't be asked", "1:20: int can't be asked"]),
        ('timestamp(profile.a) > last("a").occur_time', ["1:10: a timestamp is a constant"]),
        (
            'last("a").occur_time > timestamp("2026-01-01T00:00:00.0000001Z")',
            ["1:33: a timestamp is a constant"],
        ),
        (
            'last("a").occur_time - first("a").occur_time > duration("1.5s")',
            ["1:56: a duration is a constant"],
        ),
        ('last("a").occur_time.getHours() == 1', ["1:30: getHours can't be asked"]),
        ('last("a").occur_time + duration("1h") > first("a").occur_time', ["1:22: + is computed otherwise"]),
        ('last("a").occur_time == profile.a', ["1:22: compares values of kinds that never compare"]),
        ('last("a").occur_time in profile.l', ["1:22: no list holds times"]),
        ('count("a") < dyn("x")', ["1:12: compares values of kinds that never compare"]),
        ("profile.a < null", ["1:11: compares values of kinds that never compare"]),
        ("profile.l.exists_one(x, x == 1)", ["1:21: only exists and all can be asked"]),
        ("size(profile.l.filter(x, x == 1)) > 1", ["1:22: only exists and all can be asked"]),
        (
            "profile.l.exists(x, x.exists(y, y == 1))",
            ["1:29: only exists and all can be asked of a database, and not within each other"],
        ),
        ("profile[profile.a] == 1", ["1:16: a key is a constant here"]),
        ("profile.l[-1] == 1", ["1:11: a key is a constant here"]),
        ("profile.l[1.5] == 1", ["1:11: a key is a constant here"]),
        ("profile.a == 9007199254740992", ["1:14: a number beyond 9,007,199,254,740,991 is not exact"]),
        ("profile.a > 1e300", ["1:13: a number beyond"]),
        ("profile.a == 1e999", ["1:14: a number beyond"]),
        ("profile.a in [1, -9007199254740992]", ["1:18: a number beyond"]),
        (r'profile.a == "\u0000"', ["1:14: a text with a NUL"]),
        (r'profile["\u0000"] == 1', ["1:9: a text with a NUL"]),
        (r'count("\u0000") == 1', ["1:7: a text with a NUL"]),
        ('profile.a == b"x"', ["1:14: bytes can't be asked"]),
        ("profile.a in [profile.b, 1]", ["1:22: the elements of a list or map are constants here"]),
        ('profile.a == {"x": profile.b}', ["1:27: the elements of a list or map are constants here"]),
        ("profile.a == {1: 2}", ["1:14: a map has different texts as its keys"]),
        (
            "true &&\n  profile.a * 2 > 3 || profile.b % 2 == 1",
            ["2:13: * is computed", "2:34: % is computed"],
        ),
    ],
)
def test_what_can_not_be_written_is_said_with_its_place(source, places):
    with pytest.raises(SqlUnsupported) as refused:
        written(source)
    found = list(map(str, refused.value.problems))
    assert len(found) == len(places), found
    for problem, expected in zip(found, places, strict=True):
        assert problem.startswith(expected)
    assert str(refused.value) == "; ".join(found)


def test_a_criteria_that_reads_an_event_is_none_for_profiles():
    criteria = compile_criteria('event.name == "a" && profile.a == 1', Scope.ENTRY)
    with pytest.raises(SqlUnsupported, match=r"^1:6: reads an event, and here there is none"):
        to_sql(criteria, {}, NAMES)


def test_segments_are_written_out_and_nobody_is_in_one_that_is_not_there():
    segments = {"a": 'in_segment("b") && !in_segment("c")', "b": "profile.x == 1"}
    inner = "coalesce((p.attributes->'x' = '1'::jsonb), false)"
    assert written('in_segment("a")', segments) == f"coalesce(({inner} AND (NOT false)), false)"


def test_what_is_wrong_in_a_segment_is_said_where_it_is_used():
    segments = {"a": 'profile.x == 1 && in_segment("b")', "b": "profile.x % 2 == 0"}
    with pytest.raises(SqlUnsupported) as refused:
        written('profile.y == 2 || in_segment("a")', segments)
    (problem,) = refused.value.problems
    place = "1:29: in the segment b at 1:11: % is computed otherwise"
    assert str(problem).startswith(place)


def test_segments_that_lead_back_to_themselves_are_refused():
    segments = {"a": 'in_segment("b")', "b": 'in_segment("a") || profile.x == 1'}
    with pytest.raises(SqlUnsupported, match="leads back to itself"):
        written('in_segment("a")', segments)


def test_a_long_chain_of_segments_is_written_and_what_grows_too_large_is_not():
    chain = {f"s{n}": f'in_segment("s{n + 1}") || profile.a == {n}' for n in range(64)}
    assert written('in_segment("s0")', chain).count("p.attributes") == 64
    doubling = {f"s{n}": f'in_segment("s{n + 1}") || !in_segment("s{n + 1}")' for n in range(63)}
    with pytest.raises(SqlUnsupported, match="takes more than 65,536 characters as SQL") as refused:
        written('in_segment("s0")', {**doubling, "s63": "profile.a == 1"})
    assert len(refused.value.problems) == 1


def test_nesting_does_not_grow_without_end():
    source = "profile"
    for _ in range(6):
        source = f"(size({source}.a) == 1 ? profile.b : profile.c)"
    with pytest.raises(SqlUnsupported, match="takes more than 65,536 characters as SQL"):
        written(f"{source} == 1")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("attributes", "(attributes->'a' = '1'::jsonb)"),
        ('p."Attributes"', "(p.\"Attributes\"->'a' = '1'::jsonb)"),
        ("$1", "($1->'a' = '1'::jsonb)"),
        ("$1::jsonb", "(($1::jsonb)->'a' = '1'::jsonb)"),
        ("a || b", "((a || b)->'a' = '1'::jsonb)"),
    ],
)
def test_what_is_read_may_be_any_expression(name, expected):
    assert written("profile.a == 1", names=SqlNames(name, "b", "1")) == expected


def test_quotes_and_backslashes_are_doubled():
    found = written(r"""profile["it's"] == 'a\\b'""")
    assert found == r"""(p.attributes->'it''s' = E'"a\\\\b"'::jsonb)"""
    assert r"E'\\''')" in written(r"""profile.a.startsWith("\\'")""")


@pytest.mark.parametrize("source", ['profile.a < "b"', '"b" >= profile.a', "profile.a < profile.b"])
def test_texts_compare_by_code_point_whatever_the_language_of_the_database(source):
    assert 'COLLATE "C"' in written(source)


def test_a_column_of_texts_is_read_as_json():
    expected = (
        "(CASE WHEN p.x IS NULL OR p.x = '' THEN '{}'::jsonb "
        r"WHEN strpos(p.x, E'\\u0000') = 0 THEN p.x::jsonb END)"
    )
    assert json_expression("p.x") == expected


def held(column, *texts):
    return " AND ".join(f"strpos({column}, '{text}') > 0" for text in texts)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('profile.country == "JP"', held("a", '"country":"JP"')),
        ('"JP" == profile["country"]', held("a", '"country":"JP"')),
        ("profile.seats == 5 && profile.name != null", held("a", '"name":', '"seats":5')),
        ("profile.seats == 0", held("a", '"seats":')),
        ("profile.seats == 0.5", held("a", '"seats":')),
        ("profile.vip", held("a", '"vip":true')),
        ("!profile.vip", held("a", '"vip":false')),
        ("!(profile.seats > 5)", held("a", '"seats":')),
        ("has(profile.x)", held("a", '"x":')),
        ("!has(profile.x)", "true"),
        ("has(profile.x) == false", "true"),
        ('profile.name.startsWith("A")', held("a", '"name":"A')),
        (r'profile.name == "\"A"', held("a", '"name":')),
        (r'profile["\""] == "A"', "true"),
        ('"vip" in profile.tags', held("a", '"tags":', '"vip"')),
        ('profile.x == "a" || profile.y', held("a", '"x":"a"') + " OR " + held("a", '"y":true')),
        ("profile.x == 1 || !has(profile.y)", "true"),
        ("profile.x == 1 || false", held("a", '"x":1')),
        ("profile.x == 1 && false", "false"),
        ("1 == 1", "true"),
        ('profile.tags.exists(t, t == "x")', held("a", '"tags":')),
        ("profile.tags.filter(t, t == profile.x).size() == 0", held("a", '"tags":')),
        ('count("a") > 0', held("b", '"a":[')),
        ('count("a") >= 0', "true"),
        ('1 <= count("a", duration("1h"))', held("b", '"a":[')),
        ('sum("a", "b", duration("1h")) > -1', "true"),
        ('last("a").properties.x == "y"', held("b", '"a":[', '"properties":', '"x":"y"')),
        ('in_segment("jp")', held("a", '"c":"JP"')),
        ('in_segment("nobody")', "false"),
        ('!in_segment("jp")', "true"),
    ],
)
def test_what_the_texts_hold_wherever_a_criteria_is_true(source, expected):
    segments = {"jp": compile_criteria('profile.c == "JP"', Scope.SEGMENT)}
    found = text_to_sql(compile_criteria(source, Scope.SEGMENT), segments, "a", "b")
    assert sorted(found.strip("()").split(" AND ")) == sorted(expected.strip("()").split(" AND "))


def test_a_look_at_texts_does_not_grow_without_end():
    doubling = {
        f"s{n}": compile_criteria(f'in_segment("s{n + 1}") || in_segment("s{n + 1}")', Scope.SEGMENT)
        for n in range(63)
    }
    last = compile_criteria("profile.a == 1", Scope.SEGMENT)
    criteria = compile_criteria('in_segment("s0")', Scope.SEGMENT)
    assert text_to_sql(criteria, {**doubling, "s63": last}, "a", "b") == "true"
