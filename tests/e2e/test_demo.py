"""The main job in one command, as a person would run it: `cairn demo`."""

import email.policy
import re
import subprocess
import sys
from email.message import EmailMessage
from email.parser import BytesParser
from pathlib import Path

import pytest

RECIPIENTS = {f"{name}@example.com" for name in ("ada", "ben", "eve", "gwen", "iris")}


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo") / "mails"


@pytest.fixture(scope="module")
def done(mailbox: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cairn.cli.main", "demo", "--speed", "900", "--mailbox", str(mailbox)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


@pytest.fixture(scope="module")
def mails(done: subprocess.CompletedProcess[str], mailbox: Path) -> dict[str, EmailMessage]:
    """The mails that are left to a person, by recipient."""
    assert done.returncode == 0, done.stdout + done.stderr
    parser = BytesParser(policy=email.policy.default)
    found = [parser.parsebytes(file.read_bytes()) for file in sorted(mailbox.glob("*.eml"))]
    by_recipient = {str(mail["To"]): mail for mail in found if isinstance(mail, EmailMessage)}
    assert len(by_recipient) == len(found)
    return by_recipient


def test_the_demo_finds_every_expected_message_and_nothing_else(
    done: subprocess.CompletedProcess[str],
) -> None:
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Every expected message arrived exactly once, and nothing else did." in done.stdout
    assert "Map of the ridge trail" in done.stdout, "the reminder lists the cart's products"
    assert "timer due, until acted on" in done.stdout
    assert "divides waits" in done.stdout, "the speed is said at the start"
    assert "iris  unsubscribes by one click; the answer is 200, and to a second click 200" in done.stdout
    assert "Traceback" not in done.stderr


def test_each_mail_is_kept_and_can_be_opened(mails: dict[str, EmailMessage]) -> None:
    assert mails.keys() == RECIPIENTS
    for mail in mails.values():
        assert not mail.defects
        assert mail.get_content_type() == "multipart/alternative"
        assert [part.get_content_type() for part in mail.iter_parts()] == ["text/plain", "text/html"]
        assert all(part.get_content().strip() for part in mail.iter_parts())
        assert str(mail["From"]) == "Trail Shop <shop@example.com>"


def test_one_template_is_made_by_mjml(mails: dict[str, EmailMessage]) -> None:
    html = mails["ben@example.com"].get_body(("html",))
    assert html is not None
    text = html.get_content()
    assert "<!doctype html>" in text.lower(), "MJML makes a whole document"
    assert "Alpine boots" in text
    assert "189.00 EUR" in text
    assert "<mj-" not in text


def test_each_mail_has_an_id_of_its_own_and_one_click(mails: dict[str, EmailMessage]) -> None:
    ids = {str(mail["Message-ID"]) for mail in mails.values()}
    links = {str(mail["List-Unsubscribe"]) for mail in mails.values()}
    assert len(ids) == len(links) == len(RECIPIENTS)
    for mail in mails.values():
        assert re.fullmatch(r"<[^@<>\s]+@example\.com>", str(mail["Message-ID"]))
        assert str(mail["List-Unsubscribe-Post"]) == "List-Unsubscribe=One-Click"
        assert re.fullmatch(r"<http://127\.0\.0\.1:\d+/u/[\w-]+>", str(mail["List-Unsubscribe"]))
        assert str(mail["To"]).partition("@")[0] not in str(mail["List-Unsubscribe"])
