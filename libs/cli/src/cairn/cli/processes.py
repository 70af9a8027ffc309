"""Owns child processes: starts one with its output in a file, watches it, stops it. Prints nothing."""

import os
import signal
import socket
import subprocess
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from cairn.runtime.errors import StartupError

# Below the range from which systems take outgoing ports, so that no connection sits on one that we are about to use.
_FIRST_PORT, _LAST_PORT = 12000, 19900


class Child:
    """One program that this process starts; it may be started again after it ended.

    Output of all its runs is appended to `log`. It gets its own session: a Ctrl-C in the terminal is for us, who
    stop the children in order.
    """

    def __init__(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self._command = list(command)
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    @property
    def pid(self) -> int:
        """The process id; 0 before the first start."""
        return self._process.pid if self._process else 0

    @property
    def exit_code(self) -> int | None:
        """How it ended: its exit code, or the negative number of a signal; None while it lives."""
        return self._process.poll() if self._process else None

    @property
    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start it, from the main thread: on Linux it ends with the thread that started it."""
        if self.alive:
            return
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )

    def send(self, signal_number: signal.Signals) -> None:
        """Send a signal; one that ended already is left alone."""
        if self._process is not None:
            self._process.send_signal(signal_number)

    def wait(self, timeout_s: float) -> int | None:
        """Wait for its end, at most this long; then it counts as stopped. None when it still lives."""
        if self._process is None:
            return None
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        self._process = None
        return code

    def stop(self, timeout_s: float) -> int | None:
        """SIGTERM, and SIGKILL when it has not ended in time. Returns how it ended, None when it did not run."""
        self.send(signal.SIGTERM)
        code = self.wait(timeout_s)
        return self.kill() if code is None else code

    def kill(self) -> int | None:
        """SIGKILL: a crash on purpose. Returns how it ended, None when it did not run."""
        self.send(signal.SIGKILL)
        return self.wait(timeout_s=60)

    def output(self) -> str:
        """What the present run, or the last, has written so far."""
        try:
            with self.log.open("rb") as log:
                log.seek(self._log_start)
                return log.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def last_words(self) -> str:
        """The last line for people that it wrote, which tells why it ended; a JSON log line when there is no other."""
        lines = [line.strip() for line in self.output().splitlines() if line.strip()]
        plain = [line for line in lines if not line.startswith("{")]
        return (plain or lines or ["it said nothing"])[-1]

    def obituary(self) -> str:
        """How it ended, why, and where to read more, in one line; only for one that ended."""
        code = self.exit_code or 0
        if code < 0:
            return f"signal {signal.Signals(-code).name} (log: {self.log})"
        return f"exit code {code}: {self.last_words()} (log: {self.log})"


def free_ports(count: int, *, without: Collection[int] = ()) -> list[int]:
    """So many different ports of 127.0.0.1 on which nobody listens; `without` are promised to others already."""
    ports: list[int] = []
    span = _LAST_PORT - _FIRST_PORT
    for step in range(span):
        # Spread by process id, so that suites started side by side seldom look at the same ports.
        port = _FIRST_PORT + (os.getpid() * 37 + step) % span
        if port in without:
            continue
        if not is_free(port):
            continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise StartupError(f"No {count} ports from {_FIRST_PORT} to {_LAST_PORT} are free on 127.0.0.1.")


def is_free(port: int) -> bool:
    """Whether nobody listens on a port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
