"""Owns the way to a Google customer match audience, through the Data Manager API.

It fails fast: one member that it can't read, and nothing of the call is taken; the answer names the member. What is taken is matched
later, so SENT says that it was accepted; the request's id, the delivery's external id, leads to its diagnostics.
"""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import msgspec

from cairn.activation.channels.audience import (
    AudienceChannel,
    Call,
    Limits,
    Row,
    Verdict,
    later,
    no_answer_of,
    open_client,
    taken,
)
from cairn.activation.channels.base import ChannelKind, ChannelTools, failed, retry
from cairn.activation.channels.findings import Findings
from cairn.activation.channels.google_tokens import AccessTokens
from cairn.activation.channels.http import Answer
from cairn.activation.ledger import Guarantee, Outcome
from cairn.activation.normalize_google import GOOGLE
from cairn.api.activation.v1 import activation_pb2 as pb

DEFAULT_BASE_URL = "https://datamanager.googleapis.com/v1"
DEFAULT_TOKEN_URL = "https://oauth2.googleapis.com/token"  # noqa: S105 - an address
DEFAULT_IDENTIFIERS = {"EMAIL": "email"}

MAX_PEOPLE_IN_CALL = 10_000
"""Source: developers.google.com/data-manager/api/devguides/limits, which also has the 300 requests a minute and 100,000 a day."""

MAX_BYTES_IN_CALL = 8 * 1024 * 1024
"""Ours: no figure is published, and 10,000 people with both identifiers are 2.5 MB."""

_API = "the Data Manager API"
_DIGITS = re.compile(r"[0-9]{1,20}")
_MEMBER = re.compile(r"audience_?members\[([0-9]{1,5})\]", re.IGNORECASE)
_REASON = re.compile(r"[A-Z][A-Z0-9_]{0,63}")
_SECONDS = re.compile(r"([0-9]{1,6})(?:\.([0-9]{1,6})[0-9]*)?s")
_FIELDS = MappingProxyType({"EMAIL": "emailAddress", "PHONE": "phoneNumber"})
# google.rpc.Code: what passes by itself, whatever the HTTP status says.
_PASSING_STATUSES = frozenset(
    {"ABORTED", "CANCELLED", "DEADLINE_EXCEEDED", "INTERNAL", "RESOURCE_EXHAUSTED", "UNAVAILABLE", "UNKNOWN"}
)
_CONSENT_GRANTED = {"adUserData": "CONSENT_GRANTED", "adPersonalization": "CONSENT_GRANTED"}


class GoogleAudience:
    """One user list."""

    limits = Limits(MAX_PEOPLE_IN_CALL, MAX_BYTES_IN_CALL)
    normalizer = GOOGLE

    def __init__(self, whole: pb.Connection, tokens: AccessTokens) -> None:
        connection = whole.google_audience
        base = (connection.base_url or DEFAULT_BASE_URL).rstrip("/")
        self.url = f"{base}/audienceMembers"
        self._tokens = tokens
        destination = {
            "operatingAccount": _account(connection.account_id),
            "loginAccount": _account(connection.login_account_id or connection.account_id),
            "productDestinationId": connection.audience_id,
        }
        self._remove: dict[str, Any] = {
            "destinations": [destination],
            "encoding": "HEX",
            "validateOnly": False,
        }
        self._ingest: dict[str, Any] = {
            **self._remove,
            "termsOfService": {"customerMatchTermsOfServiceStatus": "ACCEPTED"},
        }
        if whole.requires_consent:
            # Only then it is known that everybody has consented; else the account's own setting holds.
            self._ingest["consent"] = _CONSENT_GRANTED

    async def open(self) -> None:
        await self._tokens.get()

    async def call(self, schema: Sequence[str], rows: Sequence[Row]) -> Call:
        token = await self._tokens.get()
        remove = rows[0].remove
        fields = [_FIELDS[identifier] for identifier in schema]
        members = [
            {
                "userData": {
                    "userIdentifiers": [
                        {name: value} for name, value in zip(fields, row.values, strict=True) if value
                    ]
                }
            }
            for row in rows
        ]
        return Call(
            "POST",
            f"{self.url}:{'remove' if remove else 'ingest'}",
            {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            msgspec.json.encode({**(self._remove if remove else self._ingest), "audienceMembers": members}),
        )

    def read(self, schema: Sequence[str], rows: Sequence[Row], answer: Answer, now: int) -> Verdict:
        body = answer.json()
        if body is None:
            return Verdict(no_answer_of(_API, answer, now))
        error = body.get("error")
        if isinstance(error, dict):
            if answer.status == 401:
                self._tokens.forget()
            return read_error(answer, error, len(rows), now)
        if answer.status != 200:
            return Verdict(later(f"HTTP {answer.status} without an error of {_API}", answer, now))
        return Verdict(taken(GOOGLE, body.get("requestId", "")))


def read_error(answer: Answer, error: Mapping[str, Any], people: int, now: int) -> Verdict:
    """What an error of the API means; their messages are left out, as they may quote what was sent."""
    status = str(error.get("status", ""))
    details = [detail for detail in _list(error.get("details")) if isinstance(detail, dict)]
    words = f"the ad platform answered HTTP {answer.status}, {_reason(status) or 'an error'}"
    if answer.status == 401:
        return Verdict(later(f"{words}: the access token is refused; it is renewed", answer, now))
    if answer.status == 429 or answer.status >= 500 or status in _PASSING_STATUSES:
        overloaded = status == "RESOURCE_EXHAUSTED"
        return Verdict(later(words, answer, now, overloaded=overloaded, after_us=_pause_us(details)))
    violations = [
        violation
        for detail in details
        for violation in _list(detail.get("fieldViolations"))
        if isinstance(violation, dict)
    ]
    named: dict[int, Outcome] = {}
    for violation in violations:
        place = _MEMBER.search(str(violation.get("field", "")))
        if place is None or int(place[1]) >= people:
            # Something is wrong with the call itself, so with everybody in it.
            reason = _reason(str(violation.get("reason", "")))
            return Verdict(failed(f"{words}, {reason}" if reason else words))
        named[int(place[1])] = failed(_refused(violation))
    if not named:
        reasons = filter(None, (_reason(str(detail.get("reason", ""))) for detail in details))
        return Verdict(failed(", ".join([words, *list(reasons)[:3]])))
    return Verdict(retry("others in its call were refused, and nothing was taken"), named, again=True)


def _refused(violation: Mapping[str, Any]) -> str:
    reason = _reason(str(violation.get("reason", "")))
    return f"the ad platform refused this person's identifiers{f' ({reason})' if reason else ''}"


def _reason(text: str) -> str:
    """A word of the API's, and nothing else that might stand there."""
    return text if _REASON.fullmatch(text) else ""


def _pause_us(details: Sequence[Mapping[str, Any]]) -> int:
    """The pause of a google.rpc.RetryInfo, "30s" or "1.5s"."""
    for detail in details:
        if found := _SECONDS.fullmatch(str(detail.get("retryDelay", ""))):
            return int(found[1]) * 1_000_000 + int((found[2] or "").ljust(6, "0"))
    return 0


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _account(account_id: str) -> dict[str, str]:
    return {"accountType": "GOOGLE_ADS", "accountId": account_id}


def check(whole: pb.Connection, findings: Findings) -> None:
    """All that is wrong with a connection to a Google audience."""
    connection, at = whole.google_audience, "google_audience"
    findings.matches(
        f"{at}.audience_id", connection.audience_id, _DIGITS, "is required: the user list's id, digits"
    )
    findings.matches(
        f"{at}.account_id",
        connection.account_id,
        _DIGITS,
        "is required: the ads account's id, digits without dashes",
    )
    if connection.login_account_id:
        findings.matches(
            f"{at}.login_account_id",
            connection.login_account_id,
            _DIGITS,
            "is an account's id, digits without dashes",
        )
    findings.secret(f"{at}.credentials_secret", connection.credentials_secret, required=True)
    findings.base_url(f"{at}.base_url", connection.base_url)
    findings.base_url(f"{at}.token_url", connection.token_url)
    findings.identifiers(f"{at}.identifiers", dict(connection.identifiers), GOOGLE.identifiers)


def open_channel(whole: pb.Connection, tools: ChannelTools) -> AudienceChannel:
    """The channel of a connection that was checked."""
    connection = whole.google_audience
    client = open_client("Google", tools)
    url = connection.token_url or DEFAULT_TOKEN_URL
    tokens = AccessTokens(client, url, tools.secrets, connection.credentials_secret)
    identifiers = dict(connection.identifiers) or DEFAULT_IDENTIFIERS
    return AudienceChannel(GoogleAudience(whole, tokens), client, identifiers)


KIND = ChannelKind(
    name="google_audience",
    guarantee=Guarantee.AT_LEAST_ONCE,
    check=check,
    open=open_channel,
    needs_action=True,
)
