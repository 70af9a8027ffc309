"""Owns the words for what becomes of an event: taken, refused, or given up.

CairnError
`- NotAcknowledgedError    given up: it is not known to be taken
"""

from dataclasses import dataclass

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.runtime.errors import CairnError


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the Evaluator said of one event. One that was seen before counts as taken.

    One that was not taken is refused for good: `reason` and `message` say why, and what would be right.
    """

    taken: bool
    reason: ErrorReason.ValueType = ErrorReason.ERROR_REASON_UNSPECIFIED
    message: str = ""


TAKEN = Outcome(True)


class NotAcknowledgedError(CairnError):
    """An event was given up: it is not acknowledged, and `reason` and `message` say what went wrong last.

    `maybe_taken` says whether it may have been taken all the same. Either way it is safe to send it again with the same
    id.
    """

    def __init__(self, reason: ErrorReason.ValueType, message: str, *, maybe_taken: bool) -> None:
        super().__init__(reason, message)
        self.maybe_taken = maybe_taken


@dataclass(slots=True)
class Totals:
    """How many events were answered so far, by answer. `duplicates` are those of `taken` that were known already."""

    taken: int = 0
    duplicates: int = 0
    refused: int = 0
    given_up: int = 0


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a whole batch was given up."""

    reason: ErrorReason.ValueType
    message: str
    maybe_taken: bool

    def error(self) -> NotAcknowledgedError:
        """A new one each time: an exception that is raised twice gathers tracebacks."""
        return NotAcknowledgedError(self.reason, self.message, maybe_taken=self.maybe_taken)
