"""The sending policy as operators set it, and rules that can't be set."""

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import to_duration


def cap(count: int) -> pb.FrequencyCap:
    return pb.FrequencyCap(count=count, period=to_duration(86_400_000_000))


async def put(replica: Any, **rules: Any) -> pb.SendingPolicy:
    request = pb.PutSendingPolicyRequest(policy=pb.SendingPolicy(**rules))
    return (await replica.stub.PutSendingPolicy(request, timeout=30)).policy


@pytest.fixture
async def service(activation):
    return await activation()


async def test_the_sending_policy_is_kept_with_an_etag(service) -> None:
    async def policy() -> pb.SendingPolicy:
        return (await service.stub.GetSendingPolicy(pb.GetSendingPolicyRequest())).policy

    assert await policy() == pb.SendingPolicy()
    first = await put(service, frequency_caps=[cap(3)])
    assert await policy() == first
    assert first.etag
    second = await put(service, frequency_caps=[cap(4)], etag=first.etag)
    assert second.etag != first.etag
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await put(service, frequency_caps=[cap(5)], etag=first.etag)
    assert error.value.code() is grpc.StatusCode.ABORTED
    assert await policy() == second


async def test_wrong_rules_are_refused_with_all_that_is_wrong(service) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await put(service, frequency_caps=[cap(0)], quiet_hours=pb.QuietHours(start="21:00", end="08:00"))
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert _fields(error.value) == {"policy.quiet_hours.fallback_time_zone", "policy.frequency_caps[0].count"}
    wrong = pb.Connection(
        name="log", log=pb.LogConnection(), rate_limit=pb.RateLimit(count=1), quiet_hours=pb.QuietHours()
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.put(wrong)
    assert _fields(error.value) == {
        "connection.rate_limit.period",
        "connection.quiet_hours.start",
        "connection.quiet_hours.end",
    }


def _fields(error: grpc.aio.AioRpcError) -> set[str]:
    status = rpc_status.from_call(error)
    assert status is not None
    found: set[str] = set()
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found |= {violation.field for violation in bad.field_violations}
    return found
