"""Which state may follow which, and what an outcome makes of a row."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.ledger import MOVES, Fate, Outcome, RetryPolicy, State, is_final, settle
from cairn.api.activation.v1 import activation_pb2 as pb

POLICY = RetryPolicy(budget=3, base_us=1_000, cap_us=50_000)
NOW = 1_000_000


def test_the_states_are_those_of_the_contract() -> None:
    wire = {name: number for name, number in pb.DeliveryState.items() if number}
    assert wire == {f"DELIVERY_STATE_{state.name}": state.value for state in State}


def test_final_is_what_nothing_follows() -> None:
    assert {state for state in State if is_final(state)} == {
        State.SENT,
        State.REFUSED,
        State.FAILED,
        State.UNKNOWN,
        State.WITHDRAWN,
    }


def test_only_what_has_not_left_can_be_withdrawn_and_what_is_unknown_is_never_sent_again() -> None:
    assert {state for state in State if State.WITHDRAWN in MOVES[state]} == {State.PENDING, State.LEASED}
    assert MOVES[State.UNKNOWN] == frozenset()
    assert State.SENDING in MOVES[State.LEASED]
    assert State.SENDING not in MOVES[State.PENDING]


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


def test_a_destination_may_ask_for_a_longer_pause_but_not_past_the_cap() -> None:
    asked = Outcome(Fate.RETRY, retry_after_us=20_000)
    assert settle(asked, 1, POLICY, 1.0, NOW).next_attempt_us == NOW + 20_000
    assert (
        settle(Outcome(Fate.RETRY, retry_after_us=10**9), 1, POLICY, 1.0, NOW).next_attempt_us == NOW + 50_000
    )


@given(
    st.sampled_from(Fate), st.text(), st.integers(1, 100), st.floats(0, 1), st.integers(0, 10**10), st.text()
)
def test_every_outcome_can_be_written(
    fate: Fate, detail: str, attempts: int, chance: float, after_us: int, external_id: str
) -> None:
    outcome = Outcome(fate, detail, external_id, after_us)
    settled = settle(outcome, attempts, POLICY, chance, NOW)
    assert settled.state in MOVES[State.SENDING] | MOVES[State.LEASED]
    assert NOW <= settled.next_attempt_us <= NOW + POLICY.cap_us
    for text in (settled.detail, settled.external_id):
        assert len(text) <= 500
        assert "\0" not in text
        text.encode()
