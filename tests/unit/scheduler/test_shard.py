"""What a shard remembers: where reads begin, which keys wait, and when it looks again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.scheduler.shard import (
    FLOOR_SLACK_US,
    FULL_READ_US,
    MAX_HELD_KEYS,
    Shard,
    backoff_us,
)
from cairn.scheduler.timer import MAX_FIRE_BATCH, Timer, waves

NOW = 1_767_225_600_000_000
SECOND = 1_000_000


def timer(name: str, due_us: int = NOW, key: str | None = None) -> Timer:
    return Timer(name, key or name, due_us, b"")


def read(shard: Shard, now_us: int, due: list[Timer], next_due_us: int | None = None) -> None:
    shard.note_read(shard.begin_read(now_us), now_us, due, next_due_us)


@given(st.integers(0, 1023), st.integers(1, 200))
def test_a_backoff_is_never_none_and_never_more_than_two_seconds(bucket: int, attempts: int) -> None:
    assert 37_500 <= backoff_us(bucket, attempts) <= 2 * SECOND


def test_backoffs_grow_and_differ_between_shards() -> None:
    growing = [backoff_us(3, attempts) for attempts in range(1, 7)]
    assert growing == sorted(growing)
    assert len({backoff_us(bucket, 10) for bucket in range(8)}) > 4


@pytest.mark.parametrize(
    ("next_due", "noticed", "expected"),
    [
        (None, None, NOW + SECOND),
        (NOW + 5, None, NOW + 5),
        (NOW + 60 * SECOND, None, NOW + SECOND),
        (NOW + 500, NOW + 20, NOW + 20),
        (None, NOW - 5, NOW - 5),
    ],
)
def test_it_wakes_for_the_earliest_timer_or_the_sweep(
    next_due: int | None, noticed: int | None, expected: int
) -> None:
    shard = Shard(0)
    read(shard, NOW, [], next_due)
    if noticed is not None:
        shard.notice(noticed)
    assert shard.wake_us(NOW, SECOND) == expected


def test_reads_begin_a_little_before_the_earliest_timer_seen_and_now_and_then_at_the_beginning() -> None:
    shard = Shard(0)
    assert shard.begin_read(NOW).floor_us is None
    read(shard, NOW, [timer("a", NOW - 100)])
    assert shard.begin_read(NOW).floor_us == NOW - 100 - FLOOR_SLACK_US
    assert shard.begin_read(NOW + FULL_READ_US).floor_us is None


def test_a_timer_accepted_late_lowers_the_floor_also_while_a_read_is_under_way() -> None:
    shard = Shard(0)
    read(shard, NOW, [])
    shard.notice(NOW - 3600 * SECOND)
    assert shard.begin_read(NOW).floor_us == NOW - 3600 * SECOND
    plan = shard.begin_read(NOW)
    shard.notice(NOW - 7200 * SECOND)
    shard.note_read(plan, NOW, [], None)
    assert shard.begin_read(NOW).floor_us == NOW - 7200 * SECOND


def test_after_missed_notices_the_next_read_begins_at_the_beginning() -> None:
    shard = Shard(0)
    read(shard, NOW, [])
    shard.forget_floor()
    assert shard.begin_read(NOW).floor_us is None


def test_a_retried_key_waits_longer_each_time_while_others_go_on() -> None:
    shard = Shard(0)
    read(shard, NOW, [timer("a")])
    waits = []
    now = NOW
    for _ in range(4):
        shard.retry([timer("a")], now)
        assert shard.begin_read(now).held_keys == ("a",)
        assert not shard.blocked(now)
        wake = shard.wake_us(now, 10 * SECOND)
        waits.append(wake - now)
        now = wake
        assert shard.begin_read(now).held_keys == ()
    assert waits == sorted(set(waits))
    shard.settled([timer("a")])
    shard.retry([timer("a")], now)
    assert shard.wake_us(now, 10 * SECOND) - now == waits[0]


def test_the_floor_stays_below_a_timer_that_waits_for_a_retry() -> None:
    shard = Shard(0)
    old = timer("a", NOW - 3600 * SECOND)
    shard.retry([old], NOW)
    read(shard, NOW, [timer("b")])
    floor = shard.begin_read(NOW).floor_us
    assert floor is not None
    assert floor <= old.due_us


def test_memory_of_retries_is_bounded_and_beyond_it_the_shard_waits() -> None:
    shard = Shard(0)
    shard.retry([timer(f"k{n}") for n in range(MAX_HELD_KEYS)], NOW)
    assert not shard.blocked(NOW)
    shard.retry([timer(f"more{n}") for n in range(1_000)], NOW)
    assert len(shard.begin_read(NOW).held_keys) == MAX_HELD_KEYS
    assert shard.blocked(NOW)
    assert not shard.blocked(shard.wake_us(NOW, 10 * SECOND))


def test_a_sink_that_is_down_makes_the_shard_wait_longer_each_time_until_it_answers() -> None:
    shard = Shard(0)
    waits = []
    for _ in range(5):
        shard.failed(NOW)
        assert shard.blocked(NOW)
        waits.append(shard.wake_us(NOW, 1) - NOW)
    assert waits == sorted(set(waits))
    shard.answered()
    shard.failed(NOW)
    assert shard.wake_us(NOW, 1) - NOW == waits[0]


def test_a_batch_that_the_sink_fails_on_shrinks_until_the_culprit_is_alone_and_then_only_it_waits() -> None:
    shard = Shard(0)
    due = [timer(f"t{n}") for n in range(8)]
    sizes = []
    now = NOW
    while len(due) > 1:
        shard.choked(due, now)
        now = shard.wake_us(now, 1)
        due = due[: shard.begin_read(now).limit]
        sizes.append(len(due))
    assert sizes == [4, 2, 1]
    shard.choked(due, now)
    assert not shard.blocked(now)
    assert shard.begin_read(now).held_keys == ("t0",)
    for _ in range(12):
        shard.answered()
    assert shard.begin_read(now).limit == MAX_FIRE_BATCH


@given(st.lists(st.sampled_from("abc")))
def test_waves_lose_none_hold_a_key_once_and_keep_each_keys_order(keys: list[str]) -> None:
    timers = [timer(str(n), NOW + n, key) for n, key in enumerate(keys)]
    spread = waves(timers)
    assert all(spread)
    assert all(len({t.key for t in wave}) == len(wave) for wave in spread)
    for key in "abc":
        sent = [t for wave in spread for t in wave if t.key == key]
        assert sent == [t for t in timers if t.key == key]
