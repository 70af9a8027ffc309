"""Owns what these tests are made of: a running echo service."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from runtime_echo import Echo, Stub

from cairn.runtime.client import open_channel
from cairn.runtime.service import Service
from cairn.runtime.settings import ClientSettings

DSN = "postgresql://nobody@127.0.0.1:1/none"


@dataclass
class Running:
    """A served echo service, in this process, over a real socket."""

    service: Service
    echo: Echo
    channels: AsyncExitStack

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.service.grpc_port}"

    def stub(self, **settings: Any) -> Stub:
        channel = open_channel(self.address, ClientSettings(**settings))
        self.channels.push_async_callback(channel.close)
        return Stub(channel)


StartEcho = Callable[..., Awaitable[Running]]
