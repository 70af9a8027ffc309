"""How many rows of the outbox go into one call."""

from datetime import UTC, datetime

import pytest

from cairn.activation.relay import _MOST_IN_CALL, _in_calls
from cairn.activation.store_receipts import Untold

_TIME = datetime(2026, 11, 24, tzinfo=UTC)


@pytest.mark.parametrize(
    ("sizes", "calls"),
    [
        ([], []),
        ([1], [[1]]),
        ([100] * 40, [[100] * 40]),
        ([_MOST_IN_CALL, 1], [[_MOST_IN_CALL], [1]]),
        ([_MOST_IN_CALL - 1, 1, 1], [[_MOST_IN_CALL - 1, 1], [1]]),
        ([2 * _MOST_IN_CALL, 3], [[2 * _MOST_IN_CALL], [3]]),
        ([4_000, 4_000, 1_000], [[4_000], [4_000, 1_000]]),
    ],
)
def test_rows_go_together_in_order_as_far_as_a_call_takes_them(
    sizes: list[int], calls: list[list[int]]
) -> None:
    rows = [
        Untold(number, 1, [f"{number}-{i}" for i in range(size)], [_TIME] * size)
        for number, size in enumerate(sizes)
    ]
    together = list(_in_calls(rows))
    assert [[len(row.activation_ids) for row in each] for each in together] == calls
    assert [row for each in together for row in each] == rows
