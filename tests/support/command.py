"""Owns running `cairn up` as a person would, and calling the other commands against it."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from click.testing import Result

CAIRN = (sys.executable, "-m", "cairn.cli.main")
READY_SECONDS = 120.0

Run = Callable[..., Result]


class Up:
    """`cairn up` as a process, ready when made. `extra` are further variables of its environment."""

    def __init__(self, data: Path, *options: str, extra: Mapping[str, str] | None = None) -> None:
        self.process = subprocess.Popen(
            [*CAIRN, "up", "--data", str(data), "--free-ports", "--json", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **(extra or {})},
        )
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], READY_SECONDS)
        line = self.process.stdout.readline() if readable else ""
        assert line, self.stop()
        self.document: dict[str, Any] = json.loads(line)

    def pid(self, service: str) -> int:
        return int(self.document["services"][service]["pid"])

    def environment(self) -> dict[str, str]:
        services = self.document["services"]
        addresses = {f"CAIRN_{name.upper()}_ADDRESS": each["address"] for name, each in services.items()}
        return {**os.environ, **addresses}

    def stop(self, number: signal.Signals = signal.SIGINT) -> tuple[int, str]:
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> tuple[int, str]:
        _, told = self.process.communicate(timeout=READY_SECONDS)
        return self.process.returncode, told


def read_port(process: subprocess.Popen[str]) -> int:
    """The port that a stand-in prints once it listens."""
    assert process.stdout is not None
    port: int = json.loads(process.stdout.readline())["port"]
    return port


def documents(done: Result) -> list[dict[str, Any]]:
    """What a command printed for programs."""
    return [json.loads(line) for line in done.stdout.splitlines()]
