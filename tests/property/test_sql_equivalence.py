"""SQL answers as the machine does, on a real Postgres: for each criteria that becomes SQL, and for each profile."""

import asyncio
import runpy
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.journey.behavior import Behavior, Track, needs_of, record
from cairn.journey.times import isoformat, to_us
from cairn.postgres.embedded import EmbeddedPostgres
from cairn.postgres.pool import connect
from cairn.rules import (
    Ask,
    Criteria,
    CriteriaError,
    CriteriaFailed,
    Scope,
    SqlNames,
    SqlUnsupported,
    compile_criteria,
    json_expression,
    text_to_sql,
    to_sql,
)

# The strategies that hold generated Python against the library.
SHARED = runpy.run_path(str(Path(__file__).with_name("test_rules_equivalence.py")))
START = SHARED["START"]
NOW_US = to_us(isoformat(START))
HOUR_US = 3_600_000_000
NAMES = SqlNames("p.a", "p.b", "$3::bigint")
TRACKS = msgspec.json.Decoder(dict[str, Track])
ASKS = [
    Ask(function, name, "", window)
    for function in ("count", "first", "last")
    for name in ("a", "purchase")
    for window in (None, HOUR_US)
] + [Ask("sum", name, key, 24 * HOUR_US) for name in ("a", "purchase") for key in ("a", "b", "total")]
NEEDS = needs_of(ASKS)
SEGMENTS = {
    "vip": compile_criteria('profile.a == 1 || profile.b["a"]', Scope.SEGMENT),
    "a-1": compile_criteria(
        'count("a") > 1 && !in_segment("vip") || profile.l.exists(x, x == "a")', Scope.SEGMENT
    ),
    "quoted": compile_criteria("profile.a in [\"it's\", '\\\\']", Scope.SEGMENT),
}


class Database:
    """A Postgres that is asked for many criteria on many profiles at once."""

    def __init__(self, runner: asyncio.Runner, dsn: str) -> None:
        self._runner = runner
        self._connection = runner.run(connect(dsn))

    def ask(
        self, conditions: Sequence[str], profiles: Sequence[tuple[str | None, str | None]]
    ) -> list[list[bool | None]]:
        """The answers, a list for each profile."""
        attributes, behaviors = json_expression("u.attributes"), json_expression("u.behavior")
        query = f"""
            SELECT ARRAY[{", ".join(conditions)}]::boolean[] AS answers FROM (
                SELECT {attributes} AS a, {behaviors} AS b, attributes, behavior, place
                FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS u (attributes, behavior, place) OFFSET 0
            ) AS p WHERE $3::bigint > 0 ORDER BY place"""
        columns = [list(column) for column in zip(*profiles, strict=True)]
        rows = self._runner.run(self._connection.fetch(query, *columns, NOW_US))
        return [row["answers"] for row in rows]

    def plan(self, condition: str) -> str:
        """How a large table would be read with a condition, where a parallel plan costs nothing."""
        for statement in (
            "CREATE TABLE IF NOT EXISTS documents (a jsonb, b jsonb)",
            "SET parallel_setup_cost = 0",
            "SET parallel_tuple_cost = 0",
            "SET min_parallel_table_scan_size = 0",
        ):
            self._runner.run(self._connection.execute(statement))
        query = f"EXPLAIN SELECT count(*) FROM documents AS p WHERE {condition}"
        rows = self._runner.run(self._connection.fetch(query.replace("$3::bigint", str(NOW_US))))
        return "\n".join(row[0] for row in rows)

    def close(self) -> None:
        """Ends the connection."""
        self._runner.run(self._connection.close())


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    with EmbeddedPostgres() as server, asyncio.Runner() as runner:
        database = Database(runner, server.dsn)
        yield database
        database.close()


def outcome(criteria: Criteria, attributes: str | None, behavior: str | None) -> bool | None:
    """What the machine says of a stored profile; None where the criteria fails."""
    profile = msgspec.json.decode(attributes or "{}")
    tracks = TRACKS.decode(behavior or "{}")
    try:
        return criteria.evaluate(None, None, profile, Behavior(tracks, profile, SEGMENTS, NOW_US))
    except CriteriaFailed:
        return None


def check(database: Database, criteria: Sequence[Criteria], profiles: Sequence[tuple[str, str]]) -> None:
    """Holds SQL against the machine."""
    found = database.ask([to_sql(each, SEGMENTS, NAMES) for each in criteria], profiles)
    texts = database.ask(
        [text_to_sql(each, SEGMENTS, "p.attributes", "p.behavior") for each in criteria], profiles
    )
    wrong = [
        (each.source, profile, f"SQL {answer}, of texts {perhaps}", f"machine {expected}")
        for profile, *answers in zip(profiles, found, texts, strict=True)
        for each, answer, perhaps in zip(criteria, *answers, strict=True)
        if (expected := outcome(each, *profile)) is not answer or (expected is True and perhaps is not True)
    ]
    assert not wrong, wrong[:5]


def stored(value):
    """A value as profiles hold it: every number a float."""
    match value:
        case bool():
            return value
        case int():
            return float(value)
        case list():
            return [stored(each) for each in value]
        case dict():
            return {key: stored(each) for key, each in value.items()}
        case _:
            return value


def behavior_of(events) -> str:
    """What is kept of events, given as name, microseconds after now and properties."""
    tracks = {}
    for name, after_us, properties in events:
        time = isoformat(START + timedelta(microseconds=after_us))
        event = {"event_id": "1", "name": name, "occur_time": time, "properties": stored(properties)}
        if name in NEEDS:
            tracks = record(tracks, NEEDS[name], event, NOW_US + after_us)
    return msgspec.json.encode(tracks).decode()


ATTRIBUTES = [
    {},
    *(
        {"a": a}
        for a in (None, True, False, 0, 1, -0.0, 0.5, 2, 60, "", "1", "a", "JP", "é😀", "it's", "\\", "z")
    ),
    {"a": 2.0**53, "b": 2.0**53 + 2, "l": [1e300, 5e-324, 1e16, -1.5e-7]},
    {"a": 2.0**53, "b": 2.0**53, "c": {"d": {"e": 1}}},
    {"a": [], "b": {}, "l": []},
    {"a": [1], "b": [1.0], "l": [1, 2.5, "x", True, None, [1], {"a": 1}]},
    {"a": {"a": 1}, "b": {"a": 1.0}, "l": ["vip", "beta"], "x-y": 3},
    {"a": {"a": True}, "b": {"b": 1}, "l": {"a": 1, "vip": 2}},
    {"a": "ab", "b": "b", "l": "vip", "c": {"d": None}},
    {"a": "b", "b": "B", "l": ["a", 5], "c": {"d": {"e": "f"}}},
    {"a": "😀", "b": "\uffff", "l": [[["deep"]]], "c": [{"d": 1}]},
    {"a": True, "b": False, "l": [False], "c": "d"},
    {"a": 5, "b": 5, "l": 5, "c": 5},
    {"a": 1, "b": "1", "l": list(range(1200))},
    {"a": 2.0**53 - 1, "b": None, "l": [7, 8], "c": {"d": 1}},
    {"a": False, "b": False, "l": [True]},
    {"a": True, "b": True},
    {"a": True, "b": 1, "c": 5},
    {"a": "ab", "b": "a"},
    {"a": [1, "b"], "b": "b"},
    {"a": "$1 %s {0} -- /*", "b": "';", "l": ["it's"], "c": {"d": "\\u0041", "'": 1}},
]
EVENTS = [
    [],
    [("a", -5, {"a": 1, "total": 0.1})],
    [("a", -1000, {"a": "x", "b": 0.1}), ("a", 1, {"b": 0.2}), ("a", -999, {"b": None}), ("a", -1001, {})],
    [("purchase", -HOUR_US - n * 7, {"total": n / 10}) for n in range(-3, 4)],
    [("a", -HOUR_US, {"b": 3}), ("purchase", -24 * HOUR_US, {"total": 7, "a": [1, "x"]}), ("x", 0, {})],
    [("a", -1_002_000, {"b": 0.3}), ("purchase", -3, {"total": 5, "b": 2}), ("a", 0, {})],
    [("purchase", -24 * HOUR_US + n, {"total": 0.1, "b": "1"}) for n in range(12)],
    [("a", n * 1_000_000, {"a": n, "b": True}) for n in (5, 3, 4, -1, -2)] + [("purchase", 9, {"a": "x"})],
]
TABLE = r"""
profile.a == "JP"
!(profile.a == "JP")
profile.a != "JP"
profile.a == 1
profile.a == 1.0
1u == profile.a
profile.a == -0.0
profile.a == 9007199254740991
profile.a != 0.5
profile.a == true
profile.a == null
profile.a != null
profile.a == []
profile.a == [1]
profile.a == {"a": 1.0}
profile.a == {"a": true}
profile.l == [1, 2.5, "x", true, null, [1], {"a": 1}]
profile.a == profile.b
profile.a != profile.b
profile.a < profile.b
profile.a >= profile.b
profile.a > 0
profile.a <= 1.0
2 > profile.a
!(profile.a > 0)
profile.a < "b"
profile.a >= "é"
"a" < profile.a
profile.a < true
profile.a >= false
false < profile.a
profile.a == (profile.b == false)
profile.a < (profile.b == false)
(profile.a == 1) == (profile.b == 1)
(profile.a == 1) > (profile.b == 2)
profile.a
!profile.a
profile.a && true
profile.a || false
profile.a && false
profile.a || true
profile.a && profile.b
profile.a || profile.b
profile.a == 1 && profile.missing == 1
profile.a == 1 || profile.missing == 1
!(profile.a == 1 || profile.missing == 1)
profile.a in ["a", "JP", "it's", "\\"]
profile.a in [1, 2.5, true, null, [1], {"a": 1}]
!(profile.a in [60, 61])
profile.a in []
profile.a in [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]
(profile.a == 1) in [true]
"vip" in profile.l
!("a" in profile.l)
5 in profile.l
true in profile.l
null in profile.l
[1] in profile.l
{"a": 1} in profile.l
profile.a in profile.l
profile.b in profile.a
profile.a in {"a": 1, "JP": 2}
"a" in profile
(profile.a == 5) in profile.l
has(profile.a)
!has(profile.l)
has(profile.a.a)
has(profile.c.d)
has(profile.c.d.e)
profile.c.d == 1
profile.c.d == null
profile.c.d.e == "f"
profile.a["a"] == 1
profile["x-y"] == 3
profile.c["'"] == 1
profile.l[0] == "vip"
profile.l[1] == 2.5
profile.l[1.0] == 2.5
profile.l[0][0][0] == "deep"
profile.c[0].d == 1
profile.l[99999] == 1
size(profile.a) == 1
size(profile.l) > 2
profile.a.size() < 2
size(profile) == 1
size(profile.a) == size(profile.b)
size("é😀") == 2 && profile.a == profile.a
profile.a.startsWith("a")
!profile.a.startsWith("a")
profile.a.endsWith("b")
profile.a.endsWith("é😀")
profile.a.contains("'")
profile.a.contains("")
profile.a.endsWith("")
profile.a.startsWith(profile.b)
profile.a.endsWith(profile.b)
"abc".contains(profile.b)
profile.a.contains("\\")
profile.c.d == "\\u0041"
profile.a == "$1 %s {0} -- /*"
profile.b == "';"
profile.a ? profile.b == 1 : profile.c == 5
(profile.a == "JP" ? 1 : 2) == 1
(profile.a == 1 ? profile.b : 2) == 2
(profile.a == 1 ? profile.b : true) == true
(profile.a == 1 ? "x" : profile.b) < "c"
dyn(profile.a) == 5
dyn(5) == profile.a
dyn("a") == 1
profile.l.exists(x, x == "vip")
profile.l.exists(x, x > 2)
profile.l.all(x, x > 2)
profile.l.all(x, x.startsWith("v"))
profile.l.exists(x, x == profile.missing || x == "x")
profile.l.exists(x, x == 1199)
profile.l.all(x, x < 1199) && profile.l.exists(x, x == 7)
profile.l.exists(x, x.a == 1)
profile.l.all(x, x != profile.c)
profile.l.all(x, in_segment("vip"))
profile.exists(k, k == "x-y")
[1, 2].exists(x, x == profile.a)
count("a") == 0
count("a") > 1
count("a") >= 5
count("purchase") in [1, 7]
count("a") < profile.a
profile.a == count("a")
count("a", duration("1ms")) == 2
count("a", duration("1ms")) >= 1
count("a", duration("1ms")) > 1
count("a", duration("1ms")) < 2
count("a", duration("1ms")) <= 0
count("a", duration("1ms")) >= 0
count("a", duration("1ms")) > -1
count("a", duration("1ms")) != 1
dyn(count("a", duration("1ms"))) > 1.5
dyn(count("a", duration("1ms"))) >= 1.5
dyn(count("a", duration("1ms"))) < 1.5
dyn(count("a", duration("1ms"))) == 1.5
dyn(count("a", duration("1ms"))) == "1"
2 <= count("a", duration("1ms"))
count("purchase", duration("24h")) < 9007199254740991 && count("a") == 5
count("purchase", duration("1h")) == 3
count("purchase", duration("1h")) > profile.a
count("purchase", duration("1h")) in [3, 12]
profile.a < count("purchase", duration("1h"))
count("a", duration("1h")) > count("purchase", duration("1h"))
sum("a", "b", duration("1h")) > 0
sum("a", "b", duration("1h")) == 0.3
sum("a", "b", duration("1h")) == 0.30000000000000004
sum("a", "b", duration("1h")) == profile.a
sum("purchase", "total", duration("24h")) == 1.0999999999999999
sum("purchase", "total", duration("24h")) > 1.0
sum("purchase", "b", duration("24h")) == 0
sum("purchase", "never", duration("24h")) == 0
sum("never", "total", duration("24h")) in [0.0, 1.5]
last("a").properties.b == 0.2
has(last("a").properties.b)
!has(first("a").properties.b)
first("a").properties.a == 1
last("a").name == "a"
last("a").name.startsWith("a")
last("a").properties == {}
first("purchase", duration("1h")).properties.total > 0
first("purchase", duration("1h")).properties.total == -0.1
last("purchase", duration("1h")).properties.total >= 0
has(last("purchase", duration("24h")).properties.total)
last("purchase").properties.a.exists(x, x == "x")
last("a").occur_time == timestamp("2026-01-01T00:00:00.000001Z")
last("a").occur_time >= timestamp("2026-01-01T09:00:00.000001+09:00")
last("a").occur_time > first("a").occur_time
last("a").occur_time < first("purchase", duration("1h")).occur_time
last("a").occur_time - first("a").occur_time > duration("2s")
last("a").occur_time - first("a").occur_time == duration("1002ms")
(has(profile.a) ? last("a").occur_time : first("a").occur_time) > timestamp("2026-01-01T00:00:00Z")
in_segment("vip")
!in_segment("vip")
in_segment("a-1") || in_segment("nobody-knows-it")
in_segment("quoted")
true
false
"""

ALWAYS_THE_SAME = {
    "true",
    "false",
    "profile.a && false",
    "profile.a || true",
    "profile.l[99999] == 1",
    'dyn("a") == 1',
    'count("a", duration("1ms")) >= 0',
    'count("a", duration("1ms")) > -1',
    'dyn(count("a", duration("1ms"))) == 1.5',
    'dyn(count("a", duration("1ms"))) == "1"',
    'sum("purchase", "never", duration("24h")) == 0',
    'sum("never", "total", duration("24h")) in [0.0, 1.5]',
}
SOURCES = TABLE.strip().split("\n")


def compiled(source: str) -> Criteria:
    """A criteria over a profile."""
    return compile_criteria(source, Scope.SEGMENT)


def test_each_of_a_table_is_the_same_for_each_of_a_table(database):
    criteria = list(map(compiled, SOURCES))
    attributes = [msgspec.json.encode(stored(each)).decode() for each in ATTRIBUTES]
    behaviors = [behavior_of(events) for events in EVENTS]
    profiles = [(text, behaviors[number % len(behaviors)]) for number, text in enumerate(attributes)]
    profiles += [(attributes[number % len(attributes)], text) for number, text in enumerate(behaviors)]
    check(database, criteria, [*profiles, ("{}", None), (None, ""), ('{"a":1}', behaviors[2])])
    answers = {each.source: {outcome(each, *profile) for profile in profiles} for each in criteria}
    # Of any other line, one that is the same for everybody would tell little.
    assert {source for source, found in answers.items() if len(found) == 1} == ALWAYS_THE_SAME


def segment_criteria(source: str) -> Criteria | None:
    """A criteria of the shared strategies as one that reads no event; None when there is none, or no SQL for it."""
    for old, new in (
        ("event.properties", "profile"),
        ("entry.properties", 'last("a").properties'),
        ("event.", 'last("a").'),
        ("entry.", 'first("purchase").'),
    ):
        source = source.replace(old, new)
    try:
        criteria = compile_criteria(source, Scope.SEGMENT)
        to_sql(criteria, SEGMENTS, NAMES)
    except (CriteriaError, SqlUnsupported):
        return None
    return criteria


# And those of the table, joined: these all become SQL.
joined = st.recursive(
    st.sampled_from(SOURCES).map("({})".format),
    lambda inner: st.one_of(
        st.builds("({} {} {})".format, inner, st.sampled_from(["&&", "||", "==", "<"]), inner),
        st.builds("!{}".format, inner),
        st.builds("({} ? {} : {})".format, inner, inner, inner),
        st.builds("[true, 1].exists(x, {})".format, inner.filter(lambda source: "(x," not in source)),
    ),
    max_leaves=4,
)
conditions = st.one_of(SHARED["conditions"], joined).map(segment_criteria).filter(bool)
attributes = SHARED["attributes"].map(lambda value: msgspec.json.encode(stored(value)).decode())
moments = st.sampled_from([-HOUR_US, -1_500_000, -1000, 0]).flatmap(
    lambda around: st.integers(around - 2, around + 2)
) | st.integers(-30 * HOUR_US, HOUR_US)
numbers = st.sampled_from([0.1, 0.2, 0.3, -7.25, 1e16, 1.0, 1e299, 5e-324])
# Sums of larger numbers are not known in SQL.
properties = SHARED["attributes"].filter(lambda value: 1e300 not in value.values()) | st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("a", "b", "total"), numbers)
)
behaviors = st.lists(st.tuples(st.sampled_from(["a", "purchase", "x"]), moments, properties), max_size=6).map(
    behavior_of
)


@settings(max_examples=60, deadline=None)
@given(
    criteria=st.lists(conditions, min_size=1, max_size=8),
    profiles=st.lists(st.tuples(attributes, behaviors), min_size=1, max_size=8),
)
def test_any_is_the_same_for_any_profile(database, criteria, profiles):
    check(database, criteria, profiles)


ODD = [
    ('{"a":1e308}', behavior_of([("a", -5, {"b": 1.7e308}), ("a", -4, {"b": 1.7e308})])),
    ('{"a":' + "9" * 400 + ',"b":1e-320}', None),
    (msgspec.json.encode({"l": [0.0] * 12_000}).decode(), None),
    ('{"a":"' + "[" * 5000 + '"}', '{"a":[1]}'),
    ('{"a":' + "[" * 200 + "]" * 200 + "}", '{"a":[1,[],{},null,null]}'),
]


def test_no_row_makes_a_statement_fail(database):
    answers = database.ask([to_sql(each, SEGMENTS, NAMES) for each in map(compiled, SOURCES)], ODD)
    by_source = dict(zip(SOURCES, zip(*answers, strict=True), strict=True))
    assert by_source['sum("a", "b", duration("1h")) > 0'] == (None, False, False, False, False)
    assert by_source['profile.l.exists(x, x == "vip")'][2] is None
    assert by_source["profile.a > 0"] == (True, True, None, None, None)


@pytest.mark.parametrize("text", [r'{"a":"\u0000"}', r'{"a":"\\u0000"}'])
def test_a_text_with_nul_is_left_to_the_machine(database, text):
    conditions = ["p.a IS NULL", "p.b = '{}'", "(p.a->'a' = '1') IS NULL"]
    assert database.ask(conditions, [(text, None)]) == [[True] * 3]


def test_whatever_a_text_holds_it_stays_a_text(database):
    nasty = "'; DROP TABLE x; -- \\' E'\\\\ $1 $$ \" %s {0} \x7f\u2028 /* ::text"
    written = nasty.replace("\\", "\\\\").replace('"', '\\"')
    sources = [
        f'profile.a == "{written}"',
        f'profile["{written}"] == 1',
        f'profile.a.contains("{written}") && "{written}" in profile',
        f'profile.a in ["{written}", "x"]',
        f'profile.a <= "{written}"',
        f'count("{written}") == 0 && profile.c == {{"{written}": ["{written}"]}}',
        f'sum("{written}", "{written}", duration("1h")) == 0 && !has(last("{written}").properties.a)',
    ]
    found = {"a": nasty, nasty: 1.0, "c": {nasty: [nasty]}}
    profiles = [(msgspec.json.encode(each).decode(), "{}") for each in (found, {"a": "x"})]
    criteria = list(map(compiled, sources))
    assert [outcome(each, *profiles[0]) for each in criteria] == [True] * 6 + [None]
    check(database, criteria, profiles)


def test_a_large_table_may_be_read_in_parallel(database):
    conditions = " OR ".join(to_sql(each, SEGMENTS, NAMES) for each in map(compiled, SOURCES))
    assert "Parallel Seq Scan" in database.plan(conditions)
