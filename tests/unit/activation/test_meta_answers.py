"""What the Graph API's answers mean, and in which calls people go."""

import json
from collections import defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.activation.channels.meta_audience import Row, _rounds, read_answer
from cairn.activation.ledger import Fate


def error(code: int, **more: object) -> bytes:
    return json.dumps({"error": {"code": code, "message": "secret@example.com", **more}}).encode()


@pytest.mark.parametrize(
    ("status", "body", "fate"),
    [
        (200, b'{"audience_id": "1", "session_id": "7", "num_received": 1}', Fate.SENT),
        (400, error(100), Fate.FAILED),
        (400, error(100, is_transient=True), Fate.RETRY),
        (403, error(200), Fate.FAILED),
        (403, error(10), Fate.FAILED),
        (401, error(190), Fate.RETRY),
        (400, error(17), Fate.RETRY),
        (400, error(80003), Fate.RETRY),
        (500, error(2), Fate.RETRY),
        (503, error(100), Fate.RETRY),
        (429, error(100), Fate.RETRY),
        (200, error(100), Fate.FAILED),
        (200, b"<html>", Fate.RETRY),
        (404, b"<html>", Fate.RETRY),
        (200, b"[]", Fate.RETRY),
        (200, b"\xff\xfe", Fate.RETRY),
        (200, b"", Fate.RETRY),
        (200, None, Fate.RETRY),
        (302, b"{}", Fate.RETRY),
        (400, b'{"error": "text"}', Fate.RETRY),
        (400, b'{"error": {"code": "x"}}', Fate.FAILED),
    ],
)
def test_answers(status: int, body: bytes | None, fate: Fate) -> None:
    outcome = read_answer(status, body)
    assert outcome.fate is fate
    assert "example.com" not in outcome.detail


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=60))
def test_calls_keep_each_persons_order_and_never_hold_a_person_twice(changes: list[tuple[str, bool]]) -> None:
    rows = [Row(person, remove, (person,)) for person, remove in changes]
    calls = _rounds(rows)
    assert sorted(index for call in calls for index in call) == list(range(len(rows)))
    order = defaultdict(list)
    for call in calls:
        assert len({rows[index].person for index in call}) == len(call)
        assert len({rows[index].remove for index in call}) == 1
        for index in call:
            order[rows[index].person].append(index)
    assert all(indexes == sorted(indexes) for indexes in order.values())


def test_people_who_change_once_go_in_two_calls() -> None:
    rows = [Row(str(number), number % 2 == 0, ("x",)) for number in range(1000)]
    assert [len(call) for call in _rounds(rows)] == [500, 500]
