"""What one destination has still to get: in memory while there is room, in the table beyond."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.evaluator import relay
from cairn.evaluator.relay import _Queue
from cairn.evaluator.store import OutboxRow


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_MAX_QUEUED_BYTES", 100)


def row(sequence: int) -> OutboxRow:
    return OutboxRow(1, sequence, schedule=b"x")


def sequences(rows: list[OutboxRow]) -> list[int]:
    return [each.sequence for each in rows]


def test_rows_come_in_order_and_once() -> None:
    queue = _Queue()
    for sequence in (1, 2, 2, 3):
        queue.put(row(sequence), 1)
    assert sequences(queue.take()) == [1, 2, 3]
    queue.put(row(3), 1)
    assert queue.take() == []
    assert queue.last_taken == 3


def test_a_call_takes_no_more_than_its_rows(monkeypatch) -> None:
    monkeypatch.setattr(relay, "_MAX_ROWS_A_CALL", 3)
    queue = _Queue()
    for sequence in range(1, 8):
        queue.put(row(sequence), 1)
    assert [sequences(queue.take()) for _ in range(4)] == [[1, 2, 3], [4, 5, 6], [7], []]


def test_what_memory_has_no_room_for_is_left_to_the_table(small) -> None:
    queue = _Queue()
    for sequence in range(1, 6):
        queue.put(row(sequence), 40)
    assert queue.is_behind
    assert sequences(queue.take()) == [1, 2]
    # Behind what is only in the table nothing may overtake it.
    queue.put(row(6), 1)
    assert queue.take() == []
    assert queue.last_taken == 2


def test_a_row_that_is_larger_than_all_memory_is_left_to_the_table(small) -> None:
    queue = _Queue()
    queue.put(row(1), 1000)
    assert queue.is_behind
    assert queue.take() == []


def test_room_comes_back_when_memory_is_empty(small) -> None:
    queue = _Queue()
    for sequence in range(1, 11):
        queue.put(row(sequence), 90)
        assert sequences(queue.take()) == [sequence]
    assert not queue.is_behind


def test_falling_behind_leaves_all_to_the_table_and_wakes_the_reader(small) -> None:
    """A row that stayed in memory would overtake those before it that are only in the table: they would never be sent."""
    queue = _Queue()
    queue.put(row(5), 1)
    queue.wake.clear()
    queue.fall_behind()
    assert queue.take() == []
    assert (queue.last_taken, queue.bytes, queue.is_behind, queue.wake.is_set()) == (0, 0, True, True)


@given(st.lists(st.integers(1, 60), max_size=60), st.data())
def test_memory_is_bounded_and_what_it_gives_has_no_gaps(sizes, data) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "_MAX_QUEUED_BYTES", 100)
        queue = _Queue()
        given_out: list[int] = []
        for sequence, size in enumerate(sizes, start=1):
            queue.put(row(sequence), size)
            assert queue.bytes <= 100
            if data.draw(st.booleans()):
                given_out += sequences(queue.take())
        given_out += sequences(queue.take())
    assert given_out == list(range(1, len(given_out) + 1))
    assert queue.is_behind or len(given_out) == len(sizes)
