"""Owns the way to a TikTok custom audience, through the streaming API of segments.

An answer has a code of its own, and HTTP 200 with a code that is not 0 is an error. It says nothing about single people.
"""

import re
from collections.abc import Sequence
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
from cairn.activation.channels.base import ChannelKind, ChannelTools, failed
from cairn.activation.channels.findings import Findings
from cairn.activation.channels.http import Answer
from cairn.activation.ledger import Guarantee
from cairn.activation.normalize_tiktok import TIKTOK
from cairn.activation.secrets import Secrets
from cairn.api.activation.v1 import activation_pb2 as pb

DEFAULT_BASE_URL = "https://business-api.tiktok.com/open_api/v1.3"
DEFAULT_IDENTIFIERS = {"EMAIL_SHA256": "email"}

MAX_PEOPLE_IN_CALL = 1_000
MAX_BYTES_IN_CALL = 1_000_000
"""Source of both: docs.tealium.com, TikTok Audiences connector, "Batch limits"; TikTok publishes none."""

_API = "the TikTok API"
_DIGITS = re.compile(r"[0-9]{1,32}")

# Source: business-api.tiktok.com/portal/docs, "Return codes".
_DONE = 0
_PARTLY_DONE = 20_001
_INVALID_PARAMETER = 40_002
_TOKEN_CODES = frozenset({40_102, 40_104, 40_105})
# Who may call and how often, and their own trouble: both pass, or are mended on their side.
_PASSING_CODES = (range(40_100, 40_200), range(50_000, 60_000))


class TiktokAudience:
    """One custom audience."""

    limits = Limits(MAX_PEOPLE_IN_CALL, MAX_BYTES_IN_CALL)
    normalizer = TIKTOK

    def __init__(self, connection: pb.TiktokAudienceConnection, secrets: Secrets) -> None:
        base = (connection.base_url or DEFAULT_BASE_URL).rstrip("/")
        self.url = f"{base}/segment/mapping/"
        self._advertisers = [connection.advertiser_id]
        self._audiences = [connection.audience_id]
        self._token_secret = connection.access_token_secret
        self._secrets = secrets

    async def open(self) -> None:
        """Each call brings its token."""

    async def call(self, schema: Sequence[str], rows: Sequence[Row]) -> Call:
        body = {
            "advertiser_ids": self._advertisers,
            "action": "delete" if rows[0].remove else "add",
            "id_schema": schema,
            "batch_data": [[self._id(value) for value in row.values] for row in rows],
        }
        token = self._secrets.read(self._token_secret)
        headers = {"Access-Token": token, "Content-Type": "application/json"}
        return Call("POST", self.url, headers, msgspec.json.encode(body))

    def _id(self, value: str) -> dict[str, Any]:
        return {"id": value, "audience_ids": self._audiences} if value else {}

    def read(self, schema: Sequence[str], rows: Sequence[Row], answer: Answer, now: int) -> Verdict:
        body = answer.json()
        code = None if body is None else body.get("code")
        if body is None or not isinstance(code, int):
            return Verdict(no_answer_of(_API, answer, now))
        if code == _DONE and answer.status == 200:
            return Verdict(taken(TIKTOK, body.get("request_id", "")))
        # Their message may quote what was sent.
        detail = f"the ad platform answered HTTP {answer.status}, code {code}"
        if code in _TOKEN_CODES:
            return Verdict(later(f"{detail}: the access token is refused; renew its secret", answer, now))
        if code == _PARTLY_DONE:
            some = later(f"{detail}: it took only some, and does not say whom", answer, now)
            return Verdict(some, unnamed=True)
        passing = any(code in codes for codes in _PASSING_CODES)
        if passing or code == _DONE or answer.status == 429 or answer.status >= 500:
            return Verdict(later(detail, answer, now, overloaded=passing))
        return Verdict(failed(detail), unnamed=code == _INVALID_PARAMETER)


def check(whole: pb.Connection, findings: Findings) -> None:
    """All that is wrong with a connection to a TikTok audience."""
    connection, at = whole.tiktok_audience, "tiktok_audience"
    findings.matches(
        f"{at}.audience_id", connection.audience_id, _DIGITS, "is required: the audience's id, digits"
    )
    findings.matches(
        f"{at}.advertiser_id", connection.advertiser_id, _DIGITS, "is required: the advertiser's id, digits"
    )
    findings.secret(f"{at}.access_token_secret", connection.access_token_secret, required=True)
    findings.base_url(f"{at}.base_url", connection.base_url)
    findings.identifiers(f"{at}.identifiers", dict(connection.identifiers), TIKTOK.identifiers)


def open_channel(whole: pb.Connection, tools: ChannelTools) -> AudienceChannel:
    """The channel of a connection that was checked."""
    connection = whole.tiktok_audience
    identifiers = dict(connection.identifiers) or DEFAULT_IDENTIFIERS
    return AudienceChannel(
        TiktokAudience(connection, tools.secrets), open_client("TikTok", tools), identifiers
    )


KIND = ChannelKind(
    name="tiktok_audience",
    guarantee=Guarantee.AT_LEAST_ONCE,
    check=check,
    open=open_channel,
    needs_action=True,
)
