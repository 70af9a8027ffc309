"""Owns `cairn simulate`: what journeys do with a file of events, without a server.

Refuses to run anything while a journey or a line is wrong, and to import what only services need.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import IO, Annotated, Any

import click
import msgspec

from cairn.api.definition.v1.journey_pb2 import Journey as JourneyMessage
from cairn.api.definition.v1.journey_pb2 import Segment
from cairn.cli.documents import STDIN, read_sources
from cairn.cli.failures import CommandError
from cairn.cli.jsonl import MAX_DEPTH, parse_time, to_struct
from cairn.cli.options import json_option
from cairn.cli.output import print_note, print_table, state_text
from cairn.journey.calendar import is_time_zone
from cairn.journey.live import LiveJourneys
from cairn.journey.model import Journey
from cairn.journey.parse import parse_journey
from cairn.journey.simulation import (
    MOST_RUNS,
    SimulatedEvent,
    SimulatedInput,
    SimulatedProfile,
    Simulation,
    as_doubles,
    live_of,
    more_of,
    time_problem,
)
from cairn.journey.simulation import (
    simulate as run_simulation,
)
from cairn.journey.state import Kind, Transition
from cairn.journey.times import format_time, to_datetime
from cairn.runtime.clock import from_timestamp

MAX_ID_BYTES = 256
_MOST_FINDINGS = 100
_BLOCK = 1_000  # lines written at once
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


Moment = Annotated[datetime, msgspec.Meta(tz=True)]


class EventLine(msgspec.Struct, forbid_unknown_fields=True):
    """An event, with the field names of the contract."""

    event_id: str
    profile_id: str
    name: str
    occur_time: Moment
    properties: dict[str, Any] = {}


class ProfileLine(msgspec.Struct, forbid_unknown_fields=True):
    """A change of a profile at a time; `attributes` are merged into those it has, null removes one."""

    profile_id: str
    time: Moment
    attributes: dict[str, Any] = {}
    time_zone: str = ""


_EVENT_DECODER = msgspec.json.Decoder(EventLine)


@click.command(
    epilog="""\b
EVENTS.jsonl has one JSON object a line, an event or a change of a profile, in any order:
  {"event_id": "e1", "profile_id": "ada", "name": "cart_add", "occur_time": "2026-01-01T09:00:00Z", "properties": {"total": 9}}
  {"profile_id": "ada", "time": "2026-01-01T08:00:00Z", "attributes": {"city": "Kyoto"}, "time_zone": "Asia/Tokyo"}
\b
Examples:
  cairn simulate cart.yaml events.jsonl
  cairn simulate journeys/ events.jsonl --until 2026-04-01T00:00:00Z --json
  cairn simulate win-back.yaml people.jsonl --run-at 2026-01-05T06:00:00Z --run-at 2026-01-06T06:00:00Z
  cairn events export | cairn simulate cart.yaml - --json
"""
)
@click.argument("journeys", metavar="JOURNEY.yaml")
@click.argument("events", metavar="EVENTS.jsonl", type=click.File("rb"))
@click.option("--until", metavar="TIME", default="", help="Stop the clock after this instant (RFC 3339).")
@click.option(
    "--run-at",
    "run_at",
    metavar="TIME",
    multiple=True,
    help="Run batch journeys at this instant (RFC 3339), and not by their schedules; may be repeated.",
)
@click.option(
    "--limit",
    type=click.IntRange(0),
    default=1_000,
    show_default=True,
    help="In the table for people, at most this many lines; 0 for all.",
)
@json_option
def simulate(
    journeys: str, events: IO[bytes], until: str, run_at: tuple[str, ...], limit: int, as_json: bool
) -> None:
    """Tell what journeys do with events, by the very machine that the services run, under a virtual clock.

    JOURNEY.yaml may hold several journeys, which run together, each as version 1, and segments; other documents are left
    aside. An event counts once for each profile and event_id. Messages go nowhere and count as sent at once. Without
    --until the clock runs until nothing is left to happen.

    A batch journey runs over all profiles of the file, by its schedule from the first line up to --until, or to the last line; or at the times of --run-at.
    """
    if journeys == STDIN and _name(events) == "<stdin>":
        raise click.UsageError("Only one of JOURNEY.yaml and EVENTS.jsonl can be stdin.")
    live, missing = read_live(journeys)
    until_us = read_moment(until, "--until")
    run_at_us = [each for text in run_at if (each := read_moment(text, "--run-at")) is not None]
    run = run_simulation(live, read_inputs(events), until_us, run_at_us)
    if as_json:
        print_lines(run)
    else:
        print_people(run, live, limit)
    for note in notes(run, missing):
        print_note(note)


def read_live(path: str) -> tuple[LiveJourneys, list[str]]:
    """The journeys of a file, live, and the segments that they name and that are not in it. Raises CommandError with all that is wrong."""
    try:
        sources = read_sources([path])
    except CommandError as error:
        told = error.message.replace("nothing was sent", "nothing was run")
        raise CommandError(told, error.details) from None
    journeys: list[Journey] = []
    segments: dict[str, str] = {}
    for source in sources:
        message = source.document.message
        if isinstance(message, Segment):
            segments[source.name] = message.criteria
        elif isinstance(message, JourneyMessage) and (journey := parse_journey(message)[0]) is not None:
            journeys.append(journey)
    if not journeys:
        raise CommandError(f"{path}: holds no journey.")
    live = live_of(journeys, segments)
    plans = [plan for journey in live for plan in journey.plans.values()]
    named = {name for plan in plans for criteria in plan.criteria() for name in criteria.segments}
    return live, sorted(named - set(segments))


def read_moment(text: str, option: str) -> int | None:
    """The time that an option gives in microseconds, None for none. Raises click.BadParameter."""
    if not text:
        return None
    try:
        return from_timestamp(parse_time(text))
    except ValueError as error:
        raise click.BadParameter(f"{error}.", param_hint=option) from None


def read_inputs(source: IO[bytes]) -> list[SimulatedInput]:
    """The inputs of a JSON Lines file. Raises CommandError with every line that is wrong."""
    inputs: list[SimulatedInput] = []
    findings = []
    name = _name(source)
    for number, text in enumerate(source, start=1):
        if not text.strip():
            continue
        try:
            inputs.append(_read_line(text))
        except RecursionError:
            findings.append(f"{name}:{number}: is nested too deeply")
        except (msgspec.MsgspecError, ValueError, OverflowError) as error:
            findings.append(f"{name}:{number}: {error}")
    if findings:
        more = len(findings) - _MOST_FINDINGS
        told = [*findings[:_MOST_FINDINGS], *([f"and {more:,} more"] if more > 0 else [])]
        raise CommandError(f"{_count(len(findings))}; nothing was run.", told)
    return inputs


def print_lines(run: Simulation) -> None:
    """Every transition as one JSON object a line."""
    encode = msgspec.json.Encoder().encode
    while block := list(islice(run, _BLOCK)):
        lines = [
            encode(
                {
                    "time": format_time(each.time_us),
                    "profile_id": profile_id,
                    "journey": each.journey_id,
                    "version": each.version,
                    "kind": each.kind.name,
                    "stage": each.stage,
                    "step": each.step,
                    "detail": each.detail,
                }
            ).decode()
            for profile_id, each in block
        ]
        sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def print_people(run: Simulation, live: LiveJourneys, limit: int) -> None:
    """The transitions as a table, and a summary of each journey."""
    counts = {journey.journey_id: Summary(journey.journey_id) for journey in live}
    rows = []
    total = 0
    for profile_id, each in run:
        counts[each.journey_id].count(each)
        total += 1
        if not limit or total <= limit:
            place, more = each.step or each.stage, more_of(each, _show)
            rows.append(
                (_show(each.time_us), profile_id, each.journey_id, place, state_text(each.kind.name), more)
            )
    if not total:
        click.echo("Nothing happens.")
    else:
        print_table(("time", "profile", "journey", "place", "kind", "more"), rows)
    if total > len(rows):
        print_note(
            f"{total - len(rows):,} more lines are not shown; --limit 0 shows all, --json gives them to programs."
        )
    print_table(
        ("journey", "entered", "reached", "goal", "activations"),
        [counts[journey.journey_id].row([stage.name for stage in journey.newest.stages]) for journey in live],
    )


class Summary:
    """What happened in one journey, in numbers of enrollments and of activations by channel."""

    def __init__(self, journey_id: str) -> None:
        self.journey_id = journey_id
        self.kinds: Counter[Kind] = Counter()
        self.stages: Counter[str] = Counter()
        self.channels: Counter[str] = Counter()

    def count(self, transition: Transition) -> None:
        self.kinds[transition.kind] += 1
        if transition.kind is Kind.STAGE_ENTERED:
            self.stages[transition.stage] += 1
        elif transition.kind is Kind.ACTIVATION_REQUESTED:
            self.channels[transition.detail["channel"].removeprefix("connections/")] += 1

    def row(self, stages: Iterable[str]) -> tuple[str, ...]:
        return (
            self.journey_id,
            str(self.kinds[Kind.ENTERED]),
            ", ".join(f"{stage} {self.stages[stage]}" for stage in stages),
            str(self.kinds[Kind.GOAL_ACHIEVED]),
            ", ".join(f"{channel} {count}" for channel, count in sorted(self.channels.items())) or "none",
        )


def notes(run: Simulation, missing: Sequence[str]) -> Iterator[str]:
    """What a person should know of a run beside its lines."""
    if run.repeated:
        yield f"Repeated events that count once: {run.repeated:,}."
    if run.later:
        yield f"Lines of a time after --until, which were not taken: {run.later:,}."
    yield from _notes_of_runs(run)
    if missing:
        yield f"Segments that are not defined here, and that nobody is in: {', '.join(missing)}."
    if run.unserved:
        yield f"Journeys that are not here, and that jumps would have begun: {', '.join(sorted(run.unserved))}."
    if run.failures:
        told = ", ".join(f"{name} {count:,}" for name, count in sorted(run.failures.items()))
        yield f"Criteria that failed on an input, and were false for it: {told}."
    if run.cut:
        yield f"Stopped long after the last input, though more would happen: {_some(run.cut)}. --until says how far to go."


def _notes_of_runs(run: Simulation) -> Iterator[str]:
    """How often batch journeys ran, and why one did not."""
    for journey_id, count in run.runs.items():
        journey = run.live.get(journey_id)
        scheduled = journey is not None and journey.newest.schedule is not None
        if count >= MOST_RUNS:
            yield f"{journey_id} ran {count:,} times, and no more: --run-at says when it runs."
        elif count and not run.run_at_us:
            yield f"{journey_id} ran by its schedule up to {_show(run.run_until_us)}, {_times(count)}; --until goes on, --run-at says when it runs."
        elif not count and scheduled:
            yield f"{journey_id} did not run: its schedule is not due by {_show(run.run_until_us)}; --until goes on, --run-at says when it runs."
        elif not count:
            yield f"{journey_id} did not run: it has no schedule; --run-at TIME says when it runs."


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count:,} times"


def _read_line(text: bytes) -> SimulatedInput:
    """The input that a line is. Raises msgspec.MsgspecError or ValueError with what is wrong with it."""
    try:
        event = _EVENT_DECODER.decode(text)
    except msgspec.ValidationError:
        found = msgspec.json.decode(text)
        if not isinstance(found, dict):
            raise ValueError("is no JSON object") from None
        if not {"time", "attributes", "time_zone"} & found.keys():
            raise
        return _read_profile(msgspec.convert(found, ProfileLine))
    if text.count(b"[") + text.count(b"{") > MAX_DEPTH:
        to_struct(event.properties)  # raises where no service could read it
    plain = len(text) <= MAX_ID_BYTES and b"\\u0000" not in text
    if not (event.event_id and event.profile_id and event.name and plain):
        for name in ("event_id", "profile_id", "name"):
            _check_id(name, getattr(event, name))
        as_doubles(event.properties)  # raises where a number is none on the wire
    time_us = _time("occur_time", event.occur_time)
    return SimulatedEvent(event.event_id, event.profile_id, event.name, time_us, event.properties)


def _read_profile(line: ProfileLine) -> SimulatedProfile:
    _check_id("profile_id", line.profile_id)
    if line.time_zone and not is_time_zone(line.time_zone):
        raise ValueError(
            f"time_zone is {line.time_zone[:80]!r}, which is no IANA time zone; one is Asia/Tokyo"
        )
    time_us = _time("time", line.time)
    return SimulatedProfile(line.profile_id, time_us, as_doubles(line.attributes), line.time_zone)


def _time(field: str, moment: datetime) -> int:
    time_us = (moment - _EPOCH) // _MICROSECOND
    if problem := time_problem(time_us):
        raise ValueError(f"{field} {problem}")
    return time_us


def _check_id(field: str, value: str) -> None:
    if not value:
        raise ValueError(f"{field} is empty")
    if len(value.encode()) > MAX_ID_BYTES or "\0" in value:
        raise ValueError(f"{field} has at most {MAX_ID_BYTES} bytes, and no NUL")


def _name(source: IO[bytes]) -> str:
    name = getattr(source, "name", STDIN)
    return name if isinstance(name, str) and name not in (STDIN, "<stdin>") else "<stdin>"


def _show(time_us: int) -> str:
    return to_datetime(time_us).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def _some(profiles: set[str]) -> str:
    first = ", ".join(sorted(profiles)[:3])
    return f"{first} and {len(profiles) - 3:,} more" if len(profiles) > 3 else first


def _count(findings: int) -> str:
    return "1 thing is wrong" if findings == 1 else f"{findings:,} things are wrong"
