"""Owns how results look: tables and colors for people, JSON for programs, times, states.

Refuses to let data speak to the terminal: what came from outside is shown without control characters, and never
read as markup.
"""

import json
import sys
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message
    from google.protobuf.timestamp_pb2 import Timestamp
    from rich.console import Console
    from rich.progress import Progress
    from rich.text import Text

_WIDE = 1000  # where nobody looks, no column is cut

_GOOD = frozenset({"SENT", "LIVE", "GOAL_ACHIEVED", "COMPLETED", "created", "updated", "published", "ok"})
_BAD = frozenset({"FAILED", "REFUSED", "UNKNOWN", "PARKED", "ENTRY_REFUSED", "wrong"})
_BUSY = frozenset(
    {"WAITING", "PENDING", "LEASED", "SENDING", "WAIT_STARTED", "ACTIVATION_REQUESTED", "PAUSED", "HELD"}
)
_QUIET = frozenset(
    {
        "WITHDRAWN",
        "EXITED",
        "DRAFT",
        "ENDED",
        "JUMPED",
        "RESTARTED",
        "REMOVED",
        "RESTING",
        "RESTED",
        "unchanged",
    }
)


def console(*, stderr: bool = False) -> "Console":
    """The terminal, or a wide plain text file; NO_COLOR is respected."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        width=None if stream.isatty() else _WIDE,
        markup=False,
        emoji=False,
        highlight=False,
    )


def print_json(document: object) -> None:
    """One JSON document on one line of stdout."""
    click.echo(json.dumps(document, ensure_ascii=False, separators=(",", ":")))


def print_message(message: "Message") -> None:
    """A protobuf message as one line of JSON, with the field names of the contract."""
    print_json(to_dict(message))


def to_dict(message: "Message") -> dict[str, Any]:
    """A message as the JSON object that the contract defines, with the field names of the contract."""
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True)


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence["str | Text"]],
    *,
    title: str = "",
    whole: Collection[str] = (),
) -> None:
    """A table on stdout; without rows a line that says so. Columns in `whole`, which people copy, are never broken."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(*(clean(cell) if isinstance(cell, str) else cell for cell in row))
    if not table.row_count:
        click.echo("Nothing found.")
        return
    console().print(table)


def print_note(text: str) -> None:
    """A remark for the person at the terminal, on stderr, so that stdout holds results alone."""
    screen = console(stderr=True)
    screen.print(clean(text), soft_wrap=not screen.is_terminal)


@contextmanager
def status(text: str) -> Iterator[None]:
    """Show on a terminal that something is going on; say nothing elsewhere."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield
        return
    with screen.status(text):
        yield


def progress(*, unit: str) -> "Progress":
    """A progress bar on stderr with count, rate in `unit` a second, time taken and time left; invisible where nobody looks."""
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{speed:,.0f} {unit}/s" if speed else "")

    screen = console(stderr=True)
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=screen,
        disable=not screen.is_terminal,
    )


def state_text(name: str) -> "Text":
    """A state's or kind's name in the color of what it means."""
    from rich.text import Text

    if name in _GOOD:
        return Text(name, style="green")
    if name in _BAD:
        return Text(name, style="bold red")
    if name in _BUSY:
        return Text(name, style="yellow")
    return Text(name, style="dim" if name in _QUIET else "")


def show_time(timestamp: "Timestamp") -> str:
    """A time for people, UTC to the millisecond; empty when it was never set."""
    if not timestamp.seconds and not timestamp.nanos:
        return ""
    from cairn.runtime.clock import from_timestamp, to_datetime

    return to_datetime(from_timestamp(timestamp)).strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + "Z"


def short_name(resource: str) -> str:
    """The last part of a resource name: "journeys/welcome" is "welcome"; a version keeps its journey, "welcome/3"."""
    parts = resource.split("/")
    return f"{parts[-3]}/{parts[-1]}" if len(parts) >= 4 and parts[-2] == "versions" else parts[-1]


def plural(count: int, noun: str) -> str:
    """`1 event was`, `2,000 events were`."""
    return f"1 {noun} was" if count == 1 else f"{count:,} {noun}s were"


def clean(text: str) -> str:
    """Text that can't steer a terminal: what is not printable is replaced."""
    return "".join(
        character if character.isprintable() or character == "\n" else "\N{REPLACEMENT CHARACTER}"
        for character in text
    )
