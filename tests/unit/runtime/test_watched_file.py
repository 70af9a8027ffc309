"""A file that changes is read again; what is wrong then never replaces what was right."""

import os
from pathlib import Path

import pytest

from cairn.runtime import watched_file
from cairn.runtime.errors import StartupError
from cairn.runtime.watched_file import WatchedFile


class Seconds:
    """The monotonic clock, moved by hand: the wait of a second is the system's, not ours."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def seconds(monkeypatch: pytest.MonkeyPatch) -> Seconds:
    clock = Seconds()
    monkeypatch.setattr(watched_file, "time", clock)
    return clock


def replace(file: Path, text: str) -> None:
    fresh = file.with_suffix(".new")
    fresh.write_text(text)
    os.replace(fresh, file)


def test_a_change_is_seen_a_second_later(tmp_path: Path, seconds: Seconds) -> None:
    file = tmp_path / "number"
    file.write_text("1")
    watched = WatchedFile(file, int, setting="NUMBER")
    replace(file, "2")
    assert watched.get() == 1
    seconds.now = 1.0
    assert watched.get() == 2


def test_bad_content_and_a_missing_file_keep_the_last_good_one(tmp_path: Path, seconds: Seconds) -> None:
    file = tmp_path / "number"
    file.write_text("1")
    watched = WatchedFile(file, int, setting="NUMBER")
    replace(file, "one")
    seconds.now = 1.0
    assert watched.get() == 1
    file.unlink()
    seconds.now = 2.0
    assert watched.get() == 1
    file.write_text("3")
    seconds.now = 3.0
    assert watched.get() == 3


@pytest.mark.parametrize(
    ("text", "complaint"), [("one", "NUMBER: .*invalid literal"), (None, "can't be read")]
)
def test_the_first_reading_must_succeed(tmp_path: Path, text: str | None, complaint: str) -> None:
    file = tmp_path / "number"
    if text is not None:
        file.write_text(text)
    with pytest.raises(StartupError, match=complaint):
        WatchedFile(file, int, setting="NUMBER")
