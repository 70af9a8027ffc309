"""The commands about ways out, words, deliveries and people, against a real suite, a real mail server and a stand-in ad platform."""

import json
import os
import select
import signal
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from command import CAIRN, Run, Up, documents, read_port

from cairn.cli.main import cli
from cairn.testing.mail_server import read_index

ANSWER_SECONDS = 30.0
TOKEN, APP_SECRET = "f3a9c1-the-token", "77b0-the-app-secret"
SECRETS = {"CAIRN_SECRET_META_TOKEN": TOKEN, "CAIRN_SECRET_META_APP_SECRET": APP_SECRET}

DOCUMENTS = """
connection:
  name: email
  smtp: {{host: 127.0.0.1, port: {mail}, security: NONE, from_address: Shop <shop@example.com>}}
  frequency_caps: [{{count: 1000, period: 24h}}]
---
connection:
  name: meta
  meta_audience:
    audience_id: "17"
    access_token_secret: meta-token
    app_secret_secret: meta-app-secret
    base_url: http://127.0.0.1:{ads}/v25.0
---
template:
  name: hello
  subject: Hello {{{{ profile.first_name }}}}
  text: "You put {{{{ entry.properties.thing }}}} into your cart, {{{{ profile.first_name }}}}."
  html: "<p>{{{{ entry.properties.thing }}}} for {{{{ profile.first_name }}}}</p>"
  sample: {{profile: {{first_name: Sample}}, entry: {{properties: {{thing: a lamp}}}}}}
---
name: greet
type: REAL_TIME
reentry: {{mode: ALWAYS}}
stages:
  - name: new
    entry: event.name == "ping"
    steps: [{{activation: {{channel: email, template: hello}}}}]
---
name: ads
type: REAL_TIME
reentry: {{mode: ALWAYS}}
goal: {{criteria: event.name == "leave"}}
stages:
  - name: inside
    entry: event.name == "join"
    steps:
      - activation: {{channel: meta, action: ADD, until: EXIT}}
      - wait: {{duration: 30d}}
"""


@contextmanager
def stand_in(module: str, *arguments: str) -> Iterator[int]:
    """A stand-in as a process; its port."""
    process = subprocess.Popen(
        [sys.executable, "-m", f"cairn.testing.{module}", "--port", "0", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "CAIRN_DIE_WITH_PARENT": "1"},
    )
    with process:
        yield read_port(process)
        process.terminate()


class Rude(socketserver.StreamRequestHandler):
    """A mail server that hangs up when it has the message: nobody knows whether it kept it."""

    def handle(self) -> None:
        self.wfile.write(b"220 rude\r\n")
        for line in self.rfile:
            if line.upper().startswith(b"DATA"):
                self.wfile.write(b"354 go on\r\n")
                for part in self.rfile:
                    if part == b".\r\n":
                        return
            self.wfile.write(b"250 rude\r\n")


@pytest.fixture(scope="module")
def mailbox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mail")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    running = Up(tmp_path_factory.mktemp("up"), extra=SECRETS)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def run(up: Up, mailbox: Path) -> Iterator[Run]:
    """Calls the command; journeys, connections and a template are there."""

    def invoke(*arguments: str, text: str = "") -> Result:
        return CliRunner(env=up.environment()).invoke(cli, arguments, input=text)

    with (
        stand_in("mail_server", "--mailbox", str(mailbox)) as mail,
        stand_in("meta_platform", "--token", TOKEN, "--app-secret", APP_SECRET) as ads,
    ):
        done = invoke("apply", "-f", "-", text=DOCUMENTS.format(mail=mail, ads=ads))
        assert done.exit_code == 0, done.stderr
        yield invoke


def succeed(done: Result) -> Result:
    assert done.exit_code == 0, done.stderr
    return done


def fail(done: Result) -> str:
    """The one line that it failed with, and what follows it."""
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith("cairn: ")
    assert "Traceback" not in done.output
    return done.stderr


def until(holds: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + ANSWER_SECONDS
    while not (value := holds()):
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.1)
    return value


def describe(run: Run, profile: str, **attributes: str) -> None:
    given = {"email": f"{profile}@example.com", "first_name": profile.capitalize(), **attributes}
    options = [part for key, value in given.items() for part in ("--attribute", f"{key}={value}")]
    succeed(run("profiles", "upsert", "--profile", profile, *options))


def ping(run: Run, profile: str) -> dict[str, Any]:
    """An event that asks for a mail; its delivery once that has an end."""
    known = {each["name"] for each in documents(run("deliveries", "--profile", profile, "--json"))}
    succeed(run("events", "send", "--profile", profile, "--name", "ping", "--property", "thing=boots"))

    def ended() -> dict[str, Any] | None:
        found = documents(run("deliveries", "--profile", profile, "--json"))
        busy = ("PENDING", "LEASED", "SENDING")
        new = [each for each in found if each["name"] not in known and not each["state"].endswith(busy)]
        return new[0] if new else None

    found: dict[str, Any] = until(ended, f"the delivery to {profile} has an end")
    return found


def mails_to(mailbox: Path, address: str) -> list[str]:
    return [each["file"] for each in read_index(mailbox) if address in each["to"]]


def test_connections_are_listed_shown_and_can_be_applied_again(run: Run) -> None:
    listed = documents(succeed(run("connections", "--json")))
    assert [each["name"] for each in listed] == ["connections/email", "connections/meta"]
    table = run("connections", "list").stdout
    assert "Meta audience 17" in table
    assert "1,000 to a profile in 1d" in table
    for name in ("email", "meta"):
        text = run("connections", "get", name).stdout
        done = succeed(run("apply", "-f", "-", "--json", text=text))
        assert [(each["kind"], each["result"]) for each in documents(done)] == [("connection", "unchanged")]
        assert TOKEN not in text


def test_a_connection_is_tried_without_sending(run: Run, mailbox: Path) -> None:
    before = read_index(mailbox)
    assert documents(succeed(run("connections", "test", "email", "--json")))[0]["ok"] is True
    assert "email can be used" in run("connections", "test", "email").stderr
    closed = "connection: {name: closed, smtp: {host: 127.0.0.1, port: 1, security: NONE, from_address: a@example.com}}"
    succeed(run("apply", "-f", "-", text=closed))
    assert "cairn: closed can't be used: " in fail(run("connections", "test", "closed"))
    assert documents(run("connections", "test", "closed", "--json"))[0]["ok"] is False
    succeed(run("connections", "delete", "closed"))
    assert "connections/closed does not exist" in fail(run("connections", "test", "closed"))
    assert read_index(mailbox) == before


def test_what_is_wrong_with_a_connection_has_its_line(run: Run) -> None:
    text = "connection:\n  name: bad\n  smtp:\n    host: 127.0.0.1\n    from_address: nobody\n"
    assert "  <stdin>:5: connection.smtp.from_address: " in fail(run("apply", "-f", "-", text=text))


def test_a_template_has_versions_and_is_previewed_with_a_real_profile(run: Run, tmp_path: Path) -> None:
    written = run("templates", "get", "hello").stdout
    newer = written.replace("subject: Hello", "subject: Good day")
    assert newer != written
    succeed(run("apply", "-f", "-", text=newer))
    assert [each["version"] for each in documents(run("templates", "versions", "hello", "--json"))] == [2, 1]
    assert run("templates", "get", "hello", "--version", "1").stdout == written
    assert run("templates", "get", "hello").stdout == newer

    describe(run, "prue")
    html = tmp_path / "hello.html"
    shown = succeed(run("templates", "preview", "hello", "--profile", "prue", "--html", str(html)))
    assert shown.stdout.startswith("Subject: Good day Prue\n\nYou put a lamp into your cart, Prue.")
    assert html.read_text() == "<p>a lamp for Prue</p>"
    sample = documents(succeed(run("templates", "preview", "hello/1", "--json")))[0]
    assert sample["subject"] == "Hello Sample"
    assert {"profile.first_name", "entry.properties.thing"} <= set(sample["variables"])
    event = ("--event", "ping", "--property", "thing=<b>")
    filled = documents(succeed(run("templates", "preview", "hello", "--profile", "prue", *event, "--json")))[
        0
    ]
    assert (filled["text"], filled["html"]) == (
        "You put <b> into your cart, Prue.",
        "<p>&lt;b&gt; for Prue</p>",
    )

    context = tmp_path / "context.json"
    context.write_text('{"profile": {}, "entry": {"properties": {"thing": "x"}}}')
    assert "first_name" in fail(run("templates", "preview", "hello", "--context", str(context)))
    assert "profiles/nobody does not exist" in fail(
        run("templates", "preview", "hello", "--profile", "nobody")
    )


def test_a_template_that_is_not_saved_is_previewed_with_its_lines(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(
        "template:\n  name: draft\n  subject: s {{ profile.a }}\n  text: t\n  sample: {profile: {a: 1}}\n"
    )
    assert run("templates", "preview", "-f", str(file)).stdout == "Subject: s 1\n\nt\n"
    file.write_text(file.read_text().replace("profile.a }}", "profile.b }}"))
    told = fail(run("templates", "preview", "-f", str(file)))
    assert f"  {file}:3: " in told
    assert "b" in told
    assert "templates/draft does not exist" in fail(run("templates", "get", "draft"))


def test_a_test_message_arrives_and_stands_in_no_ledger(run: Run, mailbox: Path) -> None:
    describe(run, "tess")
    before = len(documents(run("deliveries", "--limit", "0", "--json")))
    done = run("send-test", "email", "hello", "--to", "me@example.com", "--profile", "tess", "--json")
    assert documents(succeed(done))[0]["state"] == "SENT"
    (file,) = mails_to(mailbox, "me@example.com")
    mail = message_from_bytes((mailbox / file).read_bytes(), policy=policy.default)
    assert "Tess" in str(mail["Subject"])
    assert len(documents(run("deliveries", "--limit", "0", "--json"))) == before
    context = '{"profile": {}}'
    told = fail(run("send-test", "email", "hello", "--to", "me@example.com", "--context", "-", text=context))
    assert "first_name" in told
    assert len(mails_to(mailbox, "me@example.com")) == 1


def test_a_delivery_is_shown_with_all_that_became_of_it(run: Run) -> None:
    describe(run, "rita", email="")
    failed = ping(run, "rita")
    assert failed["state"] == "DELIVERY_STATE_FAILED"
    id_ = failed["activation_id"]
    again = documents(succeed(run("deliveries", "retry", id_, "--reason", "mended", "--json")))[0]
    assert again["state"] == "DELIVERY_STATE_PENDING"

    def failed_again() -> dict[str, Any] | None:
        found = documents(run("deliveries", "get", id_, "--json"))[0]
        return found if found["state"] == "DELIVERY_STATE_FAILED" else None

    found = until(failed_again, "it failed once more")
    assert found["history"][0]["state"] == "DELIVERY_STATE_FAILED"
    table = run("deliveries", "get", id_).stdout
    assert "Before that, oldest first" in table
    assert "mended" in table
    assert id_ in run("deliveries", "--profile", "rita").stdout
    fail(run("deliveries", "resolve", id_, "sent", "--reason", "no"))
    several = fail(run("deliveries", "retry", "nothing.1", id_))
    assert several.startswith("cairn: 1 of 2 were refused; all others were taken.\n  nothing.1: ")
    assert "deliveries/nothing.1 does not exist" in fail(run("deliveries", "get", "nothing.1"))


def test_a_delivery_in_doubt_is_resolved_by_hand(run: Run) -> None:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Rude) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        text = DOCUMENTS.format(mail=server.server_address[1], ads=1).replace("name: email", "name: rude")
        connection = text.partition("---")[0]
        journey = """---
name: doubt
type: REAL_TIME
stages:
  - name: new
    entry: event.name == "ping"
    steps: [{activation: {channel: rude, template: hello}}]
"""
        succeed(run("apply", "-f", "-", text=connection + journey))
        describe(run, "uma")
        succeed(run("events", "send", "--profile", "uma", "--name", "ping", "--property", "thing=boots"))
        state = ("deliveries", "--journey", "doubt", "--state", "UNKNOWN", "--json")
        (found,) = until(lambda: documents(run(*state)), "the delivery is in doubt")
        server.shutdown()
    succeed(run("journeys", "end", "doubt"))
    done = run("deliveries", "resolve", found["name"], "SENT", "--reason", "it is in their log", "--json")
    resolved = documents(succeed(done))[0]
    assert (resolved["state"], resolved["detail"]) == ("DELIVERY_STATE_SENT", "it is in their log")
    assert documents(run(*state)) == []


def test_changes_of_deliveries_are_watched_until_ctrl_c(run: Run, up: Up) -> None:
    describe(run, "vera")
    process = subprocess.Popen(
        [*CAIRN, "deliveries", "watch", "--profile", "vera", "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=up.environment(),
    )
    assert process.stdout is not None
    # Nothing tells when a watch has begun; whoever is asked again and again is told in the end.
    deadline = time.monotonic() + ANSWER_SECONDS
    readable: list[Any] = []
    while not readable:
        assert time.monotonic() < deadline
        sent = ping(run, "vera")
        readable, _, _ = select.select([process.stdout], [], [], 0.5)
    told = json.loads(process.stdout.readline())
    assert (told["profile_id"], sent["profile_id"]) == ("vera", "vera")
    process.send_signal(signal.SIGINT)
    _, complaints = process.communicate(timeout=ANSWER_SECONDS)
    assert (process.returncode, complaints) == (0, "")


def test_a_suppressed_address_gets_nothing_until_it_is_lifted(run: Run, mailbox: Path) -> None:
    describe(run, "sue")
    address = "sue@example.com"
    assert "is not suppressed" in run("suppressions", "check", address).stderr
    done = run("suppressions", "add", address, "SUE@example.com", "--detail", "by letter", "--json")
    assert documents(succeed(done)) == [{"added": 1, "known": 1}]
    checked = documents(succeed(run("suppressions", "check", address, "--json")))[0]
    assert checked["suppressed"] is True
    assert [each["detail"] for each in checked["suppressions"]] == ["by letter"]
    assert address in run("suppressions").stdout
    refused = ping(run, "sue")
    assert refused["state"] == "DELIVERY_STATE_REFUSED"
    assert address not in refused["detail"]
    assert mails_to(mailbox, address) == []

    succeed(run("suppressions", "remove", address))
    assert ping(run, "sue")["state"] == "DELIVERY_STATE_SENT"
    assert len(mails_to(mailbox, address)) == 1
    told = fail(run("suppressions", "remove", address))
    assert told.startswith(f"cairn: {address} is not suppressed for all e-mail")


def test_what_can_not_be_suppressed_is_named(run: Run) -> None:
    told = fail(run("suppressions", "add", "good@example.com", "bad"))
    assert told.startswith("cairn: none of these was suppressed.\n  bad: ")
    many = [f"n{number}@many.example.com" for number in range(1_000)]
    told = run("suppressions", "add", *many, "bad").stderr
    assert "The first 1,000 addresses are suppressed, for all e-mail." in told
    assert "none of the others was suppressed.\n  bad: " in told
    assert "connections/nope does not exist" in fail(
        run("suppressions", "add", "a@example.com", "--connection", "nope")
    )
    assert "connections/nope does not exist" in fail(
        run("consents", "set", "ada", "--granted", "--connection", "nope")
    )
    for address in ("good@example.com", "a@example.com"):
        assert documents(run("suppressions", "check", address, "--json"))[0]["suppressed"] is False


def test_who_refused_gets_nothing(run: Run, mailbox: Path) -> None:
    describe(run, "cora")
    assert "Nothing is known of cora" in run("consents", "get", "cora").stderr
    succeed(run("consents", "set", "cora", "--refused", "--connection", "email", "--source", "letter"))
    told = documents(run("consents", "get", "cora", "--json"))
    assert [(each["connection"], each.get("granted", False), each["source"]) for each in told] == [
        ("connections/email", False, "letter")
    ]
    assert ping(run, "cora")["state"] == "DELIVERY_STATE_REFUSED"
    older = run(
        "consents",
        "set",
        "cora",
        "--granted",
        "--connection",
        "email",
        "--at",
        "2020-01-01T00:00:00Z",
        "--json",
    )
    assert documents(succeed(older)) == [{"changed": 0}]
    succeed(run("consents", "set", "cora", "--granted", "--connection", "email"))
    assert "GRANTED" in run("consents", "get", "cora").stdout
    assert ping(run, "cora")["state"] == "DELIVERY_STATE_SENT"
    assert len(mails_to(mailbox, "cora@example.com")) == 1


def test_the_policy_is_put_shown_and_holds(run: Run) -> None:
    describe(run, "pola")
    assert ping(run, "pola")["state"] == "DELIVERY_STATE_SENT"
    assert run("policy", "get").stdout == "policy: {}\n"
    text = "policy:\n  frequency_caps:\n  - count: 1\n    period: 7d\n"
    try:
        assert "1 to a profile in 7d" in succeed(run("policy", "put", "-", text=text)).stderr
        assert run("policy", "get").stdout == text
        applied = documents(succeed(run("apply", "-f", "-", "--json", text=text)))
        assert [(each["kind"], each["result"]) for each in applied] == [("policy", "unchanged")]
        # A change holds within a second; whoever is over the cap by then is refused.
        until(lambda: ping(run, "pola")["state"] == "DELIVERY_STATE_REFUSED", "the cap holds")
        wrong = text.replace("7d", "100d")
        assert "  <stdin>:4: policy.frequency_caps[0].period: " in fail(run("policy", "put", "-", text=wrong))
    finally:
        succeed(run("policy", "put", "-", text="policy: {}"))


def test_the_members_of_an_audience_are_listed(run: Run) -> None:
    describe(run, "mona")
    succeed(run("events", "send", "--profile", "mona", "--name", "join"))
    listed = ("connections", "members", "meta", "--json")
    (member,) = until(lambda: documents(run(*listed)), "mona is a member")
    assert (member["profile_id"], member["present"]) == ("mona", True)
    assert len(member["identifiers"]["EMAIL"]) == 64
    assert "mona" in run("connections", "members", "meta").stdout
    succeed(run("events", "send", "--profile", "mona", "--name", "leave"))
    until(lambda: documents(run(*listed)) == [], "mona is no member any more")
    (gone,) = documents(run(*listed, "--include-removed"))
    assert (gone["profile_id"], gone.get("present", False)) == ("mona", False)
    fail(run("connections", "members", "nowhere"))


def test_a_profile_is_erased_everywhere(run: Run) -> None:
    describe(run, "elsa")
    ping(run, "elsa")
    succeed(run("suppressions", "add", "elsa@example.com"))
    done = succeed(run("profiles", "erase", "elsa", "nobody", "--yes", "--json"))
    assert documents(done) == [{"erased": 1, "unknown": 1}]
    assert "profiles/elsa does not exist" in fail(run("profiles", "get", "elsa"))
    until(
        lambda: documents(run("deliveries", "--profile", "elsa", "--json")) == [], "its deliveries are erased"
    )
    # The address stays suppressed, by its hash.
    assert documents(run("suppressions", "check", "elsa@example.com", "--json"))[0]["suppressed"] is True
