"""The outbox against a real Postgres and real receivers: whatever happens, each effect leaves, in order, and its row goes."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import asyncpg
import grpc
import pytest
from house import until

from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import (
    ActivationServiceServicer,
    add_ActivationServiceServicer_to_server,
)
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.api.scheduler.v1.scheduler_pb2_grpc import (
    SchedulerServiceServicer,
    add_SchedulerServiceServicer_to_server,
)
from cairn.evaluator import relay as relay_module
from cairn.evaluator import store, store_erasure
from cairn.evaluator.erasing import Eraser, ProfileHashes
from cairn.evaluator.peers import Activation, Erasures, Scheduler
from cairn.evaluator.relay import Relay
from cairn.evaluator.store import Appendix, OutboxRow
from cairn.evaluator.wire import Outgoing
from cairn.journey.state import WithdrawActivation
from cairn.postgres.bucket import bucket_of
from cairn.postgres.migrations import load_migrations, migrate
from cairn.postgres.pool import Pool, connect_pool
from cairn.runtime.clock import now_us

WRITER = 77
_numbers = itertools.count(1)


@dataclass
class Receivers(SchedulerServiceServicer, ActivationServiceServicer):
    """Both contracts, which are open: anybody may serve them. Writes down what came; a closed door is UNAVAILABLE."""

    timers: list[str] = field(default_factory=list)
    activations: list[str] = field(default_factory=list)
    erased: list[str] = field(default_factory=list)
    scheduler_is_away: bool = False
    activation_is_away: bool = False
    erasure_has_to_wait: bool = False
    refuses: Sequence["ErrorReason.ValueType"] = ()

    async def ScheduleTimers(self, request, context):  # noqa: N802 - named by the contract
        if self.scheduler_is_away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        self.timers += [timer.timer_id for timer in request.timers]
        return scheduler_pb2.ScheduleTimersResponse()

    async def Activate(self, request, context):  # noqa: N802 - named by the contract
        if self.activation_is_away:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "away")
        self.activations += [each.activation_id for each in request.activations]
        return activation_pb2.ActivateResponse(
            refusals=[
                activation_pb2.ActivationRefusal(index=index, reason=reason, message="no")
                for index, reason in enumerate(self.refuses)
            ]
        )

    async def Withdraw(self, request, context):  # noqa: N802 - named by the contract
        self.erased += [f"withdraw {each.activation_id}" for each in request.withdrawals]
        return activation_pb2.WithdrawResponse()

    async def EraseProfiles(self, request, context):  # noqa: N802 - named by the contract
        if self.erasure_has_to_wait:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "something is being sent")
        self.erased += [f"erase {each.profile_id}" for each in request.erasures]
        return activation_pb2.EraseProfilesResponse()


@pytest.fixture
async def pool(evaluator_suite) -> AsyncIterator[Pool]:
    """A database of its own: no living Evaluator looks into its outbox."""
    dsn = evaluator_suite[0].dsn
    name = f"relay_{next(_numbers)}"
    admin = await asyncpg.connect(dsn)
    await admin.execute(f"CREATE DATABASE {name}")
    own = dsn.rpartition("/")[0] + f"/{name}"
    connection = await asyncpg.connect(own)
    await connection.execute("CREATE SCHEMA evaluator")
    await connection.execute("SET search_path = evaluator")
    await migrate(connection, "evaluator", load_migrations("cairn.evaluator"))
    await connection.close()
    pool = await connect_pool(
        own, role=None, schema="evaluator", application_name="test", max_size=4, times_in_us=True
    )
    yield pool
    pool.terminate()
    await admin.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await admin.close()


@pytest.fixture
async def receivers() -> Receivers:
    return Receivers()


@pytest.fixture
async def relay(pool: Pool, receivers: Receivers) -> AsyncIterator[Relay]:
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_SchedulerServiceServicer_to_server(receivers, server)
    add_ActivationServiceServicer_to_server(receivers, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        eraser = Eraser(pool, ProfileHashes(pool), WRITER)
        destinations = (Scheduler(channel, 5), Activation(channel, 5), Erasures(channel, 5))
        relay = Relay(pool, WRITER, destinations, 2, eraser)
        yield relay
        await relay.stop()
    await server.stop(0)


def row(sequence: int, *, writer: int = WRITER, activates: bool = False) -> OutboxRow:
    timers = [scheduler_pb2.Timer(timer_id=f"t{sequence}", key="ann")]
    made = OutboxRow(writer, sequence, scheduler_pb2.ScheduleTimersRequest(timers=timers).SerializeToString())
    if activates:
        activations = [activation_pb2.Activation(activation_id=f"a{sequence}", profile_id="ann")]
        made.activate = activation_pb2.ActivateRequest(activations=activations).SerializeToString()
    return made


async def commit(pool: Pool, made: OutboxRow, at_us: int | None = None, bucket: int = 0) -> OutboxRow:
    async with pool.acquire() as connection:
        await store.append(connection, bucket, Appendix(outbox=made), now_us() if at_us is None else at_us)
    return made


async def stored(pool: Pool) -> int:
    return int(await pool.fetchval("SELECT count(*) FROM outbox"))


def is_empty(pool: Pool) -> Callable[[], Awaitable[bool]]:
    async def holds() -> bool:
        return await stored(pool) == 0

    return holds


async def drained(relay: Relay) -> None:
    """A drain ends only when nothing is left that memory knows of."""
    async with asyncio.timeout(20):
        await relay.drain()


@pytest.fixture
def no_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory has no room: all is read back from the table."""
    monkeypatch.setattr(relay_module, "_MAX_QUEUED_BYTES", 0)


def names(count: int, first: int = 1) -> list[str]:
    return [f"t{number}" for number in range(first, first + count)]


async def test_effects_leave_in_order_and_their_rows_go(relay, receivers, pool) -> None:
    await relay.start()
    for number in range(1, 101):
        relay.send(0, await commit(pool, row(number, activates=number % 10 == 0)))
    await drained(relay)
    assert receivers.timers == names(100)
    assert receivers.activations == [f"a{number}" for number in range(10, 101, 10)]
    assert await stored(pool) == 0


async def test_what_memory_has_no_room_for_is_read_back_in_order(relay, receivers, pool, no_room) -> None:
    receivers.scheduler_is_away = True
    await relay.start()
    for number in range(1, 201):
        relay.send(0, await commit(pool, row(number)))
    receivers.scheduler_is_away = False
    await drained(relay)
    assert receivers.timers == names(200)
    assert await stored(pool) == 0


async def test_a_clock_that_was_set_back_holds_nothing_up(relay, receivers, pool, no_room) -> None:
    """Rows that were written "in the future" would be passed over, and be behind the reader for ever."""
    await relay.start()
    for number in range(1, 11):
        ahead_us = 3_600_000_000 if number % 2 else 0
        relay.send(0, await commit(pool, row(number), now_us() + ahead_us))
    await drained(relay)
    assert receivers.timers == names(10)


async def test_what_comes_while_a_read_fails_does_not_overtake_what_was_to_be_read(
    relay, receivers, pool, monkeypatch
) -> None:
    """Rows 3 to 5 are only in the table; Postgres cuts the read that would bring them, just as row 6 is committed."""
    receivers.scheduler_is_away = True
    monkeypatch.setattr(relay_module, "_MAX_QUEUED_BYTES", 2 * len(row(1).schedule))
    monkeypatch.setattr(relay_module, "_MAX_PAUSE_SECONDS", 0.1)
    rows = [await commit(pool, row(number)) for number in range(1, 7)]
    for each in rows[:5]:
        relay.send(0, each)
    blocked = """
        SELECT pid FROM pg_stat_activity
        WHERE wait_event_type = 'Lock' AND query LIKE '%sequence > $3 ORDER BY%'
    """
    async with pool.acquire() as other, other.transaction():
        await other.execute("LOCK TABLE outbox IN ACCESS EXCLUSIVE MODE")
        await relay.start()
        receivers.scheduler_is_away = False
        await until(lambda: pool.fetchval(blocked), "the read waits")
        relay.send(0, rows[5])
        await pool.execute(f"SELECT pg_terminate_backend(pid) FROM ({blocked}) AS readers")
        await until(lambda: relay._queues["scheduler", 0].is_behind, "the read has failed")
    await drained(relay)
    assert receivers.timers == names(6)
    assert await stored(pool) == 0


@pytest.mark.parametrize(
    "error", [asyncpg.InterfaceError("another operation is in progress"), ValueError("defect")]
)
async def test_no_failure_of_a_read_ends_the_sending(
    relay, receivers, pool, no_room, monkeypatch, error
) -> None:
    """Also when nothing else comes that would wake it."""
    real, failures = store.read_outbox, []

    async def read(*args, **kwargs):
        if not failures:
            failures.append(error)
            raise error
        return await real(*args, **kwargs)

    monkeypatch.setattr(store, "read_outbox", read)
    monkeypatch.setattr(relay_module, "_MAX_PAUSE_SECONDS", 0.1)
    relay.send(0, await commit(pool, row(1)))
    await relay.start()
    await drained(relay)
    assert failures == [error]
    assert receivers.timers == ["t1"]


async def test_a_row_that_the_table_shows_before_its_lane_tells_of_it_is_settled_too(
    relay, receivers, pool, no_room
) -> None:
    relay.send(0, await commit(pool, row(1)))
    late = await commit(pool, row(2))
    await relay.start()
    await until(lambda: "t1" in receivers.timers, "what was told is sent")
    relay.send(0, late)
    await drained(relay)
    assert receivers.timers == names(2)
    assert await stored(pool) == 0


async def test_a_destination_that_is_away_stops_only_its_own(relay, receivers, pool) -> None:
    receivers.scheduler_is_away = True
    await relay.start()
    for number in range(1, 6):
        relay.send(0, await commit(pool, row(number, activates=True)))

    async def settled() -> bool:
        return await pool.fetchval("SELECT count(*) = 5 AND bool_and(activate IS NULL) FROM outbox")

    await until(settled, "the parts that were accepted are struck")
    assert receivers.activations == [f"a{number}" for number in range(1, 6)]
    assert receivers.timers == []
    receivers.scheduler_is_away = False
    await drained(relay)
    assert (receivers.timers, await stored(pool)) == (names(5), 0)
    assert len(receivers.activations) == 5


async def test_a_commit_whose_answer_was_lost_is_found_by_its_sequence(relay, receivers, pool) -> None:
    await relay.start()
    await commit(pool, row(2))
    await relay.read_back(0, 1)
    await relay.read_back(0, 3)
    assert receivers.timers == []
    await relay.read_back(0, 2)
    await drained(relay)
    assert (receivers.timers, await stored(pool)) == (["t2"], 0)


async def test_a_commit_that_came_through_after_all_is_found_behind_others_that_wait(
    relay, receivers, pool, monkeypatch
) -> None:
    monkeypatch.setattr(relay_module, "_SWEEP_ROWS", 3)
    monkeypatch.setattr(relay_module, "_SWEEP_SECONDS", 0.1)
    receivers.activation_is_away = True
    old_us = now_us() - 60_000_000
    await relay.start()
    for number in range(1, 8):
        relay.send(0, await commit(pool, row(number, activates=True), old_us))
    await commit(pool, row(8), old_us)
    await until(lambda: "t8" in receivers.timers, "the forgotten row is sent")

    async def is_deleted() -> bool:
        return await stored(pool) == 7

    # The receiver has it a moment before its row goes.
    await until(is_deleted, "its row is gone")
    receivers.activation_is_away = False
    await drained(relay)
    assert sorted(receivers.activations) == [f"a{number}" for number in range(1, 8)]


async def test_the_rows_of_a_writer_that_is_gone_are_adopted(relay, receivers, pool, monkeypatch) -> None:
    monkeypatch.setattr(relay_module, "_SWEEP_SECONDS", 0.1)
    for number in range(1, 151):
        await commit(pool, row(number, writer=5, activates=True), bucket=1)
    await relay.start()
    await until(is_empty(pool), "all rows are gone")
    assert receivers.timers == names(150)
    assert receivers.activations == [f"a{number}" for number in range(1, 151)]


async def test_adopted_rows_reach_one_destination_while_the_other_is_away(
    relay, receivers, pool, monkeypatch
) -> None:
    monkeypatch.setattr(relay_module, "_SWEEP_SECONDS", 0.1)
    monkeypatch.setattr(relay_module, "_MAX_ROWS_A_CALL", 4)
    for sequence in range(1, 11):
        await commit(pool, row(sequence, writer=99, activates=True))
    receivers.scheduler_is_away = True
    await relay.start()
    await until(
        lambda: set(receivers.activations) == {f"a{each}" for each in range(1, 11)}, "all activations came"
    )
    assert receivers.timers == []
    assert await stored(pool) == 10
    receivers.scheduler_is_away = False
    await until(is_empty(pool), "the rows are gone")
    assert set(receivers.timers) == set(names(10))
    assert len(receivers.activations) == 10


async def commit_erasure(pool: Pool, sequence: int, *, writer: int = WRITER) -> OutboxRow:
    outgoing = Outgoing()
    outgoing.add("ann", "cart", [WithdrawActivation(f"a{sequence}", 5, "erased")])
    outgoing.erase("ann", 10)
    made = outgoing.to_row(writer, sequence)
    async with pool.acquire() as connection:
        await store_erasure.erase_profiles(connection, 0, [], [], made, now_us())
    return made


async def test_an_erasure_that_has_to_wait_holds_nothing_else_up(relay, receivers, pool) -> None:
    receivers.erasure_has_to_wait = True
    await relay.start()
    relay.send(0, await commit_erasure(pool, 1))
    relay.send(0, await commit(pool, row(2, activates=True)))
    await until(lambda: receivers.activations == ["a2"], "what is behind it has left")

    async def only_the_erasure_waits() -> bool:
        return await stored(pool) == 1

    await until(only_the_erasure_waits, "its row stays")
    assert receivers.erased[0] == "withdraw a1"
    assert "erase ann" not in receivers.erased
    receivers.erasure_has_to_wait = False
    await drained(relay)
    assert receivers.erased[-2:] == ["withdraw a1", "erase ann"]
    assert await stored(pool) == 0


async def test_the_erasures_of_a_writer_that_is_gone_are_adopted(relay, receivers, pool, monkeypatch) -> None:
    monkeypatch.setattr(relay_module, "_SWEEP_SECONDS", 0.1)
    receivers.erasure_has_to_wait = True
    await commit_erasure(pool, 1, writer=5)
    await commit(pool, row(2, writer=5, activates=True))
    await relay.start()
    await until(lambda: receivers.activations == ["a2"], "the others are not held up")
    receivers.erasure_has_to_wait = False
    await until(is_empty(pool), "all rows are gone")
    assert receivers.erased[-2:] == ["withdraw a1", "erase ann"]


async def test_what_is_refused_is_told_but_not_of_who_was_erased(relay, receivers, pool) -> None:
    """By the reason, or because of a tombstone: an erased profile has no timeline."""
    receivers.refuses = [
        ErrorReason.ERROR_REASON_CONNECTION_UNKNOWN,
        ErrorReason.ERROR_REASON_CONNECTION_UNKNOWN,
        ErrorReason.ERROR_REASON_PROFILE_ERASED,
    ]
    bucket = bucket_of("ann", 2)
    assert bucket_of("ben", 2) == bucket
    await store_erasure.open_bucket(pool, bucket)
    eraser = Eraser(pool, ProfileHashes(pool), WRITER)
    await eraser.erase(bucket, 1, {"ben": 5})
    asked = [
        activation_pb2.Activation(activation_id=f"of {each}", profile_id=each)
        for each in ("ann", "ben", "cat")
    ]
    made = OutboxRow(
        WRITER, 2, activate=activation_pb2.ActivateRequest(activations=asked).SerializeToString()
    )
    await relay.start()
    relay.send(bucket, await commit(pool, made, bucket=bucket))
    await drained(relay)
    rows = await pool.fetch("SELECT profile_id, kind FROM timeline")
    assert [(each["profile_id"], each["kind"]) for each in rows] == [("ann", 3)]


async def test_a_drain_waits_for_what_is_committed(relay, receivers, pool) -> None:
    receivers.scheduler_is_away = True
    await relay.start()
    relay.send(0, await commit(pool, row(1)))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            await relay.drain()
            raise AssertionError("it ended with an effect unsent")
    assert await stored(pool) == 1
