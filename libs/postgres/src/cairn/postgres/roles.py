"""Owns what a database needs before any migration: a role and a schema for each service, the number of buckets.

Refuses to give a service any right on another's schema.
"""

from collections.abc import Sequence

import asyncpg

from cairn.postgres.bucket import DEFAULT_BUCKET_COUNT
from cairn.postgres.locks import lock_key
from cairn.postgres.names import quoted
from cairn.postgres.pool import AnyConnection, Pool
from cairn.runtime.errors import StartupError

MAX_BUCKET_COUNT = 1024

_LOCK = "SELECT pg_advisory_xact_lock($1)"
_ROLE_EXISTS = "SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1)"
# To be a member is enough for SET ROLE before Postgres 16; since then it needs the SET option.
_MAY_SET_ROLE = """
SELECT pg_has_role(current_user, $1::name,
                   CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
"""
_SCHEMA_OWNER = "SELECT pg_get_userbyid(nspowner)::text FROM pg_namespace WHERE nspname = $1"
_DATABASE_EXISTS = "SELECT to_regclass('cairn.database') IS NOT NULL"
_CREATE_DATABASE = """
CREATE SCHEMA IF NOT EXISTS cairn;
CREATE TABLE cairn.database (
    only_row     boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    bucket_count integer NOT NULL CHECK (bucket_count > 0)
);
GRANT USAGE ON SCHEMA cairn TO PUBLIC;
GRANT SELECT ON cairn.database TO PUBLIC;
"""
_SET_BUCKET_COUNT = "INSERT INTO cairn.database (bucket_count) VALUES ($1) ON CONFLICT (only_row) DO NOTHING"
_READ_BUCKET_COUNT = "SELECT bucket_count FROM cairn.database"


def role_of(service: str) -> str:
    """The role that a service ("evaluator") acts as; its schema has the service's own name."""
    return f"cairn_{service}"


async def ensure_roles(admin_connection: AnyConnection, services: Sequence[str]) -> None:
    """Make each service's role (no login) and schema, and let the present login act as the roles.

    Changes nothing that is already so, and then needs no privilege. Several callers at once are harmless, in one
    database or in two of one server. Raises StartupError when the login may not do it.
    """
    try:
        for service in services:
            await _ensure_role(admin_connection, role_of(service))
            await _ensure_schema(admin_connection, service, role_of(service))
    except asyncpg.InsufficientPrivilegeError as error:
        login = await admin_connection.fetchval("SELECT current_user::text")
        raise StartupError(
            f"The login '{login}' may not make roles and schemas: run `cairn migrate` with one that has CREATEROLE "
            "and may CREATE in the database."
        ) from error


async def ensure_database(admin: AnyConnection, bucket_count: int = DEFAULT_BUCKET_COUNT) -> int:
    """Fix the number of buckets if this database has none yet; return the number that holds.

    It never changes afterwards: stored rows are spread by it. Another `bucket_count` than the stored one has no effect.
    """
    if not 1 <= bucket_count <= MAX_BUCKET_COUNT:
        raise StartupError(f"A database has 1 to {MAX_BUCKET_COUNT} buckets, not {bucket_count}.")
    try:
        async with admin.transaction():
            await admin.execute(_LOCK, lock_key("database"))
            if not await admin.fetchval(_DATABASE_EXISTS):
                await admin.execute(_CREATE_DATABASE)
                await admin.execute(_SET_BUCKET_COUNT, bucket_count)
    except asyncpg.InsufficientPrivilegeError as error:
        login = await admin.fetchval("SELECT current_user::text")
        raise StartupError(
            f"The login '{login}' may not make the schema 'cairn': run `cairn migrate` with one that may CREATE "
            "in the database."
        ) from error
    return await read_bucket_count(admin)


async def read_bucket_count(database: Pool | AnyConnection) -> int:
    """The number of buckets of this database; StartupError when it was never prepared."""
    try:
        count = await database.fetchval(_READ_BUCKET_COUNT)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        count = None
    if count is None:
        raise StartupError("This database was never prepared for Cairn: run `cairn migrate`.")
    return int(count)


async def _ensure_role(connection: AnyConnection, role: str) -> None:
    if not await connection.fetchval(_ROLE_EXISTS, role):
        try:
            async with connection.transaction():
                await connection.execute(f"CREATE ROLE {quoted(role)} NOLOGIN")
        except (asyncpg.DuplicateObjectError, asyncpg.UniqueViolationError):
            pass  # roles belong to the whole server: a migrator of another database was faster
    if not await connection.fetchval(_MAY_SET_ROLE, role):
        options = "" if connection.get_server_version().major < 16 else " WITH INHERIT FALSE, SET TRUE"
        await connection.execute(f"GRANT {quoted(role)} TO CURRENT_USER{options}")


async def _ensure_schema(connection: AnyConnection, schema: str, role: str) -> None:
    async with connection.transaction():
        await connection.execute(_LOCK, lock_key("schema", schema))
        owner = await connection.fetchval(_SCHEMA_OWNER, schema)
        if owner is None:
            # A new schema is closed to PUBLIC.
            await connection.execute(f"CREATE SCHEMA {quoted(schema)} AUTHORIZATION {quoted(role)}")
        elif owner != role:
            raise StartupError(
                f"The schema '{schema}' belongs to '{owner}', not to '{role}': give Cairn a database of its own."
            )
