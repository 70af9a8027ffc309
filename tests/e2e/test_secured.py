"""The suite with its doors closed: mutual TLS and tokens everywhere, who is let in, who is told why not, and tokens that change.

Four services as real processes, and the `cairn` command as one: what it says is what a person reads, gRPC's own words included.
"""

import json
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from certificates import Authority
from house import until
from secured import ROLES, STRANGER, VISITOR, Secured, digest, make_token

from cairn.cli.migrate import SERVICES
from cairn.cli.suite import Suite

# The wait takes the journey through all four services and back: a timer, an activation, a receipt.
JOURNEY = """\
connection: {name: log, log: {}}
---
name: noted
type: REAL_TIME
goal: {criteria: event.name == "bought"}
reentry: {mode: ALWAYS}
stages:
  - name: begun
    entry: event.name == "begin"
    steps:
      - wait: {duration: 15m}
      - activation: {channel: log}
"""
SPEED = 3600


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority = Authority(folder, "authority")
    environment = {}
    for service in SERVICES:
        pair = authority.issue(service)
        own = {
            "TLS_CERTIFICATE_FILE": pair.certificate,
            "TLS_KEY_FILE": pair.key,
            "TLS_CLIENT_CA_FILE": authority.file,
            "TOKENS_FILE": folder / "tokens.yaml",
            "PEER_CA_FILE": authority.file,
            "PEER_TOKEN_FILE": folder / f"{service}.token",
            "LOG_LEVEL": "DEBUG",
        }
        environment[service] = {f"CAIRN_{service.upper()}_{name}": str(value) for name, value in own.items()}
    suite = Suite(log_dir=folder / "logs", environment=environment, speed=SPEED)
    made = Secured(folder, authority, authority.issue("person"), suite)
    for name in (*ROLES, VISITOR, STRANGER):
        made.issue(name)
    made.admit()
    with suite:
        yield made


@pytest.fixture(scope="module")
def published(secured: Secured) -> Secured:
    done = secured.run("operator", "apply", "-f", "-", text=JOURNEY)
    assert done.returncode == 0, done.stderr
    assert "Live everywhere: 1 Evaluator" in done.stderr
    return secured


def send(secured: Secured, profile: str) -> None:
    done = secured.run("producer", "events", "send", "--profile", profile, "--name", "begin")
    assert (done.returncode, done.stderr) == (0, "1 accepted.\n")


def acted(secured: Secured, profile: str) -> bool:
    """Whether a receipt is on the timeline: by then a timer has fired and the activation's fate has come back."""
    return any("receipt" in entry for entry in secured.documents("reader", "timeline", profile))


async def test_each_role_does_its_part_and_an_event_is_acted_on(published: Secured) -> None:
    send(published, "ann")
    await until(lambda: acted(published, "ann"), "the event is acted on")
    assert [each["state"] for each in published.documents("reader", "deliveries", "--profile", "ann")] == [
        "DELIVERY_STATE_SENT"
    ]
    kinds = [
        each["transition"]["kind"].removeprefix("TRANSITION_KIND_")
        for each in published.documents("reader", "timeline", "ann")
        if "transition" in each
    ]
    assert kinds[-3:] == ["WAIT_ENDED", "ACTIVATION_REQUESTED", "RESTED"]


LIST_JOURNEYS = ("journeys", "list")
SEND = ("events", "send", "--profile", "eve", "--name", "begin")
NO_TOKEN = "The call carries no token; send the metadata `authorization: Bearer <token>`."
UNKNOWN_TOKEN = "The token is not known here; ask the operator of this service for one."


@pytest.mark.parametrize(
    ("who", "arguments", "says"),
    [
        ("", LIST_JOURNEYS, NO_TOKEN),
        ("", SEND, NO_TOKEN),
        (STRANGER, LIST_JOURNEYS, UNKNOWN_TOKEN),
        (STRANGER, SEND, UNKNOWN_TOKEN),
        ("reader", ("apply", "-f", "-"), "reader has the role READ, which may not call"),
        ("reader", SEND, "reader has the role READ, which may not call"),
        (
            "reader",
            ("profiles", "upsert", "--profile", "eve"),
            "reader has the role READ, which may not call",
        ),
        ("producer", ("apply", "-f", "-"), "producer has the role PRODUCE, which may not call"),
        ("producer", LIST_JOURNEYS, "producer has the role PRODUCE, which may not call"),
        ("producer", ("timeline", "ann"), "producer has the role PRODUCE, which may not call"),
        ("producer", ("deliveries",), "producer has the role PRODUCE, which may not call"),
    ],
)
def test_who_may_not_is_told_so_in_one_line(
    secured: Secured, who: str, arguments: tuple[str, ...], says: str
) -> None:
    done = secured.run(who, *arguments, text=JOURNEY.replace("noted", "intruding"))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"cairn: {says}")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("arguments", [LIST_JOURNEYS, SEND])
def test_who_comes_without_tls_or_a_certificate_is_told_what_is_missing(
    secured: Secured, arguments: tuple[str, ...]
) -> None:
    for files in ({}, {"peer_ca_file": secured.authority.file}):
        done = secured.run("operator", *arguments, files=files)
        assert (done.returncode, done.stdout) == (1, "")
        assert "it hung up; does it want TLS (--ca-file), and a certificate of ours" in done.stderr
        assert done.stderr.startswith("cairn: no answer from ")
        assert done.stderr.count("\n") == 1


def test_a_service_of_another_authority_is_not_trusted(secured: Secured, tmp_path: Path) -> None:
    stranger = Authority(tmp_path, "stranger")
    done = secured.run("operator", *LIST_JOURNEYS, files={"peer_ca_file": stranger.file})
    assert (done.returncode, done.stdout) == (1, "")
    # gRPC's library writes a line of its own about a handshake that failed, whatever it is told.
    ours = [line for line in done.stderr.splitlines() if line.startswith("cairn: ")]
    assert len(ours) == 1
    assert ours[0].endswith(
        "TLS failed; does it speak TLS, and did an authority of --ca-file sign its certificate?"
    )


UNAVAILABLE, UNAUTHENTICATED, DENIED = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNAUTHENTICATED,
    grpc.StatusCode.PERMISSION_DENIED,
)


@pytest.mark.parametrize(
    ("service", "path", "open_to"),
    [
        ("definition", "definition.v1.DefinitionService/ListJourneys", {"reader", "operator"}),
        ("definition", "definition.v1.DefinitionService/PublishJourneys", {"operator"}),
        ("evaluator", "evaluator.v1.EvaluatorService/IngestEvents", {"producer", "operator"}),
        ("evaluator", "evaluator.v1.EvaluatorService/UpsertProfiles", {"producer", "operator"}),
        ("evaluator", "evaluator.v1.EvaluatorService/GetTimeline", {"reader", "operator"}),
        ("evaluator", "scheduler.v1.TimerSinkService/FireTimers", {"operator"}),
        ("evaluator", "activation.v1.ReceiptSinkService/DeliverReceipts", {"operator"}),
        ("scheduler", "scheduler.v1.SchedulerService/ScheduleTimers", {"producer", "operator"}),
        ("scheduler", "scheduler.v1.SchedulerService/ListTimers", {"reader", "operator"}),
        ("activation", "activation.v1.ActivationService/Activate", {"operator"}),
        ("activation", "activation.v1.ActivationService/ListDeliveries", {"reader", "operator"}),
    ],
)
async def test_every_door_knows_every_role(
    secured: Secured, service: str, path: str, open_to: set[str]
) -> None:
    assert await secured.code("", service, path) is UNAUTHENTICATED
    assert await secured.code(STRANGER, service, path) is UNAUTHENTICATED
    let_in = {
        who
        for who in ("reader", "producer", "operator")
        if await secured.code(who, service, path) is not DENIED
    }
    assert let_in == open_to


@pytest.mark.parametrize("service", SERVICES)
async def test_every_door_asks_for_tls_and_a_certificate_of_the_authority(
    secured: Secured, tmp_path: Path, service: str
) -> None:
    unknown = "no.such.Service/Method"  # whoever comes this far is in
    stranger = Authority(tmp_path, "stranger")
    bare = {"peer_ca_file": secured.authority.file}
    forged = secured.files(stranger.issue("forged"))
    assert await secured.code("operator", service, unknown, {}) is UNAVAILABLE
    assert await secured.code("operator", service, unknown, bare) is UNAVAILABLE
    assert await secured.code("operator", service, unknown, forged) is UNAVAILABLE
    assert await secured.code("operator", service, unknown) is grpc.StatusCode.UNIMPLEMENTED


async def test_a_token_is_turned_over_while_all_runs(secured: Secured) -> None:
    processes = {name: each.child.pid for name, each in secured.suite.instances.items()}
    assert secured.run(VISITOR, *LIST_JOURNEYS).returncode == 0
    old = secured.folder / "old.token"
    (secured.folder / f"{VISITOR}.token").rename(old)
    secured.issue(VISITOR, generation=2)
    assert secured.run(VISITOR, *LIST_JOURNEYS).stderr == f"cairn: {UNKNOWN_TOKEN}\n"

    secured.admit()
    reads = {
        "definition": "definition.v1.DefinitionService/ListJourneys",
        "evaluator": "evaluator.v1.EvaluatorService/ListEnrollments",
        "scheduler": "scheduler.v1.SchedulerService/ListTimers",
        "activation": "activation.v1.ActivationService/ListDeliveries",
    }
    for service, path in reads.items():
        await until_known(secured, VISITOR, service, path, known=True)
        assert await secured.code("old", service, path) is UNAUTHENTICATED
    assert secured.run("old", *LIST_JOURNEYS).stderr == f"cairn: {UNKNOWN_TOKEN}\n"
    assert secured.run(VISITOR, *LIST_JOURNEYS).returncode == 0
    assert {name: each.child.pid for name, each in secured.suite.instances.items()} == processes


async def test_services_whose_tokens_are_turned_over_lose_nothing(published: Secured) -> None:
    """At worst: the old tokens are refused before the services have the new ones, and an event comes in between."""
    schedule, look = (
        "scheduler.v1.SchedulerService/ScheduleTimers",
        "scheduler.v1.SchedulerService/ListTimers",
    )
    before = refused(published, "scheduler", schedule)
    published.admit(**{service: make_token(service, generation=2) for service in SERVICES})
    await until_known(published, "evaluator", "scheduler", look, known=False)
    send(published, "ben")
    await until(lambda: refused(published, "scheduler", schedule) > before, "the timer is refused")
    assert not acted(published, "ben")

    for service in SERVICES:
        published.issue(service, generation=2)
    await until(lambda: acted(published, "ben"), "the event is acted on")
    assert [each["state"] for each in published.documents("reader", "deliveries", "--profile", "ben")] == [
        "DELIVERY_STATE_SENT"
    ]


async def test_no_log_holds_anything_of_a_token(secured: Secured) -> None:
    """Every log at its most talkative, after calls with known tokens and unknown ones, in the right header and a wrong one."""
    for who in (*secured.tokens, ""):
        for service in SERVICES:
            await secured.code(who, service, "definition.v1.DefinitionService/ListJourneys")
    secured.run(STRANGER, *SEND)
    for service, instance in secured.suite.instances.items():
        log = instance.child.output()
        assert '"level":"debug"' in log, service
        assert not secured.told(log), service
        assert not [token for token in secured.every_token if digest(token)[:12] in log], service


async def until_known(secured: Secured, who: str, service: str, path: str, *, known: bool) -> None:
    async def holds() -> bool:
        return (await secured.code(who, service, path) is not UNAUTHENTICATED) is known

    await until(holds, f"{service} {'knows' if known else 'has forgotten'} {who}")


def refused(secured: Secured, service: str, path: str) -> int:
    """How many calls of a method came with no token or an unknown one, as the service has logged it."""
    lines = secured.suite.instances[service].child.output().splitlines()
    calls = [json.loads(line) for line in lines if f'"/cairn.api.{path}"' in line]
    return [each["code"] for each in calls].count("UNAUTHENTICATED")
