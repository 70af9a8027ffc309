"""Owns how the command fails: what is printed on stderr, and the exit code. Refuses tracebacks."""

import os
from collections.abc import Sequence
from dataclasses import dataclass

FAILED = 1
USAGE = 2
INTERRUPTED = 130


class CommandError(Exception):
    """The command can't do what it was asked. `message` is one line; `details` are lines below it, one finding each."""

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.details = tuple(details)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What is printed of an exception: a line after `cairn: `, and lines below it."""

    message: str
    details: tuple[str, ...] = ()


def explain(error: Exception) -> Explanation | None:
    """What a person is told of an exception; None for a defect of ours while CAIRN_DEBUG asks for its traceback."""
    if isinstance(error, CommandError):
        return Explanation(error.message, error.details)
    # Imported late: they bring in gRPC, and `cairn --help` has to answer at once.
    import grpc

    from cairn.runtime.errors import CairnError, StartupError, error_from_rpc

    if isinstance(error, StartupError):
        return Explanation(str(error))
    if isinstance(error, grpc.aio.AioRpcError):
        if error.code() is grpc.StatusCode.UNIMPLEMENTED:
            return Explanation(
                "what answered does not know this call: is the address that of another service?"
            )
        error = error_from_rpc(error)
    if isinstance(error, CairnError):
        details = violation_lines(error)
        # A message that already is the whole of its only violation says enough.
        if len(details) == 1 and f"{details[0].replace(': ', ' ', 1)}." == error.message:
            return Explanation(error.message)
        # The message repeats the first violation for those who see no others.
        message, repeated, _ = (
            error.message.partition(f": {details[0]}") if details else (error.message, "", "")
        )
        return Explanation(f"{message}." if repeated else message, tuple(details))
    if isinstance(error, OSError):
        place = f"{error.filename}: " if error.filename else ""
        return Explanation(f"{place}{error.strerror or error}")
    if os.environ.get("CAIRN_DEBUG"):
        return None
    return Explanation(
        f"something went wrong inside ({type(error).__name__}: {error}); CAIRN_DEBUG=1 shows where."
    )


def violation_lines(error: Exception) -> list[str]:
    """One line for each violation that a service reported: its field path, then what would be right."""
    return [
        f"{violation.field}: {violation.description}" if violation.field else violation.description
        for violation in getattr(error, "violations", ())
    ]
