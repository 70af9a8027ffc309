"""Erasure: nothing that names the person is left, what was under way stops, audiences let go, and a new profile may come."""

import json

import grpc
import pytest

from cairn.activation import erasure
from cairn.activation.erasure import Eraser
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.postgres.bucket import bucket_of
from cairn.runtime.clock import now_us, to_timestamp
from cairn.runtime.errors import error_from_rpc

SECOND = 1_000_000
BUCKETS = 8  # of the tests' databases
ADDRESS = "ada@example.com"
CONTEXT = {"profile": {"email": ADDRESS, "name": "Ada"}, "entry": {}, "event": {}}


async def erase(replica, *profiles: str, at_us: int = 0) -> tuple[int, int]:
    when = to_timestamp(at_us or now_us())
    erasures = [pb.Erasure(profile_id=profile, erase_time=when) for profile in profiles]
    answer = await replica.stub.EraseProfiles(pb.EraseProfilesRequest(erasures=erasures), timeout=60)
    return answer.withdrawn, answer.removals


@pytest.fixture
def traces(rows):
    """The tables in which any of these words stands, also within bytes."""

    async def find(*words: str) -> set[str]:
        tables = await rows("SELECT tablename FROM pg_tables WHERE schemaname = 'activation'")
        found = set()
        for table in (row["tablename"] for row in tables):
            for row in await rows(f"SELECT t::text AS text FROM {table} t"):
                if any(word in row["text"] or word.encode().hex() in row["text"] for word in words):
                    found.add(table)
        return found

    return find


@pytest.fixture
async def held(activation, make):
    """A replica whose mail server is nowhere, so that mail waits."""
    replica = await activation(retry_base_seconds=60, retry_cap_seconds=60)
    await replica.put(make.smtp_connection(1), make.template(), make.log_connection())
    return replica


async def test_nothing_is_left_that_names_the_person(held, make, traces, receipt_sink, eventually) -> None:
    await held.activate(
        make.mail("waits", "person-ada", context=CONTEXT),
        make.log("is-over", "person-ada", context=CONTEXT),
        make.mail("of-bob", "bob"),
    )
    await held.stub.SetConsents(
        pb.SetConsentsRequest(
            consents=[pb.Consent(profile_id="person-ada", granted=True), pb.Consent(profile_id="bob")]
        )
    )
    suppression = pb.Suppression(address=ADDRESS, reason=pb.SUPPRESSION_REASON_COMPLAINT)
    await held.stub.PutSuppressions(pb.PutSuppressionsRequest(suppressions=[suppression]))
    assert len(await traces("person-ada", ADDRESS)) >= 3
    assert await erase(held, "person-ada") == (1, 0)
    assert await traces("person-ada", ADDRESS) == set()
    found = await held.deliveries()
    assert found["waits"].state == pb.DELIVERY_STATE_WITHDRAWN
    assert found["waits"].detail == "profile erased"
    assert found["is-over"].state == pb.DELIVERY_STATE_SENT
    pseudonym = found["waits"].profile_id
    assert found["is-over"].profile_id == pseudonym
    assert len(bytes.fromhex(pseudonym)) == 32
    assert found["of-bob"].profile_id == "bob"
    assert found["of-bob"].state == pb.DELIVERY_STATE_PENDING
    await eventually(lambda: receipt_sink.states.get("waits") == pb.DELIVERY_STATE_WITHDRAWN)
    (of_bob,) = (await held.stub.GetConsents(pb.GetConsentsRequest(profile_id="bob"))).consents
    assert of_bob.profile_id == "bob"
    # The address is gone and stays suppressed.
    (left,) = (await held.stub.ListSuppressions(pb.ListSuppressionsRequest(address=ADDRESS))).suppressions
    assert (left.address, left.reason) == ("", pb.SUPPRESSION_REASON_COMPLAINT)


async def test_it_may_be_asked_again(held, make) -> None:
    at_us = now_us()
    await held.activate(make.mail("waits", "person-ada", request_time=to_timestamp(at_us - SECOND)))
    assert await erase(held, "person-ada", "nobody", at_us=at_us) == (1, 0)
    before = await held.deliveries()
    assert await erase(held, "person-ada", "nobody", "person-ada", at_us=at_us) == (0, 0)
    assert await held.deliveries() == before


async def test_what_was_asked_for_before_is_refused_and_what_comes_after_is_somebody_new(held, make) -> None:
    at_us = now_us()
    await erase(held, "person-ada", at_us=at_us)
    late = make.log("late", "person-ada", request_time=to_timestamp(at_us))
    new = make.log("new", "person-ada", request_time=to_timestamp(at_us + 1))
    answer = await held.activate(late, new)
    assert [(r.index, r.reason) for r in answer.refusals] == [(0, ErrorReason.ERROR_REASON_PROFILE_ERASED)]
    assert answer.accepted == 1
    consents = [
        pb.Consent(profile_id="person-ada", connection="a", granted=True, update_time=to_timestamp(at_us)),
        pb.Consent(
            profile_id="person-ada", connection="b", granted=True, update_time=to_timestamp(at_us + 1)
        ),
    ]
    assert (await held.stub.SetConsents(pb.SetConsentsRequest(consents=consents))).changed == 1
    # Told again of the same erasure, and of an earlier one, the new profile stays.
    for again_us in (at_us, at_us - SECOND):
        assert await erase(held, "person-ada", at_us=again_us) == (0, 0)
    assert (await held.deliveries())["new"].profile_id == "person-ada"
    (left,) = (await held.stub.GetConsents(pb.GetConsentsRequest(profile_id="person-ada"))).consents
    assert left.connection == "connections/b"
    assert (await held.activate(late)).refusals


async def test_what_came_in_at_the_same_moment_is_erased_as_well(held, make, rows, eventually) -> None:
    await held.activate(make.mail("of-bob", "bob", context=CONTEXT))
    await erase(held, "person-ada")
    # As if an activation of the person's had been on its way into the ledger meanwhile.
    moved = "UPDATE deliveries SET bucket = $1, profile_id = $2, request_time = request_time - interval '1 second'"
    await rows(moved, bucket_of("person-ada", BUCKETS), "person-ada")

    async def erased() -> bool:
        (delivery,) = (await held.deliveries()).values()
        return delivery.state == pb.DELIVERY_STATE_WITHDRAWN and len(delivery.profile_id) == 64

    await eventually(erased)


async def test_what_came_in_and_is_being_sent_at_the_second_look_is_erased_by_a_later_one(
    activation, make, rows, eventually, monkeypatch
) -> None:
    monkeypatch.setattr("cairn.activation.__main__.AGAIN_SECONDS", 0.1)
    monkeypatch.setattr(erasure, "_AGAIN_US", 2 * SECOND)
    erase_in, ended = Eraser._erase_in, []

    async def noting(self, *arguments):
        erased, done = await erase_in(self, *arguments)
        ended.append(done)
        return erased, done

    monkeypatch.setattr(Eraser, "_erase_in", noting)
    replica = await activation(retry_base_seconds=60, retry_cap_seconds=60)
    await replica.put(make.smtp_connection(1), make.template())
    await replica.activate(make.mail("of-bob", "bob", context=CONTEXT))
    await erase(replica, "person-ada")
    # As if it had been on its way into the ledger, and went on at once.
    moved = "UPDATE deliveries SET bucket = $1, profile_id = $2, state = 3, holder = 1, request_time = request_time - interval '1 second'"
    await rows(moved, bucket_of("person-ada", BUCKETS), "person-ada")
    await eventually(lambda: False in ended)
    await rows("UPDATE deliveries SET state = 4, holder = 0")

    async def erased() -> bool:
        (delivery,) = (await replica.deliveries()).values()
        return len(delivery.profile_id) == 64

    await eventually(erased)


async def test_one_with_very_many_deliveries_holds_up_nobody(held, make) -> None:
    await held.activate(*[make.mail(f"m{number}", "person-ada", context=CONTEXT) for number in range(1_100)])
    await held.activate(make.mail("of-bob", "bob"))
    assert await erase(held, "person-ada", "bob") == (1_101, 0)
    found = await held.deliveries()
    assert {delivery.state for delivery in found.values()} == {pb.DELIVERY_STATE_WITHDRAWN}
    assert len({delivery.profile_id for delivery in found.values()}) == 2


async def test_an_audience_lets_go(
    activation, make, meta_platform, rows, traces, receipt_sink, eventually
) -> None:
    replica = await activation()
    await replica.put(make.meta_connection(meta_platform.port))
    await replica.activate(make.audience("add-1", "person-ada"), make.audience("add-2", "bob"))
    await replica.settled(2)
    assert len((await meta_platform.state())["members"]["123"]) == 2
    assert await erase(replica, "person-ada") == (0, 1)
    assert await traces("person-ada", ADDRESS) == set()

    async def gone() -> bool:
        return len((await meta_platform.state())["members"]["123"]) == 1

    await eventually(gone)
    await eventually(lambda: len(receipt_sink.states) == 3)
    members = await rows("SELECT profile_id FROM members")
    assert [row["profile_id"] for row in members] == ["bob"]
    (removal,) = [d for d in (await replica.deliveries()).values() if d.activation_id.startswith("erase:")]
    assert removal.state == pb.DELIVERY_STATE_SENT
    assert removal.activation_id == f"erase:{removal.profile_id}:meta"
    identifiers = await rows(
        "SELECT 1 FROM deliveries WHERE activation_id = $1 AND context <> ''", removal.activation_id
    )
    assert identifiers == [], "nobody needs them any more"
    assert await erase(replica, "person-ada") == (0, 0)


async def test_somebody_new_stays_in_the_audience(activation, make, meta_platform, rows) -> None:
    replica = await activation()
    await replica.put(make.meta_connection(meta_platform.port))
    at_us = now_us() - SECOND
    await replica.activate(make.audience("add", "person-ada"))
    await replica.settled(1)
    assert await erase(replica, "person-ada", at_us=at_us) == (0, 0), "it was erased before it joined"
    assert [row["profile_id"] for row in await rows("SELECT profile_id FROM members")] == ["person-ada"]


async def test_an_audience_that_is_gone_is_asked_nothing(activation, make, meta_platform, rows) -> None:
    replica = await activation()
    await replica.put(make.meta_connection(meta_platform.port))
    await replica.activate(make.audience("add", "person-ada"))
    await replica.settled(1)
    await replica.stub.DeleteConnection(pb.DeleteConnectionRequest(name="meta"))
    assert await erase(replica, "person-ada") == (0, 0)
    assert await rows("SELECT * FROM members") == []


async def test_what_is_being_sent_is_waited_for(activation, make, mail_server, eventually) -> None:
    replica, server = await activation(), await mail_server("--slow", "0.5")
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("on-its-way", "person-ada", context=CONTEXT))
    await eventually(server.received)
    assert await erase(replica, "person-ada") == (0, 0)
    delivery = (await replica.deliveries())["on-its-way"]
    assert delivery.state == pb.DELIVERY_STATE_SENT
    assert len(delivery.profile_id) == 64


async def test_what_is_being_sent_for_long_is_said_and_the_rest_is_erased(
    activation, make, mail_server, eventually
) -> None:
    replica, server = await activation(), await mail_server("--slow", "3600")
    await replica.put(make.smtp_connection(server.port), make.template(), make.log_connection())
    await replica.activate(
        make.mail("hangs", "person-ada", context=CONTEXT), make.log("is-over", "person-ada")
    )
    await eventually(server.received)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await erase(replica, "person-ada")
    assert error_from_rpc(error.value).reason == ErrorReason.ERROR_REASON_NOT_READY
    assert len((await replica.deliveries())["is-over"].profile_id) == 64
    server.process.kill()

    async def erased() -> bool:
        try:
            await erase(replica, "person-ada")
        except grpc.aio.AioRpcError:
            return False
        return True

    await eventually(erased)
    assert len((await replica.deliveries())["hangs"].profile_id) == 64


async def test_addresses_are_found_where_the_connection_has_them(activation, make, traces) -> None:
    replica = await activation(retry_base_seconds=60, retry_cap_seconds=60)
    await replica.put(make.smtp_connection(1, address_attribute="work_mail"), make.template())
    context = {"profile": {"work_mail": "a.l@example.com", "name": "Ada", "other": "bob@example.com"}}
    broken = make.mail("broken", "p1")
    broken.context = b"{"
    await replica.activate(make.mail("waits", "p1", context=context), broken)
    suppressions = [pb.Suppression(address=address) for address in ("A.L@example.com", "bob@example.com")]
    await replica.stub.PutSuppressions(pb.PutSuppressionsRequest(suppressions=suppressions))
    await erase(replica, "p1")
    assert await traces("a.l@example.com", "A.L@example.com") == set()
    assert await traces("bob@example.com") == {"suppressions"}


async def test_wrong_erasures_are_refused_with_every_violation(held) -> None:
    late = to_timestamp(now_us() + 2 * 86_400 * SECOND)
    wrong = [
        pb.Erasure(profile_id="person-ada", erase_time=to_timestamp(now_us())),
        pb.Erasure(),
        pb.Erasure(profile_id="p" * 257, erase_time=late),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await held.stub.EraseProfiles(pb.EraseProfilesRequest(erasures=wrong))
    assert {violation.field for violation in error_from_rpc(error.value).violations} == {
        "erasures[1].profile_id",
        "erasures[1].erase_time",
        "erasures[2].profile_id",
        "erasures[2].erase_time",
    }


async def test_the_log_names_nobody(activation_process, make, mail_server) -> None:
    replica, server = await activation_process(), await mail_server()
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("first", "profile-of-ada", context=CONTEXT))
    await replica.settled(1)
    await erase(replica, "profile-of-ada")
    assert await replica.stop() == 0
    text = replica.log.read_text()
    assert json.loads(text.splitlines()[0])
    assert ADDRESS not in text
    assert "profile-of-ada" not in text


async def test_a_late_withdrawal_writes_the_name_down_no_more(held, make, traces, rows) -> None:
    asked_us = now_us() - SECOND
    assert await erase(held, "person-ada") == (0, 0)
    late = pb.Withdrawal(
        activation_id="never-came",
        profile_id="person-ada",
        request_time=to_timestamp(asked_us),
        reason="erased",
    )
    anew = pb.Withdrawal(
        activation_id="of-somebody-new",
        profile_id="person-ada",
        request_time=to_timestamp(now_us() + SECOND),
        reason="goal",
    )
    answer = await held.stub.Withdraw(pb.WithdrawRequest(withdrawals=[late]))
    assert (answer.withdrawn, answer.too_late) == (1, 0)
    assert await traces("person-ada") == set()
    assert len(await rows("SELECT FROM deliveries WHERE activation_id = 'never-came'")) == 1
    await held.stub.Withdraw(pb.WithdrawRequest(withdrawals=[anew]))
    assert await traces("person-ada") == {"deliveries", *await traces("of-somebody-new")}


async def test_an_audience_that_may_hold_somebody_is_asked_to_let_go(
    activation, make, meta_platform, rows, traces, eventually
) -> None:
    replica = await activation(attempts_budget=1)
    await replica.put(make.meta_connection(meta_platform.port))
    await meta_platform.misbehave("500", 1)
    await replica.activate(make.audience("add", "person-ada", context=CONTEXT))
    assert (await replica.settled(1))["add"].state == pb.DELIVERY_STATE_FAILED
    assert await rows("SELECT 1 FROM members") == []
    assert await erase(replica, "person-ada") == (0, 1)
    assert await traces("person-ada", ADDRESS) == set()

    async def removed() -> bool:
        found = await replica.deliveries()
        return any(id_.startswith("erase:") and d.state == pb.DELIVERY_STATE_SENT for id_, d in found.items())

    await eventually(removed)
    assert await rows("SELECT 1 FROM members") == []
    assert await erase(replica, "person-ada") == (0, 0)


async def test_an_audience_is_asked_once_whatever_it_was_asked_before(
    activation, make, meta_platform, rows, eventually
) -> None:
    replica = await activation()
    await replica.put(make.meta_connection(meta_platform.port), make.log_connection())
    await replica.activate(make.audience("add-1", "ada"))
    await replica.activate(make.audience("remove-1", "ada", "REMOVE"), make.log("beside", "ada", action=1))
    await replica.settled(3)
    await meta_platform.misbehave("500", 1_000)
    await replica.activate(make.audience("add-2", "ada"), make.audience("add-3", "ada"))

    async def tried() -> bool:
        found = await replica.deliveries()
        return bool(found["add-2"].history and found["add-3"].history)

    await eventually(tried)
    assert await erase(replica, "ada") == (2, 1)
    (member,) = await rows("SELECT profile_id, present, activation_id, identifiers FROM members")
    assert (len(member["profile_id"]), member["present"], member["activation_id"]) == (64, True, "add-3")
    assert len(json.loads(member["identifiers"])["EMAIL"]) == 64, "a hash"
