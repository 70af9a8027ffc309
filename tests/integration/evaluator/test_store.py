"""The statements against the migrated schema, and their shapes: each is about one bucket."""

import re
from collections.abc import Mapping
from datetime import timedelta

import pytest

from cairn.evaluator import store, store_erasure, store_runs
from cairn.runtime.clock import now_us, to_datetime

STATEMENTS: Mapping[str, str] = {
    name: value
    for module in (store, store_erasure, store_runs)
    for name, value in vars(module).items()
    if name.startswith("_") and name[1:].isupper() and isinstance(value, str)
}
PER_PROFILE = ("profiles", "event_ids", "timeline", "outbox", "tombstones")
USE = re.compile(r"\b(?:FROM|JOIN|INTO|UPDATE)\s+(" + "|".join(PER_PROFILE) + r")\b(?!\s*\()")
PARTS = re.compile(r"(?=\bINSERT INTO\b)")


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_can_be_prepared(database, name) -> None:
    await database.prepare(STATEMENTS[name])


def test_the_statements_are_found() -> None:
    assert len(STATEMENTS) > 15
    assert {table for text in STATEMENTS.values() for table in USE.findall(text)} == set(PER_PROFILE)


@pytest.mark.parametrize("name", [name for name, text in STATEMENTS.items() if USE.search(text)])
def test_a_statement_about_profiles_names_one_bucket(name) -> None:
    statement = STATEMENTS[name]
    inserts = [part for part in PARTS.split(statement) if part.startswith("INSERT INTO")]
    if inserts:
        for part in inserts:
            table, columns = re.match(r"INSERT INTO (\w+)(?: AS \w+)? \(([^)]*)\)", part).groups()
            if table in PER_PROFILE:
                assert columns.split(",")[0].strip() == "bucket"
                assert re.search(r"\)\s*SELECT \$1,", part), "the bucket is the constant $1 in each row"
    else:
        assert re.search(r"\bbucket = \$1\b", statement)
    # $1 is the bucket and nothing else, and a scalar: never a list, never part of what is unnested.
    for unnested in re.findall(r"unnest\((.*?)\)", statement):
        assert "$1::" not in unnested
        assert not re.search(r"\$1\b", unnested)
    assert not re.search(r"bucket\s*(?:=\s*ANY|IN\b|<>|=\s*u\.)", statement)
    assert "now()" not in statement.lower()


async def test_the_bucket_comes_first_in_every_key_and_index_of_a_table_about_profiles(database) -> None:
    rows = await database.fetch(
        """
        SELECT c.relname AS tables, i.indexrelid::regclass::text AS index, a.attname AS first
        FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
        WHERE c.relnamespace = 'evaluator'::regnamespace AND c.relname = ANY($1::text[])
        """,
        list(PER_PROFILE),
    )
    assert {row["tables"] for row in rows} == set(PER_PROFILE)
    assert {row["first"] for row in rows} == {"bucket"}


async def test_the_days_around_today_have_partitions(database) -> None:
    rows = await database.fetch(
        """
        SELECT p.relname AS parent, array_agg(right(c.relname, 8)) AS days
        FROM pg_inherits JOIN pg_class p ON p.oid = inhparent
        JOIN pg_class c ON c.oid = inhrelid
        WHERE p.relname IN ('event_ids', 'timeline') AND c.relname ~ '_p[0-9]{8}$' GROUP BY 1
        """
    )
    # Midnight may have passed since they were made.
    today = to_datetime(now_us()).date()
    wanted = {f"{today + timedelta(days=number):%Y%m%d}" for number in (-1, 0, 1)}
    found = {row["parent"]: set(row["days"]) for row in rows}
    assert found.keys() == {"event_ids", "timeline"}
    assert all(wanted <= days for days in found.values()), found
