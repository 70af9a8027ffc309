"""The worked cases of the semantics, each as a row: what happens, and the whole timeline that must come of it."""

from pathlib import Path

import pytest

from cairn.journey.document import read_documents
from cairn.journey.simulation import SimulatedEvent, live_of, simulate
from cairn.journey.state import CancelTimer, EnrollmentState, Kind
from cairn.testing.journeys import (
    Case,
    Story,
    alarm,
    event,
    passes,
    play,
    profile,
    publish,
    read_journey,
    receipt,
)

WELCOME = """
name: welcome
purpose: {kind: WELCOME, description: Greet a new newsletter subscriber}
type: REAL_TIME
stages:
  - name: signed-up
    entry: event.name == "newsletter_signup"
    steps:
      - wait: {duration: 1h}
      - activation: {channel: email, template: welcome}
"""
CART = """
name: abandoned-cart
purpose: {kind: PURCHASE, description: Bring a full cart to the till}
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
reentry: {mode: ALWAYS}
stages:
  - name: cart
    entry: event.name == "cart_add"
    steps:
      - wait: {duration: 3h}
      - activation: {channel: email, template: cart-reminder}
"""
LADDER = """
name: ladder
type: REAL_TIME
stages:
  - name: one
    entry: event.name == "begin"
    milestone: event.name == "first"
    steps:
      - wait: {duration: 1d}
      - activation: {channel: email, template: one}
  - name: two
    milestone: event.name == "second"
    steps:
      - activation: {channel: email, template: two}
  - name: three
    steps:
      - activation: {channel: email, template: three}
"""
STALE = """
name: stale
type: REAL_TIME
exit_criteria: [{name: cold, stale: 24d}]
stages:
  - name: only
    entry: event.name == "begin"
    steps:
      - wait: {duration: 24d}
      - activation: {channel: email, template: late}
"""
SEED = """
name: seed
purpose: {kind: WIN_BACK, description: Encourage a new purchase by a previous customer}
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
exit_criteria: [{name: cold, stale: 24d}]
stages:
  - name: first
    entry: event.name == "visit"
    milestone: event.name == "form_filled"
    exit_criteria: [{name: left, criteria: event.name == "unsubscribe"}]
    steps:
      - wait: {duration: 1m}
      - activation: {channel: meta-audience, action: ADD}
      - end: {}
  - name: second
    steps:
      - activation: {channel: email, template: offer}
"""

CART_BEGUN = ("0s ENTERED cart", "0s STAGE_ENTERED cart", "0s WAIT_STARTED cart/1 until 3h")
REMINDED = ("3h WAIT_ENDED cart/1", "3h ACTIVATION_REQUESTED cart/2 through email", "3h RESTED cart")
LADDER_BEGUN = ("0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1d")
SEED_BEGUN = ("0s ENTERED first", "0s STAGE_ENTERED first", "0s WAIT_STARTED first/1 until 1m")
SEED_ADDED = (
    "1m WAIT_ENDED first/1",
    "1m ACTIVATION_REQUESTED first/2 through meta-audience",
    "1m RESTED first/3",
)

CASES = (
    Case(
        "a sign-up; 1 h passes: greeted at 1 h, and nothing is left to wait for",
        WELCOME,
        (event("newsletter_signup"), passes("1h")),
        (
            "0s ENTERED signed-up",
            "0s STAGE_ENTERED signed-up",
            "0s WAIT_STARTED signed-up/1 until 1h",
            "1h WAIT_ENDED signed-up/1",
            "1h ACTIVATION_REQUESTED signed-up/2 through email",
            "1h RESTED signed-up",
            "1h COMPLETED signed-up",
        ),
    ),
    Case(
        "a sign-up that arrives twenty minutes late is greeted forty minutes later",
        WELCOME,
        (passes("20m"), event("newsletter_signup", at="0s"), passes("40m")),
        (
            "0s ENTERED signed-up",
            "0s STAGE_ENTERED signed-up",
            "0s WAIT_STARTED signed-up/1 until 1h",
            "1h WAIT_ENDED signed-up/1",
            "1h ACTIVATION_REQUESTED signed-up/2 through email",
            "1h RESTED signed-up",
            "1h COMPLETED signed-up",
        ),
    ),
    Case(
        "cart_add; 3 h pass: one reminder, at 3 h from the event's time",
        CART,
        (event("cart_add"), passes("3h"), passes("20d")),
        (*CART_BEGUN, *REMINDED),
    ),
    Case(
        "cart_add; 24 d after it came to rest it is over",
        CART,
        (event("cart_add"), passes("25d")),
        (*CART_BEGUN, *REMINDED, "24d3h COMPLETED cart"),
    ),
    Case(
        "cart_add; purchase after 1 h: goal achieved at 1 h, no reminder ever",
        CART,
        (event("cart_add"), event("purchase", at="1h"), passes("30d")),
        (*CART_BEGUN, "1h WAIT_CANCELED cart/1", "1h GOAL_ACHIEVED cart"),
    ),
    Case(
        "cart_add; purchase in the same instant as the timer: the goal wins, no reminder",
        CART,
        (event("cart_add"), event("purchase", at="3h"), passes("30d")),
        (*CART_BEGUN, "3h WAIT_CANCELED cart/1", "3h GOAL_ACHIEVED cart"),
    ),
    Case(
        "the timer rang first, then a purchase of the same instant: the reminder is taken back",
        CART,
        (event("cart_add"), passes("3h"), event("purchase", at="3h")),
        (*CART_BEGUN, *REMINDED, "3h ACTIVATION_WITHDRAWN cart/2", "3h GOAL_ACHIEVED cart"),
    ),
    Case(
        "reminder asked for but held back by quiet hours; purchase: the reminder is withdrawn",
        CART,
        (event("cart_add"), passes("3h"), event("purchase", at="5h")),
        (*CART_BEGUN, *REMINDED, "5h ACTIVATION_WITHDRAWN cart/2", "5h GOAL_ACHIEVED cart"),
    ),
    Case(
        "reminder sent; purchase: there is nothing to take back",
        CART,
        (event("cart_add"), passes("3h"), receipt("cart/2"), event("purchase", at="5h")),
        (*CART_BEGUN, *REMINDED, "5h GOAL_ACHIEVED cart"),
    ),
    Case(
        "a purchase that overtakes its cart is still a purchase",
        CART,
        (event("purchase", at="1h"), event("cart_add", at="0s"), passes("30d")),
        ("0s ENTRY_REFUSED cart because of goal",),
    ),
    Case(
        "stage 1 waiting; the milestone of stage 1: stage 2's first step, now; stage 1's message never happens",
        LADDER,
        (event("begin"), event("first", at="1h"), passes("2d")),
        (
            *LADDER_BEGUN,
            "1h WAIT_CANCELED one/1",
            "1h STAGE_ENTERED two",
            "1h ACTIVATION_REQUESTED two/1 through email",
            "1h RESTED two",
        ),
    ),
    Case(
        "stage 1 waiting; the milestone of stage 2: stage 3, with stage 2 recorded as skipped",
        LADDER,
        (event("begin"), event("second", at="1h"), passes("2d")),
        (
            *LADDER_BEGUN,
            "1h WAIT_CANCELED one/1",
            "1h STAGE_SKIPPED two",
            "1h STAGE_ENTERED three",
            "1h ACTIVATION_REQUESTED three/1 through email",
            "1h RESTED three",
            "1h COMPLETED three",
        ),
    ),
    Case(
        "the same, but no stage may be skipped: nothing",
        LADDER + "skip_stages: false",
        (event("begin"), event("second", at="1h")),
        LADDER_BEGUN,
    ),
    Case(
        "staleness 24 d and wait 24 d: exit, not the step",
        STALE,
        (event("begin"), passes("24d")),
        (
            "0s ENTERED only",
            "0s STAGE_ENTERED only",
            "0s WAIT_STARTED only/1 until 24d",
            "24d WAIT_CANCELED only/1",
            "24d EXITED only by cold over step only/1",
        ),
    ),
    Case(
        "an event older than the enrollment's last one: tested at the enrollment's time, late by so much",
        LADDER + """exit_criteria: [{name: no, criteria: event.name == "seen" && profile.left}]""",
        (event("begin"), event("seen", at="2h"), event("first", at="30m")),
        (
            *LADDER_BEGUN,
            "2h WAIT_CANCELED one/1",
            "2h STAGE_ENTERED two late by 1h30m",
            "2h ACTIVATION_REQUESTED two/1 through email",
            "2h RESTED two",
        ),
    ),
    Case(
        "version 2 published meanwhile: who is in version 1 finishes it, the next to enter gets version 2",
        CART,
        (
            event("cart_add"),
            publish(CART.replace("3h", "1h").replace("cart-reminder", "shorter")),
            passes("3h"),
            event("purchase", at="4h"),
            event("cart_add", at="5h"),
            passes("1h"),
        ),
        (
            *CART_BEGUN,
            *REMINDED,
            "4h ACTIVATION_WITHDRAWN cart/2",
            "4h GOAL_ACHIEVED cart",
            "5h ENTERED cart",
            "5h STAGE_ENTERED cart",
            "5h WAIT_STARTED cart/1 until 6h",
            "6h WAIT_ENDED cart/1",
            "6h ACTIVATION_REQUESTED cart/2 through email",
            "6h RESTED cart",
        ),
    ),
    Case(
        "the Scheduler is down for an hour: what was due acts at its own time",
        CART,
        (event("cart_add"), alarm(on=False), passes("4h"), alarm(on=True)),
        (*CART_BEGUN, *REMINDED),
    ),
    Case(
        "the Scheduler is down when a purchase comes: what was due before it is applied before it",
        CART,
        (event("cart_add"), alarm(on=False), event("purchase", at="4h")),
        (*CART_BEGUN, *REMINDED, "4h ACTIVATION_WITHDRAWN cart/2", "4h GOAL_ACHIEVED cart"),
    ),
    Case(
        "the same event delivered five times: one change",
        CART,
        (*(event("cart_add", at="0s", event_id="one") for _ in range(5)), passes("3h")),
        (*CART_BEGUN, *REMINDED),
    ),
    Case(
        "the first stage's end: no more in this flow until the milestone comes",
        SEED,
        (event("visit"), passes("5d"), event("form_filled", at="5d")),
        (
            *SEED_BEGUN,
            *SEED_ADDED,
            "5d ACTIVATION_WITHDRAWN first/2",
            "5d STAGE_ENTERED second",
            "5d ACTIVATION_REQUESTED second/1 through email",
            "5d RESTED second",
        ),
    ),
    Case(
        "at the first stage's end: an exit criteria",
        SEED,
        (event("visit"), passes("1m"), receipt("first/2"), event("unsubscribe", at="1h")),
        (*SEED_BEGUN, *SEED_ADDED, "1h EXITED first by left"),
    ),
    Case(
        "at the first stage's end: the journey's goal",
        SEED,
        (event("visit"), passes("1m"), receipt("first/2"), event("purchase", at="1h")),
        (*SEED_BEGUN, *SEED_ADDED, "1h GOAL_ACHIEVED first"),
    ),
    Case(
        "at the first stage's end: staleness, counted from the beginning whatever happens in between",
        SEED,
        (event("visit"), passes("1m"), receipt("first/2"), event("visit", at="20d"), passes("4d")),
        (*SEED_BEGUN, *SEED_ADDED, "24d EXITED first by cold"),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_worked_case(case: Case) -> None:
    assert case.told() == list(case.then)


def test_a_purchase_takes_the_timer_with_it() -> None:
    story = play(CART, event("cart_add"))
    assert len(story.timers) == 1
    event("purchase", at="1h")(story)
    assert not story.timers
    assert sum(isinstance(effect, CancelTimer) for effect in story.effects) == 1
    assert story.requested == []


def test_what_is_withdrawn_is_what_was_requested_and_says_why() -> None:
    story = play(CART, event("cart_add"), passes("3h"), event("purchase"))
    (request,), (withdrawal,) = story.requested, story.withdrawn
    assert withdrawal.activation_id == request.activation_id
    assert withdrawal.request_us == request.request_us
    assert withdrawal.reason == "goal"


def test_an_activation_carries_what_the_message_needs() -> None:
    story = play(
        CART,
        event("cart_add", products=["tent", "stove"]),
        event("cart_add", at="1h", products=["rope"]),
        passes("2h"),
        attributes={"first_name": "Ann"},
    )
    (request,) = story.requested
    assert (request.channel, request.template) == ("connections/email", "templates/cart-reminder")
    assert (request.stage, request.step_id, request.version) == ("cart", "cart/2", 1)
    assert request.attributes == {"first_name": "Ann"}
    assert request.entry is not None
    assert request.entry["properties"] == {"products": ["tent", "stove"]}
    assert request.entry["occur_time"] == "2026-01-01T00:00:00+00:00"
    assert request.latest is not None
    assert request.latest["properties"] == {"products": ["rope"]}


def test_an_audience_is_told_what_to_do() -> None:
    story = play(SEED, event("visit"), passes("1m"))
    assert [(each.action.name, each.template) for each in story.requested] == [("ADD", "")]


def test_a_message_has_the_attributes_of_its_moment() -> None:
    story = play(CART, event("cart_add"), profile(at="1h", city="Kyoto"), passes("2h"))
    assert [each.attributes for each in story.requested] == [{"city": "Kyoto"}]


@pytest.mark.parametrize(
    ("kind", "number"), [("WELCOME", 1), ("PURCHASE", 2), ("ANNIVERSARY", 3), ("WIN_BACK", 4), ("CUSTOM", 5)]
)
def test_every_purpose_can_be_said(kind: str, number: int) -> None:
    (document,), violations = read_documents(SEED.replace("WIN_BACK", kind))
    assert not violations
    assert document.message.purpose.kind == number


def test_ten_thousand_waits_that_fell_due_meanwhile_all_act_in_order_each_once() -> None:
    """As the Scheduler finds them after an hour: here each at its own time, whatever profile it is."""
    carts = [
        SimulatedEvent(f"e{number}", f"profile-{number * 7919 % 10_000}", "cart_add", number * 360_000)
        for number in range(10_000)
    ]
    asked = [
        (profile_id, each.time_us)
        for profile_id, each in simulate(live_of([read_journey(CART)]), carts)
        if each.kind is Kind.ACTIVATION_REQUESTED
    ]
    assert asked == [(each.profile_id, each.time_us + 3 * 3_600_000_000) for each in carts]


def test_a_profile_outside_is_in_no_state() -> None:
    story = play(CART, event("purchase"))
    assert story.state is None
    event("cart_add", at="1s")(story)
    assert story.state is EnrollmentState.WAITING


@pytest.mark.parametrize(("name", "text"), [("welcome", WELCOME), ("abandoned-cart", CART)])
def test_the_examples_are_the_journeys_tested_here(name: str, text: str) -> None:
    example = Path(__file__).parents[3] / "deploy" / "examples" / f"{name}.yaml"
    (shown,), (tested,) = read_documents(example.read_text())[0], read_documents(text)[0]
    assert shown.message == tested.message


def test_a_demo_is_faster_and_otherwise_the_same() -> None:
    slow, fast = Story(CART), Story(CART, speed=3600)
    for story, after in ((slow, "3h"), (fast, "3s")):
        for moment in (event("cart_add"), passes(after)):
            moment(story)
    assert [each.kind for each in fast.transitions] == [each.kind for each in slow.transitions]
    assert fast.lines[-1] == "3s RESTED cart"
