"""Owns what the parts of one process tell each other: whose buckets these are, how old their oldest work is, that there is work.

Refuses to hold work itself: what is lost with the process is found again in the ledger.
"""

from collections.abc import Callable, Mapping

from cairn.activation.model import Fates

_WINDOW_US = 2 * 86_400_000_000
"""Days that are always looked at, whatever was found: what other replicas accept is seldom older."""


class Board:
    """Shared by the calls, the dispatcher and the relay of one process. `holder` is its name in the ledger."""

    def __init__(self, holder: int) -> None:
        self.holder = holder
        self.on_work: Callable[[int, str], None] = lambda bucket, connection: None
        """Told that there may be something to do on a connection in a bucket."""
        self.on_accepted: Callable[[int, str, int], None] = lambda bucket, connection, arrived: None
        """Told that there is something to do there: so many deliveries were just accepted."""
        self.on_fates: Callable[[Fates], None] = lambda fates: None
        """Told of fates that are committed, to be told on from memory."""
        self.on_untold: Callable[[int], None] = lambda bucket: None
        """Told of a bucket whose outbox has fates that memory does not have."""
        self.on_said: Callable[[], None] = lambda: None
        """Told that what people said was written: a suppression or a consent."""
        self._oldest: dict[int, int | None] = {}
        self._sequence = 0

    @property
    def buckets(self) -> list[int]:
        """The buckets that this process works on."""
        return sorted(self._oldest)

    def own(self, bucket: int, oldest_us: int | None) -> None:
        """From now on this process works on a bucket, whose oldest open row was requested at `oldest_us`."""
        self._oldest[bucket] = oldest_us

    def disown(self, bucket: int) -> None:
        """The bucket is another process's from now on."""
        self._oldest.pop(bucket, None)

    def floor_us(self, bucket: int, now: int) -> int:
        """The request time before which nothing in the bucket is open."""
        oldest = self._oldest.get(bucket)
        window = now - _WINDOW_US
        return window if oldest is None else min(oldest, window)

    def accepted(self, bucket: int, connections: Mapping[str, int], oldest_us: int) -> bool:
        """New rows are committed, so many on each connection: their lanes start at once. False when the bucket is not ours."""
        if bucket not in self._oldest:
            return False
        oldest = self._oldest[bucket]
        self._oldest[bucket] = oldest_us if oldest is None else min(oldest, oldest_us)
        for connection, arrived in connections.items():
            self.on_accepted(bucket, connection, arrived)
        return True

    def take_numbers(self, count: int, now: int) -> int:
        """The first of `count` sequence numbers, greater than any that this process has taken and near the time."""
        first = max(now, self._sequence + 1)
        self._sequence = first + count - 1
        return first
