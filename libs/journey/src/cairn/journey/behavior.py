"""Owns what is kept of a profile's events for the criteria that ask about its behavior, and how they read it.

Nothing is kept that no live journey asks about, from when one first asks. Of one name at most MOST_KEPT occurrences are kept
one by one, and those only as long as the longest window that is asked for and LATENESS_US, for events that come late; the
number of all there were is a counter.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec

from cairn.journey.limits import DAY_US
from cairn.journey.times import to_us
from cairn.rules import Ask, Criteria, CriteriaFailed

MOST_KEPT: Final = 1_000
"""Occurrences of one name that windows can see; the newest ones."""

MOST_EVENTS: Final = 100
"""Whole events of one name that `first` with a window can see; the newest ones."""

LATENESS_US: Final = 7 * DAY_US
"""How much older than the newest an event may be on arrival and still find all that its windows ask for."""

Stored = dict[str, Any]
"""An event as it is kept: event_id, name, occur_time as text, properties."""


class Need(msgspec.Struct, frozen=True, gc=False):
    """What live journeys ask about the events of one name; `window_us` is the longest window for `count` and `sum`, 0 for none."""

    window_us: int = 0
    sums: tuple[str, ...] = ()
    first: bool = False
    last: bool = False
    first_window_us: int = 0


class Track(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """What is kept of the events of one name: how many there were, the times of the latest in order, the values of the
    properties to be summed beside them (None: no number), the first and the last event, and the latest events whole."""

    count: int = 0
    times: tuple[int, ...] = ()
    values: dict[str, tuple[float | None, ...]] = {}
    first: Stored | None = None
    last: Stored | None = None
    events: tuple[Stored, ...] = ()


Tracks = Mapping[str, Track]
"""A profile's behavior, by name of event."""


def needs_of(asks: Iterable[Ask]) -> dict[str, Need]:
    """What has to be kept so that all of these can be answered, by name of event."""
    needs: dict[str, Need] = {}
    for ask in asks:
        need = needs.get(ask.name, Need())
        window = ask.window_us or 0
        match ask.function:
            case "count":
                need = msgspec.structs.replace(need, window_us=max(need.window_us, window))
            case "sum":
                sums = tuple(sorted({*need.sums, ask.property}))
                need = msgspec.structs.replace(need, window_us=max(need.window_us, window), sums=sums)
            case "last":
                need = msgspec.structs.replace(need, last=True)
            case _ if window:
                longest = max(need.first_window_us, window)
                need = msgspec.structs.replace(need, first_window_us=longest)
            case _:
                need = msgspec.structs.replace(need, first=True)
        needs[ask.name] = need
    return needs


def record(tracks: Tracks, need: Need, event: Stored, time_us: int) -> Tracks:
    """The behavior after one more event, which is kept as far as it is needed."""
    name = event["name"]
    track = tracks.get(name) or Track()
    times, values = track.times, track.values
    if need.window_us:
        # Behind all that are not later, as everywhere here.
        place = bisect_right(times, time_us)
        oldest = max(time_us, times[-1] if times else time_us) - need.window_us - LATENESS_US
        cut = _cut(place, bisect_right(times, oldest), len(times), MOST_KEPT)
        values = {
            each: _insert(
                _column(values, each, len(times)), place, _number(event["properties"].get(each)), cut
            )
            for each in need.sums
        }
        times = _insert(times, place, time_us, cut)
    elif times:
        times, values = (), {}
    kept = Track(
        count=track.count + 1,
        times=times,
        values=values,
        first=_earlier(track.first, event, time_us) if need.first else None,
        last=_later(track.last, event, time_us) if need.last else None,
        events=_whole(track.events, need, event, time_us) if need.first_window_us else (),
    )
    return {**tracks, name: kept}


class Behavior:
    """A profile's behavior and segments as criteria read them, as of `now_us`.

    A window is open where it begins: what happened in it is younger than the window is long. It has no end: what is later than a
    late event counts as well.
    """

    __slots__ = ("_answers", "_attributes", "_segments", "_tracks", "now_us")

    def __init__(
        self, tracks: Tracks, attributes: Mapping[str, Any], segments: Mapping[str, Criteria], now_us: int
    ) -> None:
        self._tracks = tracks
        self._attributes = attributes
        self._segments = segments
        self._answers: dict[str, bool] = {}
        self.now_us = now_us

    def count(self, name: str, window_us: int | None) -> int:
        """How many events of a name there were, at all or in a window."""
        track = self._tracks.get(name)
        if track is None:
            return 0
        if window_us is None:
            return track.count
        return len(track.times) - bisect_right(track.times, self.now_us - window_us)

    def sum(self, name: str, property: str, window_us: int) -> float:
        """The sum of a property over the events of a window; one without a number adds nothing."""
        track = self._tracks.get(name)
        if track is None or property not in track.values:
            return 0.0
        values = track.values[property][bisect_right(track.times, self.now_us - window_us) :]
        return float(sum(value for value in values if value is not None))

    def first(self, name: str, window_us: int | None) -> Mapping[str, Any] | None:
        """The first event of a name, ever or in a window; None when there is none."""
        track = self._tracks.get(name)
        if track is None:
            return None
        if window_us is None:
            return event_view(track.first)
        place = bisect_right(track.events, self.now_us - window_us, key=_time_of)
        return event_view(track.events[place]) if place < len(track.events) else None

    def last(self, name: str, window_us: int | None) -> Mapping[str, Any] | None:
        """The last event of a name, ever or in a window; None when there is none."""
        track = self._tracks.get(name)
        if track is None or track.last is None:
            return None
        if window_us is not None and to_us(track.last["occur_time"]) <= self.now_us - window_us:
            return None
        return event_view(track.last)

    def in_segment(self, name: str) -> bool:
        """Whether the profile is in a segment; one whose criteria fails on it, or that is not known, it is not in."""
        answer = self._answers.get(name)
        if answer is None:
            # Remembered: segments that name others twice would be asked twice as often at each level.
            answer = self._answers[name] = self._is_in(name)
        return answer

    def _is_in(self, name: str) -> bool:
        criteria = self._segments.get(name)
        if criteria is None:
            return False
        try:
            return criteria.evaluate(None, None, self._attributes, self)
        except CriteriaFailed:
            return False


def event_view(stored: Stored | None) -> Mapping[str, Any] | None:
    """A stored event as criteria read it."""
    if stored is None:
        return None
    return {
        "name": stored["name"],
        "properties": stored["properties"],
        "occur_time": datetime.fromisoformat(stored["occur_time"]),
    }


def _time_of(event: Stored) -> int:
    return to_us(event["occur_time"])


def _cut(place: int, oldest_place: int, length: int, most: int) -> int:
    """How many of the oldest go when one more comes in at a place: those that are too old, and those that are too many."""
    return max(min(oldest_place, place), length + 1 - most, 0)


def _insert(column: tuple[Any, ...], place: int, value: Any, cut: int) -> tuple[Any, ...]:
    return (*column[:place], value, *column[place:])[cut:]


def _column(values: Mapping[str, tuple[Any, ...]], name: str, length: int) -> tuple[Any, ...]:
    """The values of one property; those of before it was asked for are not known."""
    column = values.get(name, ())
    return (None,) * (length - len(column)) + column


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _earlier(kept: Stored | None, event: Stored, time_us: int) -> Stored:
    return event if kept is None or time_us < to_us(kept["occur_time"]) else kept


def _later(kept: Stored | None, event: Stored, time_us: int) -> Stored:
    return event if kept is None or time_us >= to_us(kept["occur_time"]) else kept


def _whole(events: tuple[Stored, ...], need: Need, event: Stored, time_us: int) -> tuple[Stored, ...]:
    place = bisect_right(events, time_us, key=_time_of)
    oldest = max(time_us, _time_of(events[-1]) if events else time_us) - need.first_window_us - LATENESS_US
    oldest_place = bisect_right(events, oldest, key=_time_of)
    return _insert(events, place, event, _cut(place, oldest_place, len(events), MOST_EVENTS))
