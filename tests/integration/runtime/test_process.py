"""The life of a real process: its command line, its signals, its log."""

import asyncio
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from runtime_echo import Stub
from runtime_parts import DSN

ECHO = str(Path(__file__).parent / "runtime_echo.py")
Start = Callable[..., Awaitable[Process]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    processes: list[Process] = []

    async def run(*arguments: str, **settings: str) -> Process:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("CAIRN_")}
        environment |= {"CAIRN_ECHO_POSTGRES_DSN": DSN, **settings}
        process = await asyncio.create_subprocess_exec(
            sys.executable, ECHO, *arguments, env=environment, stdout=PIPE, stderr=PIPE
        )
        processes.append(process)
        return process

    yield run
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def line_of(process: Process, event: str) -> dict[str, Any]:
    assert process.stderr is not None
    async with asyncio.timeout(30):
        async for raw in process.stderr:
            line: dict[str, Any] = json.loads(raw)
            if line["event"] == event:
                return line
    raise AssertionError(f"ended without {event}")


async def ended(process: Process) -> tuple[int, list[str]]:
    async with asyncio.timeout(30):
        _, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, err.decode().splitlines()


@pytest.fixture
async def channel_to() -> AsyncIterator[Callable[[int], Stub]]:
    channels: list[grpc.aio.Channel] = []

    def connect(port: int) -> Stub:
        channels.append(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
        return Stub(channels[-1])

    yield connect
    for channel in channels:
        await channel.close()


async def accepted(process: Process) -> None:
    assert process.stdout is not None
    async with asyncio.timeout(30):
        assert await process.stdout.readline() == b"accepted\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_an_accepted_call_finish(
    start: Start, channel_to: Callable[[int], Stub], number: signal.Signals
) -> None:
    process = await start()
    stub = channel_to((await line_of(process, "serving"))["grpc_port"])
    call = asyncio.ensure_future(_say(stub, "sleep 1"))
    await accepted(process)
    process.send_signal(number)
    await line_of(process, "draining")
    assert await call == "sleep 1"
    code, lines = await ended(process)
    assert code == 0
    assert json.loads(lines[-1])["event"] == "stopped"


async def test_the_second_signal_ends_it_at_once(start: Start, channel_to: Callable[[int], Stub]) -> None:
    process = await start(CAIRN_ECHO_DRAIN_SECONDS="3600")
    stub = channel_to((await line_of(process, "serving"))["grpc_port"])
    call = asyncio.ensure_future(_say(stub, "sleep 3600"))
    await accepted(process)
    process.terminate()
    await line_of(process, "draining")
    process.terminate()
    assert (await ended(process))[0] == 1
    with pytest.raises(grpc.aio.AioRpcError):
        await call


async def test_a_drain_does_not_wait_longer_than_it_may(
    start: Start, channel_to: Callable[[int], Stub]
) -> None:
    process = await start(CAIRN_ECHO_DRAIN_SECONDS="0.1")
    stub = channel_to((await line_of(process, "serving"))["grpc_port"])
    call = asyncio.ensure_future(_say(stub, "sleep 3600"))
    await accepted(process)
    process.terminate()
    assert (await ended(process))[0] == 0
    with pytest.raises(grpc.aio.AioRpcError):
        await call


@pytest.mark.parametrize("setting", ["CAIRN_ECHO_GRPC_PORT", "CAIRN_ECHO_HTTP_PORT"])
async def test_a_port_in_use_is_one_line(start: Start, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, lines = await ended(await start(**{setting: str(port)}))
    assert code == 1
    told = [line for line in lines if not line.startswith("{")]
    assert told == [
        f"cairn echo: port {port} on 127.0.0.1 is in use ({setting}); "
        "stop what listens there or choose another."
    ]


async def test_two_servers_never_share_a_port(start: Start) -> None:
    first = await start()
    port = (await line_of(first, "serving"))["grpc_port"]
    assert (await ended(await start(CAIRN_ECHO_GRPC_PORT=str(port))))[0] == 1


async def test_wrong_settings_are_one_line_each_and_show_no_value(start: Start) -> None:
    code, lines = await ended(
        await start(CAIRN_ECHO_POSTGRES_DSN="", CAIRN_ECHO_GRPC_PORT="hunter2", CAIRN_ECHO_LOG_LEVEL="LOUD")
    )
    assert code == 1
    assert len(lines) == 3
    assert all(line.startswith("cairn echo: CAIRN_ECHO_") for line in lines)
    assert "CAIRN_ECHO_POSTGRES_DSN: is required" in "\n".join(lines)
    assert "hunter2" not in "\n".join(lines)


async def test_a_slip_of_the_pen_is_warned_about(start: Start) -> None:
    process = await start(CAIRN_ECHO_GRPC_PROT="1", CAIRN_ECHO_PORT="tcp://10.0.0.1:1")
    line = await line_of(process, "unknown_setting")
    assert line["hint"] == "CAIRN_ECHO_GRPC_PROT is no setting; did you mean CAIRN_ECHO_GRPC_PORT?"
    await line_of(process, "serving")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--help"], 0, "python -m cairn.echo migrate"),
        (["migrate"], 0, "nothing to migrate"),
        (["dance"], 2, "invalid choice"),
        (["--port"], 2, "unrecognized arguments"),
    ],
)
async def test_the_command_line(start: Start, arguments: list[str], code: int, told: str) -> None:
    process = await start(*arguments)
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode == code
    assert told in (out + err).decode()


async def test_open_is_said_once_and_every_line_is_json_with_its_origin(
    start: Start, channel_to: Callable[[int], Stub]
) -> None:
    process = await start(CAIRN_ECHO_LOG_LEVEL="DEBUG")
    stub = channel_to((await line_of(process, "serving"))["grpc_port"])
    with pytest.raises(grpc.aio.AioRpcError):
        await stub.Say(StringValue(value="fail"), metadata=[("x-correlation-id", "case-9")])
    async for _ in stub.Chat(iter([StringValue(value="a")])):
        pass
    process.terminate()
    code, raw = await ended(process)
    lines = [json.loads(line) for line in raw]
    assert code == 0
    assert {line["service"] for line in lines} == {"echo"}
    failed = next(line for line in lines if line["event"] == "call_failed")
    assert failed["correlation_id"] == "case-9"
    assert "ValueError" in failed["exception"]
    calls = {line["method"].split("/")[-1]: line for line in lines if line["event"] == "call"}
    assert (calls["Say"]["level"], calls["Say"]["code"]) == ("info", "INTERNAL")
    assert (calls["Chat"]["level"], calls["Chat"]["code"]) == ("debug", "OK")
    assert not [line for line in lines if line["event"] == "open_to_this_machine"]


async def test_one_warning_says_that_it_is_open(start: Start) -> None:
    process = await start()
    line = await line_of(process, "open_to_this_machine")
    assert line["level"] == "warning"
    process.terminate()
    _, rest = await ended(process)
    assert not [line for line in rest if "open_to_this_machine" in line]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's parent-death signal is Linux's")
async def test_it_ends_with_its_parent() -> None:
    script = (
        "import os, subprocess, sys\n"
        f"child = subprocess.Popen([sys.executable, {ECHO!r}], stderr=sys.stderr, stdout=sys.stdout,\n"
        "    env={**os.environ, 'CAIRN_DIE_WITH_PARENT': str(os.getpid())})\n"
        "child.wait()\n"
    )
    environment = {**os.environ, "CAIRN_ECHO_POSTGRES_DSN": DSN}
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, env=environment, stdout=PIPE, stderr=PIPE
    )
    await line_of(parent, "serving")
    parent.kill()
    # The child holds the other end of this pipe: it closes when the child has ended.
    assert await line_of(parent, "draining")
    assert await line_of(parent, "stopped")
    await parent.communicate()


async def test_a_parent_that_is_gone_is_found(start: Start) -> None:
    code, lines = await ended(await start(CAIRN_DIE_WITH_PARENT="999999999"))
    assert code == 1
    assert lines == ["cairn echo: the process that started it has gone (CAIRN_DIE_WITH_PARENT)"]


async def _say(stub: Stub, text: str) -> str:
    answer: StringValue = await stub.Say(StringValue(value=text))
    return answer.value
