"""Owns `cairn journeys`: showing, checking and comparing journeys and their versions.

Pausing, resuming and ending them is in `lives`.
"""

import asyncio
from typing import TYPE_CHECKING, Any

import click

from cairn.api.definition.v1 import definition_pb2 as definition
from cairn.api.definition.v1.journey_pb2 import Journey, JourneyVersion, PurposeKind
from cairn.cli.connect import Services, all_items
from cairn.cli.documents import Source, read_sources, write_journey
from cairn.cli.failures import CommandError
from cairn.cli.listing import ListsByDefault
from cairn.cli.lives import end, journey_state, pause, resource, resume
from cairn.cli.options import json_option, limit_option, service_options
from cairn.cli.output import (
    clean,
    print_json,
    print_message,
    print_note,
    print_table,
    short_name,
    show_time,
    state_text,
)

if TYPE_CHECKING:
    from rich.text import Text

_KIND_STYLES = {"ADDED": "green", "REMOVED": "red", "CHANGED": "yellow", "MOVED": "cyan"}


@click.group(cls=ListsByDefault)
def journeys() -> None:
    """List, show, check, compare, pause, resume and end journeys; without a command: list them."""


for _life_command in (pause, resume, end):
    journeys.add_command(_life_command)


@journeys.command(
    "list",
    epilog="""\b
Examples:
  cairn journeys list
  cairn journeys list --json | jq -r .name
""",
)
@limit_option
@json_option
@service_options("definition")
def list_journeys(services: Services, limit: int, as_json: bool) -> None:
    """Journeys by name."""

    async def fetch() -> list[Journey]:
        async with services:
            request = definition.ListJourneysRequest()
            call = services.definition.ListJourneys
            return [each async for each in all_items(call, request, lambda page: page.journeys, limit)]

    found = asyncio.run(fetch())
    if as_json:
        for each in found:
            print_message(each)
        return
    print_table(
        ("journey", "state", "version", "purpose", "stages", "changed"),
        [
            (
                short_name(each.name),
                state_text(journey_state(each)),
                str(each.latest_version or ""),
                PurposeKind.Name(each.purpose.kind).removeprefix("PURPOSE_KIND_")
                if each.purpose.kind
                else "",
                " > ".join(stage.name for stage in each.stages),
                show_time(each.update_time),
            )
            for each in found
        ],
    )


@journeys.command(
    epilog="""\b
Examples:
  cairn journeys get abandoned-cart
  cairn journeys get abandoned-cart --version 2 > cart-2.yaml
"""
)
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="A published version instead of the draft.")
@json_option
@service_options("definition")
def get(services: Services, name: str, version: int | None, as_json: bool) -> None:
    """One journey as YAML that `cairn apply` takes, or as JSON with all that the service knows of it."""

    async def fetch() -> Journey | JourneyVersion:
        async with services:
            if version is None:
                request = definition.GetJourneyRequest(name=resource(name))
                return (await services.definition.GetJourney(request)).journey
            of_version = definition.GetJourneyVersionRequest(name=f"{resource(name)}/versions/{version}")
            return (await services.definition.GetJourneyVersion(of_version)).journey_version

    found = asyncio.run(fetch())
    if as_json:
        print_message(found)
        return
    click.echo(write_journey(found.journey if isinstance(found, JourneyVersion) else found), nl=False)


@journeys.command(
    epilog="""\b
Examples:
  cairn journeys versions abandoned-cart
"""
)
@click.argument("name")
@limit_option
@json_option
@service_options("definition")
def versions(services: Services, name: str, limit: int, as_json: bool) -> None:
    """The published versions of a journey, newest first."""

    async def fetch() -> list[JourneyVersion]:
        async with services:
            request = definition.ListJourneyVersionsRequest(parent=resource(name))
            call = services.definition.ListJourneyVersions
            return [
                each async for each in all_items(call, request, lambda page: page.journey_versions, limit)
            ]

    found = asyncio.run(fetch())
    if as_json:
        for each in found:
            print_message(each)
        return
    print_table(
        ("version", "published", "revision", "stages"),
        [
            (
                str(each.version),
                show_time(each.publish_time),
                str(each.revision),
                " > ".join(stage.name for stage in each.journey.stages),
            )
            for each in found
        ],
    )


@journeys.command(
    epilog="""\b
Examples:
  cairn journeys validate -f cart.yaml
  cairn journeys validate -f journeys/ --offline
"""
)
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    metavar="FILE|DIR|-",
    help="YAML files, folders of them, or stdin.",
)
@click.option("--offline", is_flag=True, help="Ask no service: connections and templates are taken to exist.")
@json_option
@service_options("definition")
def validate(services: Services, files: tuple[str, ...], offline: bool, as_json: bool) -> None:
    """Tell all that is wrong with files, with file and line, and save nothing."""
    sources = read_sources(files)
    if not sources:
        raise CommandError("the files hold no document.")
    if not offline and (findings := asyncio.run(_ask(services, sources))):
        raise CommandError("these journeys can't be published.", findings)
    if as_json:
        for source in sources:
            print_json(
                {"kind": source.document.kind, "name": source.name, "file": source.file, "valid": True}
            )
    else:
        print_note(f"Nothing wrong ({', '.join(source.name for source in sources)}).")


class _VersionOrDraft(click.ParamType[int]):
    """The number of a version, or `draft`, which is 0."""

    name = "version"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        if value == "draft":
            return 0
        if not value.isascii() or not value.isdigit() or not 0 < int(value) < 2**31:
            self.fail(f"{value!r} is no version; say a number from 1, or draft.", param, ctx)
        return int(value)


@journeys.command(
    epilog="""\b
Examples:
  cairn journeys diff abandoned-cart
  cairn journeys diff abandoned-cart 2
  cairn journeys diff abandoned-cart 2 3 --json
"""
)
@click.argument("name")
@click.argument("from_version", metavar="[FROM]", type=click.IntRange(1), required=False)
@click.argument("to_version", metavar="[TO]", type=_VersionOrDraft(), default="draft")
@json_option
@service_options("definition")
def diff(services: Services, name: str, from_version: int | None, to_version: int, as_json: bool) -> None:
    """What changed from a version of a journey to another, by default from the newest one to the draft."""

    async def fetch() -> list[definition.JourneyDifference]:
        async with services:
            first = from_version
            if first is None:
                request = definition.GetJourneyRequest(name=resource(name))
                first = (await services.definition.GetJourney(request)).journey.latest_version
                if not first:
                    raise CommandError(
                        f"{short_name(name)} was never published: there is no version to compare with."
                    )
            asked = definition.DiffJourneyVersionsRequest(
                name=resource(name), from_version=first, to_version=to_version
            )
            return list((await services.definition.DiffJourneyVersions(asked)).differences)

    found = asyncio.run(fetch())
    if as_json:
        for each in found:
            print_message(each)
    elif not found:
        print_note("They do not differ.")
    else:
        print_table(
            ("what", "where", "field", "before", "after"),
            [
                (
                    _kind_text(each),
                    each.element,
                    each.field,
                    _styled(each.before, "red"),
                    _styled(each.after, "green"),
                )
                for each in found
            ],
        )


def _kind_text(difference: definition.JourneyDifference) -> "Text":
    kind = definition.DifferenceKind.Name(difference.kind).removeprefix("DIFFERENCE_KIND_")
    return _styled(kind, _KIND_STYLES.get(kind, ""))


def _styled(text: str, style: str) -> "Text":
    from rich.text import Text

    return Text(clean(text), style=style)


async def _ask(services: Services, sources: list[Source]) -> list[str]:
    findings = []
    async with services:
        for source in sources:
            message = source.document.message
            if isinstance(message, Journey):
                request = definition.ValidateJourneyRequest(journey=message)
                answer = await services.definition.ValidateJourney(request)
                findings += [
                    source.finding(each.field.removeprefix("journey."), each.description)
                    for each in answer.violations
                ]
    return findings
