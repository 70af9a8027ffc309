"""Owns the clock and the exact conversions of time. Refuses floats: a time is `int` microseconds since the
epoch, UTC."""

import time
from datetime import UTC, datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

_MICROS = 1_000_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now_us() -> int:
    """The wall clock of this machine. Only shells ask; the pure core is told."""
    return time.time_ns() // 1_000


def to_timestamp(us: int) -> Timestamp:
    """The wire form of a time; the inverse of `from_timestamp`."""
    seconds, micros = divmod(us, _MICROS)
    return Timestamp(seconds=seconds, nanos=micros * 1_000)


def from_timestamp(timestamp: Timestamp) -> int:
    """The time of a wire timestamp; what is finer than a microsecond is cut off towards the past."""
    return timestamp.seconds * _MICROS + timestamp.nanos // 1_000


def to_duration(us: int) -> Duration:
    """The wire form of a span of microseconds; both of its parts have the span's sign, as protobuf asks."""
    seconds, micros = divmod(abs(us), _MICROS)
    sign = -1 if us < 0 else 1
    return Duration(seconds=sign * seconds, nanos=sign * micros * 1_000)


def from_duration(duration: Duration) -> int:
    """The span of a wire duration in microseconds; what is finer is cut off towards zero."""
    nanos = duration.nanos
    micros = nanos // 1_000 if nanos >= 0 else -(-nanos // 1_000)
    return duration.seconds * _MICROS + micros


def to_datetime(us: int) -> datetime:
    """The aware UTC datetime of a time, exact to the microsecond (years 1 to 9999, else OverflowError)."""
    # In seconds and the rest, which takes half as long: without them timedelta divides a large number by itself.
    return _EPOCH + timedelta(0, us // _MICROS, us % _MICROS)


def from_datetime(moment: datetime) -> int:
    """The time of an aware datetime of any zone. A naive one is refused with ValueError: it names no time."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone names no time")
    return (moment - _EPOCH) // _MICROSECOND


def format_time(us: int) -> str:
    """RFC 3339 in UTC, "2026-01-01T00:00:00Z"; with six decimals when the time has a fraction of a second."""
    return to_datetime(us).isoformat().removesuffix("+00:00") + "Z"
