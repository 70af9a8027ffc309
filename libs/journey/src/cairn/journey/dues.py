"""Owns when time alone does something to an enrollment: open waits, staleness, the end of a rest."""

from collections.abc import Iterator

from cairn.journey.model import ExitCriterion
from cairn.journey.plan import Plan
from cairn.journey.state import Enrollment, EnrollmentState


def next_due_us(plan: Plan, enrollment: Enrollment) -> int | None:
    """When time alone will next do something to an open enrollment; None when it never will."""
    dues = [due for _, due in stale_dues(plan, enrollment)]
    if enrollment.state is EnrollmentState.WAITING:
        dues.append(enrollment.wait_until_us)
    elif not dues:
        dues.append(enrollment.rest_us + plan.rest_us)
    return min(dues)


def stale_dues(plan: Plan, enrollment: Enrollment) -> Iterator[tuple[ExitCriterion, int]]:
    """Each staleness that applies where the enrollment is, with its due time."""
    for exit in plan.exits:
        if exit.stale_us is not None and applies(exit, enrollment):
            yield exit, enrollment.enter_us + exit.stale_us
    for exit in plan.stages[enrollment.stage].exits:
        if exit.stale_us is not None:
            yield exit, enrollment.stage_enter_us + exit.stale_us


def applies(exit: ExitCriterion, enrollment: Enrollment) -> bool:
    """An exit of the journey that leads to a stage says nothing to those who are there already, or past it."""
    return exit.to is None or exit.to > enrollment.stage
