"""The stand-ins for ad platforms refuse what the platforms refuse: a test against one that takes anything shows nothing."""

import copy
import io
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from cairn.testing.audience_platform import AudiencePlatform
from cairn.testing.google_platform import GooglePlatform
from cairn.testing.linkedin_platform import LinkedinPlatform
from cairn.testing.meta_platform import MetaPlatform
from cairn.testing.tiktok_platform import TiktokPlatform

HASH = "a1" * 32
UPPER = HASH.upper()

Change = Callable[[dict[str, Any], dict[str, str]], object]


@asynccontextmanager
async def running(platform: AudiencePlatform) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    port = await platform.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield f"http://127.0.0.1:{port}", session
    finally:
        await platform.stop()


async def ask(
    session: aiohttp.ClientSession, url: str, body: Any, headers: dict[str, str], method: str = "POST"
) -> tuple[int, Any]:
    # In pieces: aiohttp warns of large bodies that are not.
    data = io.BytesIO(json.dumps(body).encode())
    all_headers = {"Content-Type": "application/json", **headers}
    async with session.request(method, url, data=data, headers=all_headers) as response:
        return response.status, await response.json()


async def people(session: aiohttp.ClientSession, root: str) -> Any:
    async with session.get(f"{root}/_state") as response:
        return (await response.json())["people"]


META = {"payload": {"schema": ["EMAIL", "MADID"], "data": [[HASH, "x"]]}, "access_token": "t"}
META_WRONG: list[tuple[Change, int]] = [
    (lambda b, _: b.update(access_token="x"), 190),
    (lambda b, _: b.update(appsecret_proof="x"), 100),
    (lambda b, _: b.update(more=1), 100),
    (lambda b, _: b["payload"].update(schema=["EMAIL"]), 100),
    (lambda b, _: b["payload"].update(schema=["EMAIL", "NAME"]), 100),
    (lambda b, _: b["payload"].update(data=[[UPPER, "x"]]), 100),
    (lambda b, _: b["payload"].update(data=[["ada@example.com", "x"]]), 100),
    (lambda b, _: b["payload"].update(data=[["", ""]]), 100),
    (lambda b, _: b["payload"].update(data=[]), 100),
    (lambda b, _: b["payload"].update(data=[[HASH, "x"]] * 10_001), 100),
]


@pytest.mark.parametrize(("change", "code"), META_WRONG)
async def test_meta(change: Change, code: int) -> None:
    platform = MetaPlatform("t", "s")
    async with running(platform) as (root, session):
        url, body = f"{root}/v25.0/7/users", {**copy.deepcopy(META), "appsecret_proof": platform._proof}
        status, answer = await ask(session, url, body, {})
        assert (status, answer["num_received"]) == (200, 1)
        assert await people(session, root) == {"7": [{"EMAIL": HASH, "MADID": "x"}]}
        change(body, {})
        status, answer = await ask(session, url, body, {})
        assert (status >= 400, answer["error"]["code"]) == (True, code)


ACCOUNT = {"accountType": "GOOGLE_ADS", "accountId": "7"}
GOOGLE = {
    "destinations": [{"operatingAccount": ACCOUNT, "loginAccount": ACCOUNT, "productDestinationId": "9"}],
    "audienceMembers": [{"userData": {"userIdentifiers": [{"emailAddress": HASH}]}}],
    "encoding": "HEX",
    "termsOfService": {"customerMatchTermsOfServiceStatus": "ACCEPTED"},
}
GOOGLE_WRONG: list[tuple[Change, str]] = [
    (lambda _, h: h.update(Authorization="Bearer x"), "UNAUTHENTICATED"),
    (lambda b, _: b.update(more=1), "INVALID_ARGUMENT"),
    (lambda b, _: b.pop("encoding"), "INVALID_ARGUMENT"),
    (lambda b, _: b.pop("termsOfService"), "INVALID_ARGUMENT"),
    (lambda b, _: b.update(consent={"adUserData": "YES"}), "INVALID_ARGUMENT"),
    (lambda b, _: b["destinations"][0].update(operatingAccount={}), "PERMISSION_DENIED"),
    (lambda b, _: b["destinations"][0].update(productDestinationId="x"), "INVALID_ARGUMENT"),
    (lambda b, _: b.update(audienceMembers=[]), "INVALID_ARGUMENT"),
    (lambda b, _: b.update(audienceMembers=b["audienceMembers"] * 10_001), "INVALID_ARGUMENT"),
    (lambda b, _: b["audienceMembers"][0].update(name="x"), "INVALID_ARGUMENT"),
    *(
        (
            lambda b, _, wrong=wrong: b["audienceMembers"][0]["userData"].update(userIdentifiers=wrong),
            "INVALID_ARGUMENT",
        )
        for wrong in (
            [],
            [{"emailAddress": UPPER}],
            [{"email": HASH}],
            [{"emailAddress": HASH, "phoneNumber": HASH}],
            [{"emailAddress": HASH}] * 11,
        )
    ),
]


@pytest.mark.parametrize(("change", "name"), GOOGLE_WRONG)
async def test_google(change: Change, name: str) -> None:
    async with running(GooglePlatform("cs", "rt", "7")) as (root, session):
        form = {
            "grant_type": "refresh_token",
            "client_id": "c",
            "client_secret": "cs",
            "refresh_token": "rt",
        }
        async with session.post(f"{root}/token", data=form) as response:
            headers = {"Authorization": f"Bearer {(await response.json())['access_token']}"}
        url, body = f"{root}/v1/audienceMembers:ingest", copy.deepcopy(GOOGLE)
        status, answer = await ask(session, url, body, headers)
        assert (status, "requestId" in answer) == (200, True)
        assert await people(session, root) == {"9": [{"EMAIL": HASH}]}
        change(body, headers)
        status, answer = await ask(session, url, body, headers)
        assert (status >= 400, answer["error"]["status"]) == (True, name)


@pytest.mark.parametrize(
    "wrong", [{"client_secret": "x"}, {"refresh_token": "x"}, {"grant_type": "x"}, {"client_id": ""}]
)
async def test_googles_token_server(wrong: dict[str, str]) -> None:
    async with running(GooglePlatform("cs", "rt", "7")) as (root, session):
        form = {
            "grant_type": "refresh_token",
            "client_id": "c",
            "client_secret": "cs",
            "refresh_token": "rt",
        }
        async with session.post(f"{root}/token", data={**form, **wrong}) as response:
            assert response.status in {400, 401}


TIKTOK = {
    "advertiser_ids": ["8"],
    "action": "add",
    "id_schema": ["EMAIL_SHA256", "PHONE_SHA256"],
    "batch_data": [[{"id": HASH, "audience_ids": ["9"]}, {}]],
}
TIKTOK_WRONG: list[tuple[Change, int]] = [
    (lambda _, h: h.update({"Access-Token": "x"}), 40_105),
    (lambda b, _: b.update(advertiser_ids=["1"]), 40_001),
    (lambda b, _: b.update(action="remove"), 40_002),
    (lambda b, _: b.update(more=1), 40_002),
    (lambda b, _: b.update(id_schema=["EMAIL_SHA256"]), 40_002),
    (lambda b, _: b.update(id_schema=["EMAIL", "PHONE_SHA256"]), 40_002),
    (lambda b, _: b.update(batch_data=[]), 40_002),
    (lambda b, _: b.update(batch_data=b["batch_data"] * 1_001), 40_002),
    (lambda b, _: b.update(batch_data=[[{}, {}]]), 40_002),
    (lambda b, _: b["batch_data"][0][0].update(id=UPPER), 40_002),
    (lambda b, _: b["batch_data"][0][0].update(audience_ids=[]), 40_002),
]


@pytest.mark.parametrize(("change", "code"), TIKTOK_WRONG)
async def test_tiktok(change: Change, code: int) -> None:
    async with running(TiktokPlatform("t", "8")) as (root, session):
        url, body = f"{root}/open_api/v1.3/segment/mapping/", copy.deepcopy(TIKTOK)
        headers = {"Access-Token": "t"}
        assert (await ask(session, url, body, headers))[1]["code"] == 0
        assert await people(session, root) == {"9": [{"EMAIL_SHA256": HASH}]}
        change(body, headers)
        status, answer = await ask(session, url, body, headers)
        assert (status, answer["code"]) == (200, code)


LINKEDIN = {"elements": [{"action": "ADD", "userIds": [{"idType": "SHA256_EMAIL", "idValue": HASH}]}]}
LINKEDIN_HEADERS = {
    "Authorization": "Bearer t",
    "LinkedIn-Version": "202606",
    "X-Restli-Protocol-Version": "2.0.0",
    "X-RestLi-Method": "BATCH_CREATE",
}


@pytest.mark.parametrize(
    ("name", "value", "status"),
    [
        ("Authorization", "Bearer x", 401),
        ("LinkedIn-Version", "2026", 400),
        ("LinkedIn-Version", "202401", 426),
        ("X-Restli-Protocol-Version", "1.0.0", 400),
        ("X-RestLi-Method", "CREATE", 400),
    ],
)
async def test_linkedins_headers(name: str, value: str, status: int) -> None:
    async with running(LinkedinPlatform("t")) as (root, session):
        url = f"{root}/rest/dmpSegments/9/users"
        assert (await ask(session, url, LINKEDIN, LINKEDIN_HEADERS))[0] == 200
        assert await people(session, root) == {"9": [{"SHA256_EMAIL": HASH}]}
        assert (await ask(session, url, LINKEDIN, {**LINKEDIN_HEADERS, name: value}))[0] == status


@pytest.mark.parametrize(
    "element",
    [
        {"action": "REMOVE_ALL", "userIds": [{"idType": "SHA256_EMAIL", "idValue": HASH}]},
        {"action": "ADD", "userIds": []},
        {"action": "ADD"},
        {"action": "ADD", "userIds": [{"idType": "EMAIL", "idValue": HASH}]},
        {"action": "ADD", "userIds": [{"idType": "SHA256_EMAIL", "idValue": UPPER}]},
        {"action": "ADD", "userIds": [{"idType": "SHA512_EMAIL", "idValue": HASH}]},
        {"action": "ADD", "userIds": [{"idType": "GOOGLE_AID", "idValue": ""}]},
    ],
)
async def test_linkedins_elements(element: dict[str, Any]) -> None:
    async with running(LinkedinPlatform("t")) as (root, session):
        url = f"{root}/rest/dmpSegments/9/users"
        body = {"elements": [element, *LINKEDIN["elements"]]}
        status, answer = await ask(session, url, body, LINKEDIN_HEADERS)
        assert status == 200
        assert [each["status"] for each in answer["elements"]] == [400, 201]
        assert await people(session, root) == {"9": [{"SHA256_EMAIL": HASH}]}


async def test_linkedins_calls_have_a_largest_size() -> None:
    async with running(LinkedinPlatform("t")) as (root, session):
        url = f"{root}/rest/dmpSegments/9/users"
        body = {"elements": LINKEDIN["elements"] * 5_001}
        assert (await ask(session, url, body, LINKEDIN_HEADERS))[0] == 400
