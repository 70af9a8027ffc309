"""What Amazon SES tells through SNS: the string that is signed, whose addresses are trusted, and the kinds of its events."""

import base64
import contextlib
import json
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.feedback import MAX_AGE_US, RefusedError
from cairn.activation.feedback_ses import (
    check_url,
    read_certificate,
    read_envelope,
    read_event,
    string_to_sign,
    verify,
)
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import format_time, to_datetime

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND
TOPIC = "arn:aws:sns:eu-central-1:123456789012:feedback"
KEY = rsa.generate_private_key(public_exponent=65_537, key_size=2048)


def certificate(key: Any = KEY, days: int = 30) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "sns.amazonaws.com")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(to_datetime(NOW) - timedelta(days=100))
        .not_valid_after(to_datetime(NOW) + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return built.public_bytes(serialization.Encoding.PEM)


def message(**fields: Any) -> dict[str, Any]:
    return {
        "Type": "Notification",
        "MessageId": "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324",
        "TopicArn": TOPIC,
        "Message": "a message\nof two lines",
        "Timestamp": format_time(NOW),
        "SignatureVersion": "2",
        "Signature": "",
        "SigningCertURL": "https://sns.eu-central-1.amazonaws.com/SimpleNotificationService-1.pem",
        "UnsubscribeURL": "https://sns.eu-central-1.amazonaws.com/?Action=Unsubscribe",
        **fields,
    }


def envelope(**fields: Any) -> Any:
    return read_envelope(json.dumps(message(**fields)).encode(), TOPIC, NOW)


def signed(version: str, **fields: Any) -> Any:
    text = string_to_sign(envelope(SignatureVersion=version, **fields))
    algorithm = hashes.SHA1() if version == "1" else hashes.SHA256()
    signature = base64.b64encode(KEY.sign(text, padding.PKCS1v15(), algorithm)).decode()
    return envelope(SignatureVersion=version, Signature=signature, **fields)


def test_a_notification_is_signed_as_the_documentation_says() -> None:
    assert string_to_sign(envelope(Subject="My First Message")).decode() == (
        "Message\na message\nof two lines\nMessageId\n22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324\nSubject\nMy First Message\n"
        f"Timestamp\n{format_time(NOW)}\nTopicArn\n{TOPIC}\nType\nNotification\n"
    )
    assert b"Subject" not in string_to_sign(envelope())


def test_a_subscription_is_signed_as_the_documentation_says() -> None:
    asked = envelope(
        Type="SubscriptionConfirmation", SubscribeURL="https://x", Token="t", Subject="not signed"
    )
    assert string_to_sign(asked).decode() == (
        "Message\na message\nof two lines\nMessageId\n22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324\nSubscribeURL\nhttps://x\n"
        f"Timestamp\n{format_time(NOW)}\nToken\nt\nTopicArn\n{TOPIC}\nType\nSubscriptionConfirmation\n"
    )


@pytest.mark.parametrize("version", ["1", "2"])
def test_both_versions_of_signatures_are_taken(version: str) -> None:
    verify(signed(version), read_certificate(certificate()), NOW)


@pytest.mark.parametrize(
    "field", ["Message", "MessageId", "Subject", "Timestamp", "Signature", "SignatureVersion"]
)
def test_a_change_of_any_signed_field_is_refused(field: str) -> None:
    changed = {"Timestamp": format_time(NOW - SECOND), "SignatureVersion": "1", "Signature": "AAAA"}
    good = signed("2", Subject="s")
    fields = {"Subject": "s", "Signature": good.signature, field: changed.get(field, "changed")}
    with pytest.raises(RefusedError, match="signature is wrong"):
        verify(envelope(**fields), read_certificate(certificate()), NOW)


def test_certificates_that_do_not_fit_are_refused() -> None:
    good = signed("2")
    other = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
    with pytest.raises(RefusedError, match="signature is wrong"):
        verify(good, read_certificate(certificate(other)), NOW)
    with pytest.raises(RefusedError, match="expired"):
        verify(good, read_certificate(certificate(days=-1)), NOW)
    with pytest.raises(RefusedError, match="no RSA key"):
        read_certificate(certificate(ec.generate_private_key(ec.SECP256R1())))
    for pem in (b"", b"<html>", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        with pytest.raises(RefusedError, match="can't be read"):
            read_certificate(pem)
    with pytest.raises(RefusedError, match="neither 1 nor 2"):
        verify(envelope(SignatureVersion="3"), read_certificate(certificate()), NOW)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"TopicArn": TOPIC + "2"}, 403),
        ({"Timestamp": format_time(NOW - MAX_AGE_US - SECOND)}, 403),
        ({"Timestamp": format_time(NOW + MAX_AGE_US)}, 403),
        ({"Timestamp": "soon"}, 400),
        ({"Timestamp": "2027-01-15T08:00:00"}, 400),
        ({"Type": "Other"}, 400),
        ({"Message": 5}, 400),
    ],
)
def test_what_is_not_of_the_topic_and_of_now_is_refused(fields: dict[str, Any], status: int) -> None:
    with pytest.raises(RefusedError) as refused:
        envelope(**fields)
    assert refused.value.status == status


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b"[" * 100_000])
def test_what_is_no_message_of_sns_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        read_envelope(body, TOPIC, NOW)
    assert refused.value.status == 400


GOOD = "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-0123.pem"


@pytest.mark.parametrize(
    "url",
    [
        GOOD,
        GOOD.replace("us-east-1", "us-gov-west-1"),
        GOOD.replace("us-east-1.amazonaws.com", "cn-north-1.amazonaws.com.cn"),
    ],
)
def test_amazons_own_addresses_are_trusted(url: str) -> None:
    check_url(url, set(), ".pem")


@pytest.mark.parametrize(
    "url",
    [
        GOOD.replace("https", "http"),
        GOOD.replace("amazonaws.com", "amazonaws.com.example.com"),
        GOOD.replace("sns.us", "example.com/sns.us"),
        GOOD.replace("sns.us-east-1.amazonaws.com", "sns.us-east-1.amazonaws.com@example.com"),
        GOOD.replace("sns.us-east-1.amazonaws.com", "user:word@sns.us-east-1.amazonaws.com"),
        GOOD.replace("amazonaws.com", "amazonaws.com:8443"),
        GOOD.replace("sns.", "s3."),
        GOOD.replace("sns.us-east-1.", "sns.evil.com.us-east-1."),
        GOOD.replace(".pem", ".txt"),
        GOOD + "#x",
        GOOD + "?Action=GetEndpointAttributes",
        "https://example.com/?https://sns.us-east-1.amazonaws.com/x.pem",
        "http://127.0.0.1:81/x.pem",
        "http://[::1/x.pem",
        "https://sns.us-east-1.amazonaws.com:port/x.pem",
        "",
    ],
)
def test_no_other_address_is_trusted(url: str) -> None:
    with pytest.raises(RefusedError):
        check_url(url, {"127.0.0.1:80"}, ".pem")


def test_a_stand_in_is_trusted_by_http_on_loopback_only() -> None:
    check_url("http://127.0.0.1:80/x.pem", {"127.0.0.1:80"}, ".pem")
    with pytest.raises(RefusedError):
        check_url("http://192.0.2.1:80/x.pem", {"192.0.2.1:80"}, ".pem")


def event(name: str, part: dict[str, Any], key: str = "eventType", **mail: Any) -> str:
    tags = {"activation": ["activation-1"], "connection": ["news"], "ses:operation": ["SendEmail"]}
    body = {"messageId": "m", "destination": ["ada@example.com"], "tags": tags, **mail}
    return json.dumps({key: name, "mail": body, name[0].lower() + name[1:]: part})


AT = "2026-11-24T10:00:00.123Z"
ADA = {"emailAddress": "Ada <ada@example.com>", "status": "5.1.1", "diagnosticCode": "550 ada@example.com?"}
EVENTS = {
    pb.FEEDBACK_KIND_HARD_BOUNCE: event(
        "Bounce",
        {"bounceType": "Permanent", "bounceSubType": "General", "bouncedRecipients": [ADA], "timestamp": AT},
    ),
    pb.FEEDBACK_KIND_SOFT_BOUNCE: event(
        "Bounce",
        {
            "bounceType": "Transient",
            "bounceSubType": "MailboxFull",
            "bouncedRecipients": [ADA],
            "timestamp": AT,
        },
    ),
    pb.FEEDBACK_KIND_COMPLAINT: event(
        "Complaint",
        {"complainedRecipients": [ADA], "complaintFeedbackType": "abuse", "timestamp": AT},
        key="notificationType",
    ),
    pb.FEEDBACK_KIND_DELIVERED: event(
        "Delivery",
        {"recipients": ["ada@example.com"], "smtpResponse": "250 ada@example.com", "timestamp": AT},
    ),
}


@pytest.mark.parametrize(("kind", "text"), EVENTS.items())
def test_events_are_of_their_kind(kind: int, text: str) -> None:
    (told,) = read_event(envelope(Message=text), "ses", NOW)
    assert told.kind == kind
    assert (told.activation_id, told.connection, told.address) == ("activation-1", "news", "ada@example.com")
    assert told.event_id == "22b80b92-fdea-4c2c-8f9d-bdfb0c7bf324/0"
    assert format_time(told.occur_us) == "2026-11-24T10:00:00.123000Z"
    assert not told.dropped
    assert "@" not in told.detail


def test_a_complaint_of_long_ago_for_which_nothing_is_sent_is_told_as_dropped() -> None:
    part = {"complainedRecipients": [ADA], "complaintSubType": "OnAccountSuppressionList", "timestamp": AT}
    (told,) = read_event(envelope(Message=event("Complaint", part)), "ses", NOW)
    assert (told.kind, told.dropped) == (pb.FEEDBACK_KIND_COMPLAINT, True)


def test_who_says_that_it_is_no_spam_does_not_complain() -> None:
    part = {"complainedRecipients": [ADA], "complaintFeedbackType": "not-spam", "timestamp": AT}
    assert read_event(envelope(Message=event("Complaint", part)), "ses", NOW) == []


def test_a_delay_is_a_soft_bounce() -> None:
    part = {"delayType": "MailboxFull", "delayedRecipients": [ADA], "timestamp": AT}
    (told,) = read_event(envelope(Message=event("DeliveryDelay", part)), "ses", NOW)
    assert told.kind == pb.FEEDBACK_KIND_SOFT_BOUNCE


def test_each_recipient_is_a_piece_of_its_own() -> None:
    part = {"recipients": ["ada@example.com", "bob@example.com"], "timestamp": AT}
    told = read_event(envelope(Message=event("Delivery", part)), "ses", NOW)
    assert [(one.address, one.event_id[-2:]) for one in told] == [
        ("ada@example.com", "/0"),
        ("bob@example.com", "/1"),
    ]


def test_without_tags_the_header_names_the_activation() -> None:
    part = {"recipients": ["ada@example.com"], "timestamp": AT}
    headers = [{"name": "X-Cairn-Activation", "value": "activation:2"}]
    (told,) = read_event(envelope(Message=event("Delivery", part, tags={}, headers=headers)), "ses", NOW)
    assert (told.activation_id, told.connection) == ("activation:2", "ses")


@pytest.mark.parametrize(
    "text",
    [
        "Successfully validated SNS topic for Amazon SES event publishing.",
        event("Open", {}),
        event("Send", {}),
        "{}",
    ],
)
def test_what_tells_nothing_of_a_delivery_is_left_out(text: str) -> None:
    assert read_event(envelope(Message=text), "ses", NOW) == []


@pytest.mark.parametrize(
    "text",
    ["{", '{"mail": 5}', event("Delivery", {"recipients": ["a@b.c"], "timestamp": "soon"})],
)
def test_an_event_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(RefusedError) as refused:
        read_event(envelope(Message=text), "ses", NOW)
    assert refused.value.status == 400


@given(st.text())
def test_whatever_a_signed_message_holds_it_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(RefusedError):
        read_event(envelope(Message="{" + text), "ses", NOW)
