"""Owns connections: how a service's pool and its dedicated connections are opened, and what their failures mean.

Refuses hidden retries, and codecs but one: json and jsonb columns are exchanged as `str`, bytea as `bytes`; the caller
encodes. Times are `datetime`, or microseconds where a service asks for that.
"""

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg
import structlog
from asyncpg import exceptions as driver

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.runtime.errors import CairnError, StartupError

if TYPE_CHECKING:
    Pool = asyncpg.Pool[asyncpg.Record]
    Connection = asyncpg.Connection[asyncpg.Record]
    AnyConnection = Connection | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]
else:
    Pool = asyncpg.Pool
    Connection = asyncpg.Connection
    AnyConnection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy

log = structlog.get_logger()

CONNECT_SECONDS = 10.0
RETRY_AFTER_SECONDS = 1.0

# The driver closes and reopens a connection after this many statements. Its default of 50,000 would mean a
# reconnect every few seconds on the hot path, with an empty statement cache each time.
_MAX_QUERIES = 10_000_000
_STATEMENT_CACHE = 256
_YEAR_2000_US = 946_684_800_000_000

_TRANSIENT = (
    OSError,  # refused, reset, timed out (TimeoutError), a name that does not resolve
    driver.PostgresConnectionError,
    driver.OperatorInterventionError,  # shutdown, crash, starting up, statement canceled
    driver.InsufficientResourcesError,  # too many connections, memory, disk
    driver.TransactionRollbackError,  # serialization, deadlock: the same again may succeed
    driver.ReadOnlySQLTransactionError,  # a fail-over left us on the standby
    driver.LockNotAvailableError,
    driver.InvalidCachedStatementError,  # a migration under a running service; the driver has dropped its cache
    driver.OutdatedSchemaCacheError,
    asyncpg.InternalClientError,  # the driver lost track of the protocol: a connection that was cut in mid-answer
)


async def connect_pool(
    dsn: str,
    *,
    role: str | None,
    schema: str,
    application_name: str,
    min_size: int = 1,
    max_size: int = 8,
    command_timeout_s: float = 30.0,
    setting: str = "postgres_dsn",
    times_in_us: bool = False,
) -> Pool:
    """A pool whose connections act as `role` and find tables in `schema`; recovers by itself when Postgres returns.

    One login serves all services, each under its own role; None or "" is the login's own. A connection given back
    keeps its session settings and session locks (no reset, which would cost a round trip each time): set nothing
    outside a transaction. A statement that takes longer than `command_timeout_s` seconds counts as Postgres gone.
    With `times_in_us` each timestamptz is an `int`, microseconds since the epoch, both ways: a `datetime` costs four
    times as much, 1 us each.
    Raises StartupError with one line, in which `setting` names the setting of the address, when Postgres can't be
    used at once.
    """
    with _startup_errors(dsn, role, setting):
        return await asyncpg.create_pool(
            dsn,
            min_size=max(min_size, 1),
            max_size=max(max_size, min_size, 1),
            max_queries=_MAX_QUERIES,
            statement_cache_size=_STATEMENT_CACHE,
            command_timeout=command_timeout_s,
            timeout=CONNECT_SECONDS,
            server_settings=_session(role, schema, application_name),
            reset=_keep_session,
            init=exchange_times_in_us if times_in_us else None,
        )


async def connect(
    dsn: str,
    *,
    role: str | None = None,
    schema: str = "",
    application_name: str = "cairn",
    command_timeout_s: float = 30.0,
    setting: str = "postgres_dsn",
) -> Connection:
    """One connection outside any pool, for locks and migrations; arguments and errors as `connect_pool` has them."""
    with _startup_errors(dsn, role, setting):
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_SECONDS,
            command_timeout=command_timeout_s,
            server_settings=_session(role, schema, application_name),
        )


async def exchange_times_in_us(connection: AnyConnection) -> None:
    """Have a connection take and give each timestamptz as microseconds since the epoch."""
    await connection.set_type_codec(
        "timestamptz",
        schema="pg_catalog",
        encoder=lambda us: (us - _YEAR_2000_US,),
        decoder=lambda value: value[0] + _YEAR_2000_US,
        format="tuple",
    )


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn the driver's errors into ours: POSTGRES_UNAVAILABLE to be repeated, or INTERNAL; others pass unchanged.

    The driver's text goes to the log, without DETAIL and without the texts that quote a value, which may be
    personal data.
    """
    try:
        yield
    except CairnError:
        raise
    except Exception as error:
        if is_unavailable(error):
            log.warning("postgres_unavailable", **_facts(error))
            raise CairnError(
                ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE,
                "Postgres does not answer at the moment; nothing was acknowledged, repeat the call with the same ids.",
                retry_after_s=RETRY_AFTER_SECONDS,
            ) from error
        if isinstance(error, (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)):
            log.error("postgres_error", **_facts(error))
            raise CairnError(
                ErrorReason.ERROR_REASON_INTERNAL,
                "The service failed on its database; the log line with this correlation id tells more.",
            ) from error
        raise


def is_unavailable(error: BaseException) -> bool:
    """Whether the same work may succeed later, unchanged: Postgres is gone, full, restarting, or undid it.

    After such an error of a COMMIT it is unknown whether the transaction took effect.
    """
    if isinstance(error, CairnError):
        return error.reason == ErrorReason.ERROR_REASON_POSTGRES_UNAVAILABLE
    if isinstance(error, asyncpg.InterfaceError):
        # The driver has one class for its misuse and for a connection that died while it was not looking.
        return "is closed" in str(error) or "is closing" in str(error)
    return isinstance(error, _TRANSIENT)


def describe_dsn(dsn: str) -> str:
    """Host, port and database of a Postgres address, for messages: never a user, a password or an option."""
    vague = "the Postgres server"
    try:
        parts = urlsplit(dsn)
    except ValueError:
        return vague
    # An unescaped "/", "?" or "#" in a password moves its rest behind the host's place.
    if "@" in parts.path + parts.query + parts.fragment:
        return vague
    host = parts.netloc.rpartition("@")[2]
    return f"Postgres at {host}{parts.path}" if host else vague


def _session(role: str | None, schema: str, application_name: str) -> dict[str, str]:
    settings = {
        "application_name": application_name,
        "jit": "off",
        "timezone": "UTC",
        # A host that vanished holds its locks, and so its buckets and its outbox, until the server notices.
        "tcp_keepalives_idle": "5",
        "tcp_keepalives_interval": "1",
        "tcp_keepalives_count": "3",
        "idle_in_transaction_session_timeout": "60000",
    }
    if schema:
        settings["search_path"] = schema
    if role:
        settings["role"] = role
    return settings


async def _keep_session(_connection: Connection) -> None:
    """Nothing: the driver has already rolled back what was open."""


@contextmanager
def _startup_errors(dsn: str, role: str | None, setting: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        place = describe_dsn(dsn)
        for kinds, explain in _STARTUP_EXPLANATIONS:
            if isinstance(error, kinds):
                log.debug("postgres_connect_failed", **_facts(error))
                raise StartupError(f"{explain(place, role or '')}: check the setting {setting}.") from error
        raise


_Explain = Callable[[str, str], str]
# The first that fits: classes of the driver derive from one another.
_STARTUP_EXPLANATIONS: tuple[tuple[tuple[type[Exception], ...], _Explain], ...] = (
    (
        (driver.InvalidPasswordError, driver.InvalidAuthorizationSpecificationError),
        lambda place, role: f"{place} refuses the user or the password",
    ),
    ((driver.InvalidCatalogNameError,), lambda place, role: f"{place}: there is no such database"),
    (
        (driver.InvalidParameterValueError, driver.InsufficientPrivilegeError),
        lambda place, role: (
            f"{place}: the login may not act as the role '{role}' (run `cairn migrate`)"
            if role
            else f"{place}: the login lacks the privilege to connect"
        ),
    ),
    ((driver.TooManyConnectionsError,), lambda place, role: f"{place} has no connection free"),
    ((ssl.SSLError,), lambda place, role: f"{place}: TLS can't be agreed on"),
    ((driver.CannotConnectNowError,), lambda place, role: f"{place} is starting up or shutting down"),
    (
        (OSError, driver.PostgresConnectionError),
        lambda place, role: f"{place} does not answer",
    ),
    (
        (ValueError, driver.ClientConfigurationError),
        lambda place, role: "The address is not like postgresql://user:password@host:5432/database",
    ),
    (
        (asyncpg.PostgresError, asyncpg.InterfaceError),
        lambda place, role: f"{place} refuses the connection",
    ),
)


def _facts(error: Exception) -> dict[str, str]:
    """What the log may know of a driver's error."""
    facts = {"error": type(error).__name__}
    if isinstance(error, asyncpg.PostgresError):
        state = error.sqlstate or ""
        facts["sqlstate"] = state
        # Class 22 (data exceptions) quotes the value in its message; the others name tables and columns only.
        if not state.startswith("22"):
            facts["text"] = str(error.args[0]) if error.args else ""
        facts.update(
            {key: value for key in ("table_name", "constraint_name") if (value := getattr(error, key, None))}
        )
    elif isinstance(error, asyncpg.InterfaceError):
        facts["text"] = str(error)
    return facts
