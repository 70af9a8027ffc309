"""Owns the life of a process: in which order things start, drain and stop. The only place that handles
signals.

    start   HTTP (503), components in order, gRPC, health SERVING
    drain   health NOT_SERVING, streams end, gRPC finishes what it accepted, components drain in reverse
    stop    components in reverse, HTTP

Refuses to wait for ever: a drain takes `drain_seconds` at most, and a second signal ends the process at once.
"""

import asyncio
import gc
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from cairn.runtime.drain import Drain
from cairn.runtime.http import HttpServer
from cairn.runtime.server import GrpcServer, ServicerBinding
from cairn.runtime.settings import ServiceSettings

_log = structlog.get_logger()

_STOP_SECONDS = 10.0
_LEAST_DRAIN_SECONDS = 1.0
_YOUNG_OBJECTS = 400_000


class Component(Protocol):
    """A part of a service with a life of its own: a pool, the lanes, a relay, an alarm."""

    @property
    def name(self) -> str:
        """What the log calls it."""

    async def start(self) -> None:
        """Becomes ready; StartupError with one clear line when it can't. What it depends on has started."""

    async def drain(self) -> None:
        """Finishes what was accepted. No call comes in any more; may be cancelled when the time is up."""

    async def stop(self) -> None:
        """Lets go of everything. Comes after `drain`, and also when a later part failed to start."""


@dataclass
class ServiceSpec:
    """A service, constructed and not yet started. `components` are in order of dependence, the pool first."""

    name: str
    settings: ServiceSettings
    servicers: Sequence[ServicerBinding]
    components: Sequence[Component] = field(default_factory=tuple)


class Service:
    """A service that can be started and stopped; `serve` is the way with signals. Made on the event loop."""

    def __init__(self, spec: ServiceSpec) -> None:
        self._spec = spec
        self._drain = Drain()
        self._grpc = GrpcServer(spec.settings, spec.servicers, self._drain)
        self._http = HttpServer(spec.settings)
        self._started: list[Component] = []
        self._serving = False

    @property
    def grpc_port(self) -> int:
        """The gRPC port that was taken, once started."""
        return self._grpc.port

    @property
    def http_port(self) -> int:
        """The HTTP port that was taken, once started."""
        return self._http.port

    async def start(self) -> None:
        """Serves when it returns. On any failure all that had started is stopped, then the failure is
        raised."""
        try:
            self._grpc.bind()
            await self._http.start()
            for component in self._spec.components:
                # Before it has started: a start that failed half-way has something to let go of, too.
                self._started.append(component)
                await component.start()
            await self._grpc.start()
            self._serving = True
            await self._grpc.set_serving()
            self._http.set_serving(True)
        except BaseException:
            await self._release()
            raise
        _log.info("serving", grpc_port=self.grpc_port, http_port=self.http_port)

    async def stop(self) -> None:
        """Drains for `drain_seconds` at most, then lets go of everything; does nothing when not serving."""
        if not self._serving:
            return
        self._serving = False
        ends = time.monotonic() + self._spec.settings.drain_seconds
        _log.info("draining", seconds=self._spec.settings.drain_seconds)
        self._http.set_serving(False)
        await self._grpc.set_not_serving()
        self._drain.begin()
        await self._grpc.stop(max(0.0, ends - time.monotonic()))
        for component in reversed(self._started):
            left = max(_LEAST_DRAIN_SECONDS, ends - time.monotonic())
            await _bounded("drain", component.name, component.drain, left)
        await self._release()
        _log.info("stopped")

    async def _release(self) -> None:
        if self._serving:
            await self._grpc.stop(0)
        for component in reversed(self._started):
            await _bounded("stop", component.name, component.stop, _STOP_SECONDS)
        self._started.clear()
        await self._http.stop()


async def serve(spec: ServiceSpec) -> None:
    """Serves until SIGTERM or SIGINT, drains and returns. A signal during the start ends the start.

    Raises what a component raised at its start, StartupError for what an operator can mend.
    """
    loop = asyncio.get_running_loop()
    service = Service(spec)
    asked = asyncio.Event()

    def on_signal() -> None:
        if asked.is_set():
            # Crash-only: nothing acknowledged depends on an orderly end.
            _log.warning("stopped_at_once", why="second signal")
            sys.stderr.flush()
            os._exit(1)
        asked.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal)
    waiting = asyncio.ensure_future(asked.wait())
    try:
        starting = asyncio.ensure_future(service.start())
        await asyncio.wait((starting, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait((starting,))
            _log.info("stopped", why="signal during the start")
            return
        starting.result()
        _calm_collector()
        await waiting
        await service.stop()
    finally:
        waiting.cancel()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)


def _calm_collector() -> None:
    """Has the garbage collector look for cycles seldom, and never at what was there when the service began.

    Our hot paths make few cycles, and hold tens of thousands of objects while a batch is under way: at Python's own thresholds, and
    well above them, a quarter of the Evaluator's time went into looking through them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 10, 10)


async def _bounded(what: str, name: str, action: Callable[[], Awaitable[None]], seconds: float) -> None:
    """One component's failure or slowness must not keep the others from ending well."""
    try:
        async with asyncio.timeout(seconds):
            await action()
    except TimeoutError:
        _log.error(f"{what}_took_too_long", component=name, seconds=seconds)
    except Exception as error:  # noqa: BLE001 - the others must still end well
        _log.error(f"{what}_failed", component=name, exc_info=error)
