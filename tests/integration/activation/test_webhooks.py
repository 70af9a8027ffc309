"""The providers' webhooks over real HTTP: what they sign is taken once; whatever else comes is refused, and nothing is written."""

import base64
import io
import json
from dataclasses import dataclass, field

import aiohttp
import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import format_time, now_us
from cairn.testing.ports import free_port

TOPIC = "arn:aws:sns:eu-central-1:123456789012:feedback"
ADDRESS = "ada@example.com"
HOUR = 3_600_000_000
KEY = ec.generate_private_key(ec.SECP256R1())


@dataclass
class Webhooks:
    """The public server of a replica, and Amazon SNS."""

    base: str
    replica: object
    sns: object
    session: aiohttp.ClientSession
    messages: int = field(default=0)

    async def post(self, path: str, body: bytes, **headers: str) -> int:
        async with self.session.post(self.base + path, data=io.BytesIO(body), headers=headers) as response:
            return response.status

    async def message(self, text: str = "", **fields) -> dict:
        """A message that SNS signed."""
        self.messages += 1
        values = {
            "MessageId": f"message-{self.messages}",
            "TopicArn": TOPIC,
            "Message": text or bounce(),
            "Timestamp": format_time(now_us()),
            **fields,
        }
        return await self.sns.sign(**values)

    async def ses(self, message: dict, connection: str = "ses") -> int:
        return await self.post(f"/feedback/ses/{connection}", json.dumps(message).encode())

    async def sendgrid(
        self, body: bytes, connection: str = "sendgrid", at_us: int = 0, **headers: str
    ) -> int:
        timestamp = str((at_us or now_us()) // 1_000_000)
        signature = KEY.sign(timestamp.encode() + body, ec.ECDSA(hashes.SHA256()))
        signed = {
            "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signature).decode(),
            "X-Twilio-Email-Event-Webhook-Timestamp": timestamp,
            **headers,
        }
        return await self.post(f"/feedback/sendgrid/{connection}", body, **signed)

    async def suppressed(self) -> dict[str, tuple[str, int]]:
        answer = await self.replica.stub.ListSuppressions(pb.ListSuppressionsRequest())
        return {s.address: (s.connection, s.reason) for s in answer.suppressions}


def bounce(address: str = ADDRESS, kind: str = "Permanent") -> str:
    part = {
        "bounceType": kind,
        "bounceSubType": "General",
        "bouncedRecipients": [{"emailAddress": address, "status": "5.1.1"}],
        "timestamp": format_time(now_us()),
    }
    tags = {"activation": ["a1"], "connection": ["ses"]}
    return json.dumps({"eventType": "Bounce", "mail": {"tags": tags}, "bounce": part})


def event(name: str, **fields) -> dict:
    return {
        "email": ADDRESS,
        "event": name,
        "timestamp": now_us() // 1_000_000,
        "sg_event_id": f"id-of-{name}",
        "activation_id": "a1",
        **fields,
    }


def public_key() -> str:
    """The key as SendGrid shows it."""
    key = KEY.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return base64.b64encode(key).decode()


@pytest.fixture
async def webhooks(activation, make, sns_platform):
    port = free_port()
    replica = await activation(public_port=port, sns_certificate_hosts=sns_platform.host)
    # The ids of secrets are not looked for: whoever only takes feedback sends nothing.
    await replica.put(make.log_connection())
    await replica.activate(make.log("a1", "ada"))
    ses = pb.SesConnection(
        region="eu-central-1",
        access_key_id="AKIAIOSFODNN7EXAMPLE",
        secret_key_secret="meta-token",
        from_address="shop@example.com",
        feedback_topic_arn=TOPIC,
    )
    sendgrid = pb.SendgridConnection(
        api_key_secret="meta-token",
        from_address="shop@example.com",
        feedback_public_key=public_key(),
    )
    await replica.put(
        pb.Connection(name="connections/ses", ses=ses),
        pb.Connection(name="connections/sendgrid", sendgrid=sendgrid),
    )
    async with aiohttp.ClientSession() as session:
        yield Webhooks(f"http://127.0.0.1:{port}", replica, sns_platform, session)


@pytest.mark.parametrize("version", ["1", "2"])
async def test_a_bounce_that_sns_signed_suppresses_once(webhooks, version) -> None:
    message = await webhooks.message(version=version)
    for _ in range(2):
        assert await webhooks.ses(message) == 200
    assert await webhooks.suppressed() == {ADDRESS: ("", pb.SUPPRESSION_REASON_HARD_BOUNCE)}
    got = await webhooks.replica.stub.GetDelivery(pb.GetDeliveryRequest(name="deliveries/a1"))
    assert [(told.provider, told.event_id, told.kind) for told in got.delivery.feedback] == [
        ("ses", "message-1/0", pb.FEEDBACK_KIND_HARD_BOUNCE)
    ]
    assert (await webhooks.sns.counts())["certificates"] == 1, "fetched once, whatever comes"


async def test_a_subscription_is_confirmed_where_sns_says(webhooks) -> None:
    fields = {"Type": "SubscriptionConfirmation", "Token": "a-token"}
    good = await webhooks.message(
        "please confirm", SubscribeURL=f"http://{webhooks.sns.host}/confirm?Token=a-token", **fields
    )
    assert await webhooks.ses(good) == 200
    assert (await webhooks.sns.counts())["confirmed a-token"] == 1
    elsewhere = await webhooks.message("x", SubscribeURL=f"{webhooks.base}/confirm", **fields)
    assert await webhooks.ses(elsewhere) == 403


async def test_what_sns_did_not_say_is_refused_and_nothing_is_written(webhooks, rows) -> None:
    good = await webhooks.message()
    host = webhooks.sns.host
    wrong = {
        "another message": {**good, "Message": bounce("bob@example.com")},
        "another id": {**good, "MessageId": "other"},
        "no signature": {**good, "Signature": ""},
        "another version": {**good, "SignatureVersion": "1"},
        "a certificate from elsewhere": {**good, "SigningCertURL": f"{webhooks.base}/certificate.pem"},
        "a redirect": {**good, "SigningCertURL": f"http://{host}/moved.pem"},
        "too large a certificate": {**good, "SigningCertURL": f"http://{host}/huge.pem"},
        "a page for a certificate": {**good, "SigningCertURL": f"http://{host}/page.pem"},
        "no certificate there": {**good, "SigningCertURL": f"http://{host}/none.pem"},
        "an old one": await webhooks.message(Timestamp=format_time(now_us() - HOUR - 60_000_000)),
        "one of tomorrow": await webhooks.message(Timestamp=format_time(now_us() + 24 * HOUR)),
        "another topic": await webhooks.message(TopicArn=TOPIC + "-of-others"),
    }
    assert {name: await webhooks.ses(message) for name, message in wrong.items()} == dict.fromkeys(wrong, 403)
    assert await webhooks.post("/feedback/ses/ses", b"<html>") == 400
    assert await webhooks.post("/feedback/ses/ses", b" " * (1024 * 1024 + 1)) == 413
    for connection in ("none", "sendgrid", "log", "No%20Name", "%00"):
        assert await webhooks.ses(good, connection) == 404
    assert await rows("SELECT * FROM feedback") == []
    assert await webhooks.suppressed() == {}
    assert await webhooks.ses(good) == 200


async def test_what_sendgrid_signed_is_taken_once(webhooks, rows) -> None:
    body = json.dumps(
        [
            event("bounce", type="bounce"),
            event("deferred", email="bob@example.com"),
            event("open"),
            event("group_unsubscribe", email="eve@example.com", activation_id="", connection="news"),
        ]
    ).encode()
    for _ in range(2):
        assert await webhooks.sendgrid(body) == 200
    assert await webhooks.suppressed() == {
        ADDRESS: ("", pb.SUPPRESSION_REASON_HARD_BOUNCE),
        "eve@example.com": ("connections/news", pb.SUPPRESSION_REASON_UNSUBSCRIBE),
    }
    assert len(await rows("SELECT * FROM feedback")) == 3


@pytest.mark.parametrize(
    "reason", ["Unsubscribed Address", "Spam Reporting Address", "Bounced Address", "Spam Content"]
)
async def test_what_sendgrid_dropped_did_not_arrive(webhooks, rows, reason) -> None:
    await rows("UPDATE deliveries SET state = 7 WHERE activation_id = 'a1'")
    assert await webhooks.sendgrid(json.dumps([event("dropped", reason=reason)]).encode()) == 200
    got = await webhooks.replica.stub.GetDelivery(pb.GetDeliveryRequest(name="deliveries/a1"))
    assert got.delivery.state == pb.DELIVERY_STATE_FAILED
    assert got.delivery.detail == "the destination says that it did not try to deliver it"


async def test_what_sendgrid_did_not_sign_is_refused_and_nothing_is_written(webhooks, rows) -> None:
    body = json.dumps([event("bounce", type="bounce")]).encode()
    signature, timestamp = (f"X-Twilio-Email-Event-Webhook-{name}" for name in ("Signature", "Timestamp"))
    assert await webhooks.post("/feedback/sendgrid/sendgrid", body) == 403
    assert await webhooks.sendgrid(body, **{signature: "AAAA"}) == 403
    assert await webhooks.sendgrid(body, **{timestamp: "1600112502"}) == 403
    assert await webhooks.sendgrid(body, at_us=now_us() - 2 * HOUR) == 403
    assert await webhooks.sendgrid(b"<html>") == 400
    assert await webhooks.sendgrid(b'{"event": "bounce"}') == 400
    assert await webhooks.sendgrid(b"[" + b" " * 1024 * 1024 + b"]") == 413
    for connection in ("none", "ses", "log"):
        assert await webhooks.sendgrid(body, connection) == 404
    assert await rows("SELECT * FROM feedback") == []
    assert await webhooks.sendgrid(body) == 200


async def test_connections_that_name_no_key_and_no_topic_take_no_feedback(webhooks) -> None:
    stub = webhooks.replica.stub
    for name, kind, field_ in (
        ("ses", "ses", "feedback_topic_arn"),
        ("sendgrid", "sendgrid", "feedback_public_key"),
    ):
        connection = (await stub.GetConnection(pb.GetConnectionRequest(name=name))).connection
        getattr(connection, kind).ClearField(field_)
        await webhooks.replica.put(connection)
    assert await webhooks.ses(await webhooks.message(TopicArn="")) == 404
    assert await webhooks.sendgrid(b"[]") == 404


async def test_a_webhook_is_only_posted_to(webhooks) -> None:
    for path in ("/feedback/ses/ses", "/feedback/sendgrid/sendgrid"):
        for method in ("GET", "PUT", "HEAD"):
            async with webhooks.session.request(method, webhooks.base + path) as response:
                assert response.status == 405


async def test_a_refusal_is_one_line_in_the_log_and_names_nobody(activation_process) -> None:
    port = free_port()
    replica = await activation_process(public_port=port)
    sendgrid = pb.SendgridConnection(
        api_key_secret="meta-token", from_address="shop@example.com", feedback_public_key=public_key()
    )
    await replica.put(pb.Connection(name="connections/sendgrid", sendgrid=sendgrid))
    async with aiohttp.ClientSession() as session:
        webhooks = Webhooks(f"http://127.0.0.1:{port}", replica, None, session)
        body = json.dumps([event("bounce", type="bounce")]).encode()
        assert await webhooks.post("/feedback/sendgrid/sendgrid", body) == 403
    assert await replica.stop() == 0
    text = replica.log.read_text()
    (line,) = [json.loads(line) for line in text.splitlines() if '"feedback_refused"' in line]
    assert (line["provider"], line["connection"], line["why"]) == ("sendgrid", "sendgrid", "it is not signed")
    assert ADDRESS not in text
