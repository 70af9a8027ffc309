"""Owns the way to a Meta custom audience: rows of hashed identifiers, added and removed in the order of the ledger.

Guarantee: at least once; adding or removing somebody twice is harmless. Figures are the platform's own, from
developers.facebook.com (Marketing API, custom audience users).
"""

import asyncio
import hashlib
import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import msgspec

from cairn.activation.channels.base import (
    ChannelKind,
    ChannelTools,
    Letter,
    attribute,
    failed,
    read_context,
    retry,
)
from cairn.activation.channels.findings import Findings
from cairn.activation.ledger import Fate, Guarantee, Outcome
from cairn.activation.model import Member
from cairn.activation.normalize import IDENTIFIERS, normalize
from cairn.activation.secrets import MissingSecretError
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1 import journey_pb2

DEFAULT_BASE_URL = "https://graph.facebook.com/v25.0"
DEFAULT_IDENTIFIERS = {"EMAIL": "email"}
MAX_PEOPLE_IN_CALL = 10_000

_BATCH = 1_000
_TURNS = 4
_DIGITS = re.compile(r"[0-9]{1,32}")
_MOST_READ_BYTES = 64 * 1024
_SENT = "the audience took it; changes show within a day"

# Error codes that pass by themselves: unknown, service, too many calls (of app, user, page, audience), temporary blocks.
_PASSING_CODES = frozenset({1, 2, 4, 17, 32, 341, 368, 613, *range(80_000, 80_015)})
# The token: not the delivery's fault, and mended by renewing the secret.
_TOKEN_CODES = frozenset({102, 190})


@dataclass(frozen=True, slots=True)
class Row:
    """One person's row: `values` in the order of the schema, hashed where the platform wants it."""

    person: str
    remove: bool
    values: tuple[str, ...]


class MetaAudienceChannel:
    """One audience."""

    ordered = True
    batch_size = _BATCH
    linger_s = 0.0

    def __init__(self, whole: pb.Connection, tools: ChannelTools) -> None:
        connection = whole.meta_audience
        base = (connection.base_url or DEFAULT_BASE_URL).rstrip("/")
        self._url = f"{base}/{connection.audience_id}/users"
        self._connection = connection
        self._secrets = tools.secrets
        self._timeout = aiohttp.ClientTimeout(total=tools.settings.http_timeout_seconds)
        self._identifiers = sorted((dict(connection.identifiers) or DEFAULT_IDENTIFIERS).items())
        self._session: aiohttp.ClientSession | None = None
        # A profile has one bucket, and a bucket one batch at a time: its adds and removes never cross.
        self.turns = asyncio.Semaphore(_TURNS)

    def prepare(self, letter: Letter) -> Row | Outcome:
        if letter.claim.action not in (journey_pb2.AUDIENCE_ACTION_ADD, journey_pb2.AUDIENCE_ACTION_REMOVE):
            return failed("an audience needs an action, ADD or REMOVE")
        variables = read_context(letter.claim.context)
        if isinstance(variables, Outcome):
            return variables
        values = tuple(
            normalize(identifier, attribute(variables, name)) for identifier, name in self._identifiers
        )
        if not any(values):
            names = ", ".join(f"`{name}`" for _, name in self._identifiers)
            return failed(f"the profile has no identifier that the audience could match (attributes {names})")
        remove = letter.claim.action == journey_pb2.AUDIENCE_ACTION_REMOVE
        return Row(letter.claim.profile_id, remove, values)

    def address_of(self, prepared: Row) -> str:
        return ""

    def member_of(self, prepared: Row) -> Member | None:
        names = (identifier for identifier, _ in self._identifiers)
        return Member(not prepared.remove, dict(zip(names, prepared.values, strict=True)))

    async def open(self) -> None:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=self._timeout)

    async def send(self, prepared: Sequence[Row]) -> list[Outcome]:
        outcomes = [retry("waits for an earlier change of the audience")] * len(prepared)
        for group in _rounds(prepared):
            outcome = await self._call(prepared[group[0]].remove, [prepared[index].values for index in group])
            for index in group:
                outcomes[index] = outcome
            if outcome.fate is Fate.RETRY:
                # What comes after could overtake it.
                break
        return outcomes

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _call(self, remove: bool, rows: Sequence[tuple[str, ...]]) -> Outcome:
        try:
            form = self._credentials()
        except MissingSecretError as error:
            return retry(str(error))
        schema = [identifier for identifier, _ in self._identifiers]
        form["payload"] = msgspec.json.encode({"schema": schema, "data": rows}).decode()
        await self.open()
        assert self._session is not None
        try:
            async with self._session.request(
                "DELETE" if remove else "POST", self._url, data=form, allow_redirects=False
            ) as response:
                body = await _read(response)
                status = response.status
        except TimeoutError:
            return retry("the ad platform did not answer in time; it may have it, and is asked again")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return retry(f"the ad platform could not be spoken to ({type(error).__name__})")
        return read_answer(status, body)

    def _credentials(self) -> dict[str, str]:
        token = self._secrets.read(self._connection.access_token_secret)
        form = {"access_token": token}
        if self._connection.app_secret_secret:
            secret = self._secrets.read(self._connection.app_secret_secret)
            form["appsecret_proof"] = hmac.new(secret.encode(), token.encode(), hashlib.sha256).hexdigest()
        return form


def read_answer(status: int, body: bytes | None) -> Outcome:
    """What an answer of the Graph API means; `body` is None when it was too long to be one.

    An answer that is not the platform's own (a proxy's page) settles nothing, so the call is repeated.
    """
    answer = _decode(body)
    if answer is None:
        return retry(f"HTTP {status} with something that is no answer of the Graph API")
    error = answer.get("error")
    if isinstance(error, dict):
        return _read_error(status, error)
    if status == 200:
        session_id = answer.get("session_id")
        return Outcome(Fate.SENT, _SENT, str(session_id)[:100] if session_id else "")
    return retry(f"HTTP {status} without an error of the Graph API")


def _read_error(status: int, error: dict[str, Any]) -> Outcome:
    code = error.get("code")
    subcode = error.get("error_subcode")
    # Their message may quote what was sent.
    detail = f"the ad platform answered HTTP {status}, error {code!s:.12}/{subcode or 0!s:.12}"
    if code in _TOKEN_CODES:
        return retry(f"{detail}: the access token is refused; renew its secret")
    if code in _PASSING_CODES or error.get("is_transient") is True or status == 429 or status >= 500:
        return retry(detail)
    return failed(detail)


def _decode(body: bytes | None) -> dict[str, Any] | None:
    try:
        answer = msgspec.json.decode(body or b"")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return answer if isinstance(answer, dict) else None


async def _read(response: aiohttp.ClientResponse) -> bytes | None:
    """The whole body, or None when it is longer than any answer of the platform."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(_MOST_READ_BYTES):
        body += chunk
        if len(body) > _MOST_READ_BYTES:
            return None
    return bytes(body)


def _rounds(rows: Sequence[Row]) -> list[list[int]]:
    """The calls to make, one after the other, as lists of places in `rows`.

    A person's first row goes in the first round, the second in the second, so that no call and no two calls of a
    round have the same person twice; within a round adds and removes are a call each.
    """
    rounds: list[tuple[list[int], list[int]]] = []
    seen: dict[str, int] = {}
    for index, row in enumerate(rows):
        number = seen.get(row.person, 0)
        seen[row.person] = number + 1
        if number == len(rounds):
            rounds.append(([], []))
        rounds[number][row.remove].append(index)
    calls = [group for pair in rounds for group in pair if group]
    return [
        call[start : start + MAX_PEOPLE_IN_CALL]
        for call in calls
        for start in range(0, len(call), MAX_PEOPLE_IN_CALL)
    ]


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
    findings.identifiers("meta_audience.identifiers", dict(connection.identifiers), IDENTIFIERS)


KIND = ChannelKind(
    name="meta_audience",
    guarantee=Guarantee.AT_LEAST_ONCE,
    check=check,
    open=MetaAudienceChannel,
    needs_action=True,
)
