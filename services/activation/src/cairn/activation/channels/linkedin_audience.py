"""Owns the way to a LinkedIn DMP segment: adds and removes in one call, with an answer for each person.

Figures are the platform's own, from learn.microsoft.com/linkedin (Matched Audiences, DMP segment users).
"""

import re
from collections.abc import Mapping, Sequence
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
from cairn.activation.channels.base import ChannelKind, ChannelTools, down, failed, retry
from cairn.activation.channels.findings import Findings
from cairn.activation.channels.http import Answer
from cairn.activation.ledger import Fate, Guarantee, Outcome
from cairn.activation.normalize_linkedin import LINKEDIN
from cairn.activation.secrets import Secrets
from cairn.api.activation.v1 import activation_pb2 as pb

DEFAULT_BASE_URL = "https://api.linkedin.com/rest"
DEFAULT_IDENTIFIERS = {"SHA256_EMAIL": "email"}

DEFAULT_API_VERSION = "202606"
"""Versions come monthly and are served for a year at least. Source: learn.microsoft.com/linkedin/marketing/versioning."""

MAX_PEOPLE_IN_CALL = 5_000
"""Source: rudderstack.com/docs, LinkedIn Audience; LinkedIn's page has the 600 calls a minute of a member and no size."""

MAX_BYTES_IN_CALL = 4 * 1024 * 1024
"""Ours: no figure is published, and 5,000 people with all identifiers are 2 MB."""

_API = "the LinkedIn API"
_PROTOCOL_VERSION = "2.0.0"
_DIGITS = re.compile(r"[0-9]{1,32}")
_VERSION = re.compile(r"20[0-9]{2}(0[1-9]|1[0-2])")


class LinkedinAudience:
    """One DMP segment."""

    limits = Limits(MAX_PEOPLE_IN_CALL, MAX_BYTES_IN_CALL, mixed=True)
    normalizer = LINKEDIN

    def __init__(self, connection: pb.LinkedinAudienceConnection, secrets: Secrets) -> None:
        base = (connection.base_url or DEFAULT_BASE_URL).rstrip("/")
        self.url = f"{base}/dmpSegments/{connection.segment_id}/users"
        self._version = connection.api_version or DEFAULT_API_VERSION
        self._token_secret = connection.access_token_secret
        self._secrets = secrets

    async def open(self) -> None:
        """Each call brings its token."""

    async def call(self, schema: Sequence[str], rows: Sequence[Row]) -> Call:
        elements = [
            {
                "action": "REMOVE" if row.remove else "ADD",
                "userIds": [
                    {"idType": identifier, "idValue": value}
                    for identifier, value in zip(schema, row.values, strict=True)
                    if value
                ],
            }
            for row in rows
        ]
        headers = {
            "Authorization": f"Bearer {self._secrets.read(self._token_secret)}",
            "Content-Type": "application/json",
            "LinkedIn-Version": self._version,
            "X-Restli-Protocol-Version": _PROTOCOL_VERSION,
            "X-RestLi-Method": "BATCH_CREATE",
        }
        return Call("POST", self.url, headers, msgspec.json.encode({"elements": elements}))

    def read(self, schema: Sequence[str], rows: Sequence[Row], answer: Answer, now: int) -> Verdict:
        body = answer.json()
        if answer.status == 200 and body is not None:
            elements = body.get("elements")
            if isinstance(elements, list) and len(elements) == len(rows):
                return _read_elements(elements, answer, now)
        if answer.status == 200 or body is None:
            return Verdict(no_answer_of(_API, answer, now))
        return Verdict(self._read_refusal(answer, now), unnamed=answer.status == 400)

    def _read_refusal(self, answer: Answer, now: int) -> Outcome:
        # Their message may quote what was sent.
        detail = f"the ad platform answered HTTP {answer.status}"
        if answer.status == 401:
            return later(f"{detail}: the access token is refused; renew its secret", answer, now)
        if answer.status == 404:
            return later(f"{detail}: it does not know the segment, or does not know it yet", answer, now)
        if answer.status == 426:
            told = f"{detail}: it no longer speaks version {self._version}; set the connection's api_version"
            return later(told, answer, now)
        if answer.status == 429 or answer.status >= 500:
            return later(detail, answer, now)
        return failed(detail)


def _read_elements(elements: Sequence[Any], answer: Answer, now: int) -> Verdict:
    """A word for each person, in the order of the call."""
    named = {
        place: outcome
        for place, element in enumerate(elements)
        if (outcome := _read_element(element, answer, now)) is not None
    }
    late = [outcome for outcome in named.values() if outcome.fate is Fate.RETRY]
    if len(late) == len(elements):
        return Verdict(late[0])
    return Verdict(taken(LINKEDIN), named)


def _read_element(element: object, answer: Answer, now: int) -> Outcome | None:
    """What came of one person; None when they were taken, which says nothing more."""
    status = element.get("status") if isinstance(element, Mapping) else None
    if not isinstance(status, int):
        return retry(f"{_API} said nothing of this person", answer.retry_after_us(now))
    if 200 <= status < 300:
        return None
    detail = f"the ad platform answered status {status} for this person"
    if status == 429 or status >= 500:
        return down(detail, answer.retry_after_us(now))
    return failed(detail)


def check(whole: pb.Connection, findings: Findings) -> None:
    """All that is wrong with a connection to a LinkedIn segment."""
    connection, at = whole.linkedin_audience, "linkedin_audience"
    findings.matches(
        f"{at}.segment_id", connection.segment_id, _DIGITS, "is required: the segment's id, digits"
    )
    findings.secret(f"{at}.access_token_secret", connection.access_token_secret, required=True)
    if connection.api_version:
        findings.matches(
            f"{at}.api_version", connection.api_version, _VERSION, "is a year and a month, YYYYMM"
        )
    findings.base_url(f"{at}.base_url", connection.base_url)
    findings.identifiers(f"{at}.identifiers", dict(connection.identifiers), LINKEDIN.identifiers)


def open_channel(whole: pb.Connection, tools: ChannelTools) -> AudienceChannel:
    """The channel of a connection that was checked."""
    connection = whole.linkedin_audience
    identifiers = dict(connection.identifiers) or DEFAULT_IDENTIFIERS
    return AudienceChannel(
        LinkedinAudience(connection, tools.secrets), open_client("LinkedIn", tools), identifiers
    )


KIND = ChannelKind(
    name="linkedin_audience",
    guarantee=Guarantee.AT_LEAST_ONCE,
    check=check,
    open=open_channel,
    needs_action=True,
)
