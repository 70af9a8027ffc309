"""Owns how fast a connection's deliveries may leave, over all replicas: a share of time for each. Pure; the store has the same rule in SQL.

A connection's time is spoken for in one stretch after the other. Whoever wants to send takes the next stretch, as long as its deliveries
cost, and sends all of them at its beginning. So no more than the limit and one batch leave in any period.
"""

from dataclasses import dataclass

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import from_duration

BATCH_US = 250_000
"""A batch is worth no more of a connection's time than this, but at least one delivery."""

AHEAD_US = 2_000_000
"""So far ahead may a stretch begin; later ones are not given away yet."""

STALE_US = 60_000_000
"""What is spoken for longer than any batch could have, and this, was so under a slower limit, and counts no more.

Clocks of replicas differ by far less.
"""


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` in `period_us` microseconds."""

    count: int
    period_us: int

    @property
    def batch_size(self) -> int:
        """How many may be taken at once."""
        return max(1, self.count * BATCH_US // self.period_us)

    def cost_us(self, deliveries: int) -> int:
        """How much of the connection's time deliveries take, rounded up."""
        return -(-deliveries * self.period_us // self.count)

    @property
    def stale_us(self) -> int:
        """How far ahead nothing can be spoken for at this rate."""
        return AHEAD_US + self.cost_us(self.batch_size) + STALE_US


def rate_of(connection: pb.Connection) -> Rate | None:
    """The limit of a connection that was checked; None where it has none."""
    if not connection.HasField("rate_limit"):
        return None
    limit = connection.rate_limit
    return Rate(limit.count, from_duration(limit.period))


def reserve(spoken_for_us: int, now: int, cost_us: int, stale_us: int) -> tuple[int | None, int]:
    """Takes the next stretch of a connection's time, at `now` (microseconds).

    Returns when it begins, None when that is too far ahead to take it now, and until when all is spoken for.
    """
    until_us = now if spoken_for_us > now + stale_us else spoken_for_us
    if until_us > now + AHEAD_US:
        return None, spoken_for_us
    begins_us = max(until_us, now)
    return begins_us, begins_us + cost_us
