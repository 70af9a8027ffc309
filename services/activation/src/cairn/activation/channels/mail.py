"""Owns how a message becomes bytes. Pure. Refuses whatever could forge a header, and addresses that no server takes."""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.header import Header
from email.utils import formatdate, getaddresses
from functools import lru_cache

from cairn.activation.templates import Message

MAX_ADDRESS_CHARS = 254
_LOCAL = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_ADDRESS = re.compile(rf"{_LOCAL}@{_LABEL}(\.{_LABEL})*")
_LONGEST_LINE = 900
_ASCII = bytes(range(127))
_PLAIN_PART = 'Content-Type: text/plain; charset="utf-8"\r\nContent-Transfer-Encoding: '
_HTML_PART = 'Content-Type: text/html; charset="utf-8"\r\nContent-Transfer-Encoding: '


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
    # The codec for international domains takes minutes for a very long one.
    if not at or len(domain) > MAX_ADDRESS_CHARS:
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


def compose(
    message: Message,
    *,
    sender: Sender,
    to: str,
    activation_id: str,
    sent_seconds: int,
    unsubscribe_url: str = "",
) -> tuple[dict[str, str], bytes]:
    """The headers, in order and each once, and the body with CRLF line ends.

    `to` has been through `parse_address`. With an `unsubscribe_url`, one-click unsubscribing is offered (RFC 8058), each header in one
    line: a folded one breaks signatures at some relays.
    """
    message_id = external_id(activation_id, sender.domain)
    headers = {
        "From": sender.header,
        "To": to,
        "Subject": _unstructured(message.subject, "Subject"),
        "Date": _date(sent_seconds),
        "Message-ID": message_id,
        "X-Cairn-Activation": _unstructured(activation_id, "X-Cairn-Activation"),
    }
    if unsubscribe_url:
        headers["List-Unsubscribe"] = f"<{unsubscribe_url}>"
        headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    headers["MIME-Version"] = "1.0"
    encoding, text = _encode(message.text)
    if not message.html:
        headers["Content-Type"] = 'text/plain; charset="utf-8"'
        headers["Content-Transfer-Encoding"] = encoding
        return headers, text
    # The words can't hold it: it is made from the message's own id.
    boundary = f"=_{message_id[1:33]}"
    headers["Content-Type"] = f'multipart/alternative; boundary="{boundary}"'
    html_encoding, html = _encode(message.html)
    body = b"".join(
        (
            f"--{boundary}\r\n{_PLAIN_PART}{encoding}\r\n\r\n".encode(),
            text,
            f"\r\n--{boundary}\r\n{_HTML_PART}{html_encoding}\r\n\r\n".encode(),
            html,
            f"\r\n--{boundary}--\r\n".encode(),
        )
    )
    return headers, body


def assemble(headers: Mapping[str, str], body: bytes) -> bytes:
    """The whole message as it goes over the wire, but for the doubling of dots."""
    head = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
    return head.encode("ascii") + b"\r\n" + body


def without_addresses(answer: str) -> str:
    """A server's answer without what may be a person's address, in one line of at most 200 characters.

    What is no UTF-8 in it (the client library hands it on as surrogates) is replaced: a contract's text can't hold it.
    """
    words = answer.encode("utf-8", "replace").decode().split()
    return " ".join("<address>" if "@" in word else word for word in words)[:200]


@lru_cache(maxsize=4)
def _date(seconds: int) -> str:
    return formatdate(seconds)


def _encode(text: str) -> tuple[str, bytes]:
    """The transfer encoding of a part and its bytes, with CRLF line ends. The shorter of two where it can't go as it is: mostly
    Latin text stays readable, other scripts stay small.
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    body = text.encode("utf-8", "replace")
    if text.isascii() and "\0" not in text and max(map(len, body.split(b"\n"))) <= _LONGEST_LINE:
        return "7bit", body.replace(b"\n", b"\r\n")
    if len(body.translate(None, _ASCII)) * 3 > len(body):
        return "base64", base64.encodebytes(body.replace(b"\n", b"\r\n")).replace(b"\n", b"\r\n")
    return "quoted-printable", binascii.b2a_qp(body, istext=True).replace(b"\n", b"\r\n")


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
