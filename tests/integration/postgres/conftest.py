"""One embedded server for all tests of this folder; a database of its own for each test that asks for one."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest

from cairn.postgres.embedded import EmbeddedPostgres
from cairn.postgres.pool import Connection, connect

_numbers = itertools.count(1)


@pytest.fixture(scope="session")
def server() -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres() as server:
        yield server


@pytest.fixture
async def dsn(server: EmbeddedPostgres) -> AsyncIterator[str]:
    """The address, as superuser, of a new database that is dropped afterwards."""
    name = f"test_{next(_numbers)}"
    admin = await connect(server.dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    yield server.dsn.rpartition("/")[0] + f"/{name}"
    if admin.is_closed():
        admin = await connect(server.dsn)
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def admin(dsn: str) -> AsyncIterator[Connection]:
    connection = await connect(dsn)
    yield connection
    await connection.close()


@pytest.fixture
def eventually() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Poll until a condition holds; a test that waits for what never comes fails after half a minute."""

    async def wait(condition: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await condition():  # noqa: ASYNC110 - what we wait for is in the database
                await asyncio.sleep(0.02)

    return wait
