"""Owns what Amazon SES tells of mail, as Amazon SNS sends it: signed envelopes, and the events in them. Pure: fetches nothing.

Sources: docs.aws.amazon.com/sns/latest/dg/sns-verify-signature-of-message.html and
docs.aws.amazon.com/ses/latest/dg/event-publishing-retrieving-sns-contents.html.
"""

import base64
import binascii
import re
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urlsplit

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from cairn.activation.feedback import RefusedError, check_age, clip, decode, read_address, read_time
from cairn.activation.store_feedback import DROPPED, Feedback
from cairn.activation.wire import parse_id
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.auth import is_loopback
from cairn.runtime.clock import to_datetime

PROVIDER = "ses"
MAX_CERTIFICATE_BYTES = 64 * 1024

_HOST = re.compile(r"sns\.[a-z]{2}[a-z0-9-]{3,30}\.amazonaws\.com(\.cn)?")
_ACTIVATION_TAG = "activation"
_CONNECTION_TAG = "connection"
_ACTIVATION_HEADER = "x-cairn-activation"
_NOT_SPAM = "not-spam"
_NOT_TRIED = "OnAccountSuppressionList"
_HASHES: Mapping[str, hashes.HashAlgorithm] = MappingProxyType({"1": hashes.SHA1(), "2": hashes.SHA256()})  # noqa: S303 - what SNS signs with by default


class Envelope(msgspec.Struct, frozen=True):
    """A message of Amazon SNS."""

    type: str = msgspec.field(name="Type")
    message_id: str = msgspec.field(name="MessageId")
    topic_arn: str = msgspec.field(name="TopicArn")
    message: str = msgspec.field(name="Message")
    timestamp: str = msgspec.field(name="Timestamp")
    signature_version: str = msgspec.field(name="SignatureVersion")
    signature: str = msgspec.field(name="Signature")
    signing_cert_url: str = msgspec.field(name="SigningCertURL")
    subject: str | None = msgspec.field(name="Subject", default=None)
    subscribe_url: str = msgspec.field(name="SubscribeURL", default="")
    token: str = msgspec.field(name="Token", default="")


NOTIFICATION = "Notification"
SUBSCRIPTION = "SubscriptionConfirmation"
TYPES = frozenset({NOTIFICATION, SUBSCRIPTION, "UnsubscribeConfirmation"})


def read_envelope(body: bytes, topic_arn: str, now: int) -> Envelope:
    """The message in a request's body, of this topic and of about now. It is not to be trusted before `verify`."""
    envelope = decode(body, Envelope, "the body")
    if envelope.type not in TYPES:
        raise RefusedError(400, "its Type is none that SNS has")
    if envelope.topic_arn != topic_arn:
        raise RefusedError(403, "its TopicArn is not the connection's feedback_topic_arn")
    check_age(read_time(envelope.timestamp, lambda: RefusedError(400, "its Timestamp is no time")), now)
    return envelope


def string_to_sign(envelope: Envelope) -> bytes:
    """What the signature is made of: certain fields with their names, a line each, in the order of the names."""
    if envelope.type == NOTIFICATION:
        subject = [] if envelope.subject is None else [("Subject", envelope.subject)]
        fields = [("Message", envelope.message), ("MessageId", envelope.message_id), *subject]
        fields += [("Timestamp", envelope.timestamp)]
    else:
        fields = [
            ("Message", envelope.message),
            ("MessageId", envelope.message_id),
            ("SubscribeURL", envelope.subscribe_url),
            ("Timestamp", envelope.timestamp),
            ("Token", envelope.token),
        ]
    fields += [("TopicArn", envelope.topic_arn), ("Type", envelope.type)]
    return "".join(f"{name}\n{value}\n" for name, value in fields).encode("utf-8", "surrogatepass")


def check_url(url: str, extra_hosts: Collection[str], suffix: str = "") -> None:
    """Refuses an address that is not Amazon SNS's own, by https. `extra_hosts` (`HOST:PORT`) are tests' stand-ins, by http on loopback.

    A `suffix` is that of a file, which is asked for without a query: with one, SNS answers with what others told it.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise RefusedError(403, "it names an address that is none") from None
    misplaced = not parts.path.endswith(suffix) or (suffix and parts.query)
    if parts.username or parts.password or parts.fragment or misplaced:
        raise RefusedError(403, "it names an address that SNS never does")
    if parts.netloc in extra_hosts:
        safe = parts.scheme == "https" or (parts.scheme == "http" and is_loopback(host))
    else:
        safe = parts.scheme == "https" and port is None and _HOST.fullmatch(host) is not None
    if not safe:
        raise RefusedError(403, "it names an address that is not Amazon's")


def read_certificate(pem: bytes) -> x509.Certificate:
    """A certificate that was fetched; RefusedError when it is none, or not one of an RSA key."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise RefusedError(403, "its certificate can't be read") from None
    if not isinstance(certificate.public_key(), rsa.RSAPublicKey):
        raise RefusedError(403, "its certificate has no RSA key")
    return certificate


def verify(envelope: Envelope, certificate: x509.Certificate, now: int) -> None:
    """Refuses a message that the certificate's key did not sign, or whose certificate does not hold now."""
    algorithm = _HASHES.get(envelope.signature_version)
    if algorithm is None:
        raise RefusedError(403, "its SignatureVersion is neither 1 nor 2")
    if not certificate.not_valid_before_utc <= to_datetime(now) <= certificate.not_valid_after_utc:
        raise RefusedError(403, "its certificate has expired or does not hold yet")
    key = certificate.public_key()
    assert isinstance(key, rsa.RSAPublicKey), "see read_certificate"
    try:
        signature = base64.b64decode(envelope.signature, validate=True)
        key.verify(signature, string_to_sign(envelope), padding.PKCS1v15(), algorithm)
    except (InvalidSignature, binascii.Error, ValueError):
        raise RefusedError(403, "its signature is wrong") from None


class _Header(msgspec.Struct, frozen=True):
    name: str = ""
    value: str = ""


class _Mail(msgspec.Struct, frozen=True):
    tags: dict[str, list[str]] = {}
    headers: list[_Header] = []


class _Recipient(msgspec.Struct, frozen=True, rename="camel"):
    email_address: str = ""
    status: str = ""


class _Bounce(msgspec.Struct, frozen=True, rename="camel"):
    bounce_type: str = ""
    bounce_sub_type: str = ""
    bounced_recipients: list[_Recipient] = []
    timestamp: str = ""


class _Complaint(msgspec.Struct, frozen=True, rename="camel"):
    complained_recipients: list[_Recipient] = []
    complaint_feedback_type: str | None = None
    complaint_sub_type: str | None = None
    timestamp: str = ""


class _Delivery(msgspec.Struct, frozen=True):
    recipients: list[str] = []
    timestamp: str = ""


class _Delay(msgspec.Struct, frozen=True, rename="camel"):
    delay_type: str = ""
    delayed_recipients: list[_Recipient] = []
    timestamp: str = ""


class _Event(msgspec.Struct, frozen=True, rename="camel"):
    event_type: str = ""
    notification_type: str = ""
    mail: _Mail = _Mail()
    bounce: _Bounce | None = None
    complaint: _Complaint | None = None
    delivery: _Delivery | None = None
    delivery_delay: _Delay | None = None


def read_event(envelope: Envelope, connection_id: str, now: int) -> list[Feedback]:
    """What a notification tells, a piece for each recipient; nothing for events that say nothing of a delivery."""
    if not envelope.message.startswith("{"):
        return []  # SES greets a new topic with a line of text
    event = decode(envelope.message, _Event, "the message")
    told = _read_bounce(event) or _read_complaint(event) or _read_delivery(event) or _read_delay(event)
    if told is None:
        return []
    kind, addresses, timestamp, detail = told
    tagged = parse_id("connections", _tag(event.mail, _CONNECTION_TAG))
    occur_us = read_time(timestamp, lambda: RefusedError(400, "the event's timestamp is no time"))
    return [
        Feedback(
            provider=PROVIDER,
            # The message comes again with the same id; an address would be personal data.
            event_id=clip(f"{envelope.message_id}/{place}"),
            kind=kind,
            activation_id=_activation(event.mail),
            address=read_address(address),
            connection=tagged or connection_id,
            occur_us=min(max(occur_us, 0), now),
            detail=clip(detail),
            dropped=_is_dropped(event),
        )
        for place, address in enumerate(addresses)
    ]


_Told = tuple[int, Sequence[str], str, str]


def _is(event: _Event, name: str) -> bool:
    return name in (event.event_type, event.notification_type)


def _read_bounce(event: _Event) -> _Told | None:
    bounce = event.bounce
    if bounce is None or not _is(event, "Bounce"):
        return None
    hard = bounce.bounce_type == "Permanent"
    kind = pb.FEEDBACK_KIND_HARD_BOUNCE if hard else pb.FEEDBACK_KIND_SOFT_BOUNCE
    recipients = bounce.bounced_recipients
    statuses = " ".join(
        sorted({one.status for one in recipients if re.fullmatch(r"[\d.]{1,12}", one.status)})
    )
    detail = f"{bounce.bounce_type} bounce, {bounce.bounce_sub_type} {statuses}".strip()
    return kind, [one.email_address for one in recipients], bounce.timestamp, detail


def _read_complaint(event: _Event) -> _Told | None:
    complaint = event.complaint
    if complaint is None or not _is(event, "Complaint") or complaint.complaint_feedback_type == _NOT_SPAM:
        return None
    addresses = [one.email_address for one in complaint.complained_recipients]
    detail = f"complaint, {complaint.complaint_feedback_type or 'of no type'}"
    if _is_dropped(event):
        detail = f"{DROPPED}, {detail}"
    return pb.FEEDBACK_KIND_COMPLAINT, addresses, complaint.timestamp, detail


def _is_dropped(event: _Event) -> bool:
    """Whether SES did not even try, because of a complaint of long ago. What it bounces by itself is a hard bounce anyway."""
    complaint = event.complaint
    return complaint is not None and _is(event, "Complaint") and complaint.complaint_sub_type == _NOT_TRIED


def _read_delivery(event: _Event) -> _Told | None:
    delivery = event.delivery
    if delivery is None or not _is(event, "Delivery"):
        return None
    return pb.FEEDBACK_KIND_DELIVERED, delivery.recipients, delivery.timestamp, ""


def _read_delay(event: _Event) -> _Told | None:
    delay = event.delivery_delay
    if delay is None or not _is(event, "DeliveryDelay"):
        return None
    addresses = [one.email_address for one in delay.delayed_recipients]
    return pb.FEEDBACK_KIND_SOFT_BOUNCE, addresses, delay.timestamp, f"delayed, {delay.delay_type}"


def _activation(mail: _Mail) -> str:
    """The activation that a mail was sent for: from its tag, else from its header, which holds what a tag can't."""
    headers = (header.value for header in mail.headers if header.name.lower() == _ACTIVATION_HEADER)
    return clip(_tag(mail, _ACTIVATION_TAG) or next(headers, ""))


def _tag(mail: _Mail, name: str) -> str:
    return next(iter(mail.tags.get(name, [])), "")
