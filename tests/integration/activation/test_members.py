"""Whom audiences should hold: the statements against the migrated schema, and the call that lists them."""

import re

import grpc
import pytest
from ad_platforms import hashed, run_platform

from cairn.activation import store_members, wire
from cairn.activation.model import Claim, Member
from cairn.activation.store_erasure import REMOVAL_PREFIX
from cairn.activation.store_members import list_members, read_held, write_members
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1 import journey_pb2
from cairn.postgres.bucket import bucket_of
from cairn.postgres.pool import connect
from cairn.postgres.roles import role_of

NOW = 1_700_000_000_000_000


@pytest.fixture
async def database(activation_dsn):
    connection = await connect(activation_dsn, role=role_of("activation"), schema="activation")
    yield connection
    await connection.close()


def change(profile: str, sequence: int, present: bool = True, id_: str = "") -> tuple[Claim, Member]:
    claim = Claim(id_ or f"a{sequence}", 0, profile, "", 1, b"", 0, 1, "", sequence=sequence)
    return claim, Member(present, {"EMAIL": hashed(profile)})


async def listed(database, bucket: int = 3, **asked) -> list[tuple[str, bool, str]]:
    how = {"after": "", "include_removed": True, "limit": 100, **asked}
    rows = await list_members(database, bucket, "meta", **how)
    return [(row.profile_id, row.present, row.activation_id) for row in rows]


async def test_the_last_change_of_each_person_counts(database) -> None:
    await write_members(
        database, 3, "meta", [change("ada", 1), change("bob", 2), change("ada", 3, present=False)], NOW
    )
    assert await listed(database) == [("ada", False, "a3"), ("bob", True, "a2")]
    assert await listed(database, include_removed=False) == [("bob", True, "a2")]
    # A human had an older one tried again: the platform took it last.
    await write_members(database, 3, "meta", [change("ada", 1)], NOW + 5)
    (ada, _) = await list_members(database, 3, "meta", after="", include_removed=False, limit=10)
    assert (ada.present, ada.update_us, ada.identifiers) == (True, NOW + 5, {"EMAIL": hashed("ada")})


async def test_audiences_and_buckets_are_apart(database) -> None:
    await write_members(database, 3, "meta", [change("ada", 1)], NOW)
    await write_members(database, 3, "google", [change("ada", 2, present=False)], NOW)
    await write_members(database, 4, "meta", [change("cy", 3)], NOW)
    assert await listed(database) == [("ada", True, "a1")]
    assert await listed(database, 4) == [("cy", True, "a3")]


async def test_pages_go_by_profile(database) -> None:
    await write_members(database, 3, "meta", [change(f"p{n:02}", n + 1) for n in range(10)], NOW)
    first = await listed(database, limit=4)
    rest = await listed(database, after=first[-1][0])
    assert [row[0] for row in first + rest] == [f"p{n:02}" for n in range(10)]


async def test_erased_people_are_forgotten_when_the_audience_let_them_go(database) -> None:
    await write_members(database, 3, "meta", [change("a" * 64, 1), change("bob", 2)], NOW)
    gone = change("a" * 64, 3, present=False, id_=f"{REMOVAL_PREFIX}{'a' * 64}:meta")
    await write_members(database, 3, "meta", [gone, change("cy", 4)], NOW)
    assert [row[0] for row in await listed(database)] == ["bob", "cy"]
    await write_members(database, 3, "meta", [gone], NOW)
    assert [row[0] for row in await listed(database)] == ["bob", "cy"]


async def test_what_an_audience_got_of_those_whom_a_batch_removes(database) -> None:
    await write_members(
        database,
        3,
        "meta",
        [change(p, n + 1, present=p != "gone") for n, p in enumerate(["ada", "bob", "gone"])],
        NOW,
    )

    def asked(id_: str, profile: str, remove: bool) -> Claim:
        action = journey_pb2.AUDIENCE_ACTION_REMOVE if remove else journey_pb2.AUDIENCE_ACTION_ADD
        return Claim(id_, 0, profile, "", action, b"", 0, 1, "")

    claims = [
        asked("1", "ada", True),
        asked("2", "ada", True),
        asked("3", "bob", False),
        asked("4", "bob", True),
        asked("5", "gone", True),
        asked("6", "unknown", True),
    ]
    assert await read_held(database, 3, "meta", claims) == {"1": {"EMAIL": hashed("ada")}}
    assert await read_held(database, 3, "meta", claims[2:3]) == {}


STATEMENTS = {
    name: value
    for name, value in vars(store_members).items()
    if re.fullmatch("_[A-Z_]+", name) and isinstance(value, str)
}


@pytest.mark.parametrize("name", STATEMENTS)
async def test_each_statement_is_about_one_bucket(database, name) -> None:
    await database.prepare(STATEMENTS[name])
    assert len(STATEMENTS) == 4
    assert re.search(r"bucket = \$1 |\(bucket, .*\)\s*SELECT \$1,", STATEMENTS[name])


async def test_the_call_goes_over_all_buckets_and_names_nobody_who_was_erased(
    activation, activation_dsn, database, make
) -> None:
    service = await activation()
    await service.put(make.meta_connection(1))
    pseudonym = "ab" * 32
    for number in range(40):
        profile = f"p{number:02}"
        await write_members(database, bucket_of(profile, 8), "meta", [change(profile, number + 1)], NOW)
    await write_members(database, 5, "meta", [change(pseudonym, 50), change("cd" * 32, 51)], NOW)
    await database.execute("INSERT INTO erasures VALUES (5, $1, now())", bytes.fromhex(pseudonym))
    found, token = [], ""
    while True:
        page = await service.stub.ListAudienceMembers(
            pb.ListAudienceMembersRequest(connection="connections/meta", page_size=6, page_token=token),
            timeout=30,
        )
        assert len(page.members) <= 6
        found += page.members
        token = page.next_page_token
        if not token:
            break
    names = [member.profile_id for member in found]
    assert sorted(names) == sorted([*(f"p{n:02}" for n in range(40)), "", "cd" * 32])
    (erased,) = [member for member in found if not member.profile_id]
    assert erased.activation_id == "a50"


async def test_a_forged_token_is_refused(activation, make) -> None:
    service = await activation()
    await service.put(make.meta_connection(1))
    for token in ("x", "AAAA", "!"):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await service.stub.ListAudienceMembers(
                pb.ListAudienceMembersRequest(connection="connections/meta", page_token=token), timeout=30
            )
        assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_forged_place_is_the_first_page_at_worst(activation, make) -> None:
    service = await activation()
    await service.put(make.meta_connection(1))
    for place in ("9" * 5_000 + " x", "9" * 9 + " x", "x", "\0 \0"):
        request = pb.ListAudienceMembersRequest(
            connection="connections/meta", page_token=wire.resources_token(place)
        )
        assert list((await service.stub.ListAudienceMembers(request, timeout=30)).members) == []


async def test_whoever_changed_their_address_is_removed_by_the_one_that_the_audience_got(
    activation, make, monkeypatch
) -> None:
    async with run_platform("tiktok", monkeypatch) as platform:
        service = await activation(http_timeout_seconds=1)
        await service.put(platform.connection())

        def of_ada(id_, action, address):
            context = {"profile": {"email": address}}
            return make.mail(id_, "ada", context, connection="connections/tiktok", template="", action=action)

        await service.activate(of_ada("1", journey_pb2.AUDIENCE_ACTION_ADD, "ada@example.com"))
        await service.settled(1)
        assert await platform.people() == [hashed("ada")]
        await service.activate(of_ada("2", journey_pb2.AUDIENCE_ACTION_REMOVE, "new@example.com"))
        await service.settled(2)
        assert await platform.people() == []
