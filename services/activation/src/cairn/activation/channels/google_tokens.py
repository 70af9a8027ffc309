"""Owns access tokens from a refresh token, as OAuth 2.0 and Google have it: one at a time, shared by all who call, renewed before it ends.

Refuses to keep the refresh token: the secret is read each time, so that a changed one holds at once.
"""

import asyncio
import time
from collections.abc import Callable
from urllib.parse import urlencode

import msgspec

from cairn.activation.channels.audience import NotLetInError, later, no_answer_of
from cairn.activation.channels.base import retry
from cairn.activation.channels.http import Answer, HttpClient
from cairn.activation.ledger import Outcome
from cairn.activation.secrets import Secrets
from cairn.runtime.clock import now_us

_RENEWED_BEFORE_S = 60.0
_SHORTEST_LIFE_S = 5.0
_LONGEST_LIFE_S = 3_600.0
"""Google's tokens live for an hour; nobody's is trusted for longer."""


class Credentials(msgspec.Struct, frozen=True):
    """What the secret holds."""

    client_id: str
    client_secret: str
    refresh_token: str


class AccessTokens:
    """The access token of one connection. `clock` gives seconds that only grow."""

    def __init__(
        self,
        client: HttpClient,
        url: str,
        secrets: Secrets,
        secret: str,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._url = url
        self._secrets = secrets
        self._secret = secret
        self._clock = clock
        self._token = ""
        self._made_from: Credentials | None = None
        self._good_until = 0.0
        self._asking = asyncio.Lock()
        self._answered = 0
        self._refusal: Outcome | None = None

    async def get(self) -> str:
        """A token that is good for a minute yet; NotLetInError or MissingSecretError when there is none to be had."""
        answered = self._answered
        async with self._asking:
            credentials = self._read_credentials()
            good = credentials == self._made_from and self._clock() < self._good_until
            if self._token and good:
                return self._token
            if self._refusal is not None and self._answered != answered:
                # It came while this one waited, and would come again.
                raise NotLetInError(self._refusal)
            try:
                self._token, life_s = await self._ask(credentials)
            except NotLetInError as error:
                self._refusal = error.outcome
                raise
            finally:
                self._answered += 1
            self._refusal = None
            self._made_from = credentials
            self._good_until = self._clock() + life_s
            return self._token

    def forget(self) -> None:
        """It was refused: the next one is new."""
        self._token = ""

    def _read_credentials(self) -> Credentials:
        text = self._secrets.read(self._secret)
        try:
            return msgspec.json.decode(text, type=Credentials)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            told = (
                f"the secret `{self._secret}` has to be a JSON object with the texts client_id, "
                "client_secret and refresh_token"
            )
            raise NotLetInError(retry(told)) from None

    async def _ask(self, credentials: Credentials) -> tuple[str, float]:
        form = {
            "grant_type": "refresh_token",
            "client_id": credentials.client_id,
            "client_secret": credentials.client_secret,
            "refresh_token": credentials.refresh_token,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = await self._client.call("POST", self._url, headers=headers, body=urlencode(form).encode())
        if isinstance(answer, Outcome):
            raise NotLetInError(answer)
        body = answer.json() or {}
        token = body.get("access_token")
        if answer.status == 200 and isinstance(token, str) and token:
            return token, _life_s(body.get("expires_in"))
        raise NotLetInError(self._refused(answer, body.get("error")))

    def _refused(self, answer: Answer, error: object) -> Outcome:
        if answer.status in {400, 401, 403} and isinstance(error, str):
            told = f"Google gives no access token for the secret `{self._secret}`: renew it"
            return later(f"{told} (HTTP {answer.status}, {_word(error)})", answer, now_us())
        return no_answer_of("Google's token server", answer, now_us())


def _life_s(expires_in: object) -> float:
    known = float(expires_in) if isinstance(expires_in, int) else _LONGEST_LIFE_S
    return min(max(known - _RENEWED_BEFORE_S, _SHORTEST_LIFE_S), _LONGEST_LIFE_S)


def _word(error: str) -> str:
    """The error's name as OAuth has it, `invalid_grant`, and nothing else that might stand there."""
    return error if error.isascii() and error.replace("_", "").isalpha() and len(error) <= 64 else "an error"
