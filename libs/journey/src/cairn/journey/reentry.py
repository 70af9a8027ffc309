"""Owns who may begin a journey again, what the enrollment that begins is called, and what has to be remembered of it."""

from hashlib import blake2b

from cairn.journey.limits import GOAL_MEMORY_US, REST_US
from cairn.journey.live import LiveJourney
from cairn.journey.model import ReentryMode
from cairn.journey.plan import Plan
from cairn.journey.state import Standing


def refusal(plan: Plan, standing: Standing, time_us: int) -> str:
    """Why somebody who meets the entry criteria at a time may not begin: `goal`, `mode`, `cooldown` or `maximum`; "" when they may."""
    rules = plan.reentry
    if plan.goal is not None and time_us < standing.goal_us <= time_us + GOAL_MEMORY_US:
        return "goal"
    if standing.entries and rules.mode is ReentryMode.NEVER:
        return "mode"
    if standing.achieved and rules.mode is ReentryMode.UNLESS_GOAL_ACHIEVED:
        return "mode"
    if rules.cooldown_us and standing.entries and time_us - standing.last_entry_us < rules.cooldown_us:
        return "cooldown"
    if rules.max_entries and standing.entries >= rules.max_entries:
        return "maximum"
    return ""


def enrollment_id_of(
    profile_id: str, journey_id: str, key: str, cause: str, time_us: int, standing: Standing
) -> str:
    """Derived from profile, journey, key and cause, so that the same input gives the same id whenever it is run.

    Two changes of a profile may come in one instant: the enrollment before, and the count of entries, tell apart what they begin.
    """
    before = standing.enrollment.enrollment_id if standing.enrollment else ""
    parts = f"{profile_id}\0{journey_id}\0{key}\0{cause}\0{time_us}\0{standing.entries}\0{before}"
    return blake2b(parts.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()


def is_needed(journey: LiveJourney, standing: Standing, now_us: int) -> bool:
    """Whether the standing with one key's value has to be kept: it is open, or the rules of re-entry will ask for it.

    Who ended stays visible for 24 days. Without a key a profile has one standing with a journey, which is always kept.
    """
    enrollment, rules = standing.enrollment, journey.newest.reentry
    if standing.remembered is not None or (enrollment is not None and enrollment.is_open):
        return True
    if standing.entries and (rules.mode is ReentryMode.NEVER or rules.max_entries):
        return True
    if standing.achieved and rules.mode is ReentryMode.UNLESS_GOAL_ACHIEVED:
        return True
    if now_us - standing.last_entry_us <= rules.cooldown_us or now_us - standing.goal_us <= GOAL_MEMORY_US:
        return True
    return enrollment is not None and now_us - enrollment.end_us <= REST_US
