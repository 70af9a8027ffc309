"""Roles, schemas and migrations against a real server."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from cairn.postgres.bucket import DEFAULT_BUCKET_COUNT
from cairn.postgres.migrations import Migration, check_schema, migrate, read_migrations
from cairn.postgres.pool import Connection, connect
from cairn.postgres.roles import ensure_database, ensure_roles, read_bucket_count
from cairn.runtime.errors import StartupError

STEPS = {
    "0001_things.sql": "CREATE TABLE things (id int PRIMARY KEY);\nINSERT INTO things VALUES (1);",
    "0002_names.sql": "ALTER TABLE things ADD COLUMN name text;",
    "0003_more.sql": "CREATE TABLE more (id int);",
}


@pytest.fixture
def steps(tmp_path: Path) -> tuple[Migration, ...]:
    for name, text in STEPS.items():
        (tmp_path / name).write_text(text)
    return read_migrations(tmp_path)


@pytest.fixture
async def service(dsn: str, admin: Connection) -> Connection:
    await ensure_roles(admin, ["evaluator", "scheduler"])
    return await connect(dsn, role="cairn_evaluator", schema="evaluator")


async def test_migrations_are_applied_once_and_in_order(
    service: Connection, steps: tuple[Migration, ...]
) -> None:
    assert await migrate(service, "evaluator", steps[:2]) == list(steps[:2])
    assert await migrate(service, "evaluator", steps) == [steps[2]]
    assert await migrate(service, "evaluator", steps) == []
    assert await service.fetchval("SELECT count(*) FROM evaluator.things") == 1
    await check_schema(service, "evaluator", steps)
    await service.close()


async def test_several_migrators_at_once_are_harmless(dsn: str, steps: tuple[Migration, ...]) -> None:
    async def prepare() -> int:
        connection = await connect(dsn)
        await ensure_roles(connection, ["evaluator"])
        await ensure_database(connection)
        applied = await migrate(connection, "evaluator", steps)
        await connection.close()
        return len(applied)

    assert sorted(await asyncio.gather(*(prepare() for _ in range(5)))) == [0, 0, 0, 0, 3]


@pytest.mark.parametrize(
    ("failing", "told"),
    [
        ("SELECT nonsense;", "UndefinedColumnError"),
        ("INSERT INTO schema_migrations VALUES (2, 'itself', 'too early');", "UniqueViolationError"),
    ],
)
async def test_a_failed_migration_leaves_nothing_behind(
    service: Connection, steps: tuple[Migration, ...], failing: str, told: str
) -> None:
    wrong = Migration(2, "wrong", "CREATE TABLE half (); " + failing, "sum")
    with pytest.raises(StartupError, match=rf"0002_wrong.sql .* 'evaluator' failed with {told}"):
        await migrate(service, "evaluator", (steps[0], wrong))
    assert await service.fetchval("SELECT to_regclass('evaluator.half')") is None
    assert await migrate(service, "evaluator", steps) == list(steps[1:])
    await service.close()


async def test_a_schema_that_does_not_fit_the_program_is_refused(
    service: Connection, steps: tuple[Migration, ...]
) -> None:
    with pytest.raises(StartupError, match=r"version 0 .* needs version 3: run `cairn migrate`"):
        await check_schema(service, "evaluator", steps)
    await migrate(service, "evaluator", steps[:2])
    with pytest.raises(StartupError, match=r"version 2 .* needs version 3: run `cairn migrate`"):
        await check_schema(service, "evaluator", steps)
    for refuses in (check_schema, migrate):
        with pytest.raises(StartupError, match=r"knows version 1 .* has version 2: run a newer cairn"):
            await refuses(service, "evaluator", steps[:1])
        changed = Migration(2, "names", "SELECT 1", "another")
        with pytest.raises(StartupError, match=r"0002_names.sql .* is not the one"):
            await refuses(service, "evaluator", (steps[0], changed, steps[2]))
    await service.close()


async def test_a_service_reads_no_others_tables(
    dsn: str, service: Connection, steps: tuple[Migration, ...]
) -> None:
    await migrate(service, "evaluator", steps)
    other = await connect(dsn, role="cairn_scheduler", schema="scheduler")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await other.fetch("SELECT * FROM evaluator.things")
    with pytest.raises(StartupError, match="may not read the schema 'evaluator'"):
        await check_schema(other, "evaluator", steps)
    await other.close()
    await service.close()


async def test_a_login_that_may_make_roles_is_enough_and_one_that_may_not_is_told(
    dsn: str, admin: Connection, steps: tuple[Migration, ...]
) -> None:
    logins = {}
    database = await admin.fetchval("SELECT current_database()")
    for login, options in (("maker", "CREATEROLE"), ("plain", "")):
        await admin.execute(f"DROP ROLE IF EXISTS {login}")
        await admin.execute(f"CREATE ROLE {login} LOGIN {options} PASSWORD 'x'")
        logins[login] = f"postgresql://{login}:x@{dsn.rpartition('@')[2]}"
    await admin.execute(f"GRANT CREATE ON DATABASE {database} TO maker")

    plain = await connect(logins["plain"])
    with pytest.raises(StartupError, match="login 'plain' may not make roles"):
        await ensure_roles(plain, ["lone"])
    with pytest.raises(StartupError, match="login 'plain' may not make the schema 'cairn'"):
        await ensure_database(plain)
    await plain.close()

    maker = await connect(logins["maker"])
    for _ in range(2):
        await ensure_roles(maker, ["lone"])
    await ensure_database(maker)
    lone = await connect(logins["maker"], role="cairn_lone", schema="lone")
    await migrate(lone, "lone", steps)
    assert await read_bucket_count(lone) == DEFAULT_BUCKET_COUNT
    await lone.close()
    await maker.close()
    await admin.execute("DROP OWNED BY cairn_lone, maker CASCADE; DROP SCHEMA IF EXISTS lone CASCADE")
    await admin.execute("DROP ROLE cairn_lone; DROP ROLE maker; DROP ROLE plain")


async def test_a_schema_of_somebody_else_is_left_alone(admin: Connection) -> None:
    await admin.execute("CREATE SCHEMA activation")
    with pytest.raises(StartupError, match="schema 'activation' belongs to 'cairn'"):
        await ensure_roles(admin, ["activation"])


async def test_the_number_of_buckets_is_fixed_once(service: Connection, admin: Connection) -> None:
    with pytest.raises(StartupError, match="never prepared"):
        await read_bucket_count(service)
    with pytest.raises(StartupError, match="1 to 1024 buckets"):
        await ensure_database(admin, 0)
    assert await ensure_database(admin, 256) == 256
    assert await ensure_database(admin, 8) == 256
    assert await read_bucket_count(service) == 256
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await service.execute("UPDATE cairn.database SET bucket_count = 1")
    await service.close()
