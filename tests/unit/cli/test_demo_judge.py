"""The demo's verdict: it must notice every message that is missing, doubled, wrong or too many."""

from dataclasses import replace
from email.message import EmailMessage
from pathlib import Path

import pytest

from cairn.api.activation.v1.activation_pb2 import Delivery, DeliveryState
from cairn.api.definition.v1.journey_pb2 import AudienceAction
from cairn.cli.demo_judge import Evidence, Mail, judge, member_id, read_mailbox
from cairn.cli.demo_story import CLICKS, HAPPENINGS, LONGEST_MINUTES, PEOPLE

SUBJECTS = {"welcome": "Welcome, {}", "cart-reminder": "Your cart is waiting, {}"}


def perfect() -> Evidence:
    """What the world looks like when all went as the story asks."""
    mails, members, deliveries = [], [], []
    for person in PEOPLE:
        for expected in person.mails:
            subject = SUBJECTS[expected.template].format(person.attributes["first_name"])
            text = f"Hello {person.attributes['first_name']} {' '.join(expected.words)}"
            mails.append(mail_to(person.attributes["email"], subject, text, len(mails)))
            deliveries.append(
                Delivery(
                    profile_id=person.profile_id,
                    state=DeliveryState.DELIVERY_STATE_SENT,
                    template="templates/x",
                )
            )
        for refusal in person.refusals:
            state = DeliveryState.Value(f"DELIVERY_STATE_{refusal.state.upper()}")
            detail = f"profile has {refusal.detail}"
            deliveries.append(Delivery(profile_id=person.profile_id, state=state, detail=detail))
        if person.left:
            state, action = DeliveryState.DELIVERY_STATE_SENT, AudienceAction.AUDIENCE_ACTION_REMOVE
            deliveries.append(Delivery(profile_id=person.profile_id, state=state, action=action))
        if person.member:
            members.append(member_id(person))
    return Evidence(mails, members, deliveries, known_again=sum(person.known_again for person in PEOPLE))


def mail_to(recipient: str, subject: str, text: str, number: int) -> Mail:
    return Mail(
        recipient=recipient,
        subject=subject,
        text=text,
        html=f"<p>{text}</p>",
        message_id=f"<{number}@example.com>",
        unsubscribe_url="http://127.0.0.1/u/x",
        file=Path("x.eml"),
    )


def wrong(evidence: Evidence) -> set[str]:
    return {verdict.profile_id for verdict in judge(PEOPLE, evidence) if not verdict.ok}


def person(profile_id: str) -> int:
    return next(index for index, each in enumerate(PEOPLE) if each.profile_id == profile_id)


def mail_of(evidence: Evidence, profile_id: str) -> Mail:
    return next(mail for mail in evidence.mails if mail.recipient.startswith(profile_id))


def test_all_is_well_when_it_is() -> None:
    assert wrong(perfect()) == set()


@pytest.mark.parametrize("profile_id", ["ada", "ben", "eve", "gwen", "iris"])
def test_a_missing_mail_is_noticed(profile_id: str) -> None:
    evidence = perfect()
    gone = mail_of(evidence, profile_id)
    assert wrong(replace(evidence, mails=[mail for mail in evidence.mails if mail is not gone])) == {
        profile_id
    }


@pytest.mark.parametrize("profile_id", ["ada", "ben", "eve", "gwen"])
def test_a_doubled_mail_is_noticed(profile_id: str) -> None:
    evidence = perfect()
    second = replace(mail_of(evidence, profile_id), message_id="<another@example.com>")
    assert wrong(replace(evidence, mails=[*evidence.mails, second])) == {profile_id}


@pytest.mark.parametrize("profile_id", ["cleo", "dan", "hugo"])
def test_a_mail_to_somebody_who_should_get_none_is_noticed(profile_id: str) -> None:
    evidence = perfect()
    mail = replace(mail_of(evidence, "ben"), recipient=f"{profile_id}@example.com", message_id="<y>")
    assert wrong(replace(evidence, mails=[*evidence.mails, mail])) == {profile_id}


def test_a_mail_to_a_stranger_is_noticed() -> None:
    evidence = perfect()
    mail = replace(mail_of(evidence, "ben"), recipient="zoe@example.com", message_id="<y>")
    assert wrong(replace(evidence, mails=[*evidence.mails, mail])) == {"anybody else"}


def test_a_reminder_without_the_products_is_noticed() -> None:
    evidence = perfect()
    blank = [
        replace(mail, text="Hello") if mail.recipient.startswith("ben") else mail for mail in evidence.mails
    ]
    assert wrong(replace(evidence, mails=blank)) == {"ben"}
    verdict = judge(PEOPLE, replace(evidence, mails=blank))[person("ben")]
    assert "no 'Alpine boots' in it" in verdict.got


def test_members_of_the_audience_are_counted_by_name() -> None:
    evidence = perfect()
    cleo = member_id(PEOPLE[person("cleo")])
    assert wrong(replace(evidence, members=[*evidence.members, cleo])) == {"cleo"}
    assert wrong(replace(evidence, members=evidence.members[1:])) == {"ben"}
    assert wrong(replace(evidence, members=[*evidence.members, "0" * 64])) == {"anybody else"}


@pytest.mark.parametrize(
    "state", [DeliveryState.DELIVERY_STATE_UNKNOWN, DeliveryState.DELIVERY_STATE_PENDING]
)
def test_a_delivery_without_a_good_end_is_noticed(state: DeliveryState.ValueType) -> None:
    evidence = perfect()
    assert wrong(
        replace(evidence, deliveries=[*evidence.deliveries, Delivery(profile_id="ada", state=state)])
    ) == {"ada"}


@pytest.mark.parametrize("profile_id", ["finn", "iris"])
def test_a_refusal_that_had_to_come_and_did_not_is_noticed(profile_id: str) -> None:
    evidence = perfect()
    rest = [each for each in evidence.deliveries if each.profile_id != profile_id]
    assert wrong(replace(evidence, deliveries=rest)) == {profile_id}


def test_a_refusal_of_another_kind_is_noticed() -> None:
    evidence = perfect()
    for each in evidence.deliveries:
        if each.profile_id == "iris" and each.detail:
            each.state = DeliveryState.DELIVERY_STATE_FAILED
    assert wrong(evidence) == {"iris"}


def test_a_mail_after_the_unsubscription_is_noticed() -> None:
    evidence = perfect()
    mail = mail_to("iris@example.com", "Your cart is waiting, Iris", "Steel flask", 99)
    assert wrong(replace(evidence, mails=[*evidence.mails, mail])) == {"iris"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"html": ""}, "no HTML to ada@example.com"),
        ({"text": " "}, "no text to ada@example.com"),
        ({"message_id": ""}, "no Message-ID to ada@example.com"),
        ({"message_id": "<1@example.com>"}, "two with one Message-ID"),
        ({"unsubscribe_url": ""}, "no one-click unsubscribe to ada@example.com"),
    ],
)
def test_what_every_mail_has_to_have_is_missed(change: dict[str, str], says: str) -> None:
    evidence = perfect()
    first = evidence.mails[0]
    changed = replace(evidence, mails=[replace(first, **change), *evidence.mails[1:]])
    (verdict,) = [each for each in judge(PEOPLE, changed) if each.profile_id == "every mail"]
    assert (verdict.ok, verdict.got) == (False, says)


def test_who_bought_has_to_leave_the_audience() -> None:
    evidence = perfect()
    rest = [each for each in evidence.deliveries if each.profile_id != "cleo"]
    assert wrong(replace(evidence, deliveries=rest)) == {"cleo"}


def test_repeats_have_to_be_recognized() -> None:
    assert wrong(replace(perfect(), known_again=3)) == {"repeats"}


def test_a_mailbox_is_read_as_people_see_it(tmp_path: Path) -> None:
    message = EmailMessage()
    message["To"], message["Subject"] = "ada@example.com", "Wëlcome"
    message.set_content("Grüße")
    message.add_alternative("<p>Grüße</p>", subtype="html")
    message["Message-ID"] = "<1@example.com>"
    message["List-Unsubscribe"] = "<https://example.com/u/abc>"
    message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    (tmp_path / "1.eml").write_bytes(bytes(message))
    (tmp_path / "index.jsonl").write_text("{}")
    (mail,) = read_mailbox(tmp_path)
    assert (mail.recipient, mail.subject, mail.text.strip()) == ("ada@example.com", "Wëlcome", "Grüße")
    assert (mail.html.strip(), mail.message_id) == ("<p>Grüße</p>", "<1@example.com>")
    assert mail.unsubscribe_url == "https://example.com/u/abc"


@pytest.mark.parametrize(
    ("header", "post"),
    [
        ("<https://example.com/u/abc>", None),
        ("<https://example.com/u/abc>", "List-Unsubscribe=Two-Click"),
        ("<mailto:leave@example.com>", "List-Unsubscribe=One-Click"),
        ("https://example.com/u/abc", "List-Unsubscribe=One-Click"),
        (None, "List-Unsubscribe=One-Click"),
    ],
)
def test_what_mail_programs_would_not_take_for_one_click_is_none(
    tmp_path: Path, header: str | None, post: str | None
) -> None:
    message = EmailMessage()
    message.set_content("Hello")
    if header:
        message["List-Unsubscribe"] = header
    if post:
        message["List-Unsubscribe-Post"] = post
    (tmp_path / "1.eml").write_bytes(bytes(message))
    (mail,) = read_mailbox(tmp_path)
    assert (mail.unsubscribe_url, mail.html) == ("", "")


def test_the_story_is_told_in_order_and_ends_in_time() -> None:
    minutes = [each.minute for each in HAPPENINGS]
    assert minutes == sorted(minutes)
    assert all(each.occur_minute <= each.minute < LONGEST_MINUTES for each in HAPPENINGS)
    assert {each.profile_id for each in HAPPENINGS} == {each.profile_id for each in PEOPLE}
    assert all(0 < each.minute < LONGEST_MINUTES for each in CLICKS)
