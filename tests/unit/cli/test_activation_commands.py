"""What the commands about ways out, words and people take and show, as far as that needs no service."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import grpc
import pytest
from click.testing import CliRunner, Result
from google.protobuf.duration_pb2 import Duration

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.activation.v1.activation_pb2_grpc import (
    ActivationServiceServicer,
    add_ActivationServiceServicer_to_server,
)
from cairn.cli.asking import confirm
from cairn.cli.connections import kind_text, leads_to
from cairn.cli.contexts import Wanted, context_options, make_context
from cairn.cli.deliveries import line_text, print_deliveries
from cairn.cli.policy import rules_of
from cairn.cli.rules_text import duration_text
from cairn.runtime.clock import to_timestamp

Run = Callable[..., Result]
NOWHERE = "127.0.0.1:1"
NOON = 1_767_268_800_000_000


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("templates", "preview"), "Give the NAME of a saved template, or --file"),
        (("templates", "preview", "-f", "x", "--version", "1"), "--version is for a saved template"),
        (("templates", "preview", "a", "--property", "x=1"), "--property is of an event"),
        (("templates", "preview", "a", "--event", "x", "--property", "y"), "is not like key=value"),
        (("templates", "get", "a", "--version", "0"), "0 is not in the range"),
        (("send-test", "a", "--action", "MOVE"), "'MOVE' is not one of"),
        (("send-test",), "Missing argument 'CONNECTION'"),
        (("deliveries", "retry"), "Missing argument 'DELIVERY...'"),
        (("deliveries", "resolve", "a", "lost"), "'lost' is not one of"),
        (("deliveries", "watch", "--state", "LOST"), "'LOST' is not one of"),
        (("consents", "set", "ada"), "--granted"),
        (("consents", "set", "ada", "--granted", "--at", "soon"), "'soon' is no RFC 3339 time"),
        (("suppressions", "add"), "Missing argument 'ADDRESS...'"),
        (("profiles", "erase"), "Missing argument 'PROFILE...'"),
        (("profiles", "erase", "ada"), "give --yes to erase for good"),
    ],
)
def test_wrong_usage_is_told_on_stderr_and_exits_2(run: Run, arguments: tuple[str, ...], says: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert result.stdout == ""


@pytest.fixture
def refusing_port() -> Iterator[int]:
    """An Activation that takes the first addresses to suppress, and is gone when the next come."""
    taken: list[int] = []

    class Servicer(ActivationServiceServicer):
        def PutSuppressions(self, request: Any, context: Any) -> pb.PutSuppressionsResponse:  # noqa: N802
            if taken:
                context.abort(grpc.StatusCode.UNAVAILABLE, "gone")
            taken.append(len(request.suppressions))
            return pb.PutSuppressionsResponse(added=len(request.suppressions))

    server = grpc.server(ThreadPoolExecutor(1))
    add_ActivationServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield port
    server.stop(None)


def test_what_was_suppressed_before_it_failed_is_told(run: Run, refusing_port: int) -> None:
    addresses = [f"n{number}@example.com" for number in range(1_001)]
    told = run("suppressions", "add", *addresses, "--address", f"127.0.0.1:{refusing_port}")
    assert told.exit_code != 0
    assert "The first 1,000 addresses are suppressed, for all e-mail." in told.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("connections",),
        ("connections", "--json"),
        ("connections", "get", "a"),
        ("connections", "test", "a"),
        ("connections", "members", "a", "--json"),
        ("connections", "delete", "a"),
        ("templates",),
        ("templates", "get", "a"),
        ("templates", "versions", "a"),
        ("templates", "preview", "a"),
        ("templates", "delete", "a"),
        ("send-test", "a", "b", "--to", "me@example.com"),
        ("deliveries", "get", "a"),
        ("deliveries", "watch", "--json"),
        ("deliveries", "retry", "a", "b"),
        ("deliveries", "resolve", "a", "sent"),
        ("suppressions",),
        ("suppressions", "add", "a@example.com"),
        ("suppressions", "remove", "a@example.com"),
        ("suppressions", "check", "a@example.com"),
        ("consents", "get", "ada"),
        ("consents", "set", "ada", "--refused"),
        ("policy", "get"),
        ("profiles", "erase", "ada", "--yes"),
    ],
    ids=" ".join,
)
def test_a_service_that_is_away_is_one_line_and_exit_code_1(run: Run, arguments: tuple[str, ...]) -> None:
    nowhere = {"CAIRN_ACTIVATION_ADDRESS": NOWHERE, "CAIRN_EVALUATOR_ADDRESS": NOWHERE}
    result = run(*arguments, env=nowhere)
    assert result.exit_code == 1
    (told,) = result.stderr.splitlines()
    assert told.startswith("cairn: no answer from ")
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("text", "says"),
    [("segment: {name: a, criteria: profile.a == 1}", "holds no policy"), ("policy: [1]", "is a list")],
)
def test_a_file_without_a_policy_is_told(run: Run, text: str, says: str) -> None:
    result = run("policy", "put", "-", input=text, env={"CAIRN_ACTIVATION_ADDRESS": NOWHERE})
    assert result.exit_code == 1
    assert says in result.stderr


TEMPLATES = """\
template: {name: one, subject: s, text: t}
---
template: {name: two, subject: s, text: t}
"""


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        (TEMPLATES, (), "holds several templates; say which: one, two."),
        (TEMPLATES, ("three",), "holds no template three; there is one, two."),
        ("connection: {name: a, log: {}}", (), "holds no template."),
        (TEMPLATES, ("two",), "no answer from activation"),
        ("template: {name: one, subject: s, text: t}", (), "no answer from activation"),
    ],
)
def test_a_file_to_preview_says_which_template_is_meant(
    run: Run, tmp_path: Path, text: str, name: tuple[str, ...], says: str
) -> None:
    file = tmp_path / "t.yaml"
    file.write_text(text)
    result = run("templates", "preview", "-f", str(file), *name, env={"CAIRN_ACTIVATION_ADDRESS": NOWHERE})
    assert result.exit_code == 1
    assert says in result.stderr


async def context_of(wanted: Wanted, sample: bytes = b"") -> dict[str, object]:
    # Nothing that is asked for here needs the Evaluator.
    text = await make_context(None, wanted, sample)  # type: ignore[arg-type]
    found: dict[str, object] = json.loads(text or b"{}")
    return found


async def test_the_sample_is_what_is_not_given() -> None:
    sample = b'{"profile": {"first_name": "Ada"}, "entry": {"name": "old"}}'
    assert await context_of(Wanted()) == {}
    assert await context_of(Wanted(), sample) == json.loads(sample)
    made = await context_of(Wanted(event="cart_add", properties={"total": 9}), sample)
    assert made["profile"] == {"first_name": "Ada"}
    assert made["entry"] == made["event"]
    assert isinstance(made["entry"], dict)
    assert (made["entry"]["name"], made["entry"]["properties"]) == ("cart_add", {"total": 9})


async def test_a_file_replaces_the_sample() -> None:
    sample = b'{"profile": {"first_name": "Ada"}}'
    assert await context_of(Wanted(base={"profile": {"a": 1}}), sample) == {"profile": {"a": 1}}
    # An empty file is no missing one: the service would take the sample for what it does not get.
    assert await make_context(None, Wanted(base={}), sample) == b"{}"  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "says"),
    [("{", "is not JSON"), ("[1]", "is no JSON object"), ("[" * 5000, "is not JSON"), ("", "is not JSON")],
)
def test_a_context_that_is_none_is_wrong_usage(text: str, says: str) -> None:
    @click.command()
    @context_options
    def command(wanted: Wanted) -> None:
        raise AssertionError(wanted)

    result = CliRunner().invoke(command, ["--context", "-"], input=text)
    assert result.exit_code == 2
    assert says in result.stderr


def test_the_options_of_a_context_become_what_is_wanted(tmp_path: Path) -> None:
    file = tmp_path / "c.json"
    file.write_text('{"profile": {}}')
    taken: list[Wanted] = []

    @click.command()
    @context_options
    def command(wanted: Wanted) -> None:
        taken.append(wanted)

    arguments = ["--profile", "ada", "--event", "e", "--property", "n=1", "--context", str(file)]
    assert CliRunner().invoke(command, arguments).exit_code == 0
    assert taken == [Wanted("ada", "e", {"n": 1}, {"profile": {}})]


@pytest.mark.parametrize(
    ("connection", "kind", "says"),
    [
        (pb.Connection(smtp=pb.SmtpConnection(host="mx", from_address="a@b")), "smtp", "mx:587, from a@b"),
        (pb.Connection(ses=pb.SesConnection(region="eu-west-1", from_address="a@b")), "ses", "eu-west-1"),
        (pb.Connection(sendgrid=pb.SendgridConnection(from_address="a@b")), "sendgrid", "SendGrid"),
        (pb.Connection(meta_audience=pb.MetaAudienceConnection(audience_id="7")), "meta_audience", "7"),
        (
            pb.Connection(google_audience=pb.GoogleAudienceConnection(audience_id="7", account_id="8")),
            "google_audience",
            "7 of account 8",
        ),
        (
            pb.Connection(tiktok_audience=pb.TiktokAudienceConnection(audience_id="7", advertiser_id="8")),
            "tiktok_audience",
            "7 of advertiser 8",
        ),
        (
            pb.Connection(linkedin_audience=pb.LinkedinAudienceConnection(segment_id="7")),
            "linkedin_audience",
            "segment 7",
        ),
        (pb.Connection(webhook=pb.WebhookConnection(url="https://x/y")), "webhook", "https://x/y"),
        (pb.Connection(log=pb.LogConnection()), "log", "nowhere"),
        (pb.Connection(plugin=pb.PluginConnection(channel="fax")), "plugin fax", ""),
    ],
)
def test_a_connection_is_told_in_words(connection: pb.Connection, kind: str, says: str) -> None:
    assert kind_text(connection) == kind
    assert says in leads_to(connection)


def test_every_kind_of_connection_is_told_in_words() -> None:
    for field in pb.Connection.DESCRIPTOR.oneofs_by_name["kind"].fields:
        connection = pb.Connection()
        getattr(connection, field.name).SetInParent()
        assert kind_text(connection).strip()
        assert leads_to(connection) or field.name in {"plugin", "webhook"}


def test_rules_are_told_in_words() -> None:
    day, week = Duration(seconds=86_400), Duration(seconds=604_800)
    policy = pb.SendingPolicy(
        frequency_caps=[pb.FrequencyCap(count=2, period=day)],
        journey_frequency_caps=[pb.FrequencyCap(count=1, period=week)],
        quiet_hours=pb.QuietHours(start="21:00", end="08:00", fallback_time_zone="Asia/Tokyo"),
    )
    assert rules_of(policy) == [
        "2 to a profile in 1d",
        "1 to a profile by one journey in 7d",
        "quiet 21:00 to 08:00, Asia/Tokyo where a profile has no zone",
    ]
    assert rules_of(pb.SendingPolicy()) == []


@pytest.mark.parametrize(
    ("duration", "text"),
    [
        (Duration(seconds=90), "90s"),
        (Duration(seconds=5400), "90m"),
        (Duration(nanos=1_000_000), "1ms"),
        (Duration(nanos=1_000), "1us"),
        (Duration(), "0s"),
    ],
)
def test_a_duration_is_told_in_the_largest_unit(duration: Duration, text: str) -> None:
    assert duration_text(duration) == text


def test_a_delivery_tells_when_it_goes_on_and_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    held = pb.Delivery(
        activation_id="a.1",
        state=pb.DELIVERY_STATE_PENDING,
        detail="held: quiet hours\x1b[2J",
        next_attempt_time=to_timestamp(NOON),
    )
    fresh = pb.Delivery(
        activation_id="a.2",
        state=pb.DELIVERY_STATE_PENDING,
        state_time=to_timestamp(NOON),
        next_attempt_time=to_timestamp(NOON),
    )
    print_deliveries([held, fresh])
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    first, second = [line for line in shown.splitlines() if "a." in line]
    assert "next try 2026-01-01 12:00:00.000Z" in first
    assert "next try" not in second, "what merely waits for its turn has no try to wait for"


def test_a_delivery_that_is_watched_is_one_line_and_steers_no_terminal() -> None:
    sent = pb.Delivery(
        activation_id="a.1\x1b[2J",
        profile_id="ada\x07",
        state=pb.DELIVERY_STATE_SENT,
        state_time=to_timestamp(NOON),
        connection="connections/email",
        template="templates/hello",
        journey_version="journeys/greet/versions/2",
        detail="250 kept\x1b[0m",
    )
    line = line_text(sent).plain
    assert line.startswith("2026-01-01 12:00:00.000Z  SENT ")
    for part in ("ada", "email, hello", "greet/2", "a.1", "250 kept"):
        assert part in line
    assert line.isprintable()


def test_a_program_is_not_asked() -> None:
    confirm("Really?", yes=False)
