"""Owns what all parts of reading a journey share: noting what is wrong, and reading names, criteria, durations."""

from google.protobuf.duration_pb2 import Duration

from cairn.journey import limits
from cairn.journey.limits import describe_us
from cairn.journey.violations import Violation
from cairn.rules import Criteria, CriteriaError, Scope, compile_criteria


class Reader:
    """Notes what is wrong with a message; what it returns counts only when nothing was."""

    def __init__(self) -> None:
        self.violations: list[Violation] = []

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
        """A criteria, or None when its source is none."""
        try:
            return compile_criteria(source, scope)
        except CriteriaError as error:
            for problem in error.problems:
                self.wrong(path, f"line {problem.line}, column {problem.column}: {problem.message}")
            return None

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
