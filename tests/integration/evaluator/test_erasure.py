"""Erasure: everything of a profile goes, nothing late brings it back, and only a description makes it anew."""

import asyncio
import hashlib
import itertools
from collections.abc import Iterable

import asyncpg
import grpc
import pytest
from house import event, until

from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import ReceiptSinkServiceStub
from cairn.api.definition.v1 import definition_pb2
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.api.scheduler.v1.scheduler_pb2_grpc import TimerSinkServiceStub
from cairn.postgres.bucket import bucket_of
from cairn.runtime.clock import now_us, to_timestamp

GONE = ErrorReason.ERROR_REASON_PROFILE_ERASED


async def erase(door, *profile_ids: str) -> int:
    request = pb.EraseProfilesRequest(profile_ids=profile_ids)
    return (await door.stub.EraseProfiles(request, timeout=30)).erased


async def is_refused(door, sent: pb.Event) -> bool:
    """Whether an event is refused because its profile was erased; one that is not is taken."""
    answer = await door.ingest(sent)
    assert answer.accepted + len(answer.refusals) == 1
    assert not answer.accepted or not answer.duplicates
    assert {each.reason for each in answer.refusals} <= {GONE}
    return bool(answer.refusals)


def neighbor_of(profile_id: str) -> str:
    """Another id of the same bucket, however many of the usual numbers there are."""
    ids = (f"{profile_id}-neighbor-{number}" for number in itertools.count())
    return next(
        each for each in ids if all(bucket_of(each, n) == bucket_of(profile_id, n) for n in (2, 4, 8))
    )


async def assert_gone(door, profile_id: str) -> None:
    for call in (door.profile, door.timeline, door.enrollments):
        assert (await door.refusal(call(profile_id))).code is grpc.StatusCode.NOT_FOUND


async def traces(database, profile_id: str, schemas: Iterable[str] = ("evaluator",)) -> list[str]:
    """The tables in which an id stands, as text or in the bytes of a message."""
    found = []
    tables = await database.fetch(
        "SELECT table_schema, table_name FROM information_schema.tables "
        "WHERE table_schema = ANY($1::text[]) AND table_type = 'BASE TABLE'",
        list(schemas),
    )
    for schema, table in tables:
        count = await database.fetchval(
            f'SELECT count(*) FROM {schema}."{table}" AS t WHERE strpos(t::text, $1) > 0 OR strpos(t::text, $2) > 0',
            profile_id,
            profile_id.encode().hex(),
        )
        if count:
            found.append(f"{schema}.{table}")
    return found


@pytest.fixture
def name(new_id) -> str:
    """An id in which no other one is a part."""
    return f"{new_id()}-erased"


@pytest.fixture
async def superuser(evaluator_suite):
    """Looks into the tables of all services."""
    connection = await asyncpg.connect(evaluator_suite[0].dsn)
    yield connection
    await connection.close()


# What goes


async def test_everything_goes_everywhere(door, superuser, name) -> None:
    for number in range(20):
        await door.ingest(event(name, "cart_add", number))
    await door.upsert(name, email="ann@example.test", plan="gold", time_zone="Asia/Tokyo")
    await door.ingest(event(name, "signup"), event(name, "purchase"))
    assert set(await door.states(name)) == {"cart", "greeting", "gold"}
    assert "evaluator.event_ids" in await traces(superuser, name)
    assert await erase(door, name) == 1
    await assert_gone(door, name)

    async def is_clean() -> bool:
        return not await traces(superuser, name, ("evaluator", "scheduler", "activation"))

    await until(is_clean, "no service has the id in any table")


async def test_pending_activations_are_withdrawn_and_timers_canceled(
    evaluator_suite, door, superuser, name
) -> None:
    """With the receivers away all that is asked of them waits, and comes in order when they are back."""
    suite = evaluator_suite[0]
    suite.kill_service("activation")
    try:
        await door.ingest(event(name, "cart_add"), event(name, "signup"))

        async def is_pending() -> bool:
            return (
                any(each.pending_activations for each in await door.enrollments(name))
                or (await door.states(name)).get("greeting") == "COMPLETED"
            )

        await until(is_pending, "the greeting was asked for")
        assert await erase(door, name) == 1
    finally:
        suite.start_service("activation")

    async def is_clean() -> bool:
        return not await traces(superuser, name, ("evaluator", "scheduler", "activation"))

    await until(is_clean, "what was on its way is gone as well")


HELD = """
name: erased-in-a-pause
type: REAL_TIME
stages:
  - name: one
    entry: event.name == "begin-held"
    milestone: event.name == "next-held"
    steps: [{wait: {duration: 20d}}]
  - name: two
    steps: [{activation: {channel: ledger}}]
"""


async def test_what_a_pause_holds_goes_too(door, database, name) -> None:
    """A held step, and an entry that is remembered for the resume."""
    await door.cairn.publish(HELD)
    definition = DefinitionServiceStub(door.cairn.channel("definition"))
    await door.ingest(event(name, "begin-held"))
    pause = definition_pb2.PauseJourneyRequest(name="journeys/erased-in-a-pause")
    door.cairn.revision = (await definition.PauseJourney(pause, timeout=10)).revision
    await door.ingest(event(name, "next-held"), event(f"{name}-new", "begin-held"))
    held = "SELECT count(*) FROM profiles WHERE 'erased-in-a-pause' = ANY(held_in)"
    assert await database.fetchval(held) == 2
    assert await erase(door, name, f"{name}-new") == 2
    resume = definition_pb2.ResumeJourneyRequest(name="journeys/erased-in-a-pause")
    door.cairn.revision = (await definition.ResumeJourney(resume, timeout=10)).revision
    await door.ingest(event(f"{name}-other", "begin-held"))
    assert await door.states(f"{name}-other") == {"erased-in-a-pause": "WAITING"}
    await assert_gone(door, name)
    await assert_gone(door, f"{name}-new")


async def test_it_counts_those_that_there_were_and_can_be_repeated(door, new_id) -> None:
    known, unknown = new_id(), new_id()
    await door.ingest(event(known, "cart_add"))
    assert await erase(door, known, unknown, known) == 1
    assert await erase(door, known, unknown) == 0
    assert await is_refused(door, event(unknown, "cart_add"))


async def test_many_at_once(door, new_id) -> None:
    ids = [new_id() for _ in range(1000)]
    for start in range(0, 1000, 500):
        await door.ingest(*(event(each, "cart_add") for each in ids[start : start + 500]))
    assert await erase(door, *ids) == 1000
    answer = await door.ingest(*(event(each, "cart_add", 2) for each in ids))
    assert (answer.accepted, {each.reason for each in answer.refusals}) == (0, {GONE})


@pytest.mark.parametrize(
    ("ids", "field"),
    [
        ([], "profile_ids"),
        (["x"] * 1001, "profile_ids"),
        (["good", ""], "profile_ids[1]"),
        (["é" * 129], "profile_ids[0]"),
        (["a\0b"], "profile_ids[0]"),
    ],
    ids=["none", "too many", "empty", "too long", "NUL"],
)
async def test_what_can_be_nobodys_is_refused_whole(door, ids, field) -> None:
    error = await door.refusal(erase(door, *ids))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [each.field for each in error.violations] == [field]


# What comes late


@pytest.mark.parametrize("known_there", [False, True], ids=["", "with the profile in its cache"])
async def test_a_late_event_is_refused_by_every_replica(door, second_door, profile_id, known_there) -> None:
    """One has not heard of it: neither its old state nor its ignorance brings the profile back."""
    await door.ingest(event(profile_id, "cart_add"))
    if known_there:
        await second_door.ingest(event(profile_id, "signup"))
    assert await erase(door, profile_id) == 1
    assert await is_refused(second_door, event(profile_id, "cart_add", 2))
    assert await is_refused(door, event(profile_id, "cart_add", 3))
    assert await is_refused(door, event(profile_id, "cart_add", time_us=now_us() - 3_600_000_000))
    await assert_gone(door, profile_id)


async def test_nobody_who_was_never_there_is_brought_by_a_replica_that_has_not_heard(
    door, second_door, new_id
) -> None:
    for _ in range(20):
        profile_id = new_id()
        assert await erase(door, profile_id) == 0
        assert await is_refused(second_door, event(profile_id, "cart_add"))


async def test_others_in_the_batch_are_taken(door, second_door, new_id) -> None:
    ids = [new_id() for _ in range(40)]
    await second_door.ingest(*(event(each, "cart_add") for each in ids))
    await erase(door, *ids[::2])
    answer = await second_door.ingest(*(event(each, "signup") for each in ids))
    assert [each.index for each in answer.refusals] == list(range(0, 40, 2))
    assert answer.accepted == 20
    for each in ids[1::2]:
        assert set(await door.states(each)) == {"cart", "greeting"}


@pytest.mark.parametrize("known_there", [False, True], ids=["", "with the profile in its cache"])
async def test_a_late_receipt_leaves_nothing(
    cairn, door, second_door, second_evaluator, database, profile_id, known_there
) -> None:
    await door.ingest(event(profile_id, "cart_add"))
    if known_there:
        await second_door.ingest(event(profile_id, "signup"))
    (enrollment, *_) = await door.enrollments(profile_id)
    enrollment_id = enrollment.name.rpartition("/")[2]
    assert await erase(door, profile_id) == 1
    if known_there:
        # By now it has heard of the erasure, and has the profile in its cache all the same.
        await second_door.ingest(event(neighbor_of(profile_id), "cart_add"))
    receipt = activation_pb2.Receipt(
        activation_id=f"{enrollment_id}.1",
        profile_id=profile_id,
        enrollment=enrollment_id,
        state=activation_pb2.DELIVERY_STATE_SENT,
        state_time=to_timestamp(now_us()),
    )
    sink = ReceiptSinkServiceStub(cairn.channel(second_evaluator))
    await sink.DeliverReceipts(activation_pb2.DeliverReceiptsRequest(receipts=[receipt]), timeout=20)
    for table in ("profiles", "timeline"):
        query = f"SELECT count(*) FROM {table} WHERE profile_id = $1"
        assert await database.fetchval(query, profile_id) == 0
    await assert_gone(door, profile_id)


async def test_a_late_timer_is_stale(cairn, door, second_evaluator, profile_id) -> None:
    await door.ingest(event(profile_id, "cart_add"))
    (enrollment,) = await door.enrollments(profile_id)
    timer = scheduler_pb2.Timer(
        timer_id=f"{enrollment.name.rpartition('/')[2]}.t1",
        key=profile_id,
        due_time=enrollment.due_time,
        payload=b"cart",
    )
    assert await erase(door, profile_id) == 1
    for replica in ("evaluator", second_evaluator):
        sink = TimerSinkServiceStub(cairn.channel(replica))
        answer = await sink.FireTimers(scheduler_pb2.FireTimersRequest(timers=[timer]), timeout=20)
        assert list(answer.answers) == [scheduler_pb2.TIMER_ANSWER_STALE]
    await assert_gone(door, profile_id)


# Made anew


async def test_a_description_makes_it_anew_and_its_revision_goes_on(door, second_door, profile_id) -> None:
    await door.upsert(profile_id, city="Kyoto", plan="gold")
    before = (await door.profile(profile_id)).revision
    await erase(door, profile_id)
    assert (await second_door.upsert(profile_id, name="Ann")).accepted == 1
    profile = await door.profile(profile_id)
    assert dict(profile.attributes) == {"name": "Ann"}
    assert (profile.time_zone, profile.revision) == ("", before + 2)
    assert await door.timeline(profile_id) == []
    assert not await is_refused(door, event(profile_id, "cart_add"))
    assert await door.states(profile_id) == {"cart": "WAITING"}


async def test_an_empty_description_does_too(door, profile_id) -> None:
    await erase(door, profile_id)
    assert (await door.upsert(profile_id)).accepted == 1
    assert not await is_refused(door, event(profile_id, "cart_add"))


async def test_an_event_from_before_does_not_act_a_second_time(door, second_door, profile_id) -> None:
    """What had been seen is forgotten with the rest; the time tells."""
    sent = event(profile_id, "cart_add")
    assert not await is_refused(door, sent)
    await erase(door, profile_id)
    await door.upsert(profile_id)
    for each in (door, second_door):
        assert await is_refused(each, sent)
    assert await door.states(profile_id) == {}


async def test_it_can_be_erased_again(door, second_door, profile_id) -> None:
    for _ in range(3):
        await door.upsert(profile_id, city="Kyoto")
        assert not await is_refused(second_door, event(profile_id, "cart_add"))
        assert await erase(second_door, profile_id) == 1
        assert await is_refused(door, event(profile_id, "cart_add"))


async def test_the_key_is_one_for_all_replicas_and_no_hash_is_the_bare_one(
    database, door, profile_id
) -> None:
    await erase(door, profile_id)
    bare = hashlib.sha256(profile_id.encode()).digest()
    assert await database.fetchval("SELECT count(*) FROM keys WHERE length(secret) = 32") == 1
    assert await database.fetchval("SELECT count(*) FROM tombstones WHERE profile_hash = $1", bare) == 0


# At the same time


async def test_erased_and_written_at_the_same_time_by_two_replicas(
    door, second_door, database, new_id
) -> None:
    """New profiles and known ones, each written by one replica while the other erases it, and the other way round. Whoever was first:
    after the erasure is answered nothing is there."""
    for turn in range(12):
        ids = [new_id() for _ in range(30)]
        eraser, writer = (door, second_door) if turn % 2 else (second_door, door)
        if turn % 3:
            await writer.ingest(*(event(each, "cart_add") for each in ids))
        calls = [writer.ingest(*(event(each, "signup", number) for each in ids)) for number in range(3)]
        halves = [erase(eraser, *ids[:15]), erase(writer, *ids[15:])]
        answers = await asyncio.gather(calls[0], halves[0], calls[1], halves[1], calls[2])
        for answer in (answers[0], answers[2], answers[4]):
            assert answer.accepted + len(answer.refusals) == len(ids)
            assert {each.reason for each in answer.refusals} <= {GONE}
        late = await writer.ingest(*(event(each, "cart_add", 9) for each in ids))
        assert len(late.refusals) == len(ids)
        for table in ("profiles", "timeline", "event_ids"):
            query = f"SELECT count(*) FROM {table} WHERE profile_id = ANY($1::text[])"
            assert await database.fetchval(query, ids) == 0


async def test_erased_and_made_anew_at_the_same_time(door, second_door, database, new_id) -> None:
    """Whichever comes last: a profile is there or it has its tombstone, never both and never neither."""
    stones = await database.fetchval("SELECT count(*) FROM tombstones")
    ids = [new_id() for _ in range(40)]
    await erase(door, *ids)
    for turn in range(10):
        profiles = [pb.Profile(profile_id=each) for each in ids]
        for profile in profiles:
            profile.attributes.update({"turn": turn})
        request = pb.UpsertProfilesRequest(profiles=profiles)
        _, answer, _ = await asyncio.gather(
            erase(door, *ids),
            second_door.stub.UpsertProfiles(request, timeout=30),
            door.ingest(*(event(each, "cart_add", turn) for each in ids)),
        )
        assert answer.accepted == len(ids)
        there = await database.fetchval(
            "SELECT count(*) FROM profiles WHERE profile_id = ANY($1::text[])", ids
        )
        buried = await database.fetchval("SELECT count(*) FROM tombstones") - stones
        assert there + buried == len(ids)
        assert await database.fetchval("SELECT count(*) FROM profiles WHERE revision <= 0") == 0


# When something fails


async def test_a_kill_before_the_effects_have_left_loses_none(evaluator_suite, door, superuser, name) -> None:
    suite = evaluator_suite[0]
    count = "SELECT count(*) FROM activation.erasures"
    await until(
        lambda: superuser.fetchval("SELECT count(*) = 0 FROM evaluator.outbox"), "nothing is on its way"
    )
    before = await superuser.fetchval(count)
    suite.kill_service("activation")
    try:
        await door.ingest(event(name, "cart_add"))
        assert await erase(door, name) == 1
        suite.kill_service("evaluator")
        assert await superuser.fetchval("SELECT count(*) FROM evaluator.outbox WHERE erase IS NOT NULL") == 1
    finally:
        suite.start_service("activation")
        suite.start_service("evaluator")

    async def has_arrived() -> bool:
        return bool(await superuser.fetchval(count) == before + 1)

    await until(has_arrived, "Activation has heard of the erasure")
    await until(lambda: superuser.fetchval("SELECT count(*) = 0 FROM evaluator.outbox"), "nothing is left")
    assert await superuser.fetchval("SELECT count(*) FROM scheduler.timers WHERE key = $1", name) == 0
    assert await is_refused(door, event(name, "cart_add", 2))


async def test_a_profile_that_cannot_be_read_is_erased_all_the_same(
    door, second_door, database, profile_id
) -> None:
    await door.ingest(event(profile_id, "cart_add"))
    await database.execute("UPDATE profiles SET standings = '[]' WHERE profile_id = $1", profile_id)
    assert await erase(second_door, profile_id) == 1
    assert await is_refused(second_door, event(profile_id, "cart_add", 2))
