"""Owns the simulation: journeys run on given events and changes of profiles, by the very machine, under a virtual clock.

Timers ring punctually, messages count as handed over once the input that asked for them is done, and nothing comes late. Batch journeys
run at given times, or when their schedules say so.
"""

import heapq
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from cairn.journey.cron import parse_cron
from cairn.journey.dispatch import Dispatched, dispatch_event, dispatch_profile, dispatch_run, dispatch_to
from cairn.journey.limits import DAY_US, LATEST_MOMENT_US, describe_us
from cairn.journey.live import LiveJourney, LiveJourneys
from cairn.journey.model import Journey
from cairn.journey.plan import compile_plan
from cairn.journey.state import (
    CancelTimer,
    EventInput,
    Kind,
    LifeInput,
    Profile,
    ReceiptInput,
    RequestActivation,
    RunInput,
    ScheduleTimer,
    Standing,
    TimerInput,
    Transition,
    merge_attributes,
    same_json,
)
from cairn.journey.times import format_time, to_datetime, to_us
from cairn.rules import CriteriaError, Scope, compile_criteria

LONGEST_RUN_US: Final = 400 * DAY_US
"""How long the clock runs on after the last input when no end is given: journeys that lead back to each other never come to one."""

EARLIEST_US: Final = DAY_US
"""The earliest time of an input: a day after 1970 began. A time of 0 says "none" in a state."""

MOST_RINGS: Final = 10_000
"""How often one profile's timers ring after the last input when no end is given."""


MOST_RUNS: Final = 10_000
"""How often one batch journey runs by its schedule."""


@dataclass(frozen=True, slots=True)
class SimulatedEvent:
    """An event; numbers in its properties become doubles, as they do on the wire. It arrives when it occurs, at `time_us`."""

    event_id: str
    profile_id: str
    name: str
    time_us: int
    properties: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SimulatedProfile:
    """A change of a profile: `attributes` are merged into those it has, at the top level, and None removes one; an empty
    `time_zone` leaves what there is."""

    profile_id: str
    time_us: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    time_zone: str = ""


SimulatedInput: TypeAlias = SimulatedEvent | SimulatedProfile


def time_problem(time_us: int) -> str:
    """What is wrong with the time of an input; empty when nothing is."""
    return "" if EARLIEST_US <= time_us <= LATEST_MOMENT_US else "is not between the years 1970 and 9000"


def simulate(
    live: LiveJourneys,
    inputs: Iterable[SimulatedInput],
    until_us: int | None = None,
    run_at_us: Sequence[int] = (),
) -> "Simulation":
    """Runs journeys on inputs: an iterator of (profile_id, transition), in order of time.

    Inputs run in order of time, ties in the given order; one with the profile and id of an event before is left out. What is
    due before an input acts before it, what is due in its instant after it. The clock stops after the
    instant `until_us`; without it when nothing is left to happen, and at the latest LONGEST_RUN_US after the last input.

    Batch journeys run, over all profiles that there are by then, at each of `run_at_us`. Without any, each runs by its schedule, from the first
    input on up to `until_us`, or to the last input; at most MOST_RUNS times. A run comes after all else of its instant.
    """
    return Simulation(live, inputs, until_us, run_at_us)


def live_of(journeys: Iterable[Journey], segments: Mapping[str, str] | None = None) -> LiveJourneys:
    """Journeys as they are served when each is live in version 1; `segments` are the sources of segments' criteria by id."""
    return LiveJourneys(
        LiveJourney({1: compile_plan(journey, 1, segments=segments_through(journey, segments or {}))})
        for journey in journeys
    )


class Simulation(Iterator[tuple[str, Transition]]):
    """A run of journeys under way: iterate to let it go on. The other attributes count when it is over.

    `taken` counts inputs that were taken, `repeated` events that were left out as repetitions, `later` inputs after the end;
    `failures` counts criteria that failed, by journey; `unserved` are journeys that jumps lead to and that are not among these;
    `cut` are the profiles for whom something would have happened still when the clock had run for LONGEST_RUN_US, or MOST_RINGS.
    `runs` says how often each batch journey ran, and `run_until_us` up to when.
    """

    def __init__(
        self,
        live: LiveJourneys,
        inputs: Iterable[SimulatedInput],
        until_us: int | None = None,
        run_at_us: Sequence[int] = (),
    ) -> None:
        self.live = live
        self.until_us = until_us
        self.run_at_us = sorted(set(run_at_us))
        self.runs: dict[str, int] = dict.fromkeys(sorted(live.batch_ids), 0)
        self.run_until_us = 0
        self.taken = self.repeated = self.later = 0
        self.failures: dict[str, int] = {}
        self.unserved: set[str] = set()
        self.cut: set[str] = set()
        self.individuals: dict[str, Individual] = {}
        self._alarms: list[tuple[int, int, str, str]] = []
        self._asked = 0
        self._run = self._transitions(inputs)

    def __next__(self) -> tuple[str, Transition]:
        return next(self._run)

    def _transitions(self, inputs: Iterable[SimulatedInput]) -> Iterator[tuple[str, Transition]]:
        seen: set[tuple[str, str]] = set()
        alarms, last_us = self._alarms, 0
        ordered = sorted(inputs, key=lambda input: input.time_us)
        runs = self._find_runs(ordered)
        for input in ordered:
            if self.until_us is not None and input.time_us > self.until_us:
                self.later += 1
                continue
            if isinstance(input, SimulatedEvent):
                identity = input.profile_id, input.event_id
                if identity in seen:
                    self.repeated += 1
                    continue
                seen.add(identity)
            last_us = input.time_us
            if runs:
                yield from self._run_before(last_us, runs)
            if alarms and alarms[0][0] < last_us:
                yield from self._ring(last_us - 1)
            self.taken += 1
            for transition in self._take(input):
                yield input.profile_id, transition
        if runs:
            last_us = max(last_us, runs[-1][0])
            yield from self._run_before(last_us + 1, runs)
        if self.until_us is not None:
            yield from self._ring(self.until_us)
        else:
            yield from self._ring(last_us + LONGEST_RUN_US, MOST_RINGS)
            self.cut |= {
                profile_id for _, _, profile_id, timer_id in alarms if self._is_open(profile_id, timer_id)
            }

    def _find_runs(self, ordered: Sequence[SimulatedInput]) -> deque[tuple[int, str]]:
        """When which batch journey runs, in order."""
        found: list[tuple[int, str]] = []
        if ordered and self.runs:
            self.run_until_us = ordered[-1].time_us if self.until_us is None else self.until_us
        for journey_id in self.runs:
            if self.run_at_us:
                until_us = self.until_us
                found += [
                    (each, journey_id) for each in self.run_at_us if until_us is None or each <= until_us
                ]
                continue
            journey = self.live.get(journey_id)
            assert journey is not None
            schedule = journey.newest.schedule
            if schedule is None or not ordered:
                continue
            cron = parse_cron(schedule.cron, schedule.time_zone)
            time_us = cron.next_us(ordered[0].time_us - 1)
            for _ in range(MOST_RUNS):
                if time_us is None or time_us > self.run_until_us:
                    break
                found.append((time_us, journey_id))
                time_us = cron.next_us(time_us)
        return deque(sorted(found))

    def _run_before(self, before_us: int, runs: deque[tuple[int, str]]) -> Iterator[tuple[str, Transition]]:
        """Runs batch journeys as far as they are due before a moment, each over everybody, in order of their ids."""
        while runs and runs[0][0] < before_us:
            time_us, journey_id = runs.popleft()
            yield from self._ring(time_us)
            self.runs[journey_id] += 1
            input = RunInput(time_us, format_time(time_us))
            for profile_id, individual in sorted(self.individuals.items()):
                for transition in self._done(individual, individual.take_run(self.live, journey_id, input)):
                    yield profile_id, transition

    def _take(self, input: SimulatedInput) -> Iterable[Transition]:
        profile_id = input.profile_id
        if (
            isinstance(input, SimulatedEvent)
            and not self.live.concerned_by_event(input.name)
            and not self.live.has_need(input.name)
        ):
            return ()
        individual = self.individuals.get(profile_id)
        if individual is None:
            individual = self.individuals[profile_id] = Individual(profile_id)
        if isinstance(input, SimulatedEvent):
            view = event_of(input.name, input.time_us, input.properties)
            done = individual.take_event(self.live, EventInput(input.event_id, input.time_us, view))
        else:
            after = individual.described(input.attributes, input.time_zone)
            done = individual.take_profile(self.live, after, input.time_us)
        return self._done(individual, done)

    def _ring(self, until_us: int, most: int | None = None) -> Iterator[tuple[str, Transition]]:
        """Rings what is due up to and including a moment, by due time, then in the order in which it was asked for; at most so
        often for one profile, which is cut off then."""
        rings: dict[str, int] = {}
        while self._alarms and self._alarms[0][0] <= until_us:
            due_us, _, profile_id, timer_id = heapq.heappop(self._alarms)
            if not self._is_open(profile_id, timer_id):
                continue
            if most is not None:
                rings[profile_id] = rings.get(profile_id, 0) + 1
                if rings[profile_id] > most:
                    self.cut.add(profile_id)
                    continue
            individual = self.individuals[profile_id]
            for transition in self._done(individual, individual.ring(self.live, timer_id, due_us)):
                yield profile_id, transition

    def _is_open(self, profile_id: str, timer_id: str) -> bool:
        return timer_id in self.individuals[profile_id].timers

    def _done(self, individual: "Individual", done: Dispatched) -> list[Transition]:
        """Takes note of what came of an input, and hands over the messages that it asked for; returns its transitions."""
        for journey_id, count in done.failures.items():
            self.failures[journey_id] = self.failures.get(journey_id, 0) + count
        if done.unserved:
            self.unserved.update(done.unserved)
        for standing_id, effects in done.effects:
            for effect in effects:
                if isinstance(effect, ScheduleTimer):
                    self._asked += 1
                    alarm = effect.due_us, self._asked, individual.profile.profile_id, effect.timer_id
                    heapq.heappush(self._alarms, alarm)
                elif isinstance(effect, RequestActivation):
                    individual.take(self.live, standing_id, ReceiptInput(effect.activation_id))
        return done.transitions


class Individual:
    """One profile as it goes: its attributes and behavior, how it stands with each journey, the timers that were asked for.

    `timers` has the due time and the standing of each timer that is open. What an input does is kept here and given back.
    """

    __slots__ = ("profile", "standings", "timers", "was_described")

    def __init__(self, profile_id: str) -> None:
        self.profile = Profile(profile_id)
        self.standings: dict[str, Standing] = {}
        self.timers: dict[str, tuple[int, str]] = {}
        self.was_described = False

    def take_event(self, live: LiveJourneys, input: EventInput) -> Dispatched:
        """What an event does."""
        return self._keep(dispatch_event(live, self.profile, self.standings, input))

    def take_profile(self, live: LiveJourneys, after: Profile, time_us: int) -> Dispatched:
        """What a change of the profile does; one that changes nothing is no input."""
        before, self.profile = self.profile, after
        is_known = self.was_described or self.standings or before.behavior
        self.was_described = True
        same = before.time_zone == after.time_zone and same_json(before.attributes, after.attributes)
        if is_known and same:
            return Dispatched(after)
        return self._keep(dispatch_profile(live, before, after, self.standings, time_us))

    def take_run(self, live: LiveJourneys, journey_id: str, input: RunInput) -> Dispatched:
        """What a run of a batch journey does."""
        return self._keep(dispatch_run(live, self.profile, self.standings, journey_id, input))

    def take(
        self, live: LiveJourneys, standing_id: str, input: TimerInput | ReceiptInput | LifeInput
    ) -> Dispatched:
        """What an input does that is for one standing."""
        return self._keep(dispatch_to(live, self.profile, self.standings, standing_id, input))

    def ring(self, live: LiveJourneys, timer_id: str, due_us: int) -> Dispatched:
        """What an open timer does."""
        _, standing_id = self.timers.pop(timer_id)
        return self.take(live, standing_id, TimerInput(timer_id, due_us))

    def described(self, attributes: Mapping[str, Any], time_zone: str = "") -> Profile:
        """The profile with more attributes, None for those to be removed, and with a time zone unless that is empty."""
        profile = self.profile
        merged = merge_attributes(profile.attributes, as_doubles(attributes))
        return Profile(profile.profile_id, merged, time_zone or profile.time_zone, profile.behavior)

    def _keep(self, done: Dispatched) -> Dispatched:
        self.profile = done.profile
        for standing_id, standing in done.standings.items():
            if standing is None:
                self.standings.pop(standing_id, None)
            else:
                self.standings[standing_id] = standing
        for standing_id, effects in done.effects:
            for effect in effects:
                if isinstance(effect, ScheduleTimer):
                    self.timers[effect.timer_id] = (effect.due_us, standing_id)
                elif isinstance(effect, CancelTimer):
                    self.timers.pop(effect.timer_id, None)
        return done


def more_of(transition: Transition, show: Callable[[int], str]) -> str:
    """What a transition's detail says, in words: `until 3h`, `through email`, `big`. `show` writes a moment."""
    detail = transition.detail
    parts = []
    if "until" in detail:
        parts.append(f"until {show(to_us(detail['until']))}")
    if transition.kind in (Kind.JUMPED, Kind.GOAL_ACHIEVED) and "journey" in detail:
        parts.append("to " + "/".join(filter(None, (detail["journey"], detail["stage"]))))
    parts.append(detail.get("branch", ""))
    parts.append(detail.get("way", "").replace("_", " "))
    parts.append(detail.get("action", ""))
    for word, name in (("through", "channel"), ("by", "exit"), ("because of", "reason")):
        if detail.get(name):
            parts.append(f"{word} {detail[name].removeprefix('connections/')}")
    if "late_seconds" in detail:
        parts.append(f"late by {describe_us(round(detail['late_seconds'] * 1_000_000))}")
    if detail.get("also_held"):
        parts.append(f"over {', '.join(detail['also_held'])}")
    return " ".join(filter(None, parts))


def event_of(name: str, time_us: int, properties: Mapping[str, Any]) -> dict[str, Any]:
    """An event as criteria read it."""
    return {"name": name, "properties": as_doubles(properties), "occur_time": to_datetime(time_us)}


def as_doubles(value: Any) -> Any:
    """A JSON value as it comes off the wire, where every number is a double. Raises OverflowError for one beyond those."""
    if isinstance(value, Mapping):
        return {name: as_doubles(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [as_doubles(each) for each in value]
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def segments_through(journey: Journey, segments: Mapping[str, str]) -> dict[str, str]:
    """Of segments' criteria by id those that a journey names, and those that they name in turn."""
    named: dict[str, str] = {}
    names = {name for criteria in compile_plan(journey, 1).criteria() for name in criteria.segments}
    while names:
        name = names.pop()
        if name not in segments or name in named:
            continue
        named[name] = segments[name]
        try:
            names |= compile_criteria(segments[name], Scope.SEGMENT).segments
        except CriteriaError:
            continue
    return named
