"""Templates as operators meet them: versions, previews; and trials of connections before anybody depends on them."""

import asyncio
import email
import email.policy
import json
from collections.abc import AsyncIterator

import grpc
import pytest

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1 import journey_pb2
from cairn.runtime.errors import CairnError, error_from_rpc

ADA = {"profile": {"email": "ada@example.com", "name": "Ada"}, "entry": {}, "event": {}}


@pytest.fixture
async def service(activation):
    return await activation()


async def refused(call) -> CairnError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return error_from_rpc(caught.value)


async def put(service, template: pb.Template) -> pb.Template:
    return (await service.stub.PutTemplate(pb.PutTemplateRequest(template=template), timeout=30)).template


async def get(service, name: str) -> pb.Template:
    return (await service.stub.GetTemplate(pb.GetTemplateRequest(name=name), timeout=30)).template


async def versions(service, **page) -> tuple[list[int], str]:
    request = pb.ListTemplateVersionsRequest(name="templates/hello", **page)
    answer = await service.stub.ListTemplateVersions(request, timeout=30)
    assert [t.name for t in answer.templates] == [
        f"templates/hello/versions/{t.version}" for t in answer.templates
    ]
    return [template.version for template in answer.templates], answer.next_page_token


async def test_each_change_is_a_version_and_what_says_the_same_is_none(service, make) -> None:
    first = await put(service, make.template(text="one"))
    again = await put(service, make.template(text="one"))
    second = await put(service, make.template(text="two", etag=first.etag))
    back = await put(service, make.template(text="one"))
    assert [t.version for t in (first, again, second, back)] == [1, 1, 2, 3]
    assert first.etag == again.etag == back.etag != second.etag
    assert again.update_time == first.update_time
    assert (await get(service, "templates/hello")) == back
    assert (await get(service, "templates/hello/versions/2")).text == "two"
    assert (await get(service, "templates/hello/versions/1")).etag == first.etag
    for name in ("templates/hello/versions/4", "templates/other", "templates/other/versions/1"):
        assert (await refused(get(service, name))).code is grpc.StatusCode.NOT_FOUND
    for name in ("templates/hello/versions/0", "templates/hello/versions/x", "templates/hello/2"):
        assert (await refused(get(service, name))).code is grpc.StatusCode.INVALID_ARGUMENT
    stale = await refused(put(service, make.template(text="three", etag=second.etag)))
    assert stale.code is grpc.StatusCode.ABORTED
    assert (await versions(service))[0] == [3, 2, 1]


async def test_versions_come_in_pages(service, make) -> None:
    for number in range(5):
        await put(service, make.template(text=f"number {number}"))
    page, token = await versions(service, page_size=2)
    assert page == [5, 4]
    page, token = await versions(service, page_size=2, page_token=token)
    assert page == [3, 2]
    assert await versions(service, page_size=2, page_token=token) == ([1], "")
    wrong = await refused(versions(service, page_token="nonsense"))
    assert [violation.field for violation in wrong.violations] == ["page_token"]


async def test_writers_at_the_same_time_leave_no_hole_and_no_double(service, make) -> None:
    saved = await asyncio.gather(
        *(put(service, make.template(text=f"writer {number}")) for number in range(12))
    )
    assert sorted(template.version for template in saved) == list(range(1, 13))
    assert (await versions(service))[0] == list(range(12, 0, -1))
    for template in saved:
        assert (await get(service, f"templates/hello/versions/{template.version}")).text == template.text
    newest = await get(service, "templates/hello")
    assert (newest.version, newest.text) == (12, next(t.text for t in saved if t.version == 12))


async def test_a_delivery_says_which_version_was_sent(service, make, mail_server) -> None:
    server = await mail_server()
    await service.put(make.smtp_connection(server.port), make.template())
    await service.activate(make.mail("a1"), make.mail("bad", context={"profile": {"email": "a@b.c"}}))
    await service.settled(2)
    await service.put(make.template(text="Other words"))
    await service.activate(make.mail("a2"))
    await service.settled(3)
    await service.put(make.template(text="Further words"), make.template(text="Other words"))
    await service.activate(make.mail("a3"))
    found = await service.settled(4)
    assert {name: found[name].template_version for name in found} == {"a1": 1, "bad": 0, "a2": 2, "a3": 4}


async def test_a_template_that_no_longer_compiles_fails_its_own_deliveries(
    service, make, mail_server, rows
) -> None:
    server = await mail_server()
    await service.put(make.smtp_connection(server.port), make.template(), make.template("old", text="SOURCE"))
    # As a release before may have taken it.
    change = "UPDATE {} SET body = replace(body::text, 'SOURCE', '{{{{ profile.name }}')::jsonb, etag = 'old' WHERE id = 'old'"
    for table in ("resources", "template_versions"):
        await rows(change.format(table))
    await asyncio.sleep(1.1)
    await service.activate(make.mail("bad", template="templates/old"), make.mail("good"))
    found = await service.settled(2)
    assert found["good"].state == pb.DELIVERY_STATE_SENT
    why = "text: the template can't be compiled: unexpected '}'"
    assert (found["bad"].state, found["bad"].detail) == (pb.DELIVERY_STATE_FAILED, why)
    tested = await send_test(service, template="templates/old", context=json.dumps(ADA).encode())
    assert (tested.state, tested.detail) == (pb.DELIVERY_STATE_FAILED, why)


async def test_a_removed_template_keeps_its_versions_and_goes_on_counting(service, make) -> None:
    await put(service, make.template(text="one"))
    await service.stub.DeleteTemplate(pb.DeleteTemplateRequest(name="templates/hello"), timeout=30)
    assert (await refused(get(service, "templates/hello"))).code is grpc.StatusCode.NOT_FOUND
    assert (await get(service, "templates/hello/versions/1")).text == "one"
    assert (await put(service, make.template(text="one"))).version == 2
    assert (await versions(service))[0] == [2, 1]


async def test_mjml_is_compiled_when_it_is_put(service, make) -> None:
    mjml = "<mjml><mj-body><mj-section><mj-column><mj-text>Hi {{ profile.name }}</mj-text></mj-column></mj-section></mj-body></mjml>"
    saved = await put(service, make.template(mjml=mjml))
    assert saved.mjml == mjml
    assert "<table" in saved.html
    assert await put(service, saved) == saved
    shown = await preview(service, name="templates/hello", context={"profile": {"name": "<Ada>"}})
    assert "Hi &lt;Ada&gt;" in shown.html
    wrong = await refused(put(service, make.template(mjml="<mjml>\n<mj-body><mj-nothing/></mj-body></mjml>")))
    assert [(v.field, v.description) for v in wrong.violations] == [
        ("template.mjml", "line 2: there is no element `mj-nothing`")
    ]


async def preview(service, context=None, **source) -> pb.PreviewTemplateResponse:
    told = b"" if context is None else json.dumps(context).encode()
    return await service.stub.PreviewTemplate(pb.PreviewTemplateRequest(context=told, **source), timeout=30)


async def test_a_preview_of_what_is_saved_of_a_version_and_of_what_is_not_saved(service, make) -> None:
    await put(service, make.template(text="one {{ unsubscribe_url }}", html="<b>{{ profile.name }}</b>"))
    await put(service, make.template(text="two", sample=json.dumps({"profile": {"name": "Sam"}}).encode()))
    newest = await preview(service, ADA, name="templates/hello")
    assert (newest.subject, newest.text, newest.html) == ("Hello Ada", "two", "")
    sample = await preview(service, name="templates/hello")
    assert sample.subject == "Hello Sam"
    older = await preview(service, ADA, name="templates/hello/versions/1")
    assert (older.text, older.html) == ("one https://example.invalid/u/preview", "<b>Ada</b>")
    assert list(older.variables) == ["profile.name", "unsubscribe_url"]
    unsaved = await preview(service, ADA, template=pb.Template(subject="Bye {{ profile.name }}", text="t"))
    assert unsaved.subject == "Bye Ada"


async def test_a_preview_tells_what_is_missing_by_part(service, make) -> None:
    await put(service, make.template(text="{{ profile.town }}", html="{{ profile.name }}"))
    wrong = await refused(preview(service, {"profile": {"name": "A"}}, name="templates/hello"))
    assert [(v.field, v.description) for v in wrong.violations] == [
        ("template.text", "the template needs `town`, which is not there")
    ]
    wrong = await refused(preview(service, name="templates/hello"))
    assert [v.field for v in wrong.violations] == ["template.subject", "template.text", "template.html"]
    wrong = await refused(preview(service, [1], template=pb.Template(subject="s", text="{{ x }}")))
    assert [v.field for v in wrong.violations] == ["template.text", "context"]
    assert (await refused(preview(service, name="templates/nobody"))).code is grpc.StatusCode.NOT_FOUND


async def try_it(service, name: str, seconds: float = 30) -> pb.TestConnectionResponse:
    return await service.stub.TestConnection(pb.TestConnectionRequest(name=name), timeout=seconds)


async def test_a_connection_is_tried(service, make, mail_server) -> None:
    server = await mail_server()
    await service.put(make.smtp_connection(server.port), make.log_connection())
    answer = await try_it(service, "connections/email")
    assert (answer.ok, answer.detail) == (True, "the mail server lets us in, without TLS")
    assert server.received() == []
    assert (await try_it(service, "connections/log")).ok
    await server.stop()
    answer = await try_it(service, "connections/email")
    assert (answer.ok, answer.detail) == (False, "the mail server does not answer (SMTPConnectError)")
    assert (await refused(try_it(service, "connections/nobody"))).code is grpc.StatusCode.NOT_FOUND


@pytest.fixture
async def silent_port() -> AsyncIterator[int]:
    """A server that takes connections and says nothing."""
    held = []

    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)

    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    for writer in held:
        writer.close()
    server.close()


async def test_a_trial_is_over_before_its_caller_gives_up(service, make, silent_port) -> None:
    await service.put(make.smtp_connection(silent_port), make.template())
    answer = await try_it(service, "connections/email", seconds=2)
    assert (answer.ok, answer.detail) == (False, "it did not answer in time")
    assert answer.latency_ms >= 500
    sent = await send_test(service, seconds=2, context=json.dumps(ADA).encode())
    assert (sent.state, sent.detail) == (pb.DELIVERY_STATE_PENDING, "it did not answer in time")


async def send_test(service, seconds: float = 30, **fields) -> pb.SendTestResponse:
    values = {"connection": "connections/email", "template": "templates/hello", **fields}
    return await service.stub.SendTest(pb.SendTestRequest(**values), timeout=seconds)


async def test_a_test_is_sent_past_the_ledger(service, make, mail_server) -> None:
    server = await mail_server()
    sample = json.dumps({"profile": {"name": "Sam"}}).encode()
    await service.put(make.smtp_connection(server.port), make.template(text="one", sample=sample))
    await service.put(make.template(text="two", sample=sample))
    sent = await send_test(service, context=json.dumps(ADA).encode())
    assert (sent.state, sent.detail) == (pb.DELIVERY_STATE_SENT, "250 2.0.0 kept")
    sampled = await send_test(service, to_address="me@example.com", template="templates/hello/versions/1")
    assert sampled.state == pb.DELIVERY_STATE_SENT
    first, second = server.received()
    assert (first["to"], second["to"]) == (["ada@example.com"], ["me@example.com"])
    assert (first["message_id"], second["message_id"]) == (sent.external_id, sampled.external_id)
    assert first["activation"].startswith("test-")
    messages = [
        email.message_from_bytes((server.mailbox / entry["file"]).read_bytes(), policy=email.policy.default)
        for entry in (first, second)
    ]
    assert [message["Subject"] for message in messages] == ["[test] Hello Ada", "[test] Hello Sam"]
    assert [message.get_content().strip() for message in messages] == ["two", "one"]
    assert await service.deliveries() == {}


async def test_a_test_that_can_not_be_made_says_why(service, make, mail_server) -> None:
    server = await mail_server()
    await service.put(make.smtp_connection(server.port), make.template(), make.log_connection())
    failed = await send_test(service, to_address="me@example.com")
    assert failed.state == pb.DELIVERY_STATE_FAILED
    assert failed.detail == "subject: the template needs `name`, which is not there"
    wrong = await refused(
        send_test(
            service, template="", to_address="me@x\r\ny", context=b"[", action=journey_pb2.AUDIENCE_ACTION_ADD
        )
    )
    assert {v.field for v in wrong.violations} == {"template", "to_address", "context", "action"}
    stays = await refused(send_test(service, connection="connections/log"))
    assert stays.code is grpc.StatusCode.FAILED_PRECONDITION
    for names in ({"connection": "connections/nobody"}, {"template": "templates/nobody"}):
        assert (await refused(send_test(service, **names))).code is grpc.StatusCode.NOT_FOUND
    assert server.received() == []
