"""Owns who may begin a journey again, and what the enrollment that begins is called."""

from hashlib import blake2b

from cairn.journey.model import ReentryMode
from cairn.journey.plan import Plan
from cairn.journey.state import Standing


def refusal(plan: Plan, standing: Standing, time_us: int) -> str:
    """Why somebody who meets the entry criteria at a time may not begin: `goal`, `mode`, `cooldown` or `maximum`; "" when they may."""
    rules = plan.reentry
    if plan.goal is not None and time_us < standing.goal_us:
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


def enrollment_id_of(profile_id: str, journey_id: str, cause: str, time_us: int, entries: int) -> str:
    """Derived from what began it, so that the same input gives the same id whenever it is run.

    Two changes of a profile may come in one instant: the count of entries before tells what they begin apart.
    """
    key = "\0".join((profile_id, journey_id, cause, str(time_us), str(entries)))
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=10).hexdigest()
