"""The statements on the ledger against the migrated schema, and their shapes: each is about one bucket."""

import re
from collections.abc import Mapping

import pytest

from cairn.activation import (
    store,
    store_erasure,
    store_feedback,
    store_guard,
    store_listing,
    store_members,
    store_moves,
    store_people,
    store_rates,
    store_receipts,
    store_work,
)
from cairn.postgres.pool import connect
from cairn.postgres.roles import role_of

STATEMENTS: Mapping[str, str] = {
    f"{module.__name__.rpartition('.')[2]}.{name}": value
    for module in (
        *(store, store_work, store_receipts, store_listing, store_moves, store_rates),
        *(store_people, store_feedback, store_erasure, store_guard, store_members),
    )
    for name, value in vars(module).items()
    if re.fullmatch("_[A-Z_]+", name)
    and isinstance(value, str)
    and re.match(r"\s*(WITH|SELECT|INSERT|UPDATE|DELETE)\b", value)
}
NOT_OF_A_BUCKET = {
    *("store._TELL", "store_listing._DROP_STRAYS", "store_rates._RESERVE"),
    *("store_people._KEEP_KEYS", "store_people._READ_KEYS", "store_people._SUPPRESS", "store_people._LIFT"),
    *("store_people._LIST_SUPPRESSIONS", "store_people._SUPPRESSIONS_OF", "store_erasure._HIDE_ADDRESSES"),
    *("store_guard._SUPPRESSIONS", "store_guard._WRITING_CONNECTIONS"),
}
PARTS = re.compile(r"(?=\bINSERT INTO\b)")


def test_the_statements_are_found() -> None:
    assert len(STATEMENTS) >= 60


@pytest.mark.parametrize("name", STATEMENTS)
async def test_a_statement_can_be_prepared(activation_dsn, name) -> None:
    connection = await connect(activation_dsn, role=role_of("activation"), schema="activation")
    try:
        await connection.prepare(STATEMENTS[name])
    finally:
        await connection.close()


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - NOT_OF_A_BUCKET))
def test_a_statement_names_one_bucket(name) -> None:
    statement = STATEMENTS[name]
    for part in PARTS.split(statement):
        if part.startswith("INSERT INTO"):
            assert re.match(r"INSERT INTO \w+ \(\s*bucket,", part)
            assert re.search(r"\)\s*SELECT \$1,", part), "the bucket is the constant $1 in each row"
    if re.search(r"\b(FROM|UPDATE|JOIN) (deliveries|receipts)\b", statement):
        assert re.search(r"\bbucket = \$1(?!\d)", statement)
    for unnested in re.findall(r"unnest\((.*?)\)", statement):
        assert not re.search(r"\$1\b", unnested), "a scalar, and never part of what is unnested"
    assert not re.search(r"bucket\s*(?:=\s*ANY|IN\b|<>)", statement)
    assert "now()" not in statement.lower()


async def test_the_bucket_comes_first_in_every_key_and_index(activation_dsn) -> None:
    connection = await connect(activation_dsn, role=role_of("activation"), schema="activation")
    rows = await connection.fetch(
        """
        SELECT a.attname AS first FROM pg_index i
        JOIN pg_class c ON c.oid = i.indrelid
        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
        WHERE c.relnamespace = 'activation'::regnamespace AND c.relname IN ('deliveries', 'receipts')
        """
    )
    await connection.close()
    assert len(rows) == 8
    assert {row["first"] for row in rows} == {"bucket"}
