"""Events of the past: remembered only, moving in silence, or doing all that they would have done.

What moves in silence ends where the same events would have ended live, but for what was asked for.
"""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cairn.evaluator.book import JourneyBook
from cairn.evaluator.evaluation import Evaluated, ProfileState, evaluate
from cairn.evaluator.inputs import Arrival, EventArrival, ReplayArrival, Result, TimerArrival
from cairn.evaluator.wire import DAY_US
from cairn.journey.state import (
    CancelTimer,
    EnrollmentState,
    Kind,
    RequestActivation,
    ScheduleTimer,
    TimerInput,
    WithdrawActivation,
)

NOW_US = 1_767_225_600_000_000
HOUR_US = 3_600_000_000
LONG_AGO_US = NOW_US - 20 * DAY_US
STEPS = "[{wait: {duration: 3h}}, {activation: {channel: email, template: reminder}}]"
ADS = "[{activation: {channel: ads, action: ADD, until: EXIT}}, {wait: {duration: 2d}}]"


def run(book: JourneyBook, state: ProfileState, *arrivals: Arrival) -> Evaluated:
    return evaluate(book, state, arrivals, set(), NOW_US, NOW_US // DAY_US - 7)


def kinds(evaluated: Evaluated) -> list[Kind]:
    return [each.kind for each in evaluated.transitions]


def asked(evaluated: Evaluated) -> list[str]:
    return [each.activation_id for each in effects(evaluated, RequestActivation)]


def effects(evaluated: Evaluated, kind: type) -> list:
    return [each for _, of_one in evaluated.effects for each in of_one if type(each) is kind]


def timers(evaluated: Evaluated) -> set[str]:
    """The timers that the Scheduler holds in the end."""
    kept: set[str] = set()
    for _, of_one in evaluated.effects:
        for each in of_one:
            if type(each) is ScheduleTimer:
                kept.add(each.timer_id)
            elif type(each) is CancelTimer:
                kept.discard(each.timer_id)
    return kept


@pytest.fixture
def book(make_book, make_version) -> JourneyBook:
    return make_book(
        make_version("cart", 'event.name == "cart_add"', goal='event.name == "purchase"', steps=STEPS),
        make_version(
            "fan", 'event.name == "visit" && count("cart_add") >= 2 && count("visit", duration("900h")) > 0'
        ),
        make_version("ads", 'event.name == "cart_add"', goal='event.name == "purchase"', steps=ADS),
    )


@pytest.fixture
def past(event: Callable[..., EventArrival]) -> Callable[..., ReplayArrival]:
    """An event of `hours` after long ago, replayed now."""

    def make(name: str, event_id: str, hours: float, *, moves: bool = True) -> ReplayArrival:
        live = event(name, event_id, at_us=LONG_AGO_US + int(hours * HOUR_US))
        return ReplayArrival(live.profile_id, live.event, NOW_US, moves)

    return make


def test_an_event_that_is_only_remembered_moves_nothing_and_counts(book, event, past) -> None:
    done = run(book, ProfileState("ann"), *(past("cart_add", f"e{n}", n, moves=False) for n in range(2)))
    assert done.results == [Result.ACTED_ON] * 2
    assert (done.transitions, done.effects, done.state.standings) == ([], [], {})
    assert done.state.behavior["cart_add"].count == 2
    assert run(book, done.state, past("cart_add", "e1", 1, moves=False)).results == [Result.DUPLICATE]
    # Who asks later is told of it.
    assert "fan" in run(book, done.state, event("visit", "v")).state.standings


def test_what_is_due_by_now_acts_in_silence_and_what_is_due_later_as_ever(book, past, event) -> None:
    done = run(book, ProfileState("ann"), past("cart_add", "e", 0))
    assert asked(done) == []
    told = [each for each in done.transitions if each.kind is Kind.ACTIVATION_REQUESTED]
    assert [(each.journey_id, each.detail["silent"]) for each in told] == [("ads", True), ("cart", True)]
    cart = done.state.standings["cart"].enrollment
    assert (cart.state, cart.pending) == (EnrollmentState.RESTING, ())
    assert cart.rest_us == LONG_AGO_US + 3 * HOUR_US
    # At rest it stays for 24 days, of which four are left: the only timer that is wanted.
    assert cart.wake_us == LONG_AGO_US + 3 * HOUR_US + 24 * DAY_US > NOW_US
    assert cart.timer_id in timers(done)
    assert not timers(done) - {each.enrollment.timer_id for each in done.state.standings.values()}
    # Live events are heard again.
    again = run(book, done.state, event("purchase", "p"), event("cart_add", "c"))
    requests = effects(again, RequestActivation)
    assert [each.channel for each in requests] == ["connections/ads"]


def test_the_events_of_a_batch_are_judged_together_before_time_passes(book, past) -> None:
    done = run(book, ProfileState("ann"), past("cart_add", "e", 0), past("purchase", "p", 1))
    assert [each.kind for each in done.transitions if each.journey_id == "cart"] == [
        Kind.ENTERED,
        Kind.STAGE_ENTERED,
        Kind.WAIT_STARTED,
        Kind.WAIT_CANCELED,
        Kind.GOAL_ACHIEVED,
    ]
    assert done.state.standings["cart"].enrollment.end_us == LONG_AGO_US + HOUR_US
    assert asked(done) == []
    assert timers(done) == set()


def test_nothing_waits_for_what_was_not_asked_for(book, past, event) -> None:
    done = run(book, ProfileState("ann"), past("cart_add", "e", 0), past("purchase", "p", 5))
    assert effects(done, WithdrawActivation) == []
    assert Kind.ACTIVATION_WITHDRAWN not in kinds(done)
    # Silently added, silently left: no audience is told of either.
    assert asked(done) == []
    begun = run(book, ProfileState("ann"), past("cart_add", "e", 24 * 19.5))
    later = run(book, begun.state, event("purchase", "p"))
    assert (asked(later), effects(later, WithdrawActivation)) == ([], [])
    assert Kind.GOAL_ACHIEVED in kinds(later)


def test_what_was_really_asked_for_is_taken_back_though_in_silence(book, past, event) -> None:
    live = run(book, ProfileState("ann"), event("cart_add", "e"))
    (added,) = asked(live)
    # A purchase of the past that nobody had told of.
    done = run(book, live.state, past("purchase", "p", 24 * 20))
    assert Kind.GOAL_ACHIEVED in kinds(done)
    assert asked(done) == [f"{added}.remove"]
    assert [each.activation_id for each in effects(done, WithdrawActivation)] == [added]


def test_what_is_due_anyway_is_not_silenced(book, past, event) -> None:
    """The Scheduler is late; an event of the past that comes meanwhile must not swallow the reminder."""
    live = run(book, ProfileState("ann"), event("cart_add", "e", at_us=NOW_US - 4 * HOUR_US))
    timer = live.state.standings["cart"].enrollment
    assert 0 < timer.wake_us < NOW_US
    done = run(book, live.state, past("visit", "v", 0))
    assert [each.channel for each in effects(done, RequestActivation)] == ["connections/email"]
    late = TimerArrival("ann", "cart", TimerInput(timer.timer_id, timer.wake_us))
    assert run(book, done.state, late).results == [Result.STALE]


def test_silence_ends_with_the_next_live_event(book, past, event) -> None:
    done = run(
        book, ProfileState("ann"), past("cart_add", "e", 0), event("purchase", "p"), event("cart_add", "c")
    )
    told = [each for each in done.transitions if each.kind is Kind.ACTIVATION_REQUESTED]
    assert [each.detail.get("silent", False) for each in told] == [True, True, False]
    assert len(asked(done)) == 1


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    data=st.lists(
        st.tuples(st.sampled_from(["cart_add", "purchase", "visit"]), st.integers(0, 24 * 15)), max_size=8
    )
)
def test_silence_leads_to_where_life_would_have_led(book, event, data: list[tuple[str, int]]) -> None:
    """Live: each event at its time, with every timer in between. The enrollments are the same, but for what they asked for."""
    replayed = [(name, LONG_AGO_US + hours * HOUR_US, f"e{n}") for n, (name, hours) in enumerate(data)]
    replayed.sort(key=lambda each: each[1])
    arrivals = [
        ReplayArrival("ann", event(name, event_id, at_us=at).event, NOW_US, True)
        for name, at, event_id in replayed
    ]
    silent = run(book, ProfileState("ann"), *arrivals)
    assert asked(silent) == []
    state, transitions = ProfileState("ann"), []
    for name, at, event_id in [*replayed, ("", NOW_US + 1, "")]:
        while wake := _first_due(state, at):
            due, standing_id, timer_id = wake
            step = run(book, state, TimerArrival("ann", standing_id, TimerInput(timer_id, due)))
            state, transitions = step.state, transitions + step.transitions
        if name:
            step = run(book, state, event(name, event_id, at_us=at))
            state, transitions = step.state, transitions + step.transitions
    assert sorted(map(_fact, filter(_is_told, silent.transitions))) == sorted(
        map(_fact, filter(_is_told, transitions))
    )
    assert {each: _place(standing) for each, standing in silent.state.standings.items()} == {
        each: _place(standing) for each, standing in state.standings.items()
    }
    assert silent.state.behavior == state.behavior


def _first_due(state: ProfileState, before_us: int) -> tuple[int, str, str] | None:
    due = [
        (each.enrollment.wake_us, standing_id, each.enrollment.timer_id)
        for standing_id, each in state.standings.items()
        if each.enrollment is not None and 0 < each.enrollment.wake_us < before_us
    ]
    return min(due, default=None)


def _is_told(each) -> bool:
    """Whether silence tells of it too: what was not asked for can't be taken back."""
    return each.kind is not Kind.ACTIVATION_WITHDRAWN and each.detail.get("action") != "REMOVE"


def _fact(each) -> tuple:
    detail = {name: value for name, value in each.detail.items() if name != "silent"}
    return each.time_us, each.journey_id, each.kind, each.stage, each.step, each.cause, str(detail)


def _place(standing) -> tuple:
    enrollment = standing.enrollment
    if enrollment is None:
        return (standing.entries,)
    return (
        standing.entries,
        enrollment.enrollment_id,
        enrollment.state,
        enrollment.position,
        enrollment.now_us,
        enrollment.wake_us,
        enrollment.end_us,
    )
