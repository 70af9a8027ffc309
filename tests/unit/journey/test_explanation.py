"""Why somebody is where he is, or why he never entered: the sentences, and the values that the criteria saw."""

from collections.abc import Sequence

import pytest

from cairn.journey.explanation import Findings, Known, explain_standing
from cairn.journey.state import EventInput, Standing
from cairn.testing.journeys import (
    Moment,
    Story,
    end,
    event,
    passes,
    pause,
    play,
    profile,
    run,
)

JOURNEY = """
name: cart
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
reentry: {mode: NEVER}
exit_criteria: [{name: stale, stale: 24d}]
stages:
  - name: filled
    entry: event.name == "cart_add" && event.properties.total > 50 && profile.country in ["JP", "US"]
    milestone: event.name == "address"
    steps:
      - wait: {duration: 3h}
      - wait:
          condition: event.name == "login" || profile.level > 2
          timeout: 1d
  - name: till
"""
GOOD = event("cart_add", total=60)


def tell(
    moments: Sequence[Moment], recent: Sequence[EventInput] = (), after: str = "0s", **more: bool
) -> Findings:
    story: Story = play(JOURNEY, *moments, attributes={"country": "JP"})
    standing = story.standings.get("cart", Standing())
    at_us = story.now_us if after == "0s" else story.start_us
    return explain_standing(
        Known(
            journey=story.journeys["cart"],
            profile=story.profile,
            standing=standing,
            transitions=[each for each in story.transitions if each.time_us <= at_us][::-1],
            recent=recent,
            at_us=at_us,
            **more,
        )
    )


def seen(name: str, number: int, **properties: object) -> EventInput:
    story = Story(JOURNEY)
    from cairn.journey.simulation import event_of

    return EventInput(f"e{number}", story.start_us, event_of(name, story.start_us, properties))


def test_who_waits() -> None:
    told = tell([GOOD])
    assert told.summary == (
        "ann is in `filled`, waiting in `filled/1` until 2026-01-01T03:00:00Z since 2026-01-01T00:00:00Z because of event e1; "
        "goal not met: no `purchase` since 2026-01-01T00:00:00Z that meets it."
    )
    assert [(each.rule, each.holds) for each in told.rules] == [
        ("goal", False),
        ("exit stale", False),
        ("milestone filled", False),
        ("step filled/1", False),
    ]
    assert told.rules[1].sentence == "stale after 24d, at 2026-01-25T00:00:00Z"


def test_who_waits_for_a_condition_sees_both_sides_of_it() -> None:
    told = tell([GOOD, profile(at="4h", level=1)])
    step = told.rules[-1]
    assert step.rule == "step filled/2"
    assert step.criteria is not None
    assert [child.verdict for child in step.criteria.children] == ["FAILED", "FALSE"]
    assert step.criteria.children[1].saw == "`profile.level` was 1"
    assert step.criteria.children[1].needed == "> 2"


def test_who_is_held_by_a_pause() -> None:
    told = tell([GOOD, passes("1h"), pause(), event("address", at="2h")])
    assert told.summary.startswith(
        "ann is in `till`, held, as the journey is paused since 2026-01-01T02:00:00Z"
    )
    assert "because of event e2" in told.summary


@pytest.mark.parametrize(
    ("recent", "sentence"),
    [
        ((), "entry: no `cart_add` that meets it"),
        (
            (seen("cart_add", 7, total=40),),
            "nearest miss: `event.properties.total` was 40, needed > 50, at 2026-01-01T00:00:00Z",
        ),
        ((seen("cart_add", 7),), "nearest miss: `event.properties.total` is not there, needed > 50"),
        (
            # The one that fails in one part is nearer than the one that fails in two.
            (seen("address", 6), seen("cart_add", 7, total=50)),
            "nearest miss: `event.properties.total` was 50, needed > 50",
        ),
        ((seen("purchase", 7),), 'nearest miss: `event.name` was "purchase", needed == "cart_add"'),
    ],
)
def test_who_never_entered(recent: tuple[EventInput, ...], sentence: str) -> None:
    told = tell([], recent)
    assert told.summary.startswith("ann never entered cart; ")
    assert sentence in told.summary
    assert [each.event.event_id for each in told.inputs][:1] == ([recent[-1].event_id] if recent else [])


def test_who_has_left_and_may_not_come_again() -> None:
    told = tell([GOOD, event("purchase", at="1h"), event("cart_add", at="2h", total=70)])
    assert told.summary == (
        "ann is no longer in cart: goal achieved at 2026-01-01T01:00:00Z; event e3 at 2026-01-01T02:00:00Z was refused: "
        "its rules of re-entry let nobody begin again."
    )
    assert ("reentry", True) in [(each.rule, each.holds) for each in told.rules]


def test_who_is_remembered_for_the_resume() -> None:
    told = tell([passes("1h"), pause(), event("cart_add", at="2h", total=60)])
    assert told.summary == "ann never entered cart; event e1 begins it when the journey resumes."


def test_the_past_is_told_by_transitions_alone() -> None:
    moments = [GOOD, event("purchase", at="1h")]
    told = tell(moments, after="start", is_past=True)
    assert told.summary == (
        "At 2026-01-01T00:00:00Z ann was in `filled`, waiting in `filled/1` until 2026-01-01T03:00:00Z, "
        "since 2026-01-01T00:00:00Z because of event e1."
    )
    assert told.rules == ()
    assert "had not entered cart" in tell([], after="start", is_past=True).summary


# Batch journeys

BATCH = """
name: back
type: BATCH
audience: profile.customer == true
goal: {criteria: profile.bought == true}
stages:
  - name: one
    entry: profile.lapsed > 30
    steps: [{wait: {duration: 1d}}]
"""
IN = profile(customer=True, lapsed=40, bought=False)


def tell_batch(*moments: Moment) -> Findings:
    story = play(BATCH, *moments)
    return explain_standing(
        Known(
            journey=story.journeys["back"],
            profile=story.profile,
            standing=story.standings.get("back", Standing()),
            transitions=story.transitions[::-1],
            recent=(),
            at_us=story.now_us,
        )
    )


@pytest.mark.parametrize(
    ("moments", "summary"),
    [
        ((profile(lapsed=40),), "ann never entered back; audience: `profile.customer` is not there, needed == true"),
        ((profile(customer=True, lapsed=3),), "ann never entered back; entry: `profile.lapsed` was 3, needed > 30"),
        ((IN, profile(bought=True)), "ann never entered back; goal: meets the goal, so that it begins nothing"),
        ((IN,), "ann never entered back; the next run takes in who is like this."),
        ((IN, end()), "ann never entered back; the journey ended at 2026-01-01T00:00:00Z."),
        (
            (IN, run()),
            "ann is in `one`, waiting in `one/1` until the first run from 2026-01-02T00:00:00Z on since "
            "2026-01-01T00:00:00Z because of run r1; goal not met: `profile.bought` was false, needed == true.",
        ),
        ((IN, run(), profile(bought=True)), "goal met, which the next run acts on: holds."),
        ((IN, run(), profile(bought=True), run("1h"), profile(bought=False)), "ann is no longer in back: goal achieved at 2026-01-01T01:00:00Z; reentry: its rules"),
    ],
)  # fmt: skip
def test_why_in_a_batch_journey(moments: tuple[Moment, ...], summary: str) -> None:
    assert summary in tell_batch(*moments).summary


def test_the_audience_is_a_rule_of_its_own() -> None:
    assert [(each.rule, each.holds) for each in tell_batch(profile(customer=True)).rules] == [
        ("audience", True),
        ("entry", False),
    ]
