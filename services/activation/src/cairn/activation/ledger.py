"""Owns the life of a delivery: its states, which may follow which, and what an outcome makes of a row.

Pure: the time and the chance are arguments.

    PENDING ──▶ LEASED ──▶ SENDING ──▶ SENT, FAILED, UNKNOWN, REFUSED      SENT from the start where nothing leaves the house
       ▲          │           │
       └──────────┴───────────┘  another try, or held
    PENDING, LEASED ──▶ WITHDRAWN        LEASED ──▶ REFUSED, FAILED

    FAILED, REFUSED, UNKNOWN ──▶ PENDING      a human sends it again
    UNKNOWN ──▶ SENT, FAILED                  a human or the destination says what became of it
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, Flag, IntEnum, auto
from types import MappingProxyType

MAX_DETAIL_CHARS = 500

LONGEST_ASKED_US = 86_400_000_000
"""The longest pause that a destination can ask for, a day in microseconds."""

_LONGEST_HOLD_US = 366 * 86_400_000_000


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


class Mover(Flag):
    """Who may move a delivery from one state to another."""

    LANE = auto()
    """The process that owns its bucket."""
    CALLER = auto()
    """Whoever asked for it, by Withdraw."""
    OPERATOR = auto()
    """A human, by RetryDelivery and ResolveDelivery."""
    DESTINATION = auto()
    """What the destination tells afterwards."""


MOVES: Mapping[State, Mapping[State, Mover]] = MappingProxyType(
    {
        State.PENDING: {State.LEASED: Mover.LANE, State.WITHDRAWN: Mover.CALLER},
        State.LEASED: {
            State.PENDING: Mover.LANE,
            State.SENDING: Mover.LANE,
            State.REFUSED: Mover.LANE,
            State.FAILED: Mover.LANE,
            State.WITHDRAWN: Mover.CALLER,
        },
        State.SENDING: {
            State.PENDING: Mover.LANE,
            State.SENT: Mover.LANE,
            State.REFUSED: Mover.LANE,
            State.FAILED: Mover.LANE,
            State.UNKNOWN: Mover.LANE,
        },
        State.SENT: {},
        State.REFUSED: {State.PENDING: Mover.OPERATOR},
        State.FAILED: {State.PENDING: Mover.OPERATOR},
        State.UNKNOWN: {
            State.PENDING: Mover.OPERATOR,
            State.SENT: Mover.OPERATOR | Mover.DESTINATION,
            State.FAILED: Mover.OPERATOR | Mover.DESTINATION,
        },
        State.WITHDRAWN: {},
    }
)
"""Which state may follow which, and who may say so. A lane is done with those behind SENDING; they have a receipt."""


def may_follow(state: State, mover: Mover) -> frozenset[State]:
    """The states from which `mover` may bring a delivery to `state`."""
    return frozenset(before for before, after in MOVES.items() if mover in after.get(state, Mover(0)))


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
    HELD = "held"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one attempt came to, in words without personal data.

    RETRY says that the destination certainly does not have it, or may harmlessly get it twice; `retry_after_us` is the
    pause that the destination asked for, obeyed up to a day. HELD says that it was stopped before it left and may leave from `until_us` (microseconds since
    the epoch); that was no attempt. `external_id` is the destination's own id of it. `down` says that the answer is about the
    destination, which is not there or in trouble (not reached, no answer in time, HTTP 429 or 5xx), and not about this delivery.
    """

    fate: Fate
    detail: str = ""
    external_id: str = ""
    retry_after_us: int = 0
    until_us: int = 0
    down: bool = False


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
    attempts: int
    noted: bool = False
    """Whether it becomes part of the history: the delivery goes on."""

    @property
    def final(self) -> bool:
        """Whether its lane is done with it, and it is told."""
        return is_final(self.state)


def is_final(state: State) -> bool:
    """Whether no lane moves it any more: only a human or the destination's word may."""
    return state > State.SENDING


_STATES = MappingProxyType(
    {
        Fate.SENT: State.SENT,
        Fate.REFUSED: State.REFUSED,
        Fate.FAILED: State.FAILED,
        Fate.UNKNOWN: State.UNKNOWN,
    }
)


def settle(
    outcome: Outcome,
    attempts: int,
    policy: RetryPolicy,
    chance: float,
    now: int,
    *,
    due_us: int | None = None,
) -> Settled:
    """What becomes of a row after its `attempts`-th attempt, at time `now` (microseconds).

    `due_us` is what the row was due at, where another try keeps its place: nothing that was accepted later overtakes it.
    """
    detail = _clean(outcome.detail)
    if outcome.fate is Fate.HELD:
        until_us = min(max(outcome.until_us, now), now + _LONGEST_HOLD_US)
        return Settled(State.PENDING, until_us, detail, "", attempts - 1, noted=True)
    if outcome.fate is not Fate.RETRY:
        return Settled(_STATES[outcome.fate], now, detail, _clean(outcome.external_id), attempts)
    if attempts >= policy.budget:
        given_up = _clean(f"given up after {attempts} attempts: {detail}")
        return Settled(State.FAILED, now, given_up, "", attempts)
    if due_us is not None:
        return Settled(State.PENDING, due_us, detail, "", attempts, noted=True)
    pause = max(policy.pause_us(attempts, chance), min(outcome.retry_after_us, LONGEST_ASKED_US))
    return Settled(State.PENDING, now + pause, detail, "", attempts, noted=True)


def _clean(text: str) -> str:
    """Text that the table can hold, whatever a destination answered: a result that can't be written is a lost one."""
    return text.encode("utf-8", "replace").decode().replace("\0", "")[:MAX_DETAIL_CHARS]
