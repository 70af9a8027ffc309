"""The last look, as a table: which rules hold for a connection, and what each makes of a delivery."""

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from cairn.activation.caps import Scope, Sends, Tally
from cairn.activation.ledger import Fate
from cairn.activation.model import Claim
from cairn.activation.rules import Facts, Reason, Rules, has_own_rules, journey_of, judge, rules_of
from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1 import journey_pb2
from cairn.runtime.clock import from_datetime, to_duration

DAY_US = 86_400_000_000
SECOND_US = 1_000_000
BERLIN = ZoneInfo("Europe/Berlin")
NOON = from_datetime(datetime(2026, 1, 10, 12, tzinfo=BERLIN))
NIGHT = from_datetime(datetime(2026, 1, 10, 23, tzinfo=BERLIN))
MORNING = from_datetime(datetime(2026, 1, 11, 8, tzinfo=BERLIN))

BOUNCE, COMPLAINT, UNSUBSCRIBE, MANUAL = (
    pb.SUPPRESSION_REASON_HARD_BOUNCE,
    pb.SUPPRESSION_REASON_COMPLAINT,
    pb.SUPPRESSION_REASON_UNSUBSCRIBE,
    pb.SUPPRESSION_REASON_MANUAL,
)
QUIET = pb.QuietHours(start="21:00", end="08:00", fallback_time_zone="Europe/Berlin")
DAYTIME = pb.QuietHours(start="08:00", end="21:00", fallback_time_zone="Europe/Berlin")


def cap(count: int, days: int = 1) -> pb.FrequencyCap:
    return pb.FrequencyCap(count=count, period=to_duration(days * DAY_US))


ALL_RULES = pb.SendingPolicy(frequency_caps=[cap(3)], journey_frequency_caps=[cap(2)], quiet_hours=QUIET)


def mail_rules(policy: pb.SendingPolicy = ALL_RULES, **fields: Any) -> Rules:
    connection = pb.Connection(name="connections/email", smtp=pb.SmtpConnection(), **fields)
    return rules_of(connection, policy, writes_to_people=True)


def hook_rules(**fields: Any) -> Rules:
    connection = pb.Connection(name="connections/hook", webhook=pb.WebhookConnection(), **fields)
    return rules_of(connection, ALL_RULES, writes_to_people=False)


TRANSACTIONAL = pb.MailOptions(transactional=True)


def claim(**fields: Any) -> Claim:
    values: dict[str, Any] = {
        "activation_id": "a",
        "request_us": NOON,
        "profile_id": "ada",
        "template": "hello",
        "action": 0,
        "context": b"{}",
        "accept_us": NOON,
        "attempts": 1,
        "enrollment": "e",
        "time_zone": "Europe/Berlin",
        "journey_version": "journeys/welcome/versions/3",
        **fields,
    }
    return Claim(**values)


def facts(
    paused_us: int | None = None,
    suppressions: tuple[int, ...] = (),
    consent: bool | None = None,
    follows: bool = False,
) -> Facts:
    return Facts(paused_us, suppressions, consent, follows)


def tally(
    connection: str = "email", sent: int = 0, by: str = "email", journey: str = "journeys/welcome"
) -> Tally:
    made = Tally(connection, ["email", "ses"], [DAY_US])
    made.add(Sends("ada", by, journey, DAY_US, sent))
    return made


Case = tuple[Rules, dict[str, Any], Facts, Tally, int, tuple[Reason, str] | None]


def test_refused_and_held_for_each_reason() -> None:
    """Rows: the rules, the claim, what is known, what was sent, the time; the reason and the detail, None for what may leave."""
    unsubscribed, bounced = (
        "suppressed: the address is unsubscribed",
        "suppressed: the address bounced for good",
    )
    held = "held: its journey is paused"
    quiet = "held: quiet hours"
    refused, required = (
        "no consent: it was refused",
        "no consent: the connection requires one, and none was given",
    )
    by_journey, in_all = "over a cap: 2 in 1 day by this journey", "over a cap: 3 in 1 day in all"
    own = "over a cap: 1 in 1 day through this connection"
    add = {"action": journey_pb2.AUDIENCE_ACTION_ADD}
    remove = {"action": journey_pb2.AUDIENCE_ACTION_REMOVE}
    nobody = {"journey_version": ""}
    cases: list[Case] = [
        (mail_rules(), {}, facts(), tally(), NOON, None),
        (mail_rules(), {}, facts(consent=True), tally(sent=1), NOON, None),
        # Suppressed.
        (
            mail_rules(),
            {},
            facts(suppressions=(UNSUBSCRIBE,)),
            tally(),
            NOON,
            (Reason.SUPPRESSED, unsubscribed),
        ),
        (
            mail_rules(),
            {},
            facts(suppressions=(UNSUBSCRIBE, BOUNCE)),
            tally(),
            NOON,
            (Reason.SUPPRESSED, bounced),
        ),
        (mail_rules(), {}, facts(suppressions=(99,)), tally(), NOON, (Reason.SUPPRESSED, "suppressed")),
        (mail_rules(mail=TRANSACTIONAL), {}, facts(suppressions=(UNSUBSCRIBE,)), tally(), NOON, None),
        (
            mail_rules(mail=TRANSACTIONAL),
            {},
            facts(suppressions=(UNSUBSCRIBE, BOUNCE)),
            tally(),
            NOON,
            (Reason.SUPPRESSED, bounced),
        ),
        (
            mail_rules(mail=TRANSACTIONAL),
            {},
            facts(suppressions=(COMPLAINT,)),
            tally(),
            NOON,
            (Reason.SUPPRESSED, "suppressed: a complaint came from the address"),
        ),
        (
            mail_rules(mail=TRANSACTIONAL),
            {},
            facts(suppressions=(MANUAL,)),
            tally(),
            NOON,
            (Reason.SUPPRESSED, "suppressed: by hand"),
        ),
        (hook_rules(), {}, facts(suppressions=(BOUNCE,)), tally("hook"), NOON, None),
        # Consent.
        (mail_rules(), {}, facts(consent=False), tally(), NOON, (Reason.CONSENT, refused)),
        (mail_rules(requires_consent=True), {}, facts(), tally(), NOON, (Reason.CONSENT, required)),
        (
            mail_rules(requires_consent=True),
            {},
            facts(consent=False),
            tally(),
            NOON,
            (Reason.CONSENT, refused),
        ),
        (mail_rules(requires_consent=True), {}, facts(consent=True), tally(), NOON, None),
        (mail_rules(mail=TRANSACTIONAL), {}, facts(consent=False), tally(), NOON, None),
        (
            mail_rules(mail=TRANSACTIONAL, requires_consent=True),
            {},
            facts(),
            tally(),
            NOON,
            (Reason.CONSENT, required),
        ),
        (hook_rules(), {}, facts(consent=False), tally("hook"), NOON, None),
        (hook_rules(requires_consent=True), {}, facts(), tally("hook"), NOON, (Reason.CONSENT, required)),
        (hook_rules(requires_consent=True), remove, facts(consent=False), tally("hook"), NOON, None),
        # Caps.
        (mail_rules(), {}, facts(), tally(sent=2), NOON, (Reason.CAP, by_journey)),
        (mail_rules(), nobody, facts(), tally(sent=2), NOON, None),
        (mail_rules(), {}, facts(), tally(sent=3, by="ses", journey="x"), NOON, (Reason.CAP, in_all)),
        (mail_rules(), {}, facts(), tally(sent=2, by="ses", journey="x"), NOON, None),
        (mail_rules(mail=TRANSACTIONAL), {}, facts(), tally(sent=9), NOON, None),
        (
            mail_rules(mail=TRANSACTIONAL, frequency_caps=[cap(1)]),
            {},
            facts(),
            tally(sent=1),
            NOON,
            (Reason.CAP, own),
        ),
        (mail_rules(frequency_caps=[cap(1)]), {}, facts(), tally(sent=1), NOON, (Reason.CAP, own)),
        (mail_rules(frequency_caps=[cap(1)]), {}, facts(), tally(sent=1, by="ses", journey="x"), NOON, None),
        (hook_rules(), {}, facts(), tally("hook", 9, "hook"), NOON, None),
        (
            hook_rules(frequency_caps=[cap(1)]),
            {},
            facts(),
            tally("hook", 1, "hook"),
            NOON,
            (Reason.CAP, own),
        ),
        (hook_rules(frequency_caps=[cap(1)]), remove, facts(), tally("hook", 1, "hook"), NOON, None),
        # Quiet hours: the connection's own before the policy's.
        (mail_rules(), {}, facts(), tally(), NIGHT, (Reason.QUIET, quiet)),
        (mail_rules(), {"time_zone": "America/New_York"}, facts(), tally(), NIGHT, None),
        (mail_rules(), {"time_zone": "no zone"}, facts(), tally(), NIGHT, (Reason.QUIET, quiet)),
        (mail_rules(quiet_hours=DAYTIME), {}, facts(), tally(), NIGHT, None),
        (mail_rules(quiet_hours=DAYTIME), {}, facts(), tally(), NOON, (Reason.QUIET, quiet)),
        (mail_rules(mail=TRANSACTIONAL), {}, facts(), tally(), NIGHT, None),
        (
            mail_rules(mail=TRANSACTIONAL, quiet_hours=QUIET),
            {},
            facts(),
            tally(),
            NIGHT,
            (Reason.QUIET, quiet),
        ),
        (hook_rules(), {}, facts(), tally("hook"), NIGHT, None),
        (hook_rules(quiet_hours=QUIET), remove, facts(), tally("hook"), NIGHT, (Reason.QUIET, quiet)),
        # A paused journey, whatever the connection. A removal passes, unless something waits before it.
        (mail_rules(), {}, facts(NOON), tally(), NOON, (Reason.PAUSED, held)),
        (hook_rules(), add, facts(NOON), tally("hook"), NOON, (Reason.PAUSED, held)),
        (hook_rules(), remove, facts(NOON), tally("hook"), NOON, None),
        (hook_rules(), remove, facts(NOON, follows=True), tally("hook"), NOON, (Reason.PAUSED, held)),
        (hook_rules(), remove, facts(follows=True), tally("hook"), NOON, None),
        (hook_rules(quiet_hours=QUIET), remove, facts(NOON), tally("hook"), NIGHT, (Reason.QUIET, quiet)),
        # In their order.
        (
            mail_rules(),
            {},
            facts(NOON, (BOUNCE,), consent=False),
            tally(sent=3),
            NIGHT,
            (Reason.PAUSED, held),
        ),
        (
            mail_rules(),
            {},
            facts(None, (BOUNCE,), consent=False),
            tally(sent=3),
            NIGHT,
            (Reason.SUPPRESSED, bounced),
        ),
        (mail_rules(), {}, facts(consent=False), tally(sent=3), NIGHT, (Reason.CONSENT, refused)),
        (mail_rules(), {}, facts(), tally(sent=3), NIGHT, (Reason.CAP, by_journey)),
    ]
    for number, (rules, fields, known, sent, now, expected) in enumerate(cases):
        verdict = judge(claim(**fields), rules, known, sent, now)
        found = None if verdict is None else (verdict.reason, verdict.outcome.detail)
        assert found == expected, f"case {number}"
        if verdict is not None:
            is_held = verdict.reason in {Reason.PAUSED, Reason.QUIET}
            assert verdict.outcome.fate is (Fate.HELD if is_held else Fate.REFUSED)


def test_quiet_hours_hold_until_they_end() -> None:
    verdict = judge(claim(), mail_rules(), facts(), tally(), NIGHT)
    assert verdict is not None
    assert verdict.outcome.until_us == MORNING


@pytest.mark.parametrize(("lasted_s", "hold_s"), [(0, 5), (4, 5), (60, 60), (299, 299), (10_000, 300)])
def test_a_paused_journey_holds_for_as_long_as_it_is_paused_already(lasted_s: int, hold_s: int) -> None:
    now = NOON + lasted_s * SECOND_US
    verdict = judge(claim(), mail_rules(), facts(NOON), tally(), now)
    assert verdict is not None
    assert verdict.outcome.until_us == now + hold_s * SECOND_US


def test_what_leaves_takes_a_place_and_what_does_not_takes_none() -> None:
    sent, rules = tally(sent=1), mail_rules()
    assert judge(claim(), rules, facts(), sent, NIGHT) is not None
    assert judge(claim(), rules, facts(consent=False), sent, NOON) is not None
    assert judge(claim(), rules, facts(), sent, NOON) is None
    third = judge(claim(), rules, facts(), sent, NOON)
    assert third is not None
    assert third.reason is Reason.CAP


def test_who_is_removed_from_an_audience_takes_no_place() -> None:
    rules = hook_rules(frequency_caps=[cap(1)])
    sent = tally("hook")
    assert judge(claim(action=journey_pb2.AUDIENCE_ACTION_REMOVE), rules, facts(), sent, NOON) is None
    assert judge(claim(action=journey_pb2.AUDIENCE_ACTION_ADD), rules, facts(), sent, NOON) is None
    assert judge(claim(action=journey_pb2.AUDIENCE_ACTION_ADD), rules, facts(), sent, NOON) is not None


def test_connections_under_no_rules() -> None:
    assert hook_rules().asks_nothing
    assert not mail_rules(pb.SendingPolicy()).asks_nothing
    assert not hook_rules(requires_consent=True).asks_nothing
    assert not hook_rules(frequency_caps=[cap(1)]).asks_nothing
    assert not hook_rules(quiet_hours=QUIET).asks_nothing


def test_only_caps_of_the_policy_count_what_others_send() -> None:
    assert mail_rules().counts_people
    assert {one.scope for one in mail_rules(frequency_caps=[cap(1)]).caps} == set(Scope)
    assert not hook_rules(frequency_caps=[cap(1)]).counts_people
    assert not mail_rules(pb.SendingPolicy(quiet_hours=QUIET), frequency_caps=[cap(1)]).counts_people


@pytest.mark.parametrize(
    ("fields", "has"),
    [
        ({}, False),
        ({"mail": TRANSACTIONAL}, False),
        ({"quiet_hours": QUIET}, True),
        ({"frequency_caps": [cap(1)]}, True),
        ({"requires_consent": True}, True),
    ],
)
def test_rules_of_its_own(fields: dict[str, Any], has: bool) -> None:
    assert has_own_rules(pb.Connection(name="log", log=pb.LogConnection(), **fields)) is has


def test_the_journey_of_a_version() -> None:
    assert journey_of("journeys/welcome/versions/3") == "journeys/welcome"
    assert journey_of("") == ""
