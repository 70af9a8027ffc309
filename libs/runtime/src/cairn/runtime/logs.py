"""Owns the log: structlog to stderr, JSON lines for machines or text for people, correlation id in each.

Refuses personal data as a last line of defense: fields that may hold some are dropped, and of an exception
only the first line of its message is kept (drivers put row contents into the next).
"""

import logging
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import msgspec
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from cairn.runtime.correlation import correlation_id

PERSONAL_KEYS = frozenset(
    {
        "address",
        "attributes",
        "body",
        "consent",
        "context",
        "email",
        "identity",
        "message_body",
        "payload",
        "phone",
        "profile",
        "profile_id",
        "profile_ids",
        "properties",
        "query",
        "recipient",
        "request",
        "response",
        "subject",
        "to",
    }
)
"""Names of fields that are never written, at any depth."""

_MAX_EXCEPTION_CHARS = 200


def configure_logging(service: str, level: str, fmt: str) -> None:
    """Sends structlog's and the standard library's records to stderr. `fmt` is AUTO, JSON or CONSOLE.

    To be called once, before the first line is logged: loggers keep what they first saw.
    """
    console = fmt == "CONSOLE" or (fmt == "AUTO" and sys.stderr.isatty())
    shared = shared_processors(service)
    renderer: list[Processor] = (
        [structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), timestamp_key="time")]
        if console
        else [structlog.processors.JSONRenderer(serializer=_to_json)]
    )
    threshold = logging.getLevelNamesMapping()[level]
    structlog.configure(
        processors=[*shared, *renderer],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    # Libraries tell at INFO what our own lines say better.
    root.setLevel(max(threshold, logging.WARNING))
    # It tells of every try to reconnect, with a traceback; our own loops say once that Postgres is away.
    logging.getLogger("asyncpg.pool").setLevel(logging.ERROR)
    # It tells of a caller that speaks no HTTP, with a traceback; the caller's mistake is answered, and is none of ours.
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)


def shared_processors(service: str) -> list[Processor]:
    """What happens to every record before it is rendered, in order."""

    def add_origin(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        event["service"] = service
        call = correlation_id.get()
        if call:
            event.setdefault("correlation_id", call)
        return event

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        add_origin,
        render_exception,
        drop_personal_data,
    ]


def drop_personal_data(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Removes the fields named in `PERSONAL_KEYS`; `dropped` then tells the author of the line which."""
    dropped: set[str] = set()
    clean = _without_personal_data(event, dropped)
    if dropped:
        clean["dropped"] = sorted(dropped)
    return clean


def _without_personal_data(fields: Mapping[str, Any], dropped: set[str]) -> dict[str, Any]:
    clean: dict[str, Any] = {}
    for key, value in fields.items():
        if str(key).lower() in PERSONAL_KEYS:
            dropped.add(str(key))
        elif isinstance(value, Mapping):
            clean[key] = _without_personal_data(value, dropped)
        else:
            clean[key] = value
    return clean


def render_exception(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
    """Turns `exc_info` into `exception`: frames, types and first lines, no values of variables."""
    given = event.pop("exc_info", None)
    if not given:
        return event
    if isinstance(given, BaseException):
        error: BaseException | None = given
    elif isinstance(given, tuple):
        error = given[1]
    else:
        error = sys.exc_info()[1]
    if error is not None:
        event["exception"] = _describe(error, set())
    return event


def _describe(error: BaseException, seen: set[int]) -> str:
    seen.add(id(error))
    text = ""
    before = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if before is not None and id(before) not in seen:
        text = _describe(before, seen) + "\nwhich led to\n"
    frames = "".join(traceback.format_tb(error.__traceback__))
    first_line = str(error).split("\n", 1)[0][:_MAX_EXCEPTION_CHARS]
    text += f"{frames}{type(error).__qualname__}: {first_line}"
    for inner in error.exceptions if isinstance(error, BaseExceptionGroup) else ():
        text += "\n" + _describe(inner, seen)
    return text


def _to_json(event: EventDict, **_: Any) -> str:
    # msgspec escapes line breaks, so that no value can forge a second line.
    return msgspec.json.encode(event, enc_hook=repr).decode()
