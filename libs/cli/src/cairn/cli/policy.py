"""Owns `cairn policy`: the rules that hold for all connections through which people are written to."""

import asyncio

import click
import grpc

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.cli.connect import Services
from cairn.cli.documents import read_sources, write_document
from cairn.cli.failures import CommandError
from cairn.cli.options import json_option, service_options
from cairn.cli.output import print_message, print_note
from cairn.cli.rules_text import caps_text, quiet_text
from cairn.runtime.errors import error_from_rpc


@click.group()
def policy() -> None:
    """How often, and when, people are written to at all; connections can have rules of their own beside it."""


@policy.command(
    epilog="""\b
Examples:
  cairn policy get
  cairn policy get > policy.yaml
"""
)
@json_option
@service_options("activation")
def get(services: Services, as_json: bool) -> None:
    """The rules as YAML that `cairn policy put` takes, or as JSON with all that the service knows of them."""

    async def fetch() -> pb.SendingPolicy:
        async with services:
            return (await services.activation.GetSendingPolicy(pb.GetSendingPolicyRequest())).policy

    found = asyncio.run(fetch())
    if as_json:
        print_message(found)
        return
    click.echo(write_document("policy", found), nl=False)
    if not rules_of(found):
        print_note("There are no rules.")


@policy.command(
    epilog="""\b
Examples:
  cairn policy put policy.yaml
  echo 'policy: {}' | cairn policy put -

\b
A file:
  policy:
    frequency_caps: [{count: 2, period: 24h}, {count: 6, period: 7d}]
    journey_frequency_caps: [{count: 1, period: 24h}]
    quiet_hours: {start: "21:00", end: "08:00", fallback_time_zone: Europe/Berlin}

`cairn apply` takes it too, beside other documents.
"""
)
@click.argument("file", metavar="FILE")
@json_option
@service_options("activation")
def put(services: Services, file: str, as_json: bool) -> None:
    """Replace the rules by those of a YAML file; `-` is stdin. They hold for whatever leaves from then on."""
    found = [each for each in read_sources([file]) if each.document.kind == "policy"]
    if not found:
        raise CommandError(f"{file} holds no policy; see `cairn policy put --help`.")
    source = found[0]
    message = source.document.message
    assert isinstance(message, pb.SendingPolicy)

    async def save() -> pb.SendingPolicy:
        async with services:
            try:
                request = pb.PutSendingPolicyRequest(policy=message)
                return (await services.activation.PutSendingPolicy(request)).policy
            except grpc.aio.AioRpcError as error:
                if not (wrong := error_from_rpc(error).violations):
                    raise
                raise CommandError(
                    "these rules can't be.",
                    [source.finding(each.field, each.description) for each in wrong],
                ) from error

    saved = asyncio.run(save())
    if as_json:
        print_message(saved)
    else:
        print_note(f"Saved: {'; '.join(rules_of(saved)) or 'no rules'}.")


def rules_of(found: pb.SendingPolicy) -> list[str]:
    """The rules in words, one each; none when there are none."""
    rules = caps_text(found.frequency_caps)
    rules += caps_text(found.journey_frequency_caps, "a profile by one journey")
    if found.HasField("quiet_hours"):
        rules.append(quiet_text(found.quiet_hours))
    return rules
