"""Owns whether a connection rests: after some batches in a row that found its destination gone or in trouble, or because it asked for it.

Pure: times and chances are arguments. A connection that rests is tried with one delivery, which decides for all.
"""

from dataclasses import dataclass
from enum import Enum

THRESHOLD = 5
"""Bad batches in a row, after which a connection rests."""

FIRST_REST_US = 1_000_000
LONGEST_REST_US = 30_000_000
SHORTEST_REST_US = 50_000

_LOOK_AGAIN_US = 250_000
"""How long others wait before they look again whether the one that tries has an answer."""


class Phase(Enum):
    """What a breaker lets through."""

    CLOSED = "closed"
    """All: the connection works."""
    OPEN = "open"
    """Nothing: it rests."""
    HALF_OPEN = "half open"
    """One delivery, which is on its way."""


@dataclass(frozen=True, slots=True)
class Permit:
    """What may begin now: nothing before `wait_us` have passed, or a batch, of one delivery when it is a `probe`."""

    wait_us: int = 0
    probe: bool = False


class Breaker:
    """The breaker of one connection in one process, shared by its lanes."""

    def __init__(self) -> None:
        self.phase = Phase.CLOSED
        self.until_us = 0
        """Until when it rests."""
        self._bad = 0
        self._rests = 0
        self._asked_until_us = 0

    def begin(self, now: int) -> Permit:
        """What a lane that has something to do may do. Who gets a probe says what came of it: good, bad or nothing."""
        if now < self._asked_until_us:
            return Permit(self._asked_until_us - now)
        if self.phase is Phase.CLOSED:
            return Permit()
        if self.phase is Phase.HALF_OPEN:
            return Permit(_LOOK_AGAIN_US)
        if now < self.until_us:
            return Permit(self.until_us - now)
        self.phase = Phase.HALF_OPEN
        return Permit(probe=True)

    def good(self) -> bool:
        """A batch showed that the destination is there. True when the connection worked no more before."""
        changed = self.phase is not Phase.CLOSED
        self.phase = Phase.CLOSED
        self._bad = self._rests = 0
        return changed

    def bad(self, now: int, chance: float, *, probe: bool) -> bool:
        """A batch found it gone or in trouble. True when the connection rests from now on, until `until_us`.

        Of what was under way when the rest began nothing more is learned. `chance` (0 to 1) is taken of the longest rest: full jitter.
        """
        if self.phase is Phase.CLOSED:
            self._bad += 1
            if self._bad < THRESHOLD:
                return False
        elif not probe:
            return False
        longest_us = min(FIRST_REST_US << min(self._rests, 10), LONGEST_REST_US)
        self._rests += 1
        self.phase = Phase.OPEN
        self.until_us = now + max(int(longest_us * chance), SHORTEST_REST_US)
        return True

    def nothing(self, now: int) -> None:
        """Who was to try found nothing to try with: the next one may."""
        if self.phase is Phase.HALF_OPEN:
            self.phase, self.until_us = Phase.OPEN, now

    def asked_to_rest(self, until_us: int) -> None:
        """The destination asked that nothing comes before a time."""
        self._asked_until_us = max(self._asked_until_us, until_us)


class Breakers:
    """The breakers of a process, by connection. One that was changed begins anew: what was wrong may be mended."""

    def __init__(self) -> None:
        self._of: dict[str, tuple[str, Breaker]] = {}

    def of(self, connection: str, etag: str) -> Breaker:
        """The breaker of a connection as it is now."""
        known = self._of.get(connection)
        if known is None or known[0] != etag:
            known = self._of[connection] = (etag, Breaker())
        return known[1]

    def forget(self, connection: str) -> None:
        """A connection was deleted: it rests no more."""
        self._of.pop(connection, None)

    @property
    def resting(self) -> int:
        """How many connections rest."""
        return sum(breaker.phase is not Phase.CLOSED for _, breaker in self._of.values())
