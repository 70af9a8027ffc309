"""Signatures: an independent verifier takes them, and no longer once anything that they cover was changed."""

import base64
import hashlib
import re

import dkim as verifier
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.activation.channels import dkim, mail
from cairn.activation.templates import Message

RSA = rsa.generate_private_key(65537, 2048)
ED25519 = ed25519.Ed25519PrivateKey.generate()
SENDER = mail.parse_sender("Käse Shop <shop@example.com>")


def pem(key, encryption=NoEncryption()) -> str:  # noqa: B008
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption).decode()


def signed(message: Message, key: str, unsigned: frozenset[str] = frozenset()) -> bytes:
    assert SENDER
    headers, body = mail.compose(
        message,
        sender=SENDER,
        to="ada@example.com",
        activation_id="a1",
        sent_seconds=1_700_000_000,
        unsubscribe_url="https://example.com/u/1",
    )
    signer = dkim.Signer("example.com", "s1", lambda: key, unsigned)
    signer.load_key()
    return mail.assemble({"DKIM-Signature": signer.sign(headers, body, 1_700_000_000), **headers}, body)


def record(name: bytes, timeout: int = 5) -> bytes:
    assert name == b"s1._domainkey.example.com."
    public = RSA.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def holds(data: bytes) -> bool:
    return bool(verifier.verify(data, dnsfunc=record))


MESSAGE = Message("Grüße aus dem Laden", "Hi  Ada \n\n.\ntab\there\n\n\n", "<p>Hi  Ada </p>\n<b>€</b>")


@pytest.mark.parametrize(
    "message",
    [
        MESSAGE,
        Message("s", "", ""),
        Message("  a   b  ", "one line without an end", ""),
        Message("s", " \n \n", ""),
        Message("s", "日本語" * 500, "<p>" + "x" * 5000),
        Message("long " * 150, "text\n", ""),
    ],
)
def test_a_verifier_takes_it(message: Message) -> None:
    assert holds(signed(message, pem(RSA)))


@settings(max_examples=40, deadline=None)
@given(st.text(max_size=400), st.text(min_size=1, max_size=100).filter(lambda s: not set(s) & set("\r\n\0")))
def test_a_verifier_takes_any_words(text: str, subject: str) -> None:
    assert holds(signed(Message(subject, text, text), pem(RSA)))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"shop@example.com", b"shoo@example.com"),
        (b"To: ada", b"To: eva"),
        (b"Subject: =?", b"Subject: x=?"),
        (b"Date: Tue", b"Date: Wed"),
        (b"Message-ID: <", b"Message-ID: <0"),
        (b"example.com/u/1", b"example.com/u/2"),
        (b"One-Click", b"Two-Click"),
        (b"MIME-Version: 1.0", b"MIME-Version: 1.1"),
        (b"multipart/alternative", b"multipart/mixed"),
        (b"<p>Hi", b"<p>Ho"),
        (b"\r\nTo: ada", b"\r\nFrom: eve@example.com\r\nTo: ada"),
        (b"\r\nTo: ada", b"\r\nSubject: another\r\nTo: ada"),
    ],
)
def test_a_change_breaks_it(old: bytes, new: bytes) -> None:
    data = signed(MESSAGE, pem(RSA))
    assert old in data
    assert not holds(data.replace(old, new, 1))


def test_what_relays_may_change_does_not_break_it() -> None:
    data = signed(MESSAGE, pem(RSA))
    head, _, body = data.partition(b"\r\n\r\n")
    assert holds(b"Received: from a by b\r\n" + data)
    assert holds(head.replace(b"Subject: ", b"SUBJECT:   ") + b"\r\n\r\n" + body + b"\r\n\r\n")


def test_headers_that_a_service_replaces_are_not_covered() -> None:
    data = signed(MESSAGE, pem(RSA), frozenset({"Date", "Message-ID"}))
    assert holds(data.replace(b"Date: Tue", b"Date: Wed").replace(b"Message-ID: <", b"Message-ID: <0"))


def test_every_line_is_short_enough_and_the_unsubscribe_lines_are_not_folded() -> None:
    data = signed(Message("s", "t", ""), pem(rsa.generate_private_key(65537, 4096)))
    assert all(len(line) <= 200 for line in data.split(b"\r\n"))
    assert b"\r\nList-Unsubscribe: <https://example.com/u/1>\r\n" in data
    assert b"\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n" in data


def check_ed25519(data: bytes) -> None:
    """As RFC 8463 has it: the signature is of the SHA-256 of what rsa-sha256 would sign. The verifier at hand knows no Ed25519."""
    head, _, body = data.partition(b"\r\n\r\n")
    fields = re.split(r"\r\n(?=\S)", head.decode())
    values = dict(field.split(":", 1) for field in fields)
    tags = dict(re.findall(r"(\w+)=([^;]*)", re.sub(r"\s", "", values["DKIM-Signature"])))
    assert tags["a"] == "ed25519-sha256"
    assert tags["bh"] == base64.b64encode(hashlib.sha256(dkim.relaxed_body(body)).digest()).decode()
    seen: set[str] = set()
    lines = []
    for name in tags["h"].split(":"):
        if name not in seen:
            lines.append(dkim.relaxed_header(name, values[name]))
        seen.add(name)
    lines.append(dkim.relaxed_header("DKIM-Signature", values["DKIM-Signature"].rpartition("b=")[0] + "b="))
    digest = hashlib.sha256("\r\n".join(lines).encode()).digest()
    ED25519.public_key().verify(base64.b64decode(tags["b"]), digest)


def test_ed25519() -> None:
    data = signed(MESSAGE, pem(ED25519))
    check_ed25519(data)
    with pytest.raises(InvalidSignature):
        check_ed25519(data.replace(b"To: ada", b"To: eva"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no private key in PEM"),
        ("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "no private key in PEM"),
        (pem(RSA, BestAvailableEncryption(b"x")), "encrypted"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "neither RSA nor Ed25519"),
    ],
)
def test_keys_that_cannot_sign(text: str, said: str) -> None:
    with pytest.raises(dkim.BadKeyError, match=said):
        dkim.parse_key(text)


def test_a_changed_key_signs_from_then_on() -> None:
    keys = [pem(RSA), pem(ED25519)]
    signer = dkim.Signer("example.com", "s1", lambda: keys[0])
    headers = {"From": "a@example.com"}
    signer.load_key()
    assert "a=rsa-sha256" in signer.sign(headers, b"", 1)
    keys.pop(0)
    signer.load_key()
    assert "a=ed25519-sha256" in signer.sign(headers, b"", 1)
