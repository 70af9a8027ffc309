"""From a request to a message in a mailbox, and what becomes of those that can't be sent."""

import email
import email.policy

import pytest

from cairn.api.activation.v1 import activation_pb2 as pb


@pytest.fixture
async def service(activation, make, mail_server):
    replica = await activation()
    server = await mail_server()
    await replica.put(make.smtp_connection(server.port), make.template())
    replica.mail = server
    return replica


async def test_a_request_becomes_one_message_and_one_receipt(service, make, receipt_sink, eventually) -> None:
    answer = await service.activate(make.mail("a1", "ada"))
    assert (answer.accepted, answer.known, list(answer.refusals)) == (1, 0, [])
    delivery = (await service.settled(1))["a1"]
    assert delivery.state == pb.DELIVERY_STATE_SENT
    assert delivery.attempts == 1
    [entry] = service.mail.received()
    assert (entry["to"], entry["from"], entry["activation"]) == (
        ["ada@example.com"],
        "shop@example.com",
        "a1",
    )
    assert entry["message_id"] == delivery.external_id
    message = email.message_from_bytes(
        (service.mail.mailbox / entry["file"]).read_bytes(), policy=email.policy.default
    )
    assert message["Subject"] == "Hello Ada"
    assert message["From"] == "Shop <shop@example.com>"
    assert message.get_body().get_content().strip() == "Dear Ada"
    await eventually(lambda: receipt_sink.receipts)
    [receipt] = receipt_sink.receipts
    assert (receipt.activation_id, receipt.profile_id, receipt.enrollment, receipt.state) == (
        "a1",
        "ada",
        "enrollment-of-a1",
        pb.DELIVERY_STATE_SENT,
    )


BAD = {
    "no-profile": ({}, "the profile has no address (attribute `email`)"),
    "no-address": ({"profile": {"name": "Ada"}}, "the profile has no address (attribute `email`)"),
    "empty-address": (
        {"profile": {"name": "A", "email": " "}},
        "the profile has no address (attribute `email`)",
    ),
    "injection": (
        {"profile": {"name": "A", "email": "a@b.c\r\nBcc: x@y.z"}},
        "the profile's address is none",
    ),
    "no-at": ({"profile": {"name": "A", "email": "not an address"}}, "the profile's address is none"),
    "variable": (
        {"profile": {"email": "a@example.com"}},
        "subject: the template needs `name`, which is not there",
    ),
    "two-lines": (
        {"profile": {"name": "x\ny", "email": "a@example.com"}},
        "subject: has more than one line",
    ),
    "no-object": ([1], "the activation's context is not a JSON object"),
}


async def test_what_cannot_be_made_fails_alone_and_is_not_sent(service, make) -> None:
    bad = [make.mail(name, context=context) for name, (context, _) in BAD.items()]
    broken = make.mail("broken")
    broken.context = b'{"profile": '
    await service.activate(*bad, broken, make.mail("good"))
    found = await service.settled(len(BAD) + 2)
    for name, (_, detail) in BAD.items():
        assert found[name].state == pb.DELIVERY_STATE_FAILED, name
        assert found[name].detail.startswith(detail)
        assert "example.com" not in found[name].detail
    assert found["broken"].detail == "the activation's context is not JSON"
    assert found["good"].state == pb.DELIVERY_STATE_SENT
    assert service.mail.activations() == ["good"]


async def test_a_repeated_request_is_known_and_sends_nothing_again(service, make) -> None:
    request = make.mail("a1")
    assert (await service.activate(request, request)).accepted == 1
    await service.settled(1)
    answer = await service.activate(request)
    assert (answer.accepted, answer.known) == (0, 1)
    await service.activate(make.mail("a2"))
    await service.settled(2)
    assert sorted(service.mail.activations()) == ["a1", "a2"]


async def test_a_deferred_message_is_tried_again(activation, make, mail_server) -> None:
    replica = await activation()
    server = await mail_server("--fail-first", "3")
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("a1"))
    found = await replica.settled(1)
    assert (found["a1"].state, found["a1"].attempts) == (pb.DELIVERY_STATE_SENT, 4)
    assert server.activations() == ["a1"]


async def test_a_deferred_message_is_given_up_at_last(
    activation, make, mail_server, receipt_sink, eventually
) -> None:
    replica = await activation(attempts_budget=2)
    server = await mail_server("--fail-first", "100")
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("a1"))
    delivery = (await replica.settled(1))["a1"]
    assert (delivery.state, delivery.attempts) == (pb.DELIVERY_STATE_FAILED, 2)
    assert (
        delivery.detail == "given up after 2 attempts: the mail server deferred it: 451 4.3.0 try again later"
    )
    await eventually(lambda: receipt_sink.states.get("a1") == pb.DELIVERY_STATE_FAILED)


async def test_a_dead_server_delays_only_itself_and_all_arrives_when_it_is_back(
    activation, make, mail_server, eventually
) -> None:
    replica = await activation()
    server = await mail_server()
    await server.stop()
    await replica.put(make.smtp_connection(server.port), make.log_connection(), make.template())
    await replica.activate(*make.batch(make.mail, "mail", 50))
    await replica.activate(*make.batch(make.log, "log", 50))
    found = await replica.settled(50)
    assert {d.activation_id for d in found.values() if d.state == pb.DELIVERY_STATE_SENT} == {
        f"log-{number}" for number in range(50)
    }

    async def tried() -> bool:
        return any(
            d.attempts for d in (await replica.deliveries()).values() if d.connection.endswith("email")
        )

    await eventually(tried)
    await mail_server(port=server.port)
    await replica.settled(100)
    assert sorted(server.activations()) == sorted(f"mail-{number}" for number in range(50))


async def test_a_kept_connection_that_the_server_closed_costs_no_attempt(service, make, mail_server) -> None:
    await service.activate(make.mail("a1"))
    await service.settled(1)
    await service.mail.stop()
    await mail_server(port=service.mail.port)
    await service.activate(make.mail("a2"))
    found = await service.settled(2)
    assert (found["a2"].state, found["a2"].attempts) == (pb.DELIVERY_STATE_SENT, 1)


async def test_a_cut_between_data_and_250_is_unknown_and_never_sent_again(
    activation, make, mail_server, eventually
) -> None:
    replica = await activation()
    server = await mail_server("--slow", "60")
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("a1"))
    await eventually(server.received)
    await server.stop()
    delivery = (await replica.settled(1))["a1"]
    assert delivery.state == pb.DELIVERY_STATE_UNKNOWN
    await mail_server(port=server.port)
    await replica.activate(make.mail("a2"))
    await replica.settled(2)
    assert sorted(server.activations()) == ["a1", "a2"]


async def test_a_server_that_never_confirms_leaves_it_unknown(activation, make, mail_server) -> None:
    replica = await activation(smtp_timeout_seconds=0.3)
    server = await mail_server("--slow", "60")
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("a1"))
    assert (await replica.settled(1))["a1"].state == pb.DELIVERY_STATE_UNKNOWN


async def test_a_change_of_the_connection_holds_for_the_next_message(service, make, mail_server) -> None:
    await service.activate(make.mail("a1"))
    await service.settled(1)
    await service.put(make.smtp_connection(service.mail.port, address_attribute="private"))
    context = {"profile": {"name": "Ada", "private": "ada@home.example.com"}}
    await service.activate(make.mail("a2", context=context))
    await service.settled(2)
    assert service.mail.received()[1]["to"] == ["ada@home.example.com"]


async def test_what_is_pending_on_a_deleted_connection_or_template_fails(
    activation, make, mail_server
) -> None:
    replica = await activation()
    server = await mail_server()
    await server.stop()
    await replica.put(make.smtp_connection(server.port), make.template(), make.template("other"))
    await replica.activate(make.mail("a1"), make.mail("a2", template="templates/other"))
    await replica.stub.DeleteTemplate(pb.DeleteTemplateRequest(name="templates/other"))
    assert (await replica.settled(1))["a2"].detail == "its template templates/other was deleted"
    await replica.stub.DeleteConnection(pb.DeleteConnectionRequest(name="connections/email"))
    assert (await replica.settled(2))["a1"].detail == "its connection was deleted"
