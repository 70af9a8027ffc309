"""A connection rests after some bad batches in a row, is tried with one delivery, and works again when that arrives."""

from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.breaker import (
    FIRST_REST_US,
    LONGEST_REST_US,
    SHORTEST_REST_US,
    THRESHOLD,
    Breaker,
    Breakers,
    Permit,
    Phase,
)

NOW = 1_000_000_000


def opened(now: int = NOW, chance: float = 1.0) -> Breaker:
    breaker = Breaker()
    changes = [breaker.bad(now, chance, probe=False) for _ in range(THRESHOLD)]
    assert changes == [False] * (THRESHOLD - 1) + [True]
    return breaker


def test_it_rests_after_some_bad_batches_in_a_row_and_not_before() -> None:
    breaker = Breaker()
    for _ in range(3):
        for _ in range(THRESHOLD - 1):
            assert not breaker.bad(NOW, 1.0, probe=False)
            assert breaker.begin(NOW) == Permit()
        assert not breaker.good(), "it worked all the time"
    breaker = opened()
    assert breaker.phase is Phase.OPEN
    assert breaker.begin(NOW) == Permit(wait_us=FIRST_REST_US)


def test_one_tries_when_the_rest_is_over_and_the_others_wait_for_it() -> None:
    breaker = opened()
    ends = NOW + FIRST_REST_US
    assert breaker.begin(ends - 1).wait_us == 1
    assert breaker.begin(ends) == Permit(probe=True)
    assert breaker.phase is Phase.HALF_OPEN
    for _ in range(3):
        permit = breaker.begin(ends)
        assert permit.wait_us > 0
        assert not permit.probe
    assert breaker.good()
    assert breaker.begin(ends) == Permit()


def test_a_bad_try_makes_the_next_rest_longer_up_to_the_longest() -> None:
    breaker, now, rests = opened(), NOW, []
    for _ in range(12):
        now = breaker.until_us
        assert breaker.begin(now).probe
        assert breaker.bad(now, 1.0, probe=True)
        rests.append(breaker.until_us - now)
    assert rests[:4] == [FIRST_REST_US * 2, FIRST_REST_US * 4, FIRST_REST_US * 8, FIRST_REST_US * 16]
    assert rests[-1] == LONGEST_REST_US
    assert max(rests) == LONGEST_REST_US


def test_after_it_worked_again_the_rests_begin_anew() -> None:
    breaker = opened()
    assert breaker.begin(breaker.until_us).probe
    breaker.bad(NOW, 1.0, probe=True)
    assert breaker.good()
    for _ in range(THRESHOLD):
        breaker.bad(NOW, 1.0, probe=False)
    assert breaker.until_us == NOW + FIRST_REST_US


def test_what_was_under_way_when_the_rest_began_does_not_make_it_longer() -> None:
    breaker = opened()
    assert not breaker.bad(NOW + 5, 1.0, probe=False)
    assert breaker.until_us == NOW + FIRST_REST_US
    breaker.begin(breaker.until_us)
    assert not breaker.bad(NOW + 5, 1.0, probe=False)
    assert breaker.phase is Phase.HALF_OPEN, "only the one that tries decides"


def test_who_has_nothing_to_try_with_leaves_it_to_the_next() -> None:
    breaker = opened()
    ends = breaker.until_us
    assert breaker.begin(ends).probe
    breaker.nothing(ends)
    assert breaker.begin(ends).probe
    breaker.good()
    breaker.nothing(ends)
    assert breaker.phase is Phase.CLOSED


def test_it_rests_as_long_as_the_destination_asks_whatever_its_phase() -> None:
    breaker = Breaker()
    breaker.asked_to_rest(NOW + 500)
    breaker.asked_to_rest(NOW + 100)
    assert breaker.begin(NOW).wait_us == 500
    assert breaker.good() is False
    assert breaker.begin(NOW + 499).wait_us == 1
    assert breaker.begin(NOW + 500) == Permit()


def test_a_connection_that_was_changed_begins_anew_and_each_has_its_own() -> None:
    breakers = Breakers()
    for _ in range(THRESHOLD):
        breakers.of("email", "1").bad(NOW, 1.0, probe=False)
    assert breakers.of("email", "1").phase is Phase.OPEN
    assert breakers.of("push", "1").phase is Phase.CLOSED
    assert breakers.resting == 1
    assert breakers.of("email", "2").phase is Phase.CLOSED
    assert breakers.resting == 0


def test_a_connection_that_was_deleted_rests_no_more() -> None:
    breakers = Breakers()
    for _ in range(THRESHOLD):
        breakers.of("email", "1").bad(NOW, 1.0, probe=False)
    breakers.forget("email")
    breakers.forget("email")
    assert breakers.resting == 0


@given(
    st.lists(st.tuples(st.sampled_from(["begin", "good", "bad", "nothing"]), st.floats(0, 1)), max_size=200)
)
def test_whatever_comes_it_never_rests_for_long_and_lets_one_try_at_a_time(
    steps: list[tuple[str, float]],
) -> None:
    breaker, now, trying = Breaker(), NOW, False
    for step, chance in steps:
        if step == "begin":
            permit = breaker.begin(now)
            assert permit.wait_us <= LONGEST_REST_US
            assert not (permit.probe and trying)
            trying = trying or permit.probe
            now += permit.wait_us
        elif step == "good":
            breaker.good()
            trying = False
        elif step == "bad":
            changed = breaker.bad(now, chance, probe=trying)
            assert (
                changed == (breaker.phase is Phase.OPEN and breaker.until_us >= now + SHORTEST_REST_US)
                or not changed
            )
            trying = trying and not changed
        elif trying:
            breaker.nothing(now)
            trying = False
    for _ in range(3):
        now += breaker.begin(now).wait_us
    assert breaker.phase is not Phase.OPEN or now >= breaker.until_us, "it is always tried again"
