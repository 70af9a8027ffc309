"""Owns the way of schedules between the wire and the domain. Refuses what is malformed, all that is wrong with it at once."""

import base64
import binascii
import re
from collections.abc import Sequence

from cairn.api.scheduler.v1 import scheduler_pb2 as pb
from cairn.journey.cron import Cron, CronError, parse_cron
from cairn.runtime.clock import to_timestamp
from cairn.runtime.errors import FieldViolation, invalid
from cairn.scheduler.schedule import (
    MAX_NAME_LENGTH,
    MAX_REQUEST_ID_BYTES,
    NAME_PREFIX,
    Firing,
    Schedule,
    StoredSchedule,
    resource_name,
)
from cairn.scheduler.timer import MAX_PAYLOAD_BYTES

DEFAULT_PAGE_SIZE = 100
MAX_PAGE_SIZE = 1_000

_ID = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_NAME_LENGTH}}}")
_NAME_RULE = (
    f"is not schedules/{{id}}; an id is 1 to {MAX_NAME_LENGTH} letters a to z, digits, `-`, `_` and `.`"
)


def parse_schedule(request: pb.PutScheduleRequest, now_us: int) -> tuple[Schedule, int]:
    """What is to be kept, and when it is due first from now on."""
    told = request.schedule
    violations = _name_violations("schedule.name", told.name)
    cron = _parse_times(told.cron, told.time_zone, violations)
    next_us = None if cron is None else cron.next_us(now_us)
    if cron is not None and next_us is None:
        violations.append(FieldViolation("schedule.cron", "has no time left before the calendar's end"))
    if len(told.payload) > MAX_PAYLOAD_BYTES:
        rule = f"has {len(told.payload):,} bytes; at most {MAX_PAYLOAD_BYTES:,} are taken"
        violations.append(FieldViolation("schedule.payload", rule))
    if violations or cron is None or next_us is None:
        raise invalid("The schedule can't be kept.", violations)
    schedule_id = told.name.removeprefix(NAME_PREFIX)
    return Schedule(schedule_id, cron.text, cron.time_zone, told.skip_missed, told.payload), next_us


def parse_name(name: str) -> str:
    """The id in a schedule's resource name."""
    if violations := _name_violations("name", name):
        raise invalid("That is no name of a schedule.", violations)
    return name.removeprefix(NAME_PREFIX)


def parse_run(request: pb.RunScheduleRequest) -> tuple[str, str]:
    """The ids of the schedule and of the request."""
    violations = _name_violations("name", request.name)
    request_id = request.request_id
    rule = f"is required: 1 to {MAX_REQUEST_ID_BYTES} bytes, the same for each repetition of the call"
    if not request_id or len(request_id.encode()) > MAX_REQUEST_ID_BYTES:
        violations.append(FieldViolation("request_id", rule))
    elif "\x00" in request_id:
        violations.append(FieldViolation("request_id", "contains a NUL character"))
    if violations:
        raise invalid("The schedule can't be run.", violations)
    return request.name.removeprefix(NAME_PREFIX), request_id


def parse_page(request: pb.ListSchedulesRequest) -> tuple[int, str]:
    """The page's size, and the id behind which it begins."""
    size = request.page_size or DEFAULT_PAGE_SIZE
    if not 1 <= size <= MAX_PAGE_SIZE:
        problem = f"is {size}; a page has 1 to {MAX_PAGE_SIZE:,} schedules, 0 means {DEFAULT_PAGE_SIZE}"
        raise invalid(f"page_size {problem}.", [FieldViolation("page_size", problem)])
    if not request.page_token:
        return size, ""
    try:
        after = base64.urlsafe_b64decode(request.page_token).decode()
        if not _ID.fullmatch(after):
            raise ValueError
    except (ValueError, binascii.Error):
        problem = "is none that this call gave out; begin again without one"
        raise invalid(f"page_token {problem}.", [FieldViolation("page_token", problem)]) from None
    return size, after


def render_page(schedules: Sequence[StoredSchedule], size: int) -> pb.ListSchedulesResponse:
    """A page of at most `size`, given what was found: one schedule more when there is another page."""
    response = pb.ListSchedulesResponse(schedules=map(render_schedule, schedules[:size]))
    if len(schedules) > size:
        last = schedules[size - 1].schedule_id
        response.next_page_token = base64.urlsafe_b64encode(last.encode()).decode()
    return response


def render_schedule(schedule: StoredSchedule) -> pb.Schedule:
    """A schedule as it is kept."""
    rendered = pb.Schedule(
        name=resource_name(schedule.schedule_id),
        cron=schedule.cron,
        time_zone=schedule.time_zone,
        skip_missed=schedule.skip_missed,
        payload=schedule.payload,
    )
    for time, us in (
        (rendered.next_time, schedule.next_due_us),
        (rendered.last_due_time, schedule.last_due_us),
        (rendered.last_fire_time, schedule.last_fired_us),
    ):
        if us is not None:
            time.CopyFrom(to_timestamp(us))
    return rendered


def render_firing(firing: Firing) -> pb.FireScheduleRequest:
    """A firing as the sink gets it."""
    return pb.FireScheduleRequest(
        fire_id=firing.fire_id,
        schedule=resource_name(firing.schedule_id),
        due_time=to_timestamp(firing.due_us),
        payload=firing.payload,
    )


def _parse_times(cron: str, time_zone: str, violations: list[FieldViolation]) -> Cron | None:
    """When a schedule is due; None when it can't be told, and then there are violations that say why."""
    try:
        return parse_cron(cron, time_zone)
    except CronError as error:
        violations.append(FieldViolation(f"schedule.{error.field}", str(error)))
        if error.field == "time_zone":
            # What is wrong with the cron is told as well.
            _parse_times(cron, "", violations)
    return None


def _name_violations(field: str, name: str) -> list[FieldViolation]:
    if name.startswith(NAME_PREFIX) and _ID.fullmatch(name.removeprefix(NAME_PREFIX)):
        return []
    return [FieldViolation(field, f"{name[:200]!r} {_NAME_RULE}" if name else f"is missing: it {_NAME_RULE}")]
