import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from cairn.api.definition.v1.journey_pb2 import JourneyVersion
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.inputs import EventArrival, ProfileArrival
from cairn.journey.document import read_documents
from cairn.journey.state import EventInput

NOW_US = 1_767_225_600_000_000
HOUR_US = 3_600_000_000


def journey(name: str, entry: str, *, goal: str = "", steps: str = "[{wait: {duration: 1h}}]") -> str:
    text = f"name: {name}\ntype: REAL_TIME\nreentry: {{mode: ALWAYS}}\n"
    if goal:
        text += f"goal: {{criteria: '{goal}'}}\n"
    return text + f"stages: [{{name: one, entry: '{entry}', steps: {steps}}}]\n"


def version(text: str, number: int = 1) -> JourneyVersion:
    (document,), violations = read_documents(text)
    assert not violations
    return JourneyVersion(version=number, revision=number, journey=document.message)


@pytest.fixture
def make_version() -> Callable[..., JourneyVersion]:
    """A published version of a journey: its name, its entry, and what else there is."""
    return lambda *args, number=1, **kwargs: version(journey(*args, **kwargs), number)


@pytest.fixture
def make_book(make_version: Callable[..., JourneyVersion]) -> Callable[..., JourneyBook]:
    """A book that serves versions."""

    def make(*versions: JourneyVersion) -> JourneyBook:
        book = JourneyBook(1)
        asyncio.run(book.add(1, versions))
        return book

    return make


@pytest.fixture
def carts(make_book: Callable[..., JourneyBook], make_version: Callable[..., JourneyVersion]) -> JourneyBook:
    return make_book(
        make_version("cart", 'event.name == "cart_add"', goal='event.name == "purchase"'),
        make_version("gold", 'profile.plan == "gold"'),
    )


@pytest.fixture
def event() -> Callable[..., EventArrival]:
    def make(name: str, event_id: str, profile_id: str = "ann", at_us: int = NOW_US) -> EventArrival:
        moment = datetime.fromtimestamp(at_us // 1_000_000, UTC)
        view: dict[str, Any] = {"name": name, "properties": {}, "occur_time": moment}
        return EventArrival(profile_id, EventInput(event_id, at_us, view))

    return make


@pytest.fixture
def description() -> Callable[..., ProfileArrival]:
    def make(*, replace: bool = False, time_zone: str = "", **attributes: Any) -> ProfileArrival:
        return ProfileArrival("ann", attributes, time_zone, replace, NOW_US)

    return make
