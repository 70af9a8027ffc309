"""Owns the story of one profile on the bare machine: a virtual clock, an alarm that can be switched off, the life of journeys.

What the simulator refuses is possible here: late events, a Scheduler that is down, receipts that never come.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from cairn.api.definition.v1 import journey_pb2
from cairn.journey.dispatch import Dispatched
from cairn.journey.document import read_documents
from cairn.journey.limits import describe_us
from cairn.journey.live import LiveJourney, LiveJourneys, Pause
from cairn.journey.model import Journey
from cairn.journey.parse import parse_journey
from cairn.journey.plan import Plan, compile_plan
from cairn.journey.references import check_references
from cairn.journey.simulation import Individual, event_of, more_of, segments_through
from cairn.journey.state import (
    Effect,
    EnrollmentState,
    EventInput,
    Kind,
    LifeInput,
    Profile,
    ReceiptInput,
    RequestActivation,
    RunInput,
    Standing,
    TimerInput,
    Transition,
    WithdrawActivation,
)
from cairn.testing import moments as at
from cairn.testing.moments import Moment

START_US: Final = 1_767_225_600_000_000
"""When a story begins unless it says otherwise: 2026-01-01T00:00:00Z, a Thursday."""


class Story:
    """One profile, the journeys that it is in, and all that came of what happened to it.

    `journeys` is YAML of one or more journeys and the segments that they name, or one journey that was read already; `speed`
    divides every duration. The alarm rings punctually while `alarm_is_on`: a timer comes before an event of a later time
    and after one of the same. Raises ValueError with all that is wrong with the text.
    """

    def __init__(
        self,
        journeys: str | Journey,
        *,
        attributes: Mapping[str, Any] | None = None,
        time_zone: str = "",
        profile_id: str = "ann",
        start_us: int = START_US,
        speed: int = 1,
    ) -> None:
        self.speed = speed
        self.start_us = self.now_us = start_us
        self.journeys: dict[str, LiveJourney] = {}
        self.live = LiveJourneys()
        self.publish(journeys)
        self.individual = Individual(profile_id)
        self.individual.profile = self.individual.described(attributes or {}, time_zone)
        self.alarm_is_on = True
        self.transitions: list[Transition] = []
        self.effects: list[Effect] = []
        self.failures = 0
        self._events: set[str] = set()
        self._standing_of: dict[str, str] = {}
        self._unaware: set[str] = set()
        self._runs = 0

    # What happens

    def happen(self, moment: Moment) -> None:
        """Makes a moment happen."""
        match moment:
            case at.Event():
                self._event(moment)
            case at.Change():
                self.go_to(self._time(moment.at_us))
                after = self.individual.described(moment.attributes, moment.time_zone)
                self._keep(self.individual.take_profile(self.live, after, self.now_us))
            case at.Passes():
                self.now_us += moment.duration_us
                self.ring(self.now_us)
            case at.Run():
                self._run(moment)
            case at.Receipt():
                newest = [each for each in self.requested if each.step_id == moment.step_id][-1]
                self.take(ReceiptInput(newest.activation_id))
            case at.Alarm():
                self.alarm_is_on = moment.on
                self._tell_of_life()
                self.ring(self.now_us)
            case at.Publish():
                self.publish(moment.journeys)
            case at.Pause():
                self._live_on(moment.journey, pauses=lambda old: (*old, Pause(moment.mode, self.now_us)))
            case at.Resume():
                self._live_on(moment.journey, pauses=self._resumed)
            case at.End():
                self._live_on(moment.journey, end_us=self.now_us, removes=moment.remove)
            case _:
                moment.happen(self)

    def take(self, input: EventInput | TimerInput | ReceiptInput) -> Dispatched:
        """Runs the machine on one input for the standing that it is for, whatever the clock says."""
        if isinstance(input, EventInput):
            return self._keep(self.individual.take_event(self.live, input))
        asked_for = input.timer_id if isinstance(input, TimerInput) else input.activation_id
        standing_id = self._standing_of.get(asked_for, next(iter(self.journeys)))
        if isinstance(input, TimerInput):
            self.individual.timers.pop(input.timer_id, None)
        return self._keep(self.individual.take(self.live, standing_id, input))

    def ring(self, until_us: int) -> None:
        """Delivers the timers that are due up to and including a moment, in order, if the alarm is on."""
        while self.alarm_is_on and self.timers:
            timer_id, due_us = min(self.timers.items(), key=lambda timer: timer[1])
            if due_us > until_us:
                break
            self._keep(self.individual.ring(self.live, timer_id, due_us))

    def go_to(self, time_us: int) -> None:
        """Lets the clock reach a moment at which something else will happen: what is due before it rings."""
        if time_us > self.now_us:
            self.ring(time_us - 1)
            self.now_us = time_us

    def publish(self, journeys: str | Journey) -> None:
        """The next version of each journey goes live."""
        models, segments = read_journeys(journeys) if isinstance(journeys, str) else ([journeys], {})
        for model in models:
            before = self.journeys.get(model.journey_id)
            version = before.newest.version + 1 if before else 1
            named = segments_through(model, segments)
            plan = compile_plan(model, version, speed=self.speed, segments=named)
            plans: dict[int, Plan] = {**before.plans, version: plan} if before else {version: plan}
            self._serve(dataclasses.replace(before, plans=plans) if before else LiveJourney(plans))

    # What came of it

    @property
    def lines(self) -> list[str]:
        """The timeline, one line for each transition."""
        return [line(each, self.start_us, len(self.journeys) > 1) for each in self.transitions]

    @property
    def profile(self) -> Profile:
        """The profile as it is now."""
        return self.individual.profile

    @property
    def standings(self) -> dict[str, Standing]:
        """How the profile stands with the journeys, by the standing's id."""
        return self.individual.standings

    @property
    def standing(self) -> Standing:
        """How the profile stands with the first journey."""
        return self.standings.get(next(iter(self.journeys))) or Standing()

    @property
    def journey(self) -> LiveJourney:
        """The first journey."""
        return next(iter(self.journeys.values()))

    @property
    def state(self) -> EnrollmentState | None:
        """Where the last enrollment in the first journey is; None when there never was one."""
        return self.standing.enrollment.state if self.standing.enrollment else None

    @property
    def timers(self) -> dict[str, int]:
        """The due times of the timers that are open, by id."""
        return {timer_id: due_us for timer_id, (due_us, _) in self.individual.timers.items()}

    @property
    def requested(self) -> list[RequestActivation]:
        """The activations asked for, in order."""
        return [effect for effect in self.effects if isinstance(effect, RequestActivation)]

    @property
    def withdrawn(self) -> list[WithdrawActivation]:
        """The activations taken back, in order."""
        return [effect for effect in self.effects if isinstance(effect, WithdrawActivation)]

    # Inside

    def _event(self, moment: at.Event) -> None:
        time_us = self._time(moment.at_us)
        self.go_to(time_us)
        event_id = moment.event_id or f"e{len(self._events) + 1}"
        if event_id not in self._events:
            self._events.add(event_id)
            self.take(EventInput(event_id, time_us, event_of(moment.name, time_us, moment.properties)))
            # What a late event asks for may be overdue.
            self.ring(self.now_us - 1)

    def _run(self, moment: at.Run) -> None:
        self.go_to(self._time(moment.at_us))
        self._runs += 1
        run = RunInput(self.now_us if moment.at_us is None else self._time(moment.at_us), f"r{self._runs}")
        journey_id = moment.journey or next(iter(self.journeys))
        self._keep(self.individual.take_run(self.live, journey_id, run))

    def _time(self, offset_us: int | None) -> int:
        return self.now_us if offset_us is None else self.start_us + offset_us

    def _keep(self, done: Dispatched) -> Dispatched:
        self.transitions += done.transitions
        self.failures += sum(done.failures.values())
        for standing_id, effects in done.effects:
            self.effects += effects
            for effect in effects:
                if isinstance(effect, RequestActivation):
                    self._standing_of[effect.activation_id] = standing_id
        for timer_id, (_, standing_id) in self.individual.timers.items():
            self._standing_of[timer_id] = standing_id
        return done

    def _serve(self, journey: LiveJourney) -> None:
        self.journeys[journey.journey_id] = journey
        self.live = LiveJourneys(self.journeys.values())

    def _resumed(self, pauses: tuple[Pause, ...]) -> tuple[Pause, ...]:
        last = pauses[-1]
        return (*pauses[:-1], dataclasses.replace(last, until_us=self.now_us))

    def _live_on(
        self,
        journey_id: str,
        pauses: Callable[[tuple[Pause, ...]], tuple[Pause, ...]] = tuple,
        **changes: Any,
    ) -> None:
        """A change of a journey's life; whom it concerns is told at once, or when the alarm is back."""
        journey = self.journeys[journey_id or next(iter(self.journeys))]
        # What was due before it has rung before it.
        self.ring(self.now_us - 1)
        self._serve(dataclasses.replace(journey, pauses=pauses(journey.pauses), **changes))
        self._unaware.add(journey.journey_id)
        self._tell_of_life()

    def _tell_of_life(self) -> None:
        if not self.alarm_is_on:
            return
        for standing_id in sorted(self.standings):
            if standing_id.partition("/")[0] in self._unaware:
                self._keep(self.individual.take(self.live, standing_id, LifeInput(self.now_us)))
        self._unaware.clear()


def read_journeys(text: str) -> tuple[list[Journey], dict[str, str]]:
    """The journeys of a YAML text, and the criteria of the segments that are in it.

    Connections and templates are passed over. Raises ValueError with all that is wrong.
    """
    documents, found = read_documents(text)
    wrong = [f"line {each.line}: {each}" if each.line else str(each) for each in found]
    messages: dict[str, journey_pb2.Journey] = {}
    journeys: list[Journey] = []
    segments: dict[str, str] = {}
    for document in documents:
        message = document.message
        if isinstance(message, journey_pb2.Segment):
            segments[message.name.removeprefix("segments/")] = message.criteria
        elif isinstance(message, journey_pb2.Journey):
            journey, violations = parse_journey(message)
            wrong += [str(each) for each in violations]
            if journey is not None:
                messages[journey.journey_id] = message
                journeys.append(journey)
    for violations_of_one in check_references(messages, known=None, segments=None).values():
        wrong += [str(each) for each in violations_of_one]
    if wrong:
        raise ValueError("; ".join(wrong))
    if not journeys:
        raise ValueError("holds no journey")
    return journeys, segments


def read_journey(text: str) -> Journey:
    """The one journey that a YAML text holds. Raises ValueError with all that is wrong with it."""
    journeys, _ = read_journeys(text)
    if len(journeys) != 1:
        raise ValueError(f"holds {len(journeys)} journeys")
    return journeys[0]


def line(transition: Transition, start_us: int = START_US, with_journey: bool = False) -> str:
    """A transition as a line of the timeline: `3h ACTIVATION_REQUESTED cart/2 through email`."""

    def offset(time_us: int) -> str:
        return describe_us(time_us - start_us)

    place = transition.step or transition.stage
    parts = (
        transition.journey_id if with_journey else "",
        offset(transition.time_us),
        transition.kind.name,
        place,
        more_of(transition, offset),
    )
    return " ".join(filter(None, parts))


def times(kinds: Iterable[Kind], transitions: Iterable[Transition], start_us: int = START_US) -> list[str]:
    """When transitions of these kinds happened, each as a duration since the story began."""
    wanted = set(kinds)
    return [describe_us(each.time_us - start_us) for each in transitions if each.kind in wanted]
