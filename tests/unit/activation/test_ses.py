"""What SES gets, what its answers mean, and which connections are refused."""

import base64
import json
from pathlib import Path

import pytest

from cairn.activation.channels.base import ChannelTools, Letter, UnreachableError
from cairn.activation.channels.findings import Findings
from cairn.activation.channels.http import Answer, HttpClient
from cairn.activation.channels.mail_maker import Mail
from cairn.activation.channels.ses import SesChannel, check, read_answer
from cairn.activation.ledger import Fate, Guarantee
from cairn.activation.model import Claim
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.activation.templates import CompiledTemplate
from cairn.api.activation.v1 import activation_pb2 as pb

NOW = 1_790_000_000_000_000
CLIENT = HttpClient("Amazon SES", Guarantee.AT_MOST_ONCE, timeout_s=1, connections=1)
GOOD = {
    "region": "eu-central-1",
    "access_key_id": "AKIAIOSFODNN7EXAMPLE",
    "secret_key_secret": "ses-key",
    "from_address": "Käse Shop <shop@example.com>",
}


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    (tmp_path / "ses-key").write_text("a-key")
    return Secrets(tmp_path)


def request_of(secrets: Secrets, activation_id: str, **fields: object) -> dict[str, object]:
    whole = pb.Connection(name="connections/ses", ses=pb.SesConnection(**{**GOOD, **fields}))
    channel = SesChannel(
        whole, ChannelTools(secrets, ActivationSettings(postgres_dsn="postgresql://nowhere"))
    )
    claim = Claim(
        activation_id, NOW, "ada", "hello", 0, b'{"profile": {"email": "ada@example.com"}}', NOW, 1, "e"
    )
    made = channel.prepare(Letter(claim, CompiledTemplate("Hi", "Dear", "<b>Dear</b>")))
    assert isinstance(made, Mail)
    assert channel.address_of(made) == "ada@example.com"
    return json.loads(channel.render(made))


def test_a_request(secrets: Secrets) -> None:
    request = request_of(secrets, "e-1_2", configuration_set="events")
    message = base64.b64decode(request.pop("Content")["Raw"]["Data"])
    assert b"X-Cairn-Activation: e-1_2\r\n" in message
    assert request == {
        "FromEmailAddress": "=?utf-8?q?K=C3=A4se_Shop?= <shop@example.com>",
        "Destination": {"ToAddresses": ["ada@example.com"]},
        "EmailTags": [{"Name": "connection", "Value": "ses"}, {"Name": "activation", "Value": "e-1_2"}],
        "ConfigurationSetName": "events",
    }


def test_an_id_that_is_no_tag_is_in_the_header_alone(secrets: Secrets) -> None:
    request = request_of(secrets, "e-1.2")
    assert request["EmailTags"] == [{"Name": "connection", "Value": "ses"}]
    assert b"X-Cairn-Activation: e-1.2\r\n" in base64.b64decode(request["Content"]["Raw"]["Data"])
    assert "ConfigurationSetName" not in request


async def test_credentials_that_are_missing_are_told(secrets: Secrets, tmp_path: Path) -> None:
    whole = pb.Connection(name="connections/ses", ses=pb.SesConnection(**GOOD))
    channel = SesChannel(
        whole, ChannelTools(secrets, ActivationSettings(postgres_dsn="postgresql://nowhere"))
    )
    await channel.open()
    (tmp_path / "ses-key").unlink()
    with pytest.raises(UnreachableError, match="`ses-key` is missing"):
        await channel.open()
    with pytest.raises(UnreachableError, match="`ses-key` is missing"):
        await channel.probe()


def error(name: str, message: str = "about ada@example.com") -> tuple[dict[str, str], bytes]:
    return {"x-amzn-ErrorType": f"{name}:http://internal.amazon.com/x/"}, json.dumps(
        {"message": message}
    ).encode()


@pytest.mark.parametrize(
    ("status", "name", "fate", "down"),
    [
        (429, "TooManyRequestsException", Fate.RETRY, True),
        (400, "ThrottlingException", Fate.RETRY, True),
        (400, "Throttling", Fate.RETRY, True),
        (400, "LimitExceededException", Fate.RETRY, True),
        (400, "SendingPausedException", Fate.RETRY, True),
        (400, "AccountSuspendedException", Fate.RETRY, True),
        (400, "MailFromDomainNotVerifiedException", Fate.RETRY, True),
        (404, "NotFoundException", Fate.RETRY, True),
        (403, "AccessDeniedException", Fate.RETRY, True),
        (403, "UnrecognizedClientException", Fate.RETRY, True),
        (403, "InvalidClientTokenId", Fate.RETRY, True),
        (403, "SignatureDoesNotMatch", Fate.RETRY, True),
        (403, "InvalidSignatureException", Fate.RETRY, True),
        (403, "RequestExpired", Fate.RETRY, True),
        (403, "SomethingNewException", Fate.RETRY, True),
        (500, "InternalFailure", Fate.RETRY, True),
        (500, "InternalServiceErrorException", Fate.RETRY, True),
        (503, "ServiceUnavailable", Fate.RETRY, True),
        (500, "SomethingNewException", Fate.RETRY, True),
        (400, "MessageRejected", Fate.FAILED, False),
        (400, "BadRequestException", Fate.FAILED, False),
        (400, "ValidationException", Fate.FAILED, False),
        (413, "RequestEntityTooLarge", Fate.FAILED, False),
        (400, "SomethingNewException", Fate.FAILED, False),
    ],
)
def test_errors_of_its_own(status: int, name: str, fate: Fate, down: bool) -> None:
    headers, body = error(name)
    outcome = read_answer(Answer(status, headers, body), CLIENT, NOW)
    assert (outcome.fate, outcome.down) == (fate, down)
    assert name in outcome.detail
    assert "ada" not in outcome.detail


def test_where_an_error_has_its_name() -> None:
    bodies = [{"__type": "com.amazonaws.ses#MessageRejected"}, {"code": "MessageRejected"}]
    answers = [Answer(400, {}, json.dumps(body).encode()) for body in bodies]
    answers.append(Answer(400, {"x-amzn-ErrorType": "MessageRejected"}, b"x" * 10, whole=False))
    for answer in answers:
        assert read_answer(answer, CLIENT, NOW).fate is Fate.FAILED


@pytest.mark.parametrize("body", [{"code": "BadGateway"}, {"code": "ServiceUnavailable"}, {"__type": "x#Y"}])
@pytest.mark.parametrize("status", [408, 500, 502, 503])
def test_a_name_in_the_body_alone_may_be_another_ones(status: int, body: dict[str, str]) -> None:
    outcome = read_answer(Answer(status, {}, json.dumps(body).encode()), CLIENT, NOW)
    assert (outcome.fate, outcome.down) == (Fate.UNKNOWN, True)


def test_an_address_that_is_not_verified_is_told_without_it() -> None:
    headers, body = error("MessageRejected", "Email address is not verified: ada@example.com")
    detail = read_answer(Answer(400, headers, body), CLIENT, NOW).detail
    assert detail.endswith("an address is not verified: the sender's or, in the sandbox, the recipient's")


def test_a_message_that_was_taken() -> None:
    outcome = read_answer(Answer(200, {}, b'{"MessageId": "0100-1"}'), CLIENT, NOW)
    assert (outcome.fate, outcome.external_id) == (Fate.SENT, "0100-1")


@pytest.mark.parametrize(
    ("status", "body", "fate"),
    [
        (200, b"<html>", Fate.UNKNOWN),
        (200, b"{}", Fate.UNKNOWN),
        (200, b'{"MessageId": 7}', Fate.UNKNOWN),
        (204, b"", Fate.UNKNOWN),
        (302, b"", Fate.RETRY),
        (403, b"<html>", Fate.RETRY),
        (404, b"{}", Fate.RETRY),
        (408, b"<html>", Fate.UNKNOWN),
        (413, b"<html>", Fate.RETRY),
        (429, b"<html>", Fate.RETRY),
        (500, b"<html>", Fate.UNKNOWN),
        (502, b"<html>", Fate.UNKNOWN),
        (503, b"", Fate.UNKNOWN),
        (504, b"", Fate.UNKNOWN),
    ],
)
def test_what_is_not_its_own(status: int, body: bytes, fate: Fate) -> None:
    outcome = read_answer(Answer(status, {"Retry-After": "3"}, body), CLIENT, NOW)
    assert (outcome.fate, outcome.down) == (fate, True)


def violations(secrets: Secrets, **fields: object) -> list[str]:
    findings = Findings("connection", secrets)
    check(pb.Connection(ses=pb.SesConnection(**{**GOOD, **fields})), findings)
    return [found.field.removeprefix("connection.ses.") for found in findings.violations]


def test_a_connection_that_is_right(secrets: Secrets) -> None:
    assert violations(secrets) == []
    more = {
        "configuration_set": "events",
        "feedback_topic_arn": "arn:aws:sns:eu-central-1:123456789012:feedback",
        "base_url": "http://127.0.0.1:9/x",
        "pool_size": 64,
        "address_attribute": "work_email",
    }
    assert violations(secrets, **more) == []


def test_all_that_is_wrong_at_once(secrets: Secrets) -> None:
    wrong = {
        "region": "eu-central-1.evil.example",
        "access_key_id": "AKIA/x",
        "secret_key_secret": "gone",
        "from_address": "shop@example.com\r\nBcc: x@example.com",
        "address_attribute": "a\nb",
        "configuration_set": "a b",
        "feedback_topic_arn": "arn:aws:sqs:x",
        "base_url": "http://email.example",
        "pool_size": 65,
    }
    assert sorted(violations(secrets, **wrong)) == sorted(wrong)
    assert set(violations(secrets, **dict.fromkeys(GOOD, ""))) == set(GOOD)


@pytest.mark.parametrize(
    "url",
    [
        "https://email.example:99999",
        "https://email.example:x",
        "https://email.example:0/",
        "https://[::1",
        "https://:8443/",
        "http://127.0.0.1:8\\.evil.example/",
        "http://localhost.evil.example/",
        "https://email.example/" + "a" * 2_048,
    ],
)
def test_where_no_api_can_be(secrets: Secrets, url: str) -> None:
    assert violations(secrets, base_url=url) == ["base_url"]


@pytest.mark.parametrize(
    "url", ["http://[::1]", "http://[::1]:9/x", "http://localhost:9", "https://email.example"]
)
def test_where_an_api_can_be(secrets: Secrets, url: str) -> None:
    assert violations(secrets, base_url=url) == []
