"""What holds of the machine whatever the journey, whatever happens and however often and late the alarm rings."""

from collections import Counter
from collections.abc import Iterable
from copy import deepcopy
from typing import Any

import msgspec
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cairn.journey.machine import advance, next_due_us
from cairn.journey.state import (
    Input,
    Kind,
    Outcome,
    ReceiptInput,
    RequestActivation,
    Standing,
    TimerInput,
    Transition,
    WithdrawActivation,
)
from cairn.testing.journeys import START_US, Story, event, profile

DAY_US = 86_400_000_000
HOUR_US = DAY_US // 24
HORIZON_US = START_US + 400 * DAY_US

# Few names and few durations, so that things meet: in one input, and in one instant.
NAMES = ("a", "b", "c", "d")
CRITERIA = st.sampled_from(
    (
        *(f'event.name == "{name}"' for name in NAMES),
        'event.name in ["b", "c"]',
        "profile.level > 2",
        'event.name == "c" && entry.name == "a"',
        'event.name == "d" && event.properties.size == entry.properties.size',
        "profile.level > 1 && event.properties.size > 1",
    )
)
DURATIONS = st.sampled_from(("1h", "2h", "3h", "1d"))


@st.composite
def exits(draw: st.DrawFn, later: list[str]) -> list[dict[str, Any]]:
    drawn = []
    for number in range(draw(st.integers(0, 2))):
        what = {"criteria": draw(CRITERIA)} if draw(st.booleans()) else {"stale": draw(DURATIONS)}
        to = draw(st.sampled_from(["", *later]))
        drawn.append({"name": f"exit-{number}", **what, **({"to": to} if to else {})})
    return drawn


@st.composite
def journeys(draw: st.DrawFn) -> str:
    """Any valid journey of up to three stages, as YAML."""
    names = ["one", "two", "three"][: draw(st.integers(1, 3))]
    stages = []
    for index, name in enumerate(names):
        steps = draw(
            st.lists(
                st.one_of(
                    st.builds(lambda duration: {"wait": {"duration": duration}}, DURATIONS),
                    st.just({"activation": {"channel": "email", "template": "t"}}),
                ),
                max_size=3,
            )
        )
        stages.append(
            {
                "name": name,
                **({"entry": draw(CRITERIA.filter(lambda text: "entry" not in text))} if index == 0 else {}),
                **({"milestone": draw(CRITERIA)} if index < len(names) - 1 else {}),
                "exit_criteria": draw(exits(names[index + 1 :])),
                "steps": steps + ([{"end": {}}] if draw(st.booleans()) else []),
            }
        )
    document = {
        "name": "any",
        "type": "REAL_TIME",
        **({"goal": {"criteria": draw(CRITERIA)}} if draw(st.booleans()) else {}),
        "reentry": {
            "mode": draw(st.sampled_from(["NEVER", "UNLESS_GOAL_ACHIEVED", "ALWAYS"])),
            "cooldown": draw(st.sampled_from(["0s", "1h", "1d"])),
            "max_entries": draw(st.integers(0, 3)),
        },
        "skip_stages": draw(st.booleans()),
        "exit_criteria": draw(exits(names[1:])),
        "stages": stages,
    }
    return yaml.safe_dump(document, sort_keys=False)


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
        hours=st.sampled_from((0, 1, 1, 2, 3, 24, 600)),
        name=st.sampled_from((*NAMES, *NAMES, "")),
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


@settings(max_examples=250, deadline=None)
@given(journeys(), happenings(rings=st.booleans(), repeats=st.booleans()))
def test_a_late_or_stuttering_alarm_changes_nothing(journey: str, drawn: list[Happening]) -> None:
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

    def take(self, input: Input) -> Outcome:
        before, profile, what = deepcopy((self.standing, self.profile, input))
        again = advance(self.live, self.profile, stored(self.standing), input)
        outcome = super().take(input)
        assert (self.profile, input) == (profile, what), "an input was changed"
        assert outcome == again, "not the same a second time, or after the way to the database and back"
        if outcome.standing != before:
            assert outcome.standing is not before
        self.check()
        return outcome

    def check(self) -> None:
        enrollment = self.standing.enrollment
        if enrollment is None or not enrollment.is_open:
            assert self.timers == {}, "one that has ended asks for nothing"
        else:
            due = next_due_us(self.live.plans[enrollment.version], enrollment)
            assert due is not None
            assert due > enrollment.now_us
            assert self.timers == {enrollment.timer_id: due}


def stored(standing: Standing) -> Standing:
    return msgspec.json.decode(msgspec.json.encode(standing), type=Standing)


class Untouched(Story):
    """Gives the machine a copy and holds what was given against it afterwards."""

    def take(self, input: Input) -> Outcome:
        given, copy = self.standing, deepcopy(self.standing)
        outcome = super().take(input)
        assert given == copy, "the standing passed in was changed"
        return outcome


@settings(max_examples=250, deadline=None)
@given(journeys(), ANY)
def test_the_machine_is_pure_and_asks_for_one_wake_up_at_the_earliest_of_what_is_due(
    journey: str, drawn: list[Happening]
) -> None:
    play(Suspicious(journey), drawn)


@settings(max_examples=100, deadline=None)
@given(journeys(), ANY)
def test_the_standing_passed_in_is_not_changed(journey: str, drawn: list[Happening]) -> None:
    play(Untouched(journey), drawn)


@settings(max_examples=250, deadline=None)
@given(journeys(), ANY)
def test_effects(journey: str, drawn: list[Happening]) -> None:
    story = Watched(journey)
    play(story, drawn)
    assert all(count == 1 for count in Counter(each.activation_id for each in story.requested).values())
    assert all(count == 1 for count in Counter(each.activation_id for each in story.withdrawn).values())
    assert all(count == 1 for count in story.asked.values()), "the id of a wake-up was used again"
    assert story.timers == {}, "everything ends at last"


class Watched(Story):
    """Knows at every step what may be withdrawn, and which wake-ups there were."""

    def __init__(self, journey: str) -> None:
        super().__init__(journey)
        self.open: set[str] = set()
        self.asked: Counter[str] = Counter()

    def take(self, input: Input) -> Outcome:
        outcome = super().take(input)
        if isinstance(input, ReceiptInput):
            self.open.discard(input.activation_id)
        for effect in outcome.effects:
            if isinstance(effect, RequestActivation):
                self.open.add(effect.activation_id)
            elif isinstance(effect, WithdrawActivation):
                assert effect.activation_id in self.open, "withdrawn without being open"
                self.open.remove(effect.activation_id)
        self.asked.update(timer for timer in self.timers if timer not in self.asked)
        for effect in outcome.effects:
            if hasattr(effect, "due_us"):
                self.rung(effect.timer_id)
        return outcome

    def rung(self, timer_id: str) -> None:
        self.asked[timer_id] = self.asked[timer_id] or 1


@settings(max_examples=250, deadline=None)
@given(journeys(), ANY)
def test_every_enrollment_is_a_life(journey: str, drawn: list[Happening]) -> None:
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


@settings(max_examples=100, deadline=None)
@given(ANY, st.integers(1, 12))
def test_whoever_bought_is_not_reminded_again(drawn: list[Happening], hours: int) -> None:
    """After a purchase nothing is asked for, however it went before, until a later cart."""
    story = Story(
        f"""
name: cart
type: REAL_TIME
goal: {{criteria: event.name == "d"}}
reentry: {{mode: ALWAYS}}
stages:
  - name: cart
    entry: event.name == "a"
    steps: [{{wait: {{duration: {hours}h}}}}, {{activation: {{channel: email, template: t}}}}]
"""
    )
    play_until_last(story, drawn)
    requested = len(story.requested)
    event("d")(story)
    now = story.now_us
    # What was due before the purchase is applied before it; the purchase then takes it back.
    late = {each.activation_id for each in story.requested[requested:]}
    assert late <= {each.activation_id for each in story.withdrawn}
    requested = len(story.requested)
    story.alarm_is_on = True
    story.ring(now + 100 * DAY_US)
    event("a", at=f"{(now - START_US) // HOUR_US - 1}h" if now - START_US > HOUR_US else "0s")(story)
    story.ring(now + 200 * DAY_US)
    assert len(story.requested) == requested or now == START_US


def play_until_last(story: Story, drawn: list[Happening]) -> None:
    hours = 0
    for each in drawn:
        hours += each.hours
        story.alarm_is_on = each.rings
        if each.name not in ("", "d"):
            event(each.name, at=f"{max(0, hours - each.late_hours)}h", size=each.size)(story)
