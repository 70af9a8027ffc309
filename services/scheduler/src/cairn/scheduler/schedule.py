"""Owns the words of schedules, and what is due of one when. Pure: every time is an argument, microseconds since the epoch."""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple

from cairn.journey.cron import Cron

NAME_PREFIX = "schedules/"

MAX_NAME_LENGTH = 128
"""Characters of a schedule's id."""

MAX_REQUEST_ID_BYTES = 128

MISSED_AFTER_US = 60_000_000
"""A time that is longer past than this was missed; until then it is merely late."""

REQUESTS_KEPT_US = 7 * 86_400_000_000
"""How long a request id is known again after it fired."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What a caller says of a schedule. `schedule_id` is without the prefix of its resource name."""

    schedule_id: str
    cron: str
    time_zone: str
    skip_missed: bool
    payload: bytes


class StoredSchedule(NamedTuple):
    """A schedule as it is kept: what was said of it, then where it is.

    `next_due_us` is None when no time is left. While `firing`, that time is on its way to the sink. `last_due_us` is the
    last time that was settled, `last_fired_us` when the sink last took a firing; None before there was one.
    """

    schedule_id: str
    cron: str
    time_zone: str
    skip_missed: bool
    payload: bytes
    generation: int
    next_due_us: int | None
    firing: bool
    last_due_us: int | None
    last_fired_us: int | None


@dataclass(frozen=True, slots=True)
class Move:
    """What becomes of a schedule whose time has come: its new `next_due_us`, and whether that is fired now."""

    next_due_us: int | None
    fires: bool


@dataclass(frozen=True, slots=True)
class Firing:
    """One firing that is on its way to the sink: of a schedule's own time, or of a request when there is a `request_id`."""

    fire_id: str
    schedule_id: str
    due_us: int
    payload: bytes
    generation: int = 0
    request_id: str = ""


def resource_name(schedule_id: str) -> str:
    """`schedules/{id}`."""
    return NAME_PREFIX + schedule_id


def move(schedule: StoredSchedule, cron: Cron, now_us: int) -> Move | None:
    """What to do with a schedule that is due (`next_due_us` is not later than now); None when it stays as it is.

    Times that were missed are made up for by one firing, of the latest of them; with `skip_missed` by none, and one that was late
    already when it was first tried is given up when it becomes a missed one.
    """
    due_us = schedule.next_due_us
    if due_us is None:
        return None
    latest_us = due_us if schedule.firing else latest_due(cron, due_us, now_us)
    if schedule.skip_missed and now_us - latest_us > MISSED_AFTER_US:
        return Move(cron.next_us(now_us), fires=False)
    return None if schedule.firing else Move(latest_us, fires=True)


def latest_due(cron: Cron, due_us: int, now_us: int) -> int:
    """The last of a cron's times that is not later than now, given an earlier one of them. Looks at few, however many there are."""
    latest_us, clear_from_us = due_us, max(now_us, due_us)
    # Nothing is due later than `clear_from_us` and by now; the gap is halved until it is empty.
    while latest_us < clear_from_us:
        middle_us = (latest_us + clear_from_us) // 2
        following_us = cron.next_us(middle_us)
        if following_us is not None and following_us <= now_us:
            latest_us = following_us
        else:
            clear_from_us = middle_us
    return latest_us


def own_firing(schedule: StoredSchedule, due_us: int) -> Firing:
    """The firing of one of the schedule's own times."""
    fire_id = _fire_id("time", schedule.schedule_id, str(schedule.generation), str(due_us))
    return Firing(fire_id, schedule.schedule_id, due_us, schedule.payload, generation=schedule.generation)


def requested_firing(schedule_id: str, request_id: str, due_us: int, payload: bytes) -> Firing:
    """The firing that a caller asked for at `due_us`, which is kept with the request."""
    fire_id = _fire_id("request", schedule_id, request_id, str(due_us))
    return Firing(fire_id, schedule_id, due_us, payload, request_id=request_id)


def _fire_id(*parts: str) -> str:
    """The same for each repetition of one firing and for no other; part of what is promised to sinks, so it never changes."""
    return "f" + hashlib.blake2b("\0".join(parts).encode(), digest_size=16).hexdigest()
