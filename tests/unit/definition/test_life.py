"""What a life may become, without any I/O."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.definition import life as lives
from cairn.definition.life import ended, paused, resumed
from cairn.definition.store_lives import LifeRow, PauseRow
from cairn.runtime.errors import CairnError

LIVE = LifeRow("x", "LIVE", (), None, removes=False, revision=1)
CHANGES = {
    "freeze": paused("FREEZE"),
    "run": paused("RUN"),
    "drop": paused("DROP"),
    "resume": resumed,
    "end": ended(remove=False),
    "remove": ended(remove=True),
}


def after(*changes: str, begin: LifeRow = LIVE) -> LifeRow:
    """The life after some changes, one each 10 microseconds."""
    life = begin
    for number, name in enumerate(changes, start=1):
        life = CHANGES[name](life, number * 10)
    return life


def test_pauses_are_kept_in_order_and_only_the_last_lasts() -> None:
    life = after("freeze", "resume", "run")
    assert (life.state, life.pauses) == ("PAUSED", (PauseRow("FREEZE", 10, 20), PauseRow("RUN", 30)))
    assert after("resume", begin=life).state == "LIVE"


@pytest.mark.parametrize(
    ("before", "change"),
    [
        ((), "resume"),
        (("freeze",), "freeze"),
        (("freeze", "resume"), "resume"),
        (("end",), "end"),
        (("remove",), "remove"),
        (("remove",), "end"),
    ],
)
def test_what_is_so_already_changes_nothing(before: tuple[str, ...], change: str) -> None:
    life = after(*before)
    assert CHANGES[change](life, 99) is life


@pytest.mark.parametrize(
    ("before", "change", "says"),
    [
        (("freeze",), "run", "paused in mode FREEZE since 1970-01-01T00:00:00.000010Z; resume it"),
        (("end",), "freeze", "ended for good, at 1970-01-01T00:00:00.000010Z"),
        (("end",), "resume", "ended for good"),
        (("remove",), "drop", "ended for good"),
    ],
)
def test_what_can_not_be_is_refused_with_what_to_do(before: tuple[str, ...], change: str, says: str) -> None:
    with pytest.raises(CairnError) as caught:
        CHANGES[change](after(*before), 99)
    assert caught.value.reason == ErrorReason.ERROR_REASON_FAILED_PRECONDITION
    assert caught.value.resource == "journeys/x"
    assert caught.value.message.startswith("journeys/x ")
    assert says in caught.value.message


def test_an_end_is_the_end_of_a_pause_too() -> None:
    life = after("freeze", "end")
    assert (life.state, life.end_us, life.removes) == ("ENDED", 20, False)
    assert life.pauses == (PauseRow("FREEZE", 10, 20),)


def test_what_drains_can_still_be_removed_and_ended_when_it_ended() -> None:
    life = after("end", "remove")
    assert (life.end_us, life.removes) == (10, True)


def test_pauses_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lives, "MAX_PAUSES", 2)
    life = after("freeze", "resume", "freeze", "resume")
    with pytest.raises(CairnError, match="was paused 2 times"):
        paused("FREEZE")(life, 99)
    assert ended(remove=False)(life, 99).state == "ENDED"


@given(st.lists(st.tuples(st.sampled_from(sorted(CHANGES)), st.integers(0, 50)), max_size=12))
def test_a_life_is_in_order_whatever_the_clock_and_the_operators_do(changes: list[tuple[str, int]]) -> None:
    life = LIVE
    for name, now_us in changes:
        change: Callable[[LifeRow, int], LifeRow] = CHANGES[name]
        try:
            life = change(life, now_us)
        except CairnError:
            continue
    times = [time for one in life.pauses for time in (one.pause_us, one.resume_us) if time is not None]
    assert times == sorted(times)
    assert all(one.resume_us is not None for one in life.pauses[:-1])
    lasts = bool(life.pauses) and life.pauses[-1].resume_us is None
    assert lasts == (life.state == "PAUSED")
    assert (life.end_us is not None) == (life.state == "ENDED")
    assert life.end_us is None or life.end_us >= max(times, default=0)
