"""Owns `cairn up`: the whole suite in the foreground until somebody stops it."""

import os
import signal
import threading
from pathlib import Path
from types import FrameType

import click

from cairn.cli.failures import CommandError
from cairn.cli.options import json_option
from cairn.cli.output import print_json, print_note, print_table, status
from cairn.cli.suite import DEFAULT_PORT_BASE, Suite

_BASE_URL = "CAIRN_ACTIVATION_PUBLIC_BASE_URL"
_LOOK_SECONDS = 0.25


@click.command(
    epilog="""\b
Examples:
  cairn up
  cairn up --data ~/cairn-data --port-base 7501
  cairn up --dsn postgresql://cairn@db.internal/cairn
  cairn up --free-ports --speed 3600 --json
"""
)
@click.option(
    "--dsn",
    envvar="CAIRN_DSN",
    default="",
    help="Your own Postgres instead of the embedded one. [env: CAIRN_DSN]",
)
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".cairn"),
    show_default=True,
    help="Folder of the embedded Postgres and of the logs; kept when the suite stops.",
)
@click.option(
    "--port-base",
    type=click.IntRange(1024, 63000),
    default=DEFAULT_PORT_BASE,
    show_default=True,
    help="First of the four gRPC ports; HTTP ports lie 2000 above, the public one of Activation 1000.",
)
@click.option("--free-ports", is_flag=True, help="Take whatever ports are free instead.")
@click.option(
    "--speed",
    type=click.IntRange(1, 100_000),
    default=1,
    show_default=True,
    help="Divide waits, timeouts and staleness by this: for trying things out, never for real people.",
)
@click.option(
    "--log-dir",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder of the services' logs. [default: DATA/logs]",
)
@json_option
def up(
    dsn: str, data: Path, port_base: int, free_ports: bool, speed: int, log_dir: Path | None, as_json: bool
) -> None:
    """Run Cairn here: its four services as four processes, with an embedded Postgres.

    Ctrl-C stops everything: services finish what they accepted, then Postgres stops. Nothing is restarted silently:
    when one part ends by itself, the command says so, stops the rest and exits 1.
    """
    suite = Suite(
        log_dir=(log_dir or data / "logs").absolute(),
        dsn=dsn,
        data=None if dsn else data / "postgres",
        port_base=0 if free_ports else port_base,
        speed=speed,
        inherit_settings=True,
    )
    asked_to_stop = threading.Event()

    def stop(_number: int, _frame: FrameType | None) -> None:
        if asked_to_stop.is_set():
            raise KeyboardInterrupt
        asked_to_stop.set()

    signal.signal(signal.SIGTERM, _interrupt)
    with status("Starting Postgres and four services ..."):
        suite.start()
    try:
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGINT, stop)
        _show(suite, speed, as_json)
        while not asked_to_stop.wait(_LOOK_SECONDS):
            if casualties := suite.casualties():
                raise CommandError("a part of the suite ended; the rest was stopped.", casualties)
    finally:
        with status("Stopping: services finish what they accepted ..."):
            suite.stop()
    if not as_json:
        print_note("Stopped.")


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _show(suite: Suite, speed: int, as_json: bool) -> None:
    postgres = suite.postgres
    if as_json:
        document: dict[str, object] = {
            "services": {
                name: {
                    "address": each.address,
                    "http": each.http_url,
                    "pid": each.child.pid,
                    "log": str(each.child.log),
                    **({"public": each.public_url} if each.public_url else {}),
                }
                for name, each in suite.instances.items()
            },
            "speed": speed,
        }
        if postgres:
            document["postgres"] = {"port": postgres.port, "data": str(postgres.data)}
        print_json(document)
        return
    rows = [
        (name, each.address, f"{each.http_url}/metrics", _from_here(each.child.log))
        for name, each in suite.instances.items()
    ]
    if postgres:
        rows.append(("postgres", f"127.0.0.1:{postgres.port}", "", _from_here(postgres.data)))
    print_table(("service", "gRPC", "HTTP", "log, data"), rows)
    if speed > 1:
        print_note(
            f"Speed {speed}: waits, timeouts and staleness are divided by {speed}. Not for real people."
        )
    if base_url := os.environ.get(_BASE_URL, suite.public_url):
        print_note(f"Unsubscribe addresses in mails lead to {base_url} ({_BASE_URL} can name another place).")
    print_note("Ready. Ctrl-C stops everything.")


def _from_here(path: Path) -> str:
    """A path as short as it can be typed: long ones break the table."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
