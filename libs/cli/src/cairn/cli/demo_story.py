"""Owns the demo's story: who takes part, what they do and when, and what must come of it. Data only.

Times are minutes of the story: at the default speed of 3600 an hour of the story is a second.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

MINUTE_US = 60_000_000

_BOOTS = {"name": "Alpine boots", "price": 189.0}
_MAP = {"name": "Map of the ridge trail", "price": 14.5}
_STOVE = {"name": "Titanium stove", "price": 79.9}
_FLASK = {"name": "Steel flask", "price": 32.0}


@dataclass(frozen=True, slots=True)
class ExpectedMail:
    """One message that must arrive exactly once: the template that makes it, and words that must stand in it."""

    template: str
    words: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """How a delivery must have ended without being sent: its state, and a part of its detail."""

    state: str
    detail: str


@dataclass(frozen=True, slots=True)
class Person:
    """One profile of the story and what must come of it.

    `refusals` are the ends of deliveries that must not be sent, `member` whether the person is in the audience at the end,
    `left` whether they were taken out of it, `known_again` how many of their events must be recognized as repeats.
    """

    profile_id: str
    story: str
    attributes: Mapping[str, Any]
    mails: tuple[ExpectedMail, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    member: bool = False
    left: bool = False
    known_again: int = 0


@dataclass(frozen=True, slots=True)
class Happening:
    """One event, sent at `minute` of the story; it happened then, or earlier at `happened_minute`."""

    minute: float
    profile_id: str
    name: str
    event_id: str
    properties: Mapping[str, Any] = field(default_factory=dict)
    happened_minute: float | None = None

    @property
    def occur_minute(self) -> float:
        """When it happened, in minutes of the story."""
        return self.minute if self.happened_minute is None else self.happened_minute


@dataclass(frozen=True, slots=True)
class Click:
    """Somebody has their mail program unsubscribe them from the first mail that came, at `minute` of the story."""

    minute: float
    profile_id: str


def _person(profile_id: str, story: str, *, ads: bool = False, email: bool = True, **expected: Any) -> Person:
    attributes: dict[str, Any] = {"first_name": profile_id.capitalize(), "ad_consent": ads}
    if email:
        attributes["email"] = f"{profile_id}@example.com"
    return Person(profile_id, story, attributes, **expected)


def _welcome(name: str) -> ExpectedMail:
    return ExpectedMail("welcome", (f"Hello {name}",))


def _reminder(*products: Mapping[str, Any]) -> ExpectedMail:
    return ExpectedMail("cart-reminder", tuple(str(product["name"]) for product in products))


PEOPLE = (
    _person("ada", "signs up for the newsletter", mails=(_welcome("Ada"),)),
    _person("ben", "fills a cart and leaves", ads=True, mails=(_reminder(_BOOTS, _MAP),), member=True),
    _person("cleo", "fills a cart, buys two hours later", ads=True, left=True),
    _person("dan", "buys; the cart's event comes after the purchase"),
    _person(
        "eve",
        "one cart, its event delivered five times",
        ads=True,
        mails=(_reminder(_FLASK),),
        member=True,
        known_again=4,
    ),
    _person(
        "finn", "signs up, has no e-mail address", email=False, refusals=(Refusal("failed", "no address"),)
    ),
    _person("gwen", "signs up; the event is 20 minutes late", mails=(_welcome("Gwen"),)),
    _person("hugo", "looks around: events that no journey wants", ads=True),
    _person(
        "iris",
        "unsubscribes from the first mail; a reminder is due later",
        mails=(_welcome("Iris"),),
        refusals=(Refusal("refused", "unsubscribed"),),
    ),
)


def _eve(minute: float) -> Happening:
    return Happening(minute, "eve", "cart_add", "eve-1", {"products": [_FLASK]}, happened_minute=0)


HAPPENINGS = (
    Happening(0, "ada", "newsletter_signup", "ada-1"),
    Happening(0, "ben", "cart_add", "ben-1", {"products": [_BOOTS, _MAP]}),
    Happening(0, "cleo", "cart_add", "cleo-1", {"products": [_STOVE]}),
    Happening(0, "dan", "purchase", "dan-2", {"total": 79.9}),
    _eve(0),
    _eve(0),
    Happening(0, "finn", "newsletter_signup", "finn-1"),
    Happening(0, "gwen", "newsletter_signup", "gwen-1", happened_minute=-20),
    Happening(0, "hugo", "page_view", "hugo-1", {"page": "/boots"}),
    Happening(0, "iris", "newsletter_signup", "iris-1"),
    Happening(10, "dan", "cart_add", "dan-1", {"products": [_STOVE]}, happened_minute=-30),
    _eve(10),
    Happening(30, "hugo", "page_view", "hugo-2", {"page": "/maps"}),
    Happening(30, "iris", "cart_add", "iris-2", {"products": [_FLASK]}),
    _eve(60),
    _eve(70),
    Happening(70, "hugo", "product_search", "hugo-3", {"words": "tent"}),
    Happening(120, "cleo", "purchase", "cleo-2", {"total": 79.9}),
)
"""In order of sending; those of one minute go as one batch."""

CLICKS = (Click(65, "iris"),)
"""Between the welcome and the reminder."""

LONGEST_MINUTES = 3.5 * 60
"""When the last wait of the story ends."""
