"""Owns why a profile is where it is in a journey, or why it never entered: in sentences, with the values that criteria saw.

Pure: what is known (the standing, the last transitions, the last inputs without effect) comes in. Refuses to change anything.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cairn.journey.behavior import Behavior
from cairn.journey.dues import stale_dues
from cairn.journey.limits import describe_us
from cairn.journey.live import LiveJourney
from cairn.journey.plan import Plan, WaitForConditionInstruction
from cairn.journey.reentry import refusal
from cairn.journey.state import (
    Enrollment,
    EnrollmentState,
    EventInput,
    Kind,
    Profile,
    Standing,
    Transition,
    entry_view,
)
from cairn.journey.times import format_time
from cairn.rules import Criteria, Explanation, explain


@dataclass(frozen=True, slots=True)
class RuleFinding:
    """One rule: its name, whether it holds, in one sentence, and its criteria with the values seen (None for one without)."""

    rule: str
    holds: bool
    sentence: str
    criteria: Explanation | None = None


@dataclass(frozen=True, slots=True)
class InputFinding:
    """One event that reached the journey and changed nothing, what the rules say of it, and how near it came, 0 to 1."""

    event: EventInput
    rules: tuple[RuleFinding, ...]
    nearness: float
    sentence: str


@dataclass(frozen=True, slots=True)
class Findings:
    """The answer in a sentence or two, the rules in order of precedence, and the inputs, the nearest miss first."""

    summary: str
    rules: tuple[RuleFinding, ...]
    inputs: tuple[InputFinding, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one profile in one journey.

    `transitions` are those of the journey up to `at_us`, newest first; `recent` the last events up to then that reached the journey
    and changed nothing in it; `is_past` says that `standing` is younger than `at_us`, so that only those two tell of it.
    """

    journey: LiveJourney
    profile: Profile
    standing: Standing
    transitions: Sequence[Transition]
    recent: Sequence[EventInput]
    at_us: int
    is_past: bool = False


def explain_standing(known: Known) -> Findings:
    """Why the profile is where it is in the journey, or is not in it."""
    enrollment = known.standing.enrollment
    if known.is_past:
        return Findings(_told(known), (), tuple(_misses(known, None)))
    if enrollment is None or not enrollment.is_open:
        rules = tuple(_entry_rules(known, None))
        inputs = tuple(_misses(known, None))
        return Findings(_outside(known, rules, inputs), rules, inputs)
    plan = known.journey.plans.get(enrollment.version)
    if plan is None:
        return Findings(f"{_who(known)} is in a version that is not served here.", (), ())
    rules = tuple(_rules(known, plan, enrollment, None))
    return Findings(_inside(known, plan, enrollment, rules), rules, tuple(_misses(known, enrollment)))


# Inside


def _inside(known: Known, plan: Plan, enrollment: Enrollment, rules: Sequence[RuleFinding]) -> str:
    stage = plan.stages[enrollment.stage].name
    parts = [f"{_who(known)} is in `{stage}`, {_doing(known, plan, enrollment)}"]
    since = next((each for each in known.transitions if each.enrollment_id == enrollment.enrollment_id), None)
    if since is not None and since.cause:
        parts[0] += f" since {format_time(since.time_us)} because of {since.cause}"
    if rules and rules[0].rule == "goal":
        met = "met, which the next run acts on" if rules[0].holds and known.journey.is_batch else "not met"
        parts.append(f"goal {met}: {rules[0].sentence}")
    return "; ".join(parts) + "."


def _doing(known: Known, plan: Plan, enrollment: Enrollment) -> str:
    pause = known.journey.pause
    if enrollment.state is EnrollmentState.HELD:
        return "held, as the journey is paused"
    if enrollment.state is EnrollmentState.RESTING:
        return "at rest"
    step = plan.program[enrollment.position]
    step_id = getattr(step, "step_id", "")
    if pause is not None:
        return f"waiting in `{step_id}`, while the journey is paused ({pause.mode.name})"
    # What is due in a batch journey, its next run does.
    first = "the first run from " if known.journey.is_batch else ""
    then = " on" if known.journey.is_batch else ""
    return f"waiting in `{step_id}` until {first}{format_time(enrollment.wait_until_us)}{then}"


def _rules(
    known: Known, plan: Plan, enrollment: Enrollment, event: EventInput | None
) -> Iterator[RuleFinding]:
    """The rules that are tested where somebody is, on an event or as of now."""
    at_us = max(known.at_us, enrollment.now_us) if event is None else event.time_us
    stale = {id(exit): due for exit, due in stale_dues(plan, enrollment)}
    for rule in plan.every_rule(enrollment.stage):
        if rule.criteria is not None:
            yield _finding(known, plan, rule.name, rule.criteria, enrollment, event, at_us)
        elif event is None and rule.exit is not None and id(rule.exit) in stale:
            due = stale[id(rule.exit)]
            length = describe_us(rule.exit.stale_us or 0)
            yield RuleFinding(rule.name, due <= at_us, f"stale after {length}, at {format_time(due)}")
    instruction = plan.program[enrollment.position]
    if enrollment.state is not EnrollmentState.WAITING:
        return
    if isinstance(instruction, WaitForConditionInstruction):
        name = f"step {instruction.step_id}"
        yield _finding(known, plan, name, instruction.criteria, enrollment, event, at_us)
    elif event is None:
        until = enrollment.wait_until_us
        name = f"step {getattr(instruction, 'step_id', '')}"
        yield RuleFinding(name, until <= at_us, f"waits until {format_time(until)}")


def _finding(
    known: Known,
    plan: Plan,
    name: str,
    criteria: Criteria,
    enrollment: Enrollment | None,
    event: EventInput | None,
    at_us: int,
) -> RuleFinding:
    profile = known.profile
    behavior = Behavior(profile.behavior, profile.attributes, plan.segments, at_us)
    entry = entry_view(enrollment.entry) if enrollment is not None else None
    found = explain(criteria, event.view if event else None, entry, profile.attributes, behavior)
    holds = found.verdict == "TRUE"
    needed = criteria.event_names_needed
    if event is None and needed is not None:
        # Without an event all that can be said is that none came.
        names = " or ".join(f"`{each}`" for each in sorted(needed)) or "event"
        since = f" since {format_time(enrollment.enter_us)}" if enrollment is not None else ""
        return RuleFinding(name, False, f"no {names}{since} that meets it", found)
    return RuleFinding(name, holds, "holds" if holds else found.sentence(), found)


# Outside


def _entry_rules(known: Known, event: EventInput | None) -> Iterator[RuleFinding]:
    newest, standing = known.journey.newest, known.standing
    at_us = known.at_us if event is None else event.time_us
    if newest.audience is not None:
        yield _finding(known, newest, "audience", newest.audience, None, event, at_us)
    yield _finding(known, newest, "entry", newest.entry, None, event, at_us)
    # A run meets the goal without an event.
    if newest.goal is not None and (event is not None or newest.is_batch):
        goal = _finding(known, newest, "goal", newest.goal, None, event, at_us)
        if goal.holds:
            yield RuleFinding("goal", True, "meets the goal, so that it begins nothing", goal.criteria)
    if reason := refusal(newest, standing, at_us):
        yield RuleFinding("reentry", True, _REFUSALS[reason])
    if known.journey.end_us is not None:
        yield RuleFinding("journey", True, f"the journey ended at {format_time(known.journey.end_us)}")


def _outside(known: Known, rules: Sequence[RuleFinding], inputs: Sequence[InputFinding]) -> str:
    journey, standing = known.journey, known.standing
    name = journey.journey_id
    enrollment = standing.enrollment
    if enrollment is not None:
        state = enrollment.state.name.lower().replace("_", " ")
        by = f" by {enrollment.exit}" if enrollment.exit else ""
        head = f"{_who(known)} is no longer in {name}: {state}{by} at {format_time(enrollment.end_us)}"
    elif standing.entries:
        head = f"{_who(known)} is no longer in {name}"
    else:
        head = f"{_who(known)} never entered {name}"
    if standing.remembered is not None:
        return f"{head}; {standing.remembered.cause} begins it when the journey resumes."
    refused = next((each for each in known.transitions if each.kind is Kind.ENTRY_REFUSED), None)
    parts = [head]
    if refused is not None and (enrollment is None or refused.time_us >= enrollment.end_us):
        reason = _REFUSALS.get(str(refused.detail.get("reason")), "refused")
        parts.append(f"{refused.cause} at {format_time(refused.time_us)} was refused: {reason}")
    if inputs:
        parts.append(f"nearest miss: {inputs[0].sentence}")
    elif len(parts) == 1:
        parts += _why_not(known, rules)
    parts += [each.sentence for each in rules if each.rule == "journey"]
    return "; ".join(parts) + "."


def _why_not(known: Known, rules: Sequence[RuleFinding]) -> list[str]:
    """The rule that keeps somebody out; of a batch journey that none does, unless it has ended."""
    gates = [each for each in rules if each.rule in ("audience", "entry")]
    if known.journey.is_batch:
        gates = [each for each in gates if not each.holds]
        gates += [each for each in rules if each.rule in ("goal", "reentry")]
        if not gates and known.journey.end_us is None:
            return ["the next run takes in who is like this"]
    return [f"{each.rule}: {each.sentence}" for each in gates[:1]]


_REFUSALS = {
    "goal": "the goal was met by a later event",
    "mode": "its rules of re-entry let nobody begin again",
    "cooldown": "the cooldown since the last entry is not over",
    "maximum": "it was entered as often as may be",
    "ended": "the journey has ended",
    "stage": "the journey has no such stage any more",
}


def _misses(known: Known, enrollment: Enrollment | None) -> Iterator[InputFinding]:
    """The last inputs without effect, the nearest miss first, then the newest."""
    found = [_miss(known, enrollment, event) for event in known.recent]
    yield from sorted(found, key=lambda each: (-each.nearness, -each.event.time_us))


def _miss(known: Known, enrollment: Enrollment | None, event: EventInput) -> InputFinding:
    plan = known.journey.plans.get(enrollment.version) if enrollment is not None else None
    if enrollment is not None and plan is not None:
        rules = tuple(_rules(known, plan, enrollment, event))
    else:
        rules = tuple(_entry_rules(known, event))
    judged = [each for each in rules if each.criteria is not None and not each.holds]
    best = max(judged, key=lambda each: each.criteria.satisfied if each.criteria else 0.0, default=None)
    nearness = best.criteria.satisfied if best is not None and best.criteria is not None else 0.0
    blocking = next((each for each in rules if each.holds and each.rule in ("goal", "reentry")), None)
    what = best.sentence if best is not None else blocking.sentence if blocking else "met nothing"
    if best is not None and enrollment is not None:
        what = f"{best.rule}: {what}"
    sentence = f"{what}, at {format_time(event.time_us)} (event {event.event_id}, `{event.view['name']}`)"
    return InputFinding(event, rules, nearness, sentence)


# The past


def _told(known: Known) -> str:
    """Where the profile was, as the timeline tells."""
    moment = format_time(known.at_us)
    name = known.journey.journey_id
    last = next((each for each in known.transitions if each.kind is not Kind.ENTRY_REFUSED), None)
    if last is None:
        return f"At {moment} {_who(known)} had not entered {name}."
    since = f"since {format_time(last.time_us)} because of {last.cause}"
    if last.kind is Kind.WAIT_STARTED:
        until = f"until {last.detail['until']}"
        return f"At {moment} {_who(known)} was in `{last.stage}`, waiting in `{last.step}` {until}, {since}."
    if last.kind in _ENDS:
        return f"At {moment} {_who(known)} was no longer in {name}: {last.kind.name} {since}."
    return f"At {moment} {_who(known)} was in `{last.stage}`, {last.kind.name} {since}."


_ENDS = frozenset(
    {Kind.COMPLETED, Kind.GOAL_ACHIEVED, Kind.EXITED, Kind.JUMPED, Kind.RESTARTED, Kind.REMOVED}
)


def _who(known: Known) -> str:
    return known.profile.profile_id
