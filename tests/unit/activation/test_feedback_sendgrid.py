"""What SendGrid tells: signatures as it makes them, and the kinds of its events."""

import base64
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.feedback import MAX_AGE_US, MAX_AHEAD_US, RefusedError
from cairn.activation.feedback_sendgrid import read_events, verify
from cairn.api.activation.v1 import activation_pb2 as pb

SECOND = 1_000_000
NOW = 1_800_000_000 * SECOND
KEY = ec.generate_private_key(ec.SECP256R1())
# The example of SendGrid's own libraries (github.com/sendgrid/sendgrid-python, test/unit/test_eventwebhook.py).
EXAMPLE_KEY = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g=="
EXAMPLE_SIGNATURE = (
    "MEUCIGHQVtGj+Y3LkG9fLcxf3qfI10QysgDWmMOVmxG0u6ZUAiEAyBiXDWzM+uOe5W0JuG+luQAbPIqHh89M15TluLtEZtM="
)
EXAMPLE_TIMESTAMP = "1600112502"
EXAMPLE = (
    json.dumps(
        [
            {
                "email": "hello@world.com",
                "event": "dropped",
                "reason": "Bounced Address",
                "sg_event_id": "ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",
                "sg_message_id": "LRzXl_NHStOGhQ4kofSm_A.filterdrecv-p3mdw1-756b745b58-kmzbl-18-5F5FC76C-9.0",
                "smtp-id": "<LRzXl_NHStOGhQ4kofSm_A@ismtpd0039p1iad1.sendgrid.net>",
                "timestamp": 1600112492,
            }
        ],
        separators=(",", ":"),
    )
    + "\r\n"
).encode()


def shown(key: Any) -> str:
    der = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return base64.b64encode(der).decode()


def signed(body: bytes, timestamp: str) -> str:
    return base64.b64encode(KEY.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))).decode()


def test_sendgrids_own_example_is_taken() -> None:
    now = int(EXAMPLE_TIMESTAMP) * SECOND
    verify(EXAMPLE_KEY, EXAMPLE_SIGNATURE, EXAMPLE_TIMESTAMP, EXAMPLE, now)
    (told,) = read_events(EXAMPLE, "sendgrid", now)
    assert (told.kind, told.address, told.event_id) == (
        pb.FEEDBACK_KIND_HARD_BOUNCE,
        "hello@world.com",
        "ZHJvcC0xMDk5NDkxOS1MUnpYbF9OSFN0T0doUTRrb2ZTbV9BLTA",
    )


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("body", {"body": EXAMPLE[:-1]}),
        ("timestamp", {"timestamp": str(int(EXAMPLE_TIMESTAMP) + 1)}),
        ("other key", {"public_key": shown(KEY.public_key())}),
        ("no key", {"public_key": "AAAA"}),
        ("key of another kind", {"public_key": shown(ed25519.Ed25519PrivateKey.generate().public_key())}),
        ("no base64", {"public_key": "?"}),
        ("no signature", {"signature": ""}),
        ("no timestamp", {"timestamp": ""}),
        ("signature of nothing", {"signature": "AAAA"}),
        ("signature that is no base64", {"signature": "é"}),
        ("time that is none", {"timestamp": "soon"}),
        ("time of other digits", {"timestamp": "١٦٠٠١١٢٥٠٢"}),
        ("endless time", {"timestamp": "9" * 5000}),
    ],
)
def test_what_is_not_signed_as_it_is_is_refused(what: str, change: dict[str, Any]) -> None:
    arguments = {
        "public_key": EXAMPLE_KEY,
        "signature": EXAMPLE_SIGNATURE,
        "timestamp": EXAMPLE_TIMESTAMP,
        "body": EXAMPLE,
        "now": int(EXAMPLE_TIMESTAMP) * SECOND,
        **change,
    }
    with pytest.raises(RefusedError) as refused:
        verify(**arguments)
    assert refused.value.status == 403


@pytest.mark.parametrize("off_us", [MAX_AGE_US + SECOND, -MAX_AHEAD_US - SECOND])
def test_what_was_signed_at_another_time_is_refused(off_us: int) -> None:
    timestamp = str((NOW - off_us) // SECOND)
    with pytest.raises(RefusedError, match="not about now"):
        verify(shown(KEY.public_key()), signed(b"[]", timestamp), timestamp, b"[]", NOW)
    verify(shown(KEY.public_key()), signed(b"[]", timestamp), timestamp, b"[]", NOW - off_us)


KINDS = {
    ("bounce", "bounce", ""): pb.FEEDBACK_KIND_HARD_BOUNCE,
    ("bounce", "blocked", ""): pb.FEEDBACK_KIND_SOFT_BOUNCE,
    ("dropped", "", "Bounced Address"): pb.FEEDBACK_KIND_HARD_BOUNCE,
    ("dropped", "", "Spam Reporting Address"): pb.FEEDBACK_KIND_COMPLAINT,
    ("dropped", "", "Unsubscribed Address"): pb.FEEDBACK_KIND_UNSUBSCRIBE,
    ("dropped", "", "Spam Content (if spam checker app enabled)"): pb.FEEDBACK_KIND_SOFT_BOUNCE,
    ("deferred", "", ""): pb.FEEDBACK_KIND_SOFT_BOUNCE,
    ("delivered", "", ""): pb.FEEDBACK_KIND_DELIVERED,
    ("spamreport", "", ""): pb.FEEDBACK_KIND_COMPLAINT,
    ("unsubscribe", "", ""): pb.FEEDBACK_KIND_UNSUBSCRIBE,
    ("group_unsubscribe", "", ""): pb.FEEDBACK_KIND_UNSUBSCRIBE,
}


@pytest.mark.parametrize(("what", "kind"), KINDS.items())
def test_events_are_of_their_kind(what: tuple[str, str, str], kind: int) -> None:
    event = {
        "email": "Ada@example.com",
        "timestamp": NOW // SECOND - 5,
        "event": what[0],
        "type": what[1],
        "reason": what[2] or "550 <ada@example.com> is unknown",
        "status": "5.1.1 <ada@example.com>",
        "sg_event_id": "an-id",
        "activation_id": "activation-1",
        "connection": "news",
    }
    (told,) = read_events(json.dumps([event]).encode(), "sendgrid", NOW)
    assert told.kind == kind
    assert (told.activation_id, told.connection, told.address) == ("activation-1", "news", "Ada@example.com")
    assert told.occur_us == NOW - 5 * SECOND
    assert told.dropped == (what[0] == "dropped")
    assert "@" not in told.detail, "another server's words may quote an address"


def test_what_tells_nothing_of_a_delivery_is_left_out() -> None:
    events = [{"event": "open"}, {"event": "click"}, {"event": 7}, {}, 1, None, "x", []]
    assert read_events(json.dumps(events).encode(), "sendgrid", NOW) == []


def test_an_event_without_ids_is_known_again_all_the_same() -> None:
    event = {"event": "bounce", "email": "not an address", "timestamp": "soon", "connection": 5}
    first, again = (read_events(json.dumps([event]).encode(), "sendgrid", NOW)[0] for _ in range(2))
    assert first == again
    assert (first.activation_id, first.address, first.connection) == ("", "", "sendgrid")
    assert first.occur_us == NOW


@pytest.mark.parametrize("body", [b"", b"{}", b"<html>", b"\xff", b"[" * 100_000, b'"x"'])
def test_what_is_no_list_of_events_is_refused(body: bytes) -> None:
    with pytest.raises(RefusedError) as refused:
        read_events(body, "sendgrid", NOW)
    assert refused.value.status == 400


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["event", "email", "timestamp", "sg_event_id", "activation_id", "type", "reason"])
            | st.text(),
            inner,
            max_size=5,
        )
    ),
)


@given(
    st.lists(
        st.fixed_dictionaries({"event": st.sampled_from(["bounce", "dropped"])}, optional={"a": JSON}) | JSON
    )
)
def test_whatever_a_signed_body_holds_it_is_read_or_left_out(events: list[Any]) -> None:
    for told in read_events(json.dumps(events).encode(), "sendgrid", NOW):
        assert told.provider == "sendgrid"
        assert len(told.event_id.encode()) <= 256
        assert "\0" not in told.event_id + told.activation_id + told.detail
