"""What a call over HTTP comes to, whatever the other side does. The other sides are real sockets on loopback."""

import asyncio
import contextlib
import gzip
import ipaddress
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from certificates import Authority
from yarl import URL

from cairn.activation.channels.base import down, retry
from cairn.activation.channels.http import (
    MAX_ANSWER_BYTES,
    Answer,
    HttpClient,
    call_each,
    is_header_value,
)
from cairn.activation.ledger import Fate, Guarantee, Outcome

ONCE, TWICE = Guarantee.AT_MOST_ONCE, Guarantee.AT_LEAST_ONCE
NOW = 1_790_000_000_000_000
OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def other_side(talk: Talk, **options: object) -> AsyncIterator[str]:
    """A server that does with each connection what `talk` does; its address."""

    tasks = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.append(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                await talk(reader, writer)
        finally:
            writer.transport.abort()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, **options)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/path"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def client(guarantee: Guarantee = ONCE, **options: object) -> AsyncIterator[HttpClient]:
    made = HttpClient("the other side", guarantee, **{"timeout_s": 5, "connections": 2, **options})
    try:
        yield made
    finally:
        await made.close()


async def read_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]
    return head + await reader.readexactly(int(length or 0))


def answering(answer: bytes) -> Talk:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(answer)
        await writer.drain()
        await reader.read()

    return talk


async def call(talk: Talk, guarantee: Guarantee = ONCE, **options: object) -> Answer | Outcome:
    async with other_side(talk) as url, client(guarantee, **options) as caller:
        return await caller.call("POST", url, body=b'{"a": 1}')


async def test_an_answer() -> None:
    answer = await call(answering(OK))
    assert isinstance(answer, Answer)
    assert (answer.status, answer.json(), answer.whole) == (200, {}, True)


async def test_what_is_sent() -> None:
    seen = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))
        writer.write(OK)

    async with other_side(talk) as url, client() as caller:
        await caller.call("POST", URL(url + "?q=%2F", encoded=True), headers={"X-One": "two"}, body=b"three")
    head, _, body = seen[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /path?q=%2F HTTP/1.1\r\n")
    assert b"\r\nX-One: two\r\n" in head
    assert b"\r\nAccept-Encoding: identity\r\n" in head
    assert body == b"three"


@pytest.mark.parametrize("guarantee", [ONCE, TWICE])
async def test_a_refused_connection_was_never_sent(guarantee: Guarantee) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        async with client(guarantee) as caller:
            outcome = await caller.call("POST", f"http://127.0.0.1:{taken.getsockname()[1]}/")
    assert isinstance(outcome, Outcome)
    assert (outcome.fate, outcome.down) == (Fate.RETRY, True)
    assert "ConnectionRefusedError" in outcome.detail


async def test_a_name_that_nobody_knows_was_never_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def lookup(*_: object, **__: object) -> object:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    async with client() as caller:
        outcome = await caller.call("POST", "http://nobody.example/")
    assert isinstance(outcome, Outcome)
    assert (outcome.fate, outcome.detail) == (
        Fate.RETRY,
        "the other side can't be reached: its name is not known",
    )


async def test_a_certificate_that_nobody_vouches_for_ends_it_before_anything_is_sent(tmp_path: Path) -> None:
    pair = Authority(tmp_path, "unknown").issue("server")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pair.certificate, pair.key)
    seen = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))

    async with other_side(talk, ssl=context) as url, client() as caller:
        outcome = await caller.call("POST", url.replace("http:", "https:"), headers={"Authorization": "x"})
    assert isinstance(outcome, Outcome)
    assert (outcome.fate, seen) == (Fate.RETRY, [])
    assert outcome.detail == "the other side can't be reached: its certificate is not trusted"


@pytest.mark.parametrize(("guarantee", "fate"), [(ONCE, Fate.UNKNOWN), (TWICE, Fate.RETRY)])
@pytest.mark.parametrize("how", ["reset", "hang", "no http", "endless head"])
async def test_no_answer_after_it_was_sent(guarantee: Guarantee, fate: Fate, how: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        if how == "hang":
            await reader.read()
        if how == "no http":
            writer.write(b"220 mail.example ESMTP\r\n")
            await reader.read()
        while how == "endless head":
            writer.write(b"HTTP/1.1 200 OK\r\n" + b"X-Filler: filler\r\n" * 1_000)
            await writer.drain()

    outcome = await call(talk, guarantee, timeout_s=0.3)
    assert isinstance(outcome, Outcome)
    assert (outcome.fate, outcome.down) == (fate, True)


async def test_ten_megabytes_are_cut() -> None:
    written = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        await read_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000\r\n\r\n")
        while written < 10_000_000:
            writer.write(b"x" * 10_000)
            await writer.drain()
            written += 10_000

    answer = await call(talk)
    assert isinstance(answer, Answer)
    assert (answer.status, len(answer.body), answer.whole) == (200, MAX_ANSWER_BYTES, False)
    assert answer.json() is None
    assert written < 10_000_000


@pytest.mark.parametrize("how", ["reset", "hang"])
async def test_an_answer_that_ends_in_the_middle_has_its_status(how: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(b"HTTP/1.1 202 Accepted\r\nX-Message-Id: 7\r\nContent-Length: 100\r\n\r\n{}")
        await writer.drain()
        if how == "hang":
            await reader.read()

    answer = await call(talk, timeout_s=0.3)
    assert isinstance(answer, Answer)
    assert (answer.status, answer.headers.get("x-message-id"), answer.whole) == (202, "7", False)
    assert answer.json() is None


async def test_a_compressed_answer_is_not_inflated() -> None:
    bomb = gzip.compress(b"\0" * 20_000_000)
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    answer = await call(answering(head + bomb))
    assert isinstance(answer, Answer)
    assert bomb.startswith(answer.body)
    assert answer.json() is None


async def test_a_redirect_is_an_answer_and_a_cookie_is_forgotten() -> None:
    seen = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            seen.append(await read_request(reader))
            writer.write(
                b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://169.254.169.254/\r\n"
                b"Set-Cookie: a=b\r\nContent-Length: 0\r\n\r\n"
            )

    async with other_side(talk) as url, client() as caller:
        for _ in range(2):
            # By its name: nobody keeps the cookies of an address.
            answer = await caller.call("POST", url.replace("127.0.0.1", "localhost"), body=b"x")
            assert isinstance(answer, Answer)
            assert answer.status == 307
    assert len(seen) == 2
    assert b"cookie" not in seen[1].lower()


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert isinstance(await call(answering(OK)), Answer)


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\nb", "a\rb", "a\0b", "caf\u00e9", "a\x7fb"])
async def test_a_header_that_could_forge_another_is_never_sent(value: str) -> None:
    seen = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await read_request(reader))

    async with other_side(talk) as url, client() as caller:
        outcome = await caller.call("POST", url, headers={"Authorization": value})
    assert isinstance(outcome, Outcome)
    assert (outcome.fate, outcome.down, seen) == (Fate.RETRY, False, [])
    assert value not in outcome.detail
    assert not is_header_value(value)


async def test_an_address_that_is_refused_is_not_connected_to() -> None:
    connected = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected.append(True)

    shown = []

    def allows(address: object) -> bool:
        shown.append(address)
        return False

    async with other_side(talk) as url, client(allows=allows) as caller:
        outcome = await caller.call("POST", url)
        by_name = await caller.call("POST", url.replace("127.0.0.1", "localhost"))
    for result in (outcome, by_name):
        assert isinstance(result, Outcome)
        assert result.fate is Fate.FAILED
        assert "not allowed" in result.detail
    assert ipaddress.ip_address("127.0.0.1") in shown
    assert connected == []


async def test_a_name_that_changes_its_address_is_looked_at_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The name leads to the allowed address first; when its connection is gone, to one that is not."""
    addresses = ["127.0.0.1", "127.0.0.2"]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_request(reader)
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await writer.drain()

    allowed = ipaddress.ip_address("127.0.0.1")
    async with other_side(talk) as url, client(allows=lambda address: address == allowed) as caller:
        port = int(url.rpartition(":")[2].partition("/")[0])

        def lookup(*_: object, **__: object) -> object:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (addresses.pop(0), port))]

        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        first = await caller.call("POST", f"http://rebinding.example:{port}/")
        caller._session.connector.clear_dns_cache()
        second = await caller.call("POST", f"http://rebinding.example:{port}/")
    assert isinstance(first, Answer)
    assert isinstance(second, Outcome)
    assert second.fate is Fate.FAILED


async def test_names_that_are_never_answered_keep_nobody_from_asking(monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than the event loop has threads."""
    answered, lookup = threading.Event(), socket.getaddrinfo

    def looked_up(host: str, *rest: object, **more: object) -> object:
        if host == "silent.example":
            answered.wait(30)
        return lookup("127.0.0.1" if host == "good.example" else host, *rest, **more)

    monkeypatch.setattr(socket, "getaddrinfo", looked_up)
    async with other_side(answering(OK)) as url, contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(client(timeout_s=20)) for _ in range(41)]
        silent = [asyncio.create_task(c.call("POST", "http://silent.example/")) for c in clients[1:]]
        for _ in range(20):
            await asyncio.sleep(0)  # so that each has asked
        try:
            answer = await clients[0].call("POST", url.replace("127.0.0.1", "good.example"))
            assert isinstance(answer, Answer)
            assert not any(task.done() for task in silent)
        finally:
            answered.set()
            for task in silent:
                task.cancel()
            await asyncio.gather(*silent, return_exceptions=True)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("", 0),
        ("7", 7),
        (" 7 ", 7),
        ("0", 0),
        ("-7", 0),
        ("1.5", 0),
        ("soon", 0),
        ("99999999999999999999", 86_400),
        ("Mon, 21 Sep 2026 14:13:30 GMT", 10),
        ("Mon, 21 Sep 2026 14:13:10 GMT", 0),
        ("Mon, 21 Sep 2099 14:13:10 GMT", 86_400),
        ("Mon, 99 Sep 2026", 0),
        ("\u0667", 0),
    ],
)
def test_the_pause_that_is_asked_for(text: str, seconds: int) -> None:
    answer = Answer(429, {"Retry-After": text}, b"")
    assert answer.retry_after_us(NOW) == seconds * 1_000_000


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"\xff", b"{" * 100_000, b'"text"', b"null"])
def test_what_is_no_json_object(body: bytes) -> None:
    assert Answer(200, {}, body).json() is None


async def test_a_batch_whose_destination_is_silent_is_not_tried_to_its_end() -> None:
    tried = []

    async def call(item: int) -> Answer | Outcome:
        tried.append(item)
        await asyncio.sleep(0)
        return down("no answer")

    slots = asyncio.Semaphore(3)
    outcomes = await call_each(range(10), slots, call, lambda _: Outcome(Fate.SENT))
    assert tried == [0, 1, 2]
    assert [outcome.fate for outcome in outcomes] == [Fate.RETRY] * 3 + [Fate.HELD] * 7
    assert all(outcome.down for outcome in outcomes)
    assert all(outcome.until_us > 0 for outcome in outcomes[3:])


async def test_one_call_without_an_answer_stops_no_other() -> None:
    async def call(item: int) -> Answer | Outcome:
        if item == 0:
            return Outcome(Fate.UNKNOWN, "no answer", down=True)
        return retry("its secret is missing") if item in (1, 2) else Answer(500, {}, b"")

    outcomes = await call_each(range(5), asyncio.Semaphore(1), call, lambda _: down("HTTP 500"))
    assert [outcome.fate for outcome in outcomes] == [Fate.UNKNOWN, *[Fate.RETRY] * 4]
