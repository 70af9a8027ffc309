"""Which events a profile was acted on for: what stands with it, what moves to the table, what is forgotten."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from cairn.evaluator.seen import MOST, NOTHING, Seen, remember

DAY = 20_000
OLDEST = DAY - 7


@given(
    st.lists(
        st.tuples(st.integers(0, 3), st.lists(st.integers(0, 10_000).map(str), max_size=40)), max_size=12
    )
)
def test_whatever_came_is_found_with_the_profile_or_in_the_table(batches) -> None:
    seen, table, everything = NOTHING, set(), set()
    day = DAY
    for later, event_ids in batches:
        day += later
        new = [each for each in dict.fromkeys(event_ids) if each not in seen.ids and each not in table]
        seen, moved = remember(seen, new, day, day - 100)
        table.update(moved)
        everything.update(new)
        assert len(seen.ids) <= MOST
        assert everything == table | set(seen.ids)
        assert bool(table) == seen.needs_table(day - 100)


def test_what_is_older_than_the_window_is_forgotten() -> None:
    seen, moved = remember(Seen({"old": OLDEST - 1, "edge": OLDEST}), ["new"], DAY, OLDEST)
    assert (seen.ids, moved) == ({"edge": OLDEST, "new": DAY}, [])


def test_the_time_of_an_erasure_is_never_forgotten() -> None:
    few, _ = remember(Seen(erased_us=5), ["one"], DAY, OLDEST)
    many, moved = remember(few, [str(number) for number in range(MOST + 1)], DAY + 30, OLDEST + 30)
    assert moved
    assert (few.erased_us, many.erased_us) == (5, 5)


def test_what_the_release_before_wrote_was_never_erased() -> None:
    assert msgspec.json.decode('[{"e":20000},7]', type=Seen) == Seen({"e": 20_000}, 7, 0)


def test_the_table_is_asked_for_as_long_as_something_in_it_counts() -> None:
    seen, moved = remember(NOTHING, [str(number) for number in range(MOST + 1)], DAY, OLDEST)
    assert moved == [str(number) for number in range(MOST + 1 - MOST // 2)]
    assert seen.needs_table(DAY)
    assert not seen.needs_table(DAY + 1)
    later, _ = remember(seen, ["x"], DAY + 3, DAY - 4)
    assert later.spilled_day == DAY
