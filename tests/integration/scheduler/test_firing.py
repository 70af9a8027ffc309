"""A timer that was accepted fires at least once, never before it is due, and those of one key in order."""

import asyncio
from collections import Counter

import pytest
from prometheus_client import REGISTRY

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.postgres.bucket import bucket_of
from cairn.postgres.pool import connect
from cairn.runtime.clock import now_us, to_datetime
from cairn.scheduler.store import NOTICE_CHANNEL
from cairn.scheduler.wire import render_notices

SECOND = 1_000_000
HOUR = 3_600 * SECOND


def in_shard(bucket: int, count: int) -> list[str]:
    """Keys of one shard out of eight."""
    keys = (f"k{n}" for n in range(100_000))
    return [key for key, _ in zip((k for k in keys if bucket_of(k, 8) == bucket), range(count), strict=False)]


async def test_every_timer_fires_never_before_it_is_due(
    scheduler, timer, sink, eventually, scheduler_dsn
) -> None:
    replica = await scheduler()
    made = [timer(f"t{n}", in_us=(n % 150) * 10_000 - 200_000) for n in range(600)]
    await replica.schedule(made)
    await eventually(lambda: len(set(sink.accepted_ids)) == 600)
    assert sink.early() == []
    assert {t.timer_id: t for t in sink.accepted} == {t.timer_id: t for t in made}
    # The last batch is forgotten just after the sink took it.
    database = await connect(scheduler_dsn, schema="scheduler")
    async with asyncio.timeout(30):
        while await database.fetchval("SELECT count(*) FROM timers"):
            pass
    await database.close()


async def test_what_is_taken_does_not_come_again(scheduler, timer, sink, eventually) -> None:
    sink.answer = lambda t: pb.TIMER_ANSWER_STALE if t.timer_id == "stale" else pb.TIMER_ANSWER_ACCEPTED
    replica = await scheduler(sweep_seconds=0.05)
    await replica.schedule([timer("stale"), timer("taken")])
    await eventually(lambda: len(sink.accepted) == 2)
    # A later timer of the same shards proves that they were looked at again.
    await replica.schedule([timer("after-stale", "stale"), timer("after-taken", "taken")])
    await eventually(lambda: len(sink.accepted) == 4)
    assert sorted(sink.accepted_ids) == ["after-stale", "after-taken", "stale", "taken"]


async def test_a_canceled_timer_does_not_fire(scheduler, timer, sink, eventually) -> None:
    replica = await scheduler()
    await replica.schedule([timer("canceled", "k", in_us=2 * SECOND), timer("kept", "k", in_us=2 * SECOND)])
    assert await replica.cancel(("canceled", "k")) == 1
    await eventually(lambda: "kept" in sink.accepted_ids)
    assert sink.accepted_ids == ["kept"]


async def test_an_earlier_timer_moves_the_alarm_forward(scheduler, timer, sink, eventually) -> None:
    # With a sweep this long only the alarm can be the reason for what fires.
    replica = await scheduler(sweep_seconds=60)
    await replica.schedule([timer("at once", "k")])
    await eventually(lambda: sink.accepted_ids == ["at once"])
    await replica.schedule([timer("later", "k", in_us=HOUR)])
    await replica.schedule([timer("sooner", "k", in_us=SECOND // 2)])
    await replica.schedule([timer("in between", "k", in_us=3 * SECOND)])
    await eventually(lambda: len(sink.accepted) == 3)
    # Each by an alarm of its own, and not all of them by a late look at what had become due.
    assert sink.batches == [["at once"], ["sooner"], ["in between"]]


async def test_the_timers_of_a_key_fire_in_order_of_due_time(scheduler, timer, sink, eventually) -> None:
    asked = Counter()

    def moody(t: pb.Timer) -> int:
        """Every third timer is wanted a second time."""
        asked[t.timer_id] += 1
        first = asked[t.timer_id] == 1 and int(t.timer_id) % 3 == 0
        return pb.TIMER_ANSWER_RETRY if first else pb.TIMER_ANSWER_ACCEPTED

    sink.answer = moody
    replica = await scheduler()
    # Some are due together and some one by one.
    await replica.schedule(
        [timer(str(n), f"key-{n % 4}", in_us=-100_000 + n * 4_000) for n in reversed(range(120))]
    )
    await eventually(lambda: len(sink.accepted) == 120)
    for due_times in sink.by_key().values():
        assert due_times == sorted(due_times)
    assert all(len({int(n) % 4 for n in batch}) == len(batch) for batch in sink.batches)


async def test_a_timer_to_be_retried_holds_up_its_key_and_no_other(
    scheduler, timer, sink, eventually
) -> None:
    stuck = True
    sink.answer = lambda t: (
        pb.TIMER_ANSWER_RETRY if stuck and t.timer_id == "stuck" else pb.TIMER_ANSWER_ACCEPTED
    )
    held, *others = in_shard(3, 40)
    replica = await scheduler()
    await replica.schedule([timer("stuck", held, in_us=-SECOND)])
    await eventually(lambda: bool(sink.received))
    await replica.schedule([timer("behind", held), *(timer(key) for key in others)])
    await eventually(lambda: set(others) <= set(sink.accepted_ids))
    assert "behind" not in [t.timer_id for t, _ in sink.received]
    stuck = False
    await eventually(lambda: "behind" in sink.accepted_ids)
    assert sink.accepted_ids.index("stuck") < sink.accepted_ids.index("behind")


async def test_an_unanswered_timer_comes_again(scheduler, timer, sink, eventually) -> None:
    asked = Counter()

    def silent_at_first(t: pb.Timer) -> int:
        asked[t.timer_id] += 1
        return pb.TIMER_ANSWER_UNSPECIFIED if asked[t.timer_id] < 3 else pb.TIMER_ANSWER_ACCEPTED

    sink.answer = silent_at_first
    replica = await scheduler()
    await replica.schedule([timer("a")])
    await eventually(lambda: sink.accepted_ids == ["a"])
    assert asked["a"] == 3


async def test_a_refused_timer_is_parked_listed_and_fires_no_more(scheduler, timer, sink, eventually) -> None:
    sink.answer = lambda t: (
        pb.TIMER_ANSWER_REFUSED if t.timer_id.startswith("bad") else pb.TIMER_ANSWER_ACCEPTED
    )
    replica = await scheduler(sweep_seconds=0.05)
    await replica.schedule([timer("bad-1", "k"), timer("good", "k"), timer("bad-2", "k")])
    await eventually(lambda: "good" in sink.accepted_ids and len(sink.received) == 3)
    await replica.schedule([timer("next", "k")])
    await eventually(lambda: "next" in sink.accepted_ids)
    (parked,) = await replica.pages(parked=True)
    assert sorted(found.timer.timer_id for found in parked) == ["bad-1", "bad-2"]
    assert {found.state for found in parked} == {pb.TIMER_STATE_PARKED}
    assert all(found.refusal for found in parked)
    async with asyncio.timeout(30):
        while await replica.pages(overdue=True) != [[]]:
            pass
    assert Counter(t.timer_id for t, _ in sink.received)["bad-1"] == 1
    found = await replica.stub.GetTimer(pb.GetTimerRequest(timer_id="bad-1", key="k"))
    assert found.state == pb.TIMER_STATE_PARKED
    # Parked or not, it can be forgotten.
    assert await replica.cancel(("bad-1", "k")) == 1


async def test_a_sink_that_is_down_gets_all_that_is_overdue_in_order_when_it_returns(
    scheduler, timer, sink, eventually
) -> None:
    await sink.stop()
    replica = await scheduler()
    start = now_us() - 20 * SECOND
    made = [timer(f"t{n:05}", due_us=start + n * 1_000) for n in range(10_000)]
    await replica.schedule(reversed(made))
    (overdue,) = await replica.pages(overdue=True, page_size=1_000, key="t00042")
    assert [found.timer.timer_id for found in overdue] == ["t00042"]
    await sink.start()
    await eventually(lambda: len(sink.accepted) >= 10_000)
    assert sorted(sink.accepted_ids) == [t.timer_id for t in made]
    for bucket in range(8):
        of_shard = [t.timer_id for t in sink.accepted if bucket_of(t.key, 8) == bucket]
        assert of_shard == sorted(of_shard)
    assert max(map(len, sink.batches)) <= 1_000
    # Batches, not timers one by one: the catching-up is a few calls for each shard.
    assert len(sink.batches) < 200


async def test_a_shard_whose_call_hangs_holds_up_no_other(scheduler, timer, sink, eventually) -> None:
    hanging = True
    sink.hang_on = lambda t: hanging and t.key == stuck
    (stuck,), (free,) = in_shard(1, 1), in_shard(2, 1)
    replica = await scheduler(sink_deadline_seconds=0.5)
    await replica.schedule([timer("stuck", stuck)])
    await eventually(lambda: bool(sink.received))
    await replica.schedule([timer(f"free-{n}", free) for n in range(3)])
    await eventually(lambda: len(sink.accepted) == 3)
    hanging = False
    await eventually(lambda: "stuck" in sink.accepted_ids)


@pytest.mark.parametrize("way", ["fail_on", "hang_on"])
async def test_a_timer_that_the_sink_chokes_on_holds_up_no_other_key_for_ever(
    scheduler, timer, sink, eventually, way
) -> None:
    poison, *others = in_shard(5, 8)
    setattr(sink, way, lambda t: t.key == poison)
    replica = await scheduler(sink_deadline_seconds=0.2)
    await replica.schedule([timer(poison, in_us=-SECOND), *(timer(key) for key in others)])
    await eventually(lambda: set(others) <= set(sink.accepted_ids))
    await replica.schedule([timer("later", others[0])])
    await eventually(lambda: "later" in sink.accepted_ids)


async def test_a_timer_written_behind_the_floor_of_reads_by_nobody_we_heard_fires_too(
    scheduler, timer, sink, eventually, scheduler_dsn
) -> None:
    """As another replica's would whose notice was lost: the sweep finds it."""
    replica = await scheduler(sweep_seconds=0.05)
    await replica.schedule([timer("first", "k")])
    await eventually(lambda: sink.accepted_ids == ["first"])
    database = await connect(scheduler_dsn, schema="scheduler")
    await database.execute(
        "INSERT INTO timers (bucket, timer_id, key, due_time, payload) VALUES ($1, 'x', 'k', clock_timestamp(), '')",
        bucket_of("k", 8),
    )
    await database.close()
    await eventually(lambda: "x" in sink.accepted_ids)


async def test_lateness_is_measured_and_shards_are_counted(scheduler, timer, sink, eventually) -> None:
    def count() -> float:
        return REGISTRY.get_sample_value("cairn_scheduler_timer_lateness_seconds_count") or 0

    before = count()
    replica = await scheduler()
    assert REGISTRY.get_sample_value("cairn_scheduler_shards_owned") == 8
    await replica.schedule([timer("a"), timer("b")])
    await eventually(lambda: count() == before + 2)
    await asyncio.wait_for(replica.stop(), 10)
    assert REGISTRY.get_sample_value("cairn_scheduler_shards_owned") == 0


async def test_a_timer_that_is_canceled_when_it_is_in_memory_already_does_not_fire(
    scheduler, timer, sink, eventually, monkeypatch
) -> None:
    # Both are read long before they are due.
    monkeypatch.setattr("cairn.scheduler.shard.READ_AHEAD_US", 10 * SECOND)
    replica = await scheduler(sweep_seconds=0.05)
    await replica.schedule([timer("canceled", "k", in_us=4 * SECOND), timer("kept", "k", in_us=4 * SECOND)])
    await asyncio.sleep(0.3)
    assert await replica.cancel(("canceled", "k")) == 1
    await eventually(lambda: "kept" in sink.accepted_ids)
    assert sink.accepted_ids == ["kept"]


async def test_a_timer_that_another_replica_accepts_goes_before_later_ones_that_are_in_memory(
    scheduler, timer, sink, eventually, scheduler_dsn, monkeypatch
) -> None:
    monkeypatch.setattr("cairn.scheduler.shard.READ_AHEAD_US", 10 * SECOND)
    replica = await scheduler(sweep_seconds=60)
    database = await connect(scheduler_dsn, schema="scheduler")
    due = now_us() + 4 * SECOND
    await replica.schedule([timer("later", "k", due_us=due + 1_000)])
    await asyncio.sleep(0.3)
    async with database.transaction():
        await database.execute(
            "INSERT INTO timers (bucket, timer_id, key, due_time, payload) VALUES ($1, 'earlier', 'k', $2, '')",
            bucket_of("k", 8),
            to_datetime(due),
        )
        await database.execute(
            "SELECT pg_notify($1, $2)", NOTICE_CHANNEL, next(render_notices({bucket_of("k", 8): due}))
        )
    await database.close()
    await eventually(lambda: len(sink.accepted) == 2)
    assert sink.accepted_ids == ["earlier", "later"]


async def test_few_timers_of_many_shards_go_in_one_call(scheduler, timer, sink, eventually) -> None:
    replica = await scheduler(gather_milliseconds=200)
    keys = [in_shard(bucket, 1)[0] for bucket in range(8)]
    start = now_us() + 3 * SECOND
    await replica.schedule([timer(key, due_us=start + n * 1_000) for n, key in enumerate(keys)])
    await eventually(lambda: len(sink.accepted) == 8)
    assert len(sink.batches) <= 3
    assert sink.early() == []
