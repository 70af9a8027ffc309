"""Owns how a message becomes bytes. Pure. Refuses whatever could forge a header, and addresses that no server takes."""

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass
from email.header import Header
from email.utils import formatdate, getaddresses

from cairn.activation.templates import Message

MAX_ADDRESS_CHARS = 254
_LOCAL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"{_LOCAL}@{_LABEL}(\.{_LABEL})*")
_LONGEST_LINE = 900
_ADDRESS_IN_TEXT = re.compile(r"\S*@\S*")


@dataclass(frozen=True, slots=True)
class Sender:
    """Who a connection's messages are from: `header` is the whole From line's value, `address` the bare address."""

    address: str
    header: str

    @property
    def domain(self) -> str:
        """What stands behind the at sign."""
        return self.address.rpartition("@")[2]


def parse_address(text: str) -> str:
    """A bare address in ASCII, an international domain in its ASCII form; "" when it is none."""
    local, at, domain = text.strip().rpartition("@")
    if not at:
        return ""
    if not domain.isascii():
        try:
            domain = domain.encode("idna").decode()
        except UnicodeError:
            return ""
    address = f"{local}@{domain}"
    return address if len(address) <= MAX_ADDRESS_CHARS and _ADDRESS.fullmatch(address) else ""


def parse_sender(text: str) -> Sender | None:
    """The sender of "Name <address>" or of a bare address; None when it is neither."""
    if any(character in text for character in "\r\n\0"):
        return None
    found = getaddresses([text])
    if len(found) != 1:
        return None
    name, bare = found[0]
    address = parse_address(bare)
    if not address:
        return None
    return Sender(address, f"{_phrase(name)} <{address}>" if name else address)


def external_id(activation_id: str, domain: str) -> str:
    """The Message-ID of an activation, the same at every attempt."""
    return f"<{hashlib.sha256(activation_id.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}@{domain}>"


def render_message(
    message: Message, *, sender: Sender, to: str, activation_id: str, sent_seconds: int
) -> bytes:
    """The whole message, headers and body, with CRLF line ends. `to` has been through `parse_address`."""
    message_id = external_id(activation_id, sender.domain)
    headers = [
        f"From: {sender.header}",
        f"To: {to}",
        f"Subject: {_unstructured(message.subject, 'Subject')}",
        f"Date: {formatdate(sent_seconds)}",
        f"Message-ID: {message_id}",
        f"X-Cairn-Activation: {_unstructured(activation_id, 'X-Cairn-Activation')}",
        "MIME-Version: 1.0",
    ]
    if not message.html:
        return _lines(headers) + _part(message.text, "plain")
    boundary = f"=_{message_id[1:33]}"
    headers.append(f'Content-Type: multipart/alternative; boundary="{boundary}"')
    divider = f"--{boundary}".encode()
    return b"".join(
        (
            _lines([*headers, ""]),
            divider + b"\r\n" + _part(message.text, "plain") + b"\r\n",
            divider + b"\r\n" + _part(message.html, "html") + b"\r\n",
            divider + b"--\r\n",
        )
    )


def without_addresses(answer: str) -> str:
    """A server's answer without what may be a person's address, in one line of at most 200 characters."""
    return _ADDRESS_IN_TEXT.sub("<address>", " ".join(answer.split()))[:200]


def _lines(lines: list[str]) -> bytes:
    return "".join(f"{line}\r\n" for line in lines).encode("ascii")


def _part(text: str, subtype: str) -> bytes:
    body = text.replace("\r\n", "\n").replace("\r", "\n").encode("utf-8", "replace")
    encoding = "7bit"
    if not body.isascii() or b"\0" in body or any(len(line) > _LONGEST_LINE for line in body.split(b"\n")):
        encoding, body = _encode(body)
    head = [
        f'Content-Type: text/{subtype}; charset="utf-8"',
        f"Content-Transfer-Encoding: {encoding}",
        "",
    ]
    return _lines(head) + body.replace(b"\n", b"\r\n")


def _encode(body: bytes) -> tuple[str, bytes]:
    """The shorter of the two encodings: mostly Latin text stays readable, other scripts stay small."""
    if sum(byte > 126 for byte in body) * 3 > len(body):
        return "base64", base64.encodebytes(body.replace(b"\n", b"\r\n"))
    return "quoted-printable", binascii.b2a_qp(body, istext=True)


def _unstructured(text: str, header: str) -> str:
    """A header's text in one or more folded lines; what could break out of the header is encoded."""
    if text.isascii() and text.isprintable() and len(text) <= _LONGEST_LINE and "=?" not in text:
        return text
    clean = text.encode("utf-8", "replace").decode()
    return Header(clean, "utf-8", header_name=header).encode(linesep="\r\n")


def _phrase(name: str) -> str:
    if name.isascii() and name.isprintable():
        escaped = name.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    return Header(name, "utf-8", header_name="From").encode(linesep="\r\n")
