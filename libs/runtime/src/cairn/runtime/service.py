"""Owns the command line of every `python -m cairn.<service>`, and is the one module that a `__main__`
imports.

Refuses tracebacks: what an operator can mend is one line on stderr and exit code 1; a wrong command line
exits 2.
"""

import argparse
import ctypes
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TextIO, TypeVar

import structlog
import uvloop

from cairn.runtime.auth import Role
from cairn.runtime.errors import StartupError
from cairn.runtime.lifecycle import Component, Service, ServiceSpec, serve
from cairn.runtime.logs import configure_logging
from cairn.runtime.server import ServicerBinding
from cairn.runtime.settings import ServiceSettings, environment_name, load_settings, misspelled_settings

__all__ = [
    "Component",
    "Role",
    "Service",
    "ServiceSpec",
    "ServicerBinding",
    "die_with_parent",
    "main",
    "serve",
]

_S = TypeVar("_S", bound=ServiceSettings)

_PR_SET_PDEATHSIG = 1


def main(
    service: str,
    build: Callable[[_S], Awaitable[ServiceSpec]],
    settings_class: type[_S],
    argv: Sequence[str],
    migrate: Callable[[_S], Awaitable[str]],
) -> int:
    """Runs one command of a service and returns the exit code.

    `service` is its short name ("evaluator"), `argv` the arguments without the program's name. `build`
    constructs everything, on the event loop. `migrate` brings the schema up to date and returns the line to
    print.
    """
    try:
        command = _parse(service, settings_class, argv)
    except SystemExit as exit_:
        return exit_.code if isinstance(exit_.code, int) else 2
    try:
        die_with_parent()
        settings = load_settings(settings_class)
        configure_logging(service, settings.log_level, settings.log_format)
        for line in misspelled_settings(settings_class):
            structlog.get_logger().warning("unknown_setting", hint=line)
        # uvloop's runner is asyncio's with the faster loop.
        uvloop.run(_migrate(migrate, settings) if command == "migrate" else _serve(build, settings))
    except StartupError as error:
        for line in str(error).splitlines():
            _say(f"cairn {service}: {line}", sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:  # noqa: BLE001 - the last resort of the process
        structlog.get_logger().critical("could_not_run", exc_info=error)
        _say(f"cairn {service}: a defect ended it; the log line above tells more", sys.stderr)
        return 1
    return 0


def die_with_parent() -> None:
    """Asks the kernel for a SIGTERM when the parent ends, if `CAIRN_DIE_WITH_PARENT` says so. Linux only.

    "1" watches whatever the parent is now; a process id also finds that this parent is gone already
    (StartupError). The kernel watches the *thread* that started this process: a parent must start it from
    its main thread.
    """
    wanted = os.environ.get("CAIRN_DIE_WITH_PARENT", "")
    if not wanted.isdigit() or wanted == "0" or sys.platform != "linux":
        return
    parent = int(wanted) if int(wanted) > 1 else os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:
        raise StartupError("the process that started it has gone (CAIRN_DIE_WITH_PARENT)")


async def _serve(build: Callable[[_S], Awaitable[ServiceSpec]], settings: _S) -> None:
    await serve(await build(settings))


async def _migrate(migrate: Callable[[_S], Awaitable[str]], settings: _S) -> None:
    _say(await migrate(settings), sys.stdout)


def _say(line: str, stream: TextIO) -> None:
    stream.write(line + "\n")
    stream.flush()


def _parse(service: str, settings_class: type[ServiceSettings], argv: Sequence[str]) -> str:
    program = f"python -m cairn.{service}"
    dsn = environment_name(settings_class, "postgres_dsn")
    port = environment_name(settings_class, "grpc_port")
    parser = argparse.ArgumentParser(
        prog=program,
        description=f"Cairn's {service} service. Settings come from the environment, as its README lists them.",
        epilog=(
            "examples:\n"
            f"  {dsn}=postgresql://localhost/cairn {program} migrate\n"
            f"  {dsn}=postgresql://localhost/cairn {program}\n"
            f"  {port}=0 {program} serve    # any free port; the log says which"
        ),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("serve", "migrate"),
        default="serve",
        help="serve until SIGTERM (the default), or bring the database's schema up to date and exit",
    )
    command: str = parser.parse_args(argv).command
    return command
