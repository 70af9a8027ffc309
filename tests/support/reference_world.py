"""Owns what the reference interpreter of journeys knows of the world: events, a profile's behavior from a full list of them, and
times of day found by looking at every minute. Slow and plain on purpose; nothing here comes from the core."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from cairn.rules import Criteria, CriteriaFailed

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE_US = 60_000_000


def moment(time_us: int) -> datetime:
    return EPOCH + timedelta(microseconds=time_us)


def written(time_us: int) -> str:
    return moment(time_us).isoformat().replace("+00:00", "Z")


@dataclass(frozen=True)
class Event:
    event_id: str
    name: str
    time_us: int
    properties: Mapping[str, Any]

    @property
    def view(self) -> dict[str, Any]:
        return {"name": self.name, "properties": self.properties, "occur_time": moment(self.time_us)}


@dataclass
class World:
    """What criteria may see. `counted` are the profile's events in order of arrival."""

    attributes: Mapping[str, Any] = field(default_factory=dict)
    time_zone: str = ""
    counted: list[Event] = field(default_factory=list)

    def holds(
        self,
        criteria: Criteria,
        event: Event | None,
        entry: Event | None,
        segments: Mapping[str, Criteria],
        now_us: int,
    ) -> bool:
        """A criteria that fails on an input is false for it."""
        try:
            return criteria.evaluate(
                event.view if event else None,
                entry.view if entry else None,
                self.attributes,
                SlowBehavior(self, segments, now_us),
            )
        except CriteriaFailed:
            return False


class SlowBehavior:
    """Answers from the full list, as of a moment; a window has no end, as events that came in since count too."""

    def __init__(self, world: World, segments: Mapping[str, Criteria], now_us: int) -> None:
        self.world = world
        self.segments = segments
        self.now_us = now_us

    def seen(self, name: str, window_us: int | None) -> list[Event]:
        """In order of time; of one instant in order of arrival (sorting is stable)."""
        events = [
            event
            for event in self.world.counted
            if event.name == name and (window_us is None or event.time_us > self.now_us - window_us)
        ]
        return sorted(events, key=lambda event: event.time_us)

    def count(self, name: str, window_us: int | None) -> int:
        return len(self.seen(name, window_us))

    def sum(self, name: str, property: str, window_us: int) -> float:
        values = [event.properties.get(property) for event in self.seen(name, window_us)]
        return float(sum(value for value in values if isinstance(value, float)))

    def first(self, name: str, window_us: int | None) -> Mapping[str, Any] | None:
        events = self.seen(name, window_us)
        return events[0].view if events else None

    def last(self, name: str, window_us: int | None) -> Mapping[str, Any] | None:
        events = self.seen(name, window_us)
        return events[-1].view if events else None

    def in_segment(self, name: str) -> bool:
        criteria = self.segments.get(name)
        return criteria is not None and self.world.holds(criteria, None, None, self.segments, self.now_us)


def first_time_of_day(start_us: int, zone: str, minute: int, weekdays: Collection[int]) -> int:
    """The first moment at or after the start at which the zone's clock shows this time, on one of the weekdays; a repeated time
    the first time only, one that is left out at the first minute after the gap. Looks at every minute; whole ones suffice,
    as no zone of today changes its clock within one."""
    tz = ZoneInfo(zone)
    at_us = -(-start_us // MINUTE_US) * MINUTE_US
    while True:
        here = moment(at_us).astimezone(tz)
        before = moment(at_us - MINUTE_US).astimezone(tz)
        if here.weekday() in weekdays and here.fold == 0:
            shown = here.hour * 60 + here.minute
            if shown == minute:
                return at_us
            left_out = before.replace(tzinfo=None) + timedelta(minutes=1)
            is_behind_gap = left_out < here.replace(tzinfo=None)
            if is_behind_gap and left_out.hour * 60 + left_out.minute <= minute < shown:
                return at_us
        at_us += MINUTE_US


def text_of_key(path: Sequence[str], properties: Mapping[str, Any]) -> str | None:
    """A key is text, a number or a boolean; 7.0 is "7"."""
    value: Any = properties
    for name in path:
        value = value.get(name) if isinstance(value, Mapping) else None
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return str(value).removesuffix(".0")
    return value if isinstance(value, str) and value else None
