"""Owns what SendGrid tells of mail by its signed event webhook. Pure.

Sources: twilio.com/docs/sendgrid/for-developers/tracking-events/event and
twilio.com/docs/sendgrid/for-developers/tracking-events/getting-started-event-webhook-security-features.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_public_key

from cairn.activation.feedback import RefusedError, check_age, clip, decode, read_address
from cairn.activation.store_feedback import Feedback
from cairn.activation.wire import parse_id
from cairn.api.activation.v1 import activation_pb2 as pb

PROVIDER = "sendgrid"
SIGNATURE_HEADER = "X-Twilio-Email-Event-Webhook-Signature"
TIMESTAMP_HEADER = "X-Twilio-Email-Event-Webhook-Timestamp"

_LAST_SECOND = 4_102_444_800  # 2100

_KINDS: Mapping[str, int] = MappingProxyType(
    {
        "delivered": pb.FEEDBACK_KIND_DELIVERED,
        "deferred": pb.FEEDBACK_KIND_SOFT_BOUNCE,
        "spamreport": pb.FEEDBACK_KIND_COMPLAINT,
        "unsubscribe": pb.FEEDBACK_KIND_UNSUBSCRIBE,
        "group_unsubscribe": pb.FEEDBACK_KIND_UNSUBSCRIBE,
    }
)
_DROPPED: Mapping[str, int] = MappingProxyType(
    {
        "bounced address": pb.FEEDBACK_KIND_HARD_BOUNCE,
        "invalid": pb.FEEDBACK_KIND_HARD_BOUNCE,
        "spam reporting address": pb.FEEDBACK_KIND_COMPLAINT,
        "unsubscribed address": pb.FEEDBACK_KIND_UNSUBSCRIBE,
    }
)
"""Why SendGrid did not even try, as far as that is about the address."""


def verify(public_key: str, signature: str, timestamp: str, body: bytes, now: int) -> None:
    """Refuses a body that the key's owner did not sign, or did not sign about now. `public_key` is as SendGrid shows it."""
    if not signature or not timestamp:
        raise RefusedError(403, "it is not signed")
    if not (timestamp.isascii() and timestamp.isdigit() and int(timestamp[:11]) < _LAST_SECOND):
        raise RefusedError(403, "its timestamp is no time")
    check_age(int(timestamp[:11]) * 1_000_000, now)
    try:
        key = load_der_public_key(base64.b64decode(public_key, validate=True))
    except (ValueError, UnsupportedAlgorithm):
        raise RefusedError(403, "the connection's feedback_public_key is no key") from None
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RefusedError(403, "the connection's feedback_public_key is no ECDSA key")
    try:
        signed = base64.b64decode(signature, validate=True)
        key.verify(signed, timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, binascii.Error, ValueError):
        raise RefusedError(403, "its signature is wrong") from None


def read_events(body: bytes, connection_id: str, now: int) -> list[Feedback]:
    """What a body that was verified tells of deliveries; opens and clicks, and what is no event, tell nothing."""
    told = (_read(event, connection_id, now) for event in decode(body, list[Any], "the body"))
    return [one for one in told if one is not None]


def _read(event: Any, connection_id: str, now: int) -> Feedback | None:
    if not isinstance(event, dict):
        return None
    kind = _kind(event)
    if kind is None:
        return None
    named = event.get("connection")
    return Feedback(
        provider=PROVIDER,
        event_id=clip(event.get("sg_event_id")) or _derived_id(event),
        kind=kind,
        activation_id=clip(event.get("activation_id")),
        address=read_address(event.get("email")),
        connection=(parse_id("connections", named) if isinstance(named, str) else "") or connection_id,
        occur_us=_occur_us(event.get("timestamp"), now),
        detail=_detail(event),
        dropped=event.get("event") == "dropped",
    )


def _occur_us(seconds: object, now: int) -> int:
    if isinstance(seconds, int) and 0 <= seconds < _LAST_SECOND:
        return min(seconds * 1_000_000, now)
    return now


def _kind(event: Mapping[str, Any]) -> int | None:
    name = event.get("event")
    if name == "bounce":
        blocked = event.get("type") == "blocked"
        return pb.FEEDBACK_KIND_SOFT_BOUNCE if blocked else pb.FEEDBACK_KIND_HARD_BOUNCE
    if name == "dropped":
        reason = event.get("reason")
        key = reason.strip().lower() if isinstance(reason, str) else ""
        return _DROPPED.get(key, int(pb.FEEDBACK_KIND_SOFT_BOUNCE))
    return _KINDS.get(name) if isinstance(name, str) else None


def _detail(event: Mapping[str, Any]) -> str:
    """What it was, without the other server's words: they may quote an address."""
    words = [event.get("event"), event.get("type"), event.get("status")]
    if event.get("event") == "dropped" and str(event.get("reason")).strip().lower() in _DROPPED:
        words.append(event.get("reason"))
    return clip(" ".join(word for word in words if isinstance(word, str) and "@" not in word))


def _derived_id(event: Mapping[str, Any]) -> str:
    facts = [str(event.get(name)) for name in ("sg_message_id", "event", "timestamp", "email")]
    return hashlib.sha256("\0".join(facts).encode("utf-8", "surrogatepass")).hexdigest()
