"""Owns `cairn diagram`: journeys of a file as pictures, in Mermaid or SVG, without a server."""

from collections.abc import Sequence
from pathlib import Path

import click

from cairn.api.definition.v1.journey_pb2 import Journey as JourneyMessage
from cairn.cli.documents import STDIN, read_sources
from cairn.cli.failures import CommandError
from cairn.cli.options import json_option
from cairn.cli.output import print_json, print_note
from cairn.journey.diagram import to_mermaid, to_svg
from cairn.journey.model import Journey
from cairn.journey.parse import parse_journey


@click.command(
    epilog="""\b
Examples:
  cairn diagram cart.yaml                         Mermaid, for a document
  cairn diagram cart.yaml --svg cart.svg          a picture
  cairn diagram journeys/ --svg all.svg           all-abandoned-cart.svg, all-welcome.svg, ...
  cairn diagram - --svg - < cart.yaml > cart.svg
"""
)
@click.argument("journeys", metavar="JOURNEY.yaml")
@click.option("--mermaid", metavar="FILE", help="Write Mermaid to this file, `-` for stdout.")
@click.option("--svg", metavar="FILE", help="Write SVG to this file, `-` for stdout.")
@json_option
def diagram(journeys: str, mermaid: str | None, svg: str | None, as_json: bool) -> None:
    """Draw journeys: stages as lanes, steps as boxes, branches that nest and meet again.

    JOURNEY.yaml may be a folder, or `-` for stdin. Of several journeys each gets a file, with its id before the suffix.
    Without --mermaid and --svg Mermaid is written to stdout.
    """
    if mermaid is None and svg is None:
        mermaid = STDIN
    found = read_journeys(journeys)
    for name, file, draw in (("mermaid", mermaid, to_mermaid), ("svg", svg, to_svg)):
        if file is None:
            continue
        for journey in found:
            text = draw(journey)
            if file != STDIN:
                path = file_for(file, journey, found)
                path.write_text(text, encoding="utf-8")
                if as_json:
                    print_json({"journey": journey.journey_id, "format": name, "file": str(path)})
                else:
                    print_note(f"{journey.journey_id} is drawn in {path}.")
            elif as_json:
                print_json({"journey": journey.journey_id, "format": name, "text": text})
            else:
                click.echo(text, nl=False)


def read_journeys(path: str) -> list[Journey]:
    """The journeys of a file, a folder or stdin, in their order. Raises CommandError with all that is wrong."""
    try:
        sources = read_sources([path])
    except CommandError as error:
        told = error.message.replace("nothing was sent", "nothing was drawn")
        raise CommandError(told, error.details) from None
    journeys = []
    for source in sources:
        message = source.document.message
        if isinstance(message, JourneyMessage) and (journey := parse_journey(message)[0]) is not None:
            journeys.append(journey)
    if not journeys:
        raise CommandError(f"{path}: holds no journey.")
    return journeys


def file_for(file: str, journey: Journey, journeys: Sequence[Journey]) -> Path:
    """The file for one of some journeys: the one that was given, or, if there are several, one with the journey's id."""
    path = Path(file)
    return path if len(journeys) == 1 else path.with_name(f"{path.stem}-{journey.journey_id}{path.suffix}")
