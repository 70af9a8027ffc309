"""Criteria of journeys: CEL expressions, checked, and compiled to Python.

Owns what a criteria may read, what it means, which events can reach it, why it holds or not, and how a database is asked. Pure: refuses
clocks, I/O and any knowledge of journeys.
"""

from cairn.rules._implication import implies
from cairn.rules._sql import SqlUnsupported, json_expression, text_to_sql, to_sql
from cairn.rules._sql_values import SqlNames
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
    "SqlNames",
    "SqlUnsupported",
    "Verdict",
    "compile_criteria",
    "explain",
    "implies",
    "json_expression",
    "text_to_sql",
    "to_sql",
]
