"""Owns repeatable calls: one transaction in which a mutation and its answer are kept together under a request id.

Refuses to run a request id a second time, and to answer another request under it.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from google.protobuf.message import Message

from cairn.definition import store
from cairn.postgres.pool import AnyConnection, Pool, translate_errors
from cairn.runtime.clock import now_us
from cairn.runtime.errors import FieldViolation, invalid

T = TypeVar("T")
M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class Call(Generic[T, M]):
    """A mutation as its caller sees it: the request, and how an outcome becomes a response.

    With an empty `request_id` it is not repeatable, and nothing of it is kept.
    """

    request_id: str
    request: Message
    render: Callable[[T], M]
    response_type: type[M]

    @property
    def fingerprint(self) -> bytes:
        """Equal for equal requests of one method only."""
        content = self.request.SerializeToString(deterministic=True)
        return hashlib.sha256(self.request.DESCRIPTOR.full_name.encode() + b"\0" + content).digest()


async def once(pool: Pool, call: Call[T, M], act: Callable[[AnyConnection], Awaitable[T]]) -> M:
    """Run `act` in one transaction and return its response, or the response that an earlier run of the call had.

    Two runs at once: the second waits, then answers as the first did, or takes its place if it failed.
    """
    with translate_errors():
        async with pool.acquire() as connection, connection.transaction():
            if not call.request_id:
                return call.render(await act(connection))
            while not await store.claim_request(connection, call.request_id, call.fingerprint, now_us()):
                answer = await _kept_answer(connection, call)
                if answer is not None:
                    return answer
            response = call.render(await act(connection))
            await store.answer_request(connection, call.request_id, response.SerializeToString())
            return response


async def earlier_answer(pool: Pool, call: Call[T, M]) -> M | None:
    """The response of an earlier run, or None: for calls that do more than a transaction."""
    if not call.request_id:
        return None
    with translate_errors():
        return await _kept_answer(pool, call)


async def _kept_answer(database: store.Database, call: Call[T, M]) -> M | None:
    kept = await store.get_request(database, call.request_id)
    if kept is None:
        return None
    fingerprint, response = kept
    if fingerprint != call.fingerprint:
        rule = "belongs to another request of the last 24 hours; take a new one for each request"
        raise invalid(f"request_id {rule}.", [FieldViolation("request_id", rule)])
    return call.response_type.FromString(response)
