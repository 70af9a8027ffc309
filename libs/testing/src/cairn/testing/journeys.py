"""Owns the language in which a journey's test reads like a table: what happens to one profile, and the timeline it leaves.

The machine is the real one, under a virtual clock and an alarm that rings when it was asked to. Refuses I/O and real time.

    lines = tell(journey, event("cart_add"), passes("3h"))
    assert lines[-1] == "3h RESTED cart"

A moment is written as a duration since the story began, `0s`. A line is the time, the kind of transition, the step (or
the stage where no step is concerned) and what else is to be said.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from cairn.api.definition.v1 import journey_pb2
from cairn.journey.document import parse_duration_us, read_documents
from cairn.journey.limits import describe_us
from cairn.journey.machine import advance
from cairn.journey.model import Journey
from cairn.journey.parse import parse_journey
from cairn.journey.plan import LiveJourney, compile_plan
from cairn.journey.state import (
    CancelTimer,
    Effect,
    EnrollmentState,
    EventInput,
    Input,
    Kind,
    Outcome,
    Profile,
    ProfileInput,
    ReceiptInput,
    RequestActivation,
    ScheduleTimer,
    Standing,
    TimerInput,
    Transition,
    WithdrawActivation,
)

START: Final = datetime(2026, 1, 1, tzinfo=UTC)
START_US: Final = int(START.timestamp()) * 1_000_000


class Story:
    """One profile and one journey: the standing between them, the timers asked for, and all that came of it.

    The alarm rings punctually while `alarm_is_on`: a timer comes before an event of a later time and after one of the same.
    """

    def __init__(
        self, journey: str | Journey, *, attributes: Mapping[str, Any] | None = None, speed: int = 1
    ) -> None:
        model = read_journey(journey) if isinstance(journey, str) else journey
        self.speed = speed
        self.live = LiveJourney({1: compile_plan(model, 1, speed=speed)})
        self.profile = Profile("ann", as_json(attributes or {}))
        self.standing = Standing()
        self.now_us = START_US
        self.timers: dict[str, int] = {}
        self.alarm_is_on = True
        self.transitions: list[Transition] = []
        self.effects: list[Effect] = []
        self.failures = 0
        self.events = 0

    def take(self, input: Input) -> Outcome:
        """Runs the machine on one input and keeps what comes of it."""
        outcome = advance(self.live, self.profile, self.standing, input)
        self.standing = outcome.standing
        self.transitions += outcome.transitions
        self.effects += outcome.effects
        self.failures += outcome.failures
        for effect in outcome.effects:
            if isinstance(effect, ScheduleTimer):
                self.timers[effect.timer_id] = effect.due_us
            elif isinstance(effect, CancelTimer):
                self.timers.pop(effect.timer_id, None)
        return outcome

    def ring(self, until_us: int) -> None:
        """Delivers the timers that are due up to and including a moment, in order, if the alarm is on."""
        while self.alarm_is_on and self.timers:
            timer_id, due_us = min(self.timers.items(), key=lambda timer: timer[1])
            if due_us > until_us:
                break
            del self.timers[timer_id]
            self.take(TimerInput(timer_id, due_us))

    def go_to(self, time_us: int) -> None:
        """Lets the clock reach a moment at which something else will happen: what is due before it rings."""
        if time_us > self.now_us:
            self.ring(time_us - 1)
            self.now_us = time_us

    @property
    def lines(self) -> list[str]:
        """The timeline, one line for each transition."""
        return [line(transition) for transition in self.transitions]

    @property
    def requested(self) -> list[RequestActivation]:
        """The activations asked for, in order."""
        return [effect for effect in self.effects if isinstance(effect, RequestActivation)]

    @property
    def withdrawn(self) -> list[WithdrawActivation]:
        """The activations taken back, in order."""
        return [effect for effect in self.effects if isinstance(effect, WithdrawActivation)]

    @property
    def state(self) -> EnrollmentState | None:
        """Where the last enrollment is; None when there never was one."""
        return self.standing.enrollment.state if self.standing.enrollment else None


Moment = Callable[[Story], None]
"""Something that happens in a story."""


class Case(msgspec.Struct, frozen=True):
    """A row of a table of cases: in words, the journey, what happens, and the whole timeline that must come of it."""

    words: str
    journey: str
    moments: tuple[Moment, ...]
    then: tuple[str, ...]
    attributes: Mapping[str, Any] = {}

    def told(self) -> list[str]:
        """The timeline that does come of it."""
        return tell(self.journey, *self.moments, attributes=self.attributes)


def tell(journey: str, *moments: Moment, attributes: Mapping[str, Any] | None = None) -> list[str]:
    """The timeline of a profile to which these moments happen; `attributes` are those it has at first."""
    return play(journey, *moments, attributes=attributes).lines


def play(journey: str, *moments: Moment, attributes: Mapping[str, Any] | None = None) -> Story:
    """The story after these moments."""
    story = Story(journey, attributes=attributes)
    for moment in moments:
        moment(story)
    return story


def event(name: str, at: str | None = None, **properties: Any) -> Moment:
    """An event that happens at a moment, by default when the story has come to; one of an earlier moment arrives late, now."""

    def happens(story: Story) -> None:
        time_us = story.now_us if at is None else _moment(at)
        story.go_to(time_us)
        story.events += 1
        occur_time = START + timedelta(microseconds=time_us - START_US)
        view = {"name": name, "properties": as_json(properties), "occur_time": occur_time}
        story.take(EventInput(f"e{story.events}", time_us, view))

    return happens


def profile(at: str | None = None, **attributes: Any) -> Moment:
    """A change of the profile: these attributes are merged into those it has."""

    def changes(story: Story) -> None:
        story.go_to(story.now_us if at is None else _moment(at))
        previous = story.profile.attributes
        story.profile = Profile(story.profile.profile_id, {**previous, **as_json(attributes)})
        story.take(ProfileInput(story.now_us, previous))

    return changes


def passes(duration: str) -> Moment:
    """Time passes, and what becomes due meanwhile rings."""

    def happens(story: Story) -> None:
        story.now_us += duration_us(duration)
        story.ring(story.now_us)

    return happens


def alarm(on: bool) -> Moment:
    """The Scheduler goes down; or it comes back and rings at once for all that is due."""

    def happens(story: Story) -> None:
        story.alarm_is_on = on
        story.ring(story.now_us)

    return happens


def receipt(step_id: str) -> Moment:
    """The fate of the newest activation that a step asked for becomes known."""

    def arrives(story: Story) -> None:
        newest = [each for each in story.requested if each.step_id == step_id][-1]
        story.take(ReceiptInput(newest.activation_id))

    return arrives


def publish(journey: str) -> Moment:
    """The next version of the journey goes live."""

    def happens(story: Story) -> None:
        version = story.live.newest.version + 1
        plan = compile_plan(read_journey(journey), version, speed=story.speed)
        story.live = LiveJourney({**story.live.plans, version: plan})

    return happens


def read_journey(text: str) -> Journey:
    """The one journey that a YAML text holds. Raises ValueError with all that is wrong with it."""
    documents, violations = read_documents(text)
    if violations or len(documents) != 1:
        raise ValueError("; ".join(map(str, violations)) or f"holds {len(documents)} documents")
    message = documents[0].message
    assert isinstance(message, journey_pb2.Journey), "a story is about a journey"
    journey, violations = parse_journey(message)
    if journey is None:
        raise ValueError("; ".join(map(str, violations)))
    return journey


def line(transition: Transition) -> str:
    """A transition as a line of the timeline."""
    detail = transition.detail
    parts = [_offset(transition.time_us), transition.kind.name, transition.step or transition.stage]
    if transition.kind is Kind.WAIT_STARTED:
        until = datetime.fromisoformat(detail["until"])
        parts.append(f"until {_offset(START_US + (until - START) // timedelta(microseconds=1))}")
    parts += _said("through", detail.get("channel", "").removeprefix("connections/"))
    parts += _said("by", detail.get("exit", ""))
    parts += _said("because of", detail.get("reason", ""))
    if "late_seconds" in detail:
        parts.append(f"late by {describe_us(round(detail['late_seconds'] * 1_000_000))}")
    parts += _said("over", ", ".join(detail.get("also_held", ())))
    return " ".join(parts)


def as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as they come off the wire, where every number is a double."""
    return {name: _as_json(value) for name, value in values.items()}


def duration_us(duration: str) -> int:
    """A duration as people write it, in microseconds. Raises ValueError."""
    value = parse_duration_us(duration)
    if value is None:
        raise ValueError(f"{duration!r} is no duration; one is 3h")
    return value


def times(kinds: Iterable[Kind], transitions: Iterable[Transition]) -> list[str]:
    """When transitions of these kinds happened, each as a duration since the story began."""
    wanted = set(kinds)
    return [_offset(each.time_us) for each in transitions if each.kind in wanted]


def _as_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return as_json(value)
    if isinstance(value, list):
        return [_as_json(each) for each in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _moment(at: str) -> int:
    return START_US - duration_us(at[1:]) if at.startswith("-") else START_US + duration_us(at)


def _offset(time_us: int) -> str:
    return describe_us(time_us - START_US)


def _said(word: str, what: str) -> list[str]:
    return [f"{word} {what}"] if what else []
