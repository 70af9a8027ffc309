"""Owns how the pure core writes and reads a moment: microseconds since the epoch as RFC 3339 in UTC."""

from datetime import UTC, datetime, timedelta
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


def format_time(time_us: int) -> str:
    """`2026-01-01T00:00:00Z`, with a fraction only where there is one."""
    return (_EPOCH + timedelta(microseconds=time_us)).isoformat().replace("+00:00", "Z")


def to_datetime(time_us: int) -> datetime:
    """The moment as an aware datetime."""
    return _EPOCH + timedelta(microseconds=time_us)


def to_us(text: str) -> int:
    """What `format_time` or an aware datetime's `isoformat` wrote, in microseconds."""
    return (datetime.fromisoformat(text) - _EPOCH) // _MICROSECOND
