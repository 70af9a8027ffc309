"""Owns what events of the past do otherwise than others: only be remembered, or move without asking for any activation. Pure."""

from collections.abc import Collection, Mapping
from typing import Final

from msgspec.structs import replace

from cairn.journey.behavior import record
from cairn.journey.dispatch import Dispatched
from cairn.journey.live import LiveJourneys
from cairn.journey.state import (
    Effect,
    EventInput,
    Kind,
    Profile,
    RequestActivation,
    Standing,
    Transition,
    WithdrawActivation,
)

SILENT: Final = "silent"
"""In the detail of a transition: what it tells of was not asked for, since it was made up for later."""

_REMOVE: Final = ".remove"
"""How the id of an activation ends that lets an audience go of whom another one, without this, has added."""


def remembered(live: LiveJourneys, profile: Profile, event: EventInput) -> Profile:
    """The profile with an event in its behavior, as far as any journey asks for it, and nothing else."""
    need = live.needs.get(event.view["name"])
    if need is None:
        return profile
    tracks = record(profile.behavior, need, event.stored(), event.time_us)
    return Profile(profile.profile_id, profile.attributes, profile.time_zone, tracks)


def silence(done: Dispatched) -> None:
    """Takes back, in place, what an input asked for: the requests go, and nothing waits for them; the transitions stay, and say so.

    What was asked for before is withdrawn as ever, and an audience that somebody was really added to lets go of him: who left must not
    stay there because he left in silence.
    """
    asked = {
        effect.activation_id
        for _, effects in done.effects
        for effect in effects
        if type(effect) is RequestActivation
    }
    quiet = {each for each in asked if each.removesuffix(_REMOVE) in asked}
    if not quiet:
        return
    effects = (
        (standing_id, [effect for effect in of_one if not _is_about(effect, quiet)])
        for standing_id, of_one in done.effects
    )
    done.effects = [(standing_id, kept) for standing_id, kept in effects if kept]
    done.transitions = [told for each in done.transitions if (told := _told(each, quiet)) is not None]
    done.standings = {
        standing_id: None if standing is None else _forgotten(standing, quiet)
        for standing_id, standing in done.standings.items()
    }


def due_first(
    standings: Mapping[str, Standing], until_us: int, left_out: Collection[str]
) -> tuple[int, str] | None:
    """When, and to which of the standings, time does something first by a moment; None when it does nothing."""
    found: tuple[int, str] | None = None
    for standing_id, standing in standings.items():
        enrollment = standing.enrollment
        if enrollment is None or not 0 < enrollment.wake_us <= until_us or standing_id in left_out:
            continue
        if found is None or (enrollment.wake_us, standing_id) < found:
            found = enrollment.wake_us, standing_id
    return found


def _is_about(effect: Effect, quiet: Collection[str]) -> bool:
    return isinstance(effect, RequestActivation | WithdrawActivation) and effect.activation_id in quiet


def _told(transition: Transition, quiet: Collection[str]) -> Transition | None:
    """What is recorded of a change: nothing of a withdrawal of what was never asked for."""
    if transition.detail.get("activation_id") not in quiet:
        return transition
    if transition.kind is Kind.ACTIVATION_WITHDRAWN:
        return None
    return replace(transition, detail={**transition.detail, SILENT: True})


def _forgotten(standing: Standing, quiet: Collection[str]) -> Standing:
    """A standing whose enrollment waits for nothing that was not asked for, and has nobody to let go of."""
    enrollment = standing.enrollment
    if enrollment is None or not (enrollment.pending or enrollment.added):
        return standing
    pending = tuple(each for each in enrollment.pending if each.activation_id not in quiet)
    added = tuple(each for each in enrollment.added if f"{enrollment.enrollment_id}.{each}" not in quiet)
    return replace(standing, enrollment=replace(enrollment, pending=pending, added=added))
