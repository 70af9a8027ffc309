"""Owns the limits of a journey, each once. Durations are in microseconds."""

import re
from typing import Final

SECOND_US: Final = 1_000_000
MINUTE_US: Final = 60 * SECOND_US
HOUR_US: Final = 60 * MINUTE_US
DAY_US: Final = 24 * HOUR_US

MAX_STAGES: Final = 8
MAX_ELEMENTS: Final = 24
"""Of a real-time journey: the entry criteria, each milestone and each step count one."""

MAX_BATCH_ELEMENTS: Final = 120
MAX_BATCH_STAGE_ELEMENTS: Final = 70
"""Of a batch journey, and of one stage of it."""

MAX_RATE: Final = 1_000_000_000
"""Activations of a run in a second, a minute or an hour."""

MAX_EXITS: Final = 16
"""Exit criteria in one list."""

MIN_STALE_US: Final = MINUTE_US
MAX_STALE_US: Final = 24 * DAY_US
MAX_WAIT_US: Final = 366 * DAY_US
LATEST_MOMENT_US: Final = 221_845_392_000 * SECOND_US
"""The year 9000: what is counted on from any moment that is given must end where the calendar still has years."""

MAX_COOLDOWN_US: Final = 366 * DAY_US
MAX_ENTRIES: Final = 1_000_000
MAX_DESCRIPTION: Final = 1_000

MIN_BRANCHES: Final = 2
MAX_BRANCHES: Final = 6
"""Of a decision; `otherwise` is not counted."""

MAX_VARIANTS: Final = 10
"""Of an experiment."""

MAX_STEPS: Final = 100
"""Steps that run for one input, jumps from journey to journey included."""

MIN_LOOP_US: Final = MINUTE_US
"""The shortest wait that keeps a loop of jumps from turning too fast for anybody to follow."""

GOAL_MEMORY_US: Final = 24 * DAY_US
"""How long it is remembered that a goal was met: an entry event older than that does not begin the journey."""

MAX_KEY_BYTES: Final = 256
"""Of a key's value in a keyed journey; a longer one is known by its hash."""

REST_US: Final = 24 * DAY_US
"""Who rests this long in a stage where no staleness is declared has COMPLETED the journey."""

ID_PATTERN: Final = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
ID_RULE: Final = "1 to 63 lower-case letters, digits and hyphens, a letter first and no hyphen last"


def describe_us(duration_us: int) -> str:
    """A duration as people write it: `3h`, `1d12h`, `90s`, `0.5s`."""
    if duration_us < 0:
        return "-" + describe_us(-duration_us)
    parts = []
    rest = duration_us
    for unit_us, unit in ((DAY_US, "d"), (HOUR_US, "h"), (MINUTE_US, "m")):
        if rest >= unit_us:
            parts.append(f"{rest // unit_us}{unit}")
            rest %= unit_us
    if rest or not parts:
        seconds, fraction = divmod(rest, SECOND_US)
        parts.append(f"{seconds}.{fraction:06d}".rstrip("0") + "s" if fraction else f"{seconds}s")
    return "".join(parts)
