"""Each ad platform through the running service: adds, removes, single people refused, trouble, and whom it should hold."""

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
import pytest
from ad_platforms import CREDENTIALS, KINDS, TOKEN, Platform, hashed, run_platform

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1 import journey_pb2

SENT, FAILED, PENDING = pb.DELIVERY_STATE_SENT, pb.DELIVERY_STATE_FAILED, pb.DELIVERY_STATE_PENDING
TROUBLE = ["500", "429", "429_retry_after", "hang", "reset", "html", "huge"]


@pytest.fixture(params=sorted(KINDS))
async def platform(request, monkeypatch) -> AsyncIterator[Platform]:
    async with run_platform(request.param, monkeypatch) as started:
        yield started


@pytest.fixture
async def google(monkeypatch) -> AsyncIterator[Platform]:
    async with run_platform("google", monkeypatch) as started:
        yield started


@pytest.fixture
async def linkedin(monkeypatch) -> AsyncIterator[Platform]:
    async with run_platform("linkedin", monkeypatch) as started:
        yield started


@pytest.fixture
async def service(activation, patience):
    return await activation(http_timeout_seconds=patience)


@pytest.fixture
def change(make) -> Callable[..., pb.Activation]:
    """Makes an activation: ("google", "1", "ada", "REMOVE")."""

    def made(connection: str, id_: str, profile: str, action: str = "ADD", **fields: Any) -> pb.Activation:
        asked = journey_pb2.AudienceAction.Value(f"AUDIENCE_ACTION_{action}")
        values = {"connection": f"connections/{connection}", "template": "", "action": asked, **fields}
        return make.mail(id_, profile, **values)

    return made


async def members(service: Any, connection: str, **fields: Any) -> list[pb.AudienceMember]:
    """All members that the ledger has, page by page."""
    found: list[pb.AudienceMember] = []
    token = ""
    while True:
        request = pb.ListAudienceMembersRequest(
            connection=f"connections/{connection}", page_token=token, **fields
        )
        page = await service.stub.ListAudienceMembers(request, timeout=30)
        found += page.members
        token = page.next_page_token
        if not token:
            return found


async def test_adds_and_removes(service, platform, change) -> None:
    await service.put(platform.connection())
    changes = [("1", "ada"), ("2", "bob"), ("3", "ada", "REMOVE"), ("4", "cy", "REMOVE")]
    changes += [("5", "dee", "REMOVE"), ("6", "dee"), ("7", "bob", "REMOVE"), ("8", "bob")]
    await service.activate(*(change(platform.name, *each) for each in changes))
    found = await service.settled(len(changes))
    assert {d.state for d in found.values()} == {SENT}, {d.detail for d in found.values()}
    assert all(d.detail.endswith(f"identifiers by {platform.name}/1") for d in found.values())
    state = await platform.state()
    assert await platform.people() == sorted([hashed("bob"), hashed("dee")])
    assert "refused" not in state["counts"]
    if platform.name != "linkedin":  # which gives a call no id
        assert all(d.external_id for d in found.values())


async def test_a_trial_speaks_to_the_platform_and_changes_nothing(service, platform) -> None:
    await service.put(platform.connection())
    request = pb.TestConnectionRequest(name=f"connections/{platform.name}")
    answer = await service.stub.TestConnection(request, timeout=30)
    assert answer.ok, answer.detail
    assert answer.detail.startswith("the ad platform can be reached (HTTP ")
    assert (await platform.state())["people"] == {}
    assert await members(service, platform.name, include_removed=True) == []


async def test_the_members_are_those_that_the_platform_holds(service, platform, change) -> None:
    await service.put(platform.connection())
    await service.activate(*(change(platform.name, f"add-{n}", f"p{n}") for n in range(50)))
    await service.activate(*(change(platform.name, f"drop-{n}", f"p{n}", "REMOVE") for n in range(0, 50, 3)))
    await service.settled(67)
    held = await members(service, platform.name, page_size=7)
    assert {member.profile_id for member in held} == {f"p{n}" for n in range(50) if n % 3}
    assert all(member.present for member in held)
    assert sorted(member.identifiers[platform.email] for member in held) == await platform.people()
    assert {member.activation_id for member in held} == {f"add-{n}" for n in range(50) if n % 3}
    everybody = await members(service, platform.name, page_size=9, include_removed=True)
    assert {m.profile_id: m.present for m in everybody} == {f"p{n}": bool(n % 3) for n in range(50)}
    assert len(everybody) == 50


async def test_single_people_who_are_refused_fail_alone(service, platform, change) -> None:
    await service.put(platform.connection())
    await platform.refuse("p3", "p11")
    await service.activate(*(change(platform.name, f"add-{n}", f"p{n}") for n in range(20)))
    found = await service.settled(20)
    failed = {d.profile_id for d in found.values() if d.state == FAILED}
    assert failed == {"p3", "p11"}
    assert {d.attempts for d in found.values() if d.state == FAILED} == {1}
    assert await platform.people() == sorted(hashed(f"p{n}") for n in range(20) if n not in {3, 11})
    held = await members(service, platform.name)
    assert {member.profile_id for member in held} == {f"p{n}" for n in range(20)} - failed
    assert not any("example.com" in d.detail for d in found.values())


@pytest.mark.parametrize("mode", TROUBLE)
async def test_trouble_passes_and_nothing_is_overtaken(service, platform, change, mode) -> None:
    await service.put(platform.connection())
    await platform.misbehave(mode, 2)
    name = platform.name
    await service.activate(change(name, "1", "ada"), change(name, "2", "ada", "REMOVE"))
    await service.activate(change(name, "3", "ada"), change(name, "4", "bob"))
    found = await service.settled(4)
    assert {d.state for d in found.values()} == {SENT}
    assert found["1"].attempts == 3
    assert await platform.people() == sorted([hashed("ada"), hashed("bob")])
    (ada,) = [m for m in await members(service, name) if m.profile_id == "ada"]
    assert ada.activation_id == "3"


async def test_trouble_for_ever_ends_in_a_clear_state_and_slows_nobody_else(
    activation, platform, change, make
) -> None:
    service = await activation(http_timeout_seconds=1, attempts_budget=3)
    await service.put(platform.connection(), make.log_connection())
    await platform.misbehave("429", 1_000_000)
    await service.activate(change(platform.name, "1", "ada"))
    await service.activate(*make.batch(make.log, "beside", 100))
    beside = await service.settled(100)
    assert {d.state for id_, d in beside.items() if id_ != "1"} == {SENT}
    gave_up = (await service.settled(101))["1"]
    assert gave_up.state == FAILED
    assert gave_up.detail.startswith("given up after 3 attempts: the ad platform answered HTTP ")
    assert len(gave_up.history) == 2
    assert await members(service, platform.name, include_removed=True) == []


async def test_a_platform_that_hangs_slows_no_other_audience(
    activation, platform, change, make, eventually
) -> None:
    service = await activation(http_timeout_seconds=30)
    await service.put(platform.connection(), platform.connection("beside"))
    await platform.misbehave("hang", 1)
    await service.activate(change(platform.name, "1", "ada"))

    async def hangs() -> bool:
        return "misbehaved_hang" in (await platform.state())["counts"]

    await eventually(hangs)
    await service.activate(*(change("beside", f"b-{n}", f"p{n}") for n in range(50)))
    found = await service.settled(50)
    assert {d.state for id_, d in found.items() if id_ != "1"} == {SENT}
    assert found["1"].state == pb.DELIVERY_STATE_SENDING


async def test_many_people_go_in_few_calls(service, platform, change) -> None:
    await service.put(platform.connection())
    await service.activate(*(change(platform.name, f"a{n}", f"p{n}") for n in range(4000)))
    found = await service.settled(4000)
    assert {d.state for d in found.values()} == {SENT}
    state = await platform.state()
    assert len(state["people"]["123"]) == 4000
    assert state["counts"]["calls"] <= 24  # eight buckets, each of half a thousand; a straggler or two


async def test_what_an_audience_got_of_an_erased_person_is_enough_to_remove_them(
    service, platform, change
) -> None:
    await service.put(platform.connection())
    await service.activate(change(platform.name, "1", "ada"), change(platform.name, "2", "bob"))
    await service.settled(2)
    (ada,) = [m for m in await members(service, platform.name) if m.profile_id == "ada"]
    context = {"hashed": dict(ada.identifiers), "profile": {"email": "somebody@else.com"}}
    await service.activate(change(platform.name, "3", "ada", "REMOVE", context=context))
    assert (await service.settled(3))["3"].state == SENT
    assert await platform.people() == [hashed("bob")]


async def test_a_refused_person_of_linkedin_keeps_their_order_and_holds_up_nobody(
    service, linkedin, change
) -> None:
    await service.put(linkedin.connection())
    await linkedin.refuse("ada", status=429, count=2)
    await service.activate(
        change("linkedin", "1", "ada"),
        change("linkedin", "2", "bob"),
        change("linkedin", "3", "ada", "REMOVE"),
        change("linkedin", "4", "ada"),
    )
    found = await service.settled(4)
    assert {d.state for d in found.values()} == {SENT}
    assert (found["1"].attempts, found["2"].attempts) == (3, 1)
    assert await linkedin.people() == sorted([hashed("ada"), hashed("bob")])


async def test_a_version_that_linkedin_no_longer_speaks_is_told(
    service, linkedin, change, eventually
) -> None:
    connection = linkedin.connection()
    connection.linkedin_audience.api_version = "202401"
    await service.put(connection)
    await service.activate(change("linkedin", "1", "ada"))
    told = await _detail(service, "1", eventually)
    assert "202401" in told
    assert "api_version" in told
    await service.put(linkedin.connection())
    assert (await service.settled(1))["1"].state == SENT


async def test_google_tokens_are_asked_for_once_and_renewed_when_refused(service, google, change) -> None:
    await service.put(google.connection())
    await service.activate(*(change("google", f"a{n}", f"p{n}") for n in range(100)))
    await service.settled(100)
    assert (await google.state())["counts"]["tokens"] == 1
    await google.post("/_revoke", {})
    await service.activate(change("google", "1", "ada"))
    assert (await service.settled(101))["1"].state == SENT
    assert (await google.state())["counts"]["tokens"] == 2


async def test_google_hears_of_consent_only_where_it_is_required(service, google, change, make) -> None:
    await service.put(google.connection(), google.connection("asked", requires_consent=True))
    await service.stub.SetConsents(
        pb.SetConsentsRequest(consents=[pb.Consent(profile_id="bob", granted=True)]), timeout=30
    )
    await service.activate(change("google", "1", "ada"))
    await service.settled(1)
    assert not (await google.state())["counts"]["with_consent"]
    await service.activate(change("asked", "2", "ada"), change("asked", "3", "bob"))
    found = await service.settled(3)
    assert (found["2"].state, found["3"].state) == (pb.DELIVERY_STATE_REFUSED, SENT)
    assert (await google.state())["counts"]["with_consent"] == 1


@pytest.mark.parametrize("secret", ["{}", json.dumps({**CREDENTIALS, "refresh_token": "stale"})])
async def test_googles_credentials_are_mended_by_renewing_the_secret(
    service, google, change, monkeypatch, eventually, secret
) -> None:
    monkeypatch.setenv("CAIRN_SECRET_GOOGLE_CREDENTIALS", secret)
    await service.put(google.connection())
    await service.activate(change("google", "1", "ada"))
    told = await _detail(service, "1", eventually)
    assert "`google-credentials`" in told
    assert "stale" not in told
    monkeypatch.setenv("CAIRN_SECRET_GOOGLE_CREDENTIALS", json.dumps(CREDENTIALS))
    assert (await service.settled(1))["1"].state == SENT


@pytest.mark.parametrize("name", ["tiktok", "linkedin"])
async def test_a_refused_token_waits_for_a_new_one(service, change, monkeypatch, eventually, name) -> None:
    async with run_platform(name, monkeypatch) as platform:
        monkeypatch.setenv(f"CAIRN_SECRET_{name.upper()}_TOKEN", "stale-token")
        await service.put(platform.connection())
        await service.activate(change(name, "1", "ada"))
        told = await _detail(service, "1", eventually)
        assert "renew its secret" in told
        assert "stale-token" not in told
        monkeypatch.setenv(f"CAIRN_SECRET_{name.upper()}_TOKEN", TOKEN)
        assert (await service.settled(1))["1"].state == SENT


async def test_members_are_of_an_audience_that_there_is(service, make) -> None:
    await service.put(make.log_connection())
    for name, code in (
        ("connections/none", grpc.StatusCode.NOT_FOUND),
        ("connections/log", grpc.StatusCode.FAILED_PRECONDITION),
        ("Connections", grpc.StatusCode.INVALID_ARGUMENT),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await service.stub.ListAudienceMembers(pb.ListAudienceMembersRequest(connection=name), timeout=30)
        assert raised.value.code() is code, name


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        (
            {"google_audience": pb.GoogleAudienceConnection()},
            {"audience_id", "account_id", "credentials_secret"},
        ),
        (
            {
                "google_audience": pb.GoogleAudienceConnection(
                    audience_id="1",
                    account_id="123-456",
                    login_account_id="x",
                    credentials_secret="google-credentials",
                    base_url="http://example.com",
                    token_url="x",
                    identifiers={"FN": "name"},
                )
            },
            {"account_id", "login_account_id", "base_url", "token_url", "identifiers[FN]"},
        ),
        (
            {"tiktok_audience": pb.TiktokAudienceConnection(identifiers={"EMAIL": "email"})},
            {"audience_id", "advertiser_id", "access_token_secret", "identifiers[EMAIL]"},
        ),
        (
            {
                "linkedin_audience": pb.LinkedinAudienceConnection(
                    api_version="2026-01", identifiers={"EMAIL": "email", "GOOGLE_AID": ""}
                )
            },
            {
                "segment_id",
                "access_token_secret",
                "api_version",
                "identifiers[EMAIL]",
                "identifiers[GOOGLE_AID]",
            },
        ),
    ],
)
async def test_a_wrong_connection_is_refused_with_all_that_is_wrong(
    service, monkeypatch, fields, wrong
) -> None:
    monkeypatch.setenv("CAIRN_SECRET_GOOGLE_CREDENTIALS", "{}")
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await service.put(pb.Connection(name="connections/x", **fields))
    (kind,) = fields
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    violations = _violated_fields(raised.value)
    assert violations == {f"connection.{kind}.{field}" for field in wrong}


def _violated_fields(error: grpc.aio.AioRpcError) -> set[str]:
    from google.rpc import error_details_pb2
    from grpc_status import rpc_status

    status = rpc_status.from_call(error)
    found: set[str] = set()
    for detail in status.details:
        bad = error_details_pb2.BadRequest()
        if detail.Unpack(bad):
            found |= {violation.field for violation in bad.field_violations}
    return found


async def _detail(service: Any, id_: str, eventually: Callable[..., Awaitable[Any]]) -> str:
    """What is told of a delivery that waits for another try."""

    async def told() -> str:
        return (await service.deliveries())[id_].detail

    return await eventually(told)
