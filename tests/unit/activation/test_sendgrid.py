"""What SendGrid gets, what its answers mean, and which connections are refused."""

import base64
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from cairn.activation.channels.base import ChannelTools, Letter
from cairn.activation.channels.findings import Findings
from cairn.activation.channels.http import Answer, HttpClient
from cairn.activation.channels.mail_maker import Mail
from cairn.activation.channels.sendgrid import SendgridChannel, check, read_answer
from cairn.activation.ledger import Fate, Guarantee, Outcome
from cairn.activation.model import Claim
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.activation.templates import CompiledTemplate
from cairn.api.activation.v1 import activation_pb2 as pb

NOW = 1_790_000_000_000_000
CLIENT = HttpClient("SendGrid", Guarantee.AT_MOST_ONCE, timeout_s=1, connections=1)
GOOD = {"api_key_secret": "sendgrid-key", "from_address": "Käse Shop <shop@example.com>"}
HELLO = CompiledTemplate("Hi", "Dear", "<b>Dear</b>")


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    (tmp_path / "sendgrid-key").write_text("SG.x")
    return Secrets(tmp_path)


def made(
    secrets: Secrets, activation_id: str, template: CompiledTemplate, *, public: bool = False
) -> tuple[SendgridChannel, Mail | Outcome]:
    whole = pb.Connection(name="connections/sg", sendgrid=pb.SendgridConnection(**GOOD))
    settings = ActivationSettings(postgres_dsn="postgresql://nowhere")
    tools = ChannelTools(secrets, settings, (lambda c, a: f"https://u.example/{c}/x") if public else None)
    channel = SendgridChannel(whole, tools)
    claim = Claim(
        activation_id, NOW, "ada", "hello", 0, b'{"profile": {"email": "ada@example.com"}}', NOW, 1, "e"
    )
    return channel, channel.prepare(Letter(claim, template))


def request_of(
    secrets: Secrets, activation_id: str, template: CompiledTemplate = HELLO, *, public: bool = False
) -> dict[str, object]:
    channel, mail = made(secrets, activation_id, template, public=public)
    assert isinstance(mail, Mail)
    return json.loads(channel.render(mail))


def test_a_request(secrets: Secrets) -> None:
    request = request_of(secrets, "e-1.2", public=True)
    message_id = request["headers"].pop("Message-ID")
    assert message_id.endswith("@example.com>")
    assert request == {
        "personalizations": [
            {
                "to": [{"email": "ada@example.com"}],
                "custom_args": {"activation_id": "e-1.2", "connection": "sg"},
            }
        ],
        "from": {"email": "shop@example.com", "name": "Käse Shop"},
        "subject": "Hi",
        "content": [
            {"type": "text/plain", "value": "Dear"},
            {"type": "text/html", "value": "<b>Dear</b>"},
        ],
        "headers": {
            "X-Cairn-Activation": "e-1.2",
            "List-Unsubscribe": "<https://u.example/sg/x>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        },
    }


def test_what_is_not_there_is_not_sent(secrets: Secrets) -> None:
    request = request_of(secrets, "e-1\r\nX-Evil: 1", CompiledTemplate("Hi", "Dear", ""))
    assert request["content"] == [{"type": "text/plain", "value": "Dear"}]
    assert set(request["headers"]) == {"Message-ID"}
    assert request["personalizations"][0]["custom_args"]["activation_id"] == "e-1\r\nX-Evil: 1"


def test_half_a_character_harms_nobody_beside_it(secrets: Secrets) -> None:
    half = "{{ '\\ud83d' }}"
    request = request_of(secrets, "1", CompiledTemplate(f"Hi {half}", f"Dear {half}", f"<b>{half}</b>"))
    assert request["subject"] == "Hi ?"
    assert [part["value"] for part in request["content"]] == ["Dear ?", "<b>?</b>"]


@pytest.mark.parametrize(("subject", "text"), [("", "Dear"), ("Hi", "")])
def test_a_message_without_words_fails_here(secrets: Secrets, subject: str, text: str) -> None:
    _, outcome = made(secrets, "1", CompiledTemplate(subject, text, ""))
    assert isinstance(outcome, Outcome)
    assert outcome.fate is Fate.FAILED


ERRORS = json.dumps({"errors": [{"message": "about ada@example.com", "field": "from.email"}]}).encode()


@pytest.mark.parametrize(
    ("status", "fate", "down", "words"),
    [
        (400, Fate.FAILED, False, "from.email"),
        (401, Fate.RETRY, True, "renew its secret"),
        (403, Fate.RETRY, True, "sender is not verified"),
        (404, Fate.RETRY, True, "base_url"),
        (405, Fate.RETRY, True, "base_url"),
        (413, Fate.FAILED, False, "too large"),
        (415, Fate.FAILED, False, "415"),
        (429, Fate.RETRY, True, "for now"),
        (500, Fate.UNKNOWN, True, "may have it"),
        (502, Fate.UNKNOWN, True, "may have it"),
        (503, Fate.RETRY, True, "not available"),
        (504, Fate.UNKNOWN, True, "may have it"),
    ],
)
def test_errors_of_its_own(status: int, fate: Fate, down: bool, words: str) -> None:
    outcome = read_answer(Answer(status, {}, ERRORS), CLIENT, NOW)
    assert (outcome.fate, outcome.down) == (fate, down)
    assert words in outcome.detail
    assert "ada" not in outcome.detail


def test_an_account_without_credits_is_no_matter_of_the_key() -> None:
    body = b'{"errors": [{"message": "Maximum credits exceeded"}]}'
    outcome = read_answer(Answer(401, {}, body), CLIENT, NOW)
    assert (outcome.fate, outcome.down) == (Fate.RETRY, True)
    assert "credits" in outcome.detail


def test_a_field_that_is_an_address_is_not_told() -> None:
    body = b'{"errors": [{"field": "to.ada@example.com"}, {"field": "subject"}, {"field": null}, "x"]}'
    outcome = read_answer(Answer(400, {}, body), CLIENT, NOW)
    assert outcome.detail == "SendGrid answered HTTP 400: it does not take this message (subject)"


@pytest.mark.parametrize(
    ("status", "headers", "fate"),
    [
        (202, {"X-Message-Id": "sg-1"}, Fate.SENT),
        (202, {}, Fate.UNKNOWN),
        (200, {"X-Message-Id": "sg-1"}, Fate.UNKNOWN),
        (307, {}, Fate.RETRY),
        (400, {}, Fate.RETRY),
        (403, {}, Fate.RETRY),
        (408, {}, Fate.UNKNOWN),
        (429, {}, Fate.RETRY),
        (500, {}, Fate.UNKNOWN),
        (503, {}, Fate.UNKNOWN),
    ],
)
@pytest.mark.parametrize("body", [b"<html>", b"", b"[]", b'{"errors": "none"}'])
def test_what_is_not_its_own(status: int, headers: dict[str, str], fate: Fate, body: bytes) -> None:
    assert read_answer(Answer(status, headers, body), CLIENT, NOW).fate is fate


def test_an_answer_that_is_cut_is_known_by_its_head() -> None:
    outcome = read_answer(Answer(202, {"X-Message-Id": "sg-1"}, b"x", whole=False), CLIENT, NOW)
    assert (outcome.fate, outcome.external_id) == (Fate.SENT, "sg-1")


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"X-RateLimit-Reset": "1790000007"}, 7),
        ({"X-RateLimit-Reset": "1780000000"}, 0),
        ({"X-RateLimit-Reset": "999999999999"}, 86_400),
        ({"X-RateLimit-Reset": "soon"}, 0),
        ({"X-RateLimit-Reset": "1790000007", "Retry-After": "3"}, 3),
    ],
)
def test_the_pause_after_too_many(headers: dict[str, str], seconds: int) -> None:
    outcome = read_answer(Answer(429, headers, ERRORS), CLIENT, NOW)
    assert outcome.retry_after_us == seconds * 1_000_000


def violations(secrets: Secrets, domain: str = "", **fields: object) -> list[str]:
    findings = Findings("connection", secrets)
    mail = pb.MailOptions(dkim_domain=domain)
    check(pb.Connection(sendgrid=pb.SendgridConnection(**{**GOOD, **fields}), mail=mail), findings)
    return [
        found.field.removeprefix("connection.").removeprefix("sendgrid.") for found in findings.violations
    ]


def public_key(key: object) -> str:
    return base64.b64encode(
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ).decode()


def test_a_connection_that_is_right(secrets: Secrets) -> None:
    assert violations(secrets) == []
    key = public_key(ec.generate_private_key(ec.SECP256R1()))
    assert violations(secrets, feedback_public_key=key, base_url="https://api.eu.sendgrid.com") == []


def test_all_that_is_wrong_at_once(secrets: Secrets) -> None:
    wrong = {
        "api_key_secret": "gone",
        "from_address": "shop",
        "address_attribute": "a\nb",
        "feedback_public_key": public_key(ed25519.Ed25519PrivateKey.generate()),
        "base_url": "http://sendgrid.example",
        "pool_size": -1,
    }
    assert sorted(violations(secrets, **wrong)) == sorted(wrong)
    assert violations(secrets, feedback_public_key="no base64!") == ["feedback_public_key"]
    assert violations(secrets, domain="example.com") == ["mail.dkim_domain"]
