"""What the owner of a bucket does to its rows: in which order it claims, what it gives back, and what it knows of what waits."""

from collections import Counter
from collections.abc import AsyncIterator, Sequence

import asyncpg
import pytest

from cairn.activation import store, store_listing, store_moves, store_work
from cairn.activation.ledger import Fate, Outcome, RetryPolicy, Settled, State, settle
from cairn.activation.model import Activation, Claim, Result
from cairn.postgres.pool import connect
from cairn.postgres.roles import role_of

NOW = 1_790_000_000_000_000
DAY = 86_400_000_000
BUCKET = 3
HOLDER = 7
POLICY = RetryPolicy(budget=1_000, base_us=1, cap_us=1_000)


@pytest.fixture
async def database(activation_dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await connect(activation_dsn, role=role_of("activation"), schema="activation")
    yield connection
    await connection.close()


def activation(
    id_: str, connection: str = "email", request_us: int = NOW, context: bytes = b"{}"
) -> Activation:
    return Activation(
        id_,
        f"profile-of-{id_}",
        request_us,
        connection,
        "",
        0,
        "journeys/j/versions/1",
        "s",
        "t",
        "e",
        context,
        "UTC",
    )


async def accept(database, activations: Sequence[Activation], sequence: int, now: int = NOW) -> None:
    states = [State.PENDING] * len(activations)
    await store.accept(
        database, BUCKET, activations, states, detail="", sequence=sequence, writer=HOLDER, now=now
    )


async def claim(
    database, limit: int = 100, now: int = NOW, connection: str = "email", floor_us: int = 0
) -> list[Claim]:
    return await store_work.claim(
        database, BUCKET, connection, floor_us=floor_us, limit=limit, holder=HOLDER, now=now
    )


async def write(database, results: Sequence[Result], now: int = NOW) -> store.Changed:
    return await store_work.write_results(database, BUCKET, HOLDER, results, sequence=now, now=now)


def ids(claims: Sequence[Claim]) -> list[str]:
    return [claim.activation_id for claim in claims]


def outcome_of(claim: Claim, outcome: Outcome, now: int = NOW, due_us: int | None = None) -> Result:
    return Result(claim, settle(outcome, claim.attempts, POLICY, 1.0, now, due_us=due_us))


async def test_claims_go_by_the_time_that_is_due_and_then_by_acceptance(database) -> None:
    await accept(database, [activation("late")], 1, now=NOW + 5)
    await accept(database, [activation("b1"), activation("b2")], 20)
    await accept(database, [activation("a1")], 10)
    await accept(database, [activation("later")], 2, now=NOW + 10)
    assert ids(await claim(database, 3, now=NOW + 5)) == ["a1", "b1", "b2"]
    assert ids(await claim(database, 3, now=NOW + 5)) == ["late"]


async def test_a_claim_tells_what_the_guard_asks(database) -> None:
    await accept(database, [activation("a")], 5)
    (claimed,) = await claim(database)
    assert (claimed.time_zone, claimed.journey_version) == ("UTC", "journeys/j/versions/1")
    assert (claimed.next_attempt_us, claimed.sequence, claimed.attempts) == (NOW, 5, 1)


async def test_what_is_held_waits_for_its_time_and_loses_no_attempt(database) -> None:
    await accept(database, [activation("a"), activation("b")], 1)
    claims = await claim(database)
    held = Outcome(Fate.HELD, "quiet hours", until_us=NOW + DAY)
    await write(database, [outcome_of(claims[0], held), outcome_of(claims[1], Outcome(Fate.SENT, "250"))])
    assert await claim(database, now=NOW + DAY - 1) == []
    assert await store_work.earliest(database, BUCKET, "email", 0) == NOW + DAY
    (again,) = await claim(database, now=NOW + DAY)
    assert (again.activation_id, again.attempts) == ("a", 1)
    delivery = await store_listing.read_delivery(database, BUCKET, "a")
    assert delivery is not None
    assert [(a.state, a.detail) for a in delivery.history] == [(State.PENDING, "quiet hours")]


async def test_the_order_survives_a_retry_a_crash_and_a_stop(database) -> None:
    await accept(database, [activation("a"), activation("b"), activation("c")], 1)
    first = await claim(database, 1)
    await write(
        database,
        [outcome_of(first[0], Outcome(Fate.RETRY, "later"), NOW + 50, first[0].next_attempt_us)],
        NOW + 50,
    )
    claims = await claim(database, 2, now=NOW + 60)
    assert ids(claims) == ["a", "b"]
    await store_work.mark_sending(database, BUCKET, HOLDER, claims[:1], NOW + 60)
    await store_work.adopt(
        database, BUCKET, holder=99, repeatable=["email"], detail="in doubt", sequence=NOW, now=NOW + 70
    )
    claims = await claim(database, 2, now=NOW + 80)
    assert ids(claims) == ["a", "b"]
    await store_work.give_back(database, BUCKET, "email", holder=HOLDER, floor_us=0, now=NOW + 90)
    claims = await claim(database, 2, now=NOW + 100)
    assert ids(claims) == ["a", "b"]
    await store_work.release(database, BUCKET, HOLDER, claims, NOW + 110)
    claims = await claim(database, 3, now=NOW + 120)
    assert ids(claims) == ["a", "b", "c"]
    assert [c.attempts for c in claims] == [4, 3, 1], "what was released had no attempt"
    delivery = await store_listing.read_delivery(database, BUCKET, "a")
    assert delivery is not None
    assert [(a.end_us, a.detail) for a in delivery.history] == [(NOW + 50, "later"), (NOW + 70, "in doubt")]


async def test_what_is_in_doubt_is_unknown_where_it_can_not_be_repeated(database) -> None:
    await accept(database, [activation("a"), activation("b")], 1)
    claims = await claim(database)
    await store_work.mark_sending(database, BUCKET, HOLDER, claims[:1], NOW)
    adopted = await store_work.adopt(
        database, BUCKET, holder=99, repeatable=["meta"], detail="in doubt", sequence=NOW, now=NOW
    )
    assert adopted == ({State.UNKNOWN: 1, State.PENDING: 1}, [("a", NOW)])


async def test_a_batch_of_ten_thousand_is_attributed_one_by_one(database) -> None:
    count = 10_000
    await accept(database, [activation(f"a{n:05}", "meta") for n in range(count)], 1)
    claims = await claim(database, count, connection="meta")
    assert ids(claims) == [f"a{n:05}" for n in range(count)]
    sending = await store_work.mark_sending(database, BUCKET, HOLDER, claims, NOW)
    assert (sending.rows, sending.ids) == (count, None)
    fates = [Fate.SENT, Fate.FAILED, Fate.RETRY, Fate.UNKNOWN]
    results = [
        Result(c, outcome_of(c, Outcome(fates[n % 4], f"detail {n}", f"external {n}")).settled, n % 3)
        for n, c in enumerate(claims)
    ]
    assert (await write(database, results)).rows == count
    states = {Fate.SENT: 4, Fate.FAILED: 6, Fate.RETRY: 1, Fate.UNKNOWN: 7}
    rows = await database.fetch(
        "SELECT state, detail, external_id, template_version FROM deliveries ORDER BY activation_id"
    )
    for n, row in enumerate(rows):
        fate = fates[n % 4]
        external = "" if fate is Fate.RETRY else f"external {n}"
        assert tuple(row) == (states[fate], f"detail {n}", external, n % 3)


async def test_a_batch_is_bounded_by_its_bytes_and_the_rest_comes_next(database) -> None:
    size = store_work.MOST_CLAIMED_BYTES // 4
    await accept(database, [activation(f"a{n}", context=b"x" * size) for n in range(10)], 1)
    assert [len(await claim(database)) for _ in range(4)] == [4, 4, 2, 0]


async def test_the_history_keeps_the_last_hundred(database) -> None:
    await accept(database, [activation("a")], 1)
    for number in range(103):
        (claimed,) = await claim(database, now=NOW + DAY)
        await write(database, [outcome_of(claimed, Outcome(Fate.RETRY, f"try {number}"), NOW + number)])
    delivery = await store_listing.read_delivery(database, BUCKET, "a")
    assert delivery is not None
    assert [attempt.detail for attempt in delivery.history] == [f"try {number}" for number in range(3, 103)]
    (claimed,) = await claim(database, now=NOW + DAY)
    await write(database, [outcome_of(claimed, Outcome(Fate.FAILED, "no"), NOW + DAY)])
    again = await store_moves.retry(database, BUCKET, "a", NOW, detail="sent again", now=NOW + DAY)
    assert again is not None
    assert (again.state, again.attempts, len(again.history)) == (State.PENDING, 0, 100)
    assert [(a.state, a.detail) for a in again.history[-2:]] == [
        (State.FAILED, "no"),
        (State.PENDING, "sent again"),
    ]
    assert again.history[0].detail == "try 5"


async def test_a_hold_that_goes_on_stands_in_the_history_once_and_each_try_by_itself(database) -> None:
    await accept(database, [activation("a")], 1)
    paused, quiet = Outcome(Fate.HELD, "paused"), Outcome(Fate.HELD, "quiet hours")
    busy = Outcome(Fate.RETRY, "451 busy")
    for number, outcome in enumerate([paused, paused, paused, busy, busy, quiet, paused, paused]):
        (claimed,) = await claim(database, now=NOW + DAY)
        await write(database, [outcome_of(claimed, outcome, NOW + number)], NOW + number)
    delivery = await store_listing.read_delivery(database, BUCKET, "a")
    assert delivery is not None
    assert [(a.end_us - NOW, a.detail) for a in delivery.history] == [
        (0, "paused"),
        (3, "451 busy"),
        (4, "451 busy"),
        (5, "quiet hours"),
        (6, "paused"),
    ]
    assert (delivery.attempts, delivery.detail) == (2, "paused")


@pytest.mark.parametrize("state", list(State))
async def test_what_may_be_sent_again(database, state: State) -> None:
    await accept(database, [activation("a")], 1)
    await database.execute("UPDATE deliveries SET state = $1", state)
    again = await store_moves.retry(database, BUCKET, "a", NOW, detail="x", now=NOW)
    assert (again is not None) == (state in (State.FAILED, State.REFUSED, State.UNKNOWN))
    assert await database.fetchval("SELECT state FROM deliveries") == (State.PENDING if again else state)


async def test_the_first_that_is_due_of_each_connection(database) -> None:
    await accept(database, [activation("a", "email")], 1, now=NOW + 5)
    await accept(database, [activation("b", "email"), activation("c", "push")], 2, now=NOW + 3)
    await accept(database, [activation("d", "gone")], 4)
    await claim(database, connection="gone")
    await accept(database, [activation("e", "old", NOW - 9 * DAY)], 5)
    assert await store_work.first_due(database, BUCKET, 0) == {"email": NOW + 3, "push": NOW + 3, "old": NOW}
    assert await store_work.first_due(database, BUCKET, NOW - DAY) == {"email": NOW + 3, "push": NOW + 3}


@pytest.mark.parametrize(
    ("days_ago", "found"), [(0, None), (1, None), (3, 3), (40, 40), (90, "everything"), (300, "everything")]
)
async def test_the_census_knows_before_which_day_nothing_is_open(database, days_ago, found) -> None:
    assert await store_work.take_census(database, BUCKET, NOW) == store_work.Census(0, 0, None)
    request_us = NOW - days_ago * DAY
    await accept(database, [activation("a", request_us=request_us), activation("b")], 1)
    census = await store_work.take_census(database, BUCKET, NOW)
    assert census.pending == 2
    if found is None:
        assert census.oldest_us is None or NOW - 3 * DAY <= census.oldest_us <= request_us
    elif found == "everything":
        assert census.oldest_us == 0
    else:
        assert census.oldest_us is not None
        assert request_us - DAY < census.oldest_us <= request_us


async def test_the_census_sees_what_is_in_hand(database) -> None:
    await accept(database, [activation("a", request_us=NOW - 30 * DAY)], 1)
    await claim(database)
    census = await store_work.take_census(database, BUCKET, NOW)
    assert (census.pending, census.oldest_us) == (0, NOW - 30 * DAY)


async def test_the_census_counts_no_further_than_it_says(database, monkeypatch) -> None:
    monkeypatch.setattr(store_work, "MOST_COUNTED", 5)
    await accept(database, [activation(f"a{n}") for n in range(9)], 1)
    assert (await store_work.take_census(database, BUCKET, NOW)).pending == 5


async def test_results_are_the_holders_alone(database) -> None:
    await accept(database, [activation("a"), activation("b")], 1)
    claims = await claim(database)
    await database.execute("UPDATE deliveries SET holder = 8 WHERE activation_id = 'a'")
    sent = Settled(State.SENT, NOW, "", "", 1)
    written = await write(database, [Result(c, sent) for c in claims])
    assert (written.rows, written.ids) == (1, {"b"})
    await store_work.release(database, BUCKET, HOLDER, claims, NOW)
    states = Counter(row["state"] for row in await database.fetch("SELECT state FROM deliveries"))
    assert states == {State.LEASED: 1, State.SENT: 1}
