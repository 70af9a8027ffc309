"""Owns a service's schema over time: numbered SQL files, applied once, in order, each in one transaction.

Refuses gaps, changed files, steps back, and statements that can't run in a transaction.
"""

import hashlib
import importlib.resources
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable

import asyncpg
import structlog

from cairn.postgres.locks import lock_key
from cairn.postgres.names import quoted
from cairn.postgres.pool import AnyConnection, Pool
from cairn.runtime.errors import StartupError

log = structlog.get_logger()

_FILE = re.compile(r"([0-9]{4})_([a-z0-9_]+)\.sql")
_IGNORED = {"__init__.py", "__pycache__"}
# Another migrator may be at work on a large table.
_LOCK_WAIT_SECONDS = 600.0
_STEP_SECONDS = 3600.0

_CREATE_TABLE = """
CREATE TABLE IF NOT EXISTS {schema}.schema_migrations (
    version      integer PRIMARY KEY,
    name         text NOT NULL,
    checksum     text NOT NULL,
    applied_time timestamptz NOT NULL DEFAULT now()
)
"""
_LIST = "SELECT version, name, checksum FROM {schema}.schema_migrations ORDER BY version"
_RECORD = "INSERT INTO {schema}.schema_migrations (version, name, checksum) VALUES ($1, $2, $3)"
_LOCK = "SELECT pg_advisory_lock($1)"
_UNLOCK = "SELECT pg_advisory_unlock($1)"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of a schema. `checksum` is over the text with its line ends made equal on all systems."""

    version: int
    name: str
    sql: str
    checksum: str

    @property
    def file(self) -> str:
        """The file's name, by which messages speak of it."""
        return f"{self.version:04}_{self.name}.sql"


def load_migrations(package: str) -> tuple[Migration, ...]:
    """The migrations of `package` (a service like "cairn.evaluator", or its folder "cairn.evaluator.migrations").

    Raises StartupError naming the file that is misnamed, missing, double or empty.
    """
    root = importlib.resources.files(package)
    folder = root / "migrations"
    return read_migrations(folder if folder.is_dir() else root)


def read_migrations(folder: Traversable) -> tuple[Migration, ...]:
    """The migrations in a folder; errors as in `load_migrations`."""
    found: dict[int, Migration] = {}
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if entry.name in _IGNORED:
            continue
        matched = _FILE.fullmatch(entry.name)
        if matched is None:
            raise StartupError(f"Migration {entry.name}: the name is not like 0001_what_it_does.sql.")
        sql = entry.read_text(encoding="utf-8").replace("\r\n", "\n")
        version = int(matched[1])
        if not sql.strip():
            raise StartupError(f"Migration {entry.name} is empty.")
        if version in found:
            raise StartupError(f"Migration {entry.name} has the same number as {found[version].file}.")
        if version != len(found) + 1:
            raise StartupError(f"Migration {entry.name}: number {len(found) + 1:04} is missing before it.")
        found[version] = Migration(version, matched[2], sql, hashlib.sha256(sql.encode()).hexdigest())
    if not found:
        raise StartupError(f"There are no migrations in {folder.name}.")
    return tuple(found.values())


async def migrate(connection: AnyConnection, schema: str, migrations: Sequence[Migration]) -> list[Migration]:
    """Apply what is missing in `schema`, which must exist, and return it; several callers at once are harmless.

    Unqualified names in a migration mean `schema`. A failed one leaves nothing of itself, and those before it
    applied; it raises StartupError naming the file, as does a database that `check_schema` would refuse for any
    other reason than being older.
    """
    key = lock_key("migrations", schema)
    await connection.execute(_LOCK, key, timeout=_LOCK_WAIT_SECONDS)
    try:
        await connection.execute(_CREATE_TABLE.format(schema=quoted(schema)))
        applied = await _read_applied(connection, schema)
        _require_known(schema, migrations, applied)
        pending = migrations[len(applied) :]
        for migration in pending:
            await _apply(connection, schema, migration)
            log.info("migration_applied", schema=schema, migration=migration.file)
        return list(pending)
    finally:
        if not connection.is_closed():
            await connection.execute(_UNLOCK, key)


async def check_schema(database: AnyConnection | Pool, schema: str, migrations: Sequence[Migration]) -> None:
    """Raise StartupError, with what to do, unless `schema` is exactly what `migrations` make it."""
    try:
        applied = await _read_applied(database, schema)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        applied = []
    except asyncpg.InsufficientPrivilegeError as error:
        raise StartupError(
            f"The login may not read the schema '{schema}': check the role in the settings."
        ) from error
    _require_known(schema, migrations, applied)
    if len(applied) < len(migrations):
        raise StartupError(
            f"The database has version {len(applied)} of the schema '{schema}', this program needs version "
            f"{len(migrations)}: run `cairn migrate`."
        )


async def _read_applied(database: AnyConnection | Pool, schema: str) -> list[asyncpg.Record]:
    return await database.fetch(_LIST.format(schema=quoted(schema)))


async def _apply(connection: AnyConnection, schema: str, migration: Migration) -> None:
    try:
        async with connection.transaction():
            await connection.execute(f"SET LOCAL search_path TO {quoted(schema)}")
            await connection.execute(migration.sql, timeout=_STEP_SECONDS)
            await connection.execute(
                _RECORD.format(schema=quoted(schema)), migration.version, migration.name, migration.checksum
            )
    except asyncpg.PostgresError as error:
        log.error("migration_failed", schema=schema, migration=migration.file, text=str(error.args[0]))
        raise StartupError(
            f"Migration {migration.file} of the schema '{schema}' failed with {type(error).__name__} "
            f"({error.sqlstate}) and left nothing behind: the log tells more."
        ) from error


def _require_known(schema: str, migrations: Sequence[Migration], applied: Sequence[asyncpg.Record]) -> None:
    """Refuse a database that is not at some earlier or equal step of this very list."""
    if len(applied) > len(migrations):
        raise StartupError(
            f"This program knows version {len(migrations)} of the schema '{schema}', the database has version "
            f"{applied[-1]['version']}: run a newer cairn."
        )
    for row, migration in zip(applied, migrations, strict=False):
        if (row["version"], row["checksum"]) != (migration.version, migration.checksum):
            raise StartupError(
                f"Migration {migration.file} of the schema '{schema}' is not the one that the database had applied: "
                "a published migration never changes, add a new one."
            )
