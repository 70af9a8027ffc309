"""Owns times of day in time zones: the first one at or after a moment, across changes of daylight saving."""

from collections.abc import Collection
from datetime import UTC, date, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cairn.journey.times import to_datetime

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_MICROSECOND: Final = timedelta(microseconds=1)
# Two weeks, should a zone leave out the only day that is asked for, and one that has passed already today.
_MOST_DAYS: Final = 16


def next_time_of_day(start_us: int, zone: str, minute: int, weekdays: Collection[int]) -> int:
    """The first moment at or after `start_us` at which a clock in the zone shows a time of day on one of the weekdays.

    `minute` counts from midnight; weekdays count from 0, Monday. A time that a change of clocks leaves out is the first
    instant after the gap, one that is repeated is its first, and a day that a zone left out has none. Raises OverflowError beyond the year 9999.
    """
    start = to_datetime(start_us)
    day = start.astimezone(_zone(zone)).date()
    for _ in range(_MOST_DAYS):
        moment, weekday = _moment(zone, day, minute)
        if moment >= start and weekday in weekdays:
            return (moment - _EPOCH) // _MICROSECOND
        day += timedelta(days=1)
    raise OverflowError("no such time of day within two weeks")


def wall_of(zone: str, time_us: int) -> datetime:
    """What a clock in the zone shows at a moment, written as if it were UTC. Raises OverflowError beyond the year 9999."""
    return to_datetime(time_us).astimezone(_zone(zone)).replace(tzinfo=UTC, fold=0)


def instant_of(zone: str, wall: datetime) -> datetime:
    """The moment, in UTC, at which a clock in the zone shows a wall time, which is naive: the first of two, the first instant after a gap."""
    tz = _zone(zone)
    local = wall.replace(tzinfo=tz, fold=0)
    moment = local.astimezone(UTC)
    if moment.astimezone(tz).replace(tzinfo=None) != wall:
        moment = _end_of_gap(tz, local)
    return moment


@lru_cache(maxsize=1024)
def is_time_zone(name: str) -> bool:
    """Whether an IANA time zone of that name exists."""
    if name == "localtime":
        # Another one on every machine.
        return False
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo:
    return ZoneInfo(name)


@lru_cache(maxsize=4096)
def _moment(zone: str, day: date, minute: int) -> tuple[datetime, int]:
    """The instant of a time of day, and its weekday; -1 when the zone's calendar has no such day."""
    moment = instant_of(zone, datetime.combine(day, time(minute // 60, minute % 60)))
    shown = moment.astimezone(_zone(zone))
    # A day that the zone left out altogether has no such time.
    return moment, shown.weekday() if shown.date() == day else -1


def _end_of_gap(tz: ZoneInfo, local: datetime) -> datetime:
    """The first instant after the gap in which a local time lies."""
    # Read with the offset before the gap the time lies past its end, read with the one after it before it.
    late = local.replace(fold=0).astimezone(UTC)
    early = local.replace(fold=1).astimezone(UTC)
    before = early.astimezone(tz).utcoffset()
    low, high = 0, (late - early) // _SECOND
    while high - low > 1:
        middle = (low + high) // 2
        if (early + middle * _SECOND).astimezone(tz).utcoffset() == before:
            low = middle
        else:
            high = middle
    return early + high * _SECOND
