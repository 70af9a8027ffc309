"""Owns what the stand-ins for services that are called one message at a time share: misbehavior on request, and how they are run.

Refuses to be lenient: a stand-in's file refuses what the service refuses, in its words. Beside the service's own addresses there are

    GET  /_state        {"counts": {what: how often}, ...}
    POST /_misbehave    {"mode": "429", "count": 2}: the next calls are answered so, before they are looked at; a count of 0: from now
                        on, until a mode of "" ends it
"""

import argparse
import asyncio
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from cairn.testing.standin import run_standin

MODES = frozenset(
    {"500", "429", "429_retry_after", "hang", "reset", "reset_early", "html", "ten_megabytes", "redirect"}
)
"""`429_retry_after` asks for a pause of a second. `reset` ends the connection when the body was read, `reset_early` before. `redirect` leads
to the metadata service of a cloud."""

METADATA_URL = "http://169.254.169.254/latest/meta-data/"

_HOST = "127.0.0.1"
_HANG_SECONDS = 3600.0
_MOST_BYTES = 64 * 1024 * 1024


class Refused(Exception):  # noqa: N818 - an answer of the service, no defect
    """An error as the service words it."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body
        self.headers = headers


class HttpStandIn(ABC):
    """A service on loopback. `mode` is what it does from the start, "" to behave."""

    def __init__(self, port: int, mode: str) -> None:
        self._port = port
        self._always = mode
        self._next: deque[str] = deque()
        self._release = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.counts: Counter[str] = Counter()

    @abstractmethod
    def add_routes(self, app: web.Application) -> None:
        """Adds the service's addresses; those that misbehave are `guarded`."""

    @abstractmethod
    def busy(self, status: int) -> Refused:
        """How the service says that it is overloaded (429) or broken (500)."""

    def error(self, mode: str) -> Refused | None:
        """An error of the service's own that a mode names; None when it names none."""
        del mode
        return None

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What `/_state` tells beside the counts."""

    async def start(self) -> int:
        """Listens on loopback; returns the port."""
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_get("/_state", self._on_state)
        app.router.add_post("/_misbehave", self._on_misbehave)
        self.add_routes(app)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, _HOST, self._port)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        """Ends; calls that hang are let go."""
        self._release.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def guarded(
        self, answer: Callable[[web.Request, bytes], web.StreamResponse]
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        """A handler that misbehaves when it was asked to, and else answers what `answer` makes of a request and its body."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.counts["calls"] += 1
            mode = self._next.popleft() if self._next else self._always
            try:
                if mode:
                    self.counts[f"misbehaved_{mode}"] += 1
                    return await self._answer_badly(request, mode)
                return answer(request, await request.read())
            except Refused as error:
                self.counts["misbehaved" if mode else "refused"] += 1
                return web.json_response(error.body, status=error.status, headers=error.headers)

        return handle

    async def _answer_badly(self, request: web.Request, mode: str) -> web.StreamResponse:
        if mode != "reset_early":
            await request.read()
        if mode in {"500", "429"}:
            raise self.busy(int(mode))
        if mode == "429_retry_after":
            error = self.busy(429)
            raise Refused(error.status, error.body, {**(error.headers or {}), "Retry-After": "1"})
        if mode == "redirect":
            return web.Response(status=307, headers={"Location": METADATA_URL})
        if mode == "html":
            return web.Response(text="<html>a proxy's page</html>", content_type="text/html", status=502)
        if mode == "ten_megabytes":
            return web.Response(
                body=b'{"x": "' + b"x" * 10_000_000 + b'"}', content_type="application/json", status=502
            )
        if (named := self.error(mode)) is not None:
            raise named
        if mode == "hang":
            try:
                async with asyncio.timeout(_HANG_SECONDS):
                    await self._release.wait()
            except TimeoutError:
                pass
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    async def _on_state(self, _request: web.Request) -> web.Response:
        return web.json_response({"counts": dict(self.counts), **self.state()})

    async def _on_misbehave(self, request: web.Request) -> web.Response:
        asked = await request.json()
        mode, count = str(asked.get("mode", "")), int(asked.get("count", 1))
        if mode and mode not in MODES and self.error(mode) is None:
            return web.json_response({"error": f"there is no mode {mode}"}, status=400)
        if not mode:
            self._always = ""
            self._next.clear()
        elif count:
            self._next.extend([mode] * count)
        else:
            self._always = mode
        return web.json_response({})


def run(
    name: str,
    description: str | None,
    options: Mapping[str, tuple[str, str | None]],
    make: Callable[[argparse.Namespace], HttpStandIn],
) -> None:
    """The command line of a stand-in: `--port`, `--misbehave`, and its own options, each with its help and its default (None: required)."""
    parser = argparse.ArgumentParser(prog=f"python -m cairn.testing.{name}", description=description)
    parser.add_argument(
        "--port", type=int, default=0, help="port on loopback; 0 takes a free one (the default)"
    )
    parser.add_argument("--misbehave", default="", help=f"what it does from the start: {sorted(MODES)}")
    for option, (text, default) in options.items():
        parser.add_argument(f"--{option}", required=default is None, default=default, help=text)
    arguments = parser.parse_args()
    standin: HttpStandIn | None = None

    async def start() -> int:
        nonlocal standin
        standin = make(arguments)
        return await standin.start()

    async def stop() -> None:
        assert standin is not None
        await standin.stop()

    run_standin(start, stop)
