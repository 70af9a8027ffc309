"""Owns when time alone does something to an enrollment: open waits, staleness, the end of a rest; and how a pause moves that."""

from collections.abc import Iterator

from cairn.journey.model import ExitCriterion
from cairn.journey.plan import Plan, WaitForConditionInstruction, WaitInstruction, applies
from cairn.journey.state import RESTING, WAITING, Enrollment


def next_due_us(plan: Plan, enrollment: Enrollment) -> int | None:
    """When time alone will next do something to an open enrollment; None when it never will."""
    due = enrollment.wait_until_us if enrollment.state is WAITING else 0
    of_journey, of_stage = plan.stale[enrollment.stage]
    if of_journey and not 0 < due < enrollment.enter_us + of_journey:
        due = enrollment.enter_us + of_journey
    if of_stage and not 0 < due < enrollment.stage_enter_us + of_stage:
        due = enrollment.stage_enter_us + of_stage
    if not due and enrollment.state is RESTING:
        due = enrollment.rest_us + plan.rest_us
    return due or None


def stale_dues(plan: Plan, enrollment: Enrollment) -> Iterator[tuple[ExitCriterion, int]]:
    """Each staleness that applies where the enrollment is, with its due time."""
    for exit in plan.exits:
        if exit.stale_us is not None and applies(exit, enrollment.stage):
            yield exit, enrollment.enter_us + exit.stale_us
    for exit in plan.stages[enrollment.stage].exits:
        if exit.stale_us is not None:
            yield exit, enrollment.stage_enter_us + exit.stale_us


def stale_exits(plan: Plan, enrollment: Enrollment) -> tuple[ExitCriterion, ...]:
    """The exits whose staleness has come at an enrollment's logical time."""
    now = enrollment.now_us
    of_journey, of_stage = plan.stale[enrollment.stage]
    if 0 < of_journey <= now - enrollment.enter_us or 0 < of_stage <= now - enrollment.stage_enter_us:
        return tuple(exit for exit, due in stale_dues(plan, enrollment) if due <= now)
    return ()


def shift(plan: Plan, enrollment: Enrollment, since_us: int, until_us: int) -> None:
    """Moves on what a clock that stood still from one moment to another has to count again; moments of the calendar stay."""

    def moved(time_us: int) -> int:
        return time_us + max(0, until_us - max(since_us, time_us)) if time_us else 0

    enrollment.enter_us = moved(enrollment.enter_us)
    enrollment.stage_enter_us = moved(enrollment.stage_enter_us)
    enrollment.rest_us = moved(enrollment.rest_us)
    counts = isinstance(plan.program[enrollment.position], WaitInstruction | WaitForConditionInstruction)
    if enrollment.wait_until_us and counts:
        enrollment.wait_until_us += until_us - since_us
    enrollment.now_us = max(enrollment.now_us, until_us)
