"""How a message becomes bytes, and which addresses are taken."""

import email
import email.policy
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.channels.mail import (
    assemble,
    compose,
    external_id,
    parse_address,
    parse_sender,
    without_addresses,
)
from cairn.activation.templates import Message

SENDER = parse_sender("Käse Shop <shop@example.com>")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("ada@example.com", "ada@example.com"),
        (" ada@example.com ", "ada@example.com"),
        ("a.b+c@sub.example.com", "a.b+c@sub.example.com"),
        ("ada@localhost", "ada@localhost"),
        ("ada@bücher.example", "ada@xn--bcher-kva.example"),
        ("", ""),
        ("ada", ""),
        ("@example.com", ""),
        ("ada@", ""),
        ("a@b@c", ""),
        ("a b@example.com", ""),
        ("ada@exa mple.com", ""),
        ("ada@example..com", ""),
        (".ada@example.com", ""),
        ("ada@-example.com", ""),
        ("<ada@example.com>", ""),
        ("ada@example.com\r\nBcc: eve@example.com", ""),
        ("ada@example.com, eve@example.com", ""),
        ("ädä@example.com", ""),
        ("x" * 250 + "@example.com", ""),
    ],
)
def test_addresses(text: str, address: str) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", "Shop", "Shop <shop>", "Shop <shop@example.com>\r\nX: y", "a@b, c@d"])
def test_senders_that_are_none(text: str) -> None:
    assert parse_sender(text) is None


def parse(data: bytes) -> email.message.EmailMessage:
    return email.message_from_bytes(data, policy=email.policy.default)


def rendered(message: Message, activation_id: str = "a1") -> bytes:
    assert SENDER
    headers, body = compose(
        message, sender=SENDER, to="ada@example.com", activation_id=activation_id, sent_seconds=1_700_000_000
    )
    return assemble(headers, body)


def content(part: email.message.EmailMessage) -> str:
    return part.get_content().replace("\r\n", "\n").rstrip("\n")


def test_headers() -> None:
    message = parse(rendered(Message("Grüße", "text", "")))
    assert message["From"].addresses[0].display_name == "Käse Shop"
    assert message["To"] == "ada@example.com"
    assert message["Subject"] == "Grüße"
    assert message["Message-ID"] == external_id("a1", "example.com")
    assert message["X-Cairn-Activation"] == "a1"
    assert message["Date"].datetime.timestamp() == 1_700_000_000


@pytest.mark.parametrize(
    "text", ["plain\n.\nend\n", "Grüße\n", "日本語\n" * 40, "x" * 5000, "tab\t end \n", ""]
)
def test_both_bodies_come_out_as_they_went_in(text: str) -> None:
    message = parse(rendered(Message("s", text, f"<p>{text}</p>")))
    plain, html = message.get_body(("plain",)), message.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert content(plain) == text.rstrip("\n")
    assert content(html) == f"<p>{text}</p>"


@given(
    st.text(min_size=1, max_size=300).filter(lambda s: not set(s) & set("\r\n\0")),
    st.text(min_size=1, max_size=50),
)
def test_no_subject_and_no_id_can_add_a_header(subject: str, activation_id: str) -> None:
    data = rendered(Message(subject, "text", ""), activation_id)
    head, _, body = data.partition(b"\r\n\r\n")
    fields = [line.partition(b":")[0].decode() for line in head.split(b"\r\n") if line[:1] not in b" \t"]
    assert fields == [
        "From",
        "To",
        "Subject",
        "Date",
        "Message-ID",
        "X-Cairn-Activation",
        "MIME-Version",
        "Content-Type",
        "Content-Transfer-Encoding",
    ]
    assert body == b"text"
    assert all(len(line) <= 998 for line in data.split(b"\r\n"))


@given(st.text(max_size=2000))
def test_any_text_becomes_lines_that_servers_take(text: str) -> None:
    data = rendered(Message("s", text, text))
    assert data.isascii()
    assert b"\n" not in data.replace(b"\r\n", b"")
    assert all(len(line) <= 998 for line in data.split(b"\r\n"))


def test_an_address_of_any_length_is_judged_at_once() -> None:
    # A third of a second for the codec of international domains, and forty times as long for what a context can hold.
    domain = "".join(map(chr, range(0x4E00, 0x4E00 + 5_000)))
    began = time.process_time()
    assert parse_address(f"ada@{domain}") == ""
    assert time.process_time() - began < 0.05


@pytest.mark.parametrize(("letter", "shown"), [("x", "x" * 196), ("@", "<address>")])
def test_a_long_answer_is_read_at_once(letter: str, shown: str) -> None:
    began = time.process_time()
    assert without_addresses("550 " + letter * 30_000) == f"550 {shown}"
    assert time.process_time() - began < 0.05


def test_an_answer_in_another_encoding_can_be_told() -> None:
    answer = b"550 Empf\xe4nger unbekannt".decode("utf-8", "surrogateescape")
    assert without_addresses(answer) == "550 Empf?nger unbekannt"


def test_answers_are_told_without_addresses() -> None:
    answer = "550 5.1.1 <ada@example.com>: user\nunknown in ada@example.com"
    assert without_addresses(answer) == "550 5.1.1 <address> user unknown in <address>"
