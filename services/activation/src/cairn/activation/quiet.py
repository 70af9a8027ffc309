"""Owns quiet hours: whether a moment lies in them somewhere, and when they end. Pure: the time is an argument.

Hours are those of a wall clock in an IANA zone, the start belongs to them and the end does not. Where clocks are put forward over the
end, they end with the jump; where clocks are put back over it, they end when the clock shows the end for the first time.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cairn.runtime.clock import to_datetime

_MINUTE_US = 60_000_000
_DAY_MINUTES = 24 * 60
_DAY_US = _DAY_MINUTES * _MINUTE_US
_CLOCK = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])")

MOST_WESTERN_MINUTES = -11 * 60
MOST_EASTERN_MINUTES = 12 * 60
"""The offsets from UTC, in minutes, between which the careful window takes a person to be."""

LONGEST_CAREFUL_MINUTES = _DAY_MINUTES - (MOST_EASTERN_MINUTES - MOST_WESTERN_MINUTES) - 1
"""The longest quiet hours, in minutes, beside which the careful window leaves any time: 59. Longer ones are always some place's."""


@dataclass(frozen=True, slots=True)
class QuietHours:
    """Quiet hours as minutes of the day; an `end_minute` before the start is one of the next day. They never are the same.

    `fallback_zone` is where people are whose own zone is not known; "" stands for the careful window.
    """

    start_minute: int
    end_minute: int
    fallback_zone: str = ""

    @property
    def length_minutes(self) -> int:
        """How long they last on a day on which no clock is changed."""
        return (self.end_minute - self.start_minute) % _DAY_MINUTES


def parse_clock(text: str) -> int | None:
    """The minute of the day of "08:30"; None when it is none."""
    match = _CLOCK.fullmatch(text)
    return None if match is None else int(match[1]) * 60 + int(match[2])


@lru_cache(maxsize=1024)
def find_zone(name: str) -> ZoneInfo | None:
    """The zone of an IANA name; None where there is none, whatever the name looks like."""
    try:
        return ZoneInfo(name) if name else None
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None


def quiet_until(hours: QuietHours, zone_name: str, now: int) -> int | None:
    """The end, in microseconds since the epoch, of the quiet hours that `now` lies in; None when it lies in none.

    A zone that is not known is replaced by the fallback, and without one by the careful window: quiet is what is quiet anywhere between
    the most western and the most eastern offset. Where that would never end (such hours are refused when they are put) it is UTC.
    """
    zone = find_zone(zone_name) or find_zone(hours.fallback_zone)
    if zone is not None:
        return _end_in_zone(hours, zone, now)
    if hours.length_minutes > LONGEST_CAREFUL_MINUTES:
        return _end_at_offset(hours, 0, now)
    careful = QuietHours(
        (hours.start_minute - MOST_EASTERN_MINUTES) % _DAY_MINUTES,
        (hours.end_minute - MOST_WESTERN_MINUTES) % _DAY_MINUTES,
    )
    return _end_at_offset(careful, 0, now)


def _end_in_zone(hours: QuietHours, zone: ZoneInfo, now: int) -> int | None:
    """Goes from one change of the clock to the next: in between the end is a subtraction away."""
    moment = now
    while True:
        offset_us = _offset_us(zone, moment)
        end = _end_at_offset(hours, offset_us, moment)
        if end is None:
            return None if moment == now else moment
        if _offset_us(zone, end) == offset_us:
            return end
        moment = _change_between(zone, moment, end)


def _end_at_offset(hours: QuietHours, offset_us: int, now: int) -> int | None:
    """The end as if clocks were never changed."""
    past_start_us = (now + offset_us - hours.start_minute * _MINUTE_US) % _DAY_US
    length_us = hours.length_minutes * _MINUTE_US
    return now - past_start_us + length_us if past_start_us < length_us else None


def _change_between(zone: ZoneInfo, before: int, after: int) -> int:
    """The first second with another offset than `before`; `after` has another, and clocks change once a day at most."""
    offset_us = _offset_us(zone, before)
    low, high = before // 1_000_000, -(-after // 1_000_000)
    while high - low > 1:
        middle = (low + high) // 2
        if _offset_us(zone, middle * 1_000_000) == offset_us:
            low = middle
        else:
            high = middle
    return high * 1_000_000


def _offset_us(zone: ZoneInfo, us: int) -> int:
    offset = to_datetime(us).astimezone(zone).utcoffset()
    assert offset is not None, "an aware time of a zone has one"
    return offset // timedelta(microseconds=1)
