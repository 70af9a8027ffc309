"""Owns the options that commands share: `--json`, where the services are, how to show who we are."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

DEFAULT_ADDRESSES = {
    "definition": "127.0.0.1:7401",
    "evaluator": "127.0.0.1:7402",
    "scheduler": "127.0.0.1:7403",
    "activation": "127.0.0.1:7404",
}

Command = Callable[..., Any]

json_option = click.option(
    "--json", "as_json", is_flag=True, help="For programs: one JSON object a line, nothing else on stdout."
)

limit_option = click.option(
    "--limit", type=click.IntRange(0), default=100, show_default=True, help="At most this many; 0 for all."
)


def service_options(*services: str) -> Callable[[Command], Command]:
    """Give a command the options to reach these services; it is called with `services`, a `connect.Services`.

    A command of one service takes `--address`, one of several `--definition-address` and so on.
    """

    def decorate(command: Command) -> Command:
        @functools.wraps(command)
        def call(*args: Any, token_file: Path | None, ca_file: Path | None, **kwargs: Any) -> Any:
            from cairn.cli.connect import Services

            addresses = {service: kwargs.pop(f"{service}_address") for service in services}
            return command(*args, services=Services(addresses, token_file, ca_file), **kwargs)

        wrapped: Command = call
        for option in (
            *_credentials(),
            *(_address(each, alone=len(services) == 1) for each in reversed(services)),
        ):
            wrapped = option(wrapped)
        return wrapped

    return decorate


def _address(service: str, *, alone: bool) -> Callable[[Command], Command]:
    variable = f"CAIRN_{service.upper()}_ADDRESS"
    return click.option(
        "--address" if alone else f"--{service}-address",
        f"{service}_address",
        envvar=variable,
        default=DEFAULT_ADDRESSES[service],
        show_default=True,
        metavar="HOST:PORT",
        callback=_check_address,
        help=f"Where the {service.capitalize()} service is. [env: {variable}]",
    )


def _check_address(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    host, _, port = value.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise click.BadParameter(f"{value!r} is not like 127.0.0.1:7401.")
    return value


def _credentials() -> tuple[Callable[[Command], Command], ...]:
    file = click.Path(exists=True, dir_okay=False, path_type=Path)
    return (
        click.option(
            "--ca-file",
            type=file,
            envvar="CAIRN_PEER_CA_FILE",
            help="PEM file of the authorities to trust; calls use TLS when given. [env: CAIRN_PEER_CA_FILE]",
        ),
        click.option(
            "--token-file",
            type=file,
            envvar="CAIRN_PEER_TOKEN_FILE",
            help="File with the bearer token to show. [env: CAIRN_PEER_TOKEN_FILE]",
        ),
    )
