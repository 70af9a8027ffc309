"""The condition by which SQL finds whom a run can move: what it leaves to the machine. That it leaves out nobody is held against Postgres,
in tests/integration/evaluator/test_run_candidates.py."""

from dataclasses import replace

import pytest

from cairn.evaluator.run_scan import EVERYBODY, scan_of
from cairn.evaluator.store_runs import find_statement
from cairn.journey.document import read_documents
from cairn.journey.live import LiveJourney, Pause, PauseMode
from cairn.journey.parse import parse_journey
from cairn.journey.plan import Plan, compile_plan
from cairn.rules import Scope, SqlNames, SqlUnsupported, compile_criteria, to_sql

TEXT = """
name: daily
type: BATCH
audience: profile.age >= 18
reentry: {mode: ALWAYS}
stages:
  - {name: one, entry: profile.plan == "gold", steps: [{wait: {duration: 3d}}]}
"""
UNSUPPORTED = 'profile.name.matches("a+b")'


@pytest.fixture
def plan() -> Plan:
    (document,), _ = read_documents(TEXT)
    journey, violations = parse_journey(document.message)
    assert journey is not None, violations
    return compile_plan(journey, 1)


def test_what_sql_can_not_say_is_left_to_the_machine(plan) -> None:
    criteria = compile_criteria(UNSUPPORTED, Scope.SEGMENT)
    with pytest.raises(SqlUnsupported):
        to_sql(criteria, {}, SqlNames("a", "b", "0"))
    gold = scan_of(LiveJourney({1: plan})).condition
    assert "WHEN p.s IS NULL THEN coalesce(" in gold
    # As an audience it lets in anybody, as a goal it keeps out nobody.
    open_to_all = replace(plan, audience=criteria, entry=criteria, goal=criteria)
    condition = scan_of(LiveJourney({1: open_to_all})).condition
    assert (
        "WHEN p.s IS NULL THEN (coalesce(true AND true, false) AND NOT coalesce(false, false))" in condition
    )


def test_a_glance_at_the_texts_spares_the_json_of_who_can_not_enter(plan) -> None:
    glance = scan_of(LiveJourney({1: plan})).glance
    assert glance.startswith("""(coalesce(strpos(standings, '"daily":'), 0) > 0 OR (""")
    assert '"gold"' in glance
    assert f"AND {glance}" in find_statement(scan_of(LiveJourney({1: plan})))
    assert EVERYBODY.glance == "true"


def test_behavior_is_read_only_where_it_is_asked_for(plan) -> None:
    assert {name for name, _ in scan_of(LiveJourney({1: plan})).columns} == {"a", "s"}
    asks = replace(plan, audience=compile_criteria('count("login") > 1', Scope.SEGMENT))
    assert {name for name, _ in scan_of(LiveJourney({1: asks})).columns} == {"a", "s", "b"}


def test_while_a_journey_is_paused_all_who_are_in_it_are_looked_at(plan) -> None:
    paused = scan_of(LiveJourney({1: plan}, pauses=(Pause(PauseMode.FREEZE, 5),))).condition
    assert "IN (1, 2, 6) THEN (true OR " in paused
    resumed = scan_of(LiveJourney({1: plan}, pauses=(Pause(PauseMode.FREEZE, 5, 9),))).condition
    assert "IN (1, 2, 6) THEN ((p.s ->> 5)::int < 1 OR " in resumed


def test_a_statement_is_about_one_bucket_and_a_page_of_it(plan) -> None:
    for scan in (scan_of(LiveJourney({1: plan})), EVERYBODY):
        statement = find_statement(scan)
        assert "WHERE bucket = $1 AND profile_id > $2 AND profile_id <= $3" in statement
        assert "$4" in statement
        assert statement.rstrip().endswith("ORDER BY p.profile_id LIMIT $5")
