"""Owns what is said of a document that is wrong."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that is wrong with a document.

    `path` is the field's place, as `stages[0].steps[1].wait.duration`; `message` says what is wrong and what would be
    right; `line` is the line of the file from 1, or 0 when the document did not come from one.
    """

    path: str
    message: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message
