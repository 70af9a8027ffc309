"""Owns the pace of a run: how many people may go on now, so that no more activations are asked for in a time than its journey says."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from cairn.journey.model import Rate

_PARTS_OF_A_SECOND: Final = 4
"""How many portions a second's share is taken in: what may be asked for at once is part of it, too."""
_LONGEST_WAIT_SECONDS: Final = 0.5


class Pace:
    """At most `rate` activations; None for as fast as it goes. Each of at most `most` people at once costs one until what he asked for is
    known. `clock` tells seconds."""

    def __init__(self, rate: Rate | None, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = rate.count * 1_000_000 / rate.per_us if rate else 0.0
        self._room = max(1.0, self._per_second / _PARTS_OF_A_SECOND)
        self._clock = clock
        self._left = 1.0
        self._told = clock()
        self.most = min(most, int(self._room)) if rate else most
        """How many people may go at once, at most."""

    def take(self, wanted: int) -> int:
        """How many may go on now, at most `most`; 0 for none yet."""
        wanted = min(wanted, self.most)
        if not self._per_second:
            return wanted
        now = self._clock()
        self._left = min(self._room, self._left + (now - self._told) * self._per_second)
        self._told = now
        taken = max(0, min(wanted, int(self._left)))
        self._left -= taken
        return taken

    def settle(self, people: int, activations: int) -> None:
        """Of some that were taken it is known how many activations they asked for."""
        self._left += people - activations

    async def wait(self, stopped: asyncio.Event) -> None:
        """Waits a while for room, or until it is stopped."""
        seconds = (1.0 - self._left) / self._per_second if self._per_second else 0.0
        try:
            async with asyncio.timeout(min(max(seconds, 0.001), _LONGEST_WAIT_SECONDS)):
                await stopped.wait()
        except TimeoutError:
            pass
