"""How mail of a connection may be signed and unsubscribed from."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from cairn.activation.secrets import Secrets
from cairn.activation.wire_resources import check_connection
from cairn.api.activation.v1 import activation_pb2 as pb

SMTP = pb.SmtpConnection(host="localhost", from_address="a@example.com")
GOOD = {"dkim_domain": "example.com", "dkim_selector": "s1", "dkim_key_secret": "rsa"}


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    for name, key in (
        ("rsa", rsa.generate_private_key(65537, 1024)),
        ("ed", ed25519.Ed25519PrivateKey.generate()),
    ):
        (tmp_path / name).write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "nonsense").write_text("nonsense")
    return Secrets(tmp_path)


def found(secrets: Secrets, connection: pb.Connection) -> dict[str, str]:
    connection.name = "connections/c"
    return {violation.field: violation.description for violation in check_connection(connection, secrets)}


@pytest.mark.parametrize(
    "options",
    [
        {},
        GOOD,
        {**GOOD, "dkim_key_secret": "ed"},
        {**GOOD, "dkim_selector": "2026-11.mail"},
        {"transactional": True},
    ],
)
def test_options_that_are_taken(secrets: Secrets, options: dict[str, object]) -> None:
    assert found(secrets, pb.Connection(smtp=SMTP, mail=pb.MailOptions(**options))) == {}


@pytest.mark.parametrize(
    ("options", "field", "said"),
    [
        (
            {"dkim_domain": "example.com"},
            "mail",
            "needs all of dkim_domain, dkim_selector and dkim_key_secret",
        ),
        ({"dkim_selector": "s1", "dkim_key_secret": "rsa"}, "mail", "needs all of"),
        ({**GOOD, "dkim_domain": "bücher.example"}, "mail.dkim_domain", "is a domain in ASCII"),
        ({**GOOD, "dkim_domain": "Example.com"}, "mail.dkim_domain", "lower case"),
        ({**GOOD, "dkim_domain": "example.com; t=y"}, "mail.dkim_domain", "is a domain"),
        ({**GOOD, "dkim_domain": "example.com\r\nX: y"}, "mail.dkim_domain", "is a domain"),
        ({**GOOD, "dkim_selector": "s1; x"}, "mail.dkim_selector", "is a name of"),
        ({**GOOD, "dkim_key_secret": "nobody"}, "mail.dkim_key_secret", "the secret `nobody` is missing"),
        (
            {**GOOD, "dkim_key_secret": "nonsense"},
            "mail.dkim_key_secret",
            "can't sign: it is no private key in PEM",
        ),
    ],
)
def test_options_that_are_refused(
    secrets: Secrets, options: dict[str, object], field: str, said: str
) -> None:
    problems = found(secrets, pb.Connection(smtp=SMTP, mail=pb.MailOptions(**options)))
    assert list(problems) == [f"connection.{field}"]
    assert said in problems[f"connection.{field}"]


def test_only_mail_has_them(secrets: Secrets) -> None:
    problems = found(secrets, pb.Connection(log=pb.LogConnection(), mail=pb.MailOptions(transactional=True)))
    assert problems == {"connection.mail": "is for connections that write e-mail; leave it out"}
