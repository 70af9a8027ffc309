"""Owns the way to SendGrid, by version 3 of its API: one request a message, and what each answer means.

Guarantee: at most once after the request was sent: SendGrid has no key that would make a repetition harmless, so an answer that is missing,
not SendGrid's own, or a failure inside SendGrid (HTTP 500) leaves the message UNKNOWN. The message is built by SendGrid from its parts,
and signed by it: a DKIM key of the connection's is not used.
"""

import base64
import binascii
from email.utils import parseaddr

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

from cairn.activation import wire
from cairn.activation.channels.base import (
    ChannelKind,
    ChannelTools,
    Letter,
    UnreachableError,
    down,
    failed,
    whole_text,
)
from cairn.activation.channels.findings import Findings
from cairn.activation.channels.http import Answer, HttpClient, bounded_pause_us, is_header_value
from cairn.activation.channels.mail_api import MailApiChannel, check_common
from cairn.activation.channels.mail_maker import Mail, MailMaker
from cairn.activation.ledger import Fate, Guarantee, Outcome
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import now_us

DEFAULT_BASE_URL = "https://api.sendgrid.com"
MAX_MESSAGE_BYTES = 30 * 1024 * 1024
"""Largest message: https://www.twilio.com/docs/sendgrid/api-reference/mail-send/limitations."""

_DESTINATION = "SendGrid"
_SEND_PATH = "/v3/mail/send"
_SCOPES_PATH = "/v3/scopes"
_SEND_SCOPE = "mail.send"
_SECOND_US = 1_000_000


class SendgridChannel(MailApiChannel):
    """One account."""

    def __init__(self, whole: pb.Connection, tools: ChannelTools) -> None:
        connection = whole.sendgrid
        maker = MailMaker(whole, connection.from_address, connection.address_attribute, tools)
        super().__init__(
            _DESTINATION,
            maker,
            tools,
            secret=connection.api_key_secret,
            pool_size=connection.pool_size,
            most_bytes=MAX_MESSAGE_BYTES,
        )
        self._from: dict[str, str] = {"email": maker.sender.address}
        if name := parseaddr(connection.from_address)[0]:
            self._from["name"] = name
        self._connection_id = wire.parse_id("connections", whole.name)
        self._base = connection.base_url.rstrip("/") or DEFAULT_BASE_URL

    def prepare(self, letter: Letter) -> Mail | Outcome:
        made = super().prepare(letter)
        if isinstance(made, Mail):
            words = made.message
            if not words.subject or not (words.text or words.html):
                return failed(f"{_DESTINATION} takes no message without a subject or without words")
        return made

    def render(self, message: Mail) -> bytes:
        words = message.message
        parts = (("text/plain", whole_text(words.text)), ("text/html", whole_text(words.html)))
        # They come back with every event, and find the delivery again.
        arguments = {"activation_id": message.activation_id, "connection": self._connection_id}
        return msgspec.json.encode(
            {
                "personalizations": [{"to": [{"email": message.to}], "custom_args": arguments}],
                "from": self._from,
                "subject": whole_text(words.subject),
                "content": [{"type": kind, "value": value} for kind, value in parts if value],
                "headers": _headers(message),
            }
        )

    async def post(self, secret: str, body: bytes) -> Answer | Outcome:
        return await self._call(secret, "POST", _SEND_PATH, body)

    async def ask(self, secret: str) -> str:
        answer = await self._call(secret, "GET", _SCOPES_PATH, b"")
        if isinstance(answer, Outcome):
            raise UnreachableError(answer.detail)
        scopes = (answer.json() or {}).get("scopes")
        if answer.status != 200 or not isinstance(scopes, list):
            raise UnreachableError(self.read(answer).detail)
        if _SEND_SCOPE not in scopes:
            raise UnreachableError(
                f"{_DESTINATION} lets us in, but the API key may not send: it lacks the scope {_SEND_SCOPE}"
            )
        return f"{_DESTINATION} lets us in, and the API key may send"

    def read(self, answer: Answer) -> Outcome:
        return read_answer(answer, self._client, now_us())

    async def _call(self, secret: str, method: str, path: str, body: bytes) -> Answer | Outcome:
        headers = {"Authorization": f"Bearer {secret}", "Accept": "application/json"}
        if body:
            headers["Content-Type"] = "application/json"
        return await self._client.call(method, self._base + path, headers=headers, body=body)


def _headers(message: Mail) -> dict[str, str]:
    headers = {"Message-ID": message.message_id}
    if is_header_value(message.activation_id):
        headers["X-Cairn-Activation"] = message.activation_id
    if message.unsubscribe_url:
        headers["List-Unsubscribe"] = f"<{message.unsubscribe_url}>"
        headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    return headers


def read_answer(answer: Answer, client: HttpClient, now: int) -> Outcome:
    """What an answer means; `now` in microseconds. Of SendGrid's words nothing is kept: they may quote an address.

    An error of SendGrid's own has a list of `errors`. Any other comes from something before it, which does not pass on what it refuses.
    """
    status = answer.status
    message_id = answer.headers.get("X-Message-Id", "")
    if status == 202 and message_id:
        return Outcome(Fate.SENT, f"{_DESTINATION} took it", message_id[:200])
    if 200 <= status < 300:
        return client.in_doubt(f"{_DESTINATION} answered HTTP {status} without an X-Message-Id")
    errors = (answer.json() or {}).get("errors")
    after_us = answer.retry_after_us(now)
    if status == 429:
        return down(
            f"{_DESTINATION} takes no more for now (HTTP 429)", after_us or _until_reset_us(answer, now)
        )
    if not isinstance(errors, list):
        detail = f"something other than {_DESTINATION} answered HTTP {status}"
        return client.in_doubt(detail, after_us) if status >= 500 or status == 408 else down(detail, after_us)
    detail = f"{_DESTINATION} answered HTTP {status}"
    if status == 401:
        if "credits" in str(errors):
            return down(f"{detail}: the account has no credits left", after_us)
        return down(f"{detail}: the API key is refused; renew its secret", after_us)
    if status == 403:
        return down(
            f"{detail}: the API key may not send, or the sender is not verified; look at both", after_us
        )
    if status in (404, 405):
        return down(f"{detail}: there is no such call; look at the connection's base_url", after_us)
    if status == 503:
        return down(f"{detail}: it is not available", after_us)
    if status >= 500:
        return client.in_doubt(detail, after_us)
    return failed(f"{detail}: {_refusal(status, errors)}")


def _refusal(status: int, errors: list[object]) -> str:
    if status == 413:
        return "the message is too large"
    # The names of fields are SendGrid's own: `from.email`, `content.0.value`.
    fields = [error.get("field") for error in errors if isinstance(error, dict)]
    named = sorted({field[:60] for field in fields if isinstance(field, str) and "@" not in field})
    return f"it does not take this message ({', '.join(named[:5]) or 'no field is named'})"


def _until_reset_us(answer: Answer, now: int) -> int:
    """The pause until `X-RateLimit-Reset`, in seconds since the epoch; 0 without one."""
    text = answer.headers.get("X-RateLimit-Reset", "")
    return bounded_pause_us(int(text[:12]) * _SECOND_US - now) if text.isascii() and text.isdigit() else 0


def check(whole: pb.Connection, findings: Findings) -> None:
    """All that is wrong with a connection to SendGrid."""
    connection = whole.sendgrid
    findings.secret("sendgrid.api_key_secret", connection.api_key_secret, required=True)
    if connection.feedback_public_key and not _is_public_key(connection.feedback_public_key):
        findings.add(
            "sendgrid.feedback_public_key", "is the ECDSA key of the signed event webhook, in base64"
        )
    if whole.mail.dkim_domain:
        findings.add("mail.dkim_domain", "has no effect: SendGrid builds and signs the message itself")
    check_common(
        "sendgrid",
        connection.from_address,
        connection.address_attribute,
        connection.base_url,
        connection.pool_size,
        findings,
    )


def _is_public_key(text: str) -> bool:
    try:
        key = load_der_public_key(base64.b64decode(text, validate=True))
    except (binascii.Error, ValueError, UnsupportedAlgorithm):
        return False
    return isinstance(key, EllipticCurvePublicKey)


KIND = ChannelKind(
    name="sendgrid",
    guarantee=Guarantee.AT_MOST_ONCE,
    check=check,
    open=SendgridChannel,
    needs_template=True,
    writes_to_people=True,
)
