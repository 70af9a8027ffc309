"""Owns the way to a mail server: kept connections, one message at a time on each, and what each answer means.

Guarantee: at most once after the message's data was sent. A cut between DATA and the server's 250 is UNKNOWN.
"""

import asyncio
import contextlib
import re
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
    attribute,
    failed,
    read_context,
    retry,
)
from cairn.activation.channels.findings import MAX_TEXT, Findings
from cairn.activation.ledger import Fate, Guarantee, Outcome
from cairn.activation.model import Member
from cairn.activation.secrets import MissingSecretError
from cairn.activation.templates import TemplateError
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.auth import is_loopback
from cairn.runtime.clock import now_us

log = structlog.get_logger()

DEFAULT_PORT = 587
DEFAULT_POOL_SIZE = 4
DEFAULT_ADDRESS_ATTRIBUTE = "email"

_MESSAGES_PER_CONNECTION = 4
_MOST_IN_BATCH = 64
_TURNS = 2
_MAX_POOL = 32
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}|\[[0-9A-Fa-f:.]+\]")
# Servers say goodbye to a connection that is quiet for long; ours goes first.
_IDLE_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Mail:
    """A message that only has to be handed over."""

    to: str
    data: bytes
    message_id: str


class SmtpChannel:
    """One mail server."""

    ordered = False
    linger_s = 0.0

    def __init__(self, whole: pb.Connection, tools: ChannelTools) -> None:
        connection = whole.smtp
        sender = mail.parse_sender(connection.from_address)
        assert sender is not None, "checked when the connection was put"
        self._sender = sender
        self._connection = connection
        self._secrets = tools.secrets
        self._timeout_s = tools.settings.smtp_timeout_seconds
        self._attribute = connection.address_attribute or DEFAULT_ADDRESS_ATTRIBUTE
        size = connection.pool_size or DEFAULT_POOL_SIZE
        self._slots = asyncio.Semaphore(size)
        self._idle: list[tuple[aiosmtplib.SMTP, float]] = []
        self.batch_size = min(_MOST_IN_BATCH, _MESSAGES_PER_CONNECTION * size)
        self.turns = asyncio.Semaphore(_TURNS)

    def prepare(self, letter: Letter) -> Mail | Outcome:
        if letter.template is None:
            return failed("an e-mail needs a template")
        variables = read_context(letter.claim.context)
        if isinstance(variables, Outcome):
            return variables
        text = attribute(variables, self._attribute)
        if not text.strip():
            return failed(f"the profile has no address (attribute `{self._attribute}`)")
        to = mail.parse_address(text)
        if not to:
            return failed(
                f"the profile's address is none that a mail server takes (attribute `{self._attribute}`)"
            )
        try:
            message = letter.template.render({"profile": {}, "entry": {}, "event": {}, **variables})
        except TemplateError as error:
            return failed(str(error))
        activation_id = letter.claim.activation_id
        data = mail.render_message(
            message,
            sender=self._sender,
            to=to,
            activation_id=activation_id,
            sent_seconds=now_us() // 1_000_000,
        )
        return Mail(to, data, mail.external_id(activation_id, self._sender.domain))

    def address_of(self, prepared: Mail) -> str:
        return prepared.to

    def member_of(self, prepared: Mail) -> Member | None:
        return None

    async def open(self) -> None:
        async with self._slots:
            client, _ = await self._take()
            self._keep(client)

    async def send(self, prepared: Sequence[Mail]) -> list[Outcome]:
        return list(await asyncio.gather(*(self._send_one(message) for message in prepared)))

    async def close(self) -> None:
        idle, self._idle = self._idle, []
        for client, _ in idle:
            await _quit(client)

    async def _send_one(self, message: Mail) -> Outcome:
        async with self._slots:
            try:
                client, reused = await self._take()
            except UnreachableError as error:
                return retry(str(error))
            outcome = await self._hand_over(client, message)
            if outcome is None and reused:
                # A kept connection that the server has closed meanwhile says nothing about the message.
                try:
                    client = await self._connect()
                except UnreachableError as error:
                    return retry(str(error))
                outcome = await self._hand_over(client, message)
            return outcome or retry("the mail server closed the connection before it had the message")

    async def _hand_over(self, client: aiosmtplib.SMTP, message: Mail) -> Outcome | None:
        """One message over one connection; None when the connection was gone before the message's data was sent."""
        try:
            await client.mail(self._sender.address)
            await client.rcpt(message.to)
        except aiosmtplib.SMTPResponseException as error:
            await self._reset(client)
            return _refused(error)
        except (aiosmtplib.SMTPException, OSError, ValueError):
            client.close()
            return None
        except BaseException:
            client.close()
            raise
        try:
            answer = await client.data(message.data)
        except aiosmtplib.SMTPResponseException as error:
            await self._reset(client)
            return _refused(error)
        except (aiosmtplib.SMTPException, OSError):
            client.close()
            detail = "the connection was cut before the mail server confirmed the message; it may have it"
            return Outcome(Fate.UNKNOWN, detail, message.message_id)
        except BaseException:
            client.close()
            raise
        self._keep(client)
        return Outcome(
            Fate.SENT, mail.without_addresses(f"{answer.code} {answer.message}"), message.message_id
        )

    async def _take(self) -> tuple[aiosmtplib.SMTP, bool]:
        """A connection, and whether it was used before. To be called within a slot."""
        now = asyncio.get_running_loop().time()
        while self._idle:
            client, since = self._idle.pop()
            if client.is_connected and now - since < _IDLE_SECONDS:
                return client, True
            client.close()
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
            local_hostname=self._sender.domain,
        )
        try:
            async with asyncio.timeout(self._timeout_s):
                await client.connect()
                await client.ehlo()
        except aiosmtplib.SMTPResponseException as error:
            client.close()
            answer = mail.without_addresses(f"{error.code} {error.message}")
            raise UnreachableError(f"the mail server does not let us in: {answer}") from None
        except (aiosmtplib.SMTPException, OSError, ValueError) as error:
            client.close()
            raise UnreachableError(f"the mail server does not answer ({type(error).__name__})") from None
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
        self._keep(client)


def effective_security(connection: pb.SmtpConnection) -> pb.SmtpSecurity.ValueType:
    """How the connection is protected, once the default is filled in."""
    if connection.security != pb.SMTP_SECURITY_UNSPECIFIED:
        return connection.security
    return pb.SMTP_SECURITY_NONE if is_loopback(connection.host) else pb.SMTP_SECURITY_STARTTLS


def _refused(error: aiosmtplib.SMTPResponseException) -> Outcome:
    answer = mail.without_addresses(f"{error.code} {error.message}")
    if 500 <= error.code < 600:
        return failed(f"the mail server refused it: {answer}")
    return retry(f"the mail server deferred it: {answer}")


async def _quit(client: aiosmtplib.SMTP) -> None:
    with contextlib.suppress(aiosmtplib.SMTPException, OSError, TimeoutError):
        await client.quit(timeout=2)
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
