"""The last look before a delivery leaves."""

import pytest

from cairn.activation.guard import guard
from cairn.activation.ledger import Fate
from cairn.activation.model import Claim

BUDGET = 3


def claim(attempts: int = 1) -> Claim:
    return Claim("a", 0, "p", "hello", 0, b"{}", 0, attempts, "e")


def test_what_may_leave() -> None:
    assert (
        guard(claim(BUDGET), attempts=BUDGET, has_connection=True, has_template=True, attempts_budget=BUDGET)
        is None
    )


@pytest.mark.parametrize(
    ("attempts", "has_connection", "has_template", "detail"),
    [
        (1, False, True, "its connection was deleted"),
        (1, True, False, "its template templates/hello was deleted"),
        (4, True, True, "given up: 3 attempts were begun and none ended"),
    ],
)
def test_what_may_not(attempts: int, has_connection: bool, has_template: bool, detail: str) -> None:
    outcome = guard(
        claim(attempts),
        attempts=attempts,
        has_connection=has_connection,
        has_template=has_template,
        attempts_budget=BUDGET,
    )
    assert outcome is not None
    assert (outcome.fate, outcome.detail) == (Fate.FAILED, detail)
