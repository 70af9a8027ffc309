"""What a shard remembers: what is due soon, which keys wait, where reads begin, and when it looks again."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from cairn.scheduler.shard import (
    FLOOR_SLACK_US,
    FULL_READ_US,
    MAX_HELD_KEYS,
    READ_AHEAD_US,
    READ_SIZE,
    ReadPlan,
    Shard,
    backoff_us,
)
from cairn.scheduler.timer import MAX_FIRE_BATCH, Timer

NOW = 1_767_225_600_000_000
SECOND = 1_000_000
MS = 1_000


def timer(name: str, due_us: int = NOW, key: str | None = None) -> Timer:
    return Timer(name, key or name, due_us, b"")


def made() -> Shard:
    return Shard(0, SECOND)


def read(shard: Shard, now_us: int, due: list[Timer], next_due_us: int | None = None) -> None:
    shard.note_read(shard.begin_read(now_us), now_us, due, next_due_us)


def names(timers: list[Timer]) -> list[str]:
    return [each.timer_id for each in timers]


@given(st.integers(0, 1023), st.integers(1, 200))
def test_a_backoff_is_never_none_and_never_more_than_two_seconds(bucket: int, attempts: int) -> None:
    assert 37_500 <= backoff_us(bucket, attempts) <= 2 * SECOND


def test_backoffs_grow_and_differ_between_shards() -> None:
    growing = [backoff_us(3, attempts) for attempts in range(1, 7)]
    assert growing == sorted(growing)
    assert len({backoff_us(bucket, 10) for bucket in range(8)}) > 4


# Sending


def test_a_timer_is_sent_when_it_is_due_and_not_before() -> None:
    shard = made()
    read(shard, NOW, [timer("a", NOW + 5), timer("b", NOW + 6)])
    assert shard.wake_us(NOW) == NOW + 5
    assert shard.take(NOW + 4) == []
    assert names(shard.take(NOW + 5)) == ["a"]
    assert names(shard.take(NOW + SECOND)) == ["b"]
    assert shard.take(NOW + SECOND) == []


def test_a_batch_holds_a_key_once_and_each_key_keeps_its_order() -> None:
    shard = made()
    due = [timer(str(n), NOW + n, key) for n, key in enumerate("aabacb")]
    read(shard, NOW, due)
    batches = []
    while batch := shard.take(NOW + SECOND):
        batches.append(names(batch))
        shard.settled(batch)
    assert batches == [["0", "2", "4"], ["1", "5"], ["3"]]


def test_a_batch_is_no_larger_than_a_call_may_be() -> None:
    shard = made()
    read(shard, NOW, [timer(str(n)) for n in range(MAX_FIRE_BATCH + 1)])
    assert len(shard.take(NOW)) == MAX_FIRE_BATCH
    assert len(shard.take(NOW)) == 1


def test_what_was_sent_comes_with_no_read_until_its_row_is_deleted() -> None:
    shard = made()
    sent = [timer("sent")]
    read(shard, NOW, sent)
    shard.settled(shard.take(NOW))
    read(shard, NOW, sent)
    assert shard.take(NOW) == []
    plan = shard.begin_read(NOW)
    shard.deleted(shard.take_settled())
    # The read began before the row was gone.
    shard.note_read(plan, NOW, sent, None)
    assert shard.take(NOW) == []
    # Never used again is the id of a timer; but one that comes back is a timer.
    read(shard, NOW, sent)
    assert names(shard.take(NOW)) == ["sent"]


def test_what_could_not_be_deleted_is_tried_again() -> None:
    shard = made()
    read(shard, NOW, [timer("a")])
    shard.settled(shard.take(NOW))
    ids = shard.take_settled()
    assert (ids, shard.count_settled) == (["a"], 0)
    shard.settle_again(ids)
    assert (shard.take_settled(), shard.count_settled) == (["a"], 0)


def test_a_canceled_timer_is_not_sent_also_when_a_read_under_way_still_saw_it() -> None:
    shard = made()
    read(shard, NOW, [timer("a", NOW + 5), timer("b", NOW + 6)])
    shard.forget(["a", "never"])
    assert names(shard.take(NOW + 10)) == ["b"]
    plan = shard.begin_read(NOW)
    shard.forget(["c"])
    shard.note_read(plan, NOW, [timer("c"), timer("d")], None)
    assert names(shard.take(NOW)) == ["d"]


# Reading


@pytest.mark.parametrize(
    ("next_due", "noticed", "expected"),
    [
        (None, None, SECOND),
        (60 * SECOND, None, SECOND),
        # Some time before what is known ends.
        (READ_AHEAD_US + 5, None, READ_AHEAD_US + 4 - 200 * MS),
        (None, 300 * MS, 290 * MS),
        (400 * MS, 300 * MS, 200 * MS - 1),
        (None, 60 * SECOND, SECOND),
        # Several that are accepted when they are due share a read.
        (None, 5, 20 * MS),
        (None, -SECOND, 20 * MS),
    ],
)
def test_the_next_read_is_in_time_for_what_is_known_and_within_a_sweep(
    next_due: int | None, noticed: int | None, expected: int
) -> None:
    shard = made()
    read(shard, NOW, [], None if next_due is None else NOW + next_due)
    if noticed is not None:
        shard.notice(NOW + noticed)
    if noticed is not None and next_due is not None:
        expected = min(expected, noticed - 10 * MS)
    assert shard.wake_us(NOW) == NOW + expected
    assert not shard.needs_read(NOW + expected - 1)
    assert shard.needs_read(NOW + expected)


def test_nothing_that_is_due_after_a_timer_that_was_not_read_is_sent_before_the_read() -> None:
    shard = made()
    read(shard, NOW, [timer("later", NOW + 50, "k")])
    shard.notice(NOW + 40)
    assert shard.take(NOW + SECOND) == []
    read(shard, NOW + 60, [timer("earlier", NOW + 40, "k"), timer("later", NOW + 50, "k")])
    assert names(shard.take(NOW + SECOND)) == ["earlier"]


def test_a_timer_that_is_accepted_while_a_read_is_under_way_is_read_soon() -> None:
    shard = made()
    plan = shard.begin_read(NOW)
    shard.notice(NOW + 100)
    shard.note_read(plan, NOW, [timer("a", NOW + 200)], None)
    assert shard.wake_us(NOW) <= NOW + 20 * MS
    assert shard.take(NOW + SECOND) == []


def test_a_long_backlog_is_read_in_parts_the_next_while_the_last_is_being_sent() -> None:
    shard = made()
    rows = [timer(f"{n:06}") for n in range(3 * READ_SIZE)]
    sent: list[str] = []
    reads = 0
    deleted: set[str] = set()
    while True:
        if shard.needs_read(NOW):
            plan = shard.begin_read(NOW)
            left = [row for row in rows if row.timer_id not in deleted]
            shard.note_read(plan, NOW, left[: plan.limit], None)
            reads += 1
        if not (batch := shard.take(NOW)):
            break
        assert len(batch) == MAX_FIRE_BATCH
        sent += names(batch)
        shard.settled(batch)
        if reads % 2:  # the deletes come after two reads
            continue
        ids = shard.take_settled()
        deleted.update(ids)
        shard.deleted(ids)
    assert sent == names(rows)
    assert reads <= 6


def test_reads_begin_a_little_before_the_earliest_timer_seen_and_now_and_then_at_the_beginning() -> None:
    shard = made()
    assert shard.begin_read(NOW).floor_us is None
    read(shard, NOW, [timer("a", NOW - 100)])
    assert shard.begin_read(NOW).floor_us == NOW - 100 - FLOOR_SLACK_US
    read(shard, NOW, [timer("a", NOW + 100)])
    assert shard.begin_read(NOW).floor_us == NOW - FLOOR_SLACK_US
    assert shard.begin_read(NOW + FULL_READ_US).floor_us is None


def test_a_timer_accepted_late_lowers_the_floor_also_while_a_read_is_under_way() -> None:
    shard = made()
    read(shard, NOW, [])
    shard.notice(NOW - 3600 * SECOND)
    assert shard.begin_read(NOW).floor_us == NOW - 3600 * SECOND
    plan = shard.begin_read(NOW)
    shard.notice(NOW - 7200 * SECOND)
    shard.note_read(plan, NOW, [], None)
    assert shard.begin_read(NOW).floor_us == NOW - 7200 * SECOND


def test_after_missed_notices_the_next_read_is_at_once_and_begins_at_the_beginning() -> None:
    shard = made()
    read(shard, NOW, [])
    assert not shard.needs_read(NOW)
    shard.forget_floor()
    assert shard.needs_read(NOW)
    assert shard.begin_read(NOW).floor_us is None


def test_memory_is_bounded() -> None:
    shard = made()
    assert shard.begin_read(NOW).limit == READ_SIZE
    read(shard, NOW, [timer(str(n)) for n in range(READ_SIZE)])
    assert not shard.needs_read(NOW)
    shard.take(NOW)
    assert shard.begin_read(NOW).limit == READ_SIZE + MAX_FIRE_BATCH


# Trouble


def test_a_retried_key_waits_longer_each_time_while_others_go_on() -> None:
    shard = made()
    waits = []
    now = NOW
    for _ in range(4):
        read(shard, now, [timer("a"), timer("a2", NOW, "a"), timer("b")])
        batch = shard.take(now)
        assert names(batch) == ["a", "b"] if not waits else ["a"]
        shard.settled(batch[1:])
        shard.retry(batch[:1], now)
        assert shard.is_troubled
        assert shard.take(now) == []
        assert shard.begin_read(now).held_keys == ("a",)
        assert not shard.blocked(now)
        wake = shard.wake_us(now)
        waits.append(wake - now)
        now = wake
        assert shard.needs_read(now)
        assert shard.begin_read(now).held_keys == ()
    assert waits == sorted(set(waits))
    read(shard, now, [timer("a")])
    shard.settled(shard.take(now))
    assert not shard.is_troubled


def test_a_key_that_waits_is_not_sent_when_a_read_under_way_brings_it() -> None:
    shard = made()
    read(shard, NOW, [timer("a", NOW, "k")])
    plan = shard.begin_read(NOW)
    shard.retry(shard.take(NOW), NOW)
    shard.note_read(plan, NOW, [timer("a", NOW, "k"), timer("b", NOW + 1, "k"), timer("c", NOW + 2)], None)
    assert names(shard.take(NOW + 10)) == ["c"]
    later = NOW + 5 * SECOND
    assert shard.take(later) == []
    read(shard, later, [timer("a", NOW, "k"), timer("b", NOW + 1, "k")])
    assert names(shard.take(later)) == ["a"]


def test_a_key_that_waits_is_read_when_its_time_is_over_also_after_a_read_without_it() -> None:
    shard = made()
    read(shard, NOW, [timer("a")])
    shard.retry(shard.take(NOW), NOW)
    until = shard.wake_us(NOW)
    read(shard, NOW + 1, [])
    assert shard.wake_us(NOW + 1) == until


def test_the_floor_stays_below_a_timer_that_waits_for_a_retry() -> None:
    shard = made()
    old = timer("a", NOW - 3600 * SECOND)
    shard.retry([old], NOW)
    read(shard, NOW, [timer("b")])
    floor = shard.begin_read(NOW).floor_us
    assert floor is not None
    assert floor <= old.due_us


def test_a_key_whose_timer_was_canceled_while_it_waited_is_forgotten() -> None:
    shard = made()
    shard.retry([timer("a", NOW - 3600 * SECOND)], NOW)
    read(shard, NOW + 120 * SECOND, [])
    assert not shard.is_troubled


def test_memory_of_retries_is_bounded_and_beyond_it_the_shard_waits() -> None:
    shard = made()
    shard.retry([timer(f"k{n}") for n in range(MAX_HELD_KEYS)], NOW)
    assert not shard.blocked(NOW)
    shard.retry([timer(f"more{n}") for n in range(1_000)], NOW)
    assert len(shard.begin_read(NOW).held_keys) == MAX_HELD_KEYS
    assert shard.blocked(NOW)
    assert not shard.blocked(shard.wake_us(NOW))


def test_a_sink_that_is_down_makes_the_shard_wait_longer_each_time_until_it_answers() -> None:
    shard = made()
    waits = []
    for _ in range(5):
        read(shard, NOW, [timer("a")])
        shard.failed(NOW, shard.take(NOW))
        assert shard.blocked(NOW)
        waits.append(shard.wake_us(NOW) - NOW)
    assert waits == sorted(set(waits))
    shard.answered()
    shard.failed(NOW)
    assert shard.wake_us(NOW) - NOW == waits[0]
    # What was sent in vain is read again.
    read(shard, NOW, [timer("a")])
    assert names(shard.take(NOW)) == ["a"]


def test_a_batch_that_the_sink_fails_on_shrinks_until_the_culprit_is_alone_and_then_only_it_waits() -> None:
    shard = made()
    rows = [timer(f"t{n}") for n in range(8)]
    sizes = []
    now = NOW
    while True:
        read(shard, now, rows)
        batch = shard.take(now)
        shard.choked(batch, now)
        if len(batch) == 1:
            break
        now = shard.wake_us(now)
        sizes.append(len(batch))
    assert sizes == [8, 4, 2]
    assert not shard.blocked(now)
    assert shard.begin_read(now).held_keys == ("t0",)
    read(shard, now, rows)
    assert names(shard.take(now)) == ["t1"]
    for _ in range(12):
        shard.answered()
    read(shard, now, [timer(str(n)) for n in range(MAX_FIRE_BATCH)])
    assert len(shard.take(now)) == MAX_FIRE_BATCH


def test_a_timer_that_is_parked_comes_with_no_read_under_way() -> None:
    shard = made()
    read(shard, NOW, [timer("a")])
    batch = shard.take(NOW)
    plan = shard.begin_read(NOW)
    shard.parked(batch)
    shard.note_read(plan, NOW, batch, None)
    assert shard.take(NOW) == []


class AnyOrder(RuleBasedStateMachine):
    """Whatever happens in whatever order while reads and calls are under way: a key's timers are taken by the sink in order of due
    time, none before it is due, none that was canceled, and at the end all."""

    def __init__(self) -> None:
        super().__init__()
        self.shard = made()
        self.now = NOW
        self.rows: dict[str, Timer] = {}
        self.taken: list[Timer] = []
        self.canceled: set[str] = set()
        self.made = 0
        self.seen: tuple[ReadPlan, int, list[Timer], int | None] | None = None
        self.sent: list[Timer] = []

    @rule(key=st.sampled_from("ab"), in_us=st.sampled_from([0, 10 * MS, 300 * MS, 1_500 * MS]))
    def accept(self, key: str, in_us: int) -> None:
        # Above all that was accepted for the key before: what comes late can't be in order.
        due = max([self.now + in_us, *(row.due_us + 1 for row in self.rows.values() if row.key == key)])
        self.made += 1
        row = timer(str(self.made), due, key)
        self.rows[row.timer_id] = row
        self.shard.notice(due)

    @precondition(lambda self: self.rows)
    @rule(number=st.integers(0, 1000))
    def cancel(self, number: int) -> None:
        name = sorted(self.rows)[number % len(self.rows)]
        if name in names(self.sent):
            return
        self.canceled.add(name)
        del self.rows[name]
        self.shard.forget([name])

    @rule(us=st.sampled_from([MS, 45 * MS, 300 * MS, SECOND]))
    def wait(self, us: int) -> None:
        self.now += us

    @precondition(lambda self: self.seen is None)
    @rule()
    def begin_read(self) -> None:
        plan = self.shard.begin_read(self.now)
        rows = sorted(self.rows.values(), key=lambda row: row.due_us)
        due = [
            row for row in rows
            if (plan.floor_us is None or row.due_us >= plan.floor_us)
            and row.due_us <= plan.until_us and row.key not in plan.held_keys
        ]  # fmt: skip
        later = [row.due_us for row in rows if row.due_us > plan.until_us]
        self.seen = plan, self.now, due[: plan.limit], min(later, default=None)

    @precondition(lambda self: self.seen is not None)
    @rule()
    def end_read(self) -> None:
        assert self.seen is not None
        self.shard.note_read(*self.seen)
        self.seen = None

    @precondition(lambda self: not self.sent)
    @rule()
    def send(self) -> None:
        if not self.shard.blocked(self.now):
            self.sent = self.shard.take(self.now)
            assert all(each.due_us <= self.now for each in self.sent)
            assert not self.canceled.intersection(names(self.sent))
            assert len({each.key for each in self.sent}) == len(self.sent)

    @precondition(lambda self: self.sent)
    @rule(answer=st.sampled_from(["accepted", "retry", "mixed", "down"]))
    def answer(self, answer: str) -> None:
        sent, self.sent = self.sent, []
        if answer == "down":
            self.shard.failed(self.now, sent)
            return
        self.shard.answered()
        wanted = {"accepted": [], "retry": sent, "mixed": sent[:1]}[answer]
        done = [each for each in sent if each not in wanted]
        self.taken += done
        self.shard.settled(done)
        self.shard.retry(wanted, self.now)

    @rule(fails=st.booleans())
    def delete(self, fails: bool) -> None:
        ids = self.shard.take_settled()
        if fails:
            self.shard.settle_again(ids)
        else:
            for name in ids:
                self.rows.pop(name, None)
            self.shard.deleted(ids)

    @invariant()
    def each_key_is_in_order_and_none_comes_twice(self) -> None:
        assert len(set(names(self.taken))) == len(self.taken)
        for key in "ab":
            due = [each.due_us for each in self.taken if each.key == key]
            assert due == sorted(due)

    def teardown(self) -> None:
        if self.seen:
            self.end_read()
        if self.sent:
            self.answer("accepted")
        self.delete(fails=False)
        # As the relay does: from one alarm to the next, with a sink that takes all.
        for _ in range(100):
            if not self.rows:
                return
            self.now = max(self.now, self.shard.wake_us(self.now))
            if self.shard.needs_read(self.now):
                self.begin_read()
                self.end_read()
            self.send()
            if self.sent:
                self.answer("accepted")
            self.delete(fails=False)
            self.each_key_is_in_order_and_none_comes_twice()
        raise AssertionError(f"never sent: {list(self.rows.values())}")


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=60)
