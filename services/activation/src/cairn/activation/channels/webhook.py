"""Owns the way to a webhook: a signed POST for each activation to a service of the operator's own.

Guarantee: at least once; the receiver knows a repetition by its `Idempotency-Key`. It is signed as Stripe signs: a receiver takes
`Cairn-Signature: t=1790000000,v1=5257a8...`, makes the HMAC-SHA256 of `1790000000.` and the body with the secret, compares, and
refuses what is older than some minutes.
"""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import msgspec

from cairn.activation.channels.addresses import MAX_URL_CHARS, literal, read_url, rule_for
from cairn.activation.channels.base import (
    ChannelKind,
    ChannelTools,
    Letter,
    UnreachableError,
    down,
    failed,
    read_context,
    retry,
    whole_text,
)
from cairn.activation.channels.findings import Findings
from cairn.activation.channels.http import Answer, HttpClient, call_each
from cairn.activation.ledger import Fate, Guarantee, Outcome
from cairn.activation.model import Claim, Member
from cairn.activation.secrets import MissingSecretError
from cairn.activation.templates import Message, TemplateError, with_roots
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import now_us, to_datetime

DEFAULT_POOL_SIZE = 8
MAX_HEADERS = 20

_DESTINATION = "the webhook"
_CALLS_PER_CONNECTION = 4
_MOST_IN_BATCH = 64
_TURNS = 4
_MAX_POOL = 64
# What RFC 3986 lets stand for itself, so that ids stay readable; a percent sign is quoted, so that the key can be read back.
_KEY_SAFE = "!#$&'()*+,/:;=?@[]-._~"
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}")
_OURS = frozenset(
    {
        "accept-encoding",
        "cairn-signature",
        "content-encoding",
        "content-length",
        "content-type",
        "expect",
        "host",
        "idempotency-key",
        "user-agent",
    }
)
# RFC 9110, 7.6.1: they are about one connection, and a message's framing is one of them.
_HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
# Of the refusals, these pass: a request that took too long, one that came too early, one of too many.
_PASSING_STATUSES = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Call:
    """A body that only has to be signed and sent."""

    key: str
    body: bytes


class WebhookChannel:
    """One URL."""

    ordered = False
    linger_s = 0.0

    def __init__(self, whole: pb.Connection, tools: ChannelTools) -> None:
        connection = whole.webhook
        url = read_url(connection.url)
        assert url is not None, "checked when the connection was put"
        self._url = url
        self._signing_secret = connection.signing_secret
        self._header_secrets = dict(connection.header_secrets)
        self._secrets = tools.secrets
        size = connection.pool_size or DEFAULT_POOL_SIZE
        self._slots = asyncio.Semaphore(size)
        self._client = HttpClient(
            _DESTINATION,
            Guarantee.AT_LEAST_ONCE,
            timeout_s=tools.settings.http_timeout_seconds,
            connections=size,
            allows=rule_for(url, tools.settings.webhook_allowed_networks),
        )
        self.batch_size = min(_MOST_IN_BATCH, _CALLS_PER_CONNECTION * size)
        self.turns = asyncio.Semaphore(_TURNS)

    def prepare(self, letter: Letter) -> Call | Outcome:
        variables = read_context(letter.claim.context)
        if isinstance(variables, Outcome):
            return variables
        message = None
        if letter.template is not None:
            try:
                message = letter.template.render(with_roots(variables, unsubscribe_url=""))
            except TemplateError as error:
                return failed(str(error))
        return Call(idempotency_key(letter.claim.activation_id), render_body(letter.claim, message))

    def address_of(self, prepared: Call) -> str:
        return ""

    def member_of(self, prepared: Call) -> Member | None:
        return None

    async def open(self) -> None:
        try:
            self._read_secrets()
        except MissingSecretError as error:
            raise UnreachableError(str(error)) from None

    async def probe(self) -> str:
        answer = await self._client.call("HEAD", self._url)
        if isinstance(answer, Outcome):
            raise UnreachableError(answer.detail)
        return f"{_DESTINATION} can be reached; it answers HEAD with HTTP {answer.status}"

    async def send(self, prepared: Sequence[Call]) -> list[Outcome]:
        try:
            key, headers = self._read_secrets()
        except MissingSecretError as error:
            return [retry(str(error))] * len(prepared)

        async def post(call: Call) -> Answer | Outcome:
            signature = sign(key, now_us() // 1_000_000, call.body)
            return await self._client.call(
                "POST",
                self._url,
                headers={
                    **headers,
                    "Content-Type": "application/json",
                    "Idempotency-Key": call.key,
                    "Cairn-Signature": signature,
                },
                body=call.body,
            )

        return await call_each(prepared, self._slots, post, lambda answer: read_answer(answer, now_us()))

    async def close(self) -> None:
        await self._client.close()

    def _read_secrets(self) -> tuple[str, dict[str, str]]:
        key = self._secrets.read(self._signing_secret)
        return key, {name: self._secrets.read(secret) for name, secret in self._header_secrets.items()}


def idempotency_key(activation_id: str) -> str:
    """An activation's id as a header can hold it: the id itself, with percent signs, spaces and what is not ASCII quoted."""
    return quote(activation_id, safe=_KEY_SAFE)


def sign(key: str, seconds: int, body: bytes) -> str:
    """The value of `Cairn-Signature` for a body that leaves at a time, in seconds since the epoch."""
    digest = hmac.new(key.encode(), b"%d." % seconds + body, hashlib.sha256).hexdigest()
    return f"t={seconds},v1={digest}"


def render_body(claim: Claim, message: Message | None) -> bytes:
    """The JSON that a receiver gets. `context` is as the activation brought it, to the last digit of a number."""
    body: dict[str, object] = {
        "activation_id": claim.activation_id,
        "profile_id": claim.profile_id,
        "journey_version": claim.journey_version,
        "stage": claim.stage,
        "step": claim.step,
        "enrollment": claim.enrollment,
        "request_time": to_datetime(claim.request_us),
        "context": msgspec.Raw(claim.context or b"{}"),
    }
    if message is not None:
        words = {"subject": message.subject, "text": message.text, "html": message.html}
        body["message"] = {name: whole_text(text) for name, text in words.items()}
    return msgspec.json.encode(body)


def read_answer(answer: Answer, now: int) -> Outcome:
    """What a receiver's answer means; `now` in microseconds. Of its words nothing is kept: they may be about a person."""
    status = answer.status
    if 200 <= status < 300:
        return Outcome(Fate.SENT, f"{_DESTINATION} took it (HTTP {status})")
    after_us = answer.retry_after_us(now)
    if status == 429 or status >= 500:
        return down(f"{_DESTINATION} answered HTTP {status}", after_us)
    if 300 <= status < 400:
        return retry(
            f"{_DESTINATION} answered with a redirect (HTTP {status}), which is not followed; the connection needs its new address",
            after_us,
        )
    if 400 <= status < 500 and status not in _PASSING_STATUSES:
        return failed(f"{_DESTINATION} refused it (HTTP {status})")
    return retry(f"{_DESTINATION} answered HTTP {status}", after_us)


def check(whole: pb.Connection, findings: Findings) -> None:
    """All that is wrong with a connection to a webhook."""
    connection = whole.webhook
    _check_url(connection.url, findings)
    findings.secret("webhook.signing_secret", connection.signing_secret, required=True)
    findings.pool_size("webhook.pool_size", connection.pool_size, _MAX_POOL)
    if len(connection.header_secrets) > MAX_HEADERS:
        findings.add(
            "webhook.header_secrets", f"has {len(connection.header_secrets)}; at most {MAX_HEADERS} are sent"
        )
    seen: set[str] = set()
    for name, secret in sorted(connection.header_secrets.items()):
        place, lower = f"webhook.header_secrets[{name[:64]}]", name.lower()
        if not _HEADER_NAME.fullmatch(name):
            findings.add(place, "is no header's name")
        elif lower in _OURS or lower in _HOP_BY_HOP:
            findings.add(place, "is a header that only the service itself sets")
        elif lower in seen:
            findings.add(place, "is there twice; the case of a header's name does not matter")
        seen.add(lower)
        findings.secret(place, secret, required=True)


def _check_url(text: str, findings: Findings) -> None:
    url = read_url(text)
    if url is None:
        findings.add(
            "webhook.url",
            f"is required: an https address of at most {MAX_URL_CHARS:,} characters, without a user or a fragment; a login goes into "
            "header_secrets",
        )
        return
    address = literal(url)
    allows = rule_for(url, findings.allowed_networks)
    setting = "CAIRN_ACTIVATION_WEBHOOK_ALLOWED_NETWORKS"
    if url.scheme == "http" and not findings.allowed_networks:
        findings.add("webhook.url", f"would go without TLS; use https, or allow its network by {setting}")
    elif address is not None and not allows(address):
        findings.add(
            "webhook.url", f"leads to {address}, where webhooks may not go; {setting} can allow its network"
        )


KIND = ChannelKind(
    name="webhook",
    guarantee=Guarantee.AT_LEAST_ONCE,
    check=check,
    open=WebhookChannel,
)
