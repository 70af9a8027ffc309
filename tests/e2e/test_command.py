"""The `cairn` command against a real suite that `cairn up` runs: apply, send, look, and what it says when things end."""

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from command import CAIRN, Run, Up, documents

from cairn.cli.main import cli

EXAMPLES = Path(__file__).resolve().parents[2] / "deploy" / "examples"
ANSWER_SECONDS = 30.0

LOG_JOURNEY = """\
connection: {name: log, log: {}}
---
name: noted
type: REAL_TIME
goal: {criteria: event.name == "bought"}
stages:
  - name: begun
    entry: event.name == "begin"
    steps:
      - activation: {channel: log}
      - wait: {duration: 24d}
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    up = Up(tmp_path_factory.mktemp("up"))
    yield up
    up.stop()


@pytest.fixture(scope="module")
def run(suite: Up) -> Run:
    def invoke(*arguments: str, text: str = "") -> Result:
        return CliRunner(env=suite.environment()).invoke(cli, arguments, input=text)

    return invoke


@pytest.fixture(scope="module")
def applied(run: Run) -> list[dict[str, Any]]:
    files = [
        part
        for name in ("connections", "templates", "welcome", "abandoned-cart")
        for part in ("-f", str(EXAMPLES / f"{name}.yaml"))
    ]
    done = run("apply", *files, "--json")
    assert done.exit_code == 0, done.stderr
    return documents(done)


def is_gone(pid: int) -> bool:
    try:
        return "Z" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_apply_creates_publishes_and_waits_until_all_is_live(applied: list[dict[str, Any]]) -> None:
    *resources, last = applied
    results = {(each["kind"], each["name"]): (each["result"], each.get("version")) for each in resources}
    assert results == {
        ("connection", "email"): ("created", None),
        ("connection", "log"): ("created", None),
        ("template", "welcome"): ("created", None),
        ("template", "cart-reminder"): ("created", None),
        ("journey", "welcome"): ("published", 1),
        ("journey", "abandoned-cart"): ("published", 1),
    }
    assert last["revision"] == 2
    assert len(last["live"]) == 1


@pytest.mark.usefixtures("applied")
def test_apply_again_changes_nothing(run: Run) -> None:
    done = run(
        "apply", "-f", str(EXAMPLES / "templates.yaml"), "-f", str(EXAMPLES / "welcome.yaml"), "--json"
    )
    assert {each["result"] for each in documents(done) if "result" in each} == {"unchanged"}


def test_what_the_services_refuse_has_file_and_line_too(run: Run) -> None:
    text = LOG_JOURNEY.replace("channel: log", "channel: nowhere").replace("name: noted", "name: broken")
    done = run("apply", "-f", "-", text=text)
    assert done.exit_code == 1
    assert done.stderr.startswith(
        "cairn: no journey was published; all is saved, the journeys as drafts.\n"
        "  <stdin>:10: stages[0].steps[0].activation.channel"
    )
    assert "nowhere" in done.stderr


def test_a_missing_secret_is_told_before_anything_is_published(run: Run) -> None:
    done = run(
        "apply",
        "-f",
        str(EXAMPLES / "audience" / "meta-audience.yaml"),
        "-f",
        str(EXAMPLES / "audience" / "retargeting.yaml"),
    )
    assert done.exit_code == 1
    assert (
        f"{EXAMPLES}/audience/meta-audience.yaml:7: connection.meta_audience.access_token_secret: "
        in done.stderr
    )


@pytest.mark.usefixtures("applied")
def test_a_journey_can_be_taken_out_and_applied_again(run: Run) -> None:
    written = run("journeys", "get", "abandoned-cart").stdout
    done = run("apply", "-f", "-", "--json", text=written)
    assert documents(done)[0] == {
        "kind": "journey",
        "name": "abandoned-cart",
        "result": "unchanged",
        "version": 1,
    }


def test_events_move_people_and_every_view_shows_it(run: Run) -> None:
    assert run("apply", "-f", "-", text=LOG_JOURNEY).exit_code == 0
    profiles = "".join(
        json.dumps({"profile_id": f"viewer-{n}", "attributes": {"n": n}}) + "\n" for n in range(3)
    )
    assert run("profiles", "upsert", "-f", "-", text=profiles).exit_code == 0
    for n in range(3):
        assert run("events", "send", "--profile", f"viewer-{n}", "--name", "begin").exit_code == 0

    assert documents(run("profiles", "get", "viewer-1", "--json"))[0]["attributes"] == {"n": 1}
    waiting = documents(run("enrollments", "--journey", "noted", "--state", "waiting", "--json"))
    assert {each["name"].split("/")[1] for each in waiting} == {"viewer-0", "viewer-1", "viewer-2"}
    deadline = time.monotonic() + ANSWER_SECONDS
    while len(documents(run("deliveries", "--journey", "noted", "--state", "SENT", "--json"))) < 3:
        assert time.monotonic() < deadline, run("deliveries").stdout
    assert len(documents(run("deliveries", "--profile", "viewer-2", "--json"))) == 1
    while not documents(run("timers", "--profile", "viewer-2", "--json")):
        assert time.monotonic() < deadline, run("timers").stdout
    assert documents(run("timers", "--overdue", "--json")) == []

    assert run("events", "send", "--profile", "viewer-2", "--name", "bought").exit_code == 0
    kinds = [
        each["transition"]["kind"]
        for each in documents(run("timeline", "viewer-2", "--json"))
        if "transition" in each
    ]
    assert kinds[0] == "TRANSITION_KIND_ENTERED"
    assert kinds[-1] == "TRANSITION_KIND_GOAL_ACHIEVED"

    table = run("timeline", "viewer-2").stdout
    assert "GOAL_ACHIEVED" in table
    assert "\x1b" not in table, "no colors where nobody looks"


@pytest.mark.usefixtures("applied")
def test_an_id_is_shown_whole_whatever_it_holds(run: Run) -> None:
    odd = "a b/\N{SNOWMAN}"
    run("events", "send", "--profile", odd, "--name", "newsletter_signup")
    assert f" {odd} " in run("enrollments", "--profile", odd).stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("journeys", "get", "nope"), "journeys/nope does not exist"),
        (("profiles", "get", "nobody"), "profiles/nobody does not exist"),
        (("journeys", "versions", "nope"), "journeys/nope does not exist"),
    ],
)
def test_what_does_not_exist_is_named(run: Run, arguments: tuple[str, ...], says: str) -> None:
    done = run(*arguments)
    assert done.exit_code == 1
    assert done.stderr.startswith("cairn: ")
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_the_public_server_is_where_up_says(suite: Up) -> None:
    public = suite.document["services"]["activation"]["public"]
    assert [name for name, each in suite.document["services"].items() if "public" in each] == ["activation"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{public}/u/forged", timeout=ANSWER_SECONDS)
    with refused.value as answer:
        assert answer.code == 404


def test_refused_events_are_listed_by_line(run: Run) -> None:
    text = (
        '{"event_id": "r1", "profile_id": "r", "name": "x", "occur_time": "2020-01-01T00:00:00Z"}\n'
        '{"event_id": "r2", "profile_id": "", "name": "x", "occur_time": "2020-01-01T00:00:00Z"}\n'
    )
    done = run("events", "send", "-f", "-", text=text)
    assert done.exit_code == 1
    told = done.stderr.splitlines()
    assert told[1] == "cairn: 2 events were refused; all others were taken."
    assert [line.split(": ")[:2] for line in told[2:]] == [
        ["  line 1", "EVENT_TOO_OLD"],
        ["  line 2", "PROFILE_ID_INVALID"],
    ]


def test_a_second_suite_on_the_same_ports_is_refused_in_one_line(suite: Up, tmp_path: Path) -> None:
    port = int(suite.document["services"]["definition"]["address"].rpartition(":")[2])
    done = subprocess.run(
        [*CAIRN, "up", "--data", str(tmp_path), "--port-base", str(port)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"cairn: Port {port} on 127.0.0.1 is in use")
    assert done.stderr.count("\n") == 1


def test_a_service_that_ends_by_itself_is_told_and_takes_the_rest_with_it(tmp_path: Path) -> None:
    up = Up(tmp_path)
    os.kill(up.pid("scheduler"), signal.SIGKILL)
    code, told = up.wait()
    assert code == 1
    assert (
        "cairn: a part of the suite ended; the rest was stopped.\n  scheduler ended by itself: signal SIGKILL"
        in told
    )
    assert all(is_gone(up.pid(name)) for name in up.document["services"])


def test_a_suite_that_was_stopped_starts_again_on_its_data_even_after_a_kill(tmp_path: Path) -> None:
    first = Up(tmp_path)
    code, told = first.stop(signal.SIGTERM)
    assert (code, told) == (0, "")
    assert all(is_gone(first.pid(name)) for name in first.document["services"])

    second = Up(tmp_path)
    second.process.kill()
    second.wait()
    deadline = time.monotonic() + ANSWER_SECONDS
    while not all(is_gone(second.pid(name)) for name in second.document["services"]):
        assert time.monotonic() < deadline, "the services outlive the process that started them"
        time.sleep(0.05)

    third = Up(tmp_path, "--speed", "60")
    assert third.document["speed"] == 60
    assert third.stop() == (0, "")
