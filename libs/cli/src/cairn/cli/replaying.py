"""Owns the replay of a file of events: those of one profile are sent together, in order of time, wherever they stand in the file.

For that the file is spread over parts by profile, and each part sorted by itself: memory is bounded, however long the file is. The same file
gives the same order again, so that a replay goes on where it was.
"""

import os
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Final

import msgspec

from cairn.api.evaluator.v1.evaluator_pb2 import Event, ReplayMode
from cairn.cli.connect import Services
from cairn.cli.event_stream import SHOWN_REFUSALS, Numbered, Outcome, Refused, send_events
from cairn.cli.jsonl import BATCH_SIZE, EventLine, Line, count_lines
from cairn.cli.output import progress
from cairn.cli.resuming import Position, ProgressFile, Rejects
from cairn.runtime.clock import from_timestamp

MAX_LINE_BYTES: Final = 256 * 1024
"""The longest line of a file; an event has at most 32 KiB."""

MAX_BATCH_EVENTS: Final = 5_000
MAX_BATCH_BYTES: Final = 4 << 20
"""A batch ends with a profile, unless that one has more than this."""

CHUNK_BATCHES: Final = 64
"""After how many batches a replay writes down how far it is."""

_HEAD: Final = struct.Struct("<QqII")
"""What stands before each event of a part: its line, its time, how many bytes its profile's id and itself have."""

_PART_BYTES: Final = 8 << 20
_MOST_PARTS: Final = 256
_PARTS_OF_A_PIPE: Final = 64
_IN_MEMORY_BYTES: Final = 32 << 20
_TOLD_LINES: Final = 1_000

Unreadable = Callable[[int, str], None]
"""Told of each line that is no event: its number, and why."""


class SortedEvents:
    """The events of a file in the order in which they are sent. Use within `with`, which removes the parts."""

    def __init__(self, source: IO[bytes]) -> None:
        self.count = 0
        """How many events there are, once all are read."""
        self._source = source
        size = _size_of(source)
        self._count = _PARTS_OF_A_PIPE if size is None else min(size // _PART_BYTES + 1, _MOST_PARTS)
        self._stack = ExitStack()
        self._parts: list[IO[bytes]] = []

    def __enter__(self) -> "SortedEvents":
        for _ in range(self._count):
            part = tempfile.SpooledTemporaryFile(_IN_MEMORY_BYTES // self._count)
            self._parts.append(self._stack.enter_context(part))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def read(
        self, on_unreadable: Unreadable, on_progress: Callable[[int], None] = lambda lines: None
    ) -> None:
        """Reads the whole source, once. Empty lines are passed over. `on_progress` is told of every so many lines."""
        decode, parts = msgspec.json.Decoder(EventLine).decode, self._parts
        for number, text in bounded_lines(self._source):
            if number % _TOLD_LINES == 0:
                on_progress(_TOLD_LINES)
            if text is None:
                on_unreadable(number, f"is longer than {MAX_LINE_BYTES:,} bytes")
                continue
            text = text.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else text.strip()
            if not text:
                continue
            try:
                event = decode(text).to_message()
            except RecursionError:
                on_unreadable(number, "is nested too deeply")
                continue
            except (msgspec.MsgspecError, ValueError) as error:
                on_unreadable(number, f"is no event: {error}"[:300])
                continue
            profile, content = event.profile_id.encode(), event.SerializeToString()
            part = parts[zlib.crc32(profile) % len(parts)]
            part.write(_HEAD.pack(number, from_timestamp(event.occur_time), len(profile), len(content)))
            part.write(profile + content)
            self.count += 1

    def events(self) -> Iterator[Line[Event]]:
        """All events, profile after profile, those of each in order of time; of one time, in the order of the file."""
        for part in self._parts:
            part.seek(0)
            found: list[tuple[bytes, int, int, bytes]] = []
            while head := part.read(_HEAD.size):
                number, time_us, of_profile, size = _HEAD.unpack(head)
                found.append((part.read(of_profile), time_us, number, part.read(size)))
            # No two have one number: what stands behind it is never compared.
            found.sort()
            for _, _, number, content in found:
                yield Line(number, Event.FromString(content))


def by_profile(items: Iterator[Numbered]) -> Iterator[list[Numbered]]:
    """The items in lists that end with a profile: all of its events are judged together, before anything that they make due acts."""
    batch: list[Numbered] = []
    size = 0
    for number, event in items:
        bytes_more = event.ByteSize()
        ends = bool(batch) and batch[-1][1].profile_id != event.profile_id and len(batch) >= BATCH_SIZE
        if ends or len(batch) >= MAX_BATCH_EVENTS or size + bytes_more > MAX_BATCH_BYTES:
            if batch:
                yield batch
            batch, size = [], 0
        batch.append((number, event))
        size += bytes_more
    if batch:
        yield batch


def bounded_lines(source: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Lines with their numbers from 1; None for one that is too long, of which no more than a piece is ever held."""
    number = 0
    while line := source.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (more := source.readline(1 << 20)) and not more.endswith(b"\n"):
                pass
            yield number, None
        else:
            yield number, line


def _size_of(source: IO[bytes]) -> int | None:
    """How many bytes a file has; None for a pipe."""
    if not source.seekable():
        return None
    start = source.tell()
    size = source.seek(0, os.SEEK_END)
    source.seek(start)
    return size - start


class Replayed:
    """How far a replay is, and what becomes of events that are not taken. `path` is the source's, None for one that can be read only once; it
    and `enroll` tell what may go on. `on_refusal` is told of refusals unless there is a file for them."""

    def __init__(
        self, path: str | None, enroll: str, rejects: Path | None, on_refusal: Callable[[Refused], None]
    ) -> None:
        self._keeper = ProgressFile(path, f"replay {enroll}") if path else None
        position = self._keeper.load() if self._keeper else Position()
        self.position = position
        self.outcome = Outcome(accepted=position.taken, refused=position.refused)
        self._is_new = position == Position()
        self._rejects = Rejects(rejects, position.rejects) if rejects else None
        self._on_refusal = on_refusal
        self._unwritten: list[tuple[int, str]] = []

    def unreadable(self, line: int, why: str) -> None:
        """A line is no event. The run that wrote down a position has told of it."""
        if self._is_new:
            refusal = Refused(line, "INVALID_ARGUMENT", why)
            self.outcome.refuse(refusal)
            self.refused(refusal)

    def refused(self, refusal: Refused) -> None:
        """One event was not taken."""
        if self._rejects is None:
            self._on_refusal(refusal)
            return
        self._unwritten.append((refusal.line, f"{refusal.reason}: {refusal.message}"))
        if len(self._unwritten) >= BATCH_SIZE:
            self._write()

    def add(self, count: int, sent: Outcome) -> None:
        """So many events more are answered."""
        outcome, position = self.outcome, self.position
        outcome.accepted += sent.accepted
        outcome.duplicates += sent.duplicates
        outcome.refused += sent.refused
        outcome.refusals += sent.refusals[: SHOWN_REFUSALS - len(outcome.refusals)]
        position.done += count
        self.save()

    def save(self) -> None:
        """Writes down how far it is."""
        self._write()
        self.position.taken, self.position.refused = self.outcome.accepted, self.outcome.refused
        if self._keeper is not None:
            self._keeper.save(self.position)

    def finish(self) -> None:
        """It is done: the same command would begin anew."""
        if self._keeper is not None:
            self._keeper.forget()

    def _write(self) -> None:
        if self._rejects is not None:
            self.position.rejects = self._rejects.write(self._unwritten)
            self._unwritten.clear()


async def replay_file(
    services: Services, source: IO[bytes], mode: ReplayMode.ValueType, replayed: Replayed
) -> None:
    """Sends all events of a source, from where an earlier run broke off. CommandError when the stream breaks."""
    with progress(unit="events") as bar, SortedEvents(source) as found:
        reading = bar.add_task("Sorting", total=count_lines(source))
        found.read(replayed.unreadable, lambda lines: bar.advance(reading, lines))
        replayed.save()
        done = replayed.position.done
        task = bar.add_task("Sending", total=found.count, completed=done)
        left = islice(found.events(), done, None)
        waiting = by_profile((line.number, line.message) for line in left if line.message is not None)
        async with services:
            while chunk := [Line(*each) for batch in islice(waiting, CHUNK_BATCHES) for each in batch]:
                sent = await send_events(
                    services,
                    chunk,
                    replay=mode,
                    split=by_profile,
                    on_progress=lambda count: bar.advance(task, count),
                    on_refusal=replayed.refused,
                )
                replayed.add(len(chunk), sent)
    replayed.finish()
