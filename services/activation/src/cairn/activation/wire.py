"""Owns the wire form of the ledger: requests to domain values or refusals, rows to messages. Pure."""

import base64
import binascii
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import msgspec

from cairn.activation.ledger import State
from cairn.activation.model import Activation, Delivery, Receipt, Withdrawal
from cairn.activation.store_listing import Page
from cairn.activation.store_moves import Watched
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1 import journey_pb2
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.runtime.clock import from_timestamp, to_timestamp
from cairn.runtime.errors import CairnError, FieldViolation, invalid

MAX_BATCH = 10_000
MAX_ID_BYTES = 256
MAX_ZONE_BYTES = 64
MAX_CONTEXT_BYTES = 128 * 1024
MAX_PAGE_SIZE = 1_000
MAX_VERSION = 2**31 - 1
DEFAULT_PAGE_SIZE = 100

FUTURE_US = 86_400_000_000
"""How far ahead of us a request time may be: the ledger's days are made two days ahead."""

_END_US = 4_102_444_800_000_000  # 2100: after every delivery there is
_ID = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_JOURNEY = re.compile(r"journeys/[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_T = TypeVar("_T")
_INVALID = ErrorReason.ERROR_REASON_ACTIVATION_INVALID
_ACTIONS = frozenset(journey_pb2.AudienceAction.values())
_SURELY_SHORT = MAX_ID_BYTES // 4
"""Characters that never make more than the most bytes."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why one item of a batch is refused for good."""

    reason: ErrorReason.ValueType
    message: str


def check_batch(field: str, size: int) -> None:
    """Refuses a batch of the wrong size."""
    if not 1 <= size <= MAX_BATCH:
        text = f"holds {size:,} items; 1 to {MAX_BATCH:,} can be taken at once"
        raise invalid("The batch has the wrong size.", [FieldViolation(field, text)])


@lru_cache(maxsize=1024)
def parse_id(kind: str, name: str) -> str:
    """The id of "connections/email" or "email" for the kind "connections"; "" when it is neither."""
    id_ = name.removeprefix(f"{kind}/")
    return id_ if _ID.fullmatch(id_) else ""


def require_id(kind: str, name: str, field: str = "name") -> str:
    """As `parse_id`; a wrong name is refused, as a violation of that field."""
    id_ = parse_id(kind, name)
    if not id_:
        text = f"is no name; write {kind}/ID, the id of lower-case letters, digits and dashes, at most 63 of them"
        raise invalid("The resource's name is wrong.", [FieldViolation(field, text)])
    return id_


def parse_activation(message: pb.Activation, now: int) -> Activation | Refusal:
    """The request, or why it is none. `now` bounds how far ahead its time may be."""
    problem = _check_key(message, now)
    if problem:
        return Refusal(_INVALID, problem)
    context = message.context
    if len(context) > MAX_CONTEXT_BYTES:
        size = f"{len(context):,} bytes"
        return Refusal(_INVALID, f"context has {size}; at most {MAX_CONTEXT_BYTES:,} can be taken")
    journey_version, stage, step = message.journey_version, message.stage, message.step
    enrollment = message.enrollment
    problem = (
        _check_text("journey_version", journey_version)
        or _check_text("stage", stage)
        or _check_text("step", step)
        or _check_text("enrollment", enrollment)
    )
    if problem:
        return Refusal(_INVALID, problem)
    connection = parse_id("connections", message.connection)
    if not connection:
        return Refusal(
            ErrorReason.ERROR_REASON_CONNECTION_UNKNOWN, "connection is no name; write connections/ID"
        )
    zone = message.time_zone
    named = message.template
    template = parse_id("templates", named) if named else ""
    if named and not template:
        return Refusal(ErrorReason.ERROR_REASON_TEMPLATE_UNKNOWN, "template is no name; write templates/ID")
    return Activation(
        activation_id=message.activation_id,
        profile_id=message.profile_id,
        request_us=from_timestamp(message.request_time),
        connection=connection,
        template=template,
        action=message.action if message.action in _ACTIONS else 0,
        journey_version=journey_version,
        stage=stage,
        step=step,
        enrollment=enrollment,
        context=context,
        # A zone that is none is an unknown one: the guard is careful then.
        time_zone=zone if "\0" not in zone and len(zone.encode()) <= MAX_ZONE_BYTES else "",
    )


def parse_withdrawals(messages: Sequence[pb.Withdrawal], now: int) -> list[Withdrawal]:
    """The requests; a wrong one refuses all, with every violation: a withdrawal is never for nothing."""
    violations, withdrawals = [], []
    for index, message in enumerate(messages):
        problem = _check_key(message, now)
        if problem:
            violations.append(FieldViolation(f"withdrawals[{index}]", problem))
            continue
        withdrawals.append(
            Withdrawal(
                activation_id=message.activation_id,
                profile_id=message.profile_id,
                request_us=from_timestamp(message.request_time),
                reason=message.reason.replace("\0", "")[:MAX_ID_BYTES],
            )
        )
    if violations:
        raise invalid("Some withdrawals are wrong; none was taken.", violations)
    return withdrawals


def _check_key(message: pb.Activation | pb.Withdrawal, now: int) -> str:
    for field, value in (("activation_id", message.activation_id), ("profile_id", message.profile_id)):
        problem = _check_text(field, value)
        if problem or not value:
            return problem or f"{field} is required"
    if not message.HasField("request_time"):
        return "request_time is required"
    time = message.request_time
    if not 0 <= time.seconds < _END_US // 1_000_000:
        return "request_time is outside the years 1970 to 2099"
    if not 0 <= time.nanos < 1_000_000_000:
        return "request_time is no valid time"
    if from_timestamp(time) > now + FUTURE_US:
        return "request_time is more than a day ahead of this service's clock"
    return ""


def _check_text(field: str, value: str) -> str:
    if len(value) > _SURELY_SHORT and len(value.encode()) > MAX_ID_BYTES:
        return f"{field} has {len(value.encode()):,} bytes; at most {MAX_ID_BYTES} can be taken"
    return f"{field} contains a NUL character" if "\0" in value else ""


class _Token(msgspec.Struct, array_like=True):
    """Where a page of deliveries ended."""

    request_us: int
    bucket: int
    activation_id: str


def check_filter(request: pb.ListDeliveriesRequest | pb.WatchDeliveriesRequest) -> None:
    """Refuses a filter by a journey or a state that can't be."""
    violations = []
    if request.journey and not _JOURNEY.fullmatch(request.journey):
        violations.append(FieldViolation("journey", "is no name; write journeys/ID"))
    for index, state in enumerate(request.states):
        if int(state) not in {known.value for known in State}:
            violations.append(FieldViolation(f"states[{index}]", "is no state"))
    if violations:
        raise invalid("The filter is wrong.", violations)


def parse_list(request: pb.ListDeliveriesRequest) -> Page:
    """The page that is asked for."""
    check_filter(request)
    position = _Token(_END_US, -1, "")
    if request.page_token:
        position = _read_token(request.page_token, _Token)
    return Page(
        journey=request.journey,
        states=tuple(request.states),
        before_us=position.request_us,
        after_bucket=position.bucket,
        after_id=position.activation_id,
        size=page_size(request.page_size),
    )


def page_size(asked: int) -> int:
    """The size of a page; 0 is the default, and what is out of bounds is refused."""
    if not 0 <= asked <= MAX_PAGE_SIZE:
        raise invalid(
            "The page size is wrong.",
            [FieldViolation("page_size", f"is {asked}; 1 to {MAX_PAGE_SIZE:,} can be read")],
        )
    return asked or DEFAULT_PAGE_SIZE


def deliveries_token(last: Delivery) -> str:
    """The token of the page after this delivery."""
    return _write_token(_Token(last.request_us, last.bucket, last.activation_id))


def resources_token(last_id: str) -> str:
    """The token of the page after this connection or template."""
    return _write_token(last_id)


def read_resources_token(token: str) -> str:
    """The id that `resources_token` was given; "" for the first page."""
    return _read_token(token, str) if token else ""


def versions_token(last: int) -> str:
    """The token of the page after this version of a template, newest first."""
    return _write_token(last)


def read_versions_token(token: str) -> int:
    """The version that `versions_token` was given; more than there can be for the first page."""
    return _read_token(token, int) if token else MAX_VERSION


def _write_token(value: object) -> str:
    return base64.urlsafe_b64encode(msgspec.msgpack.encode(value)).decode()


def _read_token(token: str, type_: type[_T]) -> _T:
    try:
        return msgspec.msgpack.decode(base64.urlsafe_b64decode(token), type=type_)
    except (msgspec.DecodeError, binascii.Error, ValueError):
        raise invalid(
            "The page token is wrong.",
            [FieldViolation("page_token", "is none of ours; take next_page_token as it came")],
        ) from None


def to_delivery(delivery: Delivery, feedback: Iterable[pb.Feedback] = ()) -> pb.Delivery:
    """The message of a row, with what was told of it."""
    message = pb.Delivery(
        name=f"deliveries/{delivery.activation_id}",
        activation_id=delivery.activation_id,
        profile_id=delivery.profile_id,
        state=_wire_state(delivery.state),
        connection=f"connections/{delivery.connection}" if delivery.connection else "",
        template=f"templates/{delivery.template}" if delivery.template else "",
        action=journey_pb2.AudienceAction.ValueType(delivery.action),
        journey_version=delivery.journey_version,
        stage=delivery.stage,
        step=delivery.step,
        enrollment=delivery.enrollment,
        request_time=to_timestamp(delivery.request_us),
        accept_time=to_timestamp(delivery.accept_us),
        state_time=to_timestamp(delivery.state_us),
        attempts=delivery.attempts,
        detail=delivery.detail,
        external_id=delivery.external_id,
        template_version=delivery.template_version,
        history=[
            pb.DeliveryAttempt(
                end_time=to_timestamp(attempt.end_us), state=_wire_state(attempt.state), detail=attempt.detail
            )
            for attempt in delivery.history
        ],
        feedback=feedback,
    )
    if delivery.state is State.PENDING:
        message.next_attempt_time.CopyFrom(to_timestamp(delivery.next_attempt_us))
    return message


def to_receipts(receipts: Iterable[Receipt]) -> bytes:
    """The message that carries fates, a DeliverReceiptsRequest, as bytes."""
    request = pb.DeliverReceiptsRequest()
    add = request.receipts.add
    time_us, time = -1, None
    for activation_id, profile_id, enrollment, state, detail, state_us in receipts:
        if state_us != time_us:  # those of a batch are seldom different
            time_us, time = state_us, to_timestamp(state_us)
        add(
            activation_id=activation_id,
            profile_id=profile_id,
            enrollment=enrollment,
            state=int(state),
            state_time=time,
            detail=detail,
        )
    return request.SerializeToString()


def parse_watch(request: pb.WatchDeliveriesRequest) -> Watched:
    """What is to be watched."""
    check_filter(request)
    return Watched(request.journey, tuple(request.states), request.profile_id.replace("\0", ""))


def parse_resolution(request: pb.ResolveDeliveryRequest) -> State:
    """The state that a human says a delivery came to."""
    if request.state not in (pb.DELIVERY_STATE_SENT, pb.DELIVERY_STATE_FAILED):
        raise invalid("The state is wrong.", [FieldViolation("state", "is SENT or FAILED")])
    return State(request.state)


def parse_reason(reason: str) -> str:
    """A human's reason."""
    if len(reason.encode()) > MAX_ID_BYTES or "\0" in reason:
        text = f"is a text of at most {MAX_ID_BYTES} bytes"
        raise invalid("The reason is wrong.", [FieldViolation("reason", text)])
    return reason


def wrong_state(delivery: Delivery, needed: str) -> CairnError:
    """A delivery is in no state for what was asked."""
    return CairnError(
        ErrorReason.ERROR_REASON_FAILED_PRECONDITION,
        f"deliveries/{delivery.activation_id} is {delivery.state.name}; it has to be {needed}.",
        resource=f"deliveries/{delivery.activation_id}",
    )


def delivery_id(name: str) -> str:
    """The activation's id in "deliveries/{activation_id}"."""
    prefix = "deliveries/"
    id_ = name.removeprefix(prefix)
    if not name.startswith(prefix) or not id_ or "\0" in id_:
        raise invalid(
            "The delivery's name is wrong.", [FieldViolation("name", "write deliveries/ACTIVATION_ID")]
        )
    return id_


def overloaded(limit: int) -> CairnError:
    """Too much is on its way into the ledger."""
    return CairnError(
        ErrorReason.ERROR_REASON_OVERLOADED,
        f"More than {limit:,} activations are on their way into the ledger; repeat with the same ids after the delay.",
        retry_after_s=1.0,
    )


def too_many_watches(limit: int) -> CairnError:
    """So many watch already that another would be a burden."""
    return CairnError(
        ErrorReason.ERROR_REASON_OVERLOADED,
        f"{limit} streams of WatchDeliveries are open here; end one, or read ListDeliveries.",
        retry_after_s=30.0,
    )


def _wire_state(state: State) -> pb.DeliveryState.ValueType:
    return pb.DeliveryState.ValueType(state)
