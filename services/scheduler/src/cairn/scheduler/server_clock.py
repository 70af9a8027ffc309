"""Owns the estimate of Postgres' clock, by which "due" is judged. Refuses to run ahead of it."""

import time
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ClockReading:
    """What Postgres' clock said (microseconds since the epoch), and the monotonic time when the answer was here."""

    server_us: int
    answered_ns: int


def safe_anchor_us(readings: Iterable[ClockReading]) -> int:
    """What to add to the monotonic clock so that the sum is never ahead of Postgres' clock, and behind it the least.

    Postgres read its clock before its answer was here: each reading alone is behind by the answer's way back.
    The reading with the largest sum had the shortest way. ValueError without a reading.
    """
    return max(reading.server_us - reading.answered_ns // 1_000 for reading in readings)


class ServerClock:
    """Postgres' clock, kept going between measurements by this machine's monotonic one.

    A step of this machine's wall clock changes nothing here. Not to be asked before the first measurement.
    """

    def __init__(self) -> None:
        self._anchor_us: int | None = None

    @property
    def measured(self) -> bool:
        """Whether there was a measurement yet."""
        return self._anchor_us is not None

    def set(self, readings: Iterable[ClockReading]) -> None:
        """Forget earlier readings: what drifted since them is gone with them."""
        self._anchor_us = safe_anchor_us(readings)

    def now_us(self) -> int:
        """Microseconds since the epoch, at or a little behind Postgres' clock."""
        if self._anchor_us is None:
            raise RuntimeError("Postgres' clock was not measured yet")
        return time.monotonic_ns() // 1_000 + self._anchor_us
