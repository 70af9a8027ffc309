"""What holds of the machine whatever the journey, whatever happens and however often and late the alarm rings."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.journey.dues import next_due_us
from cairn.journey.machine import advance
from cairn.journey.model import Journey
from cairn.journey.state import (
    Input,
    Kind,
    Outcome,
    ReceiptInput,
    RequestActivation,
    ScheduleTimer,
    Standing,
    TimerInput,
    Transition,
    WithdrawActivation,
)
from cairn.testing.journeys import START_US, Story, event, profile, read_journey

DAY_US = 86_400_000_000
HOUR_US = DAY_US // 24
HORIZON_US = START_US + 400 * DAY_US

# Few names and few durations, so that things meet: in one input, and in one instant.
HEAD = "name: any\ntype: REAL_TIME\n"
SEND = "activation: {channel: email, template: t}"
TEXTS = (
    # One stage and a goal.
    f"""
goal: {{criteria: event.name == "d"}}
reentry: {{mode: ALWAYS}}
stages:
  - {{name: one, entry: event.name == "a", steps: [{{wait: {{duration: 3h}}}}, {{{SEND}}}]}}
""",
    # All over in a moment, moved by the profile.
    f"""
reentry: {{mode: ALWAYS, max_entries: 5}}
stages: [{{name: one, entry: profile.level > 1, steps: [{{{SEND}}}]}}]
""",
    # Waits that an attribute ends, and one that it began.
    f"""
reentry: {{mode: ALWAYS, cooldown: 2h}}
exit_criteria: [{{name: low, criteria: profile.level < 2}}]
stages:
  - name: one
    entry: event.name in ["a", "b"]
    milestone: profile.level > 2
    steps: [{{wait: {{duration: 1h}}}}, {{{SEND}}}, {{wait: {{duration: 2h}}}}, {{{SEND}}}]
  - {{name: two, steps: [{{{SEND}}}, {{wait: {{duration: 1h}}}}, {{{SEND}}}]}}
""",
    # Three stages, exits of every kind, staleness that meets waits.
    f"""
goal: {{criteria: event.name == "d" && event.properties.size == entry.properties.size}}
reentry: {{mode: ALWAYS}}
exit_criteria:
  - {{name: on, criteria: event.name == "d", to: three}}
  - {{name: cold, stale: 3h, to: two}}
  - {{name: frozen, stale: 1d}}
stages:
  - name: one
    entry: event.name == "a"
    milestone: event.name == "b"
    exit_criteria: [{{name: idle, stale: 2h, to: three}}]
    steps: [{{{SEND}}}, {{wait: {{duration: 1h}}}}, {{{SEND}}}, {{wait: {{duration: 1h}}}}, {{{SEND}}}]
  - name: two
    milestone: event.name == "c" || profile.level > 2
    exit_criteria: [{{name: out, criteria: event.name == "a"}}]
    steps: [{{wait: {{duration: 1h}}}}, {{{SEND}}}, {{end: {{}}}}]
  - {{name: three, steps: [{{{SEND}}}, {{wait: {{duration: 1h}}}}, {{{SEND}}}]}}
""",
    # No goal, no exit that is left at the end, stages one by one.
    f"""
skip_stages: false
exit_criteria: [{{name: on, criteria: event.name == "c" && event.properties.size > 2, to: two}}]
stages:
  - {{name: one, entry: event.name == "a", milestone: 'event.name in ["b", "c"]', steps: [{{{SEND}}}]}}
  - {{name: two, milestone: event.name == "c", steps: [{{wait: {{duration: 2h}}}}, {{{SEND}}}]}}
  - {{name: three, steps: [{{wait: {{duration: 1h}}}}, {{{SEND}}}]}}
""",
    # Rests, and begins again from there.
    f"""
goal: {{criteria: profile.level > 2}}
reentry: {{mode: ALWAYS, max_entries: 3}}
stages:
  - {{name: one, entry: event.name == "a", milestone: event.name == "b"}}
  - {{name: two, exit_criteria: [{{name: idle, stale: 3h}}], steps: [{{{SEND}}}, {{wait: {{duration: 1h}}}}]}}
""",
)
JOURNEYS = st.sampled_from([read_journey(HEAD + text) for text in TEXTS])


class Happening(msgspec.Struct, frozen=True):
    """An event (or, without a name, a change of the profile) so many hours after the one before it."""

    hours: int
    name: str
    size: int
    late_hours: int = 0
    rings: bool = True
    repeats: bool = False
    receipt: bool = False


def happenings(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Happening]]:
    one = st.builds(
        Happening,
        hours=st.sampled_from((0, 0, 1, 1, 2, 3, 24, 600)),
        name=st.sampled_from(("a", "a", "b", "c", "d", "", "")),
        size=st.integers(1, 3),
        **fields,
    )
    return st.lists(one, min_size=1, max_size=12)


def play(story: Story, drawn: Iterable[Happening]) -> Story:
    """Tells a story to its end, long after the last thing happened; the alarm is on then, and rings for what is left."""
    asked: dict[str, int] = {}
    hours = 0
    for each in drawn:
        hours += each.hours
        story.alarm_is_on = each.rings
        asked |= story.timers
        at = f"{hours}h"
        if not each.name:
            profile(at=at, level=each.size)(story)
        else:
            event(each.name, at=f"{max(0, hours - each.late_hours)}h", size=each.size)(story)
        asked |= story.timers
        if each.repeats:
            for timer_id, due_us in asked.items():
                if due_us <= story.now_us:
                    story.timers.pop(timer_id, None)
                    story.take(TimerInput(timer_id, due_us))
        if each.receipt and story.requested:
            story.take(ReceiptInput(story.requested[-1].activation_id))
    story.alarm_is_on = True
    story.ring(HORIZON_US)
    return story


ANY = happenings(
    late_hours=st.sampled_from((0, 0, 1, 2, 30)),
    rings=st.booleans(),
    repeats=st.booleans(),
    receipt=st.booleans(),
)


@settings(max_examples=200, deadline=None)
@given(JOURNEYS, happenings(rings=st.booleans(), repeats=st.booleans()))
def test_a_late_or_stuttering_alarm_changes_nothing(journey: Journey, drawn: list[Happening]) -> None:
    """Punctual, late, doubled or silent until the next event: the same transitions, to the byte, and the same effects."""
    punctual = [Happening(each.hours, each.name, each.size) for each in drawn]
    silent = [Happening(each.hours, each.name, each.size, rings=False) for each in drawn]
    expected = play(Story(journey), punctual)
    for other in (play(Story(journey), drawn), play(Story(journey), silent)):
        assert msgspec.json.encode(other.transitions) == msgspec.json.encode(expected.transitions)
        assert sent(other) == sent(expected)
        assert history(other.standing) == history(expected.standing)


def sent(story: Story) -> list[bytes]:
    kinds = (RequestActivation, WithdrawActivation)
    return [msgspec.json.encode(effect) for effect in story.effects if isinstance(effect, kinds)]


def history(standing: Standing) -> tuple[int, int, bool, int]:
    return standing.entries, standing.last_entry_us, standing.achieved, standing.goal_us


class Suspicious(Story):
    """Tells the same story, and looks at every step whether the machine keeps its word."""

    def __init__(self, journey: Journey) -> None:
        super().__init__(journey)
        self.open: set[str] = set()
        self.asked: set[str] = set()

    def take(self, input: Input) -> Outcome:
        given = self.standing
        before, profile, what = deepcopy((given, self.profile, input))
        again = advance(self.live, self.profile, stored(given), input)
        outcome = super().take(input)
        assert (given, self.profile, input) == (before, profile, what), "what was passed in was changed"
        assert outcome == again, "not the same a second time, or after the way to the database and back"
        self.check_timers(outcome)
        self.check_activations(outcome, input)
        return outcome

    def check_timers(self, outcome: Outcome) -> None:
        enrollment = outcome.standing.enrollment
        if enrollment is None or not enrollment.is_open:
            assert self.timers == {}, "one that has ended asks for nothing"
        else:
            due = next_due_us(self.live.plans[enrollment.version], enrollment)
            assert due is not None
            assert due > enrollment.now_us, "what is due has been done"
            assert self.timers == {enrollment.timer_id: due}, "one wake-up, at the earliest of what is due"
        asked = [effect.timer_id for effect in outcome.effects if isinstance(effect, ScheduleTimer)]
        assert not self.asked.intersection(asked), "the id of a wake-up was used again"
        self.asked.update(asked)

    def check_activations(self, outcome: Outcome, input: Input) -> None:
        if isinstance(input, ReceiptInput):
            self.open.discard(input.activation_id)
        for effect in outcome.effects:
            if isinstance(effect, RequestActivation):
                self.open.add(effect.activation_id)
            elif isinstance(effect, WithdrawActivation):
                assert effect.activation_id in self.open, "withdrawn without being open"
                self.open.remove(effect.activation_id)
        requested = [each.activation_id for each in self.requested]
        assert len(requested) == len(set(requested)), "an activation was requested twice"


def stored(standing: Standing) -> Standing:
    return msgspec.json.decode(msgspec.json.encode(standing), type=Standing)


@settings(max_examples=200, deadline=None)
@given(JOURNEYS, ANY)
def test_every_step_keeps_the_machines_word(journey: Journey, drawn: list[Happening]) -> None:
    story = play(Suspicious(journey), drawn)
    assert story.timers == {}, "everything ends at last"


@settings(max_examples=200, deadline=None)
@given(JOURNEYS, ANY)
def test_every_enrollment_is_a_life(journey: Journey, drawn: list[Happening]) -> None:
    """It begins once, goes forward in time and stages, ends once, and is silent after; and there is one at a time."""
    story = play(Story(journey), drawn)
    last: list[Transition] = []
    for each in story.transitions:
        if each.kind is Kind.ENTRY_REFUSED:
            assert each.enrollment_id == ""
            continue
        if last and last[-1].enrollment_id == each.enrollment_id:
            assert each.time_us >= last[-1].time_us
            assert last[-1].kind not in ENDS
        else:
            assert not last or last[-1].kind in ENDS
            assert each.kind is Kind.ENTERED
        last.append(each)
    assert not last or last[-1].kind in ENDS
    lives = [each.enrollment_id for each in last if each.kind is Kind.ENTERED]
    assert len(lives) == len(set(lives)) == story.standing.entries
    stages = [stage.name for stage in story.live.newest.stages]
    for life in lives:
        entered = [
            stages.index(each.stage)
            for each in last
            if each.kind is Kind.STAGE_ENTERED and each.enrollment_id == life
        ]
        assert entered == sorted(set(entered))


ENDS = {Kind.COMPLETED, Kind.EXITED, Kind.GOAL_ACHIEVED}


CART = read_journey(HEAD + TEXTS[0])


@settings(max_examples=100, deadline=None)
@given(ANY)
def test_whoever_bought_is_not_reminded_until_a_later_cart(drawn: list[Happening]) -> None:
    story = Story(CART)
    hours = 0
    for each in drawn:
        hours += each.hours
        story.alarm_is_on = each.rings
        event(each.name or "a", at=f"{max(0, hours - each.late_hours)}h")(story)
    before = len(story.requested)
    event("d", at=f"{hours}h")(story)
    # What was due before the purchase is applied before it, and then taken back by it.
    caught_up = {each.activation_id for each in story.requested[before:]}
    assert caught_up <= {each.activation_id for each in story.withdrawn}
    before = len(story.requested)
    story.alarm_is_on = True
    if hours:
        event("a", at=f"{hours - 1}h")(story)
    story.ring(HORIZON_US)
    assert len(story.requested) == before
    event("a", at=f"{hours + 1}h")(story)
    story.ring(HORIZON_US)
    assert len(story.requested) == before + 1
