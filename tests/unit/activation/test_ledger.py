"""Which state may follow which, and what an outcome makes of a row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.ledger import (
    LONGEST_ASKED_US,
    MOVES,
    Fate,
    Mover,
    Outcome,
    RetryPolicy,
    State,
    is_final,
    may_follow,
    settle,
)
from cairn.api.activation.v1 import activation_pb2 as pb

POLICY = RetryPolicy(budget=3, base_us=1_000, cap_us=50_000)
NOW = 1_000_000


def test_the_states_are_those_of_the_contract() -> None:
    wire = {name: number for name, number in pb.DeliveryState.items() if number}
    assert wire == {f"DELIVERY_STATE_{state.name}": state.value for state in State}


def test_final_is_what_no_lane_moves() -> None:
    moved_by_lanes = {state for state in State if any(Mover.LANE in who for who in MOVES[state].values())}
    assert {state for state in State if is_final(state)} == set(State) - moved_by_lanes
    assert {state for state in State if is_final(state)} == {
        State.SENT,
        State.REFUSED,
        State.FAILED,
        State.UNKNOWN,
        State.WITHDRAWN,
    }


def test_only_what_has_not_left_can_be_withdrawn() -> None:
    assert may_follow(State.WITHDRAWN, Mover.CALLER) == {State.PENDING, State.LEASED}
    for mover in set(Mover) - {Mover.CALLER}:
        assert not may_follow(State.WITHDRAWN, mover)
    assert State.SENDING in MOVES[State.LEASED]
    assert State.SENDING not in MOVES[State.PENDING]


def test_what_is_unknown_is_sent_again_by_nobody_but_a_human() -> None:
    assert MOVES[State.UNKNOWN][State.PENDING] is Mover.OPERATOR
    assert may_follow(State.PENDING, Mover.OPERATOR) == {State.FAILED, State.REFUSED, State.UNKNOWN}


def test_a_destination_only_says_what_became_of_what_is_unknown() -> None:
    for state in State:
        expected = {State.UNKNOWN} if state in (State.SENT, State.FAILED) else set()
        assert may_follow(state, Mover.DESTINATION) == expected


def test_what_was_sent_or_withdrawn_stays_so() -> None:
    assert not MOVES[State.SENT]
    assert not MOVES[State.WITHDRAWN]


@pytest.mark.parametrize(
    ("fate", "attempts", "state"),
    [
        (Fate.SENT, 1, State.SENT),
        (Fate.REFUSED, 1, State.REFUSED),
        (Fate.FAILED, 1, State.FAILED),
        (Fate.UNKNOWN, 1, State.UNKNOWN),
        (Fate.RETRY, 1, State.PENDING),
        (Fate.RETRY, 2, State.PENDING),
        (Fate.RETRY, 3, State.FAILED),
        (Fate.RETRY, 4, State.FAILED),
        (Fate.HELD, 1, State.PENDING),
        (Fate.HELD, 3, State.PENDING),
    ],
)
def test_what_an_outcome_makes_of_a_row(fate: Fate, attempts: int, state: State) -> None:
    settled = settle(Outcome(fate, "why"), attempts, POLICY, 1.0, NOW)
    assert settled.state is state
    assert settled.final == is_final(state)


def test_giving_up_says_how_often_it_was_tried() -> None:
    assert settle(Outcome(Fate.RETRY, "451 later"), 3, POLICY, 1.0, NOW).detail == (
        "given up after 3 attempts: 451 later"
    )


@pytest.mark.parametrize(
    ("attempts", "pause_us"), [(1, 1_000), (2, 4_000), (3, 16_000), (4, 50_000), (9_999, 50_000)]
)
def test_pauses_grow_fourfold_up_to_the_cap(attempts: int, pause_us: int) -> None:
    assert POLICY.pause_us(attempts, 1.0) == pause_us


@pytest.mark.parametrize(
    ("asked_us", "pause_us"),
    [(500, 1_000), (20_000, 20_000), (10**9, 10**9), (LONGEST_ASKED_US + 1, LONGEST_ASKED_US)],
)
def test_a_destination_may_ask_for_a_longer_pause_also_past_our_own_cap(asked_us: int, pause_us: int) -> None:
    asked = Outcome(Fate.RETRY, retry_after_us=asked_us)
    assert settle(asked, 1, POLICY, 1.0, NOW).next_attempt_us == NOW + pause_us
    assert LONGEST_ASKED_US == 86_400_000_000


@pytest.mark.parametrize("fate", Fate)
def test_a_channel_may_answer_whatever_it_likes(fate: Fate) -> None:
    assert settle(Outcome(fate), 1, POLICY, 1.0, NOW).state in MOVES[State.SENDING]


def test_what_is_held_waits_until_its_time_and_was_no_attempt() -> None:
    settled = settle(Outcome(Fate.HELD, "quiet hours", until_us=NOW + 10**9), 2, POLICY, 1.0, NOW)
    assert (settled.state, settled.next_attempt_us, settled.attempts) == (State.PENDING, NOW + 10**9, 1)
    assert settled.detail == "quiet hours"
    assert settled.noted


def test_what_is_held_until_a_time_that_is_past_is_due_at_once_and_never_for_years() -> None:
    assert settle(Outcome(Fate.HELD, until_us=5), 1, POLICY, 1.0, NOW).next_attempt_us == NOW
    late = settle(Outcome(Fate.HELD, until_us=1 << 62), 1, POLICY, 1.0, NOW)
    assert late.next_attempt_us == NOW + 366 * 86_400_000_000


def test_another_try_keeps_its_place_where_nothing_may_overtake_it() -> None:
    outcome = Outcome(Fate.RETRY, retry_after_us=20_000)
    assert settle(outcome, 1, POLICY, 1.0, NOW, due_us=7).next_attempt_us == 7
    held = Outcome(Fate.HELD, until_us=NOW + 5)
    assert settle(held, 1, POLICY, 1.0, NOW, due_us=7).next_attempt_us == NOW + 5


@pytest.mark.parametrize(
    ("fate", "attempts", "noted"),
    [
        (Fate.SENT, 1, False),
        (Fate.REFUSED, 1, False),
        (Fate.FAILED, 1, False),
        (Fate.UNKNOWN, 1, False),
        (Fate.RETRY, 1, True),
        (Fate.RETRY, 3, False),
    ],
)
def test_the_history_gets_what_does_not_end_a_delivery(fate: Fate, attempts: int, noted: bool) -> None:
    settled = settle(Outcome(fate), attempts, POLICY, 1.0, NOW)
    assert (settled.noted, settled.attempts) == (noted, attempts)


@given(
    st.sampled_from(Fate),
    st.text(),
    st.integers(1, 100),
    st.floats(0, 1),
    st.integers(0, 10**10),
    st.text(),
    st.integers(0, 10**17),
)
def test_every_outcome_can_be_written(
    fate: Fate, detail: str, attempts: int, chance: float, after_us: int, external_id: str, until_us: int
) -> None:
    outcome = Outcome(fate, detail, external_id, after_us, until_us)
    settled = settle(outcome, attempts, POLICY, chance, NOW)
    assert settled.state in MOVES[State.SENDING]
    latest_us = max(NOW + max(POLICY.cap_us, after_us), until_us if fate is Fate.HELD else 0)
    assert NOW <= settled.next_attempt_us <= latest_us
    assert settled.attempts >= 0
    for text in (settled.detail, settled.external_id):
        assert len(text) <= 500
        assert "\0" not in text
        text.encode()
