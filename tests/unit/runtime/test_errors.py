"""Every reason has its code, and a refusal says on the wire what it said here."""

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.runtime import errors
from cairn.runtime.errors import CairnError, FieldViolation, error_from_rpc

REASONS = [reason for reason in ErrorReason.values() if reason != ErrorReason.ERROR_REASON_UNSPECIFIED]


def sent(error: CairnError) -> grpc.aio.AioRpcError:
    """The error as a caller would get it."""
    status = rpc_status.to_status(error.to_status())
    trailing = grpc.aio.Metadata(*status.trailing_metadata)
    return grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), trailing, details=status.details)


@pytest.mark.parametrize("reason", REASONS, ids=ErrorReason.Name)
def test_every_reason_has_a_code_and_comes_back(reason: ErrorReason.ValueType) -> None:
    error = CairnError(reason, "What was wrong.")
    assert isinstance(error.code, grpc.StatusCode)
    assert error.code is not grpc.StatusCode.OK
    back = error_from_rpc(sent(error))
    assert (back.reason, back.message, back.code) == (reason, "What was wrong.", error.code)
    assert (back.violations, back.metadata, back.retry_after_s, back.resource) == ((), {}, None, "")


@pytest.mark.parametrize(
    ("error", "code", "part"),
    [
        (errors.not_found("journeys/a"), grpc.StatusCode.NOT_FOUND, "journeys/a does not exist"),
        (errors.invalid("Two fields are wrong."), grpc.StatusCode.INVALID_ARGUMENT, "Two fields"),
        (errors.aborted_etag("journeys/a"), grpc.StatusCode.ABORTED, "get it again"),
        (
            errors.unavailable("The Scheduler", 2),
            grpc.StatusCode.UNAVAILABLE,
            "The Scheduler does not answer",
        ),
    ],
)
def test_the_common_refusals(error: CairnError, code: grpc.StatusCode, part: str) -> None:
    assert error.code is code
    assert part in str(error)


@pytest.mark.parametrize(
    ("code", "details", "reason"),
    [
        (grpc.StatusCode.UNAVAILABLE, "connection refused", ErrorReason.ERROR_REASON_PEER_UNAVAILABLE),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "busy", ErrorReason.ERROR_REASON_OVERLOADED),
        (
            grpc.StatusCode.RESOURCE_EXHAUSTED,
            "CLIENT: Received message larger than max (5 vs. 4)",
            ErrorReason.ERROR_REASON_TOO_LARGE,
        ),
        (grpc.StatusCode.UNIMPLEMENTED, "", ErrorReason.ERROR_REASON_INTERNAL),
    ],
)
def test_an_answer_that_is_not_ours_is_understood_by_its_code(
    code: grpc.StatusCode, details: str, reason: ErrorReason.ValueType
) -> None:
    raw = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=details)
    assert error_from_rpc(raw).reason == reason
    assert error_from_rpc(raw).message


def test_a_foreign_rich_status_is_not_taken_for_ours() -> None:
    status = errors.not_found("journeys/a").to_status()
    info = error_details_pb2.ErrorInfo()
    status.details[0].Unpack(info)
    info.domain = "elsewhere.example"
    status.details[0].Pack(info)
    rendered = rpc_status.to_status(status)
    trailing = grpc.aio.Metadata(*rendered.trailing_metadata)
    raw = grpc.aio.AioRpcError(rendered.code, grpc.aio.Metadata(), trailing, details=rendered.details)
    assert error_from_rpc(raw).resource == ""


@pytest.mark.parametrize("count", [1, 40, 500])
def test_violations_fit_any_clients_metadata_and_none_is_hidden(count: int) -> None:
    violations = [
        FieldViolation(f"stages[{index}].steps[1].wait.duration", "is 25 days; at most 24 days")
        for index in range(count)
    ]
    status = errors.invalid("Fields are wrong. " + "x" * 5000, violations).to_status()
    assert status.ByteSize() <= errors.MAX_DETAIL_BYTES
    back = error_from_rpc(sent(errors.invalid("Fields are wrong.", violations)))
    shown = [violation for violation in back.violations if violation.field]
    assert shown == violations[: len(shown)]
    if len(shown) < count:
        assert back.violations[-1].description.startswith(f"{count - len(shown)} more")
