"""Pins the plans of the hot statements at a million rows: each names one bucket and finds its rows by an index that begins with it.

A statement is planned twice: for 500 ids, and then it also runs, so that the rows are counted that it reads; and as the generic plan
that a connection keeps after some calls. What only gauges and people ask for, now and then, is not here.
"""

import hashlib
import itertools
import json
import re
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest

from cairn.activation import store as activation
from cairn.activation import store_guard as looks
from cairn.activation import store_moves as moves
from cairn.activation import store_receipts as receipts
from cairn.activation import store_work as work
from cairn.evaluator import store as evaluator
from cairn.evaluator import store_erasure as erasure
from cairn.evaluator import store_runs as runs
from cairn.evaluator.run_pages import _EVERYBODY
from cairn.evaluator.run_scan import scan_of
from cairn.journey.document import read_documents
from cairn.journey.live import LiveJourney
from cairn.journey.parse import parse_journey
from cairn.journey.plan import compile_plan
from cairn.scheduler import store as scheduler

_COUNT = 500
_BUCKET = 1
_ROWS_LIMIT = 5_000
"""More of a large table than any batch asks for, less than a bucket of any of them has."""

# The days without rows may be walked: there is nothing in them.
_LARGE = re.compile(
    r"profiles|tombstones|timers|outbox|receipts|consents|(deliveries|timeline|event_ids)(_p2026030[23]|$)"
)

_DAY_US = 86_400_000_000
_FIRST_US = int(datetime(2026, 3, 2, tzinfo=UTC).timestamp()) * 1_000_000
_LAST_US = _FIRST_US + 2 * _DAY_US
_NOW_US = _FIRST_US + _DAY_US + _DAY_US // 2

# Rows of the bucket, from all over both days: the bounds that the activations' statements get are as wide as they can be.
_NUMBERS = [_BUCKET + 8 * 249 * i for i in range(_COUNT)]
_PROFILES = [f"p-{n:07}" for n in _NUMBERS]
_TIMERS = [f"t-{n:07}" for n in _NUMBERS]
_EVENTS = [f"e-{n}" for n in _NUMBERS]
_ACTIVATIONS = [f"a-{n:07}" for n in _NUMBERS]
_TIMES = [_FIRST_US + n * 160_000 for n in _NUMBERS]
_BOUNDS = (min(_TIMES), max(_TIMES))
_ONES = [1] * _COUNT
_TEXTS = ["x"] * _COUNT
_BLOBS = [b""] * _COUNT
_HASHES = [hashlib.md5(str(n).encode()).digest() for n in _NUMBERS]
_KEYS = (_ACTIVATIONS, _TIMES)

_WRITES = [evaluator.ProfileWrite(p, 2, "{}", "UTC", "{}", update_us=_NOW_US) for p in _PROFILES]
_LINES = [evaluator.TimelineRow(p, _NOW_US, 2, evaluator.RowKind.TRANSITIONS, "[]") for p in _PROFILES]
_SWAP = evaluator._swap_columns(_WRITES)
_APPEND = evaluator._append_columns(
    evaluator.Appendix(
        list(zip(_PROFILES, _EVENTS, strict=True)), _LINES, evaluator.OutboxRow(1, 1_000_000, b"x")
    ),
    _NOW_US,
)
_LINE_COLUMNS = (_PROFILES, _TIMES, _NUMBERS, _ONES, _TEXTS)


def _find() -> str:
    """The statement by which a run finds whom it may move, with all that it can hold."""
    text = """
name: daily
type: BATCH
audience: profile.age >= 18 && count("login", duration("48h")) >= 2
goal: {criteria: profile.done == true}
reentry: {mode: ALWAYS, cooldown: 7d, max_entries: 3}
stages:
  - {name: one, entry: profile.plan == "gold", milestone: profile.bought == true, steps: [{wait: {condition: profile.a == true, timeout: 3d}}]}
  - {name: two, exit_criteria: [{name: idle, stale: 3d}], steps: [{wait: {duration: 9h}}]}
"""
    (document,), _ = read_documents(text)
    journey, violations = parse_journey(document.message)
    assert journey is not None, violations
    return runs.find_statement(scan_of(LiveJourney({1: compile_plan(journey, 1)})))


_FIND = _find()

# By service and name: the text, and what follows the bucket. These are what runs for each batch, each wake-up and each page.
_HOT: dict[str, tuple[str, tuple[Any, ...]]] = {
    "evaluator load_profiles": (evaluator._LOAD_PROFILES, (_PROFILES,)),
    "evaluator seen": (evaluator._SEEN, (_PROFILES, _EVENTS, _FIRST_US)),
    "evaluator swap": (evaluator._SWAP, _SWAP),
    "evaluator write_batch": (evaluator._WRITE_BATCH, (*_SWAP, *_APPEND, _COUNT, True, 0)),
    "evaluator write_batch that makes none": (
        evaluator._WRITE_BATCH,
        (*_SWAP, *_APPEND, _COUNT, False, 0),
    ),
    "evaluator settle_erasures": (evaluator._SETTLE_ERASURES, (1, _NUMBERS)),
    "evaluator find_tombstones": (erasure._FIND_TOMBSTONES, (_HASHES,)),
    "evaluator lock_profiles": (erasure._LOCK_PROFILES, (_PROFILES,)),
    "evaluator delete_profiles": (erasure._DELETE_PROFILES, (_PROFILES,)),
    "evaluator delete_timeline": (erasure._DELETE_TIMELINE, (_PROFILES,)),
    "evaluator delete_event_ids": (erasure._DELETE_EVENT_IDS, (_PROFILES,)),
    "evaluator append": (evaluator._APPEND_ALONE, _APPEND),
    "evaluator insert_timeline": (evaluator._INSERT_TIMELINE, _LINE_COLUMNS),
    "evaluator timeline": (evaluator._TIMELINE, (_PROFILES[0], _NOW_US, 2**62, 100)),
    "evaluator read_outbox": (evaluator._READ_OUTBOX, (1, 50_000, 100)),
    "evaluator old_outbox": (evaluator._OLD_OUTBOX, (1, 50_000, _NOW_US, 100)),
    "evaluator delete_outbox": (evaluator._DELETE_OUTBOX, (1, _NUMBERS)),
    "evaluator settle_scheduler": (evaluator._SETTLE_SCHEDULER, (1, _NUMBERS)),
    "evaluator settle_activation": (evaluator._SETTLE_ACTIVATION, (1, _NUMBERS)),
    "evaluator list_held": (evaluator._LIST_HELD, ("p-0100000", ["welcome"], 500)),
    "evaluator step of a run": (runs._STEP, ("p-0100000", 4_000)),
    "evaluator count of a run": (runs._COUNT, ("p-0100000", "p-0132000")),
    "evaluator find of a run": (_FIND, ("p-0100000", "p-0132000", _NOW_US, 500)),
    "evaluator find of everybody": (_EVERYBODY, ("p-0100000", "p-0132000", _NOW_US, 500)),
    "evaluator list_profiles": (evaluator._LIST_PROFILES, ("p-0100000", "", 500)),
    "scheduler insert": (scheduler.INSERT_TIMERS, (_TIMERS, _PROFILES, _TIMES, _BLOBS)),
    "scheduler delete": (scheduler.DELETE_TIMERS, (_TIMERS,)),
    "scheduler park": (scheduler.PARK_TIMERS, (_TIMERS, "x")),
    "scheduler read_due": (scheduler.READ_DUE, (_FIRST_US, _NOW_US, _PROFILES, 500)),
    "scheduler read_timer": (scheduler.READ_TIMER, (_TIMERS[0], _PROFILES[0])),
    "scheduler count_backlog": (scheduler.COUNT_BACKLOG, (_NOW_US, 1_000)),
    "scheduler list_pending": (scheduler.LIST_PENDING, (_FIRST_US, -1, "", _LAST_US, "", 500)),
    "scheduler list_parked": (scheduler.LIST_PARKED, (_FIRST_US, -1, "", _LAST_US, "", 500)),
    "activation accept": (
        activation._ACCEPT,
        (
            *(_NOW_US, "", _ACTIVATIONS, _TIMES, _PROFILES, _ONES, _TEXTS, _BLOBS, _ONES),
            *(["email"], ["hello"], [1], ["welcome/1"], ["s"], ["s"], ["UTC"], 1_000_000, 1),
        ),
    ),
    "activation describe_tombstones": (
        activation._DESCRIBE_TOMBSTONES,
        (*_KEYS, _TEXTS, _TEXTS, _ONES, _TEXTS, _TEXTS, _TEXTS, _TEXTS, *_BOUNDS, 1_000_000, 1),
    ),
    "activation bury": (activation._BURY, (_NOW_US, *_KEYS, _PROFILES, _TEXTS)),
    "activation withdraw": (activation._WITHDRAW, (_NOW_US, *_KEYS, _TEXTS, *_BOUNDS, 1_000_000, 1)),
    "activation count_withdrawn": (activation._COUNT_WITHDRAWN, (*_KEYS, *_BOUNDS)),
    "activation claim": (work._CLAIM, ("email", _NOW_US, _FIRST_US, 500, 1, _NOW_US, 2**24)),
    "activation claim what is held": (work._CLAIM, ("held", _NOW_US, _FIRST_US, 500, 1, _NOW_US, 2**24)),
    "activation earliest": (work._EARLIEST, ("held", _FIRST_US)),
    "activation release": (work._RELEASE, (1, _NOW_US, *_KEYS, *_BOUNDS)),
    "activation retry": (moves._RETRY, (_TIMES[0], _ACTIVATIONS[0], "x", _NOW_US, "{}")),
    "activation changed": (moves._CHANGED, (_NOW_US - 5_000_000, "", _NOW_US + 5_000_000, "", [], "", 500)),
    "activation mark_sending": (work._MARK_SENDING, (1, _NOW_US, *_KEYS, *_BOUNDS, _COUNT)),
    "activation write_results": (
        work._WRITE_RESULTS,
        (
            1,
            _NOW_US,
            *_KEYS,
            _ONES,
            _TIMES,
            _ONES,
            _TEXTS,
            _TEXTS,
            _ONES,
            _TEXTS,
            *_BOUNDS,
            1_000_000,
            _COUNT,
        ),
    ),
    "activation give_back": (work._GIVE_BACK, ("email", 1, _NOW_US, _FIRST_US)),
    "activation adopt": (work._ADOPT, (2, _NOW_US, ["email"], "x", 1_000_000, "{}")),
    "activation first_due": (work._FIRST_DUE, (_FIRST_US,)),
    "activation census": (work._CENSUS, (1_000, 500, _FIRST_US - 62 * _DAY_US, _FIRST_US)),
    "activation recent_sends": (
        looks._RECENT_SENDS,
        (_PROFILES, _FIRST_US, ["email", "push"], [_DAY_US, 2 * _DAY_US], [_NOW_US, _FIRST_US]),
    ),
    "activation first_open": (looks._FIRST_OPEN, (_PROFILES, "email", _FIRST_US, _ACTIVATIONS)),
    "activation consents": (looks._CONSENTS, (_PROFILES, "email")),
    "activation read_outbox": (receipts._READ_OUTBOX, (50_000, 1, 2**62, 100)),
    "activation read_fates": (receipts._READ_FATES, (*_KEYS, *_BOUNDS)),
    "activation delete_outbox": (receipts._DELETE_OUTBOX, (_NUMBERS[:50], _ONES[:50])),
    "activation move_old": (receipts._MOVE_OLD, (1_000_000, 1, 500)),
}

Plan = dict[str, Any]


@pytest.mark.parametrize("name", _HOT)
async def test_plan_for_500_ids_reads_little_of_the_bucket(name: str, open_as: Any) -> None:
    statement, parameters = _HOT[name]
    connection = await open_as(name.split()[0])
    changes = connection.transaction()
    await changes.start()
    text = await connection.fetchval(f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}", _BUCKET, *parameters)
    await changes.rollback()
    _check(json.loads(text)[0]["Plan"])


@pytest.mark.parametrize("name", _HOT)
async def test_generic_plan_reads_little_of_the_bucket(name: str, open_as: Any) -> None:
    statement, parameters = _HOT[name]
    connection = await open_as(name.split()[0])
    types = (await connection.prepare(statement)).get_parameters()
    values = ", ".join(itertools.starmap(_literal, zip((_BUCKET, *parameters), types, strict=True)))
    await connection.execute("SET plan_cache_mode = force_generic_plan")
    await connection.execute(f"PREPARE hot ({', '.join(of.name for of in types)}) AS {statement}")
    text = await connection.fetchval(f"EXPLAIN (FORMAT JSON) EXECUTE hot ({values})")
    assert (
        await connection.fetchval("SELECT generic_plans FROM pg_prepared_statements WHERE name = 'hot'") == 1
    )
    _check(json.loads(text)[0]["Plan"])


@pytest.mark.parametrize("name", _HOT)
async def test_names_one_bucket_as_one_scalar_parameter(name: str, open_as: Any) -> None:
    statement = _HOT[name][0]
    connection = await open_as(name.split()[0])
    assert (await connection.prepare(statement)).get_parameters()[0].name == "int4"
    assert re.search(r"\bbucket = \$1\b|\bSELECT \$1,", statement)
    assert set(re.findall(r"\bbucket\s*(?:=|<>|[<>]=?|IN\b)\s*(\S*\w)", statement)) <= {"$1"}
    assert not re.search(r"\b(ANY|ALL|unnest)\s*\(\s*\$1\b", statement, re.IGNORECASE)
    assert not re.search(r"\b(now|clock_timestamp|\w+_timestamp)\s*\(|\bcurrent_", statement, re.IGNORECASE)


def _check(plan: Plan) -> None:
    touched = list(_nodes(plan, limited=False))
    assert touched, f"it touches no large table:\n{_shown(plan)}"
    for node, limited in touched:
        kind, shown = node["Node Type"], f"{_shown(node)}\n\nin\n\n{_shown(plan)}"
        assert kind != "Seq Scan", f"walks a whole table: {shown}"
        if "Index" in kind:
            assert re.match(r"\(+(\w+\.)?bucket = ", node.get("Index Cond", "")), f"not by bucket: {shown}"
        assert _rows_read(node, limited) <= _ROWS_LIMIT, f"reads too much: {shown}"


def _rows_read(node: Plan, limited: bool) -> float:
    """What was read, dropped rows included; of what did not run, what the planner expects, unless a limit ends it early."""
    if "Actual Loops" not in node:
        return 0 if limited else node["Plan Rows"]
    removed = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return (node["Actual Rows"] + removed) * node["Actual Loops"]


# What hands on rows as they come: a limit above it also ends what is below it.
_STREAMS = {"Limit", "Append", "Merge Append", "LockRows", "Result", "Subquery Scan", "Incremental Sort"}


def _nodes(node: Plan, *, limited: bool) -> list[tuple[Plan, bool]]:
    """The nodes that write or read a large table, each with whether a limit ends it early; it reads none twice."""
    relation = node.get("Relation Name", "")
    index_of = node.get("Index Name", "") if node["Node Type"] == "Bitmap Index Scan" else ""
    found = [(node, limited)] if _LARGE.match(relation) or _LARGE.match(index_of) else []
    below = node["Node Type"] == "Limit" or (limited and node["Node Type"] in _STREAMS)
    for child in node.get("Plans", ()):
        found += _nodes(child, limited=below)
    return found


def _shown(node: Plan, depth: int = 0) -> str:
    """A plan, a node a line, without what it costs."""
    names = ("Node Type", "Relation Name", "Index Name", "Index Cond", "Filter", "Plan Rows", "Actual Rows")
    line = "  " * depth + " | ".join(str(node[name]) for name in names if name in node)
    return "\n".join([line, *(_shown(child, depth + 1) for child in node.get("Plans", ()))])


def _literal(value: Any, of: asyncpg.Type) -> str:
    """A value for EXECUTE, which takes no parameters; lists may be NULL, because a generic plan does not look at them."""
    if of.kind == "array" or value is None:
        return "NULL"
    if of.name == "timestamptz":
        return f"to_timestamp({value / 1_000_000})"
    return f"'{value.decode() if isinstance(value, bytes) else value}'"  # bytes here are plain text
