"""Owns the life of a delivery: its states, which may follow which, and what an outcome makes of a row.

Pure: the time and the chance are arguments.

    PENDING ──▶ LEASED ──▶ SENDING ──▶ SENT, FAILED, UNKNOWN      SENT from the start where nothing leaves the house
       ▲          │           │
       └──────────┴───────────┘  another try
    PENDING, LEASED ──▶ WITHDRAWN        LEASED ──▶ REFUSED, FAILED
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, IntEnum
from types import MappingProxyType

MAX_DETAIL_CHARS = 500


class State(IntEnum):
    """Where a delivery is; the numbers are the contract's `DeliveryState` and stand in the table."""

    PENDING = 1
    LEASED = 2
    SENDING = 3
    SENT = 4
    REFUSED = 5
    FAILED = 6
    UNKNOWN = 7
    WITHDRAWN = 8


MOVES: Mapping[State, frozenset[State]] = MappingProxyType(
    {
        State.PENDING: frozenset({State.LEASED, State.WITHDRAWN}),
        State.LEASED: frozenset({State.PENDING, State.SENDING, State.REFUSED, State.FAILED, State.WITHDRAWN}),
        State.SENDING: frozenset({State.PENDING, State.SENT, State.FAILED, State.UNKNOWN}),
        State.SENT: frozenset(),
        State.REFUSED: frozenset(),
        State.FAILED: frozenset(),
        State.UNKNOWN: frozenset(),
        State.WITHDRAWN: frozenset(),
    }
)
"""Which state may follow which. What nothing follows has a receipt."""


class Guarantee(Enum):
    """What a channel promises about a delivery whose process died while it was SENDING."""

    AT_MOST_ONCE = "at most once"
    AT_LEAST_ONCE = "at least once"


class Fate(Enum):
    """What one attempt came to."""

    SENT = "sent"
    RETRY = "retry"
    REFUSED = "refused"
    FAILED = "failed"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt came to, in words without personal data.

    RETRY says that the destination certainly does not have it, or may harmlessly get it twice; `retry_after_us` is the
    pause that the destination asked for. `external_id` is the destination's own id of it.
    """

    fate: Fate
    detail: str = ""
    external_id: str = ""
    retry_after_us: int = 0


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how late a failed attempt is repeated: `budget` attempts in all, pauses in microseconds."""

    budget: int
    base_us: int
    cap_us: int

    def pause_us(self, attempts: int, chance: float) -> int:
        """The pause after `attempts` failed ones: fourfold each time, capped, of which `chance` (0 to 1) is taken.

        Full jitter: what failed together must not come back together.
        """
        return int(min(self.cap_us, self.base_us * 4 ** min(attempts - 1, 30)) * chance)


@dataclass(frozen=True, slots=True)
class Settled:
    """What is written to a row after an attempt."""

    state: State
    next_attempt_us: int
    detail: str
    external_id: str

    @property
    def final(self) -> bool:
        """Whether nothing follows it, and it is told."""
        return is_final(self.state)


def is_final(state: State) -> bool:
    """Whether nothing follows it."""
    return not MOVES[state]


_STATES = MappingProxyType(
    {
        Fate.SENT: State.SENT,
        Fate.REFUSED: State.REFUSED,
        Fate.FAILED: State.FAILED,
        Fate.UNKNOWN: State.UNKNOWN,
    }
)


def settle(outcome: Outcome, attempts: int, policy: RetryPolicy, chance: float, now: int) -> Settled:
    """What becomes of a row after its `attempts`-th attempt, at time `now` (microseconds)."""
    detail = _clean(outcome.detail)
    if outcome.fate is not Fate.RETRY:
        return Settled(_STATES[outcome.fate], now, detail, _clean(outcome.external_id))
    if attempts >= policy.budget:
        return Settled(State.FAILED, now, _clean(f"given up after {attempts} attempts: {detail}"), "")
    pause = max(policy.pause_us(attempts, chance), outcome.retry_after_us)
    return Settled(State.PENDING, now + min(pause, policy.cap_us), detail, "")


def _clean(text: str) -> str:
    """Text that the table can hold, whatever a destination answered: a result that can't be written is a lost one."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")[:MAX_DETAIL_CHARS]
