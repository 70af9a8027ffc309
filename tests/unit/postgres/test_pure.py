"""What needs no database: hashes that are part of stored data, names, addresses in messages, files of migrations."""

from pathlib import Path

import pytest
from asyncpg import exceptions as driver
from hypothesis import given
from hypothesis import strategies as st

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.postgres.bucket import bucket_of
from cairn.postgres.buckets import choose_buckets, fair_share
from cairn.postgres.locks import lock_class, lock_key
from cairn.postgres.migrations import read_migrations
from cairn.postgres.names import quoted
from cairn.postgres.pool import describe_dsn, is_unavailable, translate_errors
from cairn.runtime.errors import CairnError, StartupError


@pytest.mark.parametrize(
    ("key", "of_8", "of_256"),
    [
        ("", 0, 0),
        ("ann", 3, 115),
        ("customer-1", 5, 125),
        ("客", 2, 250),
        ("\ud800", 0, 40),
    ],
)
def test_bucket_of_is_part_of_the_stored_data_and_never_changes(key: str, of_8: int, of_256: int) -> None:
    assert (bucket_of(key, 8), bucket_of(key, 256)) == (of_8, of_256)


@given(st.text(), st.integers(1, 1024))
def test_every_key_has_a_bucket(key: str, count: int) -> None:
    assert 0 <= bucket_of(key, count) < count


def test_lock_numbers_are_part_of_the_protocol_between_releases() -> None:
    assert lock_key("evaluator", 7) == -8449357290237908612
    assert lock_class("scheduler", "buckets") == 1661950316
    assert lock_key("a", "bc") != lock_key("ab", "c")


@given(st.integers(1, 300), st.integers(1, 300))
def test_shares_cover_all_buckets_and_none_is_idle_while_another_has_two_too_many(
    count: int, members: int
) -> None:
    share = fair_share(count, members)
    assert share * members >= count
    assert (share - 1) * members < count


@given(st.sets(st.integers(0, 63)), st.integers(-3, 70), st.integers(0, 10**6))
def test_chosen_buckets_are_free_ones_and_as_many_as_needed(free: set[int], need: int, spread: int) -> None:
    chosen = choose_buckets(free, need, 64, spread)
    assert len(chosen) == len(set(chosen)) == min(max(need, 0), len(free))
    assert set(chosen) <= free


@pytest.mark.parametrize(
    ("dsn", "told"),
    [
        ("postgresql://ann:secret@db.example:5432/cairn", "Postgres at db.example:5432/cairn"),
        ("postgresql://db/cairn?password=secret", "Postgres at db/cairn"),
        ("postgresql://ann:sec@ret@db/cairn", "Postgres at db/cairn"),
        ("postgresql://ann:sec/ret@db/cairn", "the Postgres server"),
        ("postgresql://ann:sec#ret@db/cairn", "the Postgres server"),
        ("postgresql:///cairn?host=/run/secret", "the Postgres server"),
        ("password=secret", "the Postgres server"),
        ("postgresql://[secret", "the Postgres server"),
    ],
)
def test_a_described_address_holds_no_secret(dsn: str, told: str) -> None:
    assert describe_dsn(dsn) == told


@pytest.mark.parametrize("name", ["", "Upper", 'a"b', "a b", "1a", "a..b", "a;drop", "x" * 64])
def test_only_plain_names_are_quoted(name: str) -> None:
    with pytest.raises(ValueError, match="plain name"):
        quoted(name)


def test_a_name_with_its_schema_is_quoted_part_by_part() -> None:
    assert quoted("evaluator.event_ids") == '"evaluator"."event_ids"'


@pytest.mark.parametrize(
    ("error", "unavailable"),
    [
        (ConnectionRefusedError(), True),
        (TimeoutError(), True),
        (driver.ConnectionDoesNotExistError("gone"), True),
        (driver.AdminShutdownError("bye"), True),
        (driver.CrashShutdownError("crash"), True),
        (driver.CannotConnectNowError("starting"), True),
        (driver.TooManyConnectionsError("full"), True),
        (driver.DeadlockDetectedError("deadlock"), True),
        (driver.InterfaceError("connection is closed"), True),
        (driver.InterfaceError("pool is closing"), True),
        (driver.InterfaceError("cannot perform operation: another operation is in progress"), False),
        (driver.UniqueViolationError("twice"), False),
        (driver.UndefinedTableError("none"), False),
        (KeyError("mine"), False),
    ],
)
def test_what_may_be_repeated(error: Exception, unavailable: bool) -> None:
    assert is_unavailable(error) is unavailable


def test_errors_of_the_driver_become_ours_and_keep_the_drivers_text_to_themselves() -> None:
    for error, reason in (
        (ConnectionResetError("10.0.0.7"), ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE),
        (driver.UniqueViolationError("10.0.0.7"), ErrorReason.ERROR_REASON_INTERNAL),
    ):
        with pytest.raises(CairnError) as caught, translate_errors():
            raise error
        assert caught.value.reason == reason
        assert "10.0.0.7" not in caught.value.message
        assert is_unavailable(caught.value) is (reason == ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE)


def test_errors_that_are_not_the_drivers_pass_unchanged() -> None:
    ours = CairnError(ErrorReason.ERROR_REASON_NOT_FOUND, "journeys/x does not exist")
    for error in (ours, KeyError("mine")):
        with pytest.raises(type(error)) as caught, translate_errors():
            raise error
        assert caught.value is error


def test_the_log_has_no_text_that_quotes_a_value(capsys: pytest.CaptureFixture[str]) -> None:
    error = driver.InvalidTextRepresentationError('invalid input syntax for type integer: "ann@example.org"')
    with pytest.raises(CairnError), translate_errors():
        raise error
    assert "ann@example.org" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({}, "no migrations"),
        ({"0001_a.sql": "SELECT 1", "0003_c.sql": "SELECT 1"}, "0003_c.sql: number 0002 is missing"),
        ({"0002_b.sql": "SELECT 1"}, "0002_b.sql: number 0001 is missing"),
        (
            {"0001_a.sql": "SELECT 1", "0001_b.sql": "SELECT 1"},
            "0001_b.sql has the same number as 0001_a.sql",
        ),
        ({"0001_a.sql": " \n"}, "0001_a.sql is empty"),
        ({"0001_a.sql": "SELECT 1", "notes.txt": "x"}, "notes.txt: the name is not like"),
        ({"1_a.sql": "SELECT 1"}, "1_a.sql: the name is not like"),
    ],
)
def test_a_wrong_set_of_migrations_names_the_file(tmp_path: Path, files: dict[str, str], told: str) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(StartupError, match=told):
        read_migrations(tmp_path)


def test_a_checksum_is_the_same_on_every_system(tmp_path: Path) -> None:
    checksums = set()
    for ending in (b"\n", b"\r\n"):
        (tmp_path / "0001_a.sql").write_bytes(b"SELECT 1;" + ending)
        checksums.add(read_migrations(tmp_path)[0].checksum)
    assert len(checksums) == 1
