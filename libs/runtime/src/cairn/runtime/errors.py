"""Owns what a refusal looks like: one exception, one table from reason to code, rich details on the wire.

Refuses to carry a driver's text, a traceback, or anything that the caller did not send itself.

    Exception
    |- CairnError      a refused call: becomes a rich gRPC status
    `- StartupError    a process that can't start: becomes one line on stderr and exit code 1
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeVar

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason

_M = TypeVar("_M", bound=Message)

DOMAIN = "cairn"
"""`google.rpc.ErrorInfo.domain` of every error of ours."""

MAX_DETAIL_BYTES = 6 * 1024
"""Details travel in trailing metadata, which clients cut the call off for above 8 KiB by default."""

MAX_MESSAGE_CHARS = 1024

_REASON_NAMES = frozenset(ErrorReason.keys())

_INVALID = grpc.StatusCode.INVALID_ARGUMENT

REASON_CODES: Mapping[ErrorReason.ValueType, grpc.StatusCode] = MappingProxyType(
    {
        ErrorReason.ERROR_REASON_INVALID_ARGUMENT: _INVALID,
        ErrorReason.ERROR_REASON_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_ALREADY_EXISTS: grpc.StatusCode.ALREADY_EXISTS,
        ErrorReason.ERROR_REASON_ETAG_MISMATCH: grpc.StatusCode.ABORTED,
        ErrorReason.ERROR_REASON_FAILED_PRECONDITION: grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
        ErrorReason.ERROR_REASON_PERMISSION_DENIED: grpc.StatusCode.PERMISSION_DENIED,
        ErrorReason.ERROR_REASON_OVERLOADED: grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_PEER_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_NOT_READY: grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED: grpc.StatusCode.DEADLINE_EXCEEDED,
        ErrorReason.ERROR_REASON_INTERNAL: grpc.StatusCode.INTERNAL,
        # The reasons of single items stand in answers; as the error of a whole call they are bad arguments.
        ErrorReason.ERROR_REASON_EVENT_ID_INVALID: _INVALID,
        ErrorReason.ERROR_REASON_PROFILE_ID_INVALID: _INVALID,
        ErrorReason.ERROR_REASON_EVENT_NAME_INVALID: _INVALID,
        ErrorReason.ERROR_REASON_EVENT_TIME_INVALID: _INVALID,
        ErrorReason.ERROR_REASON_EVENT_IN_FUTURE: _INVALID,
        ErrorReason.ERROR_REASON_EVENT_TOO_OLD: _INVALID,
        ErrorReason.ERROR_REASON_TOO_LARGE: _INVALID,
        ErrorReason.ERROR_REASON_TIME_ZONE_INVALID: _INVALID,
        ErrorReason.ERROR_REASON_TIMER_INVALID: _INVALID,
        ErrorReason.ERROR_REASON_ACTIVATION_INVALID: _INVALID,
        ErrorReason.ERROR_REASON_PROFILE_ERASED: _INVALID,
        ErrorReason.ERROR_REASON_CONNECTION_UNKNOWN: grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_TEMPLATE_UNKNOWN: grpc.StatusCode.NOT_FOUND,
    }
)
"""The one table from reason to status code; complete for every reason but UNSPECIFIED."""

_REASONS_WITHOUT_DETAILS: Mapping[grpc.StatusCode, ErrorReason.ValueType] = MappingProxyType(
    {
        grpc.StatusCode.INVALID_ARGUMENT: ErrorReason.ERROR_REASON_INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND: ErrorReason.ERROR_REASON_NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS: ErrorReason.ERROR_REASON_ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION: ErrorReason.ERROR_REASON_FAILED_PRECONDITION,
        grpc.StatusCode.UNAUTHENTICATED: ErrorReason.ERROR_REASON_UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED: ErrorReason.ERROR_REASON_PERMISSION_DENIED,
        grpc.StatusCode.RESOURCE_EXHAUSTED: ErrorReason.ERROR_REASON_OVERLOADED,
        grpc.StatusCode.UNAVAILABLE: ErrorReason.ERROR_REASON_PEER_UNAVAILABLE,
        grpc.StatusCode.DEADLINE_EXCEEDED: ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
    }
)


class StartupError(Exception):
    """A process can't start. Its text is one line: what is wrong, and which setting to change."""


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """One wrong field: `field` is its path from the request's root, `description` what would be right."""

    field: str
    description: str


class CairnError(Exception):
    """A call, or one item of it, is refused. Carries everything that the caller is told.

    `message` says what was wrong, where, and what to do next. `violations` names each wrong field,
    `resource` the resource in question, `retry_after_s` the seconds to wait before repeating, `metadata`
    facts for programs.
    """

    def __init__(
        self,
        reason: ErrorReason.ValueType,
        message: str,
        *,
        violations: Sequence[FieldViolation] = (),
        metadata: Mapping[str, str] = MappingProxyType({}),
        retry_after_s: float | None = None,
        resource: str = "",
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.violations = tuple(violations)
        self.metadata = dict(metadata)
        self.retry_after_s = retry_after_s
        self.resource = resource

    @property
    def code(self) -> grpc.StatusCode:
        """The status code that `REASON_CODES` gives for the reason."""
        return REASON_CODES[self.reason]

    def to_status(self) -> status_pb2.Status:
        """The rich status, small enough for any client's metadata limit.

        Violations that do not fit are counted in a last one without a field; nothing else is ever left out.
        """
        message = self.message
        if len(message) > MAX_MESSAGE_CHARS:
            message = message[: MAX_MESSAGE_CHARS - 1] + "…"
        status = status_pb2.Status(code=_number(self.code), message=message)
        _add(
            status,
            error_details_pb2.ErrorInfo(
                reason=ErrorReason.Name(self.reason), domain=DOMAIN, metadata=self.metadata
            ),
        )
        if self.retry_after_s is not None:
            delay = duration_pb2.Duration()
            delay.FromMicroseconds(round(self.retry_after_s * 1_000_000))
            _add(status, error_details_pb2.RetryInfo(retry_delay=delay))
        if self.resource:
            kind = self.resource.split("/", 1)[0]
            _add(status, error_details_pb2.ResourceInfo(resource_type=kind, resource_name=self.resource))
        if self.violations:
            _add(status, _bad_request(self.violations, MAX_DETAIL_BYTES - status.ByteSize()))
        return status


def not_found(resource_name: str) -> CairnError:
    """The resource of this full name ("journeys/abandoned-cart") does not exist."""
    # Profiles are too many to be listed, and come to be by the first that is told of them.
    profile = resource_name.startswith("profiles/")
    kind = ("", *resource_name.split("/"))[-2]
    hint = "nothing was ever told of it" if profile else f"list the {kind} to see which do"
    return CairnError(
        ErrorReason.ERROR_REASON_NOT_FOUND,
        f"{resource_name} does not exist; {hint}.",
        resource=resource_name,
    )


def invalid(message: str, violations: Sequence[FieldViolation] = ()) -> CairnError:
    """The request is wrong; `violations` holds all that is wrong with it, not the first finding alone.

    Those who do not see the details read the first of them behind `message`, unless it says as much itself.
    """
    if violations and violations[0].description not in message:
        first = ": ".join(part for part in (violations[0].field, violations[0].description) if part)
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        message = f"{message.rstrip('.')}: {first}{more}."
    return CairnError(ErrorReason.ERROR_REASON_INVALID_ARGUMENT, message, violations=violations)


def aborted_etag(name: str) -> CairnError:
    """Somebody changed the resource since the caller read it."""
    return CairnError(
        ErrorReason.ERROR_REASON_ETAG_MISMATCH,
        f"{name} has changed since its etag was read; get it again, then repeat the change.",
        resource=name,
    )


def unavailable(what: str, retry_after_s: float) -> CairnError:
    """Another service (`what`, as a person would call it) that this call needs does not answer."""
    return CairnError(
        ErrorReason.ERROR_REASON_PEER_UNAVAILABLE,
        f"{what} does not answer at the moment; repeat the call with the same ids.",
        retry_after_s=retry_after_s,
    )


def error_from_rpc(error: grpc.aio.AioRpcError) -> CairnError:
    """What a failed call meant, with the rich details when the other side sent any of ours.

    Without them (a refused connection, a proxy's answer) the reason follows from the status code.
    """
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # the stub knows no aio
    except ValueError:
        status = None
    details = {detail.type_url.rsplit("/", 1)[-1]: detail for detail in (status.details if status else ())}
    info = _unpack(details, error_details_pb2.ErrorInfo())
    if status is None or info.domain != DOMAIN or info.reason not in _REASON_NAMES:
        return _error_without_details(error)
    retry = _unpack(details, error_details_pb2.RetryInfo())
    return CairnError(
        ErrorReason.Value(info.reason),
        status.message,
        violations=[
            FieldViolation(violation.field, violation.description)
            for violation in _unpack(details, error_details_pb2.BadRequest()).field_violations
        ],
        metadata=info.metadata,
        retry_after_s=retry.retry_delay.ToMicroseconds() / 1_000_000 if retry.ByteSize() else None,
        resource=_unpack(details, error_details_pb2.ResourceInfo()).resource_name,
    )


def _error_without_details(error: grpc.aio.AioRpcError) -> CairnError:
    text = error.details() or error.code().name
    # gRPC's own answer to a message over the limit has the code of an overload, but repeating it never helps.
    if error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return CairnError(ErrorReason.ERROR_REASON_TOO_LARGE, text)
    return CairnError(_REASONS_WITHOUT_DETAILS.get(error.code(), ErrorReason.ERROR_REASON_INTERNAL), text)


def _bad_request(violations: Sequence[FieldViolation], budget_bytes: int) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    for index, violation in enumerate(violations):
        entry = request.field_violations.add(field=violation.field, description=violation.description)
        # 160 bytes are kept for the count below and for the packing around the details.
        if index and request.ByteSize() > budget_bytes - 160:
            request.field_violations.remove(entry)
            rest = len(violations) - index
            request.field_violations.add(
                description=f"{rest} more are not shown; correct these first, then repeat."
            )
            break
    return request


def _add(status: status_pb2.Status, detail: Message) -> None:
    status.details.add().Pack(detail)


def _unpack(details: Mapping[str, any_pb2.Any], empty: _M) -> _M:
    packed = details.get(empty.DESCRIPTOR.full_name)
    if packed is not None:
        packed.Unpack(empty)
    return empty


def _number(code: grpc.StatusCode) -> int:
    return int(code.value[0])
