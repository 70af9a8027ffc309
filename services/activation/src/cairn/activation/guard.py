"""Owns the last look before a delivery leaves: the one place that may stop it. Pure.

A withdrawal needs no look here: the ledger's step to SENDING leaves a withdrawn row alone.
"""

from cairn.activation.channels.base import failed
from cairn.activation.ledger import Outcome
from cairn.activation.model import Activation, Claim


def guard(
    item: Activation | Claim, *, attempts: int, has_connection: bool, has_template: bool, attempts_budget: int
) -> Outcome | None:
    """Why this delivery must not leave at the attempt that begins, or None. `has_template` is also true for one that names none.

    It is asked by the lane just before it sends, and when it is accepted on a connection through which nothing leaves the house.
    """
    if not has_connection:
        return failed("its connection was deleted")
    if not has_template:
        return failed(f"its template templates/{item.template} was deleted")
    if attempts > attempts_budget:
        return failed(f"given up: {attempts_budget} attempts were begun and none ended")
    return None
