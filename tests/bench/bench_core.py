"""Measures the core, in CPU time, so that neighbors disturb less: what an input costs, what an enrollment weighs, how long a journey takes to check and compile, and a
quarter of a year takes to simulate. Nothing here asserts; see README.md for the figures that are aimed at.

    .venv/bin/python tests/bench/bench_core.py [--json FILE] [--quick] [--profile]
"""

import argparse
import cProfile
import json
import os
import pstats
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from cairn.journey.dispatch import Dispatched, dispatch_event, dispatch_profile, dispatch_to
from cairn.journey.document import read_documents
from cairn.journey.live import LiveJourney, LiveJourneys
from cairn.journey.parse import count_elements, parse_journey
from cairn.journey.plan import compile_plan
from cairn.journey.state import EventInput, Profile, ReceiptInput, RequestActivation, Standing, TimerInput
from cairn.rules import criteria as rules

TEXT = """
name: trial
purpose: {kind: CUSTOM, description: Turn a trial into a subscription}
type: REAL_TIME
reentry: {mode: ALWAYS, cooldown: 7d}
goal: {criteria: 'event.name == "subscribe" && event.properties.plan != "free"'}
exit_criteria:
  - {name: closed, criteria: event.name == "account_closed"}
  - {name: refunded, criteria: 'event.name == "refund" && event.properties.total >= 50.0'}
  - {name: stale, stale: 24d}
stages:
  - name: signed-up
    entry: event.name == "signup" && profile.country in ["JP", "US", "DE"]
    milestone: event.name == "project_created"
    exit_criteria: [{name: idle, stale: 7d}]
    steps:
      - activation: {channel: email, template: welcome}
      - wait: {duration: 2d}
  - name: first-project
    milestone: event.name == "member_invited" && event.properties.project == entry.properties.project
    steps:
      - wait: {duration: 1d}
      - activation: {channel: email, template: invite}
  - name: team
    milestone: event.name == "integration_added" || profile.integrations > 0
    steps:
      - wait: {until_time: "09:00", weekdays: [MON, TUE, WED, THU, FRI]}
      - activation: {channel: email, template: integrate}
  - name: connected
    milestone: count("login", duration("168h")) >= 5
    exit_criteria: [{name: gave-up, criteria: event.name == "uninstall", to: win-back}]
    steps:
      - decision:
          branches:
            - {name: big, criteria: profile.seats > 50}
            - {name: small, criteria: profile.seats <= 5}
          otherwise: [{activation: {channel: email, template: upgrade}}]
  - name: active
    milestone: event.name == "report_viewed" && event.properties.pages > 3.0
    steps:
      - experiment:
          variants:
            - {name: control, percent: 20}
            - {name: discount, percent: 80, steps: [{activation: {channel: email, template: discount}}]}
  - name: engaged
    milestone: event.name in ["upgrade_clicked", "pricing_viewed"]
    steps:
      - wait: {duration: 3d}
      - activation: {channel: email, template: pricing}
  - name: pricing
    milestone: event.name == "cart_abandoned"
    steps:
      - wait: {duration: 1h}
      - activation: {channel: email, template: reminder}
  - name: win-back
    steps:
      - wait: {duration: 3d}
      - activation: {channel: email, template: win-back}
"""
# The most frequent journey there is.
CARTS = """
name: carts
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
reentry: {mode: ALWAYS}
stages:
  - name: cart
    entry: event.name == "cart_add"
    steps:
      - wait: {duration: 3h}
      - activation: {channel: email, template: cart-reminder}
"""
START = datetime(2026, 1, 5, 8, tzinfo=UTC)
START_US = int(START.timestamp()) * 1_000_000
HOUR_US = 3_600_000_000
PROPERTIES = {"project": "p1", "total": 20.0, "pages": 5.0, "plan": "team", "source": "newsletter"}


class World:
    """One profile and the journey, in memory."""

    def __init__(self, live: LiveJourneys) -> None:
        self.live = live
        (self.journey_id,) = (journey.journey_id for journey in live)
        attributes = {"country": "JP", "seats": 12.0, "integrations": 0.0, "email": "ann@example.com"}
        self.profile = Profile("ann", attributes, "Asia/Tokyo")
        self.standings: dict[str, Standing] = {}
        self.now_us = START_US
        self.events = 0
        self.requested: list[RequestActivation] = []

    def event(self, name: str, **properties: Any) -> EventInput:
        """An event an hour from now."""
        self.events += 1
        time_us = self.now_us + HOUR_US
        moment = START + timedelta(microseconds=time_us - START_US)
        view = {"name": name, "properties": {**PROPERTIES, **properties}, "occur_time": moment}
        return EventInput(f"3f2c9a7e-{self.events:08d}", time_us, view)

    def timer(self) -> TimerInput:
        enrollment = self.standings[self.journey_id].enrollment
        assert enrollment is not None
        return TimerInput(enrollment.timer_id, enrollment.wake_us)

    def receipt(self) -> ReceiptInput:
        return ReceiptInput(self.requested[-1].activation_id)

    def keep(self, out: Dispatched) -> None:
        self.profile = out.profile
        for name, standing in out.standings.items():
            assert standing is not None
            self.standings[name] = standing
        self.requested += [
            each for _, effects in out.effects for each in effects if isinstance(each, RequestActivation)
        ]

    def take(self, input: EventInput | TimerInput | ReceiptInput) -> "World":
        if not isinstance(input, ReceiptInput):
            self.now_us = input.time_us
        self.keep(self.call(input)())
        return self

    def call(self, input: EventInput | TimerInput | ReceiptInput) -> Callable[[], Dispatched]:
        """What one input does, as often as one asks: dispatching changes nothing that is passed in."""
        live, profile, standings = self.live, self.profile, dict(self.standings)
        if isinstance(input, EventInput):
            event_id, time_us, view = input.event_id, input.time_us, input.view
            # One of its own for each call: an input remembers what was made of it.
            return lambda: dispatch_event(live, profile, standings, EventInput(event_id, time_us, view))
        journey_id = self.journey_id
        return lambda: dispatch_to(live, profile, standings, journey_id, input)


def live_of_text(text: str) -> LiveJourneys:
    """One journey, served alone."""
    (document,), _ = read_documents(text)
    journey, violations = parse_journey(document.message)
    assert journey is not None, violations
    return LiveJourneys([LiveJourney({1: compile_plan(journey, 1)})])


def cart_inputs(live: LiveJourneys) -> dict[str, list[Callable[[], Dispatched]]]:
    """Inputs of a cart by kind, each with the state in which it comes."""
    world = World(live)
    kinds = {"page view": world.call(world.event("page_view")), "begins": world.call(world.event("cart_add"))}
    world.take(world.event("cart_add"))
    kinds["one more item"] = world.call(world.event("cart_add"))
    kinds["goal"] = world.call(world.event("purchase"))
    kinds["timer"] = world.call(world.timer())
    world.take(world.timer())
    kinds["receipt"] = world.call(world.receipt())
    world.take(world.receipt()).take(world.event("purchase"))
    kinds["begins again"] = world.call(world.event("cart_add"))
    return {f"cart: {kind}": [call] for kind, call in kinds.items()}


def inputs(live: LiveJourneys) -> dict[str, list[Callable[[], Dispatched]]]:
    """Inputs by kind, each with the state in which it comes."""
    moves, nothing, timers, receipts, profiles = [], [], [], [], []
    world = World(live)
    begins = [world.call(world.event("signup"))]
    unknown = [world.call(world.event("page_view"))]
    world.take(world.event("signup"))
    for name in (
        "project_created", "member_invited", "integration_added", "login", "report_viewed", "pricing_viewed",
        "cart_abandoned",
    ):  # fmt: skip
        changed = msgspec.structs.replace(
            world.profile, attributes={**world.profile.attributes, "seats": 13.0}
        )
        profiles.append(_profile_change(world, changed))
        # Names that the journey knows, with properties that none of its criteria wants.
        for other in ("report_viewed", "refund", "subscribe", "member_invited", "login"):
            if other != name:
                nothing.append(world.call(world.event(other, pages=1.0, plan="free", project="p2")))
        receipts += [world.call(world.receipt())] if world.requested else []
        enrollment = world.standings["trial"].enrollment
        if enrollment is not None and enrollment.wake_us:
            timers.append(world.call(world.timer()))
        for _ in range(4 if name == "login" else 0):
            world.take(world.event(name))
        moves.append(world.call(world.event(name)))
        world.take(world.event(name))
    timers.append(world.call(world.timer()))
    return {
        "begins": begins,
        "moves": moves,
        "reaches, matches nothing": nothing,
        "reaches nobody": unknown,
        "timer": timers,
        "profile change": profiles,
        "receipt": receipts,
    }


def _profile_change(world: World, changed: Profile) -> Callable[[], Dispatched]:
    live, before, standings = world.live, world.profile, dict(world.standings)
    return lambda: dispatch_profile(live, before, changed, standings, world.now_us + HOUR_US)


def micros(calls: list[Callable[[], Any]], rounds: int, repeats: int) -> float:
    """Median of microseconds a call."""
    measured = []
    for _ in range(repeats):
        start = time.process_time()
        for _ in range(rounds):
            for call in calls:
                call()
        measured.append((time.process_time() - start) * 1e6 / (rounds * len(calls)))
    return statistics.median(measured)


def sizes(live: LiveJourneys) -> list[int]:
    """Bytes of an enrollment's state at each of its stations, without the events that it carries for messages."""
    world = World(live).take(World(live).event("signup"))
    found = []
    for name in ("project_created", "member_invited", "integration_added", "login", "report_viewed"):
        enrollment = world.standings["trial"].enrollment
        found.append(len(msgspec.json.encode(msgspec.structs.replace(enrollment, entry=None, latest=None))))
        world.take(world.event(name))
    return found


def check_and_compile(repeats: int) -> dict[str, float]:
    (document,), _ = read_documents(TEXT)
    parts: dict[str, list[float]] = {"parse_journey": [], "compile_plan": [], "first evaluation": []}
    for _ in range(repeats):
        rules._compile.cache_clear()
        start = time.process_time()
        journey, violations = parse_journey(document.message)
        assert journey is not None, violations
        parsed = time.process_time()
        plan = compile_plan(journey, 1)
        compiled = time.process_time()
        for criteria in plan.criteria():
            _ = criteria.evaluate
        done = time.process_time()
        for name, taken in zip(parts, (parsed - start, compiled - parsed, done - compiled), strict=True):
            parts[name].append(taken * 1e3)
    return {name: statistics.median(taken) for name, taken in parts.items()}


def simulation(profiles: int) -> dict[str, float] | None:
    """91 days of events of some profiles."""
    try:
        from cairn.journey.simulation import SimulatedEvent, SimulatedProfile, live_of, simulate
    except ImportError:
        return None
    (document,), _ = read_documents(TEXT)
    journey, _ = parse_journey(document.message)
    assert journey is not None
    names = ("login", "project_created", "member_invited", "page_view", "report_viewed", "pricing_viewed")
    events: list[Any] = []
    for number in range(profiles):
        events.append(SimulatedProfile(f"p{number}", START_US, {"country": "JP", "seats": 12.0}))
        for day in range(91):
            name = "signup" if day == number % 30 else names[(day + number) % len(names)]
            time_us = START_US + day * 24 * HOUR_US + number * 1_000_000
            events.append(SimulatedEvent(f"e{number}-{day}", f"p{number}", name, time_us, PROPERTIES))
    events.sort(key=lambda event: event.time_us)
    start = time.process_time()
    count = sum(1 for _ in simulate(live_of([journey]), events, START_US + 91 * 24 * HOUR_US))
    seconds = time.process_time() - start
    return {"profiles": profiles, "events": len(events), "transitions": count, "seconds": seconds}


def show_profile(calls: Iterable[Callable[[], Any]], rounds: int) -> None:
    profiler = cProfile.Profile()
    profiler.enable()
    for call in calls:
        for _ in range(rounds):
            call()
    profiler.disable()
    pstats.Stats(profiler).sort_stats("tottime").print_stats(25)


def _some(calls: list[Callable[[], Dispatched]], count: int) -> list[Callable[[], Dispatched]]:
    return [calls[number % len(calls)] for number in range(count)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the figures here")
    parser.add_argument("--quick", action="store_true", help="a tenth of the rounds")
    parser.add_argument("--profile", action="store_true", help="show where an input's time goes")
    given = parser.parse_args()
    rounds, repeats = (20, 5) if given.quick else (200, 15)

    (document,), _ = read_documents(TEXT)
    kinds = {**inputs(live_of_text(TEXT)), **cart_inputs(live_of_text(CARTS))}
    if given.profile:
        show_profile([call for calls in kinds.values() for call in calls], rounds)
        return
    # Of ten inputs six match nothing, two move and two are timers.
    mix = [
        *_some(kinds["reaches, matches nothing"], 36),
        *_some(kinds["moves"], 12),
        *_some(kinds["timer"], 12),
    ]
    figures: dict[str, Any] = {
        "python": sys.version.split()[0],
        "load": os.getloadavg()[0],
        "cores": os.cpu_count(),
        "elements": count_elements(document.message),
        "input_us": {name: micros(calls, rounds, repeats) for name, calls in kinds.items()},
        "input_us_mix": micros(mix, rounds, repeats),
        "enrollment_bytes": sizes(live_of_text(TEXT)),
        "check_ms": check_and_compile(repeats),
        "simulation_91_days": simulation(50 if given.quick else 200),
    }
    print(f"Python {figures['python']}, {figures['cores']} cores, load {figures['load']:.2f}")
    print(f"a journey of 8 stages and {figures['elements']} elements; medians of {repeats}")
    for name, value in figures["input_us"].items():
        print(f"{value:8.1f} us  {name}")
    print(
        f"{figures['input_us_mix']:8.1f} us  an input of a mix: 6 that match nothing, 2 that move, 2 timers"
    )
    print(
        f"{max(figures['enrollment_bytes']):8} bytes of an enrollment at most, {figures['enrollment_bytes']}"
    )
    for name, value in figures["check_ms"].items():
        print(f"{value:8.2f} ms  {name}")
    if run := figures["simulation_91_days"]:
        print(
            f"{run['seconds']:8.2f} s   91 days of {run['profiles']} profiles: {run['events']} events, "
            f"{run['transitions']} transitions"
        )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
