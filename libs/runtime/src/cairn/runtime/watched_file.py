"""Owns small files that are read again when they change: tokens. Refuses to replace good content by bad."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import structlog

from cairn.runtime.errors import StartupError

_log = structlog.get_logger()
_T = TypeVar("_T")


class WatchedFile(Generic[_T]):
    """What `parse` makes of a file's text, at most a second older than the file.

    The first reading happens here and raises StartupError when the file can't be read or `parse` raises
    ValueError; `setting` is the variable to name then. A later bad content is logged once, and the last good
    one stays.
    """

    def __init__(self, path: Path, parse: Callable[[str], _T], *, setting: str) -> None:
        self._path = path
        self._parse = parse
        self._checked_at = time.monotonic()
        try:
            self._stamp = self._stat()
            self._content = self._parse(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise StartupError(f"{setting}: {path} can't be read: {error.strerror}") from None
        except ValueError as error:
            raise StartupError(f"{setting}: {path}: {error}") from None

    def get(self) -> _T:
        """The content; touches the disk at most once a second."""
        now = time.monotonic()
        if now - self._checked_at >= 1.0:
            self._checked_at = now
            self._refresh()
        return self._content

    def _refresh(self) -> None:
        try:
            stamp = self._stat()
            if stamp == self._stamp:
                return
            self._stamp = stamp
            self._content = self._parse(self._path.read_text(encoding="utf-8"))
            _log.info("file_read_again", file=str(self._path))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else str(error)
            _log.error("file_not_readable", file=str(self._path), why=why, kept="the last good content")

    def _stat(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_mtime_ns, status.st_size, status.st_ino
