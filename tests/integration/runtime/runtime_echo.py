"""A tiny real gRPC service with one method of each kind, and a real process around it: what the runtime is
tested on.

`python runtime_echo.py` runs it as every service of Cairn runs. Its requests are orders: "fail", "sleep", "refuse", or
any text, which comes back.
"""

import asyncio
import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.wrappers_pb2 import StringValue
from pydantic_settings import SettingsConfigDict

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.runtime.correlation import correlation_id
from cairn.runtime.errors import CairnError, FieldViolation
from cairn.runtime.service import Role, ServicerBinding, ServiceSpec, main
from cairn.runtime.settings import GrpcPort, HttpPort, ServiceSettings

FULL_NAME = "cairn.test.v1.EchoService"
METHODS = {"Say": (False, False), "Count": (False, True), "Join": (True, False), "Chat": (True, True)}
ROLES = {"Say": Role.READ, "Count": Role.READ, "Join": Role.PRODUCE, "Chat": Role.OPERATE}
REFUSAL = CairnError(
    ErrorReason.ERROR_REASON_INVALID_ARGUMENT,
    "Zwei Felder sind falsch: »a« und »b«.",
    violations=[FieldViolation("a", "is 0; at least 1"), FieldViolation("b[2]", "is empty")],
    metadata={"limit": "1"},
    retry_after_s=1.5,
    resource="journeys/abandoned-cart",
)


def _describe() -> None:
    file = descriptor_pb2.FileDescriptorProto(
        name="cairn/test/v1/echo.proto",
        package="cairn.test.v1",
        syntax="proto3",
        dependency=["google/protobuf/wrappers.proto"],
    )
    service = file.service.add(name="EchoService")
    for name, (requests, answers) in METHODS.items():
        service.method.add(
            name=name,
            input_type=".google.protobuf.StringValue",
            output_type=".google.protobuf.StringValue",
            client_streaming=requests,
            server_streaming=answers,
        )
    descriptor_pool.Default().AddSerializedFile(file.SerializeToString())


_describe()


class EchoSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="CAIRN_ECHO_")
    grpc_port: GrpcPort = 0
    http_port: HttpPort = 0


class Echo:
    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.finished = 0
        self.cancelled = asyncio.Event()

    async def Say(self, request: StringValue, context: Any) -> StringValue:  # noqa: N802
        if request.value == "refuse":
            raise REFUSAL
        if request.value == "fail":
            raise ValueError("secret 4711")
        if request.value == "correlation":
            return StringValue(value=correlation_id.get())
        if request.value == "none":
            return None  # type: ignore[return-value]
        if request.value == "abort":
            await context.abort(grpc.StatusCode.DATA_LOSS, "as it likes")
        if request.value.startswith("sleep"):
            self.started.set()
            print("accepted", flush=True)
            try:
                await asyncio.sleep(float(request.value.split()[1]))
            except asyncio.CancelledError:
                self.cancelled.set()
                raise
            self.finished += 1
        return StringValue(value=request.value)

    async def Count(self, request: StringValue, context: Any) -> AsyncIterator[StringValue]:  # noqa: N802
        try:
            for number in range(int(request.value)):
                yield StringValue(value=str(number))
                if number == 2:
                    raise REFUSAL
            await asyncio.Event().wait()
        finally:
            self.finished += 1

    async def Join(self, requests: AsyncIterator[StringValue], context: Any) -> StringValue:  # noqa: N802
        words = [request.value async for request in requests]
        if "refuse" in words:
            raise REFUSAL
        return StringValue(value=" ".join(words))

    async def Chat(self, requests: AsyncIterator[StringValue], context: Any) -> AsyncIterator[StringValue]:  # noqa: N802
        async for request in requests:
            if request.value == "refuse":
                raise REFUSAL
            yield StringValue(value=request.value)
        yield StringValue(value="goodbye")


def add_echo(servicer: Any, server: grpc.aio.Server) -> None:
    makers = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    handlers: dict[str, Any] = {
        name: makers[kind](getattr(servicer, name), StringValue.FromString, StringValue.SerializeToString)
        for name, kind in METHODS.items()
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(FULL_NAME, handlers),))


def binding(servicer: Echo, **changes: Any) -> ServicerBinding:
    facts: dict[str, Any] = {"roles": ROLES, **changes}
    return ServicerBinding(add_echo, servicer, FULL_NAME, **facts)


class Stub:
    """What generated code would make of the service, over any channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        makers = {
            (False, False): channel.unary_unary,
            (False, True): channel.unary_stream,
            (True, False): channel.stream_unary,
            (True, True): channel.stream_stream,
        }
        self._calls = {
            name: makers[kind](
                f"/{FULL_NAME}/{name}",
                request_serializer=StringValue.SerializeToString,
                response_deserializer=StringValue.FromString,
            )
            for name, kind in METHODS.items()
        }

    def __getattr__(self, name: str) -> Any:
        return self._calls[name]


async def build(settings: EchoSettings) -> ServiceSpec:
    return ServiceSpec("echo", settings, [binding(Echo(), quiet_methods=frozenset({"Chat"}))])


async def migrate(settings: EchoSettings) -> str:
    return "nothing to migrate"


if __name__ == "__main__":
    sys.exit(main("echo", build, EchoSettings, sys.argv[1:], migrate))
