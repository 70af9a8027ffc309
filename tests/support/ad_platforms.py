"""The stand-ins for ad platforms as processes, and the connections that lead to them."""

import asyncio
import hashlib
import json
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from cairn.api.activation.v1 import activation_pb2 as pb

TOKEN = "a-token"
APP_SECRET = "an-app-secret"
CREDENTIALS = {"client_id": "cairn", "client_secret": "shh", "refresh_token": "again"}


@dataclass
class Platform:
    """A stand-in that runs, and what a connection to it looks like."""

    name: str
    port: int
    audience: str = "123"

    @property
    def email(self) -> str:
        """What the platform calls an e-mail address."""
        return _EMAIL[self.name]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connection(self, id_: str = "", **rules: Any) -> pb.Connection:
        return pb.Connection(name=f"connections/{id_ or self.name}", **KINDS[self.name](self.url), **rules)

    async def post(self, path: str, body: Mapping[str, Any]) -> None:
        async with aiohttp.ClientSession() as session, session.post(self.url + path, json=body) as response:
            assert response.status == 200

    async def misbehave(self, mode: str, count: int) -> None:
        await self.post("/_misbehave", {"mode": mode, "count": count})

    async def refuse(self, *profiles: str, **how: Any) -> None:
        await self.post("/_refuse", {"values": [hashed(profile) for profile in profiles], **how})

    async def state(self) -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/_state") as response:
            return await response.json()

    async def people(self) -> list[str]:
        """The e-mail hashes of whom the audience holds, sorted."""
        people = (await self.state())["people"].get(self.audience, [])
        return sorted(person[self.email] for person in people)


KINDS: Mapping[str, Callable[[str], dict[str, Any]]] = {
    "meta": lambda url: {
        "meta_audience": pb.MetaAudienceConnection(
            audience_id="123",
            access_token_secret="meta-token",
            app_secret_secret="meta-app",
            base_url=f"{url}/v25.0",
        )
    },
    "google": lambda url: {
        "google_audience": pb.GoogleAudienceConnection(
            audience_id="123",
            account_id="77",
            credentials_secret="google-credentials",
            base_url=f"{url}/v1",
            token_url=f"{url}/token",
        )
    },
    "tiktok": lambda url: {
        "tiktok_audience": pb.TiktokAudienceConnection(
            audience_id="123",
            advertiser_id="88",
            access_token_secret="tiktok-token",
            base_url=f"{url}/open_api/v1.3",
        )
    },
    "linkedin": lambda url: {
        "linkedin_audience": pb.LinkedinAudienceConnection(
            segment_id="123", access_token_secret="linkedin-token", base_url=f"{url}/rest"
        )
    },
}
_OPTIONS = {
    "meta": ("--token", TOKEN, "--app-secret", APP_SECRET),
    "google": ("--client-secret", "shh", "--refresh-token", "again", "--account", "77"),
    "tiktok": ("--token", TOKEN, "--advertiser", "88"),
    "linkedin": ("--token", TOKEN),
}
_EMAIL = {"meta": "EMAIL", "google": "EMAIL", "tiktok": "EMAIL_SHA256", "linkedin": "SHA256_EMAIL"}


def hashed(profile: str) -> str:
    return hashlib.sha256(f"{profile}@example.com".encode()).hexdigest()


@asynccontextmanager
async def run_platform(name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Platform]:
    """Runs a platform's stand-in, with its secrets where connections look for them."""
    monkeypatch.setenv("CAIRN_SECRET_TIKTOK_TOKEN", TOKEN)
    monkeypatch.setenv("CAIRN_SECRET_LINKEDIN_TOKEN", TOKEN)
    monkeypatch.setenv("CAIRN_SECRET_GOOGLE_CREDENTIALS", json.dumps(CREDENTIALS))
    command = (sys.executable, "-m", f"cairn.testing.{name}_platform", *_OPTIONS[name])
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout
        async with asyncio.timeout(30):
            line = await process.stdout.readline()
        yield Platform(name, json.loads(line)["port"])
    finally:
        process.terminate()
        await process.wait()
