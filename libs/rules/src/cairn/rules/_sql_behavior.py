"""What a profile did as SQL: owns how the tracks of `cairn.journey` lie in JSON, and how criteria's questions read them."""

from typing import Final

from cairn.rules import _sql_values as sql
from cairn.rules._sql_values import SqlNames, Value
from cairn.rules.model import Ask

# A track is a list of these: how many events there were, the times of the latest in order, the values of properties beside them, the
# first and the last event, the latest events in order. Those at its end may be missing.
_COUNT, _TIMES, _VALUES, _FIRST, _LAST, _EVENTS = range(6)
# What an index may be; no list is as long.
_LONGEST_LIST: Final = 2**31 - 1


def occurred(event: Value) -> str:
    """When a kept event occurred, a timestamptz."""
    return f"({event.sql}->>'occur_time')::timestamptz"


class Tracks:
    """Answers as `Behavior` of `cairn.journey` does, in the SQL of a profile's behavior as of a moment."""

    def __init__(self, names: SqlNames) -> None:
        self._behavior = Value("map", sql.atom(names.behavior))
        self._now_us = sql.atom(names.now_us)

    def count(self, ask: Ask) -> Value:
        """How many events there were."""
        if ask.window_us is None:
            return Value("number", f"coalesce({self._kept(ask.name, _COUNT).sql}, '0'::jsonb)")
        times, since = self._kept(ask.name, _TIMES).sql, self._since(ask.window_us)

        def at_least(number: int) -> str:
            # The times are in order: five are younger than the window is long if the fifth from the end is.
            if not 0 < number <= _LONGEST_LIST:
                return "true" if number <= 0 else "false"
            return f"coalesce({times}->(-{number}) > {since}, false)"

        walked = f"FROM jsonb_array_elements({times}) AS _t(_t) WHERE _t > {since}"
        return sql.number(f"SELECT count(*) {walked}", at_least)

    def sum(self, ask: Ask) -> Value:
        """The sum of a property; NULL where a value of 1e300 and more is among them."""
        assert ask.window_us is not None
        columns = (self._kept(ask.name, _TIMES), sql.member(self._kept(ask.name, _VALUES), ask.property))
        unnested = ", ".join(f"jsonb_array_elements({column.sql})" for column in columns)
        kept = (
            "SELECT (CASE WHEN jsonb_typeof(_n) = 'number' THEN _n END)::float8 AS _n "  # noqa: S608 - names are quoted
            f"FROM ROWS FROM ({unnested}) AS _kept(_t, _n) WHERE _t > {self._since(ask.window_us)} OFFSET 0"
        )
        # Added up one by one, as Python does. Larger ones could add up to what Postgres refuses to have.
        huge = "abs(_n) >= '1e300'::float8"
        return sql.number(
            f"SELECT CASE WHEN bool_or({huge}) IS NOT TRUE THEN coalesce(sum(_n) FILTER (WHERE NOT {huge}), 0) END "  # noqa: S608 - names are quoted
            f"FROM ({kept}) AS _summed"
        )

    def event(self, ask: Ask) -> Value:
        """The first or the last event: an object with event_id, name, occur_time and properties; NULL where there is none."""
        if ask.window_us is None:
            return self._kept(ask.name, _FIRST if ask.function == "first" else _LAST)
        began = f"(TIMESTAMPTZ 'epoch' + ({self._now_us} - {ask.window_us}) * INTERVAL '1 microsecond')"
        if ask.function == "last":
            event = self._kept(ask.name, _LAST)
            return Value("json", f"(CASE WHEN {occurred(event)} > {began} THEN {event.sql} END)")
        events = f"jsonb_array_elements({self._kept(ask.name, _EVENTS).sql}) AS _e(_e)"
        # They are in order of time.
        young = f"{occurred(Value('json', '_e'))} > {began}"
        return Value("json", f"(SELECT _e FROM {events} WHERE {young} LIMIT 1)")  # noqa: S608 - names are quoted

    def _kept(self, name: str, part: int) -> Value:
        """A part of what is kept of the events of a name."""
        return Value("json", f"{sql.member(self._behavior, name).sql}->{part}")

    def _since(self, window_us: int) -> str:
        """When a window began, in microseconds, as the jsonb that times are."""
        return f"({self._now_us} - {window_us})::text::jsonb"
