"""The simulator: the very machine, a virtual clock, punctual timers, messages that are sent at once."""

import time

import pytest

from cairn.journey.limits import DAY_US, HOUR_US, MINUTE_US
from cairn.journey.live import LiveJourneys
from cairn.journey.simulation import (
    LONGEST_RUN_US,
    MOST_RINGS,
    SimulatedEvent,
    SimulatedInput,
    SimulatedProfile,
    Simulation,
    live_of,
    simulate,
)
from cairn.journey.times import to_us
from cairn.testing.journeys import event, line, passes, profile, read_journeys, tell

CART = """
name: cart
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
reentry: {mode: ALWAYS}
stages:
  - name: one
    entry: event.name == "cart_add"
    steps: [{wait: {duration: 3h}}, {activation: {channel: email}}]
"""
START_US = to_us("2026-01-01T00:00:00Z")


def live(text: str = CART) -> LiveJourneys:
    journeys, segments = read_journeys(text)
    return live_of(journeys, segments)


def happens(
    name: str, hours: float, profile_id: str = "ann", event_id: str = "", **properties: object
) -> SimulatedEvent:
    time_us = START_US + round(hours * HOUR_US)
    return SimulatedEvent(event_id or f"{name}-{hours}", profile_id, name, time_us, properties)


def changes(
    hours: float, profile_id: str = "ann", time_zone: str = "", **attributes: object
) -> SimulatedProfile:
    return SimulatedProfile(profile_id, START_US + round(hours * HOUR_US), attributes, time_zone)


def lines(run: Simulation) -> list[str]:
    return [f"{profile_id} {line(each, START_US)}" for profile_id, each in run]


def asked(run: Simulation) -> list[str]:
    return [text for text in lines(run) if "ACTIVATION_REQUESTED" in text]


BEGUN = ["ann 0s ENTERED one", "ann 0s STAGE_ENTERED one", "ann 0s WAIT_STARTED one/1 until 3h"]
REMINDED = ["ann 3h WAIT_ENDED one/1", "ann 3h ACTIVATION_REQUESTED one/2 through email", "ann 3h RESTED one"]


def test_it_says_what_a_story_says() -> None:
    run = simulate(live(), [happens("cart_add", 0), happens("purchase", 4)])
    told = tell(CART, event("cart_add"), passes("3h"), event("purchase", at="4h"))
    # But that the message is on its way in the story, where nobody has told of its fate.
    assert [text.removeprefix("ann ") for text in lines(run)] == [
        text for text in told if "WITHDRAWN" not in text
    ]


def test_a_message_is_handed_over_when_the_input_that_asked_for_it_is_done() -> None:
    assert lines(simulate(live(), [happens("cart_add", 0), happens("purchase", 3.5)])) == [
        *BEGUN,
        *REMINDED,
        "ann 3h30m GOAL_ACHIEVED one",
    ]


def test_inputs_run_in_order_of_time_ties_in_the_given_order() -> None:
    given: list[SimulatedInput] = [happens("purchase", 1), happens("cart_add", 0)]
    assert lines(simulate(live(), given))[-1] == "ann 1h GOAL_ACHIEVED one"
    tie = [happens("cart_add", 1, event_id="a"), happens("purchase", 1, event_id="b")]
    assert lines(simulate(live(), tie))[-1] == "ann 1h GOAL_ACHIEVED one"
    # Of the same instant, the goal first: it is not later than the cart, which begins.
    assert lines(simulate(live(), tie[::-1]))[0] == "ann 1h ENTERED one"


def test_what_is_due_before_an_input_acts_before_it_what_is_due_with_it_after_it() -> None:
    assert lines(simulate(live(), [happens("cart_add", 0), happens("purchase", 3)])) == [
        *BEGUN,
        "ann 3h WAIT_CANCELED one/1",
        "ann 3h GOAL_ACHIEVED one",
    ]
    late = happens("purchase", 3 + 1e-6)
    assert lines(simulate(live(), [happens("cart_add", 0), late]))[3:6] == REMINDED


def test_what_is_due_with_an_input_acts_after_it_though_something_else_is_due_before() -> None:
    given = [happens("cart_add", 0, "ann"), happens("cart_add", 1, "bob"), happens("purchase", 4, "bob")]
    assert asked(simulate(live(), given)) == ["ann 3h ACTIVATION_REQUESTED one/2 through email"]


def test_what_is_due_in_an_instant_acts_after_all_inputs_of_it_whoever_they_are_of() -> None:
    given = [happens("cart_add", 0, "ann"), happens("cart_add", 3, "bob")]
    assert lines(simulate(live(), given))[3:7] == [
        "bob 3h ENTERED one",
        "bob 3h STAGE_ENTERED one",
        "bob 3h WAIT_STARTED one/1 until 6h",
        REMINDED[0],
    ]


def test_timers_of_one_instant_ring_in_the_order_in_which_they_were_asked_for() -> None:
    names = ["dora", "ann", "carl", "bob"]
    given = [happens("cart_add", 0, name) for name in names]
    assert asked(simulate(live(), given)) == [
        f"{name} 3h ACTIVATION_REQUESTED one/2 through email" for name in names
    ]


def test_an_event_counts_once_whatever_else_differs() -> None:
    run = simulate(
        live(),
        [
            happens("cart_add", 0, event_id="e"),
            happens("purchase", 1, event_id="e"),
            happens("purchase", 2, "bob", event_id="e"),
        ],
    )
    assert lines(run)[-2:] == [REMINDED[-1], "ann 24d3h COMPLETED one"]
    assert (run.taken, run.repeated) == (2, 1)


def test_the_instant_of_the_end_is_included_and_later_inputs_are_not_taken() -> None:
    given = [happens("cart_add", 0), happens("cart_add", 3, "bob"), happens("cart_add", 3.1, "carl")]
    run = simulate(live(), given, START_US + 3 * HOUR_US)
    assert asked(run) == ["ann 3h ACTIVATION_REQUESTED one/2 through email"]
    assert (run.taken, run.later) == (2, 1)
    assert asked(simulate(live(), given, START_US + 3 * HOUR_US - 1)) == []
    assert "bob 3h ENTERED one" in lines(simulate(live(), given, START_US + 3 * HOUR_US))


def test_the_clock_runs_on_to_an_end_that_is_after_the_last_input() -> None:
    run = simulate(live(), [happens("cart_add", 0)], START_US + 100 * DAY_US)
    assert lines(run)[-1] == "ann 24d3h COMPLETED one"


def test_without_an_end_it_runs_until_nothing_is_left_to_happen() -> None:
    run = simulate(live(), [happens("cart_add", 0)])
    assert lines(run)[-1] == "ann 24d3h COMPLETED one"
    assert run.cut == set()


def test_an_end_before_everything_is_nothing() -> None:
    run = simulate(live(), [happens("cart_add", 0)], START_US - 1)
    assert lines(run) == []
    assert (run.taken, run.later) == (0, 1)


def test_no_inputs_no_lines() -> None:
    assert lines(simulate(live(), [])) == []


ROUND = """
name: round
type: REAL_TIME
reentry: {mode: ALWAYS}
stages: [{name: only, entry: event.name == "begin", steps: [{wait: {duration: WAIT}}, {jump: {journey: round}}]}]
"""


def test_a_journey_that_goes_round_is_cut_long_after_the_last_input_and_that_is_said() -> None:
    run = simulate(live(ROUND.replace("WAIT", "10d")), [happens("begin", 0)])
    told = list(run)
    assert told[-1][1].time_us <= START_US + LONGEST_RUN_US < told[-1][1].time_us + 10 * DAY_US
    assert run.cut == {"ann"}


def test_one_that_goes_round_fast_is_cut_after_many_turns() -> None:
    run = simulate(live(ROUND.replace("WAIT", "1m")), [happens("begin", 0), happens("begin", 1, "bob")])
    jumps = [profile_id for profile_id, each in run if each.kind.name == "JUMPED"]
    assert jumps.count("bob") == MOST_RINGS
    assert jumps.count("ann") > MOST_RINGS
    assert run.cut == {"ann", "bob"}


def test_one_that_goes_round_runs_as_far_as_it_is_told() -> None:
    run = simulate(live(ROUND.replace("WAIT", "1d")), [happens("begin", 0)], START_US + 500 * DAY_US)
    assert sum(each.kind.name == "JUMPED" for _, each in run) == 500
    assert run.cut == set()


def test_a_wait_of_a_year_is_waited_for() -> None:
    year = CART.replace("3h", "366d")
    assert asked(simulate(live(year), [happens("cart_add", 0)])) == [
        "ann 366d ACTIVATION_REQUESTED one/2 through email"
    ]


def test_a_profile_is_what_it_was_told_to_be() -> None:
    """Attributes are merged at the top level, None removes one, an empty time zone leaves what there is."""
    text = """
name: profiles
type: REAL_TIME
reentry: {mode: ALWAYS}
stages:
  - name: only
    entry: event.name == "look"
    steps:
      - decision:
          branches:
            - {name: both, criteria: 'has(profile.a.x) && profile.b == 2'}
            - {name: first, criteria: 'profile.a.y == 1 && !has(profile.b)'}
      - wait: {until_time: "09:00"}
"""
    run = simulate(
        live(text),
        [
            happens("look", 0),
            changes(1, time_zone="Asia/Tokyo", a={"x": 1}, b=2),
            happens("look", 24),
            changes(25, a={"y": 1}, b=None),
            happens("look", 48),
        ],
    )
    told = [text for text in lines(run) if "BRANCH_TAKEN" in text or "WAIT_STARTED" in text]
    assert told == [
        "ann 0s BRANCH_TAKEN only/1 otherwise",
        "ann 0s WAIT_STARTED only/2 until 9h",
        "ann 1d BRANCH_TAKEN only/1 both",
        "ann 1d WAIT_STARTED only/2 until 1d",
        "ann 2d BRANCH_TAKEN only/1 first",
        "ann 2d WAIT_STARTED only/2 until 2d",
    ]


def test_numbers_are_doubles_as_they_are_off_the_wire() -> None:
    text = CART.replace(
        'event.name == "cart_add"',
        "event.name == 'cart_add' && event.properties.n / 2.0 == 1.5 && profile.m * 2.0 == 3.0",
    )
    run = simulate(live(text), [changes(0, m=1.5), happens("cart_add", 1, n=3)])
    assert lines(run)[0] == "ann 1h ENTERED one"
    nested = CART.replace(
        'event.name == "cart_add"', "event.name == 'cart_add' && event.properties.items[0].n + 0.5 == 3.5"
    )
    assert (
        lines(simulate(live(nested), [happens("cart_add", 1, items=[{"n": 3}])]))[0] == "ann 1h ENTERED one"
    )


def test_a_change_that_changes_nothing_is_no_input() -> None:
    text = (
        CART.replace('event.name == "cart_add"', "profile.level > 1")
        .replace("{wait: {duration: 3h}}, ", "")
        .replace('goal: {criteria: event.name == "purchase"}\n', "")
    )
    run = simulate(live(text), [changes(0, level=2), changes(1, level=2), changes(2, level=3)])
    assert [text for text in lines(run) if "ENTERED one" in text and "STAGE" not in text] == [
        "ann 0s ENTERED one",
        "ann 2h ENTERED one",
    ]


def test_journeys_run_together_and_jumps_begin_others() -> None:
    text = (
        ROUND.replace("WAIT", "1h").replace("jump: {journey: round}", "jump: {journey: cart}")
        + "\n---\n"
        + CART
    )
    run = simulate(live(text), [happens("begin", 0)])
    assert [f"{each.journey_id} {each.kind.name}" for _, each in run][3:6] == [
        "round WAIT_ENDED",
        "round JUMPED",
        "cart ENTERED",
    ]
    assert run.unserved == set()


def test_a_jump_to_a_journey_that_is_not_there_begins_nothing_and_is_told() -> None:
    run = simulate(
        live(ROUND.replace("WAIT", "1h").replace("journey: round}", "journey: elsewhere}")),
        [happens("begin", 0)],
    )
    assert lines(run)[-1] == "ann 1h JUMPED only/2 to elsewhere"
    assert run.unserved == {"elsewhere"}


def test_criteria_that_fail_are_counted_by_journey() -> None:
    text = CART.replace('event.name == "cart_add"', "event.properties.n > 1")
    run = simulate(live(text), [happens("any", 0), happens("any", 1, n=0), happens("any", 2)])
    assert lines(run) == []
    assert run.failures == {"cart": 2}


def test_it_goes_on_as_far_as_it_is_asked() -> None:
    run = simulate(live(), [happens("cart_add", hour, f"p{hour}") for hour in range(100)])
    assert [next(run)[1].kind.name for _ in range(3)] == ["ENTERED", "STAGE_ENTERED", "WAIT_STARTED"]
    assert run.taken == 1


def test_the_same_inputs_give_the_same_lines_to_the_byte() -> None:
    given = [happens(("cart_add", "purchase", "look")[n % 3], n / 7, f"p{n % 5}") for n in range(300)]
    assert list(simulate(live(), given)) == list(simulate(live(), list(given)))


@pytest.mark.parametrize("seed", range(5))
def test_lines_are_in_order_of_time(seed: int) -> None:
    text = (
        CART
        + "\n---\n"
        + ROUND.replace("WAIT", "5h").replace("jump: {journey: round}", "jump: {journey: cart}")
    )
    names = ("cart_add", "begin", "purchase", "look")
    given = [happens(names[(n * (seed + 3)) % 4], (n * 37 % 101) / 3, f"p{n % 7}") for n in range(400)]
    times = [each.time_us for _, each in simulate(live(text), given)]
    assert len(times) > 100
    assert times == sorted(times)


def test_ninety_one_days_take_less_than_a_second() -> None:
    """Ten thousand events of five hundred profiles through three journeys; on an idle machine a third of that."""
    journeys = live(
        "\n---\n".join(
            [
                CART,
                CART.replace("name: cart", "name: second").replace("3h", "2d"),
                ROUND.replace("WAIT", "1d").replace("jump: {journey: round}", "activation: {channel: log}"),
            ]
        )
    )
    names = ("cart_add", "look", "begin", "look", "purchase", "cart_add", "look", "look")
    given = [
        SimulatedEvent(f"e{n}", f"p{n * 7919 % 500}", names[n % 8], START_US + n * 13 * MINUTE_US, {"n": n})
        for n in range(10_000)
    ]
    assert given[-1].time_us - START_US > 90 * DAY_US
    took = []
    # The best of three: others use this machine too.
    while len(took) < 3 and not (took and took[-1] < 1.0):
        began = time.process_time()
        assert sum(1 for _ in simulate(journeys, given)) > 10_000
        took.append(time.process_time() - began)
    assert min(took) < 1.0


def test_profile_changes_and_events_do_what_they_do_in_a_story() -> None:
    text = CART.replace('goal: {criteria: event.name == "purchase"}', "goal: {criteria: profile.bought}")
    run = simulate(live(text), [happens("cart_add", 0), changes(1, bought=True)])
    told = tell(text, event("cart_add"), profile(at="1h", bought=True))
    assert [text.removeprefix("ann ") for text in lines(run)] == told
