"""What is refused, and alone; what is rounded, and which way; pages that begin where the last one ended."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.postgres.bucket import bucket_of
from cairn.runtime.errors import CairnError
from cairn.scheduler import wire
from cairn.scheduler.timer import MAX_BATCH, PageStart, State, StoredTimer, Timer

DUE = Timestamp(seconds=1_767_225_600)


def made(**changes: object) -> pb.Timer:
    fields: dict[str, object] = {"timer_id": "t", "key": "k", "due_time": DUE, "payload": b"p"}
    return pb.Timer(**{name: value for name, value in {**fields, **changes}.items() if value is not None})


@pytest.mark.parametrize(
    ("timer", "words"),
    [
        (made(timer_id=""), "timer_id is missing"),
        (made(timer_id="x" * 257), "timer_id has 257 bytes; at most 256 are taken"),
        (made(timer_id="é" * 129), "timer_id has 258 bytes; at most 256 are taken"),
        (made(timer_id="a\x00b"), "timer_id contains a NUL character"),
        (made(key=""), "key is missing"),
        (made(key="x" * 257), "key has 257 bytes; at most 256 are taken"),
        (made(due_time=None), "due_time is missing"),
        (made(due_time=Timestamp(seconds=253_402_300_800)), "due_time is no time of the years 1 to 9999"),
        (made(due_time=Timestamp(seconds=-62_135_596_801)), "due_time is no time of the years 1 to 9999"),
        (made(due_time=Timestamp(nanos=1_000_000_000)), "due_time is no time of the years 1 to 9999"),
        (made(due_time=Timestamp(nanos=-1)), "due_time is no time of the years 1 to 9999"),
        (made(payload=b"x" * 1025), "payload has 1,025 bytes; at most 1,024 are taken"),
    ],
)
def test_a_malformed_timer_is_refused_alone_by_its_index(timer: pb.Timer, words: str) -> None:
    request = pb.ScheduleTimersRequest(timers=[made(timer_id="before"), timer, made(timer_id="after")])
    buckets, refusals = wire.parse_timers(request, 8)
    assert [(r.index, r.reason, r.message) for r in refusals] == [
        (1, ErrorReason.ERROR_REASON_TIMER_INVALID, words)
    ]
    assert [ids for new in buckets.values() for ids in new.timer_ids] == ["before", "after"]


@pytest.mark.parametrize("size", [256, 1])
def test_the_limits_themselves_are_taken(size: int) -> None:
    assert (
        wire.timer_problem(made(timer_id="x" * size, key="é" * (size // 2) or "k", payload=b"x" * 1024)) == ""
    )


@given(seconds=st.integers(-62_135_596_800, 253_402_300_798), nanos=st.integers(0, 999_999_999))
def test_a_due_time_is_never_rounded_to_before_itself(seconds: int, nanos: int) -> None:
    request = pb.ScheduleTimersRequest(timers=[made(due_time=Timestamp(seconds=seconds, nanos=nanos))])
    buckets, refusals = wire.parse_timers(request, 8)
    assert not refusals
    (new,) = buckets.values()
    assert new.earliest_us is not None
    assert 0 <= new.earliest_us * 1_000 - (seconds * 10**9 + nanos) < 1_000


def test_timers_are_grouped_by_the_bucket_of_their_key_in_the_order_given() -> None:
    request = pb.ScheduleTimersRequest(timers=[made(timer_id=f"t{n}", key=f"k{n % 5}") for n in range(50)])
    buckets, _ = wire.parse_timers(request, 8)
    for bucket, new in buckets.items():
        assert {bucket_of(key, 8) for key in new.keys} == {bucket}
        numbers = [int(timer_id[1:]) for timer_id in new.timer_ids]
        assert numbers == sorted(numbers)
    assert sum(len(new.keys) for new in buckets.values()) == 50


@pytest.mark.parametrize("count", [0, MAX_BATCH + 1])
def test_an_empty_or_too_large_batch_is_refused_as_a_whole(count: int) -> None:
    with pytest.raises(CairnError, match="1 to 10,000") as refused:
        wire.parse_timers(pb.ScheduleTimersRequest(timers=[made()] * count), 8)
    assert [violation.field for violation in refused.value.violations] == ["timers"]
    with pytest.raises(CairnError, match="1 to 10,000"):
        wire.parse_keys(pb.CancelTimersRequest(timers=[pb.TimerKey(timer_id="t", key="k")] * count), 8)


def test_what_cannot_have_been_accepted_is_not_known_when_it_is_canceled() -> None:
    keys = [
        pb.TimerKey(key="k"),
        pb.TimerKey(timer_id="t"),
        pb.TimerKey(timer_id="\x00", key="k"),
        pb.TimerKey(timer_id="t", key="k"),
    ]
    assert wire.parse_keys(pb.CancelTimersRequest(timers=keys), 8) == {bucket_of("k", 8): ["t"]}


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (pb.ListTimersRequest(page_size=-1), "page_size"),
        (pb.ListTimersRequest(page_size=1001), "page_size"),
        (pb.ListTimersRequest(page_token="x"), "page_token"),
        (pb.ListTimersRequest(page_token="MTpiOmM="), "page_token"),
        (pb.ListTimersRequest(page_token="OTk5OTk5OTk5OTk5OTk5OTk5OTk6MTp0"), "page_token"),
        (pb.ListTimersRequest(key="x" * 300), "key"),
        (pb.ListTimersRequest(overdue=True, parked=True), "overdue"),
    ],
)
def test_a_list_that_makes_no_sense_is_refused_by_field(request_: pb.ListTimersRequest, field: str) -> None:
    def parse() -> None:
        wire.parse_page(request_)
        wire.parse_filter(request_, 0)

    with pytest.raises(CairnError) as refused:
        parse()
    assert [violation.field for violation in refused.value.violations] == [field]


@given(
    due_us=st.integers(0, 4 * 10**15),
    bucket=st.integers(0, 1023),
    timer_id=st.text(
        st.characters(exclude_characters="\x00", exclude_categories=("Cs",)), min_size=1, max_size=64
    ),
)
def test_the_next_page_begins_where_the_last_one_ended(due_us: int, bucket: int, timer_id: str) -> None:
    found = [StoredTimer(Timer(timer_id, "k", due_us, b""), bucket, State.PENDING, "")] * 2
    page = wire.render_page(found, 1)
    assert len(page.timers) == 1
    _, start = wire.parse_page(pb.ListTimersRequest(page_token=page.next_page_token))
    assert start == PageStart(due_us, bucket, timer_id)
    assert not wire.render_page(found, 2).next_page_token


@given(st.dictionaries(st.integers(0, 1023), st.integers(0, 253_402_300_799_000_000)))
def test_notices_say_all_and_fit_a_payload_of_postgres(due_us: dict[int, int]) -> None:
    payloads = list(wire.render_notices(due_us))
    assert all(len(payload) < 8_000 for payload in payloads)
    assert {bucket: due for payload in payloads for bucket, due in wire.parse_notices(payload)} == due_us


def test_the_largest_notice_fits_a_payload_and_a_foreign_one_is_ignored() -> None:
    payloads = list(wire.render_notices(dict.fromkeys(range(1_024), 253_402_300_799_000_000)))
    assert all(len(payload) < 8_000 for payload in payloads)
    assert wire.parse_notices("hello") == []


@given(
    st.lists(
        st.builds(
            Timer,
            st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8),
            st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=8),
            st.integers(-62_135_596_800_000_000, 253_402_300_799_000_000),
            st.binary(max_size=8),
        ),
        max_size=5,
    )
)
def test_the_sink_gets_timers_as_readers_do(timers: list[Timer]) -> None:
    assert list(wire.render_fire(timers).timers) == [wire.render_timer(each) for each in timers]
