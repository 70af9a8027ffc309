"""What a webhook gets, how it is signed, what its answers mean, and which connections are refused."""

import hashlib
import hmac
import json
from ipaddress import ip_network
from pathlib import Path
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cairn.activation.channels.base import ChannelTools, Letter, UnreachableError
from cairn.activation.channels.findings import Findings
from cairn.activation.channels.http import Answer, is_header_value
from cairn.activation.channels.webhook import (
    Call,
    WebhookChannel,
    check,
    idempotency_key,
    read_answer,
    render_body,
    sign,
)
from cairn.activation.ledger import Fate, Outcome
from cairn.activation.model import Claim
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.activation.templates import CompiledTemplate
from cairn.api.activation.v1 import activation_pb2 as pb

NOW = 1_790_000_000_000_000
CONTEXT = b'{"profile": {"name": "Ada", "big": 123456789012345678901}, "entry": {}, "event": {"x": 1.10}}'


def claim(context: bytes = CONTEXT, activation_id: str = "e-1.2") -> Claim:
    return Claim(
        activation_id=activation_id,
        request_us=NOW,
        profile_id="ada",
        template="",
        action=0,
        context=context,
        accept_us=NOW,
        attempts=1,
        enrollment="e-1",
        journey_version="journeys/welcome/versions/3",
        stage="signed-up",
        step="one/2",
    )


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    (tmp_path / "signing").write_text("a-key")
    (tmp_path / "token").write_text("Bearer x")
    return Secrets(tmp_path)


def channel(secrets: Secrets, **fields: object) -> WebhookChannel:
    webhook = pb.WebhookConnection(
        **{"url": "https://hooks.example/x", "signing_secret": "signing", **fields}
    )
    settings = ActivationSettings(postgres_dsn="postgresql://nowhere")
    return WebhookChannel(
        pb.Connection(name="connections/hook", webhook=webhook), ChannelTools(secrets, settings)
    )


def test_a_body() -> None:
    body = render_body(claim(), None)
    assert json.loads(body) == {
        "activation_id": "e-1.2",
        "profile_id": "ada",
        "journey_version": "journeys/welcome/versions/3",
        "stage": "signed-up",
        "step": "one/2",
        "enrollment": "e-1",
        "request_time": "2026-09-21T14:13:20Z",
        "context": {
            "profile": {"name": "Ada", "big": 123456789012345678901},
            "entry": {},
            "event": {"x": 1.1},
        },
    }
    assert CONTEXT in body


def test_a_message_is_rendered_into_the_body(secrets: Secrets) -> None:
    template = CompiledTemplate(
        "Hi {{ profile.name }}", "Dear {{ profile.name }}", "<b>{{ profile.name }}</b>"
    )
    call = channel(secrets).prepare(Letter(claim(), template))
    assert isinstance(call, Call)
    assert json.loads(call.body)["message"] == {"subject": "Hi Ada", "text": "Dear Ada", "html": "<b>Ada</b>"}


def test_a_template_for_mail_can_be_used_where_nobody_unsubscribes(secrets: Secrets) -> None:
    words = "Hi.{% if unsubscribe_url %} Enough? {{ unsubscribe_url }}{% endif %}"
    call = channel(secrets).prepare(Letter(claim(), CompiledTemplate("Hi", words, "")))
    assert isinstance(call, Call)
    assert json.loads(call.body)["message"]["text"] == "Hi."


def test_half_a_character_of_a_message_becomes_a_question_mark(secrets: Secrets) -> None:
    call = channel(secrets).prepare(Letter(claim(), CompiledTemplate("{{ '\\ud83d' }}", "Käse", "")))
    assert isinstance(call, Call)
    assert json.loads(call.body)["message"] == {"subject": "?", "text": "Käse", "html": ""}


@pytest.mark.parametrize(
    ("context", "template", "detail"),
    [
        (b"{", None, "not JSON"),
        (b"[]", None, "not a JSON object"),
        (b"{}", CompiledTemplate("{{ profile.name }}", "", ""), "`name`"),
    ],
)
def test_what_can_not_be_made_fails_alone(
    secrets: Secrets, context: bytes, template: CompiledTemplate | None, detail: str
) -> None:
    outcome = channel(secrets).prepare(Letter(claim(context), template))
    assert isinstance(outcome, Outcome)
    assert outcome.fate is Fate.FAILED
    assert detail in outcome.detail


def test_the_signature_is_that_of_the_time_and_the_body() -> None:
    expected = hmac.new(b"a-key", b'1790000000.{"a":1}', hashlib.sha256).hexdigest()
    assert sign("a-key", 1_790_000_000, b'{"a":1}') == f"t=1790000000,v1={expected}"


@given(st.text(min_size=1, max_size=256))
@example("100%41")
def test_every_id_has_a_legal_key_of_its_own(activation_id: str) -> None:
    try:
        activation_id.encode()
    except UnicodeEncodeError:
        return
    key = idempotency_key(activation_id)
    assert is_header_value(key)
    assert " " not in key
    assert unquote(key) == activation_id


def test_a_usual_id_is_its_own_key() -> None:
    assert idempotency_key("e-1.2/x:y") == "e-1.2/x:y"


@pytest.mark.parametrize(
    ("status", "fate", "down", "pause_s"),
    [
        (200, Fate.SENT, False, 0),
        (202, Fate.SENT, False, 0),
        (204, Fate.SENT, False, 0),
        (301, Fate.RETRY, False, 7),
        (307, Fate.RETRY, False, 7),
        (400, Fate.FAILED, False, 0),
        (401, Fate.FAILED, False, 0),
        (403, Fate.FAILED, False, 0),
        (404, Fate.FAILED, False, 0),
        (408, Fate.RETRY, False, 7),
        (410, Fate.FAILED, False, 0),
        (413, Fate.FAILED, False, 0),
        (425, Fate.RETRY, False, 7),
        (429, Fate.RETRY, True, 7),
        (500, Fate.RETRY, True, 7),
        (503, Fate.RETRY, True, 7),
        (599, Fate.RETRY, True, 7),
        (999, Fate.RETRY, True, 7),
    ],
)
def test_answers(status: int, fate: Fate, down: bool, pause_s: int) -> None:
    outcome = read_answer(Answer(status, {"Retry-After": "7"}, b"ada@example.com"), NOW)
    assert (outcome.fate, outcome.down, outcome.retry_after_us) == (fate, down, pause_s * 1_000_000)
    assert "ada" not in outcome.detail


async def test_a_secret_that_is_missing_is_told_and_waited_for(secrets: Secrets, tmp_path: Path) -> None:
    hook = channel(secrets, header_secrets={"Authorization": "gone"})
    with pytest.raises(UnreachableError, match="`gone` is missing"):
        await hook.open()
    outcomes = await hook.send([Call("k", b"{}"), Call("l", b"{}")])
    assert [outcome.fate for outcome in outcomes] == [Fate.RETRY] * 2
    (tmp_path / "gone").write_text("here")
    await hook.open()


def violations(secrets: Secrets, networks: tuple[str, ...] = (), **fields: object) -> dict[str, str]:
    webhook = pb.WebhookConnection(
        **{"url": "https://hooks.example/x", "signing_secret": "signing", **fields}
    )
    findings = Findings("connection", secrets, [ip_network(network) for network in networks])
    check(pb.Connection(name="connections/hook", webhook=webhook), findings)
    return {
        found.field.removeprefix("connection.webhook."): found.description for found in findings.violations
    }


def test_a_connection_that_is_right(secrets: Secrets) -> None:
    assert violations(secrets) == {}
    assert violations(secrets, header_secrets={"Authorization": "token", "X-Tenant": "token"}) == {}
    assert violations(secrets, url="https://93.184.216.34:8443/x?y=z") == {}
    assert violations(secrets, ("127.0.0.0/8",), url="http://127.0.0.1:8000/") == {}
    assert violations(secrets, ("10.0.0.0/8",), url="http://hooks.internal/") == {}


def test_all_that_is_wrong_at_once(secrets: Secrets) -> None:
    found = violations(
        secrets,
        url="ftp://hooks.example",
        signing_secret="",
        pool_size=65,
        header_secrets={
            "Host": "token",
            "Transfer-Encoding": "token",
            "cairn-signature": "token",
            "X Y": "token",
            "X-A\r\nX-Evil": "token",
            "X-One": "token",
            "x-one": "token",
            "X-Gone": "gone",
            "X-None": "",
        },
    )
    assert set(found) == {
        "url",
        "signing_secret",
        "pool_size",
        "header_secrets[Host]",
        "header_secrets[Transfer-Encoding]",
        "header_secrets[cairn-signature]",
        "header_secrets[X Y]",
        "header_secrets[X-A\r\nX-Evil]",
        "header_secrets[x-one]",
        "header_secrets[X-Gone]",
        "header_secrets[X-None]",
    }


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "https://127.0.0.1/",
        "https://169.254.169.254/latest/meta-data/",
        "https://[::1]/",
        "https://[::ffff:169.254.169.254]/",
        "https://[64:ff9b::a9fe:a9fe]/",
        "https://10.0.0.1/",
        "https://2852039166/",
        "https://0xa9fea9fe/",
    ],
)
def test_urls_that_lead_where_they_may_not(secrets: Secrets, url: str) -> None:
    assert list(violations(secrets, url=url)) == ["url"]


def test_what_is_allowed_is_no_more_than_that(secrets: Secrets) -> None:
    assert list(violations(secrets, ("10.0.0.0/8",), url="http://127.0.0.1/")) == ["url"]
    assert list(violations(secrets, ("10.0.0.0/8",), url="http://93.184.216.34/")) == ["url"]


def test_too_many_headers(secrets: Secrets) -> None:
    headers = {f"X-{number}": "token" for number in range(21)}
    assert list(violations(secrets, header_secrets=headers)) == ["header_secrets"]
