"""A process dies at a named place only when it is asked to, and then at once."""

import subprocess
import sys

import pytest

from cairn.activation import crash

PROGRAM = """
from cairn.activation import crash
for _ in range(3):
    crash.passing("after_claim")
    crash.passing("in_send")
    print("passed", flush=True)
"""


def run(asked: str) -> tuple[int, int]:
    environment = {crash.VARIABLE: asked} if asked else {}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout.count("passed")


@pytest.mark.parametrize(
    ("asked", "returned", "passed"),
    [("", 0, 3), ("after_claim", -9, 0), ("in_send:2", -9, 1), ("in_send:9", 0, 3), ("after_receipt", 0, 3)],
)
def test_where_it_dies(asked: str, returned: int, passed: int) -> None:
    assert run(asked) == (returned, passed)


def test_a_place_that_there_is_not_is_told() -> None:
    assert run("somewhere")[0] == 1
