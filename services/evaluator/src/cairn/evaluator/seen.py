"""Owns which events a profile was acted on for: the last few stand with the profile, older ones in a table of their own. Pure.

So a duplicate is mostly known without a look at any table, and most profiles never have a row in it.
"""

from typing import Final

import msgspec

MOST: Final = 16
"""Ids that stand with a profile; with one more the older half moves to the table."""


class Seen(msgspec.Struct, array_like=True, frozen=True):
    """The ids of the last events, each with the day of its arrival (days since the epoch), oldest first. `spilled_day` is the last day on which
    ids moved to the table; 0: never, then what is not here was not seen. `erased_us` is when the profile was last erased (0: never): what was seen
    until then is forgotten, and what happened until then is not acted on any more."""

    ids: dict[str, int] = {}
    spilled_day: int = 0
    erased_us: int = 0

    def needs_table(self, oldest_day: int) -> bool:
        """Whether an id that is not here may be in the table. `oldest_day` is the first day that still counts."""
        return self.spilled_day >= oldest_day


NOTHING = Seen()
"""Of a profile that no event has reached."""


def remember(seen: Seen, event_ids: list[str], day: int, oldest_day: int) -> tuple[Seen, list[str]]:
    """What is seen with these ids more, and which ids move to the table. What arrived before `oldest_day` is forgotten."""
    ids = dict(seen.ids)
    while ids and ids[oldest := next(iter(ids))] < oldest_day:
        del ids[oldest]
    for event_id in event_ids:
        ids[event_id] = day
    if len(ids) <= MOST:
        return Seen(ids, seen.spilled_day, seen.erased_us), []
    moved = list(ids)[: len(ids) - MOST // 2]
    for event_id in moved:
        del ids[event_id]
    return Seen(ids, day, seen.erased_us), moved
