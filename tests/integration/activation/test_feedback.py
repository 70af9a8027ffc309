"""What destinations tell: written once, suppressing and resolving in the same transaction."""

import asyncpg
import grpc
import pytest

from cairn.activation.people import SUPPRESSING_KINDS
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import now_us, to_timestamp
from cairn.runtime.errors import error_from_rpc

ADDRESS = "ada@example.com"


@pytest.fixture
async def service(activation, make):
    replica = await activation()
    await replica.put(make.log_connection())
    return replica


def tell(kind: str, event_id: str = "event-1", **fields) -> pb.Feedback:
    values = {"provider": "mta", "address": ADDRESS, "detail": "in words", **fields}
    return pb.Feedback(event_id=event_id, kind=pb.FeedbackKind.Value(f"FEEDBACK_KIND_{kind}"), **values)


async def report(replica, *feedback: pb.Feedback) -> tuple[int, int, int, int]:
    answer = await replica.stub.ReportFeedback(pb.ReportFeedbackRequest(feedback=feedback))
    return answer.accepted, answer.known, answer.suppressed, answer.resolved


async def suppressed(replica) -> set[tuple[str, str, int]]:
    answer = await replica.stub.ListSuppressions(pb.ListSuppressionsRequest())
    return {(s.address, s.connection, s.reason) for s in answer.suppressions}


async def told_of(replica, activation_id: str) -> list[pb.Feedback]:
    answer = await replica.stub.GetDelivery(pb.GetDeliveryRequest(name=f"deliveries/{activation_id}"))
    return list(answer.delivery.feedback)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("HARD_BOUNCE", pb.SUPPRESSION_REASON_HARD_BOUNCE),
        ("COMPLAINT", pb.SUPPRESSION_REASON_COMPLAINT),
    ],
)
async def test_a_bounce_and_a_complaint_suppress_for_all_mail_once(service, make, kind, reason) -> None:
    await service.activate(make.log("a1", "ada"))
    assert await report(service, tell(kind, activation_id="a1", connection="log")) == (1, 0, 1, 0)
    assert await suppressed(service) == {(ADDRESS, "", reason)}
    assert await report(service, tell(kind, activation_id="a1", connection="log")) == (0, 1, 0, 0)
    (told,) = await told_of(service, "a1")
    assert (told.provider, told.event_id, told.address, told.connection, told.detail) == (
        "mta",
        "event-1",
        "",
        "connections/log",
        "in words",
    )
    # What a human lifted stays lifted, however often the same event is told.
    await service.stub.DeleteSuppression(pb.DeleteSuppressionRequest(address=ADDRESS))
    assert await report(service, tell(kind, activation_id="a1", connection="log")) == (0, 1, 0, 0)
    assert await suppressed(service) == set()


async def test_an_unsubscription_is_of_the_connection_that_wrote(service, make) -> None:
    await service.activate(make.log("a1", "ada"))
    assert await report(
        service,
        tell("UNSUBSCRIBE", "1", activation_id="a1", connection="connections/other"),
        tell("UNSUBSCRIBE", "2", address="bob@example.com", connection="other"),
        tell("UNSUBSCRIBE", "3", address="eve@example.com", activation_id="nobody-knows-it"),
    ) == (3, 0, 3, 0)
    reason = pb.SUPPRESSION_REASON_UNSUBSCRIBE
    assert await suppressed(service) == {
        (ADDRESS, "connections/log", reason),
        ("bob@example.com", "connections/other", reason),
        ("eve@example.com", "", reason),
    }


async def test_what_says_nothing_of_the_address_suppresses_nothing(service, make) -> None:
    await service.activate(make.log("a1", "ada"))
    later = to_timestamp(now_us())
    earlier = to_timestamp(now_us() - 60_000_000)
    assert await report(
        service,
        tell("DELIVERED", "2", activation_id="a1", occur_time=later),
        tell("SOFT_BOUNCE", "1", activation_id="a1", address="", occur_time=earlier),
        tell("SOFT_BOUNCE", "1", activation_id="a1", address=""),
    ) == (2, 1, 0, 0)
    assert await suppressed(service) == set()
    assert [told.event_id for told in await told_of(service, "a1")] == ["1", "2"], "oldest first"


async def test_events_of_different_providers_are_different(service) -> None:
    assert await report(
        service, tell("HARD_BOUNCE", provider="one"), tell("HARD_BOUNCE", provider="two")
    ) == (
        2,
        0,
        1,
        0,
    )


async def test_wrong_feedback_is_refused_with_every_violation_and_nothing_is_written(service, rows) -> None:
    late = to_timestamp(now_us() + 2 * 86_400_000_000)
    wrong = [
        tell("HARD_BOUNCE"),
        pb.Feedback(),
        tell("COMPLAINT", address="", activation_id="a1"),
        tell("DELIVERED", address=""),
        tell("DELIVERED", address="no address", connection="No Name", detail="d" * 257, occur_time=late),
        tell("DELIVERED", "e" * 257, provider="p" * 65, activation_id="a" * 257),
    ]
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await report(service, *wrong)
    assert {violation.field for violation in error_from_rpc(error.value).violations} == {
        "feedback[1].provider",
        "feedback[1].event_id",
        "feedback[1].kind",
        "feedback[1].activation_id",
        "feedback[2].address",
        "feedback[3].activation_id",
        "feedback[4].address",
        "feedback[4].connection",
        "feedback[4].detail",
        "feedback[4].occur_time",
        "feedback[5].event_id",
        "feedback[5].provider",
        "feedback[5].activation_id",
    }
    assert await rows("SELECT * FROM feedback") == []
    assert await suppressed(service) == set()


async def test_an_event_and_its_suppression_are_written_together_or_not_at_all(service, rows) -> None:
    await rows("ALTER TABLE suppressions RENAME TO elsewhere")
    with pytest.raises(grpc.aio.AioRpcError):
        await report(service, tell("HARD_BOUNCE"))
    await rows("ALTER TABLE elsewhere RENAME TO suppressions")
    assert await rows("SELECT * FROM feedback") == []
    assert await report(service, tell("HARD_BOUNCE")) == (1, 0, 1, 0)


@pytest.fixture
async def in_doubt(activation, make, mail_server, eventually):
    """A mail of which nobody knows whether it arrived: the server went away between its data and its answer."""

    async def start(id_: str):
        replica, server = await activation(), await mail_server("--slow", "3600")
        await replica.put(make.smtp_connection(server.port), make.template())
        await replica.activate(make.mail(id_, "ada"))
        await eventually(server.received)
        return replica, server

    return start


@pytest.mark.parametrize(
    ("kind", "state"),
    [
        ("DELIVERED", pb.DELIVERY_STATE_SENT),
        ("COMPLAINT", pb.DELIVERY_STATE_SENT),
        ("UNSUBSCRIBE", pb.DELIVERY_STATE_SENT),
        ("HARD_BOUNCE", pb.DELIVERY_STATE_FAILED),
    ],
)
async def test_feedback_resolves_a_delivery_in_doubt(in_doubt, receipt_sink, eventually, kind, state) -> None:
    replica, server = await in_doubt("a1")
    server.process.kill()
    assert (await replica.settled(1))["a1"].state == pb.DELIVERY_STATE_UNKNOWN
    await eventually(lambda: receipt_sink.states == {"a1": pb.DELIVERY_STATE_UNKNOWN})
    assert await report(replica, tell("SOFT_BOUNCE", "0", activation_id="a1")) == (1, 0, 0, 0)
    assert (await replica.deliveries())["a1"].state == pb.DELIVERY_STATE_UNKNOWN
    assert (await report(replica, tell(kind, activation_id="a1")))[3] == 1
    got = (await replica.stub.GetDelivery(pb.GetDeliveryRequest(name="deliveries/a1"))).delivery
    assert got.state == state
    assert got.history[-1].state == pb.DELIVERY_STATE_UNKNOWN, "what it was before stays known"
    assert [told.event_id for told in got.feedback] == ["0", "event-1"]
    await eventually(lambda: receipt_sink.states == {"a1": state})
    assert (await report(replica, tell("HARD_BOUNCE", "another", activation_id="a1")))[3] == 0
    assert (await replica.deliveries())["a1"].state == state, "what is resolved stays so"


async def test_feedback_that_overtakes_the_sender_resolves_when_it_gives_up(
    in_doubt, receipt_sink, eventually
) -> None:
    replica, server = await in_doubt("a1")
    assert (await replica.deliveries())["a1"].state == pb.DELIVERY_STATE_SENDING
    assert await report(replica, tell("DELIVERED", activation_id="a1")) == (1, 0, 0, 0)
    server.process.kill()

    async def sent() -> bool:
        return (await replica.deliveries())["a1"].state == pb.DELIVERY_STATE_SENT

    await eventually(sent)
    await eventually(lambda: receipt_sink.states == {"a1": pb.DELIVERY_STATE_SENT})


@pytest.mark.parametrize(
    ("told", "state"),
    [
        ([tell("DELIVERED", activation_id="a1")], pb.DELIVERY_STATE_SENT),
        (
            [tell("DELIVERED", activation_id="a1"), tell("HARD_BOUNCE", "2", activation_id="a1")],
            pb.DELIVERY_STATE_FAILED,
        ),
        ([tell("COMPLAINT", activation_id="a1")], pb.DELIVERY_STATE_SENT),
        (
            [tell("COMPLAINT", activation_id="a1", provider="ses", detail="dropped, complaint")],
            pb.DELIVERY_STATE_FAILED,
        ),
        ([tell("SOFT_BOUNCE", activation_id="a1")], pb.DELIVERY_STATE_UNKNOWN),
    ],
)
async def test_feedback_that_overtakes_the_sender_resolves_when_its_process_dies(
    activation_process, make, mail_server, receipt_sink, eventually, told, state
) -> None:
    replica, server = await activation_process(), await mail_server("--slow", "3600")
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("a1", "ada"))
    await eventually(server.received)
    suppressing = sum(one.kind in SUPPRESSING_KINDS for one in told)
    assert await report(replica, *told) == (len(told), 0, suppressing, 0)
    await replica.kill()
    other = await activation_process()
    assert (await other.settled(1))["a1"].state == state
    await eventually(lambda: receipt_sink.states == {"a1": state})


async def test_old_feedback_goes_with_the_days_it_is_about(
    service, activation, activation_dsn, rows, eventually
) -> None:
    await report(service, tell("HARD_BOUNCE", "old"), tell("HARD_BOUNCE", "new"))
    await rows("UPDATE feedback SET record_time = record_time - interval '401 days' WHERE event_id = 'old'")
    await activation()

    async def left() -> bool:
        found: list[asyncpg.Record] = await rows("SELECT event_id FROM feedback")
        return [row["event_id"] for row in found] == ["new"]

    await eventually(left)
