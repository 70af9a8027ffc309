"""Owns what came of a case, in a form in which the core's and the reference's can be compared."""

import difflib
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from reference_journeys import HOUR_US, START_US
from reference_play import CorePlayer, ReferencePlayer
from reference_state import Line, Sent

from cairn.journey.state import Kind

Story = dict[str, Any]


def story_of_core(player: CorePlayer) -> Story:
    """The lines of each journey. In a keyed one, those of each enrollment, as who comes first among them is nobody's promise."""
    lives: dict[str, dict[str, int]] = defaultdict(dict)
    lines = []
    requested = {effect.activation_id: effect for _, effect in player.requested}
    assert len(requested) == len(player.requested), "an activation was requested twice"
    for each in player.transitions:
        known = lives[each.journey_id]
        if each.kind is Kind.ENTERED:
            assert each.enrollment_id not in known, "an id of an enrollment was used again"
            known[each.enrollment_id] = len(known) + 1
        detail = dict(each.detail)
        if activation_id := detail.pop("activation_id", None):
            effect = requested[activation_id]
            assert (effect.enrollment_id, effect.step_id) == (each.enrollment_id, each.step)
        life = known[each.enrollment_id] if each.kind is not Kind.ENTRY_REFUSED else 0
        lines.append(
            Line(
                each.journey_id, life, each.time_us, each.version, each.kind.name, each.stage, each.step,
                detail, each.cause,
            )
        )  # fmt: skip
    sent = [
        Sent(
            standing_id, 0, each.request_us, each.version, each.stage, each.step_id, each.channel, each.template,
            int(each.action), dict(each.attributes), _event_id(each.entry), _event_id(each.latest),
            each.time_zone,
        )
        for standing_id, each in player.requested
    ]  # fmt: skip
    keyed = {name for name, journey in player.journeys.items() if journey.is_keyed}
    return _story(lines, sent, keyed)


def story_of_reference(player: ReferencePlayer) -> Story:
    reference = player.reference
    keyed = {name for name, served in reference.journeys.items() if served.newest.model.key}
    lines, lives = [], defaultdict[str, dict[tuple[str, int], int]](dict)
    for each in reference.lines:
        journey_id = each.standing.partition("/")[0]
        known = lives[journey_id]
        life = known.setdefault((each.standing, each.life), len(known) + 1) if each.life else 0
        lines.append(each._replace(standing=journey_id, life=life))
    return _story(lines, reference.sent, keyed)


def _story(lines: list[Line], sent: list[Sent], keyed: set[str]) -> Story:
    story: Story = {}
    for line in lines:
        if line.standing in keyed:
            place = f"{line.standing} life" if line.life else f"{line.standing} refused"
            story.setdefault(place, {}).setdefault(line.life, []).append(_text(line))
        else:
            story.setdefault(line.standing, []).append(f"#{line.life} {_text(line)}")
    for place, lives in story.items():
        if isinstance(lives, dict):
            story[place] = sorted(lives.values()) if place.endswith("life") else sorted(lives[0])
    for each in sent:
        story.setdefault(f"sent {each.standing}", []).append(each._replace(life=0))
    return story


def _text(line: Line) -> str:
    hours = (line.time_us - START_US) / HOUR_US
    detail = " ".join(f"{name}={value}" for name, value in sorted(line.detail.items()))
    place = f"{line.stage}:{line.step}" if line.step else line.stage
    return f"{hours:.10g}h v{line.version} {line.kind} {place} {detail} <{line.cause}>"


def find_difference(core: CorePlayer, reference: ReferencePlayer) -> str:
    """What the core and the reference do not tell alike; empty when there is nothing."""
    found = []
    core_story, reference_story = story_of_core(core), story_of_reference(reference)
    for place in sorted({*core_story, *reference_story}):
        ours, theirs = (
            [str(each) for each in story.get(place, ())] for story in (core_story, reference_story)
        )
        if ours != theirs:
            found += [place, *difflib.unified_diff(theirs, ours, "reference", "core", lineterm="", n=3)]
    return "\n".join(found)


def _event_id(stored: Mapping[str, Any] | None) -> str | None:
    return stored["event_id"] if stored else None


def dues_of_core(player: CorePlayer) -> dict[str, int]:
    """The one wake-up that the Scheduler holds for each standing."""
    assert len({name for _, name in player.timers.values()}) == len(player.timers), "one wake-up is enough"
    return {standing_id: due_us for due_us, standing_id in player.timers.values()}


def dues_of_reference(player: ReferencePlayer) -> dict[str, int]:
    reference = player.reference
    dues = {name: reference.next_due(standing) for name, standing in reference.standings.items()}
    return {name: due for name, due in dues.items() if due is not None}
