"""Frequency caps: what counts for which, and the last place."""

import pytest

from cairn.activation.caps import Cap, Scope, Sends, Tally

HOUR_US = 3_600_000_000
DAY_US = 24 * HOUR_US
WELCOME, WINBACK = "journeys/welcome", "journeys/winback"


def tally(*sends: Sends) -> Tally:
    made = Tally("email", ["email", "ses"], [HOUR_US, DAY_US])
    for one in sends:
        made.add(one)
    return made


def full(counted: Tally, cap: Cap, profile: str = "ada", journey: str = WELCOME) -> bool:
    return counted.full([cap], profile, journey) is cap


@pytest.mark.parametrize(
    ("sends", "scope", "counts"),
    [
        (Sends("ada", "email", WELCOME, DAY_US, 1), Scope.CONNECTION, True),
        (Sends("ada", "ses", WELCOME, DAY_US, 1), Scope.CONNECTION, False),
        (Sends("ada", "ses", WELCOME, DAY_US, 1), Scope.JOURNEY, True),
        (Sends("ada", "email", WINBACK, DAY_US, 1), Scope.JOURNEY, False),
        (Sends("ada", "email", "", DAY_US, 1), Scope.JOURNEY, False),
        (Sends("ada", "ses", WINBACK, DAY_US, 1), Scope.ALL, True),
        (Sends("ada", "hook", WINBACK, DAY_US, 1), Scope.ALL, False),
        (Sends("ada", "hook", WELCOME, DAY_US, 1), Scope.JOURNEY, False),
        (Sends("bob", "email", WELCOME, DAY_US, 1), Scope.ALL, False),
        (Sends("ada", "email", WELCOME, HOUR_US, 1), Scope.ALL, False),
    ],
)
def test_what_counts(sends: Sends, scope: Scope, counts: bool) -> None:
    assert full(tally(sends), Cap(scope, 1, DAY_US)) is counts


def test_what_writes_to_nobody_counts_for_its_own_connection_alone() -> None:
    made = Tally("hook", ["email"], [DAY_US])
    made.let_through("ada", WELCOME)
    assert full(made, Cap(Scope.CONNECTION, 1, DAY_US))
    assert not full(made, Cap(Scope.ALL, 1, DAY_US))


def test_counts_add_up_to_the_last_place() -> None:
    cap = Cap(Scope.ALL, 3, DAY_US)
    made = tally(Sends("ada", "ses", WINBACK, DAY_US, 2))
    assert not full(made, cap)
    made.let_through("ada", WELCOME)
    assert full(made, cap)
    assert not full(made, cap, "bob")


def test_a_cap_by_journey_holds_for_what_a_journey_asked_for() -> None:
    made = tally(Sends("ada", "email", WELCOME, DAY_US, 5))
    cap = Cap(Scope.JOURNEY, 1, DAY_US)
    assert full(made, cap)
    assert not full(made, cap, journey=WINBACK)
    assert not full(made, cap, journey="")


def test_the_first_full_cap_is_the_one_that_is_named() -> None:
    made = tally(Sends("ada", "email", WELCOME, DAY_US, 5), Sends("ada", "email", WELCOME, HOUR_US, 1))
    caps = [Cap(Scope.CONNECTION, 2, HOUR_US), Cap(Scope.JOURNEY, 5, DAY_US), Cap(Scope.ALL, 1, DAY_US)]
    assert made.full(caps, "ada", WELCOME) is caps[1]


@pytest.mark.parametrize(
    ("cap", "words"),
    [
        (Cap(Scope.CONNECTION, 3, DAY_US), "3 in 1 day through this connection"),
        (Cap(Scope.JOURNEY, 1, 7 * DAY_US), "1 in 7 days by this journey"),
        (Cap(Scope.ALL, 1, 36 * HOUR_US), "1 in 36 hours in all"),
        (Cap(Scope.ALL, 1, 90 * 60_000_000), "1 in 90 minutes in all"),
        (Cap(Scope.ALL, 1, 61_000_000), "1 in 61 seconds in all"),
        (Cap(Scope.ALL, 1, 61_500_000), "1 in 61.5 seconds in all"),
    ],
)
def test_a_cap_in_words(cap: Cap, words: str) -> None:
    assert str(cap) == words
