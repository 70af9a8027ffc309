"""Owns what the webhooks of all providers share: how a message is refused, and how old one may be. Pure."""

from collections.abc import Callable
from datetime import datetime
from email.utils import parseaddr
from typing import Any, TypeVar

import msgspec

from cairn.activation.channels.mail import parse_address
from cairn.runtime.clock import from_datetime

MAX_BODY_BYTES = 1024 * 1024
"""Largest message of a provider. SNS sends at most 256 KiB, SendGrid batches of less than 768 KiB."""

MAX_AGE_US = 3_600_000_000
"""How old a message may be: SNS gives up after an hour (docs.aws.amazon.com/sns/latest/dg/sns-message-delivery-retries.html)."""

MAX_AHEAD_US = 300_000_000
"""How far its clock may be ahead of ours."""

_T = TypeVar("_T")


class RefusedError(Exception):
    """A message that is not taken: the HTTP status, and why, in words without personal data."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status
        self.why = why


def decode(data: bytes | str, type_: type[_T], what: str) -> _T:
    """JSON of a form; RefusedError (400) when it is something else."""
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise RefusedError(400, f"{what} is not the JSON that is expected") from None


def check_age(sent_us: int, now: int) -> None:
    """Refuses what is old, or from the future: it may be sent again by somebody who saw it."""
    if now - sent_us > MAX_AGE_US or sent_us - now > MAX_AHEAD_US:
        raise RefusedError(403, "its time is not about now")


def read_time(text: str, refuse: Callable[[], Exception]) -> int:
    """A time like `2026-01-01T00:00:00.123Z`, in microseconds."""
    try:
        return from_datetime(datetime.fromisoformat(text))
    except ValueError:
        raise refuse() from None


def read_address(text: Any) -> str:
    """The bare address in `Name <address>` or `address`; "" when it is none."""
    return parse_address(parseaddr(text)[1]) if isinstance(text, str) else ""


def clip(text: Any, most_bytes: int = 256) -> str:
    """A provider's text in at most that many bytes, without what the table can't hold; "" when it is no text."""
    if not isinstance(text, str):
        return ""
    return text.replace("\0", "").encode("utf-8", "replace")[:most_bytes].decode("utf-8", "ignore")
