"""What the answers of Google, TikTok and LinkedIn mean for each person of a call, and what the calls look like."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cairn.activation.channels.audience import NotLetInError, Row, Verdict, open_client
from cairn.activation.channels.base import ChannelTools
from cairn.activation.channels.google_audience import GoogleAudience, read_error
from cairn.activation.channels.google_tokens import AccessTokens
from cairn.activation.channels.http import Answer
from cairn.activation.channels.linkedin_audience import LinkedinAudience
from cairn.activation.channels.tiktok_audience import TiktokAudience
from cairn.activation.ledger import Fate
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.api.activation.v1 import activation_pb2 as pb

ROWS = [Row(f"p{number}", number == 1, (f"{number:064x}", "")) for number in range(4)]
OTHERS = "someone@example.com"


def answer(status: int, body: object, **headers: str) -> Answer:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Answer(status, {name.replace("_", "-"): value for name, value in headers.items()}, encoded)


def fates(verdict: Verdict, count: int = len(ROWS)) -> list[Fate]:
    return [verdict.named.get(place, verdict.rest).fate for place in range(count)]


def google_error(status: int, name: str, *details: dict[str, Any]) -> Answer:
    return answer(
        status, {"error": {"code": status, "status": name, "message": OTHERS, "details": list(details)}}
    )


def violations(*fields: str, reason: str = "INVALID_SHA256_FORMAT") -> dict[str, Any]:
    return {
        "@type": "type.googleapis.com/google.rpc.BadRequest",
        "fieldViolations": [{"field": field, "description": OTHERS, "reason": reason} for field in fields],
    }


def read_google(given: Answer) -> Verdict:
    return read_error(given, given.json()["error"], len(ROWS), 0)


def test_google_names_those_because_of_whom_nothing_was_taken() -> None:
    verdict = read_google(
        google_error(
            400,
            "INVALID_ARGUMENT",
            violations(
                "audience_members.audience_members[1].user_data.user_identifiers[0].email_address",
                "audienceMembers[3].userData.userIdentifiers",
            ),
        )
    )
    assert fates(verdict) == [Fate.RETRY, Fate.FAILED, Fate.RETRY, Fate.FAILED]
    assert verdict.again
    assert "INVALID_SHA256_FORMAT" in verdict.named[1].detail


@pytest.mark.parametrize(
    "fields",
    [
        ("destinations.destinations[0].product_destination_id",),
        ("audience_members[1].user_data", "encoding"),
        ("audience_members[4].user_data",),
    ],
)
def test_google_what_is_wrong_with_the_call_is_wrong_for_all(fields: tuple[str, ...]) -> None:
    verdict = read_google(google_error(400, "INVALID_ARGUMENT", violations(*fields, reason="BAD_THING")))
    assert fates(verdict) == [Fate.FAILED] * 4
    assert not verdict.again
    assert verdict.rest.detail == "the ad platform answered HTTP 400, INVALID_ARGUMENT, BAD_THING"


@pytest.mark.parametrize(
    ("given", "fate", "down", "after_us"),
    [
        (google_error(429, "RESOURCE_EXHAUSTED", {"retryDelay": "30s"}), Fate.RETRY, True, 30_000_000),
        (google_error(429, "RESOURCE_EXHAUSTED", {"retryDelay": "1.5s"}), Fate.RETRY, True, 1_500_000),
        (google_error(429, "RESOURCE_EXHAUSTED", {"retryDelay": "soon"}), Fate.RETRY, True, 0),
        (google_error(503, "UNAVAILABLE"), Fate.RETRY, True, 0),
        (google_error(409, "ABORTED"), Fate.RETRY, False, 0),
        (google_error(401, "UNAUTHENTICATED"), Fate.RETRY, False, 0),
        (google_error(403, "PERMISSION_DENIED"), Fate.FAILED, False, 0),
        (google_error(404, "NOT_FOUND"), Fate.FAILED, False, 0),
        (google_error(400, OTHERS, {"reason": OTHERS}, violations()), Fate.FAILED, False, 0),
        (answer(400, {"error": {"details": "x", "status": 7}}), Fate.FAILED, False, 0),
        (answer(400, {"error": {"details": [{"fieldViolations": [1]}, 2]}}), Fate.FAILED, False, 0),
    ],
)
def test_google_errors(given: Answer, fate: Fate, down: bool, after_us: int) -> None:
    verdict = read_google(given)
    assert (verdict.rest.fate, verdict.rest.down, verdict.rest.retry_after_us) == (fate, down, after_us)
    assert fates(verdict) == [fate] * 4
    assert OTHERS not in verdict.rest.detail


@pytest.mark.parametrize(
    ("given", "fate", "down"),
    [
        (answer(200, {"code": 0, "message": "OK", "request_id": "r1", "data": {}}), Fate.SENT, False),
        (answer(200, {"code": 40100, "message": OTHERS}), Fate.RETRY, True),
        (answer(200, {"code": 40105, "message": OTHERS}), Fate.RETRY, False),
        (answer(200, {"code": 40001, "message": OTHERS}), Fate.FAILED, False),
        (answer(200, {"code": 40002, "message": OTHERS}), Fate.FAILED, False),
        (answer(200, {"code": 50002, "message": OTHERS}), Fate.RETRY, True),
        (answer(200, {"code": 20001, "message": OTHERS}), Fate.RETRY, False),
        (answer(500, {"code": 0}), Fate.RETRY, True),
        (answer(200, {"code": "0"}), Fate.RETRY, False),
        (answer(200, b"<html>"), Fate.RETRY, False),
        (answer(502, b"<html>"), Fate.RETRY, True),
        (answer(200, []), Fate.RETRY, False),
    ],
)
def test_tiktok_answers(given: Answer, fate: Fate, down: bool) -> None:
    platform = TiktokAudience(pb.TiktokAudienceConnection(), Secrets(None))
    verdict = platform.read(("EMAIL_SHA256", "PHONE_SHA256"), ROWS, given, 0)
    assert (verdict.rest.fate, verdict.rest.down, verdict.named) == (fate, down, {})
    assert verdict.unnamed == (b"40002" in given.body or b"20001" in given.body)
    assert OTHERS not in verdict.rest.detail
    assert verdict.rest.external_id == ("r1" if fate is Fate.SENT else "")


def elements(*statuses: object) -> dict[str, Any]:
    return {"elements": [{"status": status, "error": {"message": OTHERS}} for status in statuses]}


@pytest.mark.parametrize(
    ("given", "expected", "down"),
    [
        (answer(200, elements(201, 201, 201, 201)), [Fate.SENT] * 4, False),
        (answer(200, elements(201, 400, 429, 200)), [Fate.SENT, Fate.FAILED, Fate.RETRY, Fate.SENT], False),
        (answer(200, elements(201, "x", 500, 403)), [Fate.SENT, Fate.RETRY, Fate.RETRY, Fate.FAILED], False),
        (answer(200, elements(429, 429, 429, 429)), [Fate.RETRY] * 4, True),
        (answer(200, elements(201, 201)), [Fate.RETRY] * 4, False),
        (answer(200, {"elements": [1, None, {}, []]}), [Fate.RETRY] * 4, False),
        (answer(200, b"<html>"), [Fate.RETRY] * 4, False),
        (answer(400, {"status": 400, "message": OTHERS}), [Fate.FAILED] * 4, False),
        (answer(401, {"status": 401, "message": OTHERS}), [Fate.RETRY] * 4, False),
        (answer(403, {"status": 403, "message": OTHERS}), [Fate.FAILED] * 4, False),
        (answer(404, {"status": 404, "message": OTHERS}), [Fate.RETRY] * 4, False),
        (answer(426, {"status": 426, "message": OTHERS}), [Fate.RETRY] * 4, False),
        (answer(429, {"status": 429, "message": OTHERS}), [Fate.RETRY] * 4, True),
        (answer(503, b"<html>"), [Fate.RETRY] * 4, True),
    ],
)
def test_linkedin_answers(given: Answer, expected: list[Fate], down: bool) -> None:
    platform = LinkedinAudience(pb.LinkedinAudienceConnection(api_version="202501"), Secrets(None))
    verdict = platform.read(("GOOGLE_AID", "SHA256_EMAIL"), ROWS, given, 0)
    assert fates(verdict) == expected
    assert verdict.rest.down == down
    assert verdict.unnamed == (given.status == 400)
    assert OTHERS not in "".join(outcome.detail for outcome in (verdict.rest, *verdict.named.values()))
    assert given.status != 426 or "202501" in verdict.rest.detail


def test_linkedin_obeys_the_pause_for_each_person() -> None:
    platform = LinkedinAudience(pb.LinkedinAudienceConnection(), Secrets(None))
    verdict = platform.read(
        ("GOOGLE_AID", "SHA256_EMAIL"), ROWS, answer(200, elements(201, 429, 201, 201), Retry_After="7"), 0
    )
    assert verdict.named[1].retry_after_us == 7_000_000


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Secrets:
    monkeypatch.setenv("CAIRN_SECRET_TOKEN", "t0ken")
    return Secrets(None)


def test_linkedin_call(secrets: Secrets) -> None:
    connection = pb.LinkedinAudienceConnection(segment_id="7", access_token_secret="token")
    call = asyncio.run(LinkedinAudience(connection, secrets).call(("GOOGLE_AID", "SHA256_EMAIL"), ROWS[:2]))
    assert (call.method, call.url) == ("POST", "https://api.linkedin.com/rest/dmpSegments/7/users")
    assert call.headers["Authorization"] == "Bearer t0ken"
    assert call.headers["X-RestLi-Method"] == "BATCH_CREATE"
    assert msgspec.json.decode(call.body) == {
        "elements": [
            {"action": action, "userIds": [{"idType": "GOOGLE_AID", "idValue": f"{number:064x}"}]}
            for number, action in enumerate(("ADD", "REMOVE"))
        ]
    }


def test_tiktok_call(secrets: Secrets) -> None:
    connection = pb.TiktokAudienceConnection(audience_id="7", advertiser_id="8", access_token_secret="token")
    call = asyncio.run(TiktokAudience(connection, secrets).call(("EMAIL_SHA256", "PHONE_SHA256"), ROWS[1:2]))
    assert call.url == "https://business-api.tiktok.com/open_api/v1.3/segment/mapping/"
    assert call.headers["Access-Token"] == "t0ken"
    assert msgspec.json.decode(call.body) == {
        "advertiser_ids": ["8"],
        "action": "delete",
        "id_schema": ["EMAIL_SHA256", "PHONE_SHA256"],
        "batch_data": [[{"id": f"{1:064x}", "audience_ids": ["7"]}, {}]],
    }


class TokenServer:
    """Gives numbered tokens."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.life_s: object = 3600
        self.now_s = 1000.0
        self.refusal: object = None
        self.refused_status = 400

    async def give(self, request: web.Request) -> web.Response:
        form = await request.post()
        self.asked.append({name: str(value) for name, value in form.items()})
        if self.refusal is not None:
            return web.json_response(self.refusal, status=self.refused_status)
        return web.json_response({"access_token": f"t{len(self.asked)}", "expires_in": self.life_s})


SECRET = "CAIRN_SECRET_GOOGLE"
CREDENTIALS = {"client_id": "i&d", "client_secret": "s", "refresh_token": "r"}


@pytest.fixture
async def tokens(
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[tuple[AccessTokens, TokenServer]]:
    monkeypatch.setenv(SECRET, json.dumps(CREDENTIALS))
    told = TokenServer()
    app = web.Application()
    app.router.add_post("/token", told.give)
    server = TestServer(app)
    await server.start_server()
    secrets = Secrets(None)
    client = open_client(
        "Google", ChannelTools(secrets, ActivationSettings(postgres_dsn="postgresql://u:p@h:5432/d"))
    )
    yield AccessTokens(client, str(server.make_url("/token")), secrets, "google", lambda: told.now_s), told
    await client.close()
    await server.close()


async def test_a_token_is_asked_for_once_for_all_who_call(tokens: tuple[AccessTokens, TokenServer]) -> None:
    source, told = tokens
    assert set(await asyncio.gather(*(source.get() for _ in range(10)))) == {"t1"}
    assert told.asked == [{"grant_type": "refresh_token", **CREDENTIALS}]


async def test_a_refusal_is_asked_for_once_by_all_who_wait_for_it(
    tokens: tuple[AccessTokens, TokenServer],
) -> None:
    source, told = tokens
    told.refusal = {"error": "invalid_grant"}
    errors = await asyncio.gather(*(source.get() for _ in range(10)), return_exceptions=True)
    assert {type(error) for error in errors} == {NotLetInError}
    assert len(told.asked) == 1
    told.refusal = None
    assert await source.get() == "t2"


async def test_a_token_is_new_when_it_was_refused_or_its_secret_changed(
    tokens: tuple[AccessTokens, TokenServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, told = tokens
    assert await source.get() == "t1"
    source.forget()
    assert await source.get() == "t2"
    monkeypatch.setenv(SECRET, json.dumps({**CREDENTIALS, "refresh_token": "new"}))
    assert await source.get() == "t3"
    assert told.asked[-1]["refresh_token"] == "new"


@pytest.mark.parametrize(
    ("life_s", "good_s"), [(3600, 3540), (100, 40), (10, 5), (None, 3540), (10**9, 3600)]
)
async def test_a_token_that_is_about_to_end_is_not_used(
    tokens: tuple[AccessTokens, TokenServer], life_s: object, good_s: float
) -> None:
    source, told = tokens
    told.life_s = life_s
    assert await source.get() == "t1"
    told.now_s += good_s - 1
    assert await source.get() == "t1"
    told.now_s += 2
    assert await source.get() == "t2"


@pytest.mark.parametrize(
    ("status", "body", "text", "down"),
    [
        (
            400,
            {"error": "invalid_grant", "error_description": OTHERS},
            "renew it (HTTP 400, invalid_grant)",
            False,
        ),
        (401, {"error": OTHERS}, "renew it (HTTP 401, an error)", False),
        (503, {"error": "x"}, "HTTP 503 with something that is no answer", True),
        (200, {"access_token": 7}, "HTTP 200 with something that is no answer", False),
        (200, "<html>", "HTTP 200 with something that is no answer", False),
    ],
)
async def test_who_is_not_let_in(
    tokens: tuple[AccessTokens, TokenServer], status: int, body: object, text: str, down: bool
) -> None:
    source, told = tokens
    told.refusal, told.refused_status = body, status
    with pytest.raises(NotLetInError) as raised:
        await source.get()
    outcome = raised.value.outcome
    assert (outcome.fate, outcome.down) == (Fate.RETRY, down)
    assert text in outcome.detail
    assert OTHERS not in outcome.detail


@pytest.mark.parametrize("secret", ["t0ken", "{}", '{"client_id": 1}', "[]"])
async def test_a_secret_that_is_none_is_told_without_its_text(
    tokens: tuple[AccessTokens, TokenServer], monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    source, told = tokens
    monkeypatch.setenv(SECRET, secret)
    with pytest.raises(NotLetInError) as raised:
        await source.get()
    assert "has to be a JSON object" in str(raised.value)
    assert not told.asked


@pytest.mark.parametrize(("remove", "consent"), [(False, False), (False, True), (True, True)])
async def test_google_call(tokens: tuple[AccessTokens, TokenServer], remove: bool, consent: bool) -> None:
    whole = pb.Connection(
        google_audience=pb.GoogleAudienceConnection(audience_id="7", account_id="8"), requires_consent=consent
    )
    call = await GoogleAudience(whole, tokens[0]).call(("EMAIL", "PHONE"), ROWS[1:2] if remove else ROWS[:1])
    what = "remove" if remove else "ingest"
    assert call.url == f"https://datamanager.googleapis.com/v1/audienceMembers:{what}"
    assert call.headers["Authorization"] == "Bearer t1"
    body = msgspec.json.decode(call.body)
    account = {"accountType": "GOOGLE_ADS", "accountId": "8"}
    assert body["destinations"] == [
        {"operatingAccount": account, "loginAccount": account, "productDestinationId": "7"}
    ]
    assert (body["encoding"], body["validateOnly"]) == ("HEX", False)
    assert ("termsOfService" in body) == (not remove)
    assert ("consent" in body) == (consent and not remove)
    assert body["audienceMembers"] == [
        {"userData": {"userIdentifiers": [{"emailAddress": f"{int(remove):064x}"}]}}
    ]
