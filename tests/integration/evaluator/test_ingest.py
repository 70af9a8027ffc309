"""What the door does with events: takes the good, refuses the bad alone, knows again what it has seen."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable

import grpc
import pytest
from google.protobuf.struct_pb2 import Struct
from house import event

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.postgres.bucket import bucket_of
from cairn.postgres.roles import read_bucket_count
from cairn.runtime.clock import from_timestamp, now_us, to_timestamp

MINUTE_US = 60_000_000
DAY_US = 24 * 60 * MINUTE_US


def change(**fields: object) -> Callable[[pb.Event], None]:
    def apply(bad: pb.Event) -> None:
        for name, value in fields.items():
            setattr(bad, name, value)

    return apply


def at(offset_us: int) -> Callable[[pb.Event], None]:
    return lambda bad: bad.occur_time.CopyFrom(to_timestamp(now_us() + offset_us))


def with_nanos(nanos: int) -> Callable[[pb.Event], None]:
    return lambda bad: setattr(bad.occur_time, "nanos", nanos)


def with_seconds(seconds: int) -> Callable[[pb.Event], None]:
    return lambda bad: setattr(bad.occur_time, "seconds", seconds)


BAD = {
    "no event_id": (change(event_id=""), "EVENT_ID_INVALID", "event_id is missing"),
    "event_id with NUL": (change(event_id="a\0b"), "EVENT_ID_INVALID", "NUL"),
    "event_id too long": (change(event_id="x" * 257), "EVENT_ID_INVALID", "256 bytes"),
    "event_id too long in bytes": (change(event_id="é" * 129), "EVENT_ID_INVALID", "256 bytes"),
    "no profile": (change(profile_id=""), "PROFILE_ID_INVALID", "profile_id is missing"),
    "profile_id with NUL": (change(profile_id="\0"), "PROFILE_ID_INVALID", "NUL"),
    "profile_id too long": (change(profile_id="x" * 257), "PROFILE_ID_INVALID", "256 bytes"),
    "no name": (change(name=""), "EVENT_NAME_INVALID", "name is missing"),
    "name with NUL": (change(name="cart_add\0"), "EVENT_NAME_INVALID", "NUL"),
    "name too long": (change(name="n" * 257), "EVENT_NAME_INVALID", "256 bytes"),
    "no time": (lambda bad: bad.ClearField("occur_time"), "EVENT_TIME_INVALID", "occur_time is missing"),
    "negative nanos": (with_nanos(-1), "EVENT_TIME_INVALID", "no valid time"),
    "a second of nanos": (with_nanos(1_000_000_000), "EVENT_TIME_INVALID", "no valid time"),
    "past the year 9999": (with_seconds(253_402_300_800), "EVENT_TIME_INVALID", "no valid time"),
    "the largest number": (with_seconds(2**63 - 1), "EVENT_TIME_INVALID", "no valid time"),
    "before the year 1": (with_seconds(-62_135_596_801), "EVENT_TIME_INVALID", "no valid time"),
    "the first second there is": (with_seconds(-62_135_596_800), "EVENT_TOO_OLD", "7 days"),
    "the last second there is": (with_seconds(253_402_300_799), "EVENT_IN_FUTURE", "at most 300"),
    "6 minutes ahead": (at(6 * MINUTE_US), "EVENT_IN_FUTURE", "at most 300"),
    "older than the window": (at(-7 * DAY_US - MINUTE_US), "EVENT_TOO_OLD", "7 days"),
    "over 32 KiB": (
        lambda bad: bad.properties.update({"blob": "x" * 32 * 1024}),
        "TOO_LARGE",
        "at most 32768",
    ),
}


@pytest.mark.parametrize(("spoil", "reason", "words"), BAD.values(), ids=BAD)
async def test_a_bad_event_is_refused_alone(door, profile_id, spoil, reason, words) -> None:
    batch = [event(profile_id, "cart_add", number) for number in range(3)]
    spoil(batch[1])
    answer = await door.ingest(*batch)
    assert answer.accepted == 2
    (refusal,) = answer.refusals
    assert refusal.index == 1
    assert refusal.reason == ErrorReason.Value(f"ERROR_REASON_{reason}")
    assert words in refusal.message
    assert await door.states(profile_id) == {"cart": "WAITING"}


async def test_all_bad_events_of_a_batch_are_told_in_order(door, profile_id) -> None:
    batch = [event(profile_id, "cart_add", number) for number in range(len(BAD))]
    for each, (spoil, _, _) in zip(batch, BAD.values(), strict=True):
        spoil(each)
    answer = await door.ingest(*batch)
    assert answer.accepted == 0
    assert [each.index for each in answer.refusals] == list(range(len(BAD)))
    wanted = [f"ERROR_REASON_{reason}" for _, reason, _ in BAD.values()]
    assert [ErrorReason.Name(each.reason) for each in answer.refusals] == wanted


GOOD = {
    "4 minutes ahead": at(4 * MINUTE_US),
    "almost as old as the window": at(-7 * DAY_US + MINUTE_US),
    "ids of 256 bytes": change(event_id="é" * 128, name="cart_add"),
    "an emoji id": change(event_id="🛒👩‍👩‍👧‍👦\u202e"),
    "an id like a path": change(event_id="a/../b?c#d%2F'\"\\"),
    "nearly 32 KiB": lambda good: good.properties.update({"blob": "x" * (31 * 1024)}),
}


@pytest.mark.parametrize("alter", GOOD.values(), ids=GOOD)
async def test_what_is_only_unusual_is_taken(door, profile_id, alter) -> None:
    good = event(profile_id, "cart_add")
    alter(good)
    answer = await door.ingest(good)
    assert (answer.accepted, len(answer.refusals)) == (1, 0)
    # What happened long ago may have come to its end by now.
    assert (await door.kinds(profile_id, "cart"))[:3] == ["ENTERED", "STAGE_ENTERED", "WAIT_STARTED"]


async def test_an_event_a_little_ahead_counts_as_happening_on_arrival(door, profile_id) -> None:
    before = now_us()
    await door.ingest(event(profile_id, "cart_add", time_us=before + 4 * MINUTE_US))
    (enrollment,) = await door.enrollments(profile_id)
    assert before <= from_timestamp(enrollment.enter_time) <= now_us()


@pytest.mark.parametrize(
    "odd_id",
    [
        "é" * 128,
        "🛒",
        "a/b",
        "x/enrollments/y",
        "-x",
        " ",
        "%00",
        "'; DROP TABLE profiles; --",
        "\u202e\ufeff",
    ],
)
async def test_profiles_of_odd_ids_are_profiles(door, profile_id, odd_id) -> None:
    odd = (profile_id + odd_id).encode()[:256].decode(errors="ignore")
    assert (await door.ingest(event(odd, "cart_add"))).accepted == 1
    (enrollment,) = await door.enrollments(odd)
    found = await door.stub.GetEnrollment(pb.GetEnrollmentRequest(name=enrollment.name))
    assert found.enrollment == enrollment
    assert enrollment.name.startswith(f"profiles/{odd}/enrollments/")


# De-duplication


async def test_an_event_acts_once_however_often_it_comes(door, profile_id) -> None:
    one = event(profile_id, "cart_add")
    first = await door.ingest(one, one, one)
    assert (first.accepted, first.duplicates) == (3, 2)
    again = await door.ingest(one, event(profile_id, "cart_add", 2))
    assert (again.accepted, again.duplicates) == (2, 1)
    assert (await door.kinds(profile_id, "cart")).count("ENTERED") == 1


async def test_a_duplicate_is_known_by_its_id_whatever_else_differs(door, profile_id) -> None:
    await door.ingest(event(profile_id, "cart_add"))
    other = event(profile_id, "purchase", time_us=now_us() - 2 * MINUTE_US)
    other.event_id = "cart_add-1"
    assert (await door.ingest(other)).duplicates == 1
    assert await door.states(profile_id) == {"cart": "WAITING"}


async def test_the_same_id_of_two_profiles_is_no_duplicate(door, new_id) -> None:
    people = [new_id() for _ in range(20)]
    answer = await door.ingest(*(event(each, "cart_add") for each in people))
    assert (answer.accepted, answer.duplicates) == (20, 0)
    assert [await door.states(each) for each in people] == [{"cart": "WAITING"}] * 20


async def test_a_duplicate_is_known_by_every_replica(door, second_door, profile_id) -> None:
    one = event(profile_id, "cart_add")
    answers = await asyncio.gather(*(each.ingest(one) for each in [door, second_door] * 5))
    assert sum(each.duplicates for each in answers) == 9
    assert (await door.kinds(profile_id, "cart")).count("ENTERED") == 1


async def test_an_event_ahead_of_time_is_known_again_to_the_end_of_its_window(
    door, second_door, profile_id, database
) -> None:
    """It may come again until it is too old, which is up to five minutes more than the window after it arrived."""
    one = event(profile_id, "cart_add", time_us=now_us() - 7 * DAY_US + 2 * MINUTE_US)
    assert (await door.ingest(one)).duplicates == 0
    arrived = (now_us() - 7 * DAY_US - 2 * MINUTE_US) // DAY_US
    await database.execute(
        "UPDATE profiles SET seen = $2 WHERE profile_id = $1",
        profile_id,
        f'[{{"{one.event_id}": {arrived}}}, 0]',
    )
    # The other replica has not seen the profile: it reads what stands with it.
    assert (await second_door.ingest(one)).duplicates == 1


async def test_more_events_than_stand_with_a_profile_are_known_again(
    door, second_door, profile_id, database
) -> None:
    many = [event(profile_id, "cart_add", number) for number in range(50)]
    for start in range(0, 50, 7):
        assert (await door.ingest(*many[start : start + 7])).duplicates == 0
    for each in (door, second_door):
        assert (await each.ingest(*many)).duplicates == 50
    stored = await database.fetchval("SELECT count(*) FROM event_ids WHERE profile_id = $1", profile_id)
    assert 34 <= stored < 50, "the older ones are in the table, the last ones with the profile"


async def test_what_a_profile_had_seen_before_ids_stood_with_it_is_known_again(
    second_door, profile_id, database
) -> None:
    one = event(profile_id, "cart_add")
    bucket = bucket_of(profile_id, await read_bucket_count(database))
    await database.execute(
        "INSERT INTO profiles (bucket, profile_id, revision, standings, update_time) VALUES ($1, $2, 1, '{}', now())",
        bucket,
        profile_id,
    )
    await database.execute(
        "INSERT INTO event_ids (bucket, profile_id, event_id, arrival_time) VALUES ($1, $2, $3, now())",
        bucket,
        profile_id,
        one.event_id,
    )
    assert (await second_door.ingest(one)).duplicates == 1
    assert (await second_door.ingest(event(profile_id, "cart_add", 2))).duplicates == 0
    assert (await second_door.ingest(one)).duplicates == 1


async def test_noise_is_taken_and_leaves_nothing(door, profile_id) -> None:
    noise = event(profile_id, "page_view")
    first, second = await door.ingest(noise), await door.ingest(noise)
    assert (first.accepted, second.accepted, second.duplicates) == (1, 1, 0)
    assert (await door.refusal(door.profile(profile_id))).reason == ErrorReason.ERROR_REASON_NOT_FOUND


# The call as a whole


@pytest.mark.parametrize("count", [0, 10_001])
async def test_a_batch_that_is_empty_or_too_long_is_no_batch(door, count) -> None:
    small = pb.Event(event_id="e", profile_id="p", name="n", occur_time=to_timestamp(now_us()))
    request = pb.IngestEventsRequest(events=[small] * count)
    error = await door.refusal(door.stub.IngestEvents(request))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    (violation,) = error.violations
    assert violation.field == "events"
    assert "1 to 10000" in violation.description


async def test_ten_thousand_events_are_a_batch(door, profile_id) -> None:
    small = [event(f"{profile_id}-{number % 50}", "cart_add", number) for number in range(10_000)]
    assert (await door.ingest(*small)).accepted == 10_000


async def test_a_revision_that_never_comes_ends_with_the_deadline(door, profile_id) -> None:
    request = pb.IngestEventsRequest(events=[event(profile_id, "cart_add")], min_revision=10**9)
    error = await door.refusal(door.stub.IngestEvents(request, timeout=0.5))
    assert error.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await door.refusal(door.profile(profile_id))).reason == ErrorReason.ERROR_REASON_NOT_FOUND


async def test_events_wait_for_the_revision_that_they_ask_for(cairn, door, profile_id) -> None:
    name = profile_id.replace("profile", "late")

    def journey(name: str) -> str:
        stage = f"{{name: one, entry: 'event.name == \"{name}\"', steps: [{{wait: {{duration: 20d}}}}]}}"
        return f"name: {name}\ntype: REAL_TIME\nstages: [{stage}]"

    before = await cairn.publish(journey(f"{name}-before"))
    request = pb.IngestEventsRequest(events=[event(profile_id, name)], min_revision=before + 1)
    waiting = asyncio.ensure_future(door.stub.IngestEvents(request, timeout=20))
    await cairn.publish(journey(name))
    assert (await waiting).accepted == 1
    assert (await door.states(profile_id))[name] == "WAITING"


async def test_a_caller_that_went_away_leaves_the_rest_alone(door, new_id) -> None:
    """Its events may have been taken: coming again with the same ids settles it."""
    people = [new_id() for _ in range(300)]
    batch = [event(each, "cart_add") for each in people]
    calls = [asyncio.ensure_future(door.ingest(*batch[start : start + 20])) for start in range(0, 300, 20)]
    await asyncio.sleep(0)
    for call in calls[::2]:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    assert (await door.ingest(*batch)).accepted == 300
    assert [await door.states(each) for each in people[:5]] == [{"cart": "WAITING"}] * 5
    assert (await door.kinds(people[0], "cart")).count("ENTERED") == 1


# Values


def properties(**values: object) -> Struct:
    made = Struct()
    made.update(values)
    return made


def nested(depth: int) -> Struct:
    made = Struct()
    for _ in range(depth):
        outer = Struct()
        outer.fields["in"].struct_value.CopyFrom(made)
        made = outer
    return made


VALUES = {
    "NaN": properties(number=float("nan")),
    "infinities": properties(numbers=[float("inf"), float("-inf")]),
    "the largest and the smallest": properties(numbers=[1.797e308, -1.797e308, 5e-324, 2.0**63, -0.0]),
    "NUL in a text": properties(text="a\0b"),
    "NUL in a name": properties(**{"a\0b": 1}),
    "emoji": properties(text="🛒 \ud7ff\ue000\uffff \u2028", **{"😀": "😀"}),
    "an empty name": properties(**{"": ""}),
    "every control character": properties(text="".join(map(chr, range(1, 32)))),
    "as deep as a message can be": nested(30),
    "nothing set": Struct(fields={"nothing": {}}),
}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
async def test_strange_values_are_kept_and_harm_nothing(door, profile_id, values) -> None:
    strange = event(profile_id, "cart_add")
    strange.properties.CopyFrom(values)
    answer = await door.ingest(strange, event(f"{profile_id}-beside", "cart_add"))
    assert (answer.accepted, len(answer.refusals)) == (2, 0)
    profile = pb.Profile(profile_id=profile_id, attributes=values)
    upserted = await door.stub.UpsertProfiles(pb.UpsertProfilesRequest(profiles=[profile]))
    assert upserted.accepted == 1
    await door.profile(profile_id)
    assert await door.states(profile_id) == {"cart": "WAITING"}
    # All that read profiles without knowing whom they will meet.
    everybody = pb.ListEnrollmentsRequest(parent="profiles/-", journey="journeys/cart", page_size=1000)
    await door.stub.ListEnrollments(everybody)
    assert (await door.ingest(event(profile_id, "purchase"))).accepted == 1
    assert await door.states(profile_id) == {"cart": "GOAL_ACHIEVED"}


async def test_a_message_that_is_nested_too_deep_is_none(door, profile_id) -> None:
    struct = b""
    for _ in range(500):  # our own library would not build it: value.struct_value in fields.value, by hand
        value = field(5, struct)
        struct = field(1, field(1, b"in") + field(2, value))
    deep = field(1, event(profile_id, "cart_add").SerializeToString() + field(5, struct))
    path = "/cairn.api.evaluator.v1.EvaluatorService/IngestEvents"
    error = await door.refusal(door.cairn.channel("evaluator").unary_unary(path)(deep))
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (await door.ingest(event(profile_id, "cart_add"))).accepted == 1


def field(number: int, payload: bytes) -> bytes:
    """A length-delimited field as it is on the wire."""
    length, rest = b"", len(payload)
    while rest > 127:
        length, rest = length + bytes((rest & 127 | 128,)), rest >> 7
    return bytes((number << 3 | 2,)) + length + bytes((rest,)) + payload


# The stream


async def requests(
    door, batches: list[list[pb.Event]], *, min_revision: int | None = None
) -> AsyncIterator[pb.StreamEventsRequest]:
    revision = door.cairn.revision if min_revision is None else min_revision
    for sequence, batch in enumerate(batches, start=1):
        yield pb.StreamEventsRequest(sequence=sequence, events=batch, min_revision=revision)


async def test_a_stream_answers_every_batch_by_its_sequence(door, profile_id) -> None:
    batches = [
        [event(f"{profile_id}-{sequence}-{number}", "cart_add") for number in range(5)]
        for sequence in range(200)
    ]
    answers = {each.sequence: each async for each in door.stub.StreamEvents(requests(door, batches))}
    assert sorted(answers) == list(range(1, 201))
    assert all(each.accepted == 5 and not each.HasField("error") for each in answers.values())
    assert await door.states(f"{profile_id}-199-4") == {"cart": "WAITING"}


async def test_a_bad_batch_is_answered_in_the_stream_and_the_stream_goes_on(door, profile_id) -> None:
    nameless = event(profile_id, "cart_add", 2)
    nameless.name = ""
    batches = [[event(profile_id, "cart_add")], [], [nameless], [event(profile_id, "purchase")]]
    answers = {each.sequence: each async for each in door.stub.StreamEvents(requests(door, batches))}
    assert [answers[number].accepted for number in (1, 2, 3, 4)] == [1, 0, 0, 1]
    assert answers[2].error.reason == ErrorReason.ERROR_REASON_INVALID_ARGUMENT
    assert "1 to 10000" in answers[2].error.message
    assert not answers[2].error.HasField("retry_delay")
    (refusal,) = answers[3].refusals
    assert (refusal.index, refusal.reason) == (0, ErrorReason.ERROR_REASON_EVENT_NAME_INVALID)


async def test_batches_of_a_stream_do_not_wait_for_one_that_waits(door, profile_id) -> None:
    call = door.stub.StreamEvents()
    waits = pb.StreamEventsRequest(sequence=1, events=[event(profile_id, "cart_add")], min_revision=10**9)
    await call.write(waits)
    await call.write(pb.StreamEventsRequest(sequence=2, events=[event(profile_id, "cart_add", 2)]))
    async with asyncio.timeout(20):
        assert (await call.read()).sequence == 2
    call.cancel()


async def test_a_stream_that_is_broken_off_leaves_no_trace_in_the_log(
    door, profile_id, evaluator_suite
) -> None:
    log = evaluator_suite[0].log_dir / "evaluator.log"
    before = log.stat().st_size
    for number in range(5):
        call = door.stub.StreamEvents()
        await call.write(
            pb.StreamEventsRequest(sequence=1, events=[event(profile_id, "cart_add", number)], min_revision=1)
        )
        await call.read()
        call.cancel()
    await door.ingest(event(profile_id, "purchase"))
    with log.open("rb") as lines:
        lines.seek(before)
        written = lines.read()
    assert b"Traceback" not in written
    assert b"never retrieved" not in written


async def test_an_event_that_only_a_batch_journey_counts_is_kept_and_moves_nobody(
    door, cairn, profile_id, database
) -> None:
    await cairn.publish("""
name: counts-visits
type: BATCH
audience: count("visit") >= 2
stages: [{name: only, entry: "true", steps: [{activation: {channel: ledger}}]}]
""")
    await door.ingest(
        event(profile_id, "visit", 1), event(profile_id, "visit", 2), event(profile_id, "glance")
    )
    bucket = bucket_of(profile_id, await read_bucket_count(database))
    kept = await database.fetchval(
        "SELECT behavior FROM profiles WHERE bucket = $1 AND profile_id = $2", bucket, profile_id
    )
    assert {name: track[0] for name, track in json.loads(kept).items()} == {"visit": 2}
    assert await door.states(profile_id) == {}
    assert await door.timeline(profile_id) == []
    # Without any other reason to be there, a profile is: runs look at it.
    assert await door.attributes(profile_id) == {}
