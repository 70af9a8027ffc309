"""Owns how open streams end when a process drains: at once, and so that the other side knows to go on
elsewhere.

A unary call is simply finished. A stream would live for as long as its caller likes, so:
a stream of requests ends as if the caller had sent its last one, which lets the servicer finish and
acknowledge what it has read; a stream of answers alone is cut. Both then end with UNAVAILABLE, reason
NOT_READY.
"""

import asyncio
from collections.abc import AsyncIterable, Awaitable
from typing import Any, Self

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.runtime.errors import CairnError

_CANCEL_EVERY_SECONDS = 0.2


class Drain:
    """The moment from which on nothing new is begun; made once for each process, on its event loop."""

    def __init__(self) -> None:
        self._begun: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    @property
    def begun(self) -> bool:
        """Whether the process has been asked to stop."""
        return self._begun.done()

    def begin(self) -> None:
        """Ends the open streams; the second time does nothing."""
        if not self._begun.done():
            self._begun.set_result(None)

    async def cut(self, work: Awaitable[None]) -> None:
        """Does the work of a stream of answers until it is done or the drain begins, which raises
        NOT_READY."""
        task = asyncio.ensure_future(work)
        finished = False
        try:
            finished = await self.wait_with(task)
        finally:
            # Again and again: Python 3.11's `wait_for`, which drivers use, can swallow a cancellation.
            while not finished and not task.done():
                task.cancel()
                await asyncio.wait((task,), timeout=_CANCEL_EVERY_SECONDS)
        if not finished:
            raise stopping()
        task.result()

    async def wait_with(self, work: "asyncio.Future[Any]") -> bool:
        """Waits for the work or for the drain to begin, and tells whether the work is done."""
        await asyncio.wait((work, self._begun), return_when=asyncio.FIRST_COMPLETED)
        return work.done()


class Requests:
    """The messages of a stream of requests, up to the last one read when the drain begins; `cut` tells that
    it did."""

    def __init__(self, drain: Drain, received: AsyncIterable[Any]) -> None:
        self._drain = drain
        self._received = aiter(received)
        self.cut = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Any:
        """The next message; StopAsyncIteration after the caller's last one, or when the drain has begun."""
        if self._drain.begun:
            self.cut = True
            raise StopAsyncIteration
        read = asyncio.ensure_future(anext(self._received, _END))
        if not await self._drain.wait_with(read):
            # A read must never be cancelled, gRPC writes into its memory later: it ends with the call.
            read.add_done_callback(_forget)
            self.cut = True
            raise StopAsyncIteration
        message = read.result()
        if message is _END:
            raise StopAsyncIteration
        return message


_END: Any = object()


def stopping() -> CairnError:
    """The process is about to stop; another replica, or this one in a moment, will take the call."""
    return CairnError(
        ErrorReason.ERROR_REASON_NOT_READY,
        "The service is about to stop; repeat the call, or resume the stream after what was acknowledged.",
        retry_after_s=1.0,
    )


def _forget(read: "asyncio.Future[Any]") -> None:
    if not read.cancelled():
        read.exception()
