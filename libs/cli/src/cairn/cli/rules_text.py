"""Owns how rates, quiet hours and caps are told to people."""

from collections.abc import Iterable

from google.protobuf.duration_pb2 import Duration

from cairn.api.activation.v1.activation_pb2 import FrequencyCap, QuietHours, RateLimit
from cairn.runtime.clock import from_duration

_UNITS = (
    ("d", 86_400_000_000),
    ("h", 3_600_000_000),
    ("m", 60_000_000),
    ("s", 1_000_000),
    ("ms", 1_000),
)


def duration_text(duration: Duration) -> str:
    """In the largest unit that leaves no rest: `24h` is `1d`, `90m` stays."""
    micros = from_duration(duration)
    for unit, size in _UNITS:
        if micros and micros % size == 0:
            return f"{micros // size}{unit}"
    return f"{micros}us" if micros else "0s"


def rate_text(rate: RateLimit) -> str:
    """`14 in 1s`."""
    return f"{rate.count:,} in {duration_text(rate.period)}"


def caps_text(caps: Iterable[FrequencyCap], who: str = "a profile") -> list[str]:
    """`2 to a profile in 1d`, for each."""
    return [f"{cap.count:,} to {who} in {duration_text(cap.period)}" for cap in caps]


def quiet_text(hours: QuietHours) -> str:
    """`quiet 21:00 to 08:00, Europe/Berlin where a profile has no zone`."""
    zone = f", {hours.fallback_time_zone} where a profile has no zone" if hours.fallback_time_zone else ""
    return f"quiet {hours.start} to {hours.end}{zone}"
