"""Owns `cairn consents`: what profiles have said about being written to."""

import asyncio
from collections.abc import Sequence

import click

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.cli.connect import Services
from cairn.cli.connections import require_connection
from cairn.cli.jsonl import parse_time
from cairn.cli.names import resource, short
from cairn.cli.options import json_option, service_options
from cairn.cli.output import clean, print_json, print_message, print_note, print_table, show_time, state_text


@click.group()
def consents() -> None:
    """Who agreed to be written to, and who refused.

    Who refused gets no mail but transactional one, and nothing through connections with `requires_consent`. Who said nothing
    gets what comes through connections without it.
    """


@consents.command(
    epilog="""\b
Examples:
  cairn consents get ada
  cairn consents get ada --json
"""
)
@click.argument("profile")
@json_option
@service_options("activation")
def get(services: Services, profile: str, as_json: bool) -> None:
    """What one profile has said."""

    async def fetch() -> Sequence[pb.Consent]:
        async with services:
            request = pb.GetConsentsRequest(profile_id=profile.removeprefix("profiles/"))
            return (await services.activation.GetConsents(request)).consents

    found = asyncio.run(fetch())
    if as_json:
        for each in found:
            print_message(each)
    elif not found:
        print_note(
            f"Nothing is known of {clean(short(profile))}: all but connections with `requires_consent` may write to them."
        )
    else:
        print_table(
            ("connection", "said", "when", "where"),
            [
                (
                    short(each.connection) or "all others",
                    state_text("GRANTED" if each.granted else "REFUSED"),
                    show_time(each.update_time),
                    each.source,
                )
                for each in found
            ],
        )


@consents.command(
    "set",
    epilog="""\b
Examples:
  cairn consents set ada --granted
  cairn consents set ada --refused --connection newsletter --source 'letter of 3 May'
""",
)
@click.argument("profile")
@click.option(
    "--connection",
    default="",
    help="For this connection. [default: all connections for which nothing else was said]",
)
@click.option("--granted/--refused", "granted", default=None, help="What was said. Required.")
@click.option("--source", default="operator", show_default=True, help="Where it was said.")
@click.option("--at", default="", metavar="TIME", help="When it was said, RFC 3339. [default: now]")
@json_option
@service_options("activation")
def set_consent(
    services: Services,
    profile: str,
    connection: str,
    granted: bool | None,
    source: str,
    at: str,
    as_json: bool,
) -> None:
    """Write what a profile has said. Something older than what is known changes nothing."""
    if granted is None:
        raise click.UsageError("Say what was said: --granted or --refused.")
    consent = pb.Consent(
        profile_id=profile.removeprefix("profiles/"),
        connection=resource("connections", connection),
        granted=granted,
        source=source,
    )
    if at:
        try:
            consent.update_time.CopyFrom(parse_time(at))
        except ValueError as error:
            raise click.BadParameter(f"{error}.", param_hint="--at") from None

    async def write() -> int:
        async with services:
            await require_connection(services, connection)
            return (await services.activation.SetConsents(pb.SetConsentsRequest(consents=[consent]))).changed

    changed = asyncio.run(write())
    if as_json:
        print_json({"changed": changed})
    elif changed:
        said = "agreed" if granted else "refused"
        scope = short(connection) if connection else "all connections for which nothing else was said"
        print_note(f"Noted: {short(profile)} {said}, for {scope}.")
    else:
        print_note("Nothing changed: the same, or something newer, is known already.")
