"""A scripted Evaluator over real sockets: takes every batch, but where a test says otherwise."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import grpc

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1.evaluator_pb2 import BatchError, StreamEventsRequest, StreamEventsResponse
from cairn.api.evaluator.v1.evaluator_pb2_grpc import (
    EvaluatorServiceServicer,
    add_EvaluatorServiceServicer_to_server,
)
from cairn.client import EventClient, EventClientSettings, Pending, event
from cairn.runtime.clock import to_duration


class Break(Exception):  # noqa: N818 - what a script does, not an error
    """Ends the stream with a status."""

    def __init__(self, code: grpc.StatusCode, message: str = "broken by the script") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def taken(request: StreamEventsRequest) -> StreamEventsResponse:
    return StreamEventsResponse(sequence=request.sequence, accepted=len(request.events))


def failed(
    request: StreamEventsRequest, reason: ErrorReason.ValueType, delay_s: float | None = None
) -> StreamEventsResponse:
    asked = None if delay_s is None else to_duration(round(delay_s * 1e6))
    error = BatchError(reason=reason, message="said the script", retry_delay=asked)
    return StreamEventsResponse(sequence=request.sequence, error=error)


class Stand(EvaluatorServiceServicer):
    """`begin` is asked as a stream opens, `answer` for each batch, several at once as in the real one."""

    def __init__(self) -> None:
        self.requests: list[StreamEventsRequest] = []
        self.times: list[float] = []
        self.streams = 0
        self.peers: list[str] = []
        self.changed = asyncio.Event()
        self.begin: Callable[[], None] = lambda: None
        self.answer: Callable[[StreamEventsRequest], Any] = taken
        self._server: grpc.aio.Server | None = None
        self.port = 0

    async def start(self) -> None:
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        add_EvaluatorServiceServicer_to_server(self, self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self._server.start()

    async def stop(self) -> None:
        if self._server is not None:
            await self._server.stop(None)
            self._server = None

    async def StreamEvents(  # noqa: N802 - the contract's name
        self, request_iterator: AsyncIterable[StreamEventsRequest], context: Any
    ) -> AsyncIterator[StreamEventsResponse]:
        self.streams += 1
        self.peers.append(context.peer())
        try:
            self.begin()
        except Break as broken:
            await context.abort(broken.code, broken.message)
        out: asyncio.Queue[StreamEventsResponse | Break | None] = asyncio.Queue()

        async def one(request: StreamEventsRequest) -> None:
            try:
                answer = self.answer(request)
                out.put_nowait(await answer if asyncio.iscoroutine(answer) else answer)
            except Break as broken:
                out.put_nowait(broken)

        async def read() -> None:
            async with asyncio.TaskGroup() as group:
                async for request in request_iterator:
                    self.requests.append(request)
                    self.times.append(asyncio.get_running_loop().time())
                    self.changed.set()
                    group.create_task(one(request))
            out.put_nowait(None)

        reading = asyncio.create_task(read())
        # A server that is stopped ends it with an error; nobody asks.
        reading.add_done_callback(lambda done: done.cancelled() or done.exception())
        try:
            while (item := await out.get()) is not None:
                if isinstance(item, Break):
                    await context.abort(item.code, item.message)
                else:
                    yield item
        finally:
            reading.cancel()

    def client(self, **options: Any) -> EventClient:
        """A client with these settings; `min_revision` and `on_failure` go to the client itself."""
        own = {key: options.pop(key) for key in ("min_revision", "on_failure") if key in options}
        return EventClient(f"127.0.0.1:{self.port}", EventClientSettings(**options), **own)

    def ids(self) -> list[list[str]]:
        """The events of each batch as it arrived."""
        return [[each.event_id for each in request.events] for request in self.requests]

    async def until(self, holds: Callable[[], object]) -> None:
        """Waits until a condition on what has arrived holds."""
        async with asyncio.timeout(10):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


async def submit(client: EventClient, *ids: str) -> list[Pending]:
    return [await client.submit(event("seen", f"profile-{each}", event_id=each)) for each in ids]
