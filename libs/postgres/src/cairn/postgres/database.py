"""Owns a service's database: its pool, its dedicated connections and its schema, opened and closed as one component."""

import asyncio
from typing import Self

from cairn.postgres.migrations import check_schema, load_migrations, migrate
from cairn.postgres.pool import Connection, Pool, connect, connect_pool
from cairn.postgres.roles import ensure_database, ensure_roles, read_bucket_count, role_of
from cairn.runtime.settings import ServiceSettings, environment_name

_CLOSE_SECONDS = 5.0


class Database:
    """What the service of a name has in Postgres: the schema of its name, under the role of its settings.

    A component: opened when the service is built, closed after all that use it have stopped.
    """

    name = "database"

    def __init__(self, service: str, settings: ServiceSettings, pool: Pool, bucket_count: int) -> None:
        self.pool = pool
        self.bucket_count = bucket_count
        self._service = service
        self._settings = settings

    @classmethod
    async def open(cls, service: str, settings: ServiceSettings, *, times_in_us: bool = False) -> Self:
        """Connects, and checks that the schema is the one that this program knows; StartupError with one line otherwise.

        `times_in_us` is about the pool, see `connect_pool`.
        """
        pool = await connect_pool(
            settings.postgres_dsn.get_secret_value(),
            role=settings.postgres_role,
            schema=service,
            application_name=f"cairn-{service}",
            max_size=settings.postgres_pool_size,
            setting=environment_name(settings, "postgres_dsn"),
            times_in_us=times_in_us,
        )
        try:
            await check_schema(pool, service, load_migrations(f"cairn.{service}"))
            return cls(service, settings, pool, await read_bucket_count(pool))
        except BaseException:
            pool.terminate()
            raise

    async def connect(self) -> Connection:
        """One connection outside the pool, for locks and notices."""
        return await _connect(self._service, self._settings, role=self._settings.postgres_role)

    async def start(self) -> None:
        """It is open already: what uses it was constructed with it."""

    async def drain(self) -> None:
        """What uses it finishes its own work."""

    async def stop(self) -> None:
        """Closes the pool; what Postgres does not answer in time is cut."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.pool.close()
        except TimeoutError:
            self.pool.terminate()


async def migrate_service(service: str, settings: ServiceSettings) -> str:
    """Makes what is missing of a service's role, schema and tables; the line to print.

    The login of the settings needs the right to make roles and schemas only where there are none yet.
    """
    migrations = load_migrations(f"cairn.{service}")
    admin = await _connect(service, settings, role="")
    try:
        await ensure_roles(admin, [service])
        await ensure_database(admin)
    finally:
        await admin.close()
    owner = await _connect(service, settings, role=role_of(service))
    try:
        applied = await migrate(owner, service, migrations)
    finally:
        await owner.close()
    done = ", ".join(migration.file for migration in applied) or "nothing was missing"
    return f"The schema '{service}' is at version {len(migrations)}: {done}."


async def _connect(service: str, settings: ServiceSettings, *, role: str) -> Connection:
    return await connect(
        settings.postgres_dsn.get_secret_value(),
        role=role,
        schema=service,
        application_name=f"cairn-{service}",
        setting=environment_name(settings, "postgres_dsn"),
    )
