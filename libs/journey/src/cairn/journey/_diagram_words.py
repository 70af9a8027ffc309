"""Owns what a diagram says of each part of a journey, whatever it is drawn with."""

from dataclasses import dataclass
from typing import Final

from cairn.journey.limits import describe_us
from cairn.journey.model import (
    Activation,
    AudienceUntil,
    Branch,
    Decision,
    End,
    ExitCriterion,
    Experiment,
    Journey,
    Jump,
    StepKind,
    Target,
    Variant,
    Wait,
    WaitForCondition,
    WaitUntil,
    WaitUntilTime,
)
from cairn.journey.times import to_datetime

_UNTIL: Final = {
    AudienceUntil.NEVER: "",
    AudienceUntil.EXIT: "until the end",
    AudienceUntil.GOAL: "until the goal",
}
WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Words:
    """What stands in a box: its style, a headline, plain text, and code. Empty where there is nothing to say."""

    style: str
    head: str
    text: str = ""
    code: str = ""


def of_step(kind: StepKind) -> Words:
    """A step's own box, without its ways."""
    match kind:
        case Wait(duration_us=duration):
            return Words("wait", f"wait {describe_us(duration)}")
        case WaitUntil(moment_us=moment):
            return Words("wait", "wait until", _moment(moment))
        case WaitUntilTime(minute=minute, weekdays=weekdays):
            return Words("wait", f"wait until {minute // 60:02}:{minute % 60:02}", _weekdays(weekdays))
        case WaitForCondition(criteria=criteria, timeout_us=timeout):
            return Words("wait", "wait for", f"at most {describe_us(timeout)}", criteria.source)
        case Activation(channel=channel, template=template, action=action, until=until):
            told = [template.removeprefix("templates/"), action.name.lower() if action else "", _UNTIL[until]]
            return Words("activation", channel.removeprefix("connections/"), " ".join(filter(None, told)))
        case Decision():
            return Words("decision", "decide", "the first that holds")
        case Experiment():
            return Words("experiment", "experiment", "by a hash of the profile")
        case Jump(target=target):
            return Words("jump", "jump to", of_target(target))
        case End():
            return Words("end", "end")


def of_ways(kind: StepKind) -> tuple[Words, ...]:
    """The label of each way of a step, in the order of `model.ways`."""
    match kind:
        case WaitForCondition(timeout_us=timeout):
            return Words("way", "met"), Words("way", "timed out", f"after {describe_us(timeout)}")
        case Decision(branches=branches):
            return *(_branch(each) for each in branches), Words("way", "otherwise")
        case Experiment(variants=variants):
            return tuple(_variant(each) for each in variants)
        case _:
            return ()


def of_entry(journey: Journey) -> Words:
    """What begins the journey."""
    if journey.audience is not None:
        audience, entry = journey.audience.source, journey.entry
        code = audience if entry.constant is True else f"({audience}) && ({entry.source})"
        return Words("entry", "entry", of_runs(journey), code)
    return Words(
        "entry", "entry", f"one for each {'.'.join(journey.key)}" if journey.key else "", journey.entry.source
    )


def of_runs(journey: Journey) -> str:
    """When a batch journey runs."""
    if journey.schedule is None:
        return "at each run"
    return f"at each run, {journey.schedule.cron} {journey.schedule.time_zone}"


def of_milestone(journey: Journey, stage: int) -> Words:
    """What ends a stage and begins the next."""
    milestone = journey.stages[stage].milestone
    return Words("milestone", "milestone", "", milestone.source if milestone else "")


def of_goal(journey: Journey) -> Words:
    """What ends the journey for good."""
    assert journey.goal is not None
    target = f"on to {of_target(journey.goal_target)}" if journey.goal_target else ""
    return Words("goal", "goal", target, journey.goal.source)


def of_exit(journey: Journey, exit: ExitCriterion) -> Words:
    """One way out."""
    to = f"on to {journey.stages[exit.to].name}" if exit.to is not None else ""
    if exit.criteria is not None:
        return Words("exit", f"exit {exit.name}", to, exit.criteria.source)
    stale = f"after {describe_us(exit.stale_us or 0)}"
    return Words("exit", f"exit {exit.name}", f"{stale}, {to}" if to else stale)


def of_target(target: Target) -> str:
    """A stage of another journey."""
    return f"{target.journey_id}, {target.stage}" if target.stage else target.journey_id


def _branch(branch: Branch) -> Words:
    return Words("way", branch.name, "", branch.criteria.source)


def _variant(variant: Variant) -> Words:
    return Words("way", variant.name, f"{variant.percent} %")


def _moment(moment_us: int) -> str:
    return to_datetime(moment_us).strftime("%Y-%m-%d %H:%M:%S UTC").replace(":00 UTC", " UTC")


def _weekdays(days: frozenset[int]) -> str:
    if len(days) == 7:
        return ""
    first, last = min(days), max(days)
    if len(days) > 2 and last - first == len(days) - 1:
        return f"{WEEKDAYS[first]} to {WEEKDAYS[last]}"
    return ", ".join(WEEKDAYS[day] for day in sorted(days))
