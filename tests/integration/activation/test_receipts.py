"""Each fate is told at least once, whatever dies when, and nothing is told that is not so."""

import asyncio
from collections import Counter

import grpc
import pytest

from cairn.activation import store
from cairn.activation.channels.base import failed
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.postgres.migrations import load_migrations, migrate
from cairn.postgres.pool import connect
from cairn.postgres.roles import ensure_database, ensure_roles, role_of

SENT, WITHDRAWN, UNKNOWN = (
    pb.DELIVERY_STATE_SENT,
    pb.DELIVERY_STATE_WITHDRAWN,
    pb.DELIVERY_STATE_UNKNOWN,
)


async def test_what_was_told_leaves_the_outbox(activation, make, receipt_sink, rows, eventually) -> None:
    service = await activation()
    await service.put(make.log_connection())
    await asyncio.sleep(0.5)  # what a start looks for in the outbox is over
    await service.activate(*make.batch(make.log, "r", 300))
    await eventually(lambda: len(receipt_sink.receipts) == 300)

    async def empty() -> bool:
        return not await rows("SELECT FROM receipts")

    await eventually(empty)
    assert len(receipt_sink.receipts) == 300, "from memory, and not from the outbox too"
    assert Counter(receipt_sink.states.values()) == {SENT: 300}
    assert {r.enrollment for r in receipt_sink.receipts} == {f"enrollment-of-r-{n}" for n in range(300)}


@pytest.mark.parametrize("way", ["log", "mail"])
async def test_killed_before_anything_is_told(
    activation_process, make, mail_server, receipt_sink, eventually, way
) -> None:
    await receipt_sink.stop()
    first = await activation_process()
    server = await mail_server()
    await first.put(make.log_connection(), make.smtp_connection(server.port), make.template())
    await first.activate(*make.batch(getattr(make, way), "r", 60))
    await first.settled(60)
    await first.kill()
    await receipt_sink.start()
    await activation_process()
    await eventually(lambda: len(receipt_sink.states) == 60)
    assert set(receipt_sink.states.values()) == {SENT}


async def test_what_memory_has_no_room_for_is_read_back(
    activation, make, receipt_sink, rows, eventually, monkeypatch
) -> None:
    monkeypatch.setattr("cairn.activation.relay._MOST_IN_MEMORY", 3_000)
    await receipt_sink.stop()
    service = await activation()
    await service.put(make.log_connection())
    for number in range(40):
        await service.activate(*make.batch(make.log, f"r{number}", 25))
    await receipt_sink.start()
    await eventually(lambda: len(receipt_sink.states) == 1000)

    async def empty() -> bool:
        return not await rows("SELECT FROM receipts")

    await eventually(empty)


async def test_fates_of_a_commit_whose_answer_was_lost_are_told(
    activation, make, receipt_sink, eventually, monkeypatch
) -> None:
    service = await activation()
    await service.put(make.log_connection())
    accept = store.accept

    async def loses_the_answer(*arguments: object, **named: object) -> None:
        await accept(*arguments, **named)  # type: ignore[arg-type]
        raise ConnectionResetError

    request = make.log("a1")
    monkeypatch.setattr(store, "accept", loses_the_answer)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.activate(request)
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    monkeypatch.setattr(store, "accept", accept)
    assert (await service.activate(request)).known == 1
    await eventually(lambda: receipt_sink.states.get("a1") == SENT)


async def test_of_a_batch_with_known_and_withdrawn_ones_the_right_fates_are_told(
    activation, make, receipt_sink, eventually
) -> None:
    service = await activation()
    await service.put(make.log_connection())
    batch = list(make.batch(make.log, "r", 30))
    await service.activate(*batch[:10])
    assert (await service.withdraw(*batch[:20])).withdrawn == 10
    answer = await service.activate(*batch)
    assert (answer.accepted, answer.known) == (10, 20)
    await eventually(lambda: len(receipt_sink.states) == 30)
    withdrawn = {id_ for id_, state in receipt_sink.states.items() if state == WITHDRAWN}
    assert withdrawn == {f"r-{n}" for n in range(10, 20)}
    assert len({(r.activation_id, r.state) for r in receipt_sink.receipts}) == 30, (
        "one may be told twice, but never another"
    )


async def test_what_the_guard_stops_is_not_sent_where_nothing_leaves_the_house(
    activation, make, receipt_sink, eventually, monkeypatch
) -> None:
    def stop(item, **_facts):
        return failed("stopped") if item.profile_id == "ada" else None

    monkeypatch.setattr("cairn.activation.operations.guard", stop)
    monkeypatch.setattr("cairn.activation.courier.guard", stop)
    service = await activation()
    await service.put(make.log_connection())
    await service.activate(make.log("a1", "ada"), make.log("a2", "bob"))
    found = await service.settled(2)
    assert (found["a1"].state, found["a1"].detail) == (pb.DELIVERY_STATE_FAILED, "stopped")
    assert found["a2"].state == SENT
    await eventually(lambda: len(receipt_sink.states) == 2)


_OLD_ROW = """
INSERT INTO deliveries VALUES ($1, $2, $3, 'ada', $4, $5, '', 0, 'journeys/j/versions/1', 'stage', 'step', 'enrollment', '{}', 1, $6, $3,
    $3, $3, 1, 'why', '', $7)
"""


async def test_a_database_of_the_release_before_loses_nothing(
    activation_postgres, activation_dsn, activation, make, receipt_sink, rows, eventually
) -> None:
    owner = await connect(activation_dsn, role=role_of("activation"), schema="activation")
    migrations = load_migrations("cairn.activation")
    await owner.execute("DROP SCHEMA activation CASCADE")
    admin = await connect(activation_dsn)
    await ensure_roles(admin, ["activation"])
    await ensure_database(admin, 8)
    await admin.execute(f"CREATE SCHEMA IF NOT EXISTS activation AUTHORIZATION {role_of('activation')}")
    await admin.close()
    await migrate(owner, "activation", migrations[:1])
    now = await owner.fetchval("SELECT now()")
    for place, (state, connection, holder, pending) in enumerate(
        [(1, "log", 0, False), (2, "log", 77, False), (3, "log", 77, False), (3, "email", 77, False)]
        + [(4, "log", 0, True)] * 3
        + [(4, "log", 0, False), (8, "log", 0, True)]
    ):
        await owner.execute(_OLD_ROW, place % 8, f"old-{place}", now, state, connection, holder, pending)
    await migrate(owner, "activation", migrations)
    await owner.execute(
        "INSERT INTO resources VALUES ('connections', 'log', '{\"name\": \"connections/log\", \"log\": {}}', 'e', $1)",
        now,
    )
    await owner.close()
    await activation()
    expected = dict.fromkeys((f"old-{n}" for n in (0, 1, 2, 4, 5, 6)), SENT)
    expected |= {"old-3": UNKNOWN, "old-8": WITHDRAWN}
    await eventually(lambda: receipt_sink.states == expected)
    assert not await rows("SELECT FROM deliveries WHERE receipt_pending")
