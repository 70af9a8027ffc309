"""Owns the way to a mail server: kept connections, one message at a time on each, and what each answer means.

Commands are not pipelined: the client library reads one answer at a time.

Guarantee: at most once after the message's data was sent. A cut between DATA and the server's 250 is UNKNOWN.
"""

import asyncio
import contextlib
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import aiosmtplib
import structlog

from cairn.activation.channels import mail
from cairn.activation.channels.base import (
    ChannelKind,
    ChannelTools,
    Letter,
    UnreachableError,
    down,
    failed,
    retry,
)
from cairn.activation.channels.findings import MAX_TEXT, Findings
from cairn.activation.channels.mail_maker import Mail, MailMaker
from cairn.activation.ledger import Fate, Guarantee, Outcome
from cairn.activation.model import Member
from cairn.activation.secrets import MissingSecretError
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.auth import is_loopback

log = structlog.get_logger()

DEFAULT_PORT = 587
DEFAULT_POOL_SIZE = 4

# A crash leaves two batches in doubt, 64 messages with the default pool and 256 at most. Longer batches cost fewer round trips to Postgres
# for each message; what is in doubt is not sent again.
_MESSAGES_PER_CONNECTION = 8
_MOST_IN_BATCH = 128
_TURNS = 2
_MAX_POOL = 32
_STATUS = re.compile(r"[245]\.\d{1,3}\.\d{1,3}\b")
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}|\[[0-9A-Fa-f:.]+\]")
# Servers say goodbye to a connection that is quiet for long; ours goes first.
_IDLE_SECONDS = 20.0
_QUIT_SECONDS = 2.0

_OK, _FORWARDS, _GOODBYE = 250, 251, 421
_TAKES_RECIPIENT = (_OK, _FORWARDS)
_SAYS_NO = (400, 599)
_CLOSED = "the mail server closed the connection before it had the message"
_BROKE_OFF = "the mail server left others without an answer; it does not have the message"
_SILENT = "the mail server did not answer in time; it does not have the message"


@dataclass(slots=True)
class _Batch:
    """Messages that are being handed over, by their places in what the lane gave."""

    waiting: deque[tuple[int, Mail]]
    outcomes: dict[int, Outcome]
    trouble: str = ""


class SmtpChannel:
    """One mail server."""

    ordered = False
    linger_s = 0.0

    def __init__(self, whole: pb.Connection, tools: ChannelTools) -> None:
        connection = whole.smtp
        self._maker = MailMaker(whole, connection.from_address, connection.address_attribute, tools)
        self._connection = connection
        self._secrets = tools.secrets
        self._timeout_s = tools.settings.smtp_timeout_seconds
        self._size = connection.pool_size or DEFAULT_POOL_SIZE
        self._slots = asyncio.Semaphore(self._size)
        self._idle: list[tuple[aiosmtplib.SMTP, float]] = []
        self._busy = 0
        self.batch_size = min(_MOST_IN_BATCH, _MESSAGES_PER_CONNECTION * self._size)
        self.turns = asyncio.Semaphore(_TURNS)

    def prepare(self, letter: Letter) -> Mail | Outcome:
        return self._maker.make(letter)

    def address_of(self, prepared: Mail) -> str:
        return prepared.to

    def member_of(self, prepared: Mail) -> Member | None:
        return None

    async def open(self) -> None:
        """Costs nothing while there is a connection, idle or at work: whether it is still alive shows when it is used."""
        if self._busy or self._has_idle():
            return
        async with self._slots:
            self._keep(await self._connect())

    async def probe(self) -> str:
        if problem := self._maker.key_problem():
            raise UnreachableError(problem)
        client = await self._connect()
        secured = client.get_transport_info("cipher") is not None
        await _quit(client)
        return f"the mail server lets us in, {'with TLS' if secured else 'without TLS'}"

    async def send(self, prepared: Sequence[Mail]) -> list[Outcome]:
        batch = _Batch(deque(enumerate(prepared)), {})
        await asyncio.gather(*(self._work(batch) for _ in range(min(self._size, len(prepared)))))
        nobody = down(batch.trouble)
        return [batch.outcomes.get(place, nobody) for place in range(len(prepared))]

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        await asyncio.gather(*(_quit(client) for client, _ in idle))

    async def _work(self, batch: _Batch) -> None:
        """Hands over what waits, message by message over one connection, until there is none or no connection is to be had."""
        async with self._slots:
            if not batch.waiting:
                return
            self._busy += 1
            try:
                await self._hand_over_all(batch)
            except UnreachableError as error:
                batch.trouble = str(error)
            finally:
                self._busy -= 1

    async def _hand_over_all(self, batch: _Batch) -> None:
        client: aiosmtplib.SMTP | None = None
        reused = False
        while batch.waiting:
            place, message = batch.waiting.popleft()
            outcome = None
            try:
                if client is None or not client.is_connected:
                    client, reused = await self._take()
                outcome = await self._hand_over(client, message, reused)
                if outcome is None:
                    # A kept connection that the server has closed meanwhile says nothing about the message.
                    client, reused = await self._connect(), False
                    outcome = await self._hand_over(client, message, reused)
            except UnreachableError:
                batch.waiting.appendleft((place, message))
                raise
            batch.outcomes[place] = outcome = outcome or down(_CLOSED)
            if outcome.fate is Fate.UNKNOWN or outcome.detail == _SILENT:
                # A server that leaves one without an answer would do so with the next: they are spared the wait and the doubt.
                batch.trouble = _BROKE_OFF
                return
            reused = True
        if client is not None:
            self._keep(client)

    async def _hand_over(self, client: aiosmtplib.SMTP, message: Mail, reused: bool) -> Outcome | None:
        """One message over one connection; None when a reused one was gone before the message's data was sent."""
        try:
            answer = await client.execute_command(
                b"MAIL", b"FROM:<%b>" % message.sender.address.encode("ascii")
            )
            taken = answer.code == _OK
            if taken:
                answer = await client.execute_command(b"RCPT", b"TO:<%b>" % message.to.encode("ascii"))
                taken = answer.code in _TAKES_RECIPIENT
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            client.close()
            return None if reused else down(_SILENT if _is_timeout(error) else _CLOSED)
        except BaseException:
            client.close()
            raise
        if not taken:
            if answer.code == _GOODBYE and reused:
                return None
            await self._reset(client)
            return _refused(answer.code, answer.message)
        try:
            answer = await client.data(message.data)
        except aiosmtplib.SMTPResponseException as error:
            if not _SAYS_NO[0] <= error.code <= _SAYS_NO[1]:  # what nobody understands may have been a yes
                client.close()
                return _in_doubt(message)
            await self._reset(client)
            return _refused(error.code, error.message)
        except (aiosmtplib.SMTPException, OSError):
            client.close()
            return _in_doubt(message)
        except BaseException:
            client.close()
            raise
        detail = mail.without_addresses(f"{answer.code} {answer.message}")
        return Outcome(Fate.SENT, detail, message.message_id)

    def _has_idle(self) -> bool:
        now = asyncio.get_running_loop().time()
        while self._idle:
            client, since = self._idle[-1]
            if client.is_connected and now - since < _IDLE_SECONDS:
                return True
            self._idle.pop()
            client.close()
        return False

    async def _take(self) -> tuple[aiosmtplib.SMTP, bool]:
        """A connection, and whether it was used before. To be called within a slot."""
        if self._has_idle():
            return self._idle.pop()[0], True
        return await self._connect(), False

    async def _connect(self) -> aiosmtplib.SMTP:
        connection = self._connection
        security = effective_security(connection)
        try:
            password = self._secrets.read(connection.password_secret) if connection.password_secret else None
        except MissingSecretError as error:
            raise UnreachableError(str(error)) from None
        client = aiosmtplib.SMTP(
            hostname=connection.host,
            port=connection.port or DEFAULT_PORT,
            username=connection.username or None,
            password=password,
            timeout=self._timeout_s,
            use_tls=security == pb.SMTP_SECURITY_TLS,
            start_tls=security == pb.SMTP_SECURITY_STARTTLS,
            local_hostname=self._maker.sender.domain,
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.connect()
                if client.is_ehlo_or_helo_needed:
                    await client.ehlo()
        except aiosmtplib.SMTPAuthenticationError as error:
            client.close()
            # Without its words, which might repeat what it was told.
            status = _STATUS.match(error.message)
            raise UnreachableError(
                f"the mail server refuses the login: {error.code}{' ' + status[0] if status else ''}"
            ) from None
        except aiosmtplib.SMTPResponseException as error:
            client.close()
            answer = mail.without_addresses(f"{error.code} {error.message}")
            raise UnreachableError(f"the mail server does not let us in: {answer}") from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            client.close()
            raise UnreachableError(f"the mail server does not answer ({type(error).__name__})") from None
        except BaseException:
            client.close()
            raise
        return client

    def _keep(self, client: aiosmtplib.SMTP) -> None:
        if client.is_connected:
            self._idle.append((client, asyncio.get_running_loop().time()))

    async def _reset(self, client: aiosmtplib.SMTP) -> None:
        """Readies the connection for the next message after a refusal."""
        try:
            await client.rset()
        except (aiosmtplib.SMTPException, OSError):
            client.close()


def effective_security(connection: pb.SmtpConnection) -> pb.SmtpSecurity.ValueType:
    """How the connection is protected, once the default is filled in."""
    if connection.security != pb.SMTP_SECURITY_UNSPECIFIED:
        return connection.security
    return pb.SMTP_SECURITY_NONE if is_loopback(connection.host) else pb.SMTP_SECURITY_STARTTLS


def _in_doubt(message: Mail) -> Outcome:
    detail = "the connection was cut before the mail server confirmed the message; it may have it"
    return Outcome(Fate.UNKNOWN, detail, message.message_id)


def _refused(code: int, text: str) -> Outcome:
    answer = mail.without_addresses(f"{code} {text}")
    if code == _GOODBYE:
        return down(f"the mail server is not available: {answer}")
    if 500 <= code < 600:
        return failed(f"the mail server refused it: {answer}")
    return retry(f"the mail server deferred it: {answer}")


def _is_timeout(error: Exception) -> bool:
    return isinstance(error, (aiosmtplib.SMTPTimeoutError, TimeoutError))


async def _quit(client: aiosmtplib.SMTP) -> None:
    try:
        with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
            await client.quit(timeout=_QUIT_SECONDS)
    finally:
        client.close()


def check(whole: pb.Connection, findings: Findings) -> None:
    """All that is wrong with a connection to a mail server."""
    connection = whole.smtp
    findings.matches("smtp.host", connection.host, _HOST, "is required: a host name or an address")
    if not 0 <= connection.port <= 65535:
        findings.add("smtp.port", f"is {connection.port}; a port is 1 to 65535, 0 or none is {DEFAULT_PORT}")
    if connection.security not in pb.SmtpSecurity.values():
        findings.add("smtp.security", "is unknown: NONE, STARTTLS or TLS")
    elif (
        connection.username
        and effective_security(connection) == pb.SMTP_SECURITY_NONE
        and not is_loopback(connection.host)
    ):
        findings.add("smtp.security", "would send the password in the clear; use STARTTLS or TLS")
    findings.short_text("smtp.username", connection.username)
    if connection.username and not connection.password_secret:
        findings.add("smtp.password_secret", "is required with a user name")
    findings.secret("smtp.password_secret", connection.password_secret)
    if len(connection.from_address) > 2 * MAX_TEXT or mail.parse_sender(connection.from_address) is None:
        findings.add("smtp.from_address", "is required: an address or `Name <address>`, in one line")
    findings.short_text("smtp.address_attribute", connection.address_attribute)
    findings.pool_size("smtp.pool_size", connection.pool_size, _MAX_POOL)


KIND = ChannelKind(
    name="smtp",
    guarantee=Guarantee.AT_MOST_ONCE,
    check=check,
    open=SmtpChannel,
    needs_template=True,
    writes_to_people=True,
)
