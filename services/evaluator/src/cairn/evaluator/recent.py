"""Owns the last few events that reached a journey and changed nothing in it: what Explain needs to tell why nothing happened.

Kept with the profile, at most MOST_PER_JOURNEY for a journey and MOST in all, each at most MOST_BYTES; what changed something is
on the timeline. So it costs a profile that nothing passes by without effect nothing, and any other 16 KiB at most.
"""

from typing import Any, Final

import msgspec

from cairn.journey.state import EventInput

MOST_PER_JOURNEY: Final = 3
MOST: Final = 16
MOST_BYTES: Final = 1024
"""Of one event's properties as JSON; of a larger one only its name and time are kept."""


class RecentInput(msgspec.Struct, array_like=True, frozen=True):
    """An event that reached a journey; `properties` is None when they were too large to be kept."""

    journey_id: str
    event_id: str
    name: str
    time_us: int
    properties: dict[str, Any] | None


def remember(recent: tuple[RecentInput, ...], journey_id: str, event: EventInput) -> tuple[RecentInput, ...]:
    """The recent inputs with one more, oldest first; the oldest go."""
    properties = event.view["properties"]
    kept = properties if len(msgspec.json.encode(properties)) <= MOST_BYTES else None
    latest = RecentInput(journey_id, event.event_id, event.view["name"], event.time_us, kept)
    same = sum(each.journey_id == journey_id for each in recent)
    if same >= MOST_PER_JOURNEY:
        oldest = next(each for each in recent if each.journey_id == journey_id)
        recent = tuple(each for each in recent if each is not oldest)
    return (*recent, latest)[-MOST:]
