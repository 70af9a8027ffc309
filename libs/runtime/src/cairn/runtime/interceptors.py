"""Owns what happens around every call, in one declared order. Refuses to let anything internal reach a
caller.

gRPC's own interceptor finds the method's handler; it is wrapped once, in all layers, and kept, so a call
costs no more than the layers themselves. All four kinds of method pass through the same layers.

What a layer is: a function from the next layer and the method's facts to a coroutine function of the call.
"""

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import grpc
import structlog
from google.protobuf.message import DecodeError
from grpc_status import rpc_status

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.runtime.auth import Authorizer, Role
from cairn.runtime.correlation import METADATA_KEY, accept_correlation_id, correlation_id
from cairn.runtime.drain import Drain, Requests, stopping
from cairn.runtime.errors import CairnError, error_from_rpc, invalid, unavailable
from cairn.runtime.metrics import GRPC_CALL_SECONDS, GRPC_CALLS

_log = structlog.get_logger()

_AUTHORIZATION_KEY = "authorization"
_PEER_IS_AWAY = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_CODES_BY_NUMBER: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Method:
    """What is known of a method before it is called. `path` is "/package.Service/Method"."""

    path: str
    open_to: frozenset[Role]
    quiet: bool = False

    @property
    def service(self) -> str:
        """The full name of the service, "cairn.api.scheduler.v1.SchedulerService"."""
        return self.path.split("/")[1]

    @property
    def name(self) -> str:
        """The method's own name, "ScheduleTimers"."""
        return self.path.split("/")[2]


@dataclass(slots=True)
class Call:
    """One call on its way through the layers. `request` is the raw message, or the iterator of a request
    stream."""

    request: Any
    context: "grpc.aio.ServicerContext[Any, Any]"
    caller: str = ""
    offered_correlation_id: str | bytes | None = None
    authorization: str | bytes | None = None
    code: grpc.StatusCode = grpc.StatusCode.OK


Behavior = Callable[[Call], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the layers of one server share."""

    authorizer: Authorizer
    drain: Drain
    default_deadline_seconds: float


@dataclass(frozen=True, slots=True)
class Target:
    """The method that is being wrapped: its facts, its handler as generated code made it, and the
    surroundings."""

    method: Method
    handler: "grpc.RpcMethodHandler[Any, Any]"
    around: Surroundings

    @property
    def streams(self) -> bool:
        """Whether either side of the method is a stream."""
        return bool(self.handler.request_streaming or self.handler.response_streaming)


def correlate(target: Target, inner: Behavior) -> Behavior:
    """Takes the caller's correlation id or makes one, for every line logged inside, and returns it with the
    answer."""

    async def layer(call: Call) -> Any:
        for key, value in call.context.invocation_metadata() or ():
            if key == METADATA_KEY:
                call.offered_correlation_id = value
            elif key == _AUTHORIZATION_KEY:
                call.authorization = value
        call_id = accept_correlation_id(call.offered_correlation_id)
        correlation_id.set(call_id)
        call.context.set_trailing_metadata(((METADATA_KEY, call_id),))
        return await inner(call)

    return layer


def observe(target: Target, inner: Behavior) -> Behavior:
    """One line and one count for each finished call, whatever its end."""
    method = target.method
    write = _log.debug if method.quiet else _log.info
    seconds = None if target.streams else GRPC_CALL_SECONDS.labels(method.service, method.name)
    # labels() takes a lock and builds a key; a method has a handful of codes at most.
    counters = {
        code: GRPC_CALLS.labels(method.service, method.name, code.name) for code in (grpc.StatusCode.OK,)
    }

    async def layer(call: Call) -> Any:
        began = time.perf_counter()
        try:
            return await inner(call)
        finally:
            took = time.perf_counter() - began
            code = call.code
            if code not in counters:
                counters[code] = GRPC_CALLS.labels(method.service, method.name, code.name)
            counters[code].inc()
            if seconds is not None:
                seconds.observe(took)
            write(
                "call",
                method=method.path,
                code=code.name,
                duration_ms=round(took * 1000, 3),
                caller=call.caller,
            )

    return layer


def answer_errors(target: Target, inner: Behavior) -> Behavior:
    """Turns what was raised into a rich status; what nobody foresaw becomes one fixed sentence and a
    traceback in the log."""

    async def layer(call: Call) -> Any:
        context = call.context
        try:
            answer = await inner(call)
            call.code = _code_of(context)
            return answer
        except grpc.aio.AbortError:
            call.code = _code_of(context)
            raise
        except asyncio.CancelledError:
            expired = _time_left(context) == 0
            call.code = grpc.StatusCode.DEADLINE_EXCEEDED if expired else grpc.StatusCode.CANCELLED
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller gets a proper status
            refusal = refusal_of(error, target.method)
        call.code = refusal.code
        status: Any = rpc_status.to_status(refusal.to_status())
        trailing = (*status.trailing_metadata, (METADATA_KEY, correlation_id.get()))
        return await context.abort_with_status(status._replace(trailing_metadata=trailing))

    return layer


def authorize(target: Target, inner: Behavior) -> Behavior:
    """Lets through who may make the call, before a byte of the request is parsed."""
    method, authorizer = target.method, target.around.authorizer

    async def layer(call: Call) -> Any:
        caller = authorizer.authorize(method.path, method.open_to, call.authorization)
        if caller is not None:
            call.caller = caller.name
        return await inner(call)

    return layer


def limit_time(target: Target, inner: Behavior) -> Behavior:
    """Ends a unary call that came without a deadline after the default one; a stream lives as long as it
    likes."""
    if target.streams:
        return inner
    limit = target.around.default_deadline_seconds

    async def layer(call: Call) -> Any:
        if _time_left(call.context) is not None:
            return await inner(call)
        async with asyncio.timeout(limit):
            return await inner(call)

    return layer


def end_streams(target: Target, inner: Behavior) -> Behavior:
    """Ends streams when the process drains, so that stopping never waits for a caller that likes to
    listen."""
    drain, handler = target.around.drain, target.handler
    if not target.streams:
        return inner

    async def layer(call: Call) -> Any:
        if drain.begun:
            raise stopping()
        if not handler.request_streaming:
            await drain.cut(inner(call))
            return None
        requests = call.request = Requests(drain, call.request)
        answer = await inner(call)
        if requests.cut:
            raise stopping()
        return answer

    return layer


LAYERS: tuple[Callable[[Target, Behavior], Behavior], ...] = (
    correlate,  # first, so that everything below logs and answers under the id
    observe,  # sees every end of a call, refusals and defects included
    answer_errors,  # below observe, so that it is told the code; above all that may raise
    authorize,  # before any time or memory is spent on the request
    limit_time,  # what a known caller asks for is bounded in time
    end_streams,  # innermost: it changes what the servicer reads
)
"""The one order, outermost first."""


def refusal_of(error: Exception, method: Method) -> CairnError:
    """What a caller is told of an exception; all that is not a CairnError is logged here, once, with its
    traceback."""
    if isinstance(error, CairnError):
        return error
    if isinstance(error, DecodeError):
        return invalid(
            f"The request is no message that {method.path} takes; compare it with the service's reflection."
        )
    if isinstance(error, TimeoutError):
        return CairnError(
            ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED,
            f"{method.path} did not finish in time; it may yet take effect. Repeat it with the same ids.",
        )
    if isinstance(error, grpc.aio.AioRpcError):
        _log.warning("peer_call_failed", method=method.path, code=error.code().name, exc_info=error)
        if error.code() in _PEER_IS_AWAY:
            return unavailable("A service that this call needs", error_from_rpc(error).retry_after_s or 1.0)
    else:
        _log.error("call_failed", method=method.path, exc_info=error)
    return CairnError(
        ErrorReason.ERROR_REASON_INTERNAL,
        f"Something went wrong inside; the log line with correlation id {correlation_id.get()} tells more.",
    )


class LayeredInterceptor(grpc.aio.ServerInterceptor):
    """Wraps each method's handler in `LAYERS`, the first time it is called. Methods not in `methods` do not
    exist."""

    def __init__(self, methods: Mapping[str, Method], around: Surroundings) -> None:
        self._methods = methods
        self._around = around
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The wrapped handler of the method, or None, which gRPC answers with UNIMPLEMENTED."""
        path = handler_call_details.method
        known = self._wrapped.get(path)
        if known is not None:
            return known
        handler = await continuation(handler_call_details)
        method = self._methods.get(path)
        if handler is None or method is None:
            return None
        wrapped = _wrap(Target(method, handler, self._around))
        self._wrapped[path] = wrapped
        return wrapped


def _wrap(target: Target) -> "grpc.RpcMethodHandler[Any, Any]":
    handler = target.handler
    behavior = _innermost(handler)
    for layer in reversed(LAYERS):
        behavior = layer(target, behavior)

    async def entry(request: Any, context: "grpc.aio.ServicerContext[Any, Any]") -> Any:
        return await behavior(Call(request, context))

    # A unary request and answer pass gRPC as bytes: they are parsed and rendered inside the layers, where an
    # error becomes a proper status, and a request is not parsed before its caller may make the call.
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(
            entry, handler.request_deserializer, handler.response_serializer
        )
    if handler.request_streaming:
        return grpc.stream_unary_rpc_method_handler(entry, handler.request_deserializer, None)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(entry, None, handler.response_serializer)
    return grpc.unary_unary_rpc_method_handler(entry, None, None)


def _innermost(handler: "grpc.RpcMethodHandler[Any, Any]") -> Behavior:
    behavior: Any = (
        handler.stream_stream if handler.request_streaming and handler.response_streaming
        else handler.stream_unary if handler.request_streaming
        else handler.unary_stream if handler.response_streaming
        else handler.unary_unary
    )  # fmt: skip
    parse: Any = (lambda received: received) if handler.request_streaming else handler.request_deserializer
    if not handler.response_streaming:
        render: Any = handler.response_serializer

        async def answer(call: Call) -> Any:
            return render(await behavior(parse(call.request), call.context))

        return answer
    if inspect.isasyncgenfunction(behavior):

        async def stream(call: Call) -> None:
            async with aclosing(behavior(parse(call.request), call.context)) as answers:
                async for message in answers:
                    await call.context.write(message)

        return stream

    async def writer(call: Call) -> None:
        await behavior(parse(call.request), call.context)

    return writer


def _time_left(context: "grpc.aio.ServicerContext[Any, Any]") -> float | None:
    """Seconds to the caller's deadline, 0 when it has passed; None, which the stub does not know, without
    one."""
    return context.time_remaining()


def _code_of(context: "grpc.aio.ServicerContext[Any, Any]") -> grpc.StatusCode:
    code: Any = context.code()
    if code is None:  # nobody set one
        return grpc.StatusCode.OK
    return code if isinstance(code, grpc.StatusCode) else _CODES_BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN)
