"""Criteria of journeys: CEL expressions, checked, and compiled to Python.

Owns what a criteria may read, what it means, which events can reach it, and why it holds or not. Pure: refuses
clocks, I/O and any knowledge of journeys.
"""

from cairn.rules._implication import implies
from cairn.rules.criteria import compile_criteria
from cairn.rules.explanation import Explanation, Verdict, explain
from cairn.rules.model import (
    Ask,
    Behavior,
    Criteria,
    CriteriaError,
    CriteriaFailed,
    Evaluate,
    Problem,
    Scope,
)

__all__ = [
    "Ask",
    "Behavior",
    "Criteria",
    "CriteriaError",
    "CriteriaFailed",
    "Evaluate",
    "Explanation",
    "Problem",
    "Scope",
    "Verdict",
    "compile_criteria",
    "explain",
    "implies",
]
