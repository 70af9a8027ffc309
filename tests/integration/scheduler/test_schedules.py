"""Schedules fire at their times, by one replica, with one id for each time; what was missed is made up for, or left out.

Rather than wait for a minute to begin, the tests move the table's `next_due`: the Scheduler believes what stands there.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable

import grpc
import pytest

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.postgres.pool import Connection, connect, exchange_times_in_us
from cairn.runtime.clock import from_timestamp, now_us
from cairn.runtime.errors import error_from_rpc
from cairn.scheduler import store_schedules

SECOND = 1_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

YEARLY = "0 0 1 1 *"
"""Due by itself at no time when these tests run, but at one."""

Put = Callable[..., Awaitable[pb.Schedule]]


@pytest.fixture
async def table(scheduler_dsn: str) -> AsyncIterator[Connection]:
    connection = await connect(scheduler_dsn, schema="scheduler", role="cairn_scheduler")
    await exchange_times_in_us(connection)
    yield connection
    await connection.close()


async def put(replica, name: str, cron: str = YEARLY, **fields: object) -> pb.Schedule:
    schedule = pb.Schedule(name=f"schedules/{name}", cron=cron, payload=name.encode(), **fields)
    return (await replica.stub.PutSchedule(pb.PutScheduleRequest(schedule=schedule), timeout=30)).schedule


async def get(replica, name: str) -> pb.Schedule:
    request = pb.GetScheduleRequest(name=f"schedules/{name}")
    return (await replica.stub.GetSchedule(request, timeout=30)).schedule


async def run(replica, name: str, request_id: str) -> None:
    request = pb.RunScheduleRequest(name=f"schedules/{name}", request_id=request_id)
    await replica.stub.RunSchedule(request, timeout=30)


async def make_due(table: Connection, due_us: int, *names: str, firing: bool = False) -> None:
    changed = await table.execute(
        "UPDATE schedules SET next_due = $1, firing = $2 WHERE schedule_id = ANY ($3)",
        due_us,
        firing,
        list(names),
    )
    assert changed == f"UPDATE {len(names)}"


def names_of(firings: list[pb.FireScheduleRequest]) -> list[str]:
    return [firing.schedule.removeprefix("schedules/") for firing in firings]


async def test_what_is_put_is_kept_and_put_again_it_changes_nothing(scheduler, table) -> None:
    replica = await scheduler(sweep_seconds=60)
    before = now_us()
    made = await put(replica, "daily", " 0  6 * * * ", time_zone="Asia/Tokyo", skip_missed=True)
    # Six in Tokyo is 21 o'clock UTC, all year round.
    next_us = from_timestamp(made.next_time)
    assert before < next_us <= before + 24 * HOUR
    assert next_us % (24 * HOUR) == 21 * HOUR
    assert (made.cron, made.time_zone, made.skip_missed) == ("0 6 * * *", "Asia/Tokyo", True)
    assert not made.HasField("last_due_time")
    assert not made.HasField("last_fire_time")
    assert await get(replica, "daily") == made
    # Its place is kept, until its times are others.
    await make_due(table, next_us + HOUR, "daily")
    again = await put(replica, "daily", "0 6 * * *", time_zone="Asia/Tokyo", skip_missed=False)
    assert (from_timestamp(again.next_time), again.skip_missed) == (next_us + HOUR, False)
    elsewhere = await put(replica, "daily", "0 6 * * *")
    assert elsewhere.time_zone == "UTC"
    assert from_timestamp(elsewhere.next_time) % (24 * HOUR) == 6 * HOUR


async def test_lists_are_in_order_of_names_and_what_is_deleted_is_gone(scheduler) -> None:
    replica = await scheduler(sweep_seconds=60)
    for name in ("c", "a.1", "B_2", "d"):
        await put(replica, name)
    first = await replica.stub.ListSchedules(pb.ListSchedulesRequest(page_size=3))
    rest = await replica.stub.ListSchedules(
        pb.ListSchedulesRequest(page_size=3, page_token=first.next_page_token)
    )
    assert [each.name for each in [*first.schedules, *rest.schedules]] == [
        "schedules/B_2",
        "schedules/a.1",
        "schedules/c",
        "schedules/d",
    ]
    assert not rest.next_page_token
    for _ in range(2):
        await replica.stub.DeleteSchedule(pb.DeleteScheduleRequest(name="schedules/c"))
    for call in (get(replica, "c"), run(replica, "c", "r")):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        error = error_from_rpc(refused.value)
        assert (error.reason, error.resource) == (ErrorReason.ERROR_REASON_NOT_FOUND, "schedules/c")


async def test_what_makes_no_sense_is_refused_with_all_that_is_wrong(scheduler) -> None:
    replica = await scheduler(sweep_seconds=60)
    schedule = pb.Schedule(name="daily", cron="0 0 30 2 *", time_zone="Moon/Base", payload=b"x" * 1025)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await replica.stub.PutSchedule(pb.PutScheduleRequest(schedule=schedule))
    error = error_from_rpc(refused.value)
    assert error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert [each.field for each in error.violations] == [
        "schedule.name",
        "schedule.time_zone",
        "schedule.cron",
        "schedule.payload",
    ]
    assert list((await replica.stub.ListSchedules(pb.ListSchedulesRequest())).schedules) == []


async def test_a_schedule_fires_at_its_time_and_moves_on(scheduler, sink, eventually, table) -> None:
    replica = await scheduler(sweep_seconds=60)
    # By themselves they are due half an hour from now, whenever this runs.
    ahead_us = (now_us() // MINUTE + 30) * MINUTE
    for name in ("tick", "again"):
        await put(replica, name, f"{ahead_us % HOUR // MINUTE} * * * *")
    await replica.stop()
    sink.schedule_answer = lambda firing: (
        pb.TIMER_ANSWER_RETRY if firing.payload == b"again" else pb.TIMER_ANSWER_ACCEPTED
    )
    due_us = now_us() + 2 * SECOND
    await make_due(table, due_us, "tick")
    await make_due(table, now_us(), "again")
    # With a sweep this long only the alarm can be why it fires.
    replica = await scheduler(sweep_seconds=60)
    await eventually(lambda: bool(sink.fired))
    (firing,) = sink.fired
    assert now_us() >= due_us
    assert (firing.schedule, from_timestamp(firing.due_time), firing.payload) == (
        "schedules/tick",
        due_us,
        b"tick",
    )
    found = await get(replica, "tick")
    while not found.HasField("last_due_time"):
        found = await get(replica, "tick")
    assert from_timestamp(found.last_due_time) == due_us
    assert from_timestamp(found.last_fire_time) >= due_us
    assert from_timestamp(found.next_time) == ahead_us
    # Who is wanted again and again is called with growing pauses meanwhile.
    assert 1 < len(sink.firings) < 50


async def test_what_the_sink_does_not_take_comes_again_with_the_same_id_and_holds_up_nothing(
    scheduler, sink, eventually, table
) -> None:
    tries: Counter[str] = Counter()

    def moody(firing: pb.FireScheduleRequest) -> int:
        (name,) = names_of([firing])
        tries[name] += 1
        if name == "refused":
            return pb.TIMER_ANSWER_REFUSED
        if name == "stale":
            return pb.TIMER_ANSWER_STALE
        if tries[name] < 3:
            return pb.TIMER_ANSWER_RETRY if name == "again" else pb.TIMER_ANSWER_UNSPECIFIED
        return pb.TIMER_ANSWER_ACCEPTED

    sink.schedule_answer = moody
    sink.schedule_hold = lambda firing: firing.payload == b"hangs"
    replica = await scheduler(sweep_seconds=0.2)
    names = ("hangs", "again", "failing", "refused", "stale")
    for name in names:
        await put(replica, name)
    await make_due(table, now_us() - SECOND, *names)
    await eventually(lambda: len(sink.fired) == 4)
    assert tries == {"again": 3, "failing": 3, "refused": 1, "stale": 1}
    ids: dict[str, set[str]] = {}
    for firing in sink.firings:
        ids.setdefault(firing.schedule, set()).add(firing.fire_id)
    assert [len(each) for each in ids.values()] == [1] * 5
    assert len(set.union(*ids.values())) == 5
    # What was refused is done with as well, but was not taken.
    found = await get(replica, "refused")
    while not found.HasField("last_due_time"):
        found = await get(replica, "refused")
    overdue = 5
    while overdue > 1:
        overdue = await store_schedules.count_overdue(table, now_us())
    assert overdue == 1
    assert not found.HasField("last_fire_time")
    assert from_timestamp(found.next_time) > now_us()


@pytest.mark.parametrize(
    ("skip_missed", "firing", "fired"),
    [
        pytest.param(False, False, 1, id="made up for once"),
        pytest.param(True, False, 0, id="left out"),
        pytest.param(False, True, 1, id="on its way, not taken in time"),
        pytest.param(True, True, 0, id="on its way, not taken in time, left out"),
    ],
)
async def test_missed_times_are_made_up_for_once_or_left_out(
    scheduler, sink, eventually, table, skip_missed, firing, fired
) -> None:
    replica = await scheduler(sweep_seconds=60)
    # Half an hour past and half an hour ahead, whenever this runs.
    last_us = (now_us() - HOUR // 2) // MINUTE * MINUTE
    await put(replica, "hourly", f"{last_us % HOUR // MINUTE} * * * *", skip_missed=skip_missed)
    await put(replica, "after")
    await replica.stop()
    await make_due(table, last_us - 3 * HOUR, "hourly", firing=firing)
    await make_due(table, now_us() - SECOND, "after")
    replica = await scheduler(sweep_seconds=0.1)
    found = await get(replica, "hourly")
    while from_timestamp(found.next_time) <= now_us() - MINUTE:
        found = await get(replica, "hourly")
    await eventually(lambda: "after" in names_of(sink.fired))
    mine = [each for each in sink.firings if each.schedule == "schedules/hourly"]
    # One that is on its way stays what it was, and what was missed meanwhile is made up for behind it.
    expected = [last_us - 3 * HOUR, last_us] if firing else [last_us]
    assert [from_timestamp(each.due_time) for each in mine] == expected[: 2 * fired]
    assert from_timestamp(found.next_time) == last_us + HOUR
    assert found.HasField("last_due_time") is bool(fired)


async def test_a_killed_scheduler_repeats_the_call_with_the_same_id_and_another_replica_takes_over(
    scheduler_process, sink, eventually, table, owned_shards
) -> None:
    first = await scheduler_process(sweep_seconds=0.2)
    second = await scheduler_process(sweep_seconds=0.2)
    await owned_shards([4, 4])
    names = [f"s{n}" for n in range(5)]
    for name in names:
        await put(second, name)
    await run(second, "s0", "by hand")
    await eventually(lambda: len(sink.fired) == 1)
    sink.schedule_hold = lambda firing: True
    await make_due(table, now_us() - SECOND, *names)
    await run(second, "s1", "by hand")
    await eventually(lambda: len(sink.firings) == 7)
    # The first replica keeps the first shards, and with them the schedules, when another joins it.
    await first.kill()
    sink.schedule_hold = lambda firing: False
    # A call of the killed one may be answered yet, to nobody: the same firing, as its id tells.
    await eventually(lambda: len({firing.fire_id for firing in sink.fired}) == 7)
    for name in names:
        while not (await get(second, name)).HasField("last_due_time"):
            pass
    assert {firing.fire_id for firing in sink.firings} == {firing.fire_id for firing in sink.fired}
    # All six were called again; more often only if a call took longer than its deadline.
    assert len(sink.firings) >= 7 + 6
    fired = {firing.fire_id: firing for firing in sink.fired}
    assert Counter(names_of(list(fired.values()))) == {"s0": 2, "s1": 2, "s2": 1, "s3": 1, "s4": 1}


async def test_a_call_that_ends_while_the_relay_looks_is_not_made_again(
    scheduler, sink, eventually, table, monkeypatch
) -> None:
    replica = await scheduler(sweep_seconds=60)
    await put(replica, "s0")
    read_next = store_schedules.read_next
    sink.schedule_gate = asyncio.Event()

    async def settled(count: int) -> None:
        taken = "SELECT count(*) FROM schedule_requests WHERE fired IS NOT NULL"
        while await table.fetchval(taken) < count:
            pass

    async def read_next_after_the_call(*asked: object) -> int | None:
        # By now this look has read the first request, as one that nobody took.
        if sink.firings and not sink.schedule_gate.is_set():
            sink.schedule_gate.set()
            await settled(1)
        return await read_next(*asked)

    monkeypatch.setattr(store_schedules, "read_next", read_next_after_the_call)
    await run(replica, "s0", "first")
    await eventually(lambda: len(sink.firings) == 1)
    await run(replica, "s0", "second")
    await eventually(lambda: len(sink.fired) >= 2)
    await settled(2)
    assert len({firing.fire_id for firing in sink.firings}) == len(sink.firings) == 2


async def test_a_request_fires_once_beside_the_times(scheduler, sink, eventually, table) -> None:
    first, second = await scheduler(sweep_seconds=0.1), await scheduler(sweep_seconds=0.1)
    made = await put(first, "monthly", "0 0 1 * *")
    for replica in (first, second, first):
        await run(replica, "monthly", "r1")
    while not await table.fetchval("SELECT count(*) FROM schedule_requests WHERE fired IS NOT NULL"):
        pass
    # Known also after it fired.
    await run(second, "monthly", "r1")
    await run(second, "monthly", "r2")
    await eventually(lambda: len(sink.fired) == 2)
    assert len({firing.fire_id for firing in sink.firings}) == len(sink.firings) == 2
    found = await get(first, "monthly")
    while not found.HasField("last_fire_time"):
        found = await get(first, "monthly")
    assert not found.HasField("last_due_time")
    assert found.next_time == made.next_time


async def test_other_times_forget_what_was_due_before(scheduler, sink, eventually, table) -> None:
    sink.schedule_answer = lambda firing: (
        pb.TIMER_ANSWER_RETRY if firing.payload == b"old" else pb.TIMER_ANSWER_ACCEPTED
    )
    replica = await scheduler(sweep_seconds=0.1)
    await put(replica, "old")
    await make_due(table, now_us() - SECOND, "old")
    await eventually(lambda: len(sink.firings) >= 2)
    changed = await put(replica, "old", "0 0 2 1 *")
    await put(replica, "new")
    await make_due(table, now_us() - SECOND, "new")
    await eventually(lambda: "new" in names_of(sink.fired))
    assert await table.fetchval("SELECT firing FROM schedules WHERE schedule_id = 'old'") is False
    assert await get(replica, "old") == changed
