"""Owns what the stand-ins for ad platforms share: who is in which audience, misbehavior on request, and how they are run.

Refuses to be lenient: a platform's file refuses what the platform refuses, in its words. Beside the platform's own addresses there are

    GET  /_state                {"people": {audience: [{identifier: value}]}, "counts": {what: how often}}
    POST /_misbehave            {"mode": "429", "count": 2}: the next calls are answered so, before they are looked at
    POST /_refuse               {"values": [hash], "status": 400, "count": 1}: so many times, people who have one of these are refused, as
                                the platform refuses single people (`status` where it gives them one); without a count for good
"""

import argparse
import asyncio
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from aiohttp import web

from cairn.testing.standin import run_standin

MODES = frozenset({"500", "429", "429_retry_after", "hang", "reset", "html", "huge"})
"""`429_retry_after` asks for a pause of a second; `huge` answers with 10 MB."""

HUGE_BYTES = 10_000_000

Person = frozenset[tuple[str, str]]

_HOST = "127.0.0.1"
_HANG_SECONDS = 3600.0
_MOST_BYTES = 32 * 1024 * 1024
_HEX = "0123456789abcdef"


class Refused(Exception):  # noqa: N818 - an answer of the platform, no defect
    """An error as the platform words it."""

    def __init__(self, status: int, body: Any, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(str(body))
        self.status = status
        self.body = body
        self.headers = headers


class AudiencePlatform(ABC):
    """A platform: its audiences and who is in them, in memory."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._people: dict[str, set[Person]] = {}
        self._refused_values: set[str] = set()
        self._refusals_left = 0
        self.refused_status = 400
        self._misbehave: deque[list[Any]] = deque()
        self._release = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.counts: Counter[str] = Counter()

    @abstractmethod
    def add_routes(self, app: web.Application) -> None:
        """Adds the platform's addresses; those about people are `guarded`."""

    @abstractmethod
    def busy(self, status: int) -> Refused:
        """How the platform says that it is overloaded (429) or broken (500)."""

    async def start(self) -> int:
        """Listens on loopback; returns the port."""
        app = web.Application(client_max_size=_MOST_BYTES)
        app.router.add_get("/_state", self._on_state)
        app.router.add_post("/_misbehave", self._on_misbehave)
        app.router.add_post("/_refuse", self._on_refuse)
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

    def guarded(self, answer: Callable[[web.Request, bytes], Any]) -> Callable[[web.Request], Any]:
        """A handler that misbehaves when it was asked to, and else answers what `answer` makes of a request and its body."""

        async def handle(request: web.Request) -> web.StreamResponse:
            self.counts["calls"] += 1
            body = await request.read()
            self.counts["bytes"] += len(body)
            mode = self._next_mode()
            try:
                if mode:
                    return await self._answer_badly(request, mode)
                return web.json_response(answer(request, body))
            except Refused as error:
                self.counts["misbehaved" if mode else "refused"] += 1
                return web.json_response(error.body, status=error.status, headers=error.headers)

        return handle

    def add(self, audience: str, person: Person) -> None:
        """Somebody is in an audience."""
        self._people.setdefault(audience, set()).add(person)
        self.counts["added"] += 1

    def remove(self, audience: str, person: Person) -> None:
        """Somebody is in an audience no longer; nothing when they were not."""
        self._people.setdefault(audience, set()).discard(person)
        self.counts["removed"] += 1

    def refuses(self, values: Iterable[str]) -> bool:
        """Whether whoever has these values is refused this time."""
        if not self._refused_values or self._refused_values.isdisjoint(values):
            return False
        self._refusals_left -= 1
        if not self._refusals_left:
            self._refused_values = set()
        return True

    def state(self) -> dict[str, Any]:
        """What `/_state` answers."""
        people = {
            audience: sorted(
                (dict(sorted(person)) for person in present), key=lambda person: sorted(person.items())
            )
            for audience, present in sorted(self._people.items())
        }
        return {"people": people, "counts": dict(self.counts)}

    def _next_mode(self) -> str:
        if not self._misbehave:
            return ""
        first = self._misbehave[0]
        first[1] -= 1
        if first[1] <= 0:
            self._misbehave.popleft()
        return str(first[0])

    async def _answer_badly(self, request: web.Request, mode: str) -> web.StreamResponse:
        self.counts[f"misbehaved_{mode}"] += 1
        if mode in {"500", "429"}:
            raise self.busy(int(mode))
        if mode == "429_retry_after":
            error = self.busy(429)
            raise Refused(error.status, error.body, {**(error.headers or {}), "Retry-After": "1"})
        if mode == "html":
            return web.Response(text="<html>a proxy's page</html>", content_type="text/html")
        if mode == "huge":
            return web.Response(body=b'{"x": "' + b"x" * HUGE_BYTES + b'"}', content_type="application/json")
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
        return web.json_response(self.state())

    async def _on_misbehave(self, request: web.Request) -> web.Response:
        asked = await request.json()
        mode, count = str(asked.get("mode")), int(asked.get("count", 1))
        if mode not in MODES:
            return web.json_response({"error": f"mode is one of {', '.join(sorted(MODES))}"}, status=400)
        if count > 0:
            self._misbehave.append([mode, count])
        else:
            self._misbehave.clear()
        return web.json_response({})

    async def _on_refuse(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self._refused_values = set(asked["values"])
        self._refusals_left = int(asked.get("count", 0))
        self.refused_status = int(asked.get("status", 400))
        return web.json_response({})


def is_hash(value: object, characters: int = 64) -> bool:
    """Whether it is a hash in lower-case hexadecimal, of so many characters."""
    return isinstance(value, str) and len(value) == characters and not value.strip(_HEX)


def run_platform(
    name: str,
    description: str | None,
    options: Mapping[str, str],
    make: Callable[[argparse.Namespace], AudiencePlatform],
) -> None:
    """The command line of a platform: `--port`, and required options with their help."""
    parser = argparse.ArgumentParser(prog=f"python -m cairn.testing.{name}", description=description)
    parser.add_argument(
        "--port", type=int, default=0, help="port on loopback; 0 takes a free one (the default)"
    )
    for option, text in options.items():
        parser.add_argument(f"--{option}", required=True, help=text)
    arguments = parser.parse_args()
    platform: AudiencePlatform | None = None

    async def start() -> int:
        nonlocal platform
        platform = make(arguments)
        return await platform.start()

    async def stop() -> None:
        assert platform is not None
        await platform.stop()

    run_standin(start, stop)
