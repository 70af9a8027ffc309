"""Suppressions and consents: written once, listed, lifted; what is older changes nothing; what is wrong harms nothing."""

import grpc
import pytest

from cairn.activation.settings import ActivationSettings
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import from_timestamp, now_us, to_timestamp
from cairn.runtime.errors import StartupError, error_from_rpc

SECOND = 1_000_000


@pytest.fixture
async def stub(activation):
    return (await activation()).stub


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error_from_rpc(error.value)


async def put(stub, *suppressions: pb.Suppression) -> int:
    return (await stub.PutSuppressions(pb.PutSuppressionsRequest(suppressions=suppressions))).added


async def listed(stub, **fields) -> list[pb.Suppression]:
    return list((await stub.ListSuppressions(pb.ListSuppressionsRequest(**fields))).suppressions)


async def test_suppressions_live_and_die(stub) -> None:
    before = now_us()
    one = pb.Suppression(
        address="Ada@example.com", connection="email", source="operator", detail="asked by phone"
    )
    assert await put(stub, one, pb.Suppression(address="bob@example.com")) == 2
    assert await put(stub, one) == 0
    (found,) = await listed(stub, address="ada@EXAMPLE.com")
    assert (found.address, found.connection, found.reason, found.source, found.detail) == (
        "Ada@example.com",
        "connections/email",
        pb.SUPPRESSION_REASON_MANUAL,
        "operator",
        "asked by phone",
    )
    assert before <= from_timestamp(found.create_time) <= now_us()
    assert len(bytes.fromhex(found.address_hash)) == 32
    assert await put(stub, pb.Suppression(address="ada@example.com")) == 1, "for all e-mail is another one"
    assert {s.connection for s in await listed(stub, address="ada@example.com")} == {"", "connections/email"}
    await stub.DeleteSuppression(pb.DeleteSuppressionRequest(address="ADA@example.com", connection="email"))
    assert [s.connection for s in await listed(stub, address="ada@example.com")] == [""]
    gone = await refused(
        stub.DeleteSuppression(pb.DeleteSuppressionRequest(address="ada@example.com", connection="email"))
    )
    assert gone.code is grpc.StatusCode.NOT_FOUND
    assert "ada" not in gone.message


async def test_suppressions_are_listed_newest_first_in_pages(stub) -> None:
    for number in range(5):
        await put(stub, pb.Suppression(address=f"first-{number}@example.com"))
    # Of one moment: the keys tell them apart.
    await put(stub, *(pb.Suppression(address=f"last-{number}@example.com") for number in range(30)))
    addresses, token = [], ""
    while True:
        page = await stub.ListSuppressions(pb.ListSuppressionsRequest(page_size=4, page_token=token))
        addresses += [s.address for s in page.suppressions]
        token = page.next_page_token
        if not token:
            break
    assert len(addresses) == 35
    assert set(addresses[:30]) == {f"last-{number}@example.com" for number in range(30)}
    assert addresses[30:] == [f"first-{number}@example.com" for number in reversed(range(5))]


async def test_a_stronger_reason_takes_the_place_of_an_unsubscription_and_never_the_other_way(stub) -> None:
    def of(reason) -> pb.Suppression:
        return pb.Suppression(address="ada@example.com", reason=reason, source="x")

    assert await put(stub, of(pb.SUPPRESSION_REASON_UNSUBSCRIBE)) == 1
    created = (await listed(stub))[0].create_time
    assert await put(stub, of(pb.SUPPRESSION_REASON_HARD_BOUNCE)) == 0
    assert await put(stub, of(pb.SUPPRESSION_REASON_UNSUBSCRIBE), of(pb.SUPPRESSION_REASON_MANUAL)) == 0
    (found,) = await listed(stub)
    assert found.reason == pb.SUPPRESSION_REASON_HARD_BOUNCE
    assert found.create_time == created


async def test_wrong_suppressions_are_refused_with_every_violation_and_nothing_is_written(stub) -> None:
    wrong = [
        pb.Suppression(address="good@example.com"),
        pb.Suppression(address=""),
        pb.Suppression(address="no address", connection="No Name"),
        pb.Suppression(address="a@b.c", source="s" * 65, detail="d" * 257),
        pb.Suppression(address="a@b.c", reason=77, detail="nul\0"),
    ]
    error = await refused(put(stub, *wrong))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {violation.field for violation in error.violations} == {
        "suppressions[1].address",
        "suppressions[2].address",
        "suppressions[2].connection",
        "suppressions[3].source",
        "suppressions[3].detail",
        "suppressions[4].reason",
        "suppressions[4].detail",
    }
    assert await listed(stub) == []
    for count in (0, 1_001):
        size = await refused(put(stub, *[pb.Suppression(address="a@b.c")] * count))
        assert [violation.field for violation in size.violations] == ["suppressions"]


@pytest.mark.parametrize(
    "request_",
    [
        pb.ListSuppressionsRequest(page_token="forged"),
        pb.ListSuppressionsRequest(page_size=1_001),
        pb.ListSuppressionsRequest(address="no address"),
    ],
)
async def test_wrong_pages_are_refused(stub, request_) -> None:
    assert (await refused(stub.ListSuppressions(request_))).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_consents_are_kept_by_connection_and_the_later_one_counts(stub) -> None:
    now = now_us()

    def said(granted: bool, at_us: int, connection: str = "", profile: str = "ada") -> pb.Consent:
        return pb.Consent(
            profile_id=profile,
            connection=connection,
            granted=granted,
            update_time=to_timestamp(at_us),
            source="form",
        )

    async def set_(*consents: pb.Consent) -> int:
        return (await stub.SetConsents(pb.SetConsentsRequest(consents=consents))).changed

    async def got(profile: str = "ada") -> dict[str, bool]:
        answer = await stub.GetConsents(pb.GetConsentsRequest(profile_id=profile))
        return {consent.connection: consent.granted for consent in answer.consents}

    assert await got() == {}
    assert (
        await set_(said(True, now), said(False, now - SECOND, "email"), said(True, now, profile="bob")) == 3
    )
    assert await got() == {"": True, "connections/email": False}
    assert await set_(said(False, now - 1)) == 0, "an older one changes nothing"
    assert await set_(said(False, now)) == 0, "nor does one of the same time"
    assert await got() == {"": True, "connections/email": False}
    assert await set_(said(False, now + 2), said(True, now + 1)) == 1, (
        "of two in a batch the later one counts"
    )
    assert await got() == {"": False, "connections/email": False}
    assert await got("bob") == {"": True}
    assert await set_(pb.Consent(profile_id="eve", granted=True)) == 1
    (eve,) = (await stub.GetConsents(pb.GetConsentsRequest(profile_id="eve"))).consents
    assert now <= from_timestamp(eve.update_time) <= now_us()


async def test_wrong_consents_are_refused_with_every_violation_and_nothing_is_written(stub) -> None:
    late = to_timestamp(now_us() + 2 * 86_400 * SECOND)
    wrong = [
        pb.Consent(profile_id="good", granted=True),
        pb.Consent(granted=True),
        pb.Consent(profile_id="p" * 257, connection="No Name", source="s" * 65),
        pb.Consent(profile_id="p", update_time=late),
    ]
    error = await refused(stub.SetConsents(pb.SetConsentsRequest(consents=wrong)))
    assert {violation.field for violation in error.violations} == {
        "consents[1].profile_id",
        "consents[2].profile_id",
        "consents[2].connection",
        "consents[2].source",
        "consents[3].update_time",
    }
    assert not (await stub.GetConsents(pb.GetConsentsRequest(profile_id="good"))).consents
    nobody = await refused(stub.GetConsents(pb.GetConsentsRequest()))
    assert nobody.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_replicas_share_the_keys_of_their_database(activation, stub) -> None:
    await put(stub, pb.Suppression(address="ada@example.com"))
    second = await activation()
    assert len(await listed(second.stub, address="ada@example.com")) == 1
    assert await put(second.stub, pb.Suppression(address="ada@example.com")) == 0


async def test_another_hash_key_is_refused_at_the_start(activation, stub, monkeypatch) -> None:
    monkeypatch.setenv("CAIRN_SECRET_HASH_KEY", "another key that is long enough, surely")
    with pytest.raises(StartupError, match="CAIRN_ACTIVATION_HASH_KEY_SECRET"):
        await activation(hash_key_secret="hash-key")


async def test_a_hash_key_of_ones_own_holds_from_the_first_start_on(activation, monkeypatch) -> None:
    monkeypatch.setenv("CAIRN_SECRET_HASH_KEY", "a key of our own that is long enough")
    first = await activation(hash_key_secret="hash-key")
    await put(first.stub, pb.Suppression(address="ada@example.com"))
    second = await activation(hash_key_secret="hash-key")
    assert len(await listed(second.stub, address="ada@example.com")) == 1
    with pytest.raises(StartupError, match="suppressions"):
        await activation(hash_key_secret="")


@pytest.mark.parametrize("value", ["", "too short"])
async def test_a_hash_key_that_is_none_is_refused_at_the_start(activation, monkeypatch, value) -> None:
    monkeypatch.setenv("CAIRN_SECRET_HASH_KEY", value)
    with pytest.raises(StartupError, match="CAIRN_ACTIVATION_HASH_KEY_SECRET"):
        await activation(hash_key_secret="hash-key")


def test_the_public_address_has_to_be_one() -> None:
    for wrong in (
        "ftp://x",
        "mail.example.com",
        "https://a b",
        "https://x/?q",
        "https://user@x",
        "http://mail.example.com",
    ):
        with pytest.raises(ValueError, match="public_base_url"):
            ActivationSettings(postgres_dsn="postgresql://x", public_base_url=wrong)
    right = ActivationSettings(postgres_dsn="postgresql://x", public_base_url="https://mail.example.com/m")
    assert right.public_base_url == "https://mail.example.com/m"
    assert ActivationSettings(
        postgres_dsn="postgresql://x", public_base_url="http://127.0.0.1:1"
    ).public_base_url
