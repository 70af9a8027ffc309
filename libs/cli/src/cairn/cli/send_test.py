"""Owns `cairn send-test`: one message at once, past the ledger, to see how it arrives."""

import asyncio

import click

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1.journey_pb2 import AudienceAction
from cairn.cli.connect import Services
from cairn.cli.contexts import Wanted, context_options, make_context
from cairn.cli.failures import CommandError
from cairn.cli.names import resource, short, value, versioned, word, words
from cairn.cli.options import json_option, service_options
from cairn.cli.output import clean, print_json, print_note


@click.command(
    "send-test",
    epilog="""\b
Examples:
  cairn send-test email welcome --to me@example.com
  cairn send-test email welcome --to me@example.com --profile ada
  cairn send-test email cart-reminder/2 --to me@example.com --context context.json
  cairn send-test meta-audience --action ADD --profile ada
""",
)
@click.argument("connection")
@click.argument("template", required=False, default="")
@click.option(
    "--to",
    "to_address",
    default="",
    metavar="ADDRESS",
    help="Where an e-mail goes, whatever the profile's own address.",
)
@context_options
@click.option(
    "--action",
    type=click.Choice(words(AudienceAction), case_sensitive=False),
    help="For an audience: whether the profile is added or removed.",
)
@json_option
@service_options("activation", "evaluator")
def send_test(
    services: Services,
    connection: str,
    template: str,
    to_address: str,
    wanted: Wanted,
    action: str | None,
    as_json: bool,
) -> None:
    """Send one message through CONNECTION at once, made by TEMPLATE and marked as a test.

    It stands in no ledger and counts for no cap; no suppression, consent or quiet hour stops it. What the template needs
    comes from the options, else from the template's sample. The exit code is 1 when it was not sent.
    """

    async def send() -> pb.SendTestResponse:
        async with services:
            name = versioned(template, None)
            sample = b""
            if name and wanted.base is None:
                sample = (
                    await services.activation.GetTemplate(pb.GetTemplateRequest(name=name))
                ).template.sample
            request = pb.SendTestRequest(
                connection=resource("connections", connection),
                template=name,
                context=await make_context(services, wanted, sample),
                to_address=to_address,
                action=value(AudienceAction, action or "UNSPECIFIED"),
            )
            return await services.activation.SendTest(request)

    answer = asyncio.run(send())
    state = word(pb.DeliveryState, answer.state)
    if as_json:
        print_json({"state": state, "detail": answer.detail, "external_id": answer.external_id})
    if answer.state != pb.DELIVERY_STATE_SENT:
        raise CommandError(f"the test was not sent, {state}: {clean(answer.detail)}")
    if not as_json:
        told = f": {answer.detail}" if answer.detail else ""
        known = f" It is known there as {answer.external_id}." if answer.external_id else ""
        print_note(f"Sent through {short(connection)}{told}.{known}")
