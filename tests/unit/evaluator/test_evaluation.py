"""What a batch does to one profile, and how one failure in it harms nothing beside it."""

import itertools
from collections import Counter
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.evaluator.evaluation import (
    Evaluated,
    ProfileState,
    decode_profile,
    decode_transitions,
    merge,
    stamp,
    told_id,
    transitions_row,
)
from cairn.evaluator.evaluation import evaluate as evaluate_at
from cairn.evaluator.inputs import ProfileArrival, ReceiptArrival, Result, TimerArrival
from cairn.evaluator.recent import MOST, MOST_BYTES, MOST_PER_JOURNEY, RecentInput, remember
from cairn.evaluator.store import ProfileRow
from cairn.evaluator.wire import DAY_US, Refused
from cairn.journey import dispatch, machine
from cairn.journey.state import Kind, ReceiptInput, ScheduleTimer, TimerInput

NOW_US = 1_767_225_600_000_000
TODAY = NOW_US // DAY_US


def evaluate(book, state, arrivals, seen) -> Evaluated:
    return evaluate_at(book, state, arrivals, seen, NOW_US, TODAY - 7)


def kinds(evaluated: Evaluated) -> list[Kind]:
    return [each.kind for each in evaluated.transitions]


def stored(evaluated: Evaluated) -> ProfileState:
    """The profile as it comes back from the table."""
    write = evaluated.write
    assert write is not None
    assert write.attributes is not None
    return decode_profile(
        ProfileRow(
            write.profile_id,
            write.revision,
            write.attributes,
            write.time_zone,
            write.standings,
            0,
            seen=write.seen or "",
        )
    )


def test_a_batch_is_run_in_order(carts, event) -> None:
    arrivals = [event("cart_add", "1"), event("purchase", "2"), event("cart_add", "3")]
    evaluated = evaluate(carts, ProfileState("ann"), arrivals, set())
    assert evaluated.results == [Result.ACTED_ON] * 3
    assert evaluated.state.seen.ids == {"1": TODAY, "2": TODAY, "3": TODAY}
    one = [Kind.ENTERED, Kind.STAGE_ENTERED, Kind.WAIT_STARTED]
    assert kinds(evaluated) == [*one, Kind.WAIT_CANCELED, Kind.GOAL_ACHIEVED, *one]
    assert (evaluated.write.revision, evaluated.state.revision) == (1, 1)


def test_what_is_written_is_what_is_kept_in_memory(carts, event, description) -> None:
    arrivals = [event("cart_add", "1"), description(plan="gold", time_zone="Asia/Tokyo", n=1.5)]
    evaluated = evaluate(carts, ProfileState("ann"), arrivals, set())
    assert stored(evaluated) == evaluated.state
    assert set(evaluated.state.standings) == {"cart", "gold"}


def test_the_profile_given_is_left_as_it_is(carts, event, description) -> None:
    state = evaluate(carts, ProfileState("ann"), [event("cart_add", "1"), description(a=1)], set()).state
    before = (
        state.revision,
        dict(state.attributes),
        dict(state.standings),
        state.standings["cart"].enrollment.state,
    )
    arrivals = [event("purchase", "2"), description(plan="gold"), description(a=None)]
    assert evaluate(carts, state, arrivals, set()).state.attributes == {"plan": "gold"}
    assert before == (
        state.revision,
        dict(state.attributes),
        dict(state.standings),
        state.standings["cart"].enrollment.state,
    )


def test_attributes_that_stay_are_not_written_again(carts, event, description) -> None:
    state = evaluate(carts, ProfileState("ann"), [description(a=1)], set()).state
    assert evaluate(carts, state, [event("cart_add", "1")], set()).write.attributes is None
    assert evaluate(carts, state, [description(a=2)], set()).write.attributes == '{"a":2}'


def test_duplicates_are_known_within_a_batch_and_from_before(carts, event) -> None:
    seen = {("ann", "old"), ("bob", "1")}
    arrivals = [event("cart_add", "old"), event("cart_add", "1"), event("purchase", "1")]
    evaluated = evaluate(carts, ProfileState("ann"), arrivals, seen)
    assert evaluated.results == [Result.DUPLICATE, Result.ACTED_ON, Result.DUPLICATE]
    assert evaluated.state.seen.ids == {"1": TODAY}
    again = evaluate(carts, evaluated.state, [event("purchase", "1"), event("purchase", "2")], set())
    assert again.results == [Result.DUPLICATE, Result.ACTED_ON]


def test_transitions_are_read_as_they_are_written_and_as_earlier_releases_wrote_them(carts, event) -> None:
    transitions = evaluate(carts, ProfileState("ann"), [event("cart_add", "1")], set()).transitions
    assert transitions
    written = msgspec.json.encode(transitions).decode()
    assert decode_transitions(written) == transitions
    named = [{name: getattr(each, name) for name in each.__struct_fields__} for each in transitions]
    before = decode_transitions(msgspec.json.encode(named).decode())
    assert [msgspec.structs.astuple(each) for each in before] == [
        msgspec.structs.astuple(each) for each in transitions
    ]


def test_only_duplicates_write_nothing(carts, event) -> None:
    evaluated = evaluate(carts, ProfileState("ann"), [event("cart_add", "old")], {("ann", "old")})
    assert (evaluated.write, evaluated.state.revision) == (None, 0)


def test_a_timer_or_a_receipt_of_nobody_is_stale_and_writes_no_profile(carts) -> None:
    arrivals = [
        TimerArrival("ann", "cart", TimerInput("nobody.t1", NOW_US)),
        TimerArrival("ann", "no-such-journey", TimerInput("nobody.t1", NOW_US)),
        ReceiptArrival("ann", ReceiptInput("nobody.0"), "nobody", NOW_US, "[]"),
    ]
    evaluated = evaluate(carts, ProfileState("ann"), arrivals, set())
    assert evaluated.results == [Result.STALE] * 3
    assert evaluated.write is None
    assert len(evaluated.receipts) == 1


def test_a_timer_acts_once(carts, event) -> None:
    begun = evaluate(carts, ProfileState("ann"), [event("cart_add", "1")], set())
    ((_, (schedule,)),) = begun.effects
    assert isinstance(schedule, ScheduleTimer)
    timer = TimerArrival("ann", "cart", TimerInput(schedule.timer_id, schedule.due_us))
    evaluated = evaluate(carts, begun.state, [timer, timer], set())
    assert evaluated.results == [Result.ACTED_ON, Result.STALE]
    assert kinds(evaluated) == [Kind.WAIT_ENDED, Kind.RESTED]


def test_a_version_that_is_not_known_here_comes_again_later(
    carts, make_book, make_version, event, description
) -> None:
    state = evaluate(carts, ProfileState("ann"), [event("cart_add", "1")], set()).state
    newer = make_book(
        make_version("cart", 'event.name == "cart_add"', goal='event.name == "purchase"', number=2)
    )
    timer = TimerArrival("ann", "cart", TimerInput(state.standings["cart"].enrollment.timer_id, NOW_US))
    evaluated = evaluate(newer, state, [event("purchase", "2"), timer, description(a=1)], set())
    assert evaluated.results == [Result.LATER] * 3
    assert (evaluated.write, evaluated.state.seen.ids, evaluated.effects) == (None, {"1": TODAY}, [])
    ended = evaluate(make_book(), state, [timer], set())
    assert ended.results == [Result.LATER]


def test_a_description_that_would_be_too_large_changes_nothing(carts, description) -> None:
    state = evaluate(carts, ProfileState("ann"), [description(a="x" * 20_000)], set()).state
    arrivals = [description(plan="gold", b="y" * 20_000), description(c=1), description(c=None)]
    evaluated = evaluate(carts, state, arrivals, set())
    refused, *others = evaluated.results
    assert isinstance(refused, Refused)
    assert others == [Result.ACTED_ON] * 2
    assert set(evaluated.state.attributes) == {"a"}
    assert evaluated.state.standings == {}


# A fault: the machine fails on one input


class PoisonError(Exception):
    """What nobody foresaw."""


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine fails on events with the id "poison", in the journey "gold" only, and on descriptions with it."""
    real = machine.advance

    def advance(journey: Any, profile: Any, standing: Any, input: Any, **more: Any) -> Any:
        outcome = real(journey, profile, standing, input, **more)
        poison = getattr(input, "event_id", "") == "poison" or profile.attributes.get("poison")
        if poison and journey.journey_id == "gold":
            raise PoisonError
        return outcome

    monkeypatch.setattr(dispatch, "advance", advance)


@pytest.fixture
def both(make_book, make_version):
    """Two journeys that the same event reaches; the second is poisoned."""
    return make_book(
        make_version("cart", 'event.name == "cart_add"', goal='event.name == "purchase"'),
        make_version("gold", 'event.name == "cart_add" && profile.plan == "gold"'),
    )


def test_a_poisoned_event_takes_nothing_with_it(poisoned, both, event) -> None:
    arrivals = [
        event("cart_add", "1"),
        event("purchase", "2"),
        event("cart_add", "poison"),
        event("cart_add", "3"),
    ]
    evaluated = evaluate(both, ProfileState("ann"), arrivals, set())
    clean = evaluate(both, ProfileState("ann"), [*arrivals[:2], arrivals[3]], set())
    assert evaluated.results == [Result.ACTED_ON, Result.ACTED_ON, Result.FAILED, Result.ACTED_ON]
    assert evaluated.state == clean.state
    assert evaluated.write == clean.write
    assert evaluated.effects == clean.effects
    assert evaluated.transitions == clean.transitions
    assert evaluated.state.seen == clean.state.seen


def test_what_the_first_journey_did_with_a_poisoned_event_is_taken_back(poisoned, both, event) -> None:
    evaluated = evaluate(both, ProfileState("ann"), [event("cart_add", "poison")], set())
    assert evaluated.results == [Result.FAILED]
    assert (evaluated.effects, evaluated.transitions, evaluated.state.seen.ids) == ([], [], {})
    assert evaluated.state.standings == {}


def test_a_poisoned_event_that_comes_again_is_no_duplicate(poisoned, both, event) -> None:
    arrivals = [event("cart_add", "poison"), event("cart_add", "poison")]
    assert evaluate(both, ProfileState("ann"), arrivals, set()).results == [Result.FAILED] * 2


def test_a_poisoned_description_is_taken_back(poisoned, carts, description) -> None:
    arrivals = [
        description(a=1, time_zone="UTC"),
        description(poison=True, time_zone="Asia/Tokyo"),
        description(b=2),
    ]
    evaluated = evaluate(carts, ProfileState("ann"), arrivals, set())
    assert evaluated.results == [Result.ACTED_ON, Result.FAILED, Result.ACTED_ON]
    assert (evaluated.state.attributes, evaluated.state.time_zone) == ({"a": 1, "b": 2}, "UTC")


# Merging

NAMES = st.sampled_from("abc")
VALUES = st.one_of(st.none(), st.booleans(), st.floats(allow_nan=False), st.text(max_size=3))


@given(
    st.dictionaries(NAMES, VALUES.filter(lambda value: value is not None)),
    st.dictionaries(NAMES, VALUES),
    st.booleans(),
)
def test_merging_is_idempotent_keeps_no_null_and_leaves_what_it_was_given(before, sent, replace) -> None:
    arrival = ProfileArrival("ann", sent, "", replace, NOW_US)
    copy = dict(before)
    merged = merge(before, arrival)
    assert before == copy
    assert merge(merged, arrival) == merged
    assert None not in merged.values()
    expected = {**({} if replace else before), **sent}
    assert merged == {name: value for name, value in expected.items() if value is not None}


def test_what_is_told_has_an_id_that_fits_the_table_and_its_facts() -> None:
    ids = [told_id(*facts) for facts in (("a", "b"), ("ab", ""), ("a", "c"), ("b", "a"))]
    assert told_id("a", "b") == ids[0]
    assert all(first != second for first, second in itertools.combinations(ids, 2))
    assert all(0 <= each < 2**63 for each in ids)


def test_a_timeline_is_in_the_order_of_revisions_whatever_the_clocks_of_replicas_say(carts, event) -> None:
    first = evaluate(carts, ProfileState("ann"), [event("cart_add", "1")], set())
    stamp(first, ProfileState("ann"), NOW_US)
    second = evaluate(carts, first.state, [event("purchase", "2")], set())
    stamp(second, first.state, NOW_US - 5_000_000)
    assert transitions_row(first).record_us == NOW_US
    assert transitions_row(second).record_us == NOW_US + 1
    assert second.state.update_us == NOW_US + 1


# What is kept of inputs without effect


def test_what_changed_nothing_is_kept_and_what_did_is_not(carts, event) -> None:
    arrivals = [event("purchase", "1"), event("cart_add", "2"), event("cart_add", "3")]
    state = evaluate(carts, ProfileState("ann"), arrivals, set()).state
    assert [(each.journey_id, each.event_id) for each in state.recent] == [("cart", "1"), ("cart", "3")]


def test_what_is_kept_is_bounded_by_journey_in_all_and_in_size(carts, event) -> None:
    recent: tuple[RecentInput, ...] = ()
    for number in range(40):
        recent = remember(recent, f"journey-{number % 10}", event("x", str(number)).event)
    assert len(recent) == MOST
    assert max(Counter(each.journey_id for each in recent).values()) <= MOST_PER_JOURNEY
    large = event("x", "large").event
    large.view["properties"]["text"] = "y" * MOST_BYTES
    assert remember((), "cart", large)[0].properties is None


def test_one_and_true_are_not_the_same(carts, description) -> None:
    state = evaluate(carts, ProfileState("ann"), [description(plan=1.0)], set()).state
    evaluated = evaluate(carts, state, [description(plan=True)], set())
    assert evaluated.write is not None
    assert evaluated.state.attributes == {"plan": True}
    assert evaluated.state.attributes["plan"] is True
