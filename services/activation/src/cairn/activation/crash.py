"""Owns the named places at which a test may have this process die, as by a power cut. Does nothing unless it is asked to.

`CAIRN_CRASH_AT=after_claim` kills the process when it first passes there, `CAIRN_CRASH_AT=after_claim:3` the third time.
"""

import os
import signal
from collections.abc import Callable

POINTS = (
    "after_accept_commit",
    "after_claim",
    "after_guard",
    "before_mark_sending",
    "after_mark_sending",
    "in_send",
    "before_write_results",
    "after_write_results",
    "before_receipt",
    "after_receipt",
)
"""The places, in the order in which a delivery passes them. `in_send` is where the destination has it and nobody knows its answer."""

VARIABLE = "CAIRN_CRASH_AT"


def _nothing(point: str) -> None:
    return


def _armed(asked: str) -> Callable[[str], None]:
    name, _, times = asked.partition(":")
    if name not in POINTS:
        raise ValueError(f"{VARIABLE}: there is no `{name}`; there are {', '.join(POINTS)}")
    left = int(times or 1)

    def passing(point: str) -> None:
        nonlocal left
        if point == name:
            left -= 1
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)

    return passing


passing = _armed(os.environ[VARIABLE]) if os.environ.get(VARIABLE) else _nothing
"""Says that a place is passed."""
