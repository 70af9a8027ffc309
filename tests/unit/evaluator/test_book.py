"""Which journeys an event or a change of a profile concerns, and from when on."""

import asyncio

import pytest

from cairn.api.definition.v1.journey_pb2 import JOURNEY_TYPE_BATCH
from cairn.evaluator.book import JourneyBook
from cairn.runtime.errors import CairnError


def names(journeys) -> set[str]:
    return {journey.journey_id for journey in journeys}


@pytest.fixture
def book(make_book, make_version) -> JourneyBook:
    return make_book(
        make_version("cart", 'event.name == "cart_add"', goal='event.name == "purchase"'),
        make_version("both", 'event.name in ["cart_add", "signup"]'),
        make_version("any", "event.properties.vip == true"),
        make_version("gold", 'profile.plan == "gold"'),
        make_version("left", 'event.name == "signup"', goal="profile.churned == true"),
    )


@pytest.mark.parametrize(
    ("event", "journeys"),
    [
        ("cart_add", {"cart", "both", "any"}),
        ("purchase", {"cart", "any"}),
        ("signup", {"both", "any", "left"}),
        ("page_view", {"any"}),
        ("", {"any"}),
    ],
)
def test_an_event_concerns_those_that_name_it_and_those_that_name_none(book, event, journeys) -> None:
    assert names(book.live.concerned_by_event(event)) == journeys
    assert len(book.live.concerned_by_event(event)) == len(journeys)


def test_a_change_of_a_profile_concerns_those_that_read_it_to_begin_or_to_end(book) -> None:
    assert names(book.live.by_profile) == {"gold", "left"}


def test_noise_concerns_nobody(make_book, make_version) -> None:
    book = make_book(make_version("cart", 'event.name == "cart_add"'))
    assert book.live.concerned_by_event("page_view") == ()


def test_events_concern_no_batch_journey_but_what_it_counts_is_needed(make_book, make_version) -> None:
    batch = make_version("batch", 'count("purchase") >= 1')
    batch.journey.type, batch.journey.audience = JOURNEY_TYPE_BATCH, "profile.a == 1"
    book = make_book(batch)
    assert book.get("batch").is_batch
    assert book.live.concerned_by_event("purchase") == ()
    assert book.live.by_profile == ()
    assert book.live.has_need("purchase")
    assert not book.live.has_need("page_view")


def test_the_events_of_an_older_version_still_count_and_the_newest_takes_who_enters(
    make_book, make_version
) -> None:
    book = make_book(
        make_version("cart", 'event.name == "cart_add"'),
        make_version("cart", 'event.name == "basket_add"', number=3),
        make_version("cart", 'profile.plan == "gold"', number=2),
    )
    assert (
        names(book.live.concerned_by_event("cart_add"))
        == names(book.live.concerned_by_event("basket_add"))
        == {"cart"}
    )
    journey = book.get("cart")
    assert journey is not None
    assert journey.newest.version == 3
    assert set(journey.plans) == {1, 2, 3}
    assert book.live.by_profile == ()


async def test_a_version_that_is_known_stays_as_it_is(make_version) -> None:
    book = JourneyBook(1)
    await book.add(1, [make_version("cart", 'event.name == "cart_add"')])
    plan = book.get("cart").newest
    await book.add(2, [make_version("cart", 'event.name == "other"')])
    assert book.get("cart").newest is plan


async def test_a_version_that_is_not_understood_harms_no_other(make_version) -> None:
    broken = make_version("broken", 'event.name == "cart_add"')
    broken.journey.stages[0].entry = "event.name =="
    book = JourneyBook(1)
    await book.add(7, [broken, make_version("cart", 'event.name == "cart_add"')])
    assert names(book.live.concerned_by_event("cart_add")) == {"cart"}
    assert book.revision == 7


async def test_nothing_is_taken_before_a_first_revision_which_may_be_zero() -> None:
    book = JourneyBook(1)
    assert not book.is_known
    with pytest.raises(CairnError):
        book.require()
    await book.add(0, [])
    book.require()
    assert book.is_known


async def test_who_waits_for_a_revision_is_told_when_it_or_a_later_one_comes() -> None:
    book = JourneyBook(1)
    await book.add(3, [])
    waiting = {number: asyncio.ensure_future(book.wait_for(number)) for number in (-1, 0, 3, 4, 5, 6)}
    await asyncio.sleep(0)
    assert [number for number, task in waiting.items() if task.done()] == [-1, 0, 3]
    await book.add(5, [])
    async with asyncio.timeout(5):
        await asyncio.gather(waiting[4], waiting[5])
    assert not waiting[6].done()
    waiting[6].cancel()


async def test_a_revision_never_goes_back() -> None:
    book = JourneyBook(1)
    await book.add(5, [])
    await book.add(4, [])
    assert book.revision == 5


async def test_speed_divides_what_a_plan_waits(make_version) -> None:
    book = JourneyBook(3600)
    await book.add(1, [make_version("cart", 'event.name == "cart_add"')])
    assert book.get("cart").newest.program[0].duration_us == 1_000_000
