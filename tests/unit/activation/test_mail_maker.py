"""From a claim to a message: what it carries, and what makes that there is none."""

import email
import email.policy
import json
from pathlib import Path
from typing import Any

import dkim as verifier
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cairn.activation.channels.base import ChannelTools, Letter
from cairn.activation.channels.mail_maker import Mail, MailMaker
from cairn.activation.ledger import Fate, Outcome
from cairn.activation.model import Claim
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.activation.templates import CompiledTemplate
from cairn.api.activation.v1 import activation_pb2 as pb

TEMPLATE = CompiledTemplate(
    "Hi {{ profile.name }}", "Bye: {{ unsubscribe_url }}", "<a href='{{ unsubscribe_url }}'>bye</a>"
)


def url(connection: str, address: str) -> str:
    return f"https://example.com/u/{connection}-{address.partition('@')[0]}"


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch) -> ActivationSettings:
    monkeypatch.setenv("CAIRN_ACTIVATION_POSTGRES_DSN", "postgresql://localhost/x")
    return ActivationSettings()


def make(
    settings: ActivationSettings,
    *,
    profile: dict[str, Any] | None = None,
    context: dict[str, Any] | None = None,
    with_url: bool = True,
    secrets: Path | None = None,
    template: CompiledTemplate | None = TEMPLATE,
    from_address: str = "Shop <shop@example.com>",
    attribute: str = "",
    **connection: Any,
) -> Mail | Outcome:
    whole = pb.Connection(name="connections/email", **connection)
    if not whole.WhichOneof("kind"):
        whole.smtp.host = "localhost"
    tools = ChannelTools(Secrets(secrets), settings, url if with_url else None)
    told = (
        context
        if context is not None
        else {"profile": profile or {"name": "Ada", "email": "ada@example.com"}}
    )
    claim = Claim(
        activation_id="a1",
        request_us=0,
        profile_id="p1",
        template="t",
        action=0,
        context=json.dumps(told).encode(),
        accept_us=0,
        attempts=1,
        enrollment="",
    )
    return MailMaker(whole, from_address, attribute, tools).make(Letter(claim, template))


def parsed(made: Mail | Outcome) -> email.message.EmailMessage:
    assert isinstance(made, Mail), made
    return email.message_from_bytes(made.data, policy=email.policy.default)


def test_one_click_unsubscribing_is_offered_in_the_headers_and_to_the_words(settings) -> None:
    made = make(settings)
    message = parsed(made)
    address = "https://example.com/u/email-ada"
    assert message["List-Unsubscribe"] == f"<{address}>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    assert made.unsubscribe_url == address
    assert (made.message.text, made.message.html) == (f"Bye: {address}", f"<a href='{address}'>bye</a>")
    assert (made.to, made.activation_id, made.sender.address) == ("ada@example.com", "a1", "shop@example.com")
    assert made.message_id == message["Message-ID"]


@pytest.mark.parametrize(
    "how",
    [{"mail": pb.MailOptions(transactional=True)}, {"with_url": False}],
    ids=["transactional", "no address"],
)
def test_it_is_not_offered(settings, how) -> None:
    made = make(settings, **how)
    message = parsed(made)
    assert message["List-Unsubscribe"] is None
    assert message["List-Unsubscribe-Post"] is None
    assert made.unsubscribe_url == ""
    assert made.message.text == "Bye: "


def test_a_context_can_not_say_where_to_unsubscribe(settings) -> None:
    context = {"profile": {"name": "A", "email": "a@example.com"}, "unsubscribe_url": "https://evil.example"}
    assert make(settings, context=context).message.text == "Bye: https://example.com/u/email-a"


@pytest.mark.parametrize(
    ("profile", "detail"),
    [
        ({"email": "a@b.c\r\nBcc: x@y.z"}, "the profile's address is none"),
        ({"email": "a@b.c\nX: y"}, "the profile's address is none"),
        ({"email": "a@b.c, x@y.z"}, "the profile's address is none"),
        ({"email": "a@b.c> RCPT TO:<x@y.z"}, "the profile's address is none"),
        ({"email": ["a@b.c"]}, "the profile has no address"),
        ({"email": None}, "the profile has no address"),
        ({"email": True}, "the profile has no address"),
        ({"email": "a@b.c", "name": "x\r\nBcc: x@y.z"}, "subject: has more than one line"),
        ({"email": "a@b.c", "name": "x\0"}, "subject: has more than one line"),
        ({"email": "a@b.c"}, "subject: the template needs `name`, which is not there"),
        ({"email": "a@b.c", "name": None}, "subject: the template shows `profile.name`, which is null"),
    ],
)
def test_what_can_not_be_sent_fails_without_a_value(settings, profile, detail) -> None:
    made = make(settings, profile=profile)
    assert isinstance(made, Outcome)
    assert made.fate is Fate.FAILED
    assert made.detail.startswith(detail)
    assert "b.c" not in made.detail


def test_other_attributes_and_domains(settings) -> None:
    profile = {"name": "Ada", "private": "ada@bücher.example"}
    message = parsed(
        make(settings, profile=profile, attribute="private", from_address="Bücher <a@bücher.example>")
    )
    assert message["To"] == "ada@xn--bcher-kva.example"
    assert message["From"].addresses[0].addr_spec == "a@xn--bcher-kva.example"
    assert message["From"].addresses[0].display_name == "Bücher"
    assert message["Message-ID"].endswith("@xn--bcher-kva.example>")


def test_the_message_id_is_the_activations(settings) -> None:
    assert make(settings).message_id == make(settings, profile={"name": "B", "email": "b@c.de"}).message_id


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    key = rsa.generate_private_key(65537, 1024)
    (tmp_path / "dkim").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return tmp_path


SIGNING = pb.MailOptions(dkim_domain="example.com", dkim_selector="s1", dkim_key_secret="dkim")


def signed_headers(made: Mail | Outcome) -> set[str]:
    found = verifier.DKIM(make_sure(made).data)
    [signature] = [value for name, value in found.headers if name == b"DKIM-Signature"]
    tags = verifier.util.parse_tag_value(signature)
    return {name.decode().lower() for name in tags[b"h"].replace(b"\r\n", b"").replace(b" ", b"").split(b":")}


def make_sure(made: Mail | Outcome) -> Mail:
    assert isinstance(made, Mail), made
    return made


def test_what_is_signed(settings, secrets) -> None:
    assert signed_headers(make(settings, secrets=secrets, mail=SIGNING)) == {
        "from",
        "to",
        "subject",
        "date",
        "message-id",
        "list-unsubscribe",
        "list-unsubscribe-post",
        "mime-version",
        "content-type",
    }


@pytest.mark.parametrize(
    "way",
    [
        {"ses": pb.SesConnection(region="eu-west-1")},
        {"smtp": pb.SmtpConnection(host="email-smtp.eu-west-1.amazonaws.com")},
    ],
    ids=["ses", "its smtp"],
)
def test_what_ses_replaces_is_not_signed(settings, secrets, way) -> None:
    names = signed_headers(make(settings, secrets=secrets, mail=SIGNING, **way))
    assert {"from", "list-unsubscribe"} <= names
    assert not {"date", "message-id"} & names


def test_without_its_key_nothing_is_sent_unsigned(settings, secrets) -> None:
    (secrets / "dkim").write_text("nonsense")
    made = make(settings, secrets=secrets, mail=SIGNING)
    assert isinstance(made, Outcome)
    assert (made.fate, made.detail) == (Fate.RETRY, "the DKIM key can't be used: it is no private key in PEM")
    (secrets / "dkim").unlink()
    made = make(settings, secrets=secrets, mail=SIGNING)
    assert isinstance(made, Outcome)
    assert made.fate is Fate.RETRY
    assert "the secret `dkim` is missing" in made.detail
