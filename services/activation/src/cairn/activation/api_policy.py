"""Owns the calls about the sending policy: parse, one operation, render."""

from typing import Any

import grpc

from cairn.activation import policy as policies
from cairn.activation import store_resources
from cairn.activation.model import Resource
from cairn.activation.policy import Policies
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.postgres.pool import Pool, translate_errors
from cairn.runtime.clock import now_us, to_timestamp
from cairn.runtime.errors import aborted_etag, invalid

_Context = grpc.aio.ServicerContext[Any, Any]


class PolicyCalls:
    """The rules that hold for all connections through which people are written to."""

    _pool: Pool
    _policies: Policies

    async def GetSendingPolicy(
        self, request: pb.GetSendingPolicyRequest, _context: _Context
    ) -> pb.GetSendingPolicyResponse:
        with translate_errors():
            rows = await store_resources.look_up(self._pool, [(policies.POLICIES, policies.POLICY_ID)])
        return pb.GetSendingPolicyResponse(policy=_to_policy(rows[0]) if rows else pb.SendingPolicy())

    async def PutSendingPolicy(
        self, request: pb.PutSendingPolicyRequest, _context: _Context
    ) -> pb.PutSendingPolicyResponse:
        violations = policies.check_policy(request.policy)
        if violations:
            raise invalid("The sending policy is wrong.", violations)
        with translate_errors():
            saved = await store_resources.put(
                self._pool, policies.to_resource(request.policy, now_us()), request.policy.etag
            )
            self._policies.forget()
        if saved is None:
            raise aborted_etag(f"{policies.POLICIES}/{policies.POLICY_ID}")
        return pb.PutSendingPolicyResponse(policy=_to_policy(saved))


def _to_policy(row: Resource) -> pb.SendingPolicy:
    policy = policies.read_policy(row)
    policy.update_time.CopyFrom(to_timestamp(row.update_us))
    return policy
