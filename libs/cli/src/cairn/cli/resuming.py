"""Owns how far a long command over a file has come, so that the same command goes on where it was: a small file beside the source.

Refuses to go on with a source that has changed since.
"""

import os
from pathlib import Path

import msgspec

SUFFIX = ".cairn-progress"
"""What the name of the file ends with, behind the source's own."""


class Position(msgspec.Struct):
    """How far a source was read: `done` rows of it, `taken` and `refused`; `rejects` is how long the file of rejects was then, in bytes."""

    done: int = 0
    taken: int = 0
    refused: int = 0
    rejects: int = 0


class _Stored(msgspec.Struct):
    source: tuple[int, int]
    command: str
    position: Position


class ProgressFile:
    """Where a command over a source stands. `command` tells apart what may not go on for one another (merge and replace)."""

    def __init__(self, source: str, command: str) -> None:
        self._path = Path(source + SUFFIX)
        self._command = command
        facts = Path(source).stat()
        self._source = (facts.st_size, facts.st_mtime_ns)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    def load(self) -> Position:
        """Where to go on; at the start when nothing is known, or when the source or the command is another."""
        try:
            stored = msgspec.json.decode(self._path.read_bytes(), type=_Stored)
        except (OSError, msgspec.MsgspecError):
            return Position()
        if stored.source != self._source or stored.command != self._command:
            return Position()
        return stored.position

    def save(self, position: Position) -> None:
        """Keeps a position: whole, or not at all."""
        draft = self._path.with_name(self._path.name + ".new")
        draft.write_bytes(msgspec.json.encode(_Stored(self._source, self._command, position)))
        os.replace(draft, self._path)

    def forget(self) -> None:
        """It is done."""
        self._path.unlink(missing_ok=True)


class Rejects:
    """The file of rows that were not taken, a JSON object a line: `line`, `reason`. It is made with the first; `keep` is how much of an
    earlier one to keep, in bytes."""

    def __init__(self, path: Path, keep: int) -> None:
        self.path = path
        self._keep = keep
        self._begun = False

    def write(self, rejects: list[tuple[int, str]]) -> int:
        """Adds lines; how long the file is then, in bytes."""
        if not self._begun:
            self._begun = True
            if self.path.exists():
                with self.path.open("r+b") as file:
                    file.truncate(self._keep)
        if rejects:
            with self.path.open("ab") as file:
                for line, reason in rejects:
                    file.write(msgspec.json.encode({"line": line, "reason": reason}) + b"\n")
                return file.tell()
        return self.path.stat().st_size if self.path.exists() else 0
