"""Owns making an `Event` message cheaply. Refuses to invent ids: only the producer knows what is the same event."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from google.protobuf.struct_pb2 import Value

from cairn.api.evaluator.v1.evaluator_pb2 import Event
from cairn.runtime.clock import from_datetime, now_us


def event(
    name: str,
    profile_id: str,
    properties: Mapping[str, Any] | None = None,
    *,
    event_id: str,
    occur_time: datetime | int | None = None,
) -> Event:
    """An event as the contract has it.

    `event_id` is what makes a retry safe: within the de-duplication window (7 days by default) an event of a profile
    with an id that was seen is not acted on again. Derive it from the cause, such as "order-17-paid", never draw it anew
    when the same thing is sent again.

    `properties` are JSON values. `occur_time` is an aware datetime or microseconds since the epoch; by default it is now.
    TypeError for a property that is no JSON value, ValueError for a datetime without a zone.
    """
    if occur_time is None:
        occur_time = now_us()
    elif isinstance(occur_time, datetime):
        occur_time = from_datetime(occur_time)
    seconds, micros = divmod(occur_time, 1_000_000)
    # As a dict, which costs less than a Timestamp; the stubs know nothing of it.
    moment: Any = {"seconds": seconds, "nanos": micros * 1000}
    made = Event(event_id=event_id, profile_id=profile_id, name=name, occur_time=moment)
    if properties:
        fields = made.properties.fields
        for key, value in properties.items():
            _set(fields[key], value)
    return made


def _set(target: Value, value: Any) -> None:
    """Writes a JSON value in place: a third cheaper than the library's own `update`, and most of what an event costs."""
    kind = type(value)
    if kind is str:
        target.string_value = value
    elif kind is bool:
        target.bool_value = value
    elif kind is float or kind is int:
        target.number_value = value
    elif value is None:
        target.null_value = 0  # type: ignore[assignment]  # the one value of the enum
    elif isinstance(value, Mapping):
        # Touched, or an empty object would be no value at all.
        target.struct_value.SetInParent()
        fields = target.struct_value.fields
        for key, each in value.items():
            _set(fields[key], each)
    elif isinstance(value, list | tuple):
        target.list_value.SetInParent()
        values = target.list_value.values
        for each in value:
            _set(values.add(), each)
    else:
        _set(target, _plain(value))


def _plain(value: Any) -> Any:
    """A subclass (of an enum, say) as what it is a kind of."""
    for kind in (str, bool, int, float):
        if isinstance(value, kind):
            return kind(value)
    raise TypeError(
        f"a property is a {type(value).__name__}; it may be a string, number, boolean, None, list or mapping"
    )
