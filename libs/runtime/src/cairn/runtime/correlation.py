"""Owns the correlation id: what ties the log lines of one call together, across all four services."""

from contextvars import ContextVar

from cairn.runtime.ids import random_id

METADATA_KEY = "x-correlation-id"
"""The gRPC metadata key, in requests and in the trailing metadata of answers."""

MAX_CHARS = 64

correlation_id: ContextVar[str] = ContextVar("correlation_id", default="")
"""The id of the call, or of the round of background work, that this code runs for; "" outside of both."""


def new_correlation_id() -> str:
    """A fresh id of 16 hexadecimal digits."""
    return f"{random_id():016x}"


def accept_correlation_id(offered: str | bytes | None) -> str:
    """The caller's own id when it is 1 to 64 visible ASCII characters, else a fresh one.

    Anything else could forge log lines or be refused by the next service as metadata.
    """
    if not isinstance(offered, str) or not 0 < len(offered) <= MAX_CHARS:
        return new_correlation_id()
    return offered if all("!" <= character <= "~" for character in offered) else new_correlation_id()
