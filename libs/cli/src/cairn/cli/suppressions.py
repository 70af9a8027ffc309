"""Owns `cairn suppressions`: the addresses that get no mail."""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence

import click
import grpc

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.cli.connect import Services, all_items
from cairn.cli.connections import require_connection
from cairn.cli.failures import CommandError
from cairn.cli.jsonl import batches
from cairn.cli.listing import ListsByDefault, show_list
from cairn.cli.names import resource, short, word
from cairn.cli.options import json_option, limit_option, service_options
from cairn.cli.output import clean, print_json, print_note, print_table, show_time, to_dict
from cairn.runtime.errors import error_from_rpc

_EVERYWHERE = "all e-mail"
_COLUMNS = ("address", "for", "why", "who says so", "since", "detail")
_BATCH = 1_000

_connection = click.option(
    "--connection", default="", help="Only for mail through this connection. [default: all e-mail]"
)


@click.group(cls=ListsByDefault)
def suppressions() -> None:
    """Addresses that get no mail: list, check, add and remove them; without a command: list them.

    Hard bounces, complaints and unsubscribes come here by themselves.
    """


@suppressions.command(
    "list",
    epilog="""\b
Examples:
  cairn suppressions list
  cairn suppressions list --limit 0 --json > suppressions.jsonl
""",
)
@limit_option
@json_option
@service_options("activation")
def list_suppressions(services: Services, limit: int, as_json: bool) -> None:
    """Suppressions, newest first. Of somebody who was erased only the keyed hash of the address is left."""

    def items() -> AsyncIterator[pb.Suppression]:
        call = services.activation.ListSuppressions
        return all_items(call, pb.ListSuppressionsRequest(), lambda page: page.suppressions, limit)

    show_list(services, items, _COLUMNS, _row, limit=limit, as_json=as_json)


@suppressions.command(
    epilog="""\b
Examples:
  cairn suppressions check ada@example.com
  cairn suppressions check ada@example.com --json | jq .suppressed
"""
)
@click.argument("address")
@json_option
@service_options("activation")
def check(services: Services, address: str, as_json: bool) -> None:
    """Whether an address gets mail, and if not, why."""

    async def fetch() -> list[pb.Suppression]:
        async with services:
            request = pb.ListSuppressionsRequest(address=address)
            call = services.activation.ListSuppressions
            return [each async for each in all_items(call, request, lambda page: page.suppressions, 0)]

    found = asyncio.run(fetch())
    if as_json:
        print_json(
            {
                "address": address,
                "suppressed": bool(found),
                "suppressions": [to_dict(each) for each in found],
            }
        )
    elif found:
        print_table(_COLUMNS, [_row(each) for each in found])
    else:
        print_note(f"{clean(address)} is not suppressed: it gets mail.")


@suppressions.command(
    epilog="""\b
Examples:
  cairn suppressions add ada@example.com --detail 'asked by telephone'
  cairn suppressions add ada@example.com --connection newsletter
"""
)
@click.argument("addresses", metavar="ADDRESS...", nargs=-1, required=True)
@_connection
@click.option("--detail", default="", help="Why, for people.")
@json_option
@service_options("activation")
def add(services: Services, addresses: tuple[str, ...], connection: str, detail: str, as_json: bool) -> None:
    """Suppress addresses. What is pending for them is refused before it leaves."""

    async def put() -> int:
        added = done = 0
        async with services:
            await require_connection(services, connection)
            for batch in batches(addresses, _BATCH):
                request = pb.PutSuppressionsRequest(
                    suppressions=[
                        pb.Suppression(
                            address=each,
                            connection=resource("connections", connection),
                            reason=pb.SUPPRESSION_REASON_MANUAL,
                            source="operator",
                            detail=detail,
                        )
                        for each in batch
                    ]
                )
                try:
                    added += (await services.activation.PutSuppressions(request)).added
                except grpc.aio.AioRpcError as error:
                    if done:
                        print_note(f"The first {done:,} addresses are suppressed, for {_scope(connection)}.")
                    raise _wrong_addresses(error, batch, done) from error
                done += len(batch)
        return added

    added = asyncio.run(put())
    if as_json:
        print_json({"added": added, "known": len(addresses) - added})
    else:
        known = f", {len(addresses) - added:,} known already" if added < len(addresses) else ""
        print_note(f"{added:,} added{known}, for {_scope(connection)}.")


@suppressions.command(
    epilog="""\b
Examples:
  cairn suppressions remove ada@example.com
  cairn suppressions remove ada@example.com --connection newsletter
"""
)
@click.argument("address")
@_connection
@json_option
@service_options("activation")
def remove(services: Services, address: str, connection: str, as_json: bool) -> None:
    """Lift one suppression of an address. Somebody who unsubscribed has to ask for that."""

    async def lift() -> None:
        async with services:
            request = pb.DeleteSuppressionRequest(
                address=address, connection=resource("connections", connection)
            )
            try:
                await services.activation.DeleteSuppression(request)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                # The service names it by its hash.
                raise CommandError(
                    f"{clean(address)} is not suppressed for {_scope(connection)}; "
                    "`cairn suppressions check` tells for what it is."
                ) from error

    asyncio.run(lift())
    if as_json:
        print_json({"address": address, "connection": connection, "result": "removed"})
    else:
        print_note(f"{clean(address)} is no longer suppressed for {_scope(connection)}.")


def _wrong_addresses(error: grpc.aio.AioRpcError, batch: Sequence[str], done: int) -> Exception:
    """What is wrong, told by the addresses that were given instead of their places."""
    lines = []
    for violation in error_from_rpc(error).violations:
        place = re.match(r"suppressions\[(\d+)\]\.?", violation.field)
        if place is None or int(place[1]) >= len(batch):
            return error
        lines.append(f"{batch[int(place[1])]}: {violation.description}")
    text = "none of the others was suppressed." if done else "none of these was suppressed."
    return CommandError(text, lines) if lines else error


def _scope(connection: str) -> str:
    return f"mail through {short(connection)}" if connection else _EVERYWHERE


def _row(each: pb.Suppression) -> tuple[str, ...]:
    return (
        each.address or f"(erased: {each.address_hash})",
        short(each.connection) or _EVERYWHERE,
        word(pb.SuppressionReason, each.reason),
        each.source,
        show_time(each.create_time),
        each.detail,
    )
