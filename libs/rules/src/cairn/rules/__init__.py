"""Criteria of journeys: CEL expressions, checked, and compiled to Python.

Owns what a criteria may read, what it means and which events can reach it. Pure: refuses clocks, I/O and any
knowledge of journeys.
"""

from cairn.rules.criteria import compile_criteria
from cairn.rules.model import Criteria, CriteriaError, CriteriaFailed, Problem, Scope

__all__ = ["Criteria", "CriteriaError", "CriteriaFailed", "Problem", "Scope", "compile_criteria"]
