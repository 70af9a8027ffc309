"""Owns reading profiles in bulk: CSV, JSON Lines and Parquet as rows that only have to be sent. A wrong row is a finding with its line; it
harms no other, and no line is ever held whole that is longer than a row may be."""

import csv
import re
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

import msgspec

MAX_ROW_BYTES: Final = 256 * 1024
"""The longest row of a file; a profile has at most 32 KiB."""

FORMATS: Final = ("csv", "jsonl", "parquet")

_SUFFIXES: Final = {
    ".csv": "csv",
    ".tsv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".parquet": "parquet",
}
_MOST_LINES: Final = 1_000
_NUMBER: Final = re.compile(r"-?\d{1,300}(\.\d{1,300})?([eE][+-]?\d{1,3})?", re.ASCII)
_TRUTHS: Final = {"true": True, "false": False, "yes": True, "no": False, "1": True, "0": False}
_BOMS: Final = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class UnreadableError(Exception):
    """The file as a whole can't be read as what it is said to be; the text says what would be right."""


class Row(NamedTuple):
    """One row: its line, and a profile with its attributes as a JSON text, or in `problem` why there is none."""

    line: int
    profile_id: str = ""
    attributes: str = ""
    time_zone: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of a table are: which holds the id, which the time zone, and which cells of a CSV are no texts."""

    profile_id: str = "profile_id"
    time_zone: str = "time_zone"
    numbers: Collection[str] = field(default_factory=frozenset)
    booleans: Collection[str] = field(default_factory=frozenset)
    documents: Collection[str] = field(default_factory=frozenset)
    delimiter: str = ","
    encoding: str = "utf-8"


def format_of(path: str) -> str:
    """The format that a file's name tells; "" when it tells none."""
    return _SUFFIXES.get(Path(path).suffix.lower(), "")


def read_rows(source: IO[bytes], format: str, columns: Columns) -> Iterator[Row]:
    """The rows of a file, wrong ones too, in order. UnreadableError before the first when it can't be read at all."""
    if format == "parquet":
        return _read_parquet(source, columns)
    return _read_csv(source, columns) if format == "csv" else _read_jsonl(source)


def count_rows(source: IO[bytes], format: str) -> int | None:
    """About how many rows a file has; None for a pipe, which can be read only once."""
    if not source.seekable():
        return None
    start = source.tell()
    try:
        if format == "parquet":
            return int(_parquet(source).metadata.num_rows)
        lines = sum(block.count(b"\n") for block in iter(lambda: source.read(1 << 20), b""))
        return max(lines - (format == "csv"), 0)
    finally:
        source.seek(start)


def _lines(source: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers; None for one that is too long, of which no more than a piece is ever held."""
    number = 0
    while line := source.readline(MAX_ROW_BYTES + 1):
        number += 1
        if len(line) > MAX_ROW_BYTES and not line.endswith(b"\n"):
            while (more := source.readline(1 << 20)) and not more.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line


_TOO_LONG: Final = f"is longer than {MAX_ROW_BYTES:,} bytes"


# JSON Lines


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    """A profile with the field names of the contract; attributes are looked at by the service."""

    profile_id: str
    attributes: msgspec.Raw = msgspec.Raw(b"{}")
    time_zone: str = ""


def _read_jsonl(source: IO[bytes]) -> Iterator[Row]:
    decode = msgspec.json.Decoder(_Line).decode
    for number, line in _lines(source):
        if line is None:
            yield Row(number, problem=_TOO_LONG)
            continue
        if not line.strip():
            continue
        try:
            found = decode(line)
            yield Row(number, found.profile_id, bytes(found.attributes).decode(), found.time_zone)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            yield Row(number, problem=f"is no profile: {error}"[:300])


# CSV


class _Feed:
    """Hands one record at a time to a csv.reader: of one that does not end it is told so."""

    def __init__(self) -> None:
        self.record: str | None = None

    def __iter__(self) -> "_Feed":
        return self

    def __next__(self) -> str:
        record, self.record = self.record, None
        if record is None:
            raise StopIteration
        return record


def _read_csv(source: IO[bytes], columns: Columns) -> Iterator[Row]:
    if len(columns.delimiter) != 1:
        raise UnreadableError("The delimiter is one character.")
    feed = _Feed()
    csv.field_size_limit(2 * MAX_ROW_BYTES)
    reader = csv.reader(feed, delimiter=columns.delimiter, strict=True)
    records = _records(source, columns.encoding)
    first = next(records, None)
    if first is None:
        raise UnreadableError("The file is empty; its first line names the columns.")
    _, record, problem = first
    if problem:
        raise UnreadableError(f"The first line, which names the columns, {problem}.")
    feed.record = record.removeprefix("\ufeff")
    try:
        header = next(reader)
    except (csv.Error, StopIteration) as error:
        raise UnreadableError(f"The first line, which names the columns, can't be read: {error}.") from None
    return _rows(records, feed, reader, _Header(header, columns))


def _rows(
    records: "Iterator[tuple[int, str, str]]", feed: _Feed, reader: Any, header: "_Header"
) -> Iterator[Row]:
    read = header.read
    for number, record, problem in records:
        if problem:
            yield Row(number, problem=problem)
            continue
        feed.record = record
        try:
            cells = next(reader)
        except (csv.Error, StopIteration) as error:
            yield Row(number, problem=f"can't be read as CSV: {error}")
            continue
        if cells:
            yield read(number, cells)


def _records(source: IO[bytes], encoding: str) -> Iterator[tuple[int, str, str]]:
    """Records with the number of their first line, or the problem of one: a quoted cell may go over several lines. A quote that is never
    closed harms its own line alone."""
    lines = _lines(source)
    again: deque[tuple[int, bytes | None]] = deque()
    while (taken := again.popleft() if again else next(lines, None)) is not None:
        number, line = taken
        if line is None:
            yield number, "", _TOO_LONG
            continue
        if number == 1 and (name := _BOMS.get(line[:2])) and encoding.lower() in ("utf-8", "utf8"):
            raise UnreadableError(
                f"The file is {name}, it seems; say --encoding {name.lower()}, or convert it."
            )
        text, problem = _decode(line, encoding)
        if problem or text.count('"') % 2 == 0:
            yield number, text, problem
            continue
        gathered: list[tuple[int, bytes | None]] = []
        whole = _gather(text, lines, again, gathered, encoding)
        if whole is None:
            again.extendleft(reversed(gathered))
            yield number, "", "has a quote that is never closed"
        else:
            yield number, whole, ""


def _gather(
    text: str,
    lines: Iterator[tuple[int, bytes | None]],
    again: deque[tuple[int, bytes | None]],
    gathered: list[tuple[int, bytes | None]],
    encoding: str,
) -> str | None:
    """The record that begins with a line, up to where its quotes are closed; None when they are not soon enough."""
    size = len(text)
    while size <= MAX_ROW_BYTES and len(gathered) < _MOST_LINES:
        taken = again.popleft() if again else next(lines, None)
        if taken is None:
            return None
        gathered.append(taken)
        more, problem = ("", "too long") if taken[1] is None else _decode(taken[1], encoding)
        if problem:
            return None
        text += more
        size += len(more)
        if more.count('"') % 2:
            return text
    return None


def _decode(line: bytes, encoding: str) -> tuple[str, str]:
    try:
        return line.decode(encoding), ""
    except UnicodeDecodeError as error:
        return "", f"is not {encoding.upper()}: byte {error.start + 1} is {line[error.start]:#04x}"


class _Header:
    """The columns of a CSV, and how a row of cells becomes a profile."""

    def __init__(self, names: list[str], columns: Columns) -> None:
        doubled = sorted({name for name in names if names.count(name) > 1})
        if doubled:
            raise UnreadableError(f"Columns are there twice: {', '.join(doubled)}.")
        if columns.profile_id not in names:
            raise UnreadableError(
                f"There is no column {columns.profile_id!r}; there are {', '.join(names[:20])}. Say which holds the id with --id-column."
            )
        declared = {*columns.numbers, *columns.booleans, *columns.documents}
        if unknown := sorted(declared - set(names)):
            raise UnreadableError(f"There is no column {unknown[0]!r}; there are {', '.join(names[:20])}.")
        self._width = len(names)
        self._id = names.index(columns.profile_id)
        self._zone = names.index(columns.time_zone) if columns.time_zone in names else -1
        self._attributes = [
            (place, name, _converter(name, columns))
            for place, name in enumerate(names)
            if place not in (self._id, self._zone)
        ]
        self._encode = msgspec.json.Encoder().encode

    def read(self, number: int, cells: list[str]) -> Row:
        """A row; an empty cell says nothing of its attribute."""
        if len(cells) != self._width:
            return Row(number, problem=f"has {len(cells)} cells; there are {self._width} columns")
        attributes: dict[str, Any] = {}
        try:
            for place, name, convert in self._attributes:
                cell = cells[place]
                if cell:
                    attributes[name] = cell if convert is None else convert(cell)
        except ValueError as error:
            return Row(number, problem=f"column {name}: {error}")
        zone = cells[self._zone] if self._zone >= 0 else ""
        return Row(number, cells[self._id], self._encode(attributes).decode(), zone)


def _converter(name: str, columns: Columns) -> Callable[[str], Any] | None:
    if name in columns.numbers:
        return _to_number
    if name in columns.booleans:
        return _to_boolean
    return _to_document if name in columns.documents else None


def _to_number(cell: str) -> float:
    if not _NUMBER.fullmatch(cell):
        raise ValueError(f"{cell[:40]!r} is no number")
    value = float(cell)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"{cell[:40]!r} is too large")
    return value


def _to_boolean(cell: str) -> bool:
    value = _TRUTHS.get(cell.lower())
    if value is None:
        raise ValueError(f"{cell[:40]!r} is neither true nor false")
    return value


def _to_document(cell: str) -> Any:
    try:
        return msgspec.json.decode(cell)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ValueError(f"is no JSON: {error}") from None


# Parquet


def _parquet(source: IO[bytes]) -> Any:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UnreadableError("Parquet needs the package pyarrow; install it beside cairn.") from None
    if not source.seekable():
        raise UnreadableError("Parquet can't be read from a pipe; give a file.")
    try:
        return ParquetFile(source)
    except (ArrowException, OSError) as error:
        raise UnreadableError(f"The file is no Parquet: {str(error)[:200]}") from None


def _read_parquet(source: IO[bytes], columns: Columns) -> Iterator[Row]:
    file = _parquet(source)
    names = file.schema_arrow.names
    if columns.profile_id not in names:
        raise UnreadableError(
            f"There is no column {columns.profile_id!r}; there are {', '.join(names[:20])}. Say which holds the id with --id-column."
        )
    return _parquet_rows(file, columns)


def _parquet_rows(file: Any, columns: Columns) -> Iterator[Row]:
    number = 0
    for batch in file.iter_batches(2_000):
        for cells in batch.to_pylist():
            number += 1
            yield _read_cells(number, cells, columns)


def _read_cells(number: int, cells: Mapping[str, Any], columns: Columns) -> Row:
    attributes = {name: value for name, value in cells.items() if value is not None}
    profile_id, zone = attributes.pop(columns.profile_id, ""), attributes.pop(columns.time_zone, "")
    try:
        return Row(number, str(profile_id), msgspec.json.encode(attributes).decode(), str(zone))
    except (TypeError, ValueError, RecursionError) as error:
        return Row(number, problem=f"can't be sent: {error}"[:300])
