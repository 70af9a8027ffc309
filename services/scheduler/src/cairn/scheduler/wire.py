"""Owns the way between the wire (protobuf, notices) and the domain. Refuses what is malformed, item by item."""

import base64
import binascii
from collections.abc import Iterable, Iterator, Mapping, Sequence

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.postgres.bucket import bucket_of
from cairn.runtime.clock import to_datetime, to_timestamp
from cairn.runtime.errors import FieldViolation, invalid
from cairn.scheduler.timer import (
    MAX_BATCH,
    MAX_ID_BYTES,
    MAX_PAYLOAD_BYTES,
    NewTimers,
    PageStart,
    State,
    StoredTimer,
    Timer,
    TimerFilter,
)

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000

OVERDUE_AFTER_US = 1_000_000
"""A timer counts as overdue when it was due this long ago."""

_FIRST_SECOND = -62_135_596_800
_LAST_SECOND = 253_402_300_799 - 1  # a second short of the year 10000, for what rounding up may add
_NANOS = 1_000_000_000
_SHORT_ID = MAX_ID_BYTES // 4  # so many characters fit, whatever they are
# A payload holds 7,999 bytes; an entry has at most 4 + 1 + 18 + 1.
_NOTICE_ENTRIES = 300
_STATES = {State.PENDING: pb.TIMER_STATE_PENDING, State.PARKED: pb.TIMER_STATE_PARKED}


def check_batch_size(count: int) -> None:
    """Refuse a whole batch that is empty or too large."""
    if not 1 <= count <= MAX_BATCH:
        problem = f"has {count:,} items; a batch has 1 to {MAX_BATCH:,}"
        raise invalid(f"timers {problem}. Send several calls.", [FieldViolation("timers", problem)])


def parse_timers(
    request: pb.ScheduleTimersRequest, bucket_count: int
) -> tuple[dict[int, NewTimers], list[pb.TimerRefusal]]:
    """The well-formed timers by bucket, and a refusal for each of the others."""
    check_batch_size(len(request.timers))
    buckets: dict[int, NewTimers] = {}
    refusals = []
    for index, timer in enumerate(request.timers):
        # Each field is asked for once: asking costs more than all that is done with the answer.
        timer_id, key, due, payload = timer.timer_id, timer.key, timer.due_time, timer.payload
        seconds, nanos = due.seconds, due.nanos
        is_surely_fine = (
            0 < len(timer_id) <= _SHORT_ID
            and 0 < len(key) <= _SHORT_ID
            and 0 < seconds <= _LAST_SECOND
            and 0 <= nanos < _NANOS
            and len(payload) <= MAX_PAYLOAD_BYTES
            and "\x00" not in timer_id
            and "\x00" not in key
        )
        if not is_surely_fine and (problem := timer_problem(timer)):
            refusals.append(
                pb.TimerRefusal(index=index, reason=ErrorReason.ERROR_REASON_TIMER_INVALID, message=problem)
            )
            continue
        # Rounded up to what the database can hold: rounded down it would fire early.
        due_us = seconds * 1_000_000 + -(-nanos // 1_000)
        bucket = bucket_of(key, bucket_count)
        new = buckets.get(bucket)
        if new is None:
            new = buckets[bucket] = NewTimers()
        new.add(timer_id, key, due_us, payload)
    return buckets, refusals


def timer_problem(timer: pb.Timer) -> str:
    """What is wrong with a timer, in words; "" when nothing is."""
    problem = _id_problem("timer_id", timer.timer_id) or _id_problem("key", timer.key)
    if problem:
        return problem
    if not timer.HasField("due_time"):
        return "due_time is missing"
    due = timer.due_time
    if not (_FIRST_SECOND <= due.seconds <= _LAST_SECOND and 0 <= due.nanos < _NANOS):
        return "due_time is no time of the years 1 to 9999"
    if len(timer.payload) > MAX_PAYLOAD_BYTES:
        return f"payload has {len(timer.payload):,} bytes; at most {MAX_PAYLOAD_BYTES:,} are taken"
    return ""


def parse_keys(request: pb.CancelTimersRequest, bucket_count: int) -> dict[int, list[str]]:
    """The timers to forget, by bucket. One that can't have been accepted is not known, which is no error."""
    check_batch_size(len(request.timers))
    buckets: dict[int, list[str]] = {}
    for timer in request.timers:
        if not (_id_problem("timer_id", timer.timer_id) or _id_problem("key", timer.key)):
            buckets.setdefault(bucket_of(timer.key, bucket_count), []).append(timer.timer_id)
    return buckets


def check_timer_key(timer_id: str, key: str) -> None:
    """Refuse the name of a timer that can't exist, with each wrong field."""
    violations = [
        FieldViolation(field, problem.partition(" ")[2])
        for field, value in (("timer_id", timer_id), ("key", key))
        if (problem := _id_problem(field, value))
    ]
    if violations:
        raise invalid(
            "The timer's name is incomplete or malformed; give the id and the key it was scheduled with.",
            violations,
        )


def parse_filter(request: pb.ListTimersRequest, now_us: int) -> TimerFilter:
    """What a list is about. Overdue are pending ones only; with both flags, either."""
    if request.key and (problem := _id_problem("key", request.key)):
        raise invalid(f"{problem}.", [FieldViolation("key", problem.partition(" ")[2])])
    if request.overdue and request.parked:
        problem = "can't be combined with parked: an overdue timer is one that still fires"
        raise invalid(f"overdue {problem}.", [FieldViolation("overdue", problem)])
    return TimerFilter(
        key=request.key,
        pending=not request.parked,
        parked=not request.overdue,
        due_by_us=now_us - OVERDUE_AFTER_US if request.overdue else None,
    )


def parse_page(request: pb.ListTimersRequest) -> tuple[int, PageStart | None]:
    """The page's size and where it begins."""
    size = request.page_size or DEFAULT_PAGE_SIZE
    if not 1 <= size <= MAX_PAGE_SIZE:
        problem = f"is {size}; a page has 1 to {MAX_PAGE_SIZE:,} timers, 0 means {DEFAULT_PAGE_SIZE}"
        raise invalid(f"page_size {problem}.", [FieldViolation("page_size", problem)])
    if not request.page_token:
        return size, None
    try:
        due, bucket, timer_id = base64.urlsafe_b64decode(request.page_token).decode().split(":", 2)
        start = PageStart(int(due), int(bucket), timer_id)
        to_datetime(start.due_us)
        if not 0 <= start.bucket < 1 << 31 or _id_problem("timer_id", timer_id):
            raise ValueError
    except (ValueError, OverflowError, binascii.Error):
        problem = "is none that this call gave out; begin again without one"
        raise invalid(f"page_token {problem}.", [FieldViolation("page_token", problem)]) from None
    return size, start


def render_page(timers: Sequence[StoredTimer], size: int) -> pb.ListTimersResponse:
    """A page of at most `size`, given what was found: one timer more when there is another page."""
    response = pb.ListTimersResponse(
        timers=[
            pb.ListedTimer(timer=render_timer(found.timer), state=_STATES[found.state], refusal=found.refusal)
            for found in timers[:size]
        ]
    )
    if len(timers) > size:
        last = timers[size - 1]
        token = f"{last.timer.due_us}:{last.bucket}:{last.timer.timer_id}"
        response.next_page_token = base64.urlsafe_b64encode(token.encode()).decode()
    return response


def render_found(found: StoredTimer) -> pb.GetTimerResponse:
    """The answer to GetTimer."""
    return pb.GetTimerResponse(
        timer=render_timer(found.timer), state=_STATES[found.state], refusal=found.refusal
    )


def render_timer(timer: Timer) -> pb.Timer:
    """A timer as it came, but for a due time finer than a microsecond, which was rounded up."""
    return pb.Timer(
        timer_id=timer.timer_id, key=timer.key, due_time=to_timestamp(timer.due_us), payload=timer.payload
    )


def render_fire(timers: Iterable[Timer]) -> pb.FireTimersRequest:
    """Due timers as the sink gets them."""
    request = pb.FireTimersRequest()
    add = request.timers.add
    for timer in timers:
        # Filled in place: a message that is made first and then copied costs three times as much.
        rendered = add(timer_id=timer.timer_id, key=timer.key, payload=timer.payload)
        due, due_us = rendered.due_time, timer.due_us
        due.seconds, due.nanos = due_us // 1_000_000, due_us % 1_000_000 * 1_000
    return request


def render_notices(due_us: Mapping[int, int]) -> Iterator[str]:
    """The payloads that say of each shard when its earliest new timer is due, as "3:1767225600000000,5:..."."""
    entries = [f"{bucket}:{due}" for bucket, due in due_us.items()]
    for start in range(0, len(entries), _NOTICE_ENTRIES):
        yield ",".join(entries[start : start + _NOTICE_ENTRIES])


def parse_notices(payload: str) -> list[tuple[int, int]]:
    """Pairs of a shard and a due time; empty for a payload that is none of ours."""
    try:
        return [(int(bucket), int(due)) for bucket, _, due in (e.partition(":") for e in payload.split(","))]
    except ValueError:
        return []


def _id_problem(field: str, value: str) -> str:
    if not value:
        return f"{field} is missing"
    # Counting bytes costs an encoding: ask for it only when it can matter.
    if len(value) > _SHORT_ID and len(value.encode()) > MAX_ID_BYTES:
        return f"{field} has {len(value.encode())} bytes; at most {MAX_ID_BYTES} are taken"
    if "\x00" in value:
        return f"{field} contains a NUL character"
    return ""
