"""Owns the way to the Evaluator: opens streams, leaves a connection that is dead, and finds out why a stream broke."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import grpc

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1.evaluator_pb2 import DESCRIPTOR, StreamEventsResponse
from cairn.client.retry import ended
from cairn.runtime.errors import CairnError, error_from_rpc

_METHOD = f"/{DESCRIPTOR.services_by_name['EvaluatorService'].full_name}/StreamEvents"
_ASK_SECONDS = 2.0

# What a write raises when the other side has left already; the read tells why.
_LEFT = (asyncio.InvalidStateError, grpc.aio.InternalError)

Call = Any
"""A StreamEvents call whose requests are bytes."""


class Connection:
    """One channel at a time. `open_channel` makes it; it is ours to close."""

    def __init__(self, open_channel: Callable[[], grpc.aio.Channel]) -> None:
        self._open_channel = open_channel
        self._channel = open_channel()

    def stream(self, timeout: float | None = None) -> Call:
        """A new stream; without `timeout`, in seconds, it may last for ever."""
        # Batches are serialized already: gRPC is given bytes.
        method: Callable[..., Call] = self._channel.stream_stream(
            _METHOD, request_serializer=None, response_deserializer=StreamEventsResponse.FromString
        )
        return method(timeout=timeout)

    async def renew(self) -> None:
        """Leaves the connection. gRPC itself leaves only what no longer answers its pings."""
        await self._channel.close()
        self._channel = self._open_channel()

    async def close(self) -> None:
        """Ends all."""
        await self._channel.close()

    async def why(self, read: object, wrote: object) -> CairnError:
        """Why a stream broke, by what its reader and its writer ended with. Raises what is no word of gRPC's."""
        for end in (read, wrote):
            if isinstance(end, grpc.aio.AioRpcError):
                return await self._ask() if _is_wordless(end) else _error_of(end)
            if isinstance(end, Exception) and not isinstance(end, _LEFT):
                raise end
        return ended("the Evaluator ended the stream")

    async def _ask(self) -> CairnError:
        """Why a stream broke that lost its words: one without a write has none to lose. When that is let in, something of ours
        broke the other."""
        call = self.stream(timeout=_ASK_SECONDS)
        try:
            with contextlib.suppress(*_LEFT):
                await call.done_writing()
            await call.read()
        except grpc.aio.AioRpcError as error:
            return _error_of(error)
        finally:
            call.cancel()
        return CairnError(
            ErrorReason.ERROR_REASON_INTERNAL, "the Evaluator ended the stream without saying why"
        )


def _is_wordless(error: grpc.aio.AioRpcError) -> bool:
    """Whether a write found that the other side has left: gRPC then loses what the other side said."""
    return error.code() is grpc.StatusCode.INTERNAL and "Core" in (error.details() or "")


def _error_of(error: grpc.aio.AioRpcError) -> CairnError:
    """What a status means. A stream that was canceled, and not by us, lost its server or a proxy on the way."""
    if error.code() is grpc.StatusCode.CANCELLED:
        return ended(error.details() or "the stream was canceled")
    return error_from_rpc(error)
