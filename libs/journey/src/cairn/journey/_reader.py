"""Owns what all parts of reading a journey share: noting what is wrong, and reading names, criteria, durations."""

from typing import Final

from google.protobuf.duration_pb2 import Duration

from cairn.journey import limits
from cairn.journey.askable import unaskable
from cairn.journey.limits import describe_us
from cairn.journey.violations import Violation
from cairn.rules import Criteria, CriteriaError, Scope, compile_criteria

_NO_EVENT: Final = (
    "which segments can't read; they read",
    "and a BATCH journey reads no event, as runs move it; its criteria read",
)
"""What is said of a criteria that reads an event where there is none, of segments and of batch journeys."""


class Reader:
    """Notes what is wrong with a message; what it returns counts only when nothing was."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []
        self.is_batch = False

    def wrong(self, path: str, message: str) -> None:
        """Notes one violation."""
        self.violations.append(Violation(path, message))

    def identifier(self, path: str, value: str) -> str:
        """A name or an id."""
        if not value:
            self.wrong(path, f"is missing; it takes {limits.ID_RULE}")
        elif not limits.ID_PATTERN.fullmatch(value):
            self.wrong(path, f"is {quote(value)}; it takes {limits.ID_RULE}")
        return value

    def criteria(self, path: str, source: str, scope: Scope = Scope.ENROLLMENT) -> Criteria | None:
        """A criteria, or None when its source is none. In a batch journey it is one that needs no event, whatever its place."""
        try:
            criteria = compile_criteria(source, Scope.SEGMENT if self.is_batch else scope)
        except CriteriaError as error:
            for problem in error.problems:
                message = problem.message.replace(*_NO_EVENT) if self.is_batch else problem.message
                self.wrong(path, f"line {problem.line}, column {problem.column}: {message}")
            return None
        for told in unaskable(criteria) if self.is_batch else ():
            self.wrong(path, told)
        return criteria

    def duration(self, path: str, message: Duration, least: int, most: int, what: str) -> int:
        """A duration in microseconds, within bounds."""
        value = message.seconds * limits.SECOND_US + message.nanos // 1_000
        if not least <= value <= most:
            shortest = "more than 0" if least == 1 else describe_us(least)
            self.wrong(path, f"is {describe_us(value)}; {what} {shortest} to {describe_us(most)}")
        return value


def quote(value: str) -> str:
    """A value as a violation shows it: quoted, and not longer than a line."""
    return repr(value if len(value) <= 80 else value[:77] + "...")
