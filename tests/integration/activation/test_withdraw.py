"""What is taken back never leaves, and what has left is told."""

import asyncio

import grpc
import pytest

from cairn.api.activation.v1 import activation_pb2 as pb


@pytest.fixture
async def service(activation, make, mail_server):
    """A mail server that is down: what is requested stays pending."""
    replica = await activation()
    replica.mail = await mail_server()
    await replica.mail.stop()
    await replica.put(make.smtp_connection(replica.mail.port), make.template(), make.log_connection())
    return replica


async def test_what_has_not_left_is_withdrawn_with_its_reason_and_a_receipt(
    service, make, mail_server, receipt_sink, eventually
) -> None:
    gone, stays = make.mail("gone"), make.mail("stays")
    await service.activate(gone, stays)
    answer = await service.withdraw(gone, reason="exit gave-up")
    assert (answer.withdrawn, answer.too_late) == (1, 0)
    assert (await service.withdraw(gone)).withdrawn == 1
    await mail_server(port=service.mail.port)
    found = await service.settled(2)
    assert (found["gone"].state, found["gone"].detail) == (pb.DELIVERY_STATE_WITHDRAWN, "exit gave-up")
    assert service.mail.activations() == ["stays"]
    await eventually(lambda: len(receipt_sink.states) == 2)
    assert receipt_sink.states["gone"] == pb.DELIVERY_STATE_WITHDRAWN


async def test_a_withdrawal_that_comes_first_is_remembered_and_reported_when_the_request_comes(
    service, make, receipt_sink, eventually
) -> None:
    request = make.log("early")
    assert (await service.withdraw(request)).withdrawn == 1
    assert receipt_sink.receipts == []
    answer = await service.activate(request)
    assert (answer.accepted, answer.known) == (0, 1)
    delivery = (await service.deliveries())["early"]
    assert (delivery.state, delivery.connection) == (pb.DELIVERY_STATE_WITHDRAWN, "connections/log")
    await eventually(lambda: receipt_sink.receipts)
    [receipt] = receipt_sink.receipts
    assert (receipt.state, receipt.enrollment) == (pb.DELIVERY_STATE_WITHDRAWN, "enrollment-of-early")


async def test_what_has_left_is_too_late(service, make) -> None:
    request = make.log("sent")
    await service.activate(request)
    await service.settled(1)
    answer = await service.withdraw(request)
    assert (answer.withdrawn, answer.too_late) == (0, 1)
    assert (await service.deliveries())["sent"].state == pb.DELIVERY_STATE_SENT


async def test_what_is_being_sent_is_too_late(activation, make, mail_server, eventually) -> None:
    replica = await activation()
    server = await mail_server("--slow", "1")
    await replica.put(make.smtp_connection(server.port), make.template())
    request = make.mail("a1")
    await replica.activate(request)
    await eventually(server.received)
    assert (await replica.withdraw(request)).too_late == 1
    assert (await replica.settled(1))["a1"].state == pb.DELIVERY_STATE_SENT


async def test_requests_and_withdrawals_that_race_end_in_exactly_one_way(service, make, mail_server) -> None:
    """Whatever the order, an answer "withdrawn" means that nothing was sent, and "too late" that it was."""
    await mail_server(port=service.mail.port)
    requests = list(make.batch(make.mail, "race", 200))

    async def one(request: pb.Activation, number: int) -> pb.WithdrawResponse:
        accept = asyncio.create_task(service.activate(request))
        await asyncio.sleep(number % 10 * 0.004)
        answer = await service.withdraw(request)
        await accept
        return answer

    answers = await asyncio.gather(*(one(request, number) for number, request in enumerate(requests)))
    found = await service.settled(200)
    sent = set(service.mail.activations())
    assert len(service.mail.activations()) == len(sent)
    for request, answer in zip(requests, answers, strict=True):
        assert answer.withdrawn + answer.too_late == 1
        state = found[request.activation_id].state
        assert (request.activation_id in sent) == bool(answer.too_late) == (state == pb.DELIVERY_STATE_SENT)


async def test_a_wrong_withdrawal_refuses_all_with_each_place(service, make) -> None:
    request = pb.WithdrawRequest(
        withdrawals=[pb.Withdrawal(), pb.Withdrawal(activation_id="a", profile_id="p")]
    )
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await service.stub.Withdraw(request)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
