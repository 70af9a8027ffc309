"""Owns `cairn templates`: showing, previewing and deleting the words of messages."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import click
import grpc

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.cli.asking import confirm, yes_option
from cairn.cli.connect import Services, all_items
from cairn.cli.contexts import Wanted, context_options, make_context
from cairn.cli.documents import Source, read_sources, write_document
from cairn.cli.failures import CommandError
from cairn.cli.listing import ListsByDefault, show_list
from cairn.cli.names import resource, short, versioned
from cairn.cli.options import json_option, limit_option, service_options
from cairn.cli.output import clean, console, print_json, print_message, print_note, show_time
from cairn.runtime.errors import error_from_rpc


@click.group(cls=ListsByDefault)
def templates() -> None:
    """List, show, preview and delete the words of messages; without a command: list them. `cairn apply` saves them."""


@templates.command(
    "list",
    epilog="""\b
Examples:
  cairn templates list
  cairn templates list --json | jq -r .subject
""",
)
@limit_option
@json_option
@service_options("activation")
def list_templates(services: Services, limit: int, as_json: bool) -> None:
    """Templates by name."""

    def items() -> AsyncIterator[pb.Template]:
        call = services.activation.ListTemplates
        return all_items(call, pb.ListTemplatesRequest(), lambda page: page.templates, limit)

    show_list(
        services,
        items,
        ("template", "version", "subject", "parts", "changed"),
        lambda each: (
            short(each.name),
            str(each.version),
            each.subject,
            _parts(each),
            show_time(each.update_time),
        ),
        limit=limit,
        as_json=as_json,
    )


@templates.command(
    epilog="""\b
Examples:
  cairn templates get welcome
  cairn templates get welcome --version 2 > welcome-2.yaml
"""
)
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="An earlier version instead of the newest.")
@json_option
@service_options("activation")
def get(services: Services, name: str, version: int | None, as_json: bool) -> None:
    """One template as YAML that `cairn apply` takes, or as JSON with all that the service knows of it."""

    async def fetch() -> pb.Template:
        async with services:
            return await _fetch(services, versioned(name, version))

    found = asyncio.run(fetch())
    if as_json:
        print_message(found)
        return
    # What is applied becomes the newest version; the name of an old one is no name for that.
    found.name = found.name.partition("/versions/")[0]
    click.echo(write_document("template", found), nl=False)


@templates.command(
    epilog="""\b
Examples:
  cairn templates versions welcome
"""
)
@click.argument("name")
@limit_option
@json_option
@service_options("activation")
def versions(services: Services, name: str, limit: int, as_json: bool) -> None:
    """The versions of a template, newest first. Each delivery tells with which one it left."""

    def items() -> AsyncIterator[pb.Template]:
        request = pb.ListTemplateVersionsRequest(name=resource("templates", name))
        return all_items(
            services.activation.ListTemplateVersions, request, lambda page: page.templates, limit
        )

    show_list(
        services,
        items,
        ("version", "subject", "parts", "saved"),
        lambda each: (str(each.version), each.subject, _parts(each), show_time(each.update_time)),
        limit=limit,
        as_json=as_json,
    )


@templates.command(
    epilog="""\b
Examples:
  cairn templates preview welcome
  cairn templates preview welcome --profile ada
  cairn templates preview cart-reminder --profile ada --event cart_add --property 'products=[{"name": "Boots", "price": 189}]'
  cairn templates preview cart-reminder --version 2 --context context.json --html cart.html
  cairn templates preview cart-reminder -f templates.yaml

\b
A context:
  {"profile": {"first_name": "Ada"}, "entry": {"name": "cart_add", "properties": {"total": 9}}, "event": {}}
"""
)
@click.argument("name", required=False, default="")
@click.option(
    "-f", "--file", default="", metavar="FILE", help="A template of this YAML file, which need not be saved."
)
@click.option("--version", type=click.IntRange(1), help="An earlier version instead of the newest.")
@context_options
@click.option(
    "--html",
    "html_file",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    metavar="FILE",
    help="Write the HTML to this file, for a browser.",
)
@json_option
@service_options("activation", "evaluator")
def preview(
    services: Services,
    name: str,
    file: str,
    version: int | None,
    wanted: Wanted,
    html_file: Path | None,
    as_json: bool,
) -> None:
    """Show the message that a template makes for a profile and an event. Nothing is sent.

    Each part of the context comes from what is given here, else from --context or, where that is not given, the template's sample.
    """
    if not name and not file:
        raise click.UsageError("Give the NAME of a saved template, or --file.")
    if file and version:
        raise click.UsageError("--version is for a saved template, not for --file.")
    source = _source(file, name) if file else None
    answer = asyncio.run(_preview(services, source, versioned(name, version), wanted))
    if html_file is not None:
        if not answer.html:
            raise CommandError(f"{name or 'the template'} has no HTML; {html_file} was not written.")
        html_file.write_text(answer.html, encoding="utf-8")
    if as_json:
        print_json(
            {
                "subject": answer.subject,
                "text": answer.text,
                "html": answer.html,
                "variables": list(answer.variables),
            }
        )
        return
    screen = console()
    screen.print(f"Subject: {clean(answer.subject)}\n", soft_wrap=True)
    screen.print(clean(answer.text.rstrip("\n")), soft_wrap=True)
    if screen.is_terminal:
        screen.print()  # what follows is a remark, and no part of the message
    if html_file is not None:
        print_note(f"The HTML is in {html_file}.")
    elif answer.html:
        print_note(f"And {len(answer.html):,} characters of HTML; --html FILE writes them.")
    if answer.variables:
        print_note(f"It uses {', '.join(answer.variables)}.")


@templates.command(
    epilog="""\b
Examples:
  cairn templates delete old-welcome
  cairn templates delete old-welcome --yes
"""
)
@click.argument("name")
@yes_option
@json_option
@service_options("activation")
def delete(services: Services, name: str, yes: bool, as_json: bool) -> None:
    """Delete a template. What is pending with it fails; its versions can still be shown, as deliveries name them."""
    confirm(f"Delete {short(name)}? What is pending with it fails.", yes=yes)

    async def remove() -> None:
        async with services:
            request = pb.DeleteTemplateRequest(name=resource("templates", name))
            await services.activation.DeleteTemplate(request)

    asyncio.run(remove())
    if as_json:
        print_json({"template": short(name), "result": "deleted"})
    else:
        print_note(f"Deleted {short(name)}.")


async def _fetch(services: Services, name: str) -> pb.Template:
    return (await services.activation.GetTemplate(pb.GetTemplateRequest(name=name))).template


def _source(file: str, name: str) -> Source:
    """The template of a file that is meant: the one of this name, or the only one."""
    found = {each.name: each for each in read_sources([file]) if each.document.kind == "template"}
    if not found:
        raise CommandError(f"{file} holds no template.")
    if not name and len(found) > 1:
        raise CommandError(f"{file} holds several templates; say which: {', '.join(found)}.")
    wanted = short(name) or next(iter(found))
    if wanted not in found:
        raise CommandError(f"{file} holds no template {wanted}; there is {', '.join(found)}.")
    return found[wanted]


async def _preview(
    services: Services, source: Source | None, name: str, wanted: Wanted
) -> pb.PreviewTemplateResponse:
    async with services:
        if source is None:
            sample = (await _fetch(services, name)).sample if wanted.needs_sample else b""
            request = pb.PreviewTemplateRequest(name=name)
        else:
            draft = source.document.message
            assert isinstance(draft, pb.Template)
            sample = draft.sample
            request = pb.PreviewTemplateRequest(template=draft)
        request.context = await make_context(services, wanted, sample)
        try:
            return await services.activation.PreviewTemplate(request)
        except grpc.aio.AioRpcError as error:
            if source is None or not (found := error_from_rpc(error).violations):
                raise
            raise CommandError(
                "this template makes no message.",
                [source.finding(each.field, each.description) for each in found],
            ) from error


def _parts(template: pb.Template) -> str:
    """Of what a message of it consists."""
    html = "MJML" if template.mjml else "HTML" if template.html else ""
    return ", ".join(filter(None, ("text", html, "sample" if template.sample else "")))
