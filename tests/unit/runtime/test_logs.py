"""What a log line holds, and what it never does; each case is a process of its own, as logging is set up
once."""

import json
import subprocess
import sys
import textwrap
from typing import Any

import pytest

PREPARE = """
import logging, structlog
from cairn.runtime.correlation import correlation_id
from cairn.runtime.logs import configure_logging
configure_logging("sample", {level!r}, {fmt!r})
log = structlog.get_logger()
"""


def run(code: str, level: str = "INFO", fmt: str = "AUTO") -> str:
    script = PREPARE.format(level=level, fmt=fmt) + textwrap.dedent(code)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == ""
    return done.stderr


def lines(code: str, level: str = "INFO") -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(code, level).splitlines()]


def test_a_line_says_when_where_and_for_which_call() -> None:
    (line,) = lines('correlation_id.set("case-1"); log.info("done", count=3)')
    assert line.pop("time").endswith("Z")
    assert line == {
        "event": "done", "level": "info", "service": "sample", "correlation_id": "case-1", "count": 3
    }  # fmt: skip


@pytest.mark.parametrize(
    "fields",
    [
        'email="ann@example.org"',
        'Email="ann@example.org"',
        'profile_id="ann@example.org"',
        'attributes={"a": "ann@example.org"}',
        'outer={"inner": {"properties": "ann@example.org"}}',
        'payload=b"ann@example.org"',
        'recipient="ann@example.org"',
    ],
)
def test_personal_data_is_dropped_and_the_drop_is_told(fields: str) -> None:
    (line,) = lines(f'log.info("sent", {fields}, count=1)')
    assert "ann" not in json.dumps(line)
    assert line["count"] == 1
    assert len(line["dropped"]) == 1


def test_an_exception_shows_frames_and_first_lines_only() -> None:
    (line,) = lines(
        """
        def read():
            raise KeyError("k")
        try:
            try:
                read()
            except KeyError as error:
                raise ValueError("broken\\nDETAIL: Key (profile_id)=(ann@example.org)") from error
        except ValueError:
            log.exception("failed")
        """
    )
    assert "ValueError: broken" in line["exception"]
    assert "KeyError: 'k'" in line["exception"]
    assert "in read" in line["exception"]
    assert "ann" not in line["exception"]


def test_a_value_can_not_forge_a_line() -> None:
    assert len(lines('log.info("a\\nb", c="d\\n{}")')) == 1


@pytest.mark.parametrize(("level", "count"), [("DEBUG", 4), ("INFO", 3), ("WARNING", 2), ("ERROR", 1)])
def test_the_level_is_a_threshold(level: str, count: int) -> None:
    code = 'log.debug("a"); log.info("b"); log.warning("c"); log.error("d")'
    assert len(lines(code, level)) == count


def test_libraries_are_heard_from_warnings_on_in_the_same_form() -> None:
    (line,) = lines(
        """
        library = logging.getLogger("library")
        library.info("starting")
        try:
            raise OSError("gone\\nann@example.org")
        except OSError:
            library.error("it %s", "broke", exc_info=True)
        """
    )
    assert (line["event"], line["level"], line["logger"]) == ("it broke", "error", "library")
    assert line["service"] == "sample"
    assert "OSError: gone" in line["exception"]
    assert "ann" not in json.dumps(line)


def test_people_get_text() -> None:
    text = run('log.info("done", count=3)', fmt="CONSOLE")
    assert "done" in text
    assert "count=3" in text
    assert not text.startswith("{")
