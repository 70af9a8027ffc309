"""Owns what the demo runs on: the suite on free ports, a mail server, a stand-in ad platform, one folder for all.

All are real processes on loopback, and gone when the demo is.
"""

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from cairn.api.activation.v1.activation_pb2 import (
    Connection,
    MetaAudienceConnection,
    SmtpConnection,
    SmtpSecurity,
)
from cairn.cli.connect import Services
from cairn.cli.migrate import SERVICES
from cairn.cli.processes import Child
from cairn.cli.suite import HOST, Suite
from cairn.runtime.errors import StartupError
from cairn.runtime.ids import random_id

AUDIENCE = "23851234567890123"

_TOKEN_NAME, _APP_SECRET_NAME = "demo-meta-token", "demo-meta-app-secret"
_READY_SECONDS = 30.0
_STOP_SECONDS = 5.0
_POLL_SECONDS = 0.05


class Stage:
    """Everything that the demo needs, between `start` and `close`. `folder` holds logs and received mails."""

    def __init__(self, speed: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="cairn-demo-"))
        self.mailbox = self.folder / "mailbox"
        self._token, self._app_secret = f"{random_id():x}", f"{random_id():x}"
        self.suite = Suite(
            log_dir=self.folder / "logs",
            speed=speed,
            environment={
                "activation": {
                    _secret_variable(_TOKEN_NAME): self._token,
                    _secret_variable(_APP_SECRET_NAME): self._app_secret,
                }
            },
        )
        self._mail_server = self._stand_in("mail_server", "--mailbox", str(self.mailbox))
        self._ad_platform = self._stand_in(
            "meta_platform", "--token", self._token, "--app-secret", self._app_secret
        )
        self._mail_port = self._ad_port = 0

    def start(self) -> None:
        """Start everything, from the main thread; StartupError when a part does not. `close` is for both outcomes."""
        self.mailbox.mkdir()
        self._mail_server.start()
        self._ad_platform.start()
        self.suite.start()
        self._mail_port, self._ad_port = _port(self._mail_server), _port(self._ad_platform)

    def close(self, *, keep_folder: bool) -> None:
        """Stop everything, the services first, since they still send what they accepted."""
        self.suite.stop()
        self._mail_server.stop(_STOP_SECONDS)
        self._ad_platform.stop(_STOP_SECONDS)
        if not keep_folder:
            shutil.rmtree(self.folder, ignore_errors=True)

    def services(self) -> Services:
        """Connections to the suite."""
        return Services({service: self.suite.address(service) for service in SERVICES}, None, None)

    def connections(self) -> list[Connection]:
        """The destinations that the example journeys name, leading to the stand-ins."""
        return [
            Connection(
                name="email",
                smtp=SmtpConnection(
                    host=HOST,
                    port=self._mail_port,
                    security=SmtpSecurity.SMTP_SECURITY_NONE,
                    from_address="Trail Shop <shop@example.com>",
                ),
            ),
            Connection(
                name="meta-audience",
                meta_audience=MetaAudienceConnection(
                    audience_id=AUDIENCE,
                    access_token_secret=_TOKEN_NAME,
                    app_secret_secret=_APP_SECRET_NAME,
                    base_url=f"http://{HOST}:{self._ad_port}/v25.0",
                ),
            ),
        ]

    async def audience_state(self) -> dict[str, Any]:
        """What the ad platform holds: members by audience, counts of what was added and removed."""
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session,
            session.get(f"http://{HOST}:{self._ad_port}/_state") as answer,
        ):
            state: dict[str, Any] = await answer.json()
            return state

    def _stand_in(self, module: str, *arguments: str) -> Child:
        command = (sys.executable, "-m", f"cairn.testing.{module}", "--port", "0", *arguments)
        environment = {**os.environ, "CAIRN_DIE_WITH_PARENT": "1"}
        return Child(module, command, environment, self.folder / "logs" / f"{module}.log")


def _secret_variable(name: str) -> str:
    """Where Activation looks for a secret of this name."""
    return f"CAIRN_SECRET_{name.upper().replace('-', '_')}"


def _port(child: Child) -> int:
    """The port that a stand-in prints as `{"port": N}` once it listens."""
    deadline = time.monotonic() + _READY_SECONDS
    while child.alive and time.monotonic() < deadline:
        for line in child.output().splitlines():
            if line.startswith("{"):
                return int(json.loads(line)["port"])
        time.sleep(_POLL_SECONDS)
    raise StartupError(f"{child.name} did not start: {child.obituary()}")


def find_examples(given: Path | None) -> Path:
    """The folder of the example journeys: the one given, or the repository's own."""
    folders = (
        [given] if given else [parent / "deploy" / "examples" for parent in Path(__file__).resolve().parents]
    )
    for folder in folders:
        if (folder / "welcome.yaml").is_file():
            return folder
    raise StartupError(
        f"{given} holds no welcome.yaml: give the folder of the example journeys."
        if given
        else "The example journeys are not beside this installation: give their folder with --examples."
    )
