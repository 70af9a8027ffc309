"""Owns frequency caps: how often one profile was written to in rolling windows, and which cap is full. Pure."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple


class Scope(Enum):
    """What a cap counts of a profile; the value is how it is said."""

    CONNECTION = "through this connection"
    JOURNEY = "by this journey"
    ALL = "in all"


@dataclass(frozen=True, slots=True)
class Cap:
    """At most `count` sends in any `period_us` microseconds."""

    scope: Scope
    count: int
    period_us: int

    def __str__(self) -> str:
        return f"{self.count} in {_in_words(self.period_us)} {self.scope.value}"


class Sends(NamedTuple):
    """How many of a profile's sends through a connection by a journey ("" for none) are younger than `period_us`."""

    profile_id: str
    connection: str
    journey: str
    period_us: int
    number: int


class Tally:
    """What the profiles of a batch got lately through one connection, by one journey, in all.

    Through `connection` everything counts; `people`, the connections by which people are written to, make up the other two.
    """

    def __init__(self, connection: str, people: Iterable[str], periods_us: Sequence[int]) -> None:
        self._connection = connection
        self._people = frozenset(people)
        self._periods_us = periods_us
        self._counts: dict[tuple[str, Scope, str, int], int] = defaultdict(int)

    def add(self, sends: Sends) -> None:
        """Counts what the ledger tells."""
        if sends.connection == self._connection:
            self._count(sends, Scope.CONNECTION, "")
        if sends.connection in self._people:
            self._count(sends, Scope.ALL, "")
            if sends.journey:
                self._count(sends, Scope.JOURNEY, sends.journey)

    def let_through(self, profile_id: str, journey: str) -> None:
        """Counts one more, which leaves now."""
        for period_us in self._periods_us:
            self.add(Sends(profile_id, self._connection, journey, period_us, 1))

    def full(self, caps: Iterable[Cap], profile_id: str, journey: str) -> Cap | None:
        """The first of these caps that leaves no place for one more; a cap by journey holds only for what a journey asked for."""
        for cap in caps:
            # Under no journey nothing is ever counted.
            of = journey if cap.scope is Scope.JOURNEY else ""
            if self._counts.get((profile_id, cap.scope, of, cap.period_us), 0) >= cap.count:
                return cap
        return None

    def _count(self, sends: Sends, scope: Scope, of: str) -> None:
        self._counts[sends.profile_id, scope, of, sends.period_us] += sends.number


_UNITS = ((86_400_000_000, "day"), (3_600_000_000, "hour"), (60_000_000, "minute"), (1_000_000, "second"))


def _in_words(period_us: int) -> str:
    """In the largest unit that it is a whole number of: "2 days", or "90 minutes"."""
    for unit_us, word in _UNITS:
        number, rest = divmod(period_us, unit_us)
        if not rest:
            return f"{number} {word}" if number == 1 else f"{number} {word}s"
    return f"{period_us / 1_000_000:g} seconds"
