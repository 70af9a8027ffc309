"""Owns the way to a Meta custom audience: rows of hashed identifiers, added and removed in the order of the ledger.

Figures and codes are the platform's own, from developers.facebook.com (Marketing API, custom audience users).
"""

import hashlib
import hmac
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
from cairn.activation.channels.base import ChannelKind, ChannelTools, failed
from cairn.activation.channels.findings import Findings
from cairn.activation.channels.http import Answer
from cairn.activation.ledger import Guarantee, Outcome
from cairn.activation.normalize_meta import META
from cairn.activation.secrets import Secrets
from cairn.api.activation.v1 import activation_pb2 as pb

DEFAULT_BASE_URL = "https://graph.facebook.com/v25.0"
DEFAULT_IDENTIFIERS = {"EMAIL": "email"}

MAX_PEOPLE_IN_CALL = 10_000
"""Source: "Session information" of the users edge: each request takes 10,000 people."""

MAX_BYTES_IN_CALL = 8 * 1024 * 1024
"""Ours: no figure is published, and 10,000 people with all identifiers are more than this."""

_API = "the Graph API"
_DIGITS = re.compile(r"[0-9]{1,32}")

# Error codes that pass by themselves: unknown, service, too many calls (of app, user, page, audience), temporary blocks.
_PASSING_CODES = frozenset({1, 2, 4, 17, 32, 341, 368, 613, *range(80_000, 80_015)})
# Something in the call; with a subcode, something about the audience.
_INVALID_PARAMETER = 100
# The token: not the delivery's fault, and mended by renewing the secret.
_TOKEN_CODES = frozenset({102, 190})


class MetaAudience:
    """One custom audience."""

    limits = Limits(MAX_PEOPLE_IN_CALL, MAX_BYTES_IN_CALL)
    normalizer = META

    def __init__(self, connection: pb.MetaAudienceConnection, secrets: Secrets) -> None:
        base = (connection.base_url or DEFAULT_BASE_URL).rstrip("/")
        self.url = f"{base}/{connection.audience_id}/users"
        self._token_secret = connection.access_token_secret
        self._app_secret = connection.app_secret_secret
        self._secrets = secrets

    async def open(self) -> None:
        """Each call brings its token."""

    async def call(self, schema: Sequence[str], rows: Sequence[Row]) -> Call:
        token = self._secrets.read(self._token_secret)
        # In the body: an address would show them to whatever writes down addresses.
        form: dict[str, Any] = {"access_token": token}
        if self._app_secret:
            secret = self._secrets.read(self._app_secret)
            form["appsecret_proof"] = hmac.new(secret.encode(), token.encode(), hashlib.sha256).hexdigest()
        form["payload"] = {"schema": schema, "data": [row.values for row in rows]}
        return Call(
            "DELETE" if rows[0].remove else "POST",
            self.url,
            {"Content-Type": "application/json"},
            msgspec.json.encode(form),
        )

    def read(self, schema: Sequence[str], rows: Sequence[Row], answer: Answer, now: int) -> Verdict:
        body = answer.json()
        if body is None:
            return Verdict(no_answer_of(_API, answer, now))
        error = body.get("error")
        if isinstance(error, dict):
            return _read_error(answer, error, now)
        if answer.status != 200:
            return Verdict(later(f"HTTP {answer.status} without an error of {_API}", answer, now))
        return _read_taken(rows, body)


def _read_taken(rows: Sequence[Row], body: Mapping[str, Any]) -> Verdict:
    """The platform counts the entries that it could not read, and shows some of them."""
    session_id = body.get("session_id", "")
    invalid = body.get("num_invalid_entries")
    if not isinstance(invalid, int) or invalid <= 0:
        return Verdict(taken(META, session_id))
    if invalid >= len(rows):
        return Verdict(_invalid())
    named = {place: _invalid() for place in _sampled(rows, body.get("invalid_entry_samples"))}
    if len(named) >= invalid:
        return Verdict(taken(META, session_id), named)
    unnamed = f"; of the {len(rows) - len(named):,} in its call {invalid - len(named):,} could not be read, and it is not said which"
    return Verdict(taken(META, session_id, unnamed), named)


def _sampled(rows: Sequence[Row], samples: object) -> set[int]:
    """The places in a call that samples show: each has a row's value, or its place as the name of something that no row has."""
    if not isinstance(samples, dict):
        return set()
    # Their values first: the names may be places, and a place may look like the id of somebody else.
    for shown in (samples.values(), samples.keys()):
        words = {str(word) for word in shown} - {""}  # which all have who lack an identifier
        if places := {place for place, row in enumerate(rows) if not words.isdisjoint(row.values)}:
            return places
    return {int(key) for key in samples if _DIGITS.fullmatch(key) and int(key) < len(rows)}


def _invalid() -> Outcome:
    return failed("the ad platform could not read this person's identifiers")


def _read_error(answer: Answer, error: Mapping[str, Any], now: int) -> Verdict:
    code, subcode = _number(error.get("code")), _number(error.get("error_subcode"))
    # Their message may quote what was sent.
    detail = f"the ad platform answered HTTP {answer.status}, error {code}/{subcode}"
    if code in _TOKEN_CODES:
        return Verdict(later(f"{detail}: the access token is refused; renew its secret", answer, now))
    passing = code in _PASSING_CODES or error.get("is_transient") is True
    if passing or answer.status == 429 or answer.status >= 500:
        return Verdict(later(detail, answer, now, overloaded=passing))
    return Verdict(failed(detail), unnamed=code == _INVALID_PARAMETER and not subcode)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def check(whole: pb.Connection, findings: Findings) -> None:
    """All that is wrong with a connection to a Meta audience."""
    connection = whole.meta_audience
    findings.matches(
        "meta_audience.audience_id",
        connection.audience_id,
        _DIGITS,
        "is required: the audience's id, digits",
    )
    findings.secret("meta_audience.access_token_secret", connection.access_token_secret, required=True)
    findings.secret("meta_audience.app_secret_secret", connection.app_secret_secret)
    findings.base_url("meta_audience.base_url", connection.base_url)
    findings.identifiers("meta_audience.identifiers", dict(connection.identifiers), META.identifiers)


def open_channel(whole: pb.Connection, tools: ChannelTools) -> AudienceChannel:
    """The channel of a connection that was checked."""
    connection = whole.meta_audience
    identifiers = dict(connection.identifiers) or DEFAULT_IDENTIFIERS
    return AudienceChannel(MetaAudience(connection, tools.secrets), open_client("Meta", tools), identifiers)


KIND = ChannelKind(
    name="meta_audience",
    guarantee=Guarantee.AT_LEAST_ONCE,
    check=check,
    open=open_channel,
    needs_action=True,
)
