"""One-click unsubscribing and the preference page, over real HTTP; no GET changes anything, a second POST is harmless."""

import asyncio
import email
import email.policy
from dataclasses import dataclass

import aiohttp
import pytest

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.testing.ports import free_port

ONE_CLICK = {"List-Unsubscribe": "One-Click"}
ADDRESS = "ada@example.com"


@dataclass
class Public:
    """The public server of a replica."""

    base: str
    stub: object
    session: aiohttp.ClientSession

    async def ask(self, method: str, url: str, **fields) -> tuple[int, str, dict[str, str]]:
        where = url if url.startswith("http") else self.base + url
        async with self.session.request(method, where, allow_redirects=False, **fields) as response:
            return response.status, await response.text(), dict(response.headers)

    async def suppressed(self) -> set[tuple[str, str, str]]:
        answer = await self.stub.ListSuppressions(pb.ListSuppressionsRequest())
        return {(s.address, s.connection, s.source) for s in answer.suppressions}


@pytest.fixture
async def public(activation):
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    replica = await activation(public_port=port, public_base_url=base)
    async with aiohttp.ClientSession() as session:
        found = Public(base, replica.stub, session)
        found.replica = replica
        yield found


@pytest.fixture
async def link(public, make, mail_server) -> str:
    """The address in a mail that was really sent."""
    server = await mail_server()
    await public.replica.put(make.smtp_connection(server.port), make.template())
    await public.replica.activate(make.mail("first", "ada"))
    assert (await public.replica.settled(1))["first"].state == pb.DELIVERY_STATE_SENT
    (entry,) = server.received()
    message = email.message_from_bytes(
        (server.mailbox / entry["file"]).read_bytes(), policy=email.policy.default
    )
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    found = message["List-Unsubscribe"]
    assert found.startswith(f"<{public.base}/u/")
    assert found.endswith(">")
    assert "ada" not in found
    return found.strip("<>")


async def test_one_click_suppresses_and_a_second_is_harmless(public, link, make) -> None:
    for _ in range(2):
        status, text, _ = await public.ask("POST", link, data=ONE_CLICK)
        assert status == 200
        assert ADDRESS not in text
        assert await public.suppressed() == {(ADDRESS, "connections/email", "one-click")}
    await public.replica.activate(make.mail("second", "ada"), make.mail("other", "bob"))
    found = await public.replica.settled(3)
    assert found["second"].state == pb.DELIVERY_STATE_REFUSED
    assert found["other"].state == pb.DELIVERY_STATE_SENT


async def test_a_get_and_a_head_change_nothing(public, link) -> None:
    status, text, headers = await public.ask("GET", link)
    assert status == 200
    assert "a…@example.com" in text
    assert ADDRESS not in text
    assert '<form method="post">' in text
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "Set-Cookie" not in headers
    assert "Server" not in headers
    assert (await public.ask("HEAD", link))[:2] == (200, "")
    assert await public.suppressed() == set()


@pytest.mark.parametrize(
    ("scope", "connection"), [("list", "connections/email"), ("all", "")], ids=["list", "all"]
)
async def test_the_preference_page_stops_one_kind_of_mail_or_all(public, link, scope, connection) -> None:
    status, text, _ = await public.ask("POST", link, data={"scope": scope})
    assert status == 200
    assert "unsubscribed" in text
    assert await public.suppressed() == {(ADDRESS, connection, "preference-page")}


async def test_one_click_is_taken_as_multipart_too(public, link) -> None:
    with aiohttp.MultipartWriter("form-data") as form:
        form.append("One-Click").set_content_disposition("form-data", name="List-Unsubscribe")
    assert (await public.ask("POST", link, data=form))[0] == 200
    assert len(await public.suppressed()) == 1


async def test_a_forged_address_leads_nowhere(public, link) -> None:
    base, _, token = link.rpartition("/")
    forged = [token[:-4], token[:8], token.swapcase(), "x", "%00", token + "A" * 2_000]
    for wrong in forged:
        for method, data in (("GET", None), ("POST", ONE_CLICK)):
            status, text, headers = await public.ask(method, f"{base}/{wrong}", data=data)
            assert status == 404
            assert "leads nowhere" in text
            assert headers["Cache-Control"] == "no-store"
    assert await public.suppressed() == set()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"", 400),
        (b"scope=everything", 400),
        (b"List-Unsubscribe=Two-Clicks", 400),
        (b'{"List-Unsubscribe": "One-Click"}', 400),
        (b"a=b&" * 400, 400),
        (b"List-Unsubscribe=One-Click&" + b"x" * 5_000, 413),
        (b"\xff" * 4_097, 413),
    ],
)
async def test_a_post_that_says_something_else_changes_nothing(public, link, data, status) -> None:
    assert (await public.ask("POST", link, data=data))[0] == status
    assert await public.suppressed() == set()


async def test_other_methods_and_paths_are_refused(public, link) -> None:
    for method in ("PUT", "DELETE", "PATCH", "OPTIONS"):
        status, _, headers = await public.ask(method, link)
        assert status == 405
        assert "POST" in headers["Allow"]
        assert headers["X-Content-Type-Options"] == "nosniff"
    for path in ("/", "/metrics", "/healthz", "/u/", "/u/a/b", "/feedback/ses"):
        assert (await public.ask("GET", path))[0] == 404
    assert await public.suppressed() == set()


async def test_those_who_send_no_end_of_a_body_keep_out_nobody_for_long(public, link, eventually) -> None:
    port = int(public.base.rpartition(":")[2])
    path = link.removeprefix(public.base)
    slow = []
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nscope"
    for _ in range(64):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(head.encode())
        await writer.drain()
        slow.append(writer)

    async def status() -> int:
        return (await public.ask("GET", link))[0]

    async def busy() -> bool:
        return await status() == 503

    async def free() -> bool:
        return await status() == 200

    await eventually(busy)
    for writer in slow:
        writer.close()
    await eventually(free)
    assert await public.suppressed() == set()


async def test_without_a_public_address_mail_carries_no_such_header(activation, make, mail_server) -> None:
    replica, server = await activation(), await mail_server()
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("first", "ada"))
    await replica.settled(1)
    (entry,) = server.received()
    message = email.message_from_bytes((server.mailbox / entry["file"]).read_bytes())
    assert message["List-Unsubscribe"] is None
    assert message["List-Unsubscribe-Post"] is None
