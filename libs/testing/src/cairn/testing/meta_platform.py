"""Owns a stand-in for Meta's custom audiences, which checks what the platform checks and remembers who is a member.

Refuses to be lenient: a wrong token, proof, schema, hash or size is refused as the platform refuses it.
"""

import argparse
import asyncio
import hashlib
import hmac
import json
import re
from collections import Counter, defaultdict
from typing import Any

from aiohttp import web

from cairn.testing.standin import run_standin

HASHED = frozenset(
    {"EMAIL", "PHONE", "FN", "LN", "CT", "ST", "ZIP", "COUNTRY", "DOBY", "DOBM", "DOBD", "GEN"}
)
UNHASHED = frozenset({"MADID", "EXTERN_ID"})
MAX_ROWS = 10_000
MODES = frozenset({"500", "429", "hang", "reset", "html", "huge"})

_HOST = "127.0.0.1"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_HANG_SECONDS = 3600.0


class Refused(Exception):  # noqa: N818 - an answer of the platform, no defect
    """An error as the Graph API words it."""

    def __init__(self, status: int, code: int, message: str, kind: str = "OAuthException") -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "code": code, "fbtrace_id": "stand-in"}}


class MetaPlatform:
    """The platform: audiences and their members, in memory."""

    def __init__(self, token: str, app_secret: str, port: int) -> None:
        self._token = token
        self._proof = hmac.new(app_secret.encode(), token.encode(), hashlib.sha256).hexdigest()
        self._port = port
        self._members: dict[str, set[tuple[str, ...]]] = defaultdict(set)
        self._counts: Counter[str] = Counter()
        self._misbehave: list[str] = []
        self._release = asyncio.Event()
        self._runner: web.AppRunner | None = None

    async def start(self) -> int:
        """Listens on loopback; returns the port."""
        app = web.Application(client_max_size=32 * 1024 * 1024)
        app.router.add_get("/_state", self._state)
        app.router.add_post("/_misbehave", self._on_misbehave)
        app.router.add_route("*", "/{version}/{audience}/users", self._users)
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

    async def _users(self, request: web.Request) -> web.StreamResponse:
        self._counts["calls"] += 1
        if self._misbehave:
            return await self._answer_badly(request, self._misbehave.pop(0))
        try:
            if request.method not in {"POST", "DELETE"}:
                raise Refused(400, 100, "Unsupported request method.", "GraphMethodException")
            form = await request.post()
            self._check_caller(form)
            rows = _read_rows(form)
        except Refused as error:
            self._counts["refused"] += 1
            return web.json_response(error.body, status=error.status)
        members = self._members[request.match_info["audience"]]
        if request.method == "POST":
            members.update(rows)
            self._counts["added"] += len(rows)
        else:
            members.difference_update(rows)
            self._counts["removed"] += len(rows)
        return web.json_response(
            {
                "audience_id": request.match_info["audience"],
                "session_id": str(self._counts["calls"]),
                "num_received": len(rows),
                "num_invalid_entries": 0,
                "invalid_entry_samples": {},
            }
        )

    def _check_caller(self, form: Any) -> None:
        if not hmac.compare_digest(str(form.get("access_token", "")), self._token):
            raise Refused(401, 190, "Invalid OAuth access token.")
        if not hmac.compare_digest(str(form.get("appsecret_proof", "")), self._proof):
            raise Refused(400, 100, "Invalid appsecret_proof provided in the API argument")

    async def _answer_badly(self, request: web.Request, mode: str) -> web.StreamResponse:
        self._counts[f"misbehaved_{mode}"] += 1
        if mode == "500":
            return web.json_response(Refused(500, 2, "Service temporarily unavailable").body, status=500)
        if mode == "429":
            return web.json_response(Refused(400, 80_003, "Too many calls to this audience").body, status=400)
        if mode == "html":
            return web.Response(text="<html>a proxy's page</html>", content_type="text/html")
        if mode == "huge":
            return web.Response(body=b'{"x": "' + b"x" * 10_000_000 + b'"}', content_type="application/json")
        if mode == "hang":
            try:
                async with asyncio.timeout(_HANG_SECONDS):
                    await self._release.wait()
            except TimeoutError:
                pass
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=500)

    async def _state(self, _request: web.Request) -> web.Response:
        members = {audience: sorted(rows) for audience, rows in sorted(self._members.items())}
        return web.json_response({"members": members, "counts": dict(self._counts)})

    async def _on_misbehave(self, request: web.Request) -> web.Response:
        asked = await request.json()
        mode, count = str(asked.get("mode")), int(asked.get("count", 1))
        if mode not in MODES:
            return web.json_response({"error": f"mode is one of {', '.join(sorted(MODES))}"}, status=400)
        self._misbehave += [mode] * count
        return web.json_response({"pending": len(self._misbehave)})


def _read_rows(form: Any) -> list[tuple[str, ...]]:
    """The rows of a payload, checked."""
    try:
        payload = json.loads(str(form.get("payload", "")))
        schema, data = payload["schema"], payload["data"]
    except (ValueError, KeyError, TypeError):
        raise Refused(400, 100, "Invalid parameter: payload") from None
    if not isinstance(schema, list) or not schema or not set(schema) <= HASHED | UNHASHED:
        raise Refused(400, 100, "Invalid parameter: schema")
    if not isinstance(data, list) or not 1 <= len(data) <= MAX_ROWS:
        raise Refused(400, 100, "Invalid parameter: data must have 1 to 10000 entries")
    for row in data:
        if not isinstance(row, list) or len(row) != len(schema) or not any(row):
            raise Refused(400, 100, "Invalid parameter: an entry does not match the schema")
        for name, value in zip(schema, row, strict=True):
            if not isinstance(value, str) or (name in HASHED and value and not _SHA256.fullmatch(value)):
                raise Refused(400, 100, f"Invalid parameter: {name} must be a SHA-256 in lower-case hex")
    return [tuple(row) for row in data]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m cairn.testing.meta_platform", description=__doc__)
    parser.add_argument(
        "--port", type=int, default=0, help="port on loopback; 0 takes a free one (the default)"
    )
    parser.add_argument("--token", required=True, help="the only access token that is accepted")
    parser.add_argument("--app-secret", required=True, help="what proofs are made with")
    arguments = parser.parse_args()
    platform: MetaPlatform | None = None

    async def start() -> int:
        nonlocal platform
        platform = MetaPlatform(arguments.token, arguments.app_secret, arguments.port)
        return await platform.start()

    async def stop() -> None:
        assert platform is not None
        await platform.stop()

    run_standin(start, stop)


if __name__ == "__main__":
    main()
