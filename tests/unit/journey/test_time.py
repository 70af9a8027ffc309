"""Time is the input's own: late events, what was due before, ties, wake-ups."""

import pytest

from cairn.journey.live import LiveJourney, LiveJourneys
from cairn.journey.machine import UnknownVersionError
from cairn.journey.state import CancelTimer, Kind, ScheduleTimer, TimerInput
from cairn.journey.times import format_time
from cairn.testing.journeys import (
    START_US,
    alarm,
    event,
    passes,
    play,
    profile,
    publish,
    receipt,
    tell,
    times,
)

HOUR_US = 3_600_000_000
STEPS = """
name: steps
type: REAL_TIME
goal: {criteria: event.name == "goal"}
reentry: {mode: ALWAYS}
exit_criteria:
  - {name: low, criteria: profile.level < 0}
  - {name: seen, criteria: event.name == "other" && profile.level > 100}
  - {name: cold, stale: 10h}
stages:
  - name: one
    entry: event.name == "begin"
    milestone: event.name == "on"
    steps:
      - wait: {duration: 1h}
      - activation: {channel: email, template: first}
      - wait: {duration: 2h}
      - activation: {channel: email, template: second}
  - name: two
    exit_criteria: [{name: idle, stale: 4h}]
    steps: [{wait: {duration: 4h}}, {activation: {channel: email, template: third}}]
"""
BEGUN = ["0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 1h"]
FIRST = [
    "1h WAIT_ENDED one/1",
    "1h ACTIVATION_REQUESTED one/2 through email",
    "1h WAIT_STARTED one/3 until 3h",
]
SECOND = ["3h WAIT_ENDED one/3", "3h ACTIVATION_REQUESTED one/4 through email", "3h RESTED one"]
LEVEL = {"level": 1}


def test_what_was_due_is_applied_in_order_at_its_own_times() -> None:
    lines = tell(STEPS, event("begin"), alarm(on=False), event("other", at="5h"), attributes=LEVEL)
    assert lines == [*BEGUN, *FIRST, *SECOND]


def test_an_event_sees_what_was_due_before_it_as_done() -> None:
    lines = tell(STEPS, event("begin"), alarm(on=False), event("on", at="2h"), attributes=LEVEL)
    assert lines == [
        *BEGUN,
        *FIRST,
        "2h WAIT_CANCELED one/3",
        "2h ACTIVATION_WITHDRAWN one/2",
        "2h STAGE_ENTERED two",
        "2h WAIT_STARTED two/1 until 6h",
    ]


def test_what_was_due_before_a_change_of_the_profile_sees_the_profile_as_it_was() -> None:
    """Else an outage of the Scheduler would change who gets the first message."""
    change = profile(at="2h", level=-1)
    punctual = tell(STEPS, event("begin"), change, attributes=LEVEL)
    silent = tell(STEPS, event("begin"), alarm(on=False), change, attributes=LEVEL)
    assert silent == punctual
    assert silent == [
        *BEGUN,
        *FIRST,
        "2h WAIT_CANCELED one/3",
        "2h ACTIVATION_WITHDRAWN one/2",
        "2h EXITED one by low",
    ]


def test_a_message_that_was_due_before_a_change_says_what_was_so_then() -> None:
    story = play(STEPS, event("begin"), alarm(on=False), profile(at="2h", level=7), attributes=LEVEL)
    assert [each.attributes for each in story.requested] == [{"level": 1.0}]


def test_an_event_of_the_same_instant_comes_before_what_is_due() -> None:
    assert tell(STEPS, event("begin"), event("goal", at="1h"), attributes=LEVEL)[3:] == [
        "1h WAIT_CANCELED one/1",
        "1h GOAL_ACHIEVED one",
    ]


def test_what_is_due_in_the_instant_of_an_event_follows_it_at_once() -> None:
    lines = tell(STEPS, event("begin"), alarm(on=False), event("other", at="1h"), attributes=LEVEL)
    assert lines == [*BEGUN, *FIRST]


def test_staleness_comes_before_a_wait_of_the_same_instant() -> None:
    lines = tell(STEPS, event("begin"), event("on", at="1m"), passes("9h"), attributes=LEVEL)
    assert lines[-2:] == ["4h1m WAIT_CANCELED two/1", "4h1m EXITED two by idle over step two/1"]


def test_staleness_of_the_stage_counts_from_the_stage_of_the_journey_from_the_beginning() -> None:
    assert tell(STEPS, event("begin"), passes("3h"), event("on"), passes("9h"), attributes=LEVEL)[
        -1
    ].startswith("7h EXITED two by idle")
    assert tell(STEPS, event("begin"), passes("7h"), event("on"), passes("9h"), attributes=LEVEL)[
        -1
    ].startswith("10h EXITED two by cold")


def test_activity_does_not_restart_staleness() -> None:
    moments = [event("other", at=f"{hour}h") for hour in range(4, 10)]
    assert (
        tell(STEPS, event("begin"), *moments, passes("2h"), attributes=LEVEL)[-1] == "10h EXITED one by cold"
    )


def test_a_wait_counts_from_the_logical_time_not_from_the_late_wake_up() -> None:
    lines = tell(STEPS, event("begin"), alarm(on=False), passes("150m"), alarm(on=True), attributes=LEVEL)
    assert lines == [*BEGUN, *FIRST]


def test_a_late_event_is_tested_at_the_enrollments_time_and_waits_count_from_there() -> None:
    lines = tell(STEPS, event("begin"), passes("2h"), event("on", at="30m"), attributes=LEVEL)
    assert lines[-2:] == ["1h STAGE_ENTERED two late by 30m", "1h WAIT_STARTED two/1 until 5h"]


def test_a_late_event_does_not_undo_what_was_done() -> None:
    lines = tell(STEPS, event("begin"), passes("1h"), event("goal", at="30m"), attributes=LEVEL)
    assert lines == [
        *BEGUN,
        *FIRST,
        "1h WAIT_CANCELED one/3",
        "1h ACTIVATION_WITHDRAWN one/2",
        "1h GOAL_ACHIEVED one late by 30m",
    ]


def test_an_event_of_its_time_is_not_late() -> None:
    story = play(STEPS, event("begin"), alarm(on=False), event("on", at="90m"), attributes=LEVEL)
    assert all("late_seconds" not in each.detail for each in story.transitions)


def test_an_event_that_overtook_the_entry_by_arriving_first_is_no_input() -> None:
    assert tell(STEPS, event("on", at="1m"), event("begin", at="0s"), attributes=LEVEL) == BEGUN


def test_who_begins_again_with_a_late_event_does_so_at_the_old_enrollments_time() -> None:
    """A profile is in a journey once at any time, and is not reminded twice in a row for two events that came together."""
    text = """
name: again
type: REAL_TIME
goal: {criteria: event.name == "goal"}
reentry: {mode: ALWAYS}
stages: [{name: only, entry: event.name == "begin", steps: [{wait: {duration: 3h}}]}]
"""
    lines = tell(text, event("begin"), passes("3h"), event("begin", at="5m"))
    assert lines[-4:] == [
        "3h COMPLETED only",
        "3h ENTERED only late by 2h55m",
        "3h STAGE_ENTERED only",
        "3h WAIT_STARTED only/1 until 6h",
    ]


# Wake-ups


def test_one_wake_up_at_the_earliest_of_what_is_due() -> None:
    story = play(STEPS, event("begin"), attributes=LEVEL)
    dues = []
    while story.timers:
        ((_, due_us),) = story.timers.items()
        dues.append((due_us - START_US) // HOUR_US)
        passes("1h")(story)
    assert sorted(set(dues)) == [1, 3, 10]


def test_an_input_that_moves_no_due_time_leaves_the_wake_up_alone() -> None:
    story = play(STEPS, event("begin"), attributes=LEVEL)
    before, effects = dict(story.timers), len(story.effects)
    event("other", at="1m")(story)
    profile(at="2m", level=5)(story)
    assert (story.timers, len(story.effects)) == (before, effects)


def test_an_id_is_never_used_again() -> None:
    story = play(STEPS, event("begin"), event("on", at="1m"), passes("1d"), event("begin"), attributes=LEVEL)
    asked = [effect.timer_id for effect in story.effects if isinstance(effect, ScheduleTimer)]
    assert len(asked) == len(set(asked)) == 3


@pytest.mark.parametrize(
    "moments",
    [
        (),
        (event("begin"),),
        (event("begin"), event("on", at="1m")),
        (event("begin"), passes("1h")),
        (event("begin"), event("goal", at="1m")),
    ],
)
def test_a_wake_up_with_another_id_changes_nothing(moments: tuple[object, ...]) -> None:
    story = play(STEPS, *moments, attributes=LEVEL)  # type: ignore[arg-type]
    current = set(story.timers)
    stale = {effect.timer_id for effect in story.effects if isinstance(effect, ScheduleTimer)} - current
    for timer_id in {"", "another.t1", *stale}:
        before = story.standing
        done = story.take(TimerInput(timer_id, START_US + 100 * HOUR_US))
        assert story.standing == before
        assert (done.standings, done.effects, done.transitions) == ({}, [], [])


def test_the_same_wake_up_twice_acts_once() -> None:
    story = play(STEPS, event("begin"), attributes=LEVEL)
    ((timer_id, due_us),) = story.timers.items()
    assert story.take(TimerInput(timer_id, due_us)).transitions
    assert not story.take(TimerInput(timer_id, due_us)).transitions


def test_a_wake_up_that_has_rung_is_not_canceled() -> None:
    story = play(STEPS, event("begin"), passes("1h"), attributes=LEVEL)
    assert not any(isinstance(effect, CancelTimer) for effect in story.effects)


def test_a_receipt_takes_no_time() -> None:
    story = play(STEPS, event("begin"), passes("1h"), alarm(on=False), passes("5h"), attributes=LEVEL)
    lines, timers = story.lines, dict(story.timers)
    receipt("one/2")(story)
    assert (story.lines, story.timers) == (lines, timers)


def test_ids_come_from_their_cause() -> None:
    first, second = (play(STEPS, event("begin"), passes("3h"), attributes=LEVEL) for _ in range(2))
    assert first.transitions == second.transitions
    assert first.effects == second.effects
    assert [each.cause for each in first.transitions if each.kind is Kind.ENTERED] == ["event e1"]
    assert {each.cause for each in first.transitions[3:]} == {"timer"}


def test_an_enrollment_in_a_version_that_is_not_known_is_told_not_guessed() -> None:
    story = play(STEPS, event("begin"), attributes=LEVEL)
    publish(STEPS)(story)
    story.live = LiveJourneys([LiveJourney({2: story.journeys["steps"].newest})])
    with pytest.raises(UnknownVersionError, match="steps version 1"):
        event("other", at="1m")(story)


def test_rest_is_over_after_twenty_four_days() -> None:
    text = STEPS.replace("  - {name: cold, stale: 10h}\n", "")
    story = play(text, event("begin"), passes("100d"), attributes=LEVEL)
    assert times([Kind.COMPLETED], story.transitions) == ["24d3h"]


@pytest.mark.parametrize(
    ("time_us", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (START_US, "2026-01-01T00:00:00Z"),
        (START_US + 1, "2026-01-01T00:00:00.000001Z"),
        (-1, "1969-12-31T23:59:59.999999Z"),
    ],
)
def test_moments_are_written_in_utc(time_us: int, text: str) -> None:
    assert format_time(time_us) == text
