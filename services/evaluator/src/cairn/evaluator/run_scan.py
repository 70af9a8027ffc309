"""Owns whom a run can move at all, as a SQL condition made from a journey's plans. Pure.

It may say yes of somebody whom the machine then leaves alone, which only costs a look; never no of somebody whom it would move.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cairn.journey.live import LiveJourney
from cairn.journey.model import ReentryMode
from cairn.journey.plan import Plan, WaitForConditionInstruction
from cairn.journey.state import HELD, OPEN_STATES, RESTING, WAITING, Enrollment, LastRun, Standing
from cairn.rules import Criteria, SqlNames, SqlUnsupported, json_expression, text_to_sql, to_sql

RUN_TIME: Final = "$4::bigint"
"""The parameter of the run's time, in microseconds."""

# What a criteria that SQL can't express counts as: published before it was refused, it is for the machine to decide.
_ANYBODY: Final = "true"
_NOBODY: Final = "false"
# Postgres' jsonb does not take this character, which JSON does: who has one is looked at by the machine.
_NUL: Final = r"'\u0000'"


@dataclass(frozen=True, slots=True)
class Scan:
    """Whom a run looks at: SQL expressions over a row of `profiles`, to be computed once each, by their names; and the condition on a row of
    them, called `p`. Parameter 4 is the run's time. `glance` is a condition on the row of `profiles` alone, without reading its JSON: who
    does not meet it does not meet the other."""

    columns: tuple[tuple[str, str], ...]
    condition: str
    glance: str = "true"


EVERYBODY: Final = Scan((), f"{RUN_TIME} IS NOT NULL")
"""For pages with profiles that SQL can't read."""


def scan_of(journey: LiveJourney) -> Scan:
    """Whom a run of a journey can move."""
    plans = [journey.plans[number] for number in sorted(journey.plans)]
    reads_behavior = any(criteria.reads_behavior for plan in plans for criteria in plan.criteria())
    columns = [("a", json_expression("attributes")), ("s", _standing(journey.journey_id))]
    unreadable = ["p.a IS NULL"]
    if reads_behavior:
        columns.append(("b", json_expression("behavior")))
        unreadable.append("p.b IS NULL")
    outside = _outside(journey.newest)
    again = _may_enter(journey.newest)
    condition = f"""({_any(unreadable)} OR CASE
    WHEN p.s IS NULL THEN {outside}
    WHEN jsonb_typeof(p.s) <> 'array' THEN true
    WHEN ({_OF_LAST_RUN["time_us"]})::bigint = {RUN_TIME} THEN true
    WHEN jsonb_typeof({_part("remembered")}) <> 'null' THEN true
    WHEN {_STATE} IN {_numbers(OPEN_STATES)} THEN {_any(_open(journey, plans, outside, again))}
    ELSE {again} AND {outside}
END)"""
    return Scan(tuple(columns), condition, _glance(journey))


def _glance(journey: LiveJourney) -> str:
    """Of who does not stand with the journey, only those can enter whose texts hold what audience and entry criteria need."""
    newest = journey.newest
    tests = [criteria for criteria in (newest.audience, newest.entry) if criteria is not None]
    looks = [text_to_sql(each, newest.segments, "attributes", "behavior") for each in tests]
    return f"({_stands(journey.journey_id)} OR ({' AND '.join(f'({look})' for look in looks)}))"


def _stands(journey_id: str) -> str:
    return f"""coalesce(strpos(standings, '"{journey_id}":'), 0) > 0"""


def _standing(journey_id: str) -> str:
    """How a profile stands with the journey as jsonb: NULL where it does not, no array where Postgres can't take it."""
    return (
        f"CASE WHEN NOT ({_stands(journey_id)}) THEN NULL "
        f"""WHEN strpos(standings, {_NUL}) > 0 THEN 'true'::jsonb ELSE standings::jsonb -> '{journey_id}' END"""
    )


def _part(field: str) -> str:
    return f"(p.s -> {Standing.__struct_fields__.index(field)})"


def _text(field: str) -> str:
    return f"(p.s ->> {Standing.__struct_fields__.index(field)})"


def _of(field: str, kind: type[Enrollment] | type[LastRun]) -> dict[str, str]:
    """The fields of what a standing holds as texts, by their names."""
    place = Standing.__struct_fields__.index(field)
    return {name: f"p.s #>> '{{{place},{index}}}'" for index, name in enumerate(kind.__struct_fields__)}


_OF_ENROLLMENT: Final = _of("enrollment", Enrollment)
_OF_LAST_RUN: Final = _of("last_run", LastRun)
_STATE: Final = f"({_OF_ENROLLMENT['state']})::int"
_ENTRIES: Final = f"{_text('entries')}::bigint"


def _open(journey: LiveJourney, plans: Iterable[Plan], outside: str, again: str) -> Iterable[str]:
    """When somebody who is in the journey can be moved."""
    of = _OF_ENROLLMENT
    if journey.pause is not None:
        yield _ANYBODY
    elif journey.pauses:
        yield f"{_text('pauses')}::int < {len(journey.pauses)}"
    yield f"{_STATE} = {int(HELD)}"
    # Who came to be there by a jump after the run began is judged by a later time.
    yield f"({of['now_us']})::bigint > {RUN_TIME}"
    yield f"({of['wake_us']})::bigint BETWEEN 1 AND {RUN_TIME}"
    by_version = " ".join(f"WHEN {plan.version} THEN {_any(_moves(plan))}" for plan in plans)
    yield f"CASE ({of['version']})::int {by_version} ELSE true END"
    if journey.newest.restarts:
        yield outside
    else:
        last = " ".join(f"WHEN {plan.version} THEN {plan.last_stage}" for plan in plans)
        at_rest = (
            f"{_STATE} = {int(RESTING)} AND ({of['stage']})::int = CASE ({of['version']})::int {last} END"
        )
        yield f"({at_rest} AND {again} AND {outside})"


def _moves(plan: Plan) -> Iterable[str]:
    """When the rules, or the condition that is waited for, move somebody who is in a version."""
    stages = []
    for stage in range(len(plan.stages)):
        rules = [_sql(rule.criteria, plan, _ANYBODY) for rule in plan.every_rule(stage) if rule.criteria]
        stages.append(f"WHEN {stage} THEN {_any(rules)}")
    yield f"CASE ({_OF_ENROLLMENT['stage']})::int {' '.join(stages)} ELSE true END"
    waits = [
        f"WHEN {position} THEN {_sql(instruction.criteria, plan, _ANYBODY)}"
        for position, instruction in enumerate(plan.program)
        if isinstance(instruction, WaitForConditionInstruction)
    ]
    if waits:
        at = f"CASE ({_OF_ENROLLMENT['position']})::int {' '.join(waits)} ELSE false END"
        yield f"({_STATE} = {int(WAITING)} AND {at})"


def _outside(newest: Plan) -> str:
    """Whether somebody who is not in the journey meets what lets him in: never NULL."""
    tests = [criteria for criteria in (newest.audience, newest.entry) if criteria is not None]
    meets = " AND ".join(_sql(each, newest, _ANYBODY) for each in tests)
    met = f"coalesce({meets}, false)"
    if newest.goal is None:
        return met
    return f"({met} AND NOT coalesce({_sql(newest.goal, newest, _NOBODY)}, false))"


def _may_enter(newest: Plan) -> str:
    """Whether the rules of re-entry let in somebody who stands with the journey and is not in it."""
    rules = newest.reentry
    tests = []
    if rules.mode is ReentryMode.NEVER:
        tests.append(f"{_ENTRIES} = 0")
    elif rules.mode is ReentryMode.UNLESS_GOAL_ACHIEVED:
        tests.append(f"NOT {_text('achieved')}::boolean")
    if rules.cooldown_us:
        last = f"{_text('last_entry_us')}::bigint"
        tests.append(f"({_ENTRIES} = 0 OR {RUN_TIME} - {last} >= {rules.cooldown_us})")
    if rules.max_entries:
        tests.append(f"{_ENTRIES} < {rules.max_entries}")
    return f"({' AND '.join(tests)})" if tests else "true"


def _sql(criteria: Criteria, plan: Plan, otherwise: str) -> str:
    try:
        return f"({to_sql(criteria, plan.segments, _NAMES)})"
    except SqlUnsupported:
        return otherwise


_NAMES: Final = SqlNames(attributes="p.a", behavior="p.b", now_us=RUN_TIME)


def _any(conditions: Iterable[str]) -> str:
    found = list(conditions)
    return f"({' OR '.join(found)})" if found else _NOBODY


def _numbers(states: Iterable[int]) -> str:
    return f"({', '.join(str(int(each)) for each in sorted(states))})"
