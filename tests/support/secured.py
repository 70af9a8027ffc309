"""Owns what tests do with a whole Cairn whose doors are closed: give out tokens and take them back, call as somebody, read the logs."""

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from certificates import Authority, Pair

from cairn.cli.migrate import SERVICES
from cairn.cli.suite import Suite
from cairn.runtime.client import open_channel
from cairn.runtime.settings import ClientSettings

CAIRN = (sys.executable, "-m", "cairn.cli.main")

ROLES = {**dict.fromkeys(SERVICES, "OPERATE"), "operator": "OPERATE", "producer": "PRODUCE", "reader": "READ"}
VISITOR = "visitor"  # the caller whose token changes
STRANGER = "stranger"  # has a token that nobody gave out


def make_token(name: str, generation: int = 1) -> str:
    return hashlib.sha256(f"{name} {generation}".encode()).hexdigest()


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def replace(file: Path, text: str) -> None:
    """All at once, as those who turn tokens over do it: half a file is never read."""
    fresh = file.with_suffix(".fresh")
    fresh.write_text(text)
    os.replace(fresh, file)


@dataclass
class Secured:
    """The suite, and the files that open its doors."""

    folder: Path
    authority: Authority
    person: Pair
    suite: Suite
    tokens: dict[str, str] = field(default_factory=dict)
    every_token: set[str] = field(default_factory=set)

    def issue(self, name: str, generation: int = 1) -> Path:
        """Writes the token that a caller shows; the services know it only after `admit`."""
        self.tokens[name] = make_token(name, generation)
        self.every_token.add(self.tokens[name])
        file = self.folder / f"{name}.token"
        replace(file, self.tokens[name] + "\n")
        return file

    def admit(self, **tokens: str) -> None:
        """Replaces the file of callers: everybody with the present token, but those named with another."""
        callers = {**ROLES, VISITOR: "READ"}
        lines = [
            f'- {{name: {name}, role: {role}, sha256: "{digest(tokens.get(name, self.tokens[name]))}"}}\n'
            for name, role in callers.items()
        ]
        replace(self.folder / "tokens.yaml", "".join(lines))

    def files(self, person: Pair | None = None) -> dict[str, Path]:
        """What TLS asks of callers, by setting: the authority that they trust, a certificate of theirs."""
        pair = person or self.person
        return {
            "peer_ca_file": self.authority.file,
            "tls_certificate_file": pair.certificate,
            "tls_key_file": pair.key,
        }

    def run(
        self, who: str, *arguments: str, text: str = "", files: Mapping[str, Path] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The command as one of the callers ("" has no token), by default with all that TLS asks for."""
        options = ["--token-file", str(self.folder / f"{who}.token")] if who else []
        chosen = dict(self.files() if files is None else files)
        if authority := chosen.pop("peer_ca_file", None):
            options += ["--ca-file", str(authority)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CAIRN_")}
        environment |= {f"CAIRN_{name.upper()}_ADDRESS": self.suite.address(name) for name in SERVICES}
        environment |= {f"CAIRN_{name.upper()}": str(file) for name, file in chosen.items()}
        done = subprocess.run(
            [*CAIRN, *arguments, *options],
            input=text, capture_output=True, text=True, env=environment, check=False,
        )  # fmt: skip
        assert not self.told(done.stdout + done.stderr)
        return done

    def documents(self, who: str, *arguments: str) -> list[dict[str, Any]]:
        done = self.run(who, *arguments, "--json")
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def told(self, text: str) -> list[str]:
        """The tokens that a text gives away, whole or by a part that is long enough to matter."""
        return [token for token in self.every_token if token[:12] in text or token[-12:] in text]

    async def code(
        self, who: str, service: str, path: str, files: Mapping[str, Path] | None = None
    ) -> grpc.StatusCode:
        """What becomes of a unary call with an empty request; who and files as of `run`."""
        chosen: dict[str, Any] = dict(self.files() if files is None else files)
        if who:
            chosen["peer_token_file"] = self.folder / f"{who}.token"
        async with open_channel(self.suite.address(service), ClientSettings(**chosen)) as channel:
            call: Any = channel.unary_unary(f"/cairn.api.{path}")
            try:
                await call(b"")
            except grpc.aio.AioRpcError as error:
                return error.code()
        return grpc.StatusCode.OK
