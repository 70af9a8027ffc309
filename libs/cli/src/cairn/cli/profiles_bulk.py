"""Owns `cairn profiles import` and `export`: profiles in bulk, in calls that are each durable when answered, and resumable between them."""

import asyncio
import contextlib
import csv
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click
import grpc
import msgspec

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1.evaluator_pb2 import (
    ExportProfilesRequest,
    ExportProfilesResponse,
    ImportProfilesRequest,
    ImportProfilesResponse,
    ProfileRows,
    UpsertMode,
)
from cairn.cli.connect import Services
from cairn.cli.failures import CommandError
from cairn.cli.options import json_option, service_options
from cairn.cli.output import plural, print_json, print_note, progress
from cairn.cli.resuming import Position, ProgressFile, Rejects
from cairn.cli.rows import FORMATS, Columns, Row, UnreadableError, count_rows, format_of, read_rows

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

ROWS_A_CALL = 20_000
"""After so many rows the service answers, and what it took need not be sent again."""

_ROWS_A_MESSAGE = 2_000
_PATIENCE_SECONDS = 60.0
_PAUSE_SECONDS = 0.5
_SHOWN = 5
_PASSING = frozenset(
    {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.CANCELLED,
    }
)


def _split(_context: click.Context, _parameter: click.Parameter, values: Sequence[str]) -> frozenset[str]:
    return frozenset(name for value in values for name in value.split(",") if name)


@click.command(
    "import",
    epilog="""\b
Examples:
  cairn profiles import customers.csv --number age,seats --boolean opt_in
  cairn profiles import customers.csv --id-column customer_id --replace
  cairn profiles import customers.parquet
  zcat customers.jsonl.gz | cairn profiles import - --format jsonl

\b
A CSV's first line names the columns. Cells are texts unless --number, --boolean or --json says otherwise; an empty one says nothing of
its attribute. A line of JSON Lines:
  {"profile_id": "ada", "attributes": {"email": "ada@example.com", "age": 36}, "time_zone": "Europe/London"}
""",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option("--format", "format_", type=click.Choice(FORMATS), help="[default: by the file's name]")
@click.option("--id-column", default="profile_id", show_default=True, help="The column with the id.")
@click.option(
    "--time-zone-column", default="time_zone", show_default=True, help="The column with the IANA zone."
)
@click.option("--number", "numbers", multiple=True, callback=_split, help="CSV columns of numbers.")
@click.option("--boolean", "booleans", multiple=True, callback=_split, help="CSV columns of true and false.")
@click.option("--json-column", "documents", multiple=True, callback=_split, help="CSV columns of JSON.")
@click.option("--delimiter", default=",", show_default=True, help="What stands between cells of a CSV.")
@click.option("--encoding", default="utf-8", show_default=True, help="Of a CSV.")
@click.option(
    "--replace", is_flag=True, help="The attributes given are all there are from now on. [default: merge]"
)
@click.option(
    "--rejects", type=click.Path(dir_okay=False), help="Where to note bad rows. [default: FILE.rejects]"
)
@click.option("--restart", is_flag=True, help="From the first row, also where an earlier import broke off.")
@json_option
@service_options("evaluator")
def import_profiles(
    services: Services,
    file: str,
    format_: str | None,
    id_column: str,
    time_zone_column: str,
    numbers: frozenset[str],
    booleans: frozenset[str],
    documents: frozenset[str],
    delimiter: str,
    encoding: str,
    replace: bool,
    rejects: str | None,
    restart: bool,
    as_json: bool,
) -> None:
    """Describe profiles in bulk, from CSV, JSON Lines or Parquet; `-` is standard input.

    Attributes are merged at the top level unless --replace says otherwise. Bad rows are noted in a file with line and reason, and the exit
    code is then 1; all others are taken. The same command again goes on where one broke off; nothing is taken twice to any effect.
    """
    chosen = format_ or format_of(file)
    if not chosen:
        raise click.UsageError("The name does not tell the format: say --format csv, jsonl or parquet.")
    _check_encoding(encoding)
    columns = Columns(id_column, time_zone_column, numbers, booleans, documents, delimiter, encoding)
    piped = file == "-"
    rejects_path = Path(rejects or ("rejects.jsonl" if piped else f"{file}.rejects"))
    place = None
    if not piped:
        place = ProgressFile(file, f"import {chosen} {'replace' if replace else 'merge'}")
        if restart:
            place.forget()
    mode = UpsertMode.UPSERT_MODE_REPLACE if replace else UpsertMode.UPSERT_MODE_MERGE
    with contextlib.ExitStack() as stack:
        source = sys.stdin.buffer if piped else stack.enter_context(Path(file).open("rb"))
        try:
            done = asyncio.run(_Import(services, mode, place, rejects_path).run(source, chosen, columns))
        except UnreadableError as error:
            raise CommandError(str(error)) from None
    if as_json:
        print_json({"accepted": done.taken, "refused": done.refused})
    else:
        print_note(f"{done.taken:,} accepted.")
    if done.refused:
        raise CommandError(
            f"{plural(done.refused, 'row')} refused; all others were taken.", [f"see {rejects_path}"]
        )


def _check_encoding(encoding: str) -> None:
    try:
        "".encode(encoding)
    except LookupError:
        raise click.UsageError(f"{encoding!r} is no encoding; utf-8 and latin-1 are two.") from None


class _Import:
    """One import: what was read, what of it is durable."""

    def __init__(
        self, services: Services, mode: UpsertMode.ValueType, place: ProgressFile | None, rejects: Path
    ) -> None:
        self._services = services
        self._mode = mode
        self._place = place
        self._position = place.load() if place else Position()
        self._rejects = Rejects(rejects, self._position.rejects)

    async def run(self, source: IO[bytes], format: str, columns: Columns) -> Position:
        """Sends all rows; how far that went."""
        total = count_rows(source, format)
        rows = read_rows(source, format, columns)
        position = self._position
        with progress(unit="profiles") as bar:
            task = bar.add_task("Importing", total=total)
            if position.done:
                print_note(f"Going on after row {position.done:,}, where an earlier import broke off.")
                for _ in islice(rows, position.done):
                    pass
                bar.advance(task, position.done)
            async with self._services:
                while chunk := list(islice(rows, ROWS_A_CALL)):
                    await self._send(chunk, bar, task)
        if self._place is not None:
            self._place.forget()
        return position

    async def _send(self, chunk: Sequence[Row], bar: "Progress", task: "TaskID") -> None:
        good = [row for row in chunk if not row.problem]
        answer = await self._call(good) if good else ImportProfilesResponse()
        refused = [(row.line, row.problem) for row in chunk if row.problem]
        refused += [
            (
                good[each.index].line,
                f"{ErrorReason.Name(each.reason).removeprefix('ERROR_REASON_')}: {each.message}",
            )
            for each in answer.refusals
        ]
        position = self._position
        position.done += len(chunk)
        position.taken += answer.accepted
        position.refused += len(chunk) - answer.accepted
        position.rejects = self._rejects.write(sorted(refused))
        if self._place is not None:
            self._place.save(position)
        bar.advance(task, len(chunk))

    async def _call(self, rows: Sequence[Row]) -> ImportProfilesResponse:
        """One call, again while the service is away for a moment: what it took the first time it takes again to no effect."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _PATIENCE_SECONDS
        while True:
            try:
                return await self._services.evaluator.ImportProfiles(_messages(rows, self._mode))
            except grpc.aio.AioRpcError as error:
                if error.code() not in _PASSING:
                    raise
                if loop.time() >= until:
                    raise CommandError(
                        f"no answer for a minute; {self._position.done:,} rows are taken, and the same command goes on from there."
                        if self._place is not None
                        else f"no answer for a minute; the first {self._position.done:,} rows are taken."
                    ) from error
            await asyncio.sleep(_PAUSE_SECONDS)


async def _messages(rows: Sequence[Row], mode: UpsertMode.ValueType) -> AsyncIterator[ImportProfilesRequest]:
    for start in range(0, len(rows), _ROWS_A_MESSAGE):
        part = rows[start : start + _ROWS_A_MESSAGE]
        yield ImportProfilesRequest(
            profiles=ProfileRows(
                profile_ids=[row.profile_id for row in part],
                attributes=[row.attributes for row in part],
                time_zones=[row.time_zone for row in part],
            ),
            mode=mode,
        )


@click.command(
    epilog="""\b
Examples:
  cairn profiles export everybody.jsonl
  cairn profiles export lapsed.csv --criteria 'count("purchase", duration("720h")) == 0' --columns email,country
  cairn profiles export - --format jsonl | gzip > everybody.jsonl.gz
""",
)
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@click.option(
    "--format",
    "format_",
    type=click.Choice(("csv", "jsonl", "parquet")),
    help="[default: by the file's name]",
)
@click.option("--criteria", default="", help="Only who meets this: CEL over `profile` and its behavior.")
@click.option(
    "--columns",
    multiple=True,
    help="CSV and Parquet: the attributes to write. [default: those of the first 2,000]",
)
@json_option
@service_options("evaluator")
def export(
    services: Services,
    file: str,
    format_: str | None,
    criteria: str,
    columns: tuple[str, ...],
    as_json: bool,
) -> None:
    """Write profiles to a file, as CSV, JSON Lines or Parquet; `-` is standard output.

    JSON Lines hold everything; a CSV's cells are texts, lists and objects in them JSON. The same command again goes on where one broke off
    (JSON Lines and CSV).
    """
    chosen = format_ or format_of(file)
    if not chosen:
        raise click.UsageError("The name does not tell the format: say --format csv, jsonl or parquet.")
    if chosen == "parquet" and file == "-":
        raise click.UsageError("Parquet can't be written to a pipe; give a file.")
    names = [name for value in columns for name in value.split(",") if name]
    count = asyncio.run(_Export(services, file, chosen, criteria, names).run())
    if as_json:
        if file != "-":
            print_json({"exported": count})
    else:
        print_note(f"{count:,} exported.")


class _Stored(msgspec.Struct):
    """How far an export came: the token to go on with, how long the file was, how many profiles it held, and its columns."""

    criteria: str
    token: str = ""
    size: int = 0
    count: int = 0
    columns: list[str] = []


class _Export:
    """One export: a growing file, and beside it how far it is."""

    def __init__(self, services: Services, file: str, format: str, criteria: str, columns: list[str]) -> None:
        self._services = services
        self._file = file
        self._format = format
        self._state = _Stored(criteria, columns=columns)
        self._asked = list(columns)
        self._place = None if file == "-" or format == "parquet" else Path(file + ".cairn-progress")

    async def run(self) -> int:
        """How many profiles the file holds in the end."""
        self._load()
        with contextlib.ExitStack() as stack:
            target = self._open(stack)
            with progress(unit="profiles") as bar:
                task = bar.add_task("Exporting", total=None, completed=self._state.count)
                async with self._services:
                    async for page in self._pages():
                        self._write(target, page.profiles)
                        self._state.count += len(page.profiles.profile_ids)
                        self._state.token = page.next_page_token
                        if self._place is not None:
                            target.flush()
                            self._state.size = target.tell()
                            self._place.write_bytes(msgspec.json.encode(self._state))
                        bar.update(task, completed=self._state.count)
        if self._place is not None:
            self._place.unlink(missing_ok=True)
        return self._state.count

    def _load(self) -> None:
        if self._place is None:
            return
        try:
            stored = msgspec.json.decode(self._place.read_bytes(), type=_Stored)
        except (OSError, msgspec.MsgspecError):
            return
        same = stored.criteria == self._state.criteria and self._asked in ([], stored.columns)
        if same and stored.token and Path(self._file).exists():
            print_note(f"Going on after {stored.count:,} profiles, where an earlier export broke off.")
            self._state = stored

    def _open(self, stack: contextlib.ExitStack) -> IO[bytes]:
        if self._file == "-":
            return sys.stdout.buffer
        mode = "r+b" if self._state.token else "w+b"
        target: IO[bytes] = stack.enter_context(open(self._file, mode))  # noqa: SIM115 - the stack closes it
        target.truncate(self._state.size)
        target.seek(0, 2)
        if self._format == "parquet":
            self._parquet = stack.enter_context(contextlib.closing(_ParquetTarget(target)))
        return target

    async def _pages(self) -> AsyncIterator[ExportProfilesResponse]:
        """The pages, from another call when one breaks off."""
        until = None
        loop = asyncio.get_running_loop()
        while True:
            request = ExportProfilesRequest(criteria=self._state.criteria, page_token=self._state.token)
            try:
                async for page in self._services.evaluator.ExportProfiles(request):
                    until = None
                    yield page
                    if not page.next_page_token:
                        return
            except grpc.aio.AioRpcError as error:
                until = until or loop.time() + _PATIENCE_SECONDS
                if error.code() not in _PASSING or loop.time() >= until:
                    raise
            await asyncio.sleep(_PAUSE_SECONDS)

    def _write(self, target: IO[bytes], rows: ProfileRows) -> None:
        if self._format == "jsonl":
            for profile_id, attributes, zone in zip(
                rows.profile_ids, rows.attributes, rows.time_zones, strict=True
            ):
                line: dict[str, Any] = {
                    "profile_id": profile_id,
                    "attributes": msgspec.Raw(attributes.encode()),
                }
                if zone:
                    line["time_zone"] = zone
                target.write(msgspec.json.encode(line) + b"\n")
            return
        tables = list(_tables(rows))
        if not self._state.columns and tables:
            self._state.columns = sorted({name for _, attributes, _ in tables for name in attributes})
        if self._format == "parquet":
            self._parquet.write(tables, self._state.columns)
        else:
            _write_csv(target, tables, self._state.columns, header=not self._state.count)


def _tables(rows: ProfileRows) -> Iterator[tuple[str, dict[str, Any], str]]:
    for profile_id, attributes, zone in zip(rows.profile_ids, rows.attributes, rows.time_zones, strict=True):
        yield profile_id, msgspec.json.decode(attributes), zone


class _Text:
    """What a csv.writer writes to: bytes behind a text's face."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target

    def write(self, text: str) -> int:
        return self._target.write(text.encode())


def _write_csv(
    target: IO[bytes],
    tables: Sequence[tuple[str, dict[str, Any], str]],
    columns: Sequence[str],
    *,
    header: bool,
) -> None:
    writer = csv.writer(_Text(target))
    if header and tables:
        writer.writerow(["profile_id", "time_zone", *columns])
    for profile_id, attributes, zone in tables:
        writer.writerow([profile_id, zone, *(_cell(attributes.get(name)) for name in columns)])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return str(int(value))
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class _ParquetTarget:
    """A Parquet file that grows; the types of its columns are those of the first rows."""

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._writer: Any = None

    def write(self, tables: Sequence[tuple[str, dict[str, Any], str]], columns: Sequence[str]) -> None:
        """Adds rows; CommandError when a value does not fit its column."""
        if not tables:
            return
        try:
            import pyarrow as arrow
            from pyarrow.parquet import ParquetWriter
        except ImportError:
            raise CommandError("Parquet needs the package pyarrow; install it beside cairn.") from None
        data = {
            "profile_id": [each[0] for each in tables],
            "time_zone": [each[2] or None for each in tables],
            **{name: [attributes.get(name) for _, attributes, _ in tables] for name in columns},
        }
        try:
            if self._writer is None:
                table = arrow.table(data)
                self._writer = ParquetWriter(self._target, table.schema)
            else:
                table = arrow.table(data, schema=self._writer.schema)
            self._writer.write_table(table)
        except arrow.ArrowException as error:
            raise CommandError(
                f"an attribute has values of several types, which Parquet does not hold: {str(error)[:200]}; write JSON Lines, "
                "or choose --columns."
            ) from None

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            self._writer.close()
