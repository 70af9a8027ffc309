"""What is kept of an enrollment: every event once, and what the version before wrote is still read."""

from typing import Any

import msgspec
import pytest

from cairn.journey.dispatch import dispatch_to
from cairn.journey.simulation import live_of
from cairn.journey.state import (
    Enrollment,
    Profile,
    RequestActivation,
    Standing,
    StartJourney,
    TimerInput,
    Transition,
)
from cairn.testing.journeys import Story, event, passes, play, read_journey

CART = """
name: cart
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
stages:
  - name: cart
    entry: event.name == "cart_add"
    steps:
      - wait: {duration: 3h}
      - activation: {channel: email, template: reminder}
"""
STORED = (
    '{"cart":[1,1767603600000000,false,0,["8189236ad11999dd50a1",1,1,0,0,1767603600000000,1767603600000000,'
    '1767603600000000,1767614400000000,0,0,1767614400000000,1,"",[],EVENT,EVENT,null],0,null]}'
)
"""As the version before wrote it, which kept the one event that there was twice."""
EVENT = (
    '{"event_id":"e1","name":"cart_add","occur_time":"2026-01-05T09:00:00+00:00","properties":{"total":20.0}}'
)


def enrollment_of(story: Story) -> Enrollment:
    enrollment = story.standings["cart"].enrollment
    assert enrollment is not None
    return enrollment


def test_the_event_that_began_is_kept_once() -> None:
    enrollment = enrollment_of(play(CART, event("cart_add", item="tent")))
    assert (enrollment.entry or {})["properties"] == {"item": "tent"}
    assert enrollment.latest is None
    assert enrollment.latest_event is enrollment.entry
    assert msgspec.json.encode(enrollment).count(b"tent") == 1


def test_a_later_event_is_kept_beside_it() -> None:
    enrollment = enrollment_of(
        play(CART, event("cart_add", item="tent"), event("cart_add", at="1h", item="rope"))
    )
    assert (enrollment.entry or {})["properties"] == {"item": "tent"}
    assert (enrollment.latest or {})["properties"] == {"item": "rope"}


def test_a_message_carries_the_only_event_as_its_latest() -> None:
    (request,) = play(CART, event("cart_add", item="tent"), passes("3h")).requested
    assert request.latest == request.entry
    assert (request.latest or {})["properties"] == {"item": "tent"}


def test_a_standing_of_the_version_before_goes_on() -> None:
    standings = msgspec.json.decode(STORED.replace("EVENT", EVENT), type=dict[str, Standing])
    enrollment = standings["cart"].enrollment
    assert enrollment is not None
    timer = TimerInput(enrollment.timer_id, enrollment.wake_us)
    out = dispatch_to(live_of([read_journey(CART)]), Profile("ann"), standings, "cart", timer)
    requested = [
        each for _, effects in out.effects for each in effects if isinstance(each, RequestActivation)
    ]
    assert [each.entry for each in requested] == [msgspec.json.decode(EVENT)]
    assert [each.latest for each in requested] == [msgspec.json.decode(EVENT)]


@pytest.mark.parametrize("kind", [Enrollment, Standing, Profile, Transition, RequestActivation, StartJourney])
def test_the_collector_leaves_what_is_kept_alone(kind: Any) -> None:
    """Tens of thousands are in memory; no cycle leads through one."""
    assert kind.__struct_config__.gc is False
