"""Owns what the channels share that hand mail over by an API, a request a message: see `ses` and `sendgrid` for the rest.

Guarantee: at most once after the request was sent. Neither API has a key that would make a repetition harmless.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence

from cairn.activation.channels import mail
from cairn.activation.channels.base import ChannelTools, Letter, UnreachableError, failed, retry
from cairn.activation.channels.findings import MAX_TEXT, Findings
from cairn.activation.channels.http import Answer, HttpClient, call_each
from cairn.activation.channels.mail_maker import Mail, MailMaker
from cairn.activation.ledger import Guarantee, Outcome
from cairn.activation.model import Member
from cairn.activation.secrets import MissingSecretError

DEFAULT_POOL_SIZE = 8

_MESSAGES_PER_CONNECTION = 4
_MOST_IN_BATCH = 64
_TURNS = 2
_MAX_POOL = 64


class MailApiChannel(ABC):
    """An account at a provider of mail. `secret` is the name of its credentials, `most_bytes` the largest message that it takes."""

    ordered = False
    linger_s = 0.0

    def __init__(
        self,
        destination: str,
        maker: MailMaker,
        tools: ChannelTools,
        *,
        secret: str,
        pool_size: int,
        most_bytes: int,
    ) -> None:
        size = pool_size or DEFAULT_POOL_SIZE
        self._destination = destination
        self._maker = maker
        self._secrets = tools.secrets
        self._secret = secret
        self._most_bytes = most_bytes
        self._slots = asyncio.Semaphore(size)
        self._client = HttpClient(
            destination,
            Guarantee.AT_MOST_ONCE,
            timeout_s=tools.settings.http_timeout_seconds,
            connections=size,
        )
        self.batch_size = min(_MOST_IN_BATCH, _MESSAGES_PER_CONNECTION * size)
        self.turns = asyncio.Semaphore(_TURNS)

    @abstractmethod
    def render(self, message: Mail) -> bytes:
        """The body of the request that hands a message over."""

    @abstractmethod
    async def post(self, secret: str, body: bytes) -> Answer | Outcome:
        """Hands a message over, with the credentials as they are now."""

    @abstractmethod
    async def ask(self, secret: str) -> str:
        """Asks the provider about the account, and tells it in words; UnreachableError when it does not let us in."""

    @abstractmethod
    def read(self, answer: Answer) -> Outcome:
        """What an answer to a message means."""

    def prepare(self, letter: Letter) -> Mail | Outcome:
        made = self._maker.make(letter)
        if isinstance(made, Mail) and len(made.data) > self._most_bytes:
            return failed(f"the message has {len(made.data):,} bytes, more than {self._destination} takes")
        return made

    def address_of(self, prepared: Mail) -> str:
        return prepared.to

    def member_of(self, prepared: Mail) -> Member | None:
        return None

    async def open(self) -> None:
        self._read_secret()

    async def probe(self) -> str:
        return await self.ask(self._read_secret())

    async def send(self, prepared: Sequence[Mail]) -> list[Outcome]:
        try:
            secret = self._secrets.read(self._secret)
        except MissingSecretError as error:
            return [retry(str(error))] * len(prepared)
        return await call_each(
            prepared,
            self._slots,
            lambda message: self.post(secret, self.render(message)),
            self.read,
        )

    async def close(self) -> None:
        await self._client.close()

    def _read_secret(self) -> str:
        try:
            return self._secrets.read(self._secret)
        except MissingSecretError as error:
            raise UnreachableError(str(error)) from None


def check_common(
    field: str, from_address: str, address_attribute: str, base_url: str, pool_size: int, findings: Findings
) -> None:
    """What is wrong with what all connections to such APIs have; `field` is the kind's."""
    if len(from_address) > 2 * MAX_TEXT or mail.parse_sender(from_address) is None:
        findings.add(f"{field}.from_address", "is required: an address or `Name <address>`, in one line")
    findings.short_text(f"{field}.address_attribute", address_attribute)
    findings.base_url(f"{field}.base_url", base_url)
    findings.pool_size(f"{field}.pool_size", pool_size, _MAX_POOL)
