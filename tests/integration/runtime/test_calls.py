"""What a call meets on its way in and out, over real sockets: errors, correlation, deadline, metrics,
reflection."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any, cast

import aiohttp
import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from prometheus_client import REGISTRY
from runtime_echo import FULL_NAME, REFUSAL
from runtime_parts import StartEcho

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.runtime.correlation import METADATA_KEY, correlation_id
from cairn.runtime.errors import CairnError, error_from_rpc


def word(text: str) -> StringValue:
    return StringValue(value=text)


async def words(*texts: str) -> AsyncIterator[StringValue]:
    for text in texts:
        yield word(text)


async def refusal(call: Any) -> tuple[grpc.aio.AioRpcError, CairnError]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await asyncio.wait_for(ending(call), 30)
    return caught.value, error_from_rpc(caught.value)


async def ending(call: Any) -> None:
    if not hasattr(call, "read"):
        await call
        return
    while await call.read() is not grpc.aio.EOF:
        pass


async def test_answers_come_back_from_all_four_kinds(start_echo: StartEcho) -> None:
    stub = (await start_echo()).stub()
    assert (await stub.Say(word("hello"))).value == "hello"
    assert (await stub.Join(words("a", "b"))).value == "a b"
    assert [answer.value async for answer in stub.Chat(words("a", "b"))] == ["a", "b", "goodbye"]
    counted = stub.Count(word("2"))
    assert [(await counted.read()).value for _ in range(2)] == ["0", "1"]
    counted.cancel()


@pytest.mark.parametrize("kind", ["Say", "Count", "Join", "Chat"])
async def test_rich_details_arrive_whole(start_echo: StartEcho, kind: str) -> None:
    stub = (await start_echo()).stub()
    calls = {
        "Say": lambda: stub.Say(word("refuse")),
        "Count": lambda: stub.Count(word("5")),
        "Join": lambda: stub.Join(words("refuse")),
        "Chat": lambda: stub.Chat(words("hello", "refuse")),
    }
    raw, error = await refusal(calls[kind]())
    assert raw.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert dict(raw.trailing_metadata() or ())[METADATA_KEY]
    assert error.reason == REFUSAL.reason
    assert error.message == REFUSAL.message
    assert error.violations == REFUSAL.violations
    assert error.metadata == REFUSAL.metadata
    assert error.retry_after_s == 1.5
    assert error.resource == "journeys/abandoned-cart"


@pytest.mark.parametrize("order", ["fail", "none"])
async def test_what_is_internal_is_one_fixed_sentence(start_echo: StartEcho, order: str) -> None:
    stub = (await start_echo()).stub()
    raw, error = await refusal(stub.Say(word(order), metadata=[(METADATA_KEY, "case-7")]))
    assert raw.code() is grpc.StatusCode.INTERNAL
    assert error.message == (
        "Something went wrong inside; the log line with correlation id case-7 tells more."
    )


async def test_a_servicers_own_abort_passes(start_echo: StartEcho) -> None:
    raw, _ = await refusal((await start_echo()).stub().Say(word("abort")))
    assert (raw.code(), raw.details()) == (grpc.StatusCode.DATA_LOSS, "as it likes")


@pytest.mark.parametrize("kind", ["unary_unary", "unary_stream", "stream_unary", "stream_stream"])
async def test_bytes_that_are_no_message_are_the_callers_fault(start_echo: StartEcho, kind: str) -> None:
    running = await start_echo()
    methods = {"unary_unary": "Say", "unary_stream": "Count", "stream_unary": "Join", "stream_stream": "Chat"}

    async def garbage() -> AsyncIterator[bytes]:
        yield b"\xff\xff\xff"

    async with grpc.aio.insecure_channel(running.address) as channel:
        method: Any = getattr(channel, kind)(f"/{FULL_NAME}/{methods[kind]}")
        raw, _ = await refusal(method(garbage() if kind.startswith("stream") else b"\xff\xff\xff"))
    assert raw.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_method_that_is_none_is_unimplemented(start_echo: StartEcho) -> None:
    running = await start_echo()
    async with grpc.aio.insecure_channel(running.address) as channel:
        raw, _ = await refusal(cast(Any, channel.unary_unary(f"/{FULL_NAME}/Shout"))(b""))
    assert raw.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_callers_correlation_id_goes_on(start_echo: StartEcho) -> None:
    stub = (await start_echo()).stub()
    token = correlation_id.set("case-8")
    try:
        call = stub.Say(word("correlation"))
        assert (await call).value == "case-8"
    finally:
        correlation_id.reset(token)
    assert dict(await call.trailing_metadata())[METADATA_KEY] == "case-8"


@pytest.mark.parametrize("bad", ["", "x" * 65, "two words"])
async def test_a_bad_correlation_id_is_replaced(start_echo: StartEcho, bad: str) -> None:
    stub = (await start_echo()).stub()
    answer = await stub.Say(word("correlation"), metadata=[(METADATA_KEY, bad)])
    assert len(answer.value) == 16
    assert answer.value != bad


async def test_a_call_without_a_deadline_gets_the_default_one(start_echo: StartEcho) -> None:
    running = await start_echo(default_deadline_seconds=0.05)
    async with grpc.aio.insecure_channel(running.address) as channel:
        say: Any = channel.unary_unary(f"/{FULL_NAME}/Say", _render)
        raw, error = await refusal(say(word("sleep 600")))
    assert raw.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert error.reason == ErrorReason.ERROR_REASON_DEADLINE_EXCEEDED
    assert "may yet take effect" in error.message
    assert running.echo.cancelled.is_set()


def _render(message: StringValue) -> bytes:
    return message.SerializeToString()


async def test_a_stream_without_a_deadline_outlives_the_default_one(start_echo: StartEcho) -> None:
    running = await start_echo(default_deadline_seconds=0.05)
    stub = running.stub()
    call = stub.Chat()
    await call.write(word("a"))
    assert (await call.read()).value == "a"
    with pytest.raises(grpc.aio.AioRpcError):
        async with grpc.aio.insecure_channel(running.address) as channel:
            await channel.unary_unary(f"/{FULL_NAME}/Say", _render)(word("sleep 600"))
    await call.write(word("b"))
    assert (await call.read()).value == "b"
    await call.done_writing()


async def test_our_client_gives_a_unary_call_a_deadline(start_echo: StartEcho) -> None:
    stub = (await start_echo()).stub(default_deadline_seconds=0.05)
    raw, _ = await refusal(stub.Say(word("sleep 600")))
    assert raw.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_caller_that_goes_away_ends_the_work(start_echo: StartEcho) -> None:
    running = await start_echo()
    call = running.stub().Say(word("sleep 600"))
    async with asyncio.timeout(10):
        await running.echo.started.wait()
    call.cancel()
    async with asyncio.timeout(10):
        await running.echo.cancelled.wait()


async def test_drain_lets_a_request_stream_finish_and_cuts_an_answer_stream(start_echo: StartEcho) -> None:
    running = await start_echo()
    stub = running.stub()
    chat, count, say = stub.Chat(), stub.Count(word("1")), stub.Say(word("sleep 0.3"))
    await chat.write(word("a"))
    assert (await chat.read()).value == "a"
    assert (await count.read()).value == "0"
    await running.echo.started.wait()
    stopping = asyncio.ensure_future(running.service.stop())
    assert (await chat.read()).value == "goodbye"
    for stream in (chat, count):
        _, error = await refusal(stream)
        assert error.reason == ErrorReason.ERROR_REASON_NOT_READY
    assert (await say).value == "sleep 0.3"
    await stopping
    assert running.echo.finished == 2


async def test_health_answers_for_the_process_and_each_service(start_echo: StartEcho) -> None:
    running = await start_echo()
    async with grpc.aio.insecure_channel(running.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", FULL_NAME):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        raw, _ = await refusal(health.Check(health_pb2.HealthCheckRequest(service="nobody")))
        assert raw.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_lists_every_service(start_echo: StartEcho) -> None:
    running = await start_echo()
    async with grpc.aio.insecure_channel(running.address) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        async for answer in call:
            names = {service.name for service in answer.list_services_response.service}
            break
        call.cancel()
    assert {FULL_NAME, "grpc.health.v1.Health"} <= names


def _count(code: str) -> float:
    labels = {"service": FULL_NAME, "method": "Say", "code": code}
    return REGISTRY.get_sample_value("cairn_grpc_calls_total", labels) or 0.0


async def test_http_tells_health_and_metrics(start_echo: StartEcho) -> None:
    running = await start_echo()
    stub = running.stub()
    counts = {code: _count(code) for code in ("OK", "INVALID_ARGUMENT")}
    await stub.Say(word("hello"))
    await refusal(stub.Say(word("refuse")))
    wanted = {code: before + 1 for code, before in counts.items()}
    async with asyncio.timeout(10):
        # A refusal reaches its caller before the call is counted.
        while {code: _count(code) for code in wanted} != wanted:  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)
    base = f"http://127.0.0.1:{running.service.http_port}"
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{base}/healthz") as answer:
            assert (answer.status, json.loads(await answer.text())) == (200, {"status": "SERVING"})
        async with session.get(f"{base}/metrics") as answer:
            text = await answer.text()
    for code in ("OK", "INVALID_ARGUMENT"):
        assert f'cairn_grpc_calls_total{{code="{code}",method="Say",service="{FULL_NAME}"}}' in text
    assert f'cairn_grpc_call_seconds_count{{method="Say",service="{FULL_NAME}"}}' in text
