"""Owns the last look before a delivery leaves: the one place that may stop it. Pure.

A withdrawal needs no look here: the ledger's step to SENDING leaves a withdrawn row alone.
"""

from cairn.activation.channels.base import failed
from cairn.activation.ledger import Outcome
from cairn.activation.model import Claim


def guard(claim: Claim, *, has_connection: bool, has_template: bool, attempts_budget: int) -> Outcome | None:
    """Why this delivery must not leave, or None. `has_template` is also true for one that names no template."""
    if not has_connection:
        return failed("its connection was deleted")
    if not has_template:
        return failed(f"its template templates/{claim.template} was deleted")
    if claim.attempts > attempts_budget:
        return failed(f"given up: {attempts_budget} attempts were begun and none ended")
    return None
