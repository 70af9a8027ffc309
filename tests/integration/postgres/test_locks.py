"""Identities and buckets: what is held by the living, and taken over from the dead. Kills are real."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from cairn.postgres.buckets import BucketOwner
from cairn.postgres.embedded import EmbeddedPostgres
from cairn.postgres.identity import LockIdentity, lock_is_free, try_adopt
from cairn.postgres.pool import Connection, Pool, connect, connect_pool
from cairn.runtime.errors import CairnError, StartupError

Eventually = Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]

HOLDER = """
import asyncio, sys
from cairn.postgres.buckets import BucketOwner
from cairn.postgres.identity import LockIdentity
from cairn.postgres.pool import connect

async def ignore(bucket):
    pass

async def main():
    open_one = lambda: connect(sys.argv[1], application_name="holder")
    await LockIdentity(open_one, namespace="test", id=7).start()
    await BucketOwner(open_one, namespace="test", bucket_count=8, on_acquired=ignore, on_lost=ignore).start()
    print("ready", flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
PID = "SELECT pid FROM pg_stat_activity WHERE application_name = $1"
BACKENDS = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1"


@pytest.fixture
async def pool(dsn: str) -> AsyncIterator[Pool]:
    pool = await connect_pool(dsn, role=None, schema="public", application_name="test")
    yield pool
    await pool.close()


class Replica:
    """A bucket owner and what it was told."""

    def __init__(self, dsn: str, name: str, *, fails: bool = False) -> None:
        self.name = name
        self.told: set[int] = set()
        self.calls: list[tuple[str, int]] = []
        self._fails = fails
        self.owner = BucketOwner(
            lambda: connect(dsn, application_name=name),
            namespace="test",
            bucket_count=8,
            on_acquired=self._acquired,
            on_lost=self._lost,
            interval_s=0.05,
        )

    async def _acquired(self, bucket: int) -> None:
        assert bucket not in self.told
        self.told.add(bucket)
        self.calls.append(("acquired", bucket))
        if self._fails:
            raise ValueError("of the callback")

    async def _lost(self, bucket: int) -> None:
        self.told.remove(bucket)
        self.calls.append(("lost", bucket))
        if self._fails:
            raise ValueError("of the callback")

    @property
    def owned(self) -> set[int]:
        assert self.owner.owned == self.told
        return self.told


def start_holder(dsn: str) -> "subprocess.Popen[str]":
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, dsn], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "ready\n"
    return holder


async def test_an_identity_is_held_while_its_process_lives(dsn: str, pool: Pool) -> None:
    identity = LockIdentity(lambda: connect(dsn), namespace="writer", id=2**63 - 1)
    assert await lock_is_free(pool, "writer", identity.id)
    await identity.start()
    assert identity.held
    assert not await lock_is_free(pool, "writer", identity.id)
    assert await lock_is_free(pool, "another", identity.id)
    async with try_adopt(pool, "writer", identity.id) as adopted:
        assert not adopted
    await identity.stop()
    assert not identity.held
    assert await lock_is_free(pool, "writer", identity.id)


async def test_only_one_adopts_and_gives_back_what_it_adopted(pool: Pool) -> None:
    async with try_adopt(pool, "writer", 5) as first, try_adopt(pool, "writer", 5) as second:
        assert (first, second) == (True, False)
        assert not await lock_is_free(pool, "writer", 5)
    assert await lock_is_free(pool, "writer", 5)
    async with pool.acquire() as connection, try_adopt(connection, "writer", 5) as adopted:
        assert adopted
    assert await lock_is_free(pool, "writer", 5)


async def test_an_identity_is_taken_again_after_its_connection_died(
    dsn: str, pool: Pool, eventually: Eventually
) -> None:
    identity = LockIdentity(
        lambda: connect(dsn, application_name="identity"), namespace="writer", id=3, interval_s=0.05
    )
    await identity.start()
    killed = await pool.fetchval(PID, "identity")
    await pool.execute(BACKENDS, "identity")

    async def is_held_by_another_connection() -> bool:
        pid = await pool.fetchval(PID, "identity")
        return pid not in (None, killed) and identity.held and not await lock_is_free(pool, "writer", 3)

    await eventually(is_held_by_another_connection)
    await identity.stop()


async def test_an_identity_waits_for_its_adopter(dsn: str, pool: Pool, eventually: Eventually) -> None:
    identity = LockIdentity(lambda: connect(dsn), namespace="writer", id=4, interval_s=0.05)
    async with try_adopt(pool, "writer", 4):
        await identity.start()
        assert not identity.held

    async def is_held() -> bool:
        return identity.held

    await eventually(is_held)
    await identity.stop()


async def test_a_lone_replica_owns_all_and_gives_all_back(dsn: str) -> None:
    replica = Replica(dsn, "a")
    await replica.owner.start()
    assert replica.owned == set(range(8))
    await replica.owner.stop()
    assert replica.owned == set()
    assert len(replica.calls) == 16


async def test_replicas_share_fairly_through_joins_and_leaves(dsn: str, eventually: Eventually) -> None:
    replicas = [Replica(dsn, name) for name in "abc"]

    def shares(living: list[Replica]) -> Callable[[], Awaitable[bool]]:
        async def are_fair() -> bool:
            sizes = [len(replica.owned) for replica in living]
            return set().union(*(replica.owned for replica in living)) == set(range(8)) and (
                max(sizes) == -(-8 // len(living))
            )

        return are_fair

    for number, replica in enumerate(replicas, start=1):
        await replica.owner.start()
        await eventually(shares(replicas[:number]))
        assert sum(len(living.owned) for living in replicas[:number]) == 8
    await replicas[0].owner.stop()
    await eventually(shares(replicas[1:]))
    await replicas[1].owner.stop()
    await eventually(shares(replicas[2:]))
    await replicas[2].owner.stop()


async def test_what_a_killed_process_held_is_taken_over(dsn: str, pool: Pool, eventually: Eventually) -> None:
    holder = start_holder(dsn)
    assert not await lock_is_free(pool, "test", 7)
    replica = Replica(dsn, "a")
    await replica.owner.start()
    assert replica.owned == set()

    async def has_half() -> bool:
        return len(replica.owned) == 4

    async def has_all() -> bool:
        return len(replica.owned) == 8

    await eventually(has_half)
    holder.kill()
    holder.wait()
    await eventually(has_all)

    async def is_free() -> bool:
        return await lock_is_free(pool, "test", 7)

    # That one was held on a connection of its own.
    await eventually(is_free)
    await replica.owner.stop()


async def test_a_dead_connection_loses_all_buckets_and_wins_them_again(
    dsn: str, pool: Pool, eventually: Eventually
) -> None:
    replica = Replica(dsn, "a")
    await replica.owner.start()
    await pool.execute(BACKENDS, "a")

    async def has_all_again() -> bool:
        return len(replica.calls) == 24 and len(replica.owned) == 8

    await eventually(has_all_again)
    assert [kind for kind, _ in replica.calls] == ["acquired"] * 8 + ["lost"] * 8 + ["acquired"] * 8
    await replica.owner.stop()


async def test_an_outage_of_postgres_is_outlived(
    dsn: str, server: EmbeddedPostgres, eventually: Eventually
) -> None:
    replica = Replica(dsn, "a")
    identity = LockIdentity(lambda: connect(dsn), namespace="writer", id=6, interval_s=0.05)
    await replica.owner.start()
    await identity.start()
    server.stop("immediate")

    async def has_none() -> bool:
        return not replica.owned and not identity.held

    async def has_all() -> bool:
        return len(replica.owned) == 8 and identity.held

    await eventually(has_none)
    server.start()
    await eventually(has_all)
    await replica.owner.stop()
    await identity.stop()


async def test_a_failing_callback_stops_nothing(dsn: str) -> None:
    replica = Replica(dsn, "a", fails=True)
    await replica.owner.start()
    assert replica.owned == set(range(8))
    await replica.owner.stop()
    assert replica.owned == set()


async def test_a_start_without_postgres_is_refused_and_leaves_nothing(dsn: str, admin: Connection) -> None:
    async def refused() -> Connection:
        raise ConnectionRefusedError

    with pytest.raises(CairnError):
        await LockIdentity(refused, namespace="writer", id=1).start()
    wrong = Replica("postgresql://cairn@127.0.0.1:1/cairn", "a")
    with pytest.raises(StartupError, match="does not answer"):
        await wrong.owner.start()
    assert asyncio.all_tasks() == {asyncio.current_task()}
