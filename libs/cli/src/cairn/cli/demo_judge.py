"""Owns the demo's verdict: what arrived, compared with what the story asks for. Pure but for reading the mailbox."""

import email
import email.policy
import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

from cairn.api.activation.v1.activation_pb2 import Delivery, DeliveryState
from cairn.api.definition.v1.journey_pb2 import AudienceAction
from cairn.cli.deliveries import delivery_state
from cairn.cli.demo_story import Person

_SUBJECTS = {"Welcome": "welcome", "Your cart is waiting": "cart-reminder"}
_FINAL = frozenset(
    {
        DeliveryState.DELIVERY_STATE_SENT,
        DeliveryState.DELIVERY_STATE_REFUSED,
        DeliveryState.DELIVERY_STATE_FAILED,
        DeliveryState.DELIVERY_STATE_UNKNOWN,
        DeliveryState.DELIVERY_STATE_WITHDRAWN,
    }
)
_EVERY_MAIL = "an id of its own, text and HTML, one-click unsubscribe"


@dataclass(frozen=True, slots=True)
class Mail:
    """One message as the mail server received it."""

    recipient: str
    subject: str
    text: str
    html: str
    message_id: str
    unsubscribe_url: str
    """Where one click unsubscribes; empty when the headers do not say so as RFC 8058 asks."""
    file: Path


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that the world outside can tell: mails, the audience's members (hashed), the ledger, repeats recognized."""

    mails: Sequence[Mail]
    members: Collection[str]
    deliveries: Sequence[Delivery]
    known_again: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the verdict: whom it is about, what was to come of it, what came."""

    profile_id: str
    story: str
    expected: str
    got: str
    ok: bool


def read_mailbox(folder: Path) -> list[Mail]:
    """The messages in a folder of .eml files, in order of their names."""
    mails = []
    for file in sorted(folder.glob("*.eml")):
        message = email.message_from_bytes(file.read_bytes(), policy=email.policy.default)
        mails.append(
            Mail(
                recipient=str(message["To"] or ""),
                subject=str(message["Subject"] or ""),
                text=_part(message, "plain"),
                html=_part(message, "html"),
                message_id=str(message["Message-ID"] or ""),
                unsubscribe_url=_one_click(message),
                file=file,
            )
        )
    return mails


def _part(message: EmailMessage, kind: str) -> str:
    body = message.get_body((kind,))
    return str(body.get_content()).replace("\r\n", "\n") if body else ""


def _one_click(message: EmailMessage) -> str:
    if message["List-Unsubscribe-Post"] != "List-Unsubscribe=One-Click":
        return ""
    found = re.fullmatch(r"<(https?://[^>\s]+)>", str(message["List-Unsubscribe"] or ""))
    return found[1] if found else ""


def is_final(delivery: Delivery) -> bool:
    """Whether nothing more will become of a delivery."""
    return delivery.state in _FINAL


def member_id(person: Person) -> str:
    """How the ad platform knows a person: the hash of the normalized address; empty without one."""
    address = str(person.attributes.get("email", ""))
    return hashlib.sha256(address.strip().lower().encode()).hexdigest() if address else ""


def judge(people: Sequence[Person], evidence: Evidence) -> list[Verdict]:
    """One verdict for each person, and one for whatever concerns nobody of the story."""
    verdicts = [_judge_person(person, evidence) for person in people]
    known = {str(person.attributes.get("email")) for person in people}
    hashes = {member_id(person) for person in people}
    ids = {person.profile_id for person in people}
    strays = [f"mail to {mail.recipient}" for mail in evidence.mails if mail.recipient not in known]
    strays += ["an unknown member of the audience" for member in evidence.members if member not in hashes]
    strays += [f"delivery to {each.profile_id}" for each in evidence.deliveries if each.profile_id not in ids]
    verdicts.append(Verdict("anybody else", "", "nothing", ", ".join(strays) or "nothing", not strays))
    lacks = _lacks(evidence.mails)
    verdicts.append(Verdict("every mail", "", _EVERY_MAIL, ", ".join(lacks) or _EVERY_MAIL, not lacks))
    repeats = sum(person.known_again for person in people)
    got = f"{evidence.known_again} events known again"
    verdicts.append(
        Verdict("repeats", "", f"{repeats} events known again", got, evidence.known_again == repeats)
    )
    return verdicts


def _lacks(mails: Sequence[Mail]) -> list[str]:
    """What mails lack that every one has to have."""
    lacks = []
    for mail in mails:
        parts = (
            ("text", mail.text),
            ("HTML", mail.html),
            ("Message-ID", mail.message_id),
            ("one-click unsubscribe", mail.unsubscribe_url),
        )
        lacks += [f"no {name} to {mail.recipient}" for name, value in parts if not value.strip()]
    if len({mail.message_id for mail in mails}) < len(mails):
        lacks.append("two with one Message-ID")
    return lacks


def _judge_person(person: Person, evidence: Evidence) -> Verdict:
    mails = [mail for mail in evidence.mails if mail.recipient == person.attributes.get("email")]
    failures = [
        f"{delivery_state(each.state).lower()}: {each.detail}"
        for each in evidence.deliveries
        if each.profile_id == person.profile_id
        and each.state not in (DeliveryState.DELIVERY_STATE_SENT, DeliveryState.DELIVERY_STATE_WITHDRAWN)
    ]
    member = bool(member_id(person)) and member_id(person) in evidence.members
    left = not member and any(
        each.profile_id == person.profile_id
        and each.action == AudienceAction.AUDIENCE_ACTION_REMOVE
        and each.state == DeliveryState.DELIVERY_STATE_SENT
        for each in evidence.deliveries
    )
    missing = [
        word
        for each in person.mails
        for word in each.words
        if mails and not any(word in mail.text for mail in mails)
    ]
    ok = (
        sorted(_template(mail) for mail in mails) == sorted(each.template for each in person.mails)
        and not missing
        and len(failures) == len(person.refusals)
        and all(
            told.startswith(f"{refusal.state}: ") and refusal.detail in told
            for refusal, told in zip(person.refusals, failures, strict=True)
        )
        and member == person.member
        and left == person.left
    )
    return Verdict(
        person.profile_id,
        person.story,
        _summary(
            [each.template for each in person.mails],
            [f"{each.state}: {each.detail}" for each in person.refusals],
            person.member,
            person.left,
        ),
        _summary(
            [_template(mail) for mail in mails],
            [*failures, *(f"no {word!r} in it" for word in missing)],
            member,
            left,
        ),
        ok,
    )


def _template(mail: Mail) -> str:
    """Which template made a mail: its subject tells."""
    for beginning, template in _SUBJECTS.items():
        if mail.subject.startswith(beginning):
            return template
    return f"unexpected: {mail.subject}"


def _summary(mails: Sequence[str], failures: Sequence[str], member: bool, left: bool) -> str:
    parts = [f"mail {name}" for name in sorted(mails)]
    parts += failures
    if member:
        parts.append("in the audience")
    if left:
        parts.append("out of the audience again")
    return ", ".join(parts) or "nothing"
