"""Owns `cairn events`: sending events over one stream, several batches under way; replaying those of the past."""

import asyncio
from pathlib import Path
from typing import IO

import click

from cairn.api.evaluator.v1.evaluator_pb2 import Event, ReplayMode
from cairn.cli.connect import Services
from cairn.cli.event_stream import Outcome, Refused, send_events
from cairn.cli.failures import CommandError
from cairn.cli.jsonl import Line, count_lines, parse_pairs, read_events, single_event
from cairn.cli.names import value
from cairn.cli.options import json_option, service_options
from cairn.cli.output import plural, print_json, print_note, progress
from cairn.cli.replaying import Replayed, replay_file


@click.group()
def events() -> None:
    """Send events, or replay those of the past."""


@events.command(
    epilog="""\b
Examples:
  cairn events send --profile ada --name newsletter_signup
  cairn events send --profile ben --name cart_add --property 'products=["Boots","Map"]' --property total=81.5
  cairn events send -f events.jsonl
  zcat events.jsonl.gz | cairn events send -f - --json

\b
A line of a file:
  {"event_id": "e1", "profile_id": "ada", "name": "purchase", "occur_time": "2026-11-23T18:00:00Z",
   "properties": {"total": 81.5}}
"""
)
@click.option("-f", "--file", "source", type=click.File("rb"), help="JSON Lines of events; `-` is stdin.")
@click.option("--profile", default="", help="Send one event, of this profile.")
@click.option("--name", default="", help="Its name.")
@click.option(
    "--property",
    "properties",
    multiple=True,
    metavar="KEY=VALUE",
    help="One of its properties; JSON or text.",
)
@click.option("--id", "event_id", default="", help="Its id, for de-duplication. [default: a new one]")
@click.option("--at", default="", metavar="TIME", help="When it happened, RFC 3339. [default: now]")
@click.option(
    "--min-revision",
    type=click.IntRange(0),
    default=0,
    help="Wait until journeys of this revision are served.",
)
@json_option
@service_options("evaluator")
def send(
    services: Services,
    source: IO[bytes] | None,
    profile: str,
    name: str,
    properties: tuple[str, ...],
    event_id: str,
    at: str,
    min_revision: int,
    as_json: bool,
) -> None:
    """Send a file of events, or a single one, and wait until each is acknowledged.

    An acknowledged event is durable. Those refused are listed by line, and the exit code is then 1; the others were
    taken all the same. It is safe to send a file again.
    """
    if (source is None) == (not profile):
        raise click.UsageError("Give either --file, or --profile and --name of a single event.")
    if source is None:
        if not name:
            raise click.UsageError("A single event needs --name.")
        try:
            event = single_event(profile, name, parse_pairs(properties, "--property"), event_id, at)
        except ValueError as error:
            raise click.BadParameter(f"{error}.", param_hint="--at") from None
        outcome = asyncio.run(_send_one(services, event, min_revision))
    else:
        if name or properties or event_id or at:
            raise click.UsageError(
                "--name, --property, --id and --at are for a single event, not for --file."
            )
        outcome = asyncio.run(_send_file(services, source, min_revision, as_json))
    _report(outcome, as_json)


@events.command(
    epilog="""\b
Examples:
  cairn events replay last-year.jsonl --enroll none
  cairn events replay carts.jsonl --enroll silent --rejects rejects.jsonl
  zcat events.jsonl.gz | cairn events replay - --enroll none --json
"""
)
@click.argument("file", type=click.File("rb"))
@click.option(
    "--enroll",
    type=click.Choice(["none", "silent", "send"]),
    required=True,
    help="none: they are remembered as behavior. silent: they begin and move enrollments up to now, and nobody is written to. "
    "send: they do all that they would have done.",
)
@click.option(
    "--rejects",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where events go that are not taken: JSON Lines of `line` and `reason`.",
)
@json_option
@service_options("evaluator")
def replay(services: Services, file: IO[bytes], enroll: str, rejects: Path | None, as_json: bool) -> None:
    """Make up for events of the past, of any age: JSON Lines as `events send` takes them, from FILE or, as `-`, standing input.

    The order of the file does not matter: the events of a profile are sent together, in order of time. An event that was sent in the last seven
    days counts once; sent again later, it counts twice. Broken off, the same command goes on where it was, as a file beside FILE tells; from
    standard input it begins anew. Those refused are listed, and the exit code is then 1; the others were taken all the same.
    """
    mode = value(ReplayMode, enroll)
    name = getattr(file, "name", "")
    path = name if isinstance(name, str) and file.seekable() and name not in ("", "<stdin>") else None
    replayed = Replayed(
        path, enroll, rejects, lambda refusal: print_json(_as_dict(refusal)) if as_json else None
    )
    asyncio.run(replay_file(services, file, mode, replayed))
    _report(replayed.outcome, as_json)


async def _send_one(services: Services, event: Event, min_revision: int) -> Outcome:
    async with services:
        return await send_events(services, [Line(1, event)], min_revision=min_revision)


async def _send_file(services: Services, source: IO[bytes], min_revision: int, as_json: bool) -> Outcome:
    with progress(unit="events") as bar:
        task = bar.add_task("Sending", total=count_lines(source))
        async with services:
            return await send_events(
                services,
                read_events(source),
                min_revision=min_revision,
                on_progress=lambda count: bar.advance(task, count),
                on_refusal=lambda refusal: print_json(_as_dict(refusal)) if as_json else None,
            )


def _as_dict(refusal: Refused) -> dict[str, object]:
    return {"line": refusal.line, "reason": refusal.reason, "message": refusal.message}


def _report(outcome: Outcome, as_json: bool) -> None:
    if as_json:
        print_json(
            {"accepted": outcome.accepted, "duplicates": outcome.duplicates, "refused": outcome.refused}
        )
    else:
        known = f", {outcome.duplicates:,} of them known already" if outcome.duplicates else ""
        print_note(f"{outcome.accepted:,} accepted{known}.")
    if outcome.refused:
        details = [f"line {each.line}: {each.reason}: {each.message}" for each in outcome.refusals]
        if outcome.refused > len(details):
            details.append(f"... and {outcome.refused - len(details):,} more")
        raise CommandError(f"{plural(outcome.refused, 'event')} refused; all others were taken.", details)
