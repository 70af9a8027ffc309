"""Owns what a failure means: whether to try again, when, and whether an event may have been taken meanwhile. Pure."""

import grpc

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.runtime.errors import REASON_CODES, CairnError

BLAMES = 3
"""So often a batch may be alone on a stream that breaks for no passing reason, before it is held to be the cause."""

_FIRST_SECONDS = 0.05
_LONGEST_SECONDS = 2.0
_JITTER = 0.2

_Code = grpc.StatusCode
_PASSING = frozenset({_Code.UNAVAILABLE, _Code.RESOURCE_EXHAUSTED, _Code.DEADLINE_EXCEEDED, _Code.ABORTED})
_NOT_LET_IN = frozenset({_Code.UNAUTHENTICATED, _Code.PERMISSION_DENIED})
_NOTHING_TAKEN = frozenset({_Code.INVALID_ARGUMENT, _Code.RESOURCE_EXHAUSTED}) | _NOT_LET_IN


def code_of(error: CairnError) -> grpc.StatusCode:
    """The code of an error's reason; UNKNOWN for a reason that came into the contract after us."""
    return REASON_CODES.get(error.reason, _Code.UNKNOWN)


def is_passing(error: CairnError) -> bool:
    """Whether the same may succeed later."""
    return error.retry_after_s is not None or code_of(error) in _PASSING


def is_not_let_in(error: CairnError) -> bool:
    """Whether no batch of ours would be taken there: a matter for people, and soon."""
    return code_of(error) in _NOT_LET_IN


def may_be_taken(error: CairnError) -> bool:
    """Whether events of a batch that failed so may have been taken."""
    return code_of(error) not in _NOTHING_TAKEN


def backoff(tries: int, chance: float) -> float:
    """Seconds to wait after so many failures in a row, from 1: twice as long each time, and a chance's share (0 to 1) of the
    upper half."""
    longest = min(_LONGEST_SECONDS, _FIRST_SECONDS * 2.0 ** min(tries - 1, 16))
    return longest * (0.5 + chance / 2)


def delay(error: CairnError, tries: int, chance: float) -> float:
    """Seconds to wait after an error: never less than it asks for, a little more so that not all come back at once."""
    asked = (error.retry_after_s or 0.0) * (1.0 + _JITTER * chance)
    return max(asked, backoff(tries, chance))


def ended(message: str) -> CairnError:
    """A stream that ended without a status that says why."""
    return CairnError(ErrorReason.ERROR_REASON_PEER_UNAVAILABLE, message)
