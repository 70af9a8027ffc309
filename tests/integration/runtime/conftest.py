"""Fixtures: echo services that run in this process over real sockets, and certificate authorities."""

import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from certificates import Authority

sys.path.insert(0, str(Path(__file__).parent))

from runtime_echo import Echo, EchoSettings, binding
from runtime_parts import DSN, Running, StartEcho

from cairn.runtime.service import Service, ServiceSpec


@pytest.fixture
async def start_echo() -> AsyncIterator[StartEcho]:
    async with AsyncExitStack() as stack:

        async def start(**settings: Any) -> Running:
            chosen = {"postgres_dsn": DSN, "drain_seconds": 5.0, **settings}
            echo = Echo()
            service = Service(ServiceSpec("echo", EchoSettings(**chosen), [binding(echo)]))
            await service.start()
            stack.push_async_callback(service.stop)
            channels = await stack.enter_async_context(AsyncExitStack())
            return Running(service, echo, channels)

        yield start


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture
def stranger(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "stranger")
