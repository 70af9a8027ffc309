"""The calls: connections, templates, destinations, deliveries, and what they refuse."""

import grpc
import pytest

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.runtime.clock import now_us, to_timestamp
from cairn.runtime.errors import error_from_rpc

DAY = 86_400_000_000


@pytest.fixture
async def service(activation, make):
    replica = await activation()
    await replica.put(
        make.log_connection(), make.smtp_connection(1), make.meta_connection(1), make.template()
    )
    return replica


async def refused(call):
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error_from_rpc(error.value)


async def test_connections_live_and_die(service, make) -> None:
    stub = service.stub
    got = (await stub.GetConnection(pb.GetConnectionRequest(name="connections/email"))).connection
    assert got.smtp.from_address == "Shop <shop@example.com>"
    assert got.etag
    assert got.HasField("update_time")
    got.smtp.pool_size = 8
    put = (await stub.PutConnection(pb.PutConnectionRequest(connection=got))).connection
    assert put.etag != got.etag
    stale = await refused(stub.PutConnection(pb.PutConnectionRequest(connection=got)))
    assert stale.code is grpc.StatusCode.ABORTED
    page = await stub.ListConnections(pb.ListConnectionsRequest(page_size=2))
    assert [c.name for c in page.connections] == ["connections/email", "connections/log"]
    rest = await stub.ListConnections(pb.ListConnectionsRequest(page_token=page.next_page_token))
    assert ([c.name for c in rest.connections], rest.next_page_token) == (["connections/meta"], "")
    await stub.DeleteConnection(pb.DeleteConnectionRequest(name="email"))
    gone = await refused(stub.GetConnection(pb.GetConnectionRequest(name="email")))
    assert (gone.code, gone.resource) == (grpc.StatusCode.NOT_FOUND, "connections/email")
    again = await refused(stub.DeleteConnection(pb.DeleteConnectionRequest(name="email")))
    assert again.code is grpc.StatusCode.NOT_FOUND
    unmade = await refused(stub.PutConnection(pb.PutConnectionRequest(connection=put)))
    assert unmade.code is grpc.StatusCode.ABORTED, "an etag of something that is gone is stale"


async def test_templates_live_and_die(service, make) -> None:
    stub = service.stub
    got = (await stub.GetTemplate(pb.GetTemplateRequest(name="hello"))).template
    same = (await stub.PutTemplate(pb.PutTemplateRequest(template=got))).template
    assert same == got, "what says the same is no change"
    got.text = "New"
    assert (await stub.PutTemplate(pb.PutTemplateRequest(template=got))).template.etag != same.etag
    listed = await stub.ListTemplates(pb.ListTemplatesRequest())
    assert [t.name for t in listed.templates] == ["templates/hello"]
    await stub.DeleteTemplate(pb.DeleteTemplateRequest(name="templates/hello"))
    assert (
        await refused(stub.GetTemplate(pb.GetTemplateRequest(name="hello")))
    ).resource == "templates/hello"


async def test_a_wrong_connection_is_refused_with_every_violation(service, make) -> None:
    smtp = pb.SmtpConnection(
        port=70000, username="me", from_address="a@b\r\nX: y", pool_size=33, password_secret="none-such"
    )
    error = await refused(
        service.stub.PutConnection(pb.PutConnectionRequest(connection=pb.Connection(name="No", smtp=smtp)))
    )
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert {v.field for v in error.violations} == {
        "connection.name",
        "connection.smtp.host",
        "connection.smtp.port",
        "connection.smtp.password_secret",
        "connection.smtp.from_address",
        "connection.smtp.pool_size",
    }


async def test_a_wrong_template_is_refused_with_its_line(service, make) -> None:
    template = pb.Template(name="t", subject="{{ profile.name", text="one\n{% if %}\n", html="<p>{{ x }}</p>")
    error = await refused(service.stub.PutTemplate(pb.PutTemplateRequest(template=template)))
    found = {v.field: v.description for v in error.violations}
    assert set(found) == {"template.subject", "template.text", "template.html"}
    assert "`x`" in found["template.html"]
    assert found["template.text"].startswith("line 2: ")


async def test_bad_requests_are_refused_by_place_and_harm_no_other(service, make) -> None:
    late = to_timestamp(now_us() + 2 * DAY)
    wrong = {
        1: (make.mail(""), "ERROR_REASON_ACTIVATION_INVALID"),
        2: (make.log("x" * 257), "ERROR_REASON_ACTIVATION_INVALID"),
        3: (make.log("future", request_time=late), "ERROR_REASON_ACTIVATION_INVALID"),
        4: (make.log("nul\0"), "ERROR_REASON_ACTIVATION_INVALID"),
        5: (make.mail("c", connection="connections/none"), "ERROR_REASON_CONNECTION_UNKNOWN"),
        6: (make.mail("c", connection="Not a name"), "ERROR_REASON_CONNECTION_UNKNOWN"),
        7: (make.mail("t", template="templates/none"), "ERROR_REASON_TEMPLATE_UNKNOWN"),
        8: (make.mail("t", template=""), "ERROR_REASON_TEMPLATE_UNKNOWN"),
        9: (make.mail("m", connection="meta", template=""), "ERROR_REASON_ACTIVATION_INVALID"),
        10: (make.log("big", context={"x": "y" * 140_000}), "ERROR_REASON_ACTIVATION_INVALID"),
    }
    answer = await service.activate(
        make.log("first"), *(request for request, _ in wrong.values()), make.log("last")
    )
    assert {r.index: ErrorReason.Name(r.reason) for r in answer.refusals} == {
        index: reason for index, (_, reason) in wrong.items()
    }
    assert answer.accepted == 2
    assert set(await service.settled(2)) == {"first", "last"}


async def test_a_batch_of_the_wrong_size_is_refused(service, make) -> None:
    for count in (0, 10_001):
        error = await refused(
            service.stub.Activate(pb.ActivateRequest(activations=[pb.Activation()] * count))
        )
        assert error.code is grpc.StatusCode.INVALID_ARGUMENT


async def test_destinations_are_checked_with_all_problems(service, make) -> None:
    asked = [
        pb.Destination(connection="connections/email", template="templates/hello"),
        pb.Destination(connection="connections/nowhere", template="templates/none"),
        pb.Destination(connection="connections/email", action=1),
        pb.Destination(connection="connections/meta"),
        pb.Destination(connection="log"),
    ]
    answer = await service.stub.CheckDestinations(pb.CheckDestinationsRequest(destinations=asked))
    assert [(p.index, p.field) for p in answer.problems] == [
        (1, "channel"),
        (1, "template"),
        (2, "template"),
        (2, "action"),
        (3, "action"),
    ]


async def test_deliveries_are_listed_newest_first_in_pages_and_filtered(service, make) -> None:
    now = now_us()
    # Of every age that there may be: today, earlier days, and days without a partition of their own.
    requests = [
        make.log(f"d{n}", f"p{n % 5}", request_time=to_timestamp(now - n * DAY // 2 - n)) for n in range(40)
    ]
    requests[7].journey_version = "journeys/other/versions/3"
    await service.activate(*requests)
    await service.settled(40)
    names, token = [], ""
    while True:
        page = await service.stub.ListDeliveries(pb.ListDeliveriesRequest(page_size=7, page_token=token))
        names += [d.activation_id for d in page.deliveries]
        token = page.next_page_token
        if not token:
            break
    assert names == [f"d{n}" for n in range(40)]
    assert set(await service.deliveries(profile_id="p3")) == {f"d{n}" for n in range(3, 40, 5)}
    assert set(await service.deliveries(journey="journeys/other")) == {"d7"}
    assert set(await service.deliveries(states=[pb.DELIVERY_STATE_FAILED])) == set()
    got = await service.stub.GetDelivery(pb.GetDeliveryRequest(name="deliveries/d33"))
    assert got.delivery.profile_id == "p3"
    missing = await refused(service.stub.GetDelivery(pb.GetDeliveryRequest(name="deliveries/none")))
    assert missing.resource == "deliveries/none"
    for wrong in (
        pb.ListDeliveriesRequest(page_token="forged"),
        pb.ListDeliveriesRequest(page_size=1001),
        pb.ListDeliveriesRequest(journey="no"),
    ):
        assert (await refused(service.stub.ListDeliveries(wrong))).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_receipts_wait_for_a_sink_that_is_down(service, make, receipt_sink, eventually) -> None:
    await receipt_sink.stop()
    await service.activate(*make.batch(make.log, "r", 2500))
    await service.settled(2500)
    await receipt_sink.start()
    await eventually(lambda: len(receipt_sink.states) == 2500)
