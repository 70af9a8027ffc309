"""Owns the way between messages and the domain: events and profiles in, effects and views out."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp

from cairn.api.activation.v1 import activation_pb2
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.evaluator.store import OutboxRow
from cairn.journey.calendar import is_time_zone
from cairn.journey.live import LiveJourney
from cairn.journey.plan import WaitingInstruction
from cairn.journey.state import (
    CancelTimer,
    Effect,
    Enrollment,
    EnrollmentState,
    EventInput,
    RequestActivation,
    ScheduleTimer,
    Transition,
    WithdrawActivation,
)
from cairn.runtime.clock import from_timestamp, to_datetime, to_timestamp

MAX_ID_BYTES: Final = 256
MAX_ITEM_BYTES: Final = 32 * 1024
MAX_AHEAD_US: Final = 5 * 60 * 1_000_000
DAY_US: Final = 24 * 3600 * 1_000_000
_SURELY_SHORT: Final = MAX_ID_BYTES // 4
_EARLIEST_SECONDS: Final = -62_135_596_800  # the first second of the year 1
EARLIEST_US: Final = _EARLIEST_SECONDS * 1_000_000
"""The first moment that an event can have happened at."""
_LATEST_SECONDS: Final = 253_402_300_799  # the last second of the year 9999, as Timestamp has it


class Refused(Exception):  # noqa: N818 - one item of a batch, not an error of the call
    """An item is refused for good: why, and in words what would be right."""

    def __init__(self, reason: ErrorReason.ValueType, message: str) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message


def check_event(event: pb.Event, now_us: int, dedup_us: int) -> int:
    """The event's own time in microseconds, never later than now; raises Refused when something is wrong with it."""
    moment = event.occur_time
    seconds, nanos = moment.seconds, moment.nanos
    time_us = seconds * 1_000_000 + nanos // 1_000
    event_id, profile_id, name = event.event_id, event.profile_id, event.name
    # What all good events pass, and nothing else: why one does not is found out below. A short text is short in bytes, too.
    if (
        now_us - dedup_us <= time_us <= now_us + MAX_AHEAD_US
        and 0 <= nanos < 1_000_000_000
        and 0 < len(event_id) <= _SURELY_SHORT
        and 0 < len(profile_id) <= _SURELY_SHORT
        and 0 < len(name) <= _SURELY_SHORT
        and "\0" not in event_id
        and "\0" not in profile_id
        and "\0" not in name
        and event.ByteSize() <= MAX_ITEM_BYTES
    ):
        return time_us if time_us < now_us else now_us
    return _check_closely(event, now_us, dedup_us)


def _check_closely(event: pb.Event, now_us: int, dedup_us: int) -> int:
    _check_id(event.event_id, "event_id", ErrorReason.ERROR_REASON_EVENT_ID_INVALID)
    _check_id(event.profile_id, "profile_id", ErrorReason.ERROR_REASON_PROFILE_ID_INVALID)
    _check_id(event.name, "name", ErrorReason.ERROR_REASON_EVENT_NAME_INVALID)
    if event.ByteSize() > MAX_ITEM_BYTES:
        raise Refused(
            ErrorReason.ERROR_REASON_TOO_LARGE,
            f"the event has {event.ByteSize()} bytes; it has at most {MAX_ITEM_BYTES}",
        )
    moment = event.occur_time
    if not event.HasField("occur_time"):
        raise Refused(ErrorReason.ERROR_REASON_EVENT_TIME_INVALID, "occur_time is missing")
    if not is_time(moment):
        raise Refused(ErrorReason.ERROR_REASON_EVENT_TIME_INVALID, "occur_time is no valid time")
    time_us = from_timestamp(moment)
    if time_us > now_us + MAX_AHEAD_US:
        ahead = (time_us - now_us) // 1_000_000
        raise Refused(
            ErrorReason.ERROR_REASON_EVENT_IN_FUTURE,
            f"occur_time is {ahead} seconds ahead of us; it is at most {MAX_AHEAD_US // 1_000_000}",
        )
    if time_us < now_us - dedup_us:
        raise Refused(
            ErrorReason.ERROR_REASON_EVENT_TOO_OLD,
            f"occur_time is {(now_us - time_us) / DAY_US:.1f} days ago, past the de-duplication window of "
            f"{dedup_us // DAY_US} days: whether it was seen before can't be known",
        )
    return min(time_us, now_us)


def is_time(moment: Timestamp) -> bool:
    """Whether a Timestamp is one that its contract allows."""
    return 0 <= moment.nanos < 1_000_000_000 and _EARLIEST_SECONDS <= moment.seconds <= _LATEST_SECONDS


def is_id(value: str) -> bool:
    """Whether a profile can have this id."""
    return 0 < len(value.encode()) <= MAX_ID_BYTES and "\0" not in value


def to_event_input(event: pb.Event, time_us: int) -> EventInput:
    """A checked event as the machine takes it."""
    view = {
        "name": event.name,
        "properties": struct_to_json(event.properties),
        # One that is a little ahead of us is taken as happening on arrival.
        "occur_time": to_datetime(time_us),
    }
    return EventInput(event.event_id, time_us, view)


def check_profile(profile: pb.Profile) -> None:
    """Raises Refused when something is wrong with a profile that is to be upserted."""
    if profile.ByteSize() > MAX_ITEM_BYTES:
        raise too_large_profile(profile.ByteSize())
    check_id_and_zone(profile.profile_id, profile.time_zone)


def check_id_and_zone(profile_id: str, time_zone: str) -> None:
    """Raises Refused for an id that no profile can have, or a time zone that is not known; it may be empty."""
    _check_id(profile_id, "profile_id", ErrorReason.ERROR_REASON_PROFILE_ID_INVALID)
    if time_zone and not is_time_zone(time_zone):
        raise Refused(
            ErrorReason.ERROR_REASON_TIME_ZONE_INVALID,
            f"time_zone is {time_zone[:80]!r}, which is no IANA time zone; one is Asia/Tokyo",
        )


def too_large_profile(size: int) -> Refused:
    """The refusal of a profile that is over the limit, as sent or after merging."""
    return Refused(
        ErrorReason.ERROR_REASON_TOO_LARGE, f"the profile has {size} bytes; it has at most {MAX_ITEM_BYTES}"
    )


def _check_id(value: str, field: str, reason: ErrorReason.ValueType) -> None:
    if not value:
        raise Refused(reason, f"{field} is missing")
    if len(value) > MAX_ID_BYTES or (not value.isascii() and len(value.encode()) > MAX_ID_BYTES):
        raise Refused(reason, f"{field} is longer than {MAX_ID_BYTES} bytes")
    if "\0" in value:
        raise Refused(reason, f"{field} holds a NUL character")


def struct_to_json(struct: Struct) -> dict[str, Any]:
    """A Struct as JSON values. Numbers are floats, as they are on the wire: what a criteria sees never depends on the number."""
    # By hand: the library's own conversion takes twice as long, and this is done for every event that matters. Its items() does, too.
    fields = struct.fields
    return {name: _to_json(fields[name]) for name in fields}


def _to_json(value: Value) -> Any:
    match value.WhichOneof("kind"):
        case "string_value":
            return value.string_value
        case "number_value":
            # JSON has no other numbers: what is stored as null is null from the beginning.
            return value.number_value if math.isfinite(value.number_value) else None
        case "bool_value":
            return value.bool_value
        case "struct_value":
            return struct_to_json(value.struct_value)
        case "list_value":
            return _list_to_json(value.list_value)
        case _:
            return None


def _list_to_json(values: ListValue) -> list[Any]:
    return [_to_json(value) for value in values.values]


def json_to_struct(value: Mapping[str, Any]) -> Struct:
    """JSON values as a Struct."""
    struct = Struct()
    struct.update(dict(value))
    return struct


class Outgoing:
    """Collects the effects of one batch as the requests that carry them."""

    def __init__(self) -> None:
        # By the timer's id: the profile, when it is due, and whose standing it wakes.
        self._timers: dict[str, tuple[str, int, str]] = {}
        self._cancels = scheduler_pb2.CancelTimersRequest()
        self._activations = activation_pb2.ActivateRequest()
        self._withdrawals = activation_pb2.WithdrawRequest()
        self._erasures = activation_pb2.EraseProfilesRequest()

    def add(self, profile_id: str, standing_id: str, effects: Sequence[Effect]) -> None:
        """Adds the effects of one standing of a profile, in order."""
        for effect in effects:
            match effect:
                case ScheduleTimer():
                    self._timers[effect.timer_id] = profile_id, effect.due_us, standing_id
                case CancelTimer():
                    # One that was asked for in this very batch has not left yet.
                    if self._timers.pop(effect.timer_id, None) is None:
                        self._cancels.timers.add(timer_id=effect.timer_id, key=profile_id)
                case RequestActivation():
                    _add_activation(self._activations, profile_id, standing_id, effect)
                case WithdrawActivation():
                    self._withdrawals.withdrawals.add(
                        activation_id=effect.activation_id,
                        profile_id=profile_id,
                        request_time=to_timestamp(effect.request_us),
                        reason=effect.reason,
                    )

    def erase(self, profile_id: str, erase_us: int) -> None:
        """Adds that a profile was erased."""
        self._erasures.erasures.add(profile_id=profile_id, erase_time=to_timestamp(erase_us))

    def to_row(self, writer: int, sequence: int) -> OutboxRow:
        """The batch's row of the outbox."""
        row = OutboxRow(writer, sequence)
        if self._timers:
            row.schedule = self._schedule().SerializeToString()
        if self._cancels.timers:
            row.cancel = self._cancels.SerializeToString()
        if self._activations.activations:
            row.activate = self._activations.SerializeToString()
        if self._withdrawals.withdrawals:
            row.withdraw = self._withdrawals.SerializeToString()
        if self._erasures.erasures:
            row.erase = self._erasures.SerializeToString()
        return row

    def _schedule(self) -> scheduler_pb2.ScheduleTimersRequest:
        request = scheduler_pb2.ScheduleTimersRequest()
        add = request.timers.add
        for timer_id, (profile_id, due_us, standing_id) in self._timers.items():
            timer = add(timer_id=timer_id, key=profile_id, payload=standing_id.encode())
            due = timer.due_time
            due.seconds, due.nanos = due_us // 1_000_000, due_us % 1_000_000 * 1_000
        return request


def _add_activation(
    request: activation_pb2.ActivateRequest, profile_id: str, standing_id: str, effect: RequestActivation
) -> None:
    context = {"profile": effect.attributes, "entry": effect.entry, "event": effect.latest}
    activation = request.activations.add(
        activation_id=effect.activation_id,
        profile_id=profile_id,
        connection=effect.channel,
        template=effect.template,
        action=int(effect.action),  # the numbers are those of the contract
        journey_version=version_name(standing_id.partition("/")[0], effect.version),
        stage=effect.stage,
        step=effect.step_id,
        enrollment=effect.enrollment_id,
        context=msgspec.json.encode(context),
        time_zone=effect.time_zone,
    )
    asked = activation.request_time
    asked.seconds, asked.nanos = effect.request_us // 1_000_000, effect.request_us % 1_000_000 * 1_000


def version_name(journey_id: str, version: int) -> str:
    """The resource name of a journey's version."""
    return f"journeys/{journey_id}/versions/{version}"


def to_enrollment(
    profile_id: str, journey: LiveJourney | None, standing_id: str, state: Enrollment
) -> pb.Enrollment:
    """An enrollment as callers see it. Without its journey's plan the stage and the step stay empty."""
    journey_id, _, key = standing_id.partition("/")
    message = pb.Enrollment(
        name=f"profiles/{profile_id}/enrollments/{state.enrollment_id}",
        journey_version=version_name(journey_id, state.version),
        state=int(state.state),  # type: ignore[arg-type]
        enter_time=to_timestamp(state.enter_us),
        stage_enter_time=to_timestamp(state.stage_enter_us),
        exit=state.exit,
        pending_activations=[each.activation_id for each in state.pending],
        key=key,
    )
    plan = journey.plans.get(state.version) if journey else None
    if plan:
        message.stage = plan.stages[state.stage].name
        instruction = plan.program[state.position]
        if state.state is EnrollmentState.WAITING and isinstance(instruction, WaitingInstruction):
            message.step = instruction.step_id
    for field, time_us in (
        ("wait_until", state.wait_until_us),
        ("end_time", state.end_us),
        ("due_time", state.wake_us),
    ):
        if time_us:
            getattr(message, field).CopyFrom(to_timestamp(time_us))
    return message


def to_transition(transition: Transition) -> pb.Transition:
    """A transition as callers see it."""
    return pb.Transition(
        time=to_timestamp(transition.time_us),
        journey_version=version_name(transition.journey_id, transition.version),
        enrollment_id=transition.enrollment_id,
        kind=int(transition.kind),  # type: ignore[arg-type]
        stage=transition.stage,
        step=transition.step,
        detail=json_to_struct(transition.detail) if transition.detail else None,
        cause=transition.cause,
    )
