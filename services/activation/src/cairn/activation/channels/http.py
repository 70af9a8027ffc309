"""Owns what channels that speak HTTP share: one session each, a bounded answer, and what it means when there is none.

Refuses to follow a redirect, to keep a cookie, to obey a proxy of the environment, and to read more of an answer than a channel wants
(`MAX_ANSWER_BYTES` where it does not say). A channel makes one `HttpClient`, calls it for each request, and reads the `Answer`; where it
gets an `Outcome` instead there was no answer, and that is the outcome of everything that was in the request:

    answer = await self._client.call("POST", url, headers={...}, body=msgspec.json.encode(...))
    if isinstance(answer, Outcome):
        return answer

Where a batch is a call for each of its items, `call_each` makes them side by side.
"""

import asyncio
import io
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import partial
from types import SimpleNamespace
from typing import Any, TypeVar

import aiohttp
import msgspec
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from cairn.activation.channels.addresses import IpAddress
from cairn.activation.channels.base import down, failed, retry
from cairn.activation.ledger import LONGEST_ASKED_US, Fate, Guarantee, Outcome
from cairn.runtime.clock import now_us

T = TypeVar("T")

MAX_ANSWER_BYTES = 64 * 1024
"""The most that is read of an answer where a channel wants no more; the rest is cut off with its connection."""

# Servers hang up on a connection that is quiet, some of them (Node.js) after five seconds; a request that crosses that is lost
# without a word, so that nobody knows whether it arrived. Ours goes first.
_IDLE_SECONDS = 4.0
_SECOND_US = 1_000_000
_LARGE_BODY_BYTES = 256 * 1024
_MOST_SILENT_CALLS = 2
_HOLD_US = 1_000_000
# A name server that hangs holds a thread for each connection that waits for it; they must not be those that others need.
_LOOKUPS = ThreadPoolExecutor(max_workers=64, thread_name_prefix="names")


class ForbiddenAddressError(OSError):
    """The name or the address leads where this channel may not go; nothing was sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a destination answered. `body` has its first bytes; `whole` says whether that is all, and came to its end."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    whole: bool = True

    def json(self) -> dict[str, Any] | None:
        """The JSON object that the body is; None when it is none, such as a proxy's page or an answer that was cut."""
        try:
            value = msgspec.json.decode(self.body) if self.whole else None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def retry_after_us(self, now: int) -> int:
        """The pause that `Retry-After` asks for at time `now`, both in microseconds; at most a day, 0 when it asks for none."""
        text = self.headers.get("Retry-After", "").strip()
        if text.isascii() and text.isdigit():
            return bounded_pause_us(int(text[:9]) * _SECOND_US)
        try:
            until = parsedate_to_datetime(text).timestamp()
        except (ValueError, OverflowError, TypeError, IndexError):
            return 0
        return bounded_pause_us(int(until * _SECOND_US) - now)


def bounded_pause_us(pause_us: int) -> int:
    """A pause that a destination asked for, as far as it is obeyed: neither negative nor longer than a day."""
    return min(max(pause_us, 0), LONGEST_ASKED_US)


class HttpClient:
    """The calls of one channel.

    `destination` is how details name it ("Amazon SES"). `guarantee` says what a call comes to that was sent and not answered: another
    try, or UNKNOWN. `timeout_s` is the longest that a call may take from connecting to the last byte; `connections` how many are kept
    side by side; `most_answer_bytes` is for destinations that say a word about each item of a large call. Where `allows` is given,
    every address is shown to it just before it is connected to, whether it came from a name server or from the URL, and those that it
    refuses are not.
    """

    def __init__(
        self,
        destination: str,
        guarantee: Guarantee,
        *,
        timeout_s: float,
        connections: int,
        allows: Callable[[IpAddress], bool] | None = None,
        most_answer_bytes: int = MAX_ANSWER_BYTES,
    ) -> None:
        self._destination = destination
        self._most_answer_bytes = most_answer_bytes
        self._guarantee = guarantee
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._connections = connections
        self._allows = allows
        self._session: aiohttp.ClientSession | None = None

    async def call(
        self, method: str, url: str | URL, *, headers: Mapping[str, str] | None = None, body: bytes = b""
    ) -> Answer | Outcome:
        """The answer, whatever its status; an Outcome when there was none. Raises nothing but CancelledError.

        A URL that is text is quoted where that lacks; one that must stay as it is comes as `URL(..., encoded=True)`.
        """
        whole_headers = {"Accept-Encoding": "identity", "User-Agent": "Cairn", **(headers or {})}
        for name, value in whole_headers.items():
            if not is_header_value(value):
                return retry(
                    f"the header {name[:64]} holds characters that no header may; look at its secret"
                )
        progress = SimpleNamespace(sent=False)
        try:
            async with self._opened().request(
                method,
                url,
                data=_payload(body),
                headers=whole_headers,
                allow_redirects=False,
                trace_request_ctx=progress,
            ) as response:
                text, whole = await _read(response, self._most_answer_bytes)
                answer = Answer(response.status, response.headers, text, whole)
                if not whole:
                    response.close()
                return answer
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return self._no_answer(error, progress.sent)

    def in_doubt(self, detail: str, after_us: int = 0) -> Outcome:
        """What the destination may have although it did not say so: another try where that is harmless, else UNKNOWN."""
        if self._guarantee is Guarantee.AT_LEAST_ONCE:
            return down(detail, after_us)
        return Outcome(Fate.UNKNOWN, f"{detail}; it may have it", retry_after_us=after_us, down=True)

    async def close(self) -> None:
        """Lets go of the connections. A later call opens new ones."""
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    def _opened(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=self._connections,
                keepalive_timeout=_IDLE_SECONDS,
                resolver=_Names(),
                socket_factory=self._connectable if self._allows else None,
            )
            tracing = aiohttp.TraceConfig()
            tracing.on_request_headers_sent.append(_note_sent)
            self._session = aiohttp.ClientSession(
                connector=connector,
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[tracing],
                auto_decompress=False,
            )
        return self._session

    def _connectable(self, info: tuple[Any, ...]) -> socket.socket:
        """The socket for an address that is about to be connected to; there is no later moment to look at it."""
        family, kind, protocol, _, address = info
        assert self._allows is not None
        if not self._allows(ipaddress.ip_address(address[0])):
            # The same words for each, so that several in a row stay this error.
            raise ForbiddenAddressError("the address is not allowed")
        return socket.socket(family, kind, protocol)

    def _no_answer(self, error: Exception, sent: bool) -> Outcome:
        who = self._destination
        if isinstance(error, aiohttp.ClientConnectorError) and isinstance(
            error.os_error, ForbiddenAddressError
        ):
            return failed(f"{who} is at an address that is not allowed; nothing was sent")
        if not sent:
            return down(f"{who} can't be reached: {_words(error)}")
        if isinstance(error, TimeoutError):
            return self.in_doubt(f"{who} did not answer in time")
        return self.in_doubt(f"{who} ended the connection without an answer ({type(error).__name__})")


async def call_each(
    items: Sequence[T],
    slots: asyncio.Semaphore,
    call: Callable[[T], Awaitable[Answer | Outcome]],
    read: Callable[[Answer], Outcome],
) -> list[Outcome]:
    """What became of each item of a batch, in their order: `read` of what its `call` was answered. As many go side by side as there are slots.

    When some calls got no answer, those that have not begun are HELD for a second: they would wait in vain as well, and be in doubt where
    nobody may ask twice.
    """
    silent = 0

    async def call_one(item: T) -> Outcome:
        nonlocal silent
        async with slots:
            if silent >= _MOST_SILENT_CALLS:
                until_us = now_us() + _HOLD_US
                return Outcome(
                    Fate.HELD, "waits: calls before it got no answer", until_us=until_us, down=True
                )
            answer = await call(item)
            if isinstance(answer, Outcome):
                silent += answer.down
                return answer
        return read(answer)

    return list(await asyncio.gather(*(call_one(item) for item in items)))


class _Names(AbstractResolver):
    """Looks names up as this machine does, in threads that nothing else needs."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        found = await asyncio.get_running_loop().run_in_executor(
            _LOOKUPS, partial(socket.getaddrinfo, host, port, family=family, type=socket.SOCK_STREAM)
        )
        return [
            ResolveResult(
                hostname=host,
                host=str(address[0]),
                port=port,
                family=kind,
                proto=protocol,
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        """Holds nothing."""


def is_header_value(text: str) -> bool:
    """Whether a text can be a header's value: visible ASCII, spaces and tabs, and nothing that could begin another header."""
    return text.isascii() and all(character.isprintable() or character == "\t" for character in text)


async def _note_sent(_session: object, context: SimpleNamespace, _params: object) -> None:
    """From here on bytes may be on their way."""
    context.trace_request_ctx.sent = True


def _payload(body: bytes) -> bytes | io.BytesIO | None:
    """What aiohttp is given to send: a large body goes in pieces, between which others have their turn."""
    return (io.BytesIO(body) if len(body) > _LARGE_BODY_BYTES else body) or None


async def _read(response: aiohttp.ClientResponse, most: int) -> tuple[bytes, bool]:
    """The body up to the limit, and whether that is all of it."""
    body = bytearray()
    try:
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > most:
                return bytes(body[:most]), False
    except (aiohttp.ClientError, OSError):
        return bytes(body), False
    return bytes(body), True


def _words(error: Exception) -> str:
    """Why a connection could not be made, without what the error quotes."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate is not trusted"
    if isinstance(error, aiohttp.ClientSSLError):
        return "TLS can't be agreed on"
    if isinstance(error, TimeoutError):
        return "no connection in time"
    if isinstance(error, aiohttp.ClientConnectorError):
        return type(error.os_error).__name__
    return type(error).__name__
