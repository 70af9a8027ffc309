"""Owns `cairn segments`: listing, showing, saving and deleting segments."""

import asyncio

import click

from cairn.api.definition.v1 import definition_pb2 as definition
from cairn.api.definition.v1.journey_pb2 import Segment
from cairn.cli.connect import Services, all_items
from cairn.cli.documents import write_document
from cairn.cli.listing import ListsByDefault
from cairn.cli.options import json_option, limit_option, service_options
from cairn.cli.output import print_json, print_message, print_note, print_table, short_name, show_time


@click.group(cls=ListsByDefault)
def segments() -> None:
    """List, show, save and delete segments; without a command: list them."""


@segments.command(
    "list",
    epilog="""\b
Examples:
  cairn segments list
  cairn segments list --json | jq -r .name
""",
)
@limit_option
@json_option
@service_options("definition")
def list_segments(services: Services, limit: int, as_json: bool) -> None:
    """Segments by name."""

    async def fetch() -> list[Segment]:
        async with services:
            request = definition.ListSegmentsRequest()
            call = services.definition.ListSegments
            return [each async for each in all_items(call, request, lambda page: page.segments, limit)]

    found = asyncio.run(fetch())
    if as_json:
        for each in found:
            print_message(each)
        return
    print_table(
        ("segment", "criteria", "description", "changed"),
        [
            (short_name(each.name), each.criteria, each.description, show_time(each.update_time))
            for each in found
        ],
    )


@segments.command(
    epilog="""\b
Examples:
  cairn segments get vip
  cairn segments get vip > vip.yaml
"""
)
@click.argument("name")
@json_option
@service_options("definition")
def get(services: Services, name: str, as_json: bool) -> None:
    """One segment as YAML that `cairn apply` takes, or as JSON with all that the service knows of it."""

    async def fetch() -> Segment:
        async with services:
            request = definition.GetSegmentRequest(name=_resource(name))
            return (await services.definition.GetSegment(request)).segment

    found = asyncio.run(fetch())
    if as_json:
        print_message(found)
    else:
        click.echo(write_document("segment", found), nl=False)


@segments.command(
    epilog="""\b
Examples:
  cairn segments put vip 'profile.spent > 1000.0'
  cairn segments put vip-abroad 'in_segment("vip") && profile.country != "JP"' --description 'Big spenders abroad'

Files with `segment: {name: ..., criteria: ...}` are saved by `cairn apply`.
"""
)
@click.argument("name")
@click.argument("criteria")
@click.option("--description", default="", help="In words, for people.")
@json_option
@service_options("definition")
def put(services: Services, name: str, criteria: str, description: str, as_json: bool) -> None:
    """Create a segment, or replace it. Published journeys keep what they were published with."""
    segment = Segment(name=_resource(name), criteria=criteria, description=description)

    async def save() -> Segment:
        async with services:
            request = definition.PutSegmentRequest(segment=segment)
            return (await services.definition.PutSegment(request)).segment

    saved = asyncio.run(save())
    if as_json:
        print_message(saved)
    else:
        print_note(f"Saved {short_name(saved.name)}; journeys use it once they are published again.")


@segments.command(
    epilog="""\b
Examples:
  cairn segments delete vip
"""
)
@click.argument("name")
@json_option
@service_options("definition")
def delete(services: Services, name: str, as_json: bool) -> None:
    """Delete a segment that no other names. Published journeys keep what they were published with."""

    async def remove() -> None:
        async with services:
            await services.definition.DeleteSegment(definition.DeleteSegmentRequest(name=_resource(name)))

    asyncio.run(remove())
    if as_json:
        print_json({"segment": short_name(name), "result": "deleted"})
    else:
        print_note(f"Deleted {short_name(name)}.")


def _resource(name: str) -> str:
    return f"segments/{name.removeprefix('segments/')}"
