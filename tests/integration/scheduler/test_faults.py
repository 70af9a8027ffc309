"""Processes die, Postgres stops: what was accepted fires nevertheless, and nothing needs a restart."""

import asyncio
import contextlib
import json
import subprocess
import sys

import grpc
import pytest

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.postgres.pool import connect, exchange_times_in_us
from cairn.runtime.clock import now_us
from cairn.runtime.errors import error_from_rpc
from cairn.scheduler import store
from cairn.scheduler.timer import NewTimers

SECOND = 1_000_000


async def test_a_killed_scheduler_loses_no_timer(scheduler_process, timer, sink, eventually) -> None:
    replica = await scheduler_process()
    made = [timer(f"t{n}", in_us=n * 8_000) for n in range(500)]
    await replica.schedule(made)
    await eventually(lambda: len(sink.accepted) > 100)
    await replica.kill()
    assert len(set(sink.accepted_ids)) < 500
    await scheduler_process()
    await eventually(lambda: len(set(sink.accepted_ids)) == 500)
    assert sink.early() == []


async def test_a_stopped_scheduler_finishes_its_batch_and_the_next_one_goes_on(
    scheduler_process, timer, sink, eventually
) -> None:
    sink.hold = asyncio.Event()
    replica = await scheduler_process()
    await replica.schedule([timer("in flight", "k"), timer("later", "k", in_us=2 * SECOND)])
    await eventually(lambda: bool(sink.received))
    stopping = asyncio.create_task(replica.stop())
    await eventually(lambda: '"draining"' in replica.log.read_text())
    sink.hold.set()
    assert await stopping == 0
    await scheduler_process()
    await eventually(lambda: "later" in sink.accepted_ids)
    # The batch in flight was settled before the process went; only if that took longer than a second it may come again.
    names = [sent.timer_id for sent, _ in sink.received]
    assert list(dict.fromkeys(names)) == ["in flight", "later"]
    assert names[-1] == "later"


async def test_two_replicas_share_the_shards_and_one_takes_over_when_the_other_is_killed(
    scheduler_process, timer, sink, eventually, owned_shards
) -> None:
    first = await scheduler_process()
    second = await scheduler_process()
    await owned_shards([4, 4])
    made = [timer(f"t{n}", in_us=n * 10_000) for n in range(300)]
    await first.schedule(made[:150])
    await second.schedule(made[150:])
    await eventually(lambda: len(sink.accepted) > 50)
    await second.kill()
    await eventually(lambda: len(set(sink.accepted_ids)) == 300)
    assert sink.early() == []
    await owned_shards([8])


async def test_a_replica_tells_the_owner_of_a_timer_that_is_due_soon(
    scheduler_process, timer, sink, eventually, owned_shards
) -> None:
    # With a sweep of a minute, only a notice can be why the owner looks in time.
    first = await scheduler_process(sweep_seconds=60)
    second = await scheduler_process(sweep_seconds=60)
    await owned_shards([4, 4])
    await first.schedule([timer(f"t{n}", in_us=SECOND) for n in range(32)])
    await eventually(lambda: len(set(sink.accepted_ids)) == 32)
    assert sink.early() == []
    assert second.process.returncode is None


async def test_postgres_stops_and_returns_and_nothing_needs_a_restart(
    scheduler_process, scheduler_postgres, timer, sink, eventually
) -> None:
    replica = await scheduler_process()
    await replica.schedule([timer(f"before-{n}", in_us=2 * SECOND) for n in range(50)])
    sink.schedule_answer = lambda firing: pb.TIMER_ANSWER_RETRY
    monthly = pb.Schedule(name="schedules/monthly", cron="0 0 1 * *")
    await replica.stub.PutSchedule(pb.PutScheduleRequest(schedule=monthly), timeout=30)
    await replica.stub.RunSchedule(pb.RunScheduleRequest(name=monthly.name, request_id="r"), timeout=30)
    await eventually(lambda: bool(sink.firings))
    scheduler_postgres.stop("immediate")
    try:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await replica.schedule([timer("meanwhile")])
        error = error_from_rpc(refused.value)
        assert error.reason == ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE
        assert error.retry_after_s
        await asyncio.sleep(1)  # long enough for the loops to have noticed
    finally:
        scheduler_postgres.start()
    sink.schedule_answer = lambda firing: pb.TIMER_ANSWER_ACCEPTED
    await eventually(lambda: len(set(sink.accepted_ids)) >= 50 and bool(sink.fired))
    assert len({firing.fire_id for firing in sink.firings}) == 1
    accepted = False
    async with asyncio.timeout(30):
        while not accepted:
            with contextlib.suppress(grpc.aio.AioRpcError):
                accepted = (await replica.schedule([timer("after")])).accepted == 1
    await eventually(lambda: "after" in sink.accepted_ids)
    assert sink.early() == []
    log = [json.loads(line) for line in replica.log.read_text().splitlines()]
    assert [line for line in log if line["level"] == "error"] == []


async def test_a_database_that_was_not_migrated_is_one_clear_line(scheduler_postgres) -> None:
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "cairn.scheduler"],
        env={
            "PYTHONPATH": ":".join(sys.path),
            "CAIRN_SCHEDULER_POSTGRES_DSN": scheduler_postgres.dsn,
            "CAIRN_SCHEDULER_GRPC_PORT": "0",
            "CAIRN_SCHEDULER_HTTP_PORT": "0",
        },
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("cairn scheduler: ")
    assert "run `cairn migrate`" in done.stderr
    assert len(done.stderr.splitlines()) == 1


async def test_migrate_makes_the_schema_and_is_harmless_the_second_time(scheduler_postgres) -> None:
    server = await connect(scheduler_postgres.dsn)
    await server.execute("CREATE DATABASE scheduler_migrate")
    dsn = scheduler_postgres.dsn.rpartition("/")[0] + "/scheduler_migrate"
    said = []
    for _ in range(2):
        done = await asyncio.to_thread(
            subprocess.run,
            [sys.executable, "-m", "cairn.scheduler", "migrate"],
            env={"PYTHONPATH": ":".join(sys.path), "CAIRN_SCHEDULER_POSTGRES_DSN": dsn},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        said.append(done.stdout)
    assert said == [
        "The schema 'scheduler' is at version 3: 0001_timers.sql, 0002_calmer_vacuum.sql, 0003_schedules.sql.\n",
        "The schema 'scheduler' is at version 3: nothing was missing.\n",
    ]
    await server.execute("DROP DATABASE scheduler_migrate WITH (FORCE)")
    await server.close()


async def test_the_hot_read_walks_the_index_of_due_times(scheduler_dsn) -> None:
    database = await connect(scheduler_dsn, schema="scheduler", role="cairn_scheduler")
    await exchange_times_in_us(database)
    now = now_us()
    for bucket in range(8):
        new = NewTimers()
        for n in range(2_500):
            due = now + n * SECOND
            new.add(f"{bucket}-{n}", f"k{n}", due, b"")
        await store.insert_timers(database, bucket, new)
    await database.execute("ANALYZE timers")
    # As a long-lived connection would have it: one plan for all parameters.
    await database.execute("SET plan_cache_mode = force_generic_plan")
    await database.execute(
        f"PREPARE hot (integer, timestamptz, timestamptz, text[], bigint) AS {store.READ_DUE}"
    )
    plan = await database.fetch("EXPLAIN EXECUTE hot (3, '2020-01-01', clock_timestamp(), '{}', 1000)")
    await database.close()
    text = "\n".join(row[0] for row in plan)
    assert text.count("Index Scan using timers_due") + text.count("Index Only Scan using timers_due") == 2
    assert "Seq Scan" not in text
