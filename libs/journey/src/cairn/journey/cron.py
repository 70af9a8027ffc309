"""Owns when a schedule is due: five fields of cron in a time zone, across changes of clocks.

The calendar is APScheduler's: its CronTrigger finds the next wall time that matches, in a calendar without changes of clocks, and only
here is that made an instant. (By itself it fires twice, or not at all, where clocks change, and counts weekdays from Monday.)
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from apscheduler.triggers.cron import CronTrigger

from cairn.journey.calendar import instant_of, is_time_zone, wall_of
from cairn.journey.times import datetime_to_us

MAX_LENGTH: Final = 256
"""Characters of a cron."""

_MINUTE: Final = timedelta(minutes=1)
# Any nine years have a 29 February, wherever they begin from here.
_FROM: Final = datetime(2000, 1, 1, tzinfo=UTC)
_UNTIL: Final = datetime(2009, 1, 1, tzinfo=UTC)
_ITEM: Final = re.compile(
    r"(?:\*|([0-9]{1,4}|[A-Za-z]+)(?:-([0-9]{1,4}|[A-Za-z]+))?)(?:/([0-9]{1,4}))?", re.ASCII
)
_MONTHS: Final = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")
_WEEKDAYS: Final = ("SUN", "MON", "TUE", "WED", "THU", "FRI", "SAT")


class CronError(ValueError):
    """A schedule that can't be one. Its text tells what is wrong and what would be right; `field` is `cron` or `time_zone`."""

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class Cron:
    """A schedule: `text` is its cron, `time_zone` an IANA name."""

    text: str
    time_zone: str
    _triggers: Sequence[Any] = field(repr=False, compare=False)

    def next_us(self, after_us: int) -> int | None:
        """When it is due next, strictly later than a moment; both in microseconds since the epoch. None beyond the calendar's end.

        A wall time that a change of clocks skips is due at the first instant after the gap, one that comes twice the first time only:
        a minutely schedule pauses while an hour is repeated, and all the times of a gap are due once.
        """
        try:
            wall = wall_of(self.time_zone, after_us).replace(second=0, microsecond=0)
            while True:
                walls = [trigger.get_next_fire_time(None, wall) for trigger in self._triggers]
                if None in walls:
                    return None
                wall = min(walls)
                due_us = datetime_to_us(instant_of(self.time_zone, wall.replace(tzinfo=None)))
                if due_us > after_us:
                    return due_us
                wall += _MINUTE
        except (OverflowError, ValueError):
            # Past the year 9999 the calendar has no day.
            return None


@dataclass(frozen=True, slots=True)
class _Field:
    """One of the five fields: what APScheduler calls it, the range of its values, and the names that some of them have."""

    name: str
    called: str
    least: int
    most: int
    names: Mapping[str, int]
    shown: str


_FIELDS: Final = (
    _Field("minute", "minute", 0, 59, {}, "0 to 59"),
    _Field("hour", "hour", 0, 23, {}, "0 to 23"),
    _Field("day of month", "day", 1, 31, {}, "1 to 31"),
    _Field("month", "month", 1, 12, {name: number for number, name in enumerate(_MONTHS, 1)}, "1 to 12, or JAN to DEC"),
    _Field(
        "day of week", "day_of_week", 0, 7, {name: number for number, name in enumerate(_WEEKDAYS)},
        "0 (Sunday) to 7 (Sunday again), or SUN to SAT",
    ),
)  # fmt: skip


def parse_cron(text: str, time_zone: str) -> Cron:
    """Reads a schedule. Raises CronError.

    As in every cron, 0 and 7 are Sunday, and where both day of month and day of week are restricted, a day that meets one of them will do.
    An empty time zone is UTC.
    """
    zone = time_zone or "UTC"
    if not is_time_zone(zone):
        raise CronError("time_zone", f"is {_quote(zone)}, which is no IANA time zone; one is Asia/Tokyo")
    parts = text.split()
    if len(parts) != len(_FIELDS) or len(text) > MAX_LENGTH:
        raise CronError(
            "cron",
            f"is {_quote(text)}; it has five fields, minute, hour, day of month, month and day of week, as 0 6 * * MON-FRI",
        )
    given = {each.called: _values(each, part) for each, part in zip(_FIELDS, parts, strict=True)}
    # Mondays are 0 to APScheduler.
    given["day_of_week"] = {(day - 1) % 7 for day in given["day_of_week"]}
    both = not parts[2].startswith("*") and not parts[4].startswith("*")
    made = [{**given, "day_of_week": set(range(7))}, {**given, "day": set(range(1, 32))}] if both else [given]
    found = [_trigger(each) for each in made if _trigger(each, _UNTIL).get_next_fire_time(None, _FROM)]
    if not found:
        raise CronError(
            "cron",
            f"is {_quote(text)}, which never comes: none of its months has such a day; * as the day of month is every day",
        )
    return Cron(" ".join(parts), zone, found)


def _values(each: _Field, text: str) -> set[int]:
    """The values that a field names."""
    values: set[int] = set()
    for item in text.split(","):
        matched = _ITEM.fullmatch(item)
        if matched is None:
            raise _wrong(each, item)
        first, last, step = matched[1], matched[2], matched[3]
        low, high = each.least, each.most - (each.most == 7)
        if first is not None:
            low = _value(each, item, first)
            high = _value(each, item, last) if last is not None else low if step is None else high
            if last is not None and high < low and last.upper() == "SUN":
                # Saturday to Sunday: the one at the end of the week.
                high = 7
        if not each.least <= low <= high <= each.most or (step is not None and int(step) == 0):
            raise _wrong(each, item)
        values.update(range(low, high + 1, int(step or 1)))
    return values


def _value(each: _Field, item: str, text: str) -> int:
    if text.isdigit():
        return int(text)
    if text.upper() not in each.names:
        raise _wrong(each, item)
    return each.names[text.upper()]


def _wrong(each: _Field, item: str) -> CronError:
    return CronError(
        "cron",
        f"has {_quote(item)} as {each.name}; it is {each.shown}, a range as {each.least}-{each.least + 4}, *, with a step as */2, or several with commas",
    )


def _trigger(given: Mapping[str, set[int]], until: datetime | None = None) -> Any:
    """What finds wall times. Without an end, one that never fires looks for them in eight thousand years."""
    fields = {name: ",".join(map(str, sorted(values))) for name, values in given.items()}
    return CronTrigger(**fields, second="0", timezone=UTC, end_date=until)


def _quote(value: str) -> str:
    return repr(value if len(value) <= 80 else value[:77] + "...")
