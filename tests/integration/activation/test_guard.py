"""The last look before something leaves, through the real service: who is not written to, who waits, and that each is counted."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from prometheus_client import REGISTRY

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.runtime.clock import to_duration, to_timestamp

MINUTE_US = 60_000_000
DAY_US = 86_400_000_000
SENT, REFUSED, PENDING = pb.DELIVERY_STATE_SENT, pb.DELIVERY_STATE_REFUSED, pb.DELIVERY_STATE_PENDING
TOKYO = ZoneInfo("Asia/Tokyo")  # its clocks are never changed


def cap(count: int, period_us: int = DAY_US) -> pb.FrequencyCap:
    return pb.FrequencyCap(count=count, period=to_duration(period_us))


def quiet_around(now: datetime, minutes: int = 120, zone: str = "") -> tuple[pb.QuietHours, datetime]:
    """Quiet hours that began an hour ago on this clock, and when they end."""
    end = now.replace(second=0, microsecond=0) + timedelta(minutes=minutes)
    start = now - timedelta(hours=1)
    return pb.QuietHours(start=f"{start:%H:%M}", end=f"{end:%H:%M}", fallback_time_zone=zone), end


def us(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def counted(reason: str, name: str = "prevented") -> float:
    return REGISTRY.get_sample_value(f"cairn_activation_{name}_total", {"reason": reason}) or 0.0


def email(make: Any, server: Any, name: str = "email", **rules: Any) -> pb.Connection:
    connection = make.smtp_connection(server.port)
    connection.name = f"connections/{name}"
    connection.MergeFrom(pb.Connection(**rules))
    return connection


async def put_policy(replica: Any, **rules: Any) -> pb.SendingPolicy:
    request = pb.PutSendingPolicyRequest(policy=pb.SendingPolicy(**rules))
    return (await replica.stub.PutSendingPolicy(request, timeout=30)).policy


async def suppress(replica: Any, *suppressions: pb.Suppression) -> None:
    await replica.stub.PutSuppressions(pb.PutSuppressionsRequest(suppressions=suppressions), timeout=30)


async def consent(replica: Any, *consents: pb.Consent) -> None:
    await replica.stub.SetConsents(pb.SetConsentsRequest(consents=consents), timeout=30)


async def get(replica: Any, id_: str) -> pb.Delivery:
    request = pb.GetDeliveryRequest(name=f"deliveries/{id_}")
    return (await replica.stub.GetDelivery(request, timeout=30)).delivery


@pytest.fixture
async def service(activation, make, mail_server):
    replica = await activation()
    replica.mail = await mail_server()
    await replica.put(email(make, replica.mail), make.template())
    return replica


async def held(replica: Any, id_: str, eventually: Any, detail: str = "held: quiet hours") -> pb.Delivery:
    """A delivery, once the guard has given it a new time."""

    async def is_held() -> pb.Delivery | None:
        delivery = await get(replica, id_)
        return delivery if delivery.detail == detail else None

    delivery = await eventually(is_held)
    assert delivery.state == PENDING
    return delivery


async def test_a_suppressed_address_gets_nothing_and_the_refusal_says_why_without_the_address(
    service, make, receipt_sink, eventually
) -> None:
    before = counted("suppressed")
    await suppress(
        service,
        pb.Suppression(address="Bob@Example.com", reason=pb.SUPPRESSION_REASON_HARD_BOUNCE),
        pb.Suppression(address="eve@example.com", connection="connections/email"),
        pb.Suppression(address="zoe@example.com", connection="connections/other"),
    )
    await service.activate(
        make.mail("a", "ada"), make.mail("b", "bob"), make.mail("e", "eve"), make.mail("z", "zoe")
    )
    found = await service.settled(4)
    assert {id_: (d.state, d.detail) for id_, d in found.items() if d.state != SENT} == {
        "b": (REFUSED, "suppressed: the address bounced for good"),
        "e": (REFUSED, "suppressed: by hand"),
    }
    assert sorted(service.mail.activations()) == ["a", "z"]
    assert counted("suppressed") == before + 2
    await eventually(lambda: len(receipt_sink.states) == 4)
    assert receipt_sink.states["b"] == REFUSED


async def test_a_suppression_holds_for_the_mail_that_follows_it_and_its_lifting_too(service, make) -> None:
    """The process that wrote it takes no second to know, whether it is the first one or the last."""
    address = "ada@example.com"
    await service.activate(make.mail("a1", "ada"))
    assert (await service.settled(1))["a1"].state == SENT
    await suppress(service, pb.Suppression(address=address))
    await service.activate(make.mail("a2", "ada"))
    assert (await service.settled(2))["a2"].state == REFUSED
    await service.stub.DeleteSuppression(pb.DeleteSuppressionRequest(address=address))
    await service.activate(make.mail("a3", "ada"))
    assert (await service.settled(3))["a3"].state == SENT


async def test_mail_that_nobody_unsubscribes_from_goes_to_those_who_did_and_never_to_a_bounce(
    service, make
) -> None:
    receipts = email(make, service.mail, "receipts", mail=pb.MailOptions(transactional=True))
    await service.put(receipts)
    await put_policy(
        service, frequency_caps=[cap(1)], quiet_hours=quiet_around(datetime.now(TOKYO), zone="Asia/Tokyo")[0]
    )
    await suppress(
        service,
        pb.Suppression(address="ada@example.com", reason=pb.SUPPRESSION_REASON_UNSUBSCRIBE),
        pb.Suppression(address="bob@example.com", reason=pb.SUPPRESSION_REASON_COMPLAINT),
    )
    await consent(service, pb.Consent(profile_id="ada", granted=False))
    receipt = {"connection": "connections/receipts"}
    await service.activate(
        make.mail("a1", "ada", **receipt),
        make.mail("a2", "ada", **receipt),
        make.mail("b", "bob", **receipt),
        make.mail("a3", "ada"),
    )
    found = await service.settled(4)
    assert {id_: d.state for id_, d in found.items()} == {"a1": SENT, "a2": SENT, "b": REFUSED, "a3": REFUSED}
    assert found["b"].detail == "suppressed: a complaint came from the address"
    assert found["a3"].detail == "suppressed: the address is unsubscribed"


async def test_consent(service, make) -> None:
    before = counted("consent")
    strict = email(make, service.mail, "strict", requires_consent=True)
    await service.put(strict)
    await consent(
        service,
        pb.Consent(profile_id="no", granted=False),
        pb.Consent(profile_id="yes", granted=True),
        pb.Consent(profile_id="only-strict", granted=False),
        pb.Consent(profile_id="only-strict", connection="connections/strict", granted=True),
        pb.Consent(profile_id="not-strict", granted=True),
        pb.Consent(profile_id="not-strict", connection="connections/strict", granted=False),
    )
    profiles = ("no", "yes", "only-strict", "not-strict", "silent")
    await service.activate(
        *(make.mail(f"{profile} email", profile) for profile in profiles),
        *(make.mail(f"{profile} strict", profile, connection="connections/strict") for profile in profiles),
    )
    found = await service.settled(10)
    refused, required = (
        "no consent: it was refused",
        "no consent: the connection requires one, and none was given",
    )
    assert {id_: d.detail for id_, d in found.items() if d.state == REFUSED} == {
        "no email": refused,
        "only-strict email": refused,
        "no strict": refused,
        "not-strict strict": refused,
        "silent strict": required,
    }
    assert sum(d.state == SENT for d in found.values()) == 5
    assert counted("consent") == before + 5


async def test_two_lanes_never_both_take_a_profiles_last_place(service, make) -> None:
    before = counted("frequency_cap")
    await service.put(*(email(make, service.mail, name) for name in ("second", "third")))
    await put_policy(service, frequency_caps=[cap(1)])
    profiles = [f"p{number}" for number in range(150)]
    names = ("email", "second", "third")
    await service.activate(
        *(
            make.mail(f"{profile} {name}", profile, connection=f"connections/{name}")
            for profile in profiles
            for name in names
        )
    )
    found = await service.settled(450)
    sent = [d for d in found.values() if d.state == SENT]
    assert sorted(d.profile_id for d in sent) == sorted(profiles)
    assert {d.detail for d in found.values() if d.state != SENT} == {"over a cap: 1 in 1 day in all"}
    assert len(service.mail.activations()) == 150
    assert counted("frequency_cap") == before + 300


async def test_caps_count_by_connection_by_journey_and_in_all(service, make) -> None:
    await service.put(
        email(make, service.mail, "capped", frequency_caps=[cap(2, 7 * DAY_US), cap(5, MINUTE_US)]),
        email(make, service.mail, "free"),
        email(make, service.mail, "receipts", mail=pb.MailOptions(transactional=True)),
    )
    await put_policy(service, journey_frequency_caps=[cap(3)], frequency_caps=[cap(6)])

    async def send(name: str, journey: str) -> str:
        """One after the other, so that each is looked at when the one before has left."""
        send.number += 1
        id_ = f"m{send.number}"
        version = f"journeys/{journey}/versions/{send.number}"
        request = make.mail(id_, "ada", connection=f"connections/{name}")
        request.journey_version = version
        await service.activate(request)
        return (await service.settled(send.number))[id_].detail.partition(": ")[2]

    send.number = 0
    answers = [
        await send(name, journey)
        for name, journey in (
            ("capped", "one"),
            ("capped", "two"),
            ("capped", "three"),
            ("free", "one"),
            ("free", "one"),
            ("free", "one"),
            ("receipts", "one"),
            ("free", "two"),
            ("free", "three"),
            ("free", "four"),
            ("receipts", "four"),
        )
    ]
    stopped = {
        number: answer for number, answer in enumerate(answers) if answer.startswith(tuple("0123456789"))
    }
    assert stopped == {
        2: "2 in 7 days through this connection",
        5: "3 in 1 day by this journey",
        9: "6 in 1 day in all",
    }


async def test_a_cap_rolls_with_the_time_that_passed(service, make, rows) -> None:
    await service.put(email(make, service.mail, frequency_caps=[cap(1)]))
    await service.activate(make.mail("a1", "ada"))
    await service.settled(1)
    just = (
        "UPDATE deliveries SET state_time = state_time - interval '{}' WHERE activation_id = 'a1' RETURNING 1"
    )
    assert await rows(just.format("23 hours"))
    await service.activate(make.mail("a2", "ada"))
    assert (await service.settled(2))["a2"].state == REFUSED
    assert await rows(just.format("61 minutes"))
    await service.activate(make.mail("a3", "ada"))
    assert (await service.settled(3))["a3"].state == SENT


async def test_a_cap_also_counts_what_left_long_after_it_was_asked_for(service, make, eventually) -> None:
    """Of a journey that was paused for weeks not all that it asked for leaves on the day it goes on."""
    await service.put(email(make, service.mail, frequency_caps=[cap(1)]))
    old = datetime.now(UTC) - timedelta(days=9)
    for number in range(2):
        asked = to_timestamp(us(old) + number)
        await service.activate(make.mail(f"a{number}", "ada", request_time=asked))
        await service.settled(number + 1)
    found = await service.deliveries()
    assert (found["a0"].state, found["a1"].state) == (SENT, REFUSED)


async def test_caps_count_what_was_sent_before_a_restart(activation_process, make, mail_server) -> None:
    server = await mail_server()
    replica = await activation_process()
    await replica.put(email(make, server, frequency_caps=[cap(2)]), make.template())
    await replica.activate(make.mail("a1", "ada"), make.mail("a2", "ada"), make.mail("a3", "ada"))
    assert [d.state for _, d in sorted((await replica.settled(3)).items())] == [SENT, SENT, REFUSED]
    await replica.kill()
    replica = await activation_process()
    await replica.activate(make.mail("a4", "ada"), make.mail("b1", "bob"))
    found = await replica.settled(5)
    assert (found["a4"].state, found["b1"].state) == (REFUSED, SENT)
    assert server.activations().count("a4") == 0


async def test_quiet_hours_are_those_of_the_profiles_zone_and_what_comes_in_them_waits(
    service, make, eventually, rows
) -> None:
    before = counted("quiet_hours", "held")
    hours, end = quiet_around(datetime.now(TOKYO), zone="UTC")
    await put_policy(service, quiet_hours=hours)
    await service.activate(
        make.mail("tokyo", "ada", time_zone="Asia/Tokyo"),
        make.mail("berlin", "bob", time_zone="Europe/Berlin"),
        make.mail("utc", "eve", time_zone=""),
        make.mail("nowhere", "zoe", time_zone="Nowhere/Atall"),
    )
    found = await service.settled(3)
    assert {id_: found[id_].state for id_ in ("berlin", "utc", "nowhere")} == dict.fromkeys(
        ("berlin", "utc", "nowhere"), SENT
    )
    delivery = await held(service, "tokyo", eventually)
    assert delivery.next_attempt_time == to_timestamp(us(end))
    assert delivery.attempts == 0
    assert counted("quiet_hours", "held") == before + 1
    # The end comes: the rows' times are what a night would make of them.
    later, _ = quiet_around(datetime.now(TOKYO) + timedelta(hours=4), zone="UTC")
    await put_policy(service, quiet_hours=later)
    await rows(
        "UPDATE deliveries SET next_attempt_time = state_time WHERE activation_id = 'tokyo' RETURNING 1"
    )
    assert (await service.settled(4))["tokyo"].state == SENT


async def test_a_connections_own_quiet_hours_replace_the_policys(service, make, eventually) -> None:
    now = datetime.now(TOKYO)
    await put_policy(service, quiet_hours=quiet_around(now, 60, zone="Asia/Tokyo")[0])
    hours, end = quiet_around(now, 180, zone="Asia/Tokyo")
    other, _ = quiet_around(now + timedelta(hours=5), zone="Asia/Tokyo")
    await service.put(
        email(make, service.mail, quiet_hours=hours), email(make, service.mail, "day", quiet_hours=other)
    )
    await service.activate(make.mail("waits", "ada"), make.mail("goes", "ada", connection="connections/day"))
    assert (await held(service, "waits", eventually)).next_attempt_time == to_timestamp(us(end))
    assert (await service.settled(1))["goes"].state == SENT


async def test_who_has_no_known_zone_waits_as_long_as_it_is_quiet_anywhere(service, make, eventually) -> None:
    """Half an hour that began in the east of the world an hour ago, and in the west ends after 22 and a half."""
    now = datetime.now(UTC)
    start = (now + timedelta(hours=11)).replace(second=0, microsecond=0)
    hours = pb.QuietHours(start=f"{start:%H:%M}", end=f"{start + timedelta(minutes=30):%H:%M}")
    await service.put(email(make, service.mail, quiet_hours=hours))
    await service.activate(make.mail("a", "ada", time_zone="No/Zone"), make.mail("b", "bob", time_zone="UTC"))
    end = start + timedelta(hours=11, minutes=30)
    assert (await held(service, "a", eventually)).next_attempt_time == to_timestamp(us(end))
    assert (await service.settled(1))["b"].state == SENT


async def test_a_withdrawal_takes_back_what_waits_for_the_end_of_quiet_hours(
    service, make, eventually, receipt_sink
) -> None:
    """The goal is achieved at night."""
    before = counted("withdrawn")
    await put_policy(service, quiet_hours=quiet_around(datetime.now(TOKYO), zone="Asia/Tokyo")[0])
    request = make.mail("a", "ada")
    await service.activate(request)
    await held(service, "a", eventually)
    answer = await service.withdraw(request, reason="goal")
    assert (answer.withdrawn, answer.too_late) == (1, 0)
    delivery = await get(service, "a")
    assert (delivery.state, delivery.detail) == (pb.DELIVERY_STATE_WITHDRAWN, "goal")
    await eventually(lambda: receipt_sink.states.get("a") == pb.DELIVERY_STATE_WITHDRAWN)
    assert service.mail.activations() == []
    assert counted("withdrawn") == before + 1


async def test_a_connection_through_which_nothing_leaves_is_under_the_rules_that_it_declares(
    service, make, eventually
) -> None:
    hours, end = quiet_around(datetime.now(TOKYO), zone="Asia/Tokyo")
    log = pb.LogConnection()
    await service.put(
        pb.Connection(name="log", log=log),
        pb.Connection(name="quiet", log=log, quiet_hours=hours),
        pb.Connection(name="capped", log=log, frequency_caps=[cap(1)]),
        pb.Connection(name="strict", log=log, requires_consent=True),
    )
    await put_policy(service, frequency_caps=[cap(1)])
    await consent(service, pb.Consent(profile_id="ada", granted=True))
    names = ("log", "quiet", "capped", "strict")
    await service.activate(
        *(make.log(f"{name} {n}", "ada") for name in ("log",) for n in (1, 2)),
        *(
            make.mail(f"{name} {profile} {n}", profile, connection=name, template="")
            for name in names[1:]
            for profile in ("ada", "bob")
            for n in (1, 2)
        ),
    )
    found = await service.settled(2 + 4 + 4)
    states = {id_: d.state for id_, d in found.items() if not id_.startswith("quiet")}
    assert {id_ for id_, state in states.items() if state != SENT} == {
        "capped ada 2",
        "capped bob 2",
        "strict bob 1",
        "strict bob 2",
    }
    assert (await held(service, "quiet bob 2", eventually)).next_attempt_time == to_timestamp(us(end))


async def test_what_another_replica_wrote_holds_for_this_one_too(
    activation, activation_process, make, mail_server, eventually
) -> None:
    """Whichever of them has a profile's bucket: one writes the rules, the other takes the requests."""
    server = await mail_server()
    one, two = await activation_process(), await activation()
    await one.put(email(make, server), make.template())
    people = [f"{said}{number}" for said in "scf" for number in range(20)]
    rounds = itertools.count()

    async def send() -> dict[str, pb.Delivery]:
        """One more mail to each, and what became of these."""
        number = next(rounds)
        await two.activate(*(make.mail(f"{person} {number}", person) for person in people))
        found = await two.settled(len(people) * (number + 1))
        return {person: found[f"{person} {number}"] for person in people}

    assert {d.state for d in (await send()).values()} == {SENT}
    await suppress(one, *(pb.Suppression(address=f"{p}@example.com") for p in people if p[0] == "s"))
    await consent(one, *(pb.Consent(profile_id=p, granted=False) for p in people if p[0] == "c"))
    await put_policy(one, frequency_caps=[cap(1)])

    async def all_refused() -> dict[str, pb.Delivery] | None:
        answers = await send()
        return answers if {d.state for d in answers.values()} == {REFUSED} else None

    answers = await eventually(all_refused)
    assert {(person[0], d.detail) for person, d in answers.items()} == {
        ("s", "suppressed: by hand"),
        ("c", "no consent: it was refused"),
        ("f", "over a cap: 1 in 1 day in all"),
    }
