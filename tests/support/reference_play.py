"""Owns the telling of a case to the core, as the service would, and to the reference; what came of it is compared in `reference_story`."""

import os
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, assume, note, settings
from reference import Reference
from reference_journeys import (
    HOUR_US,
    REACH,
    SEGMENTS,
    START_US,
    WITNESS,
    Case,
    Happening,
    RefusedError,
    read,
)
from reference_state import TooManyStepsError
from reference_world import Event

from cairn.journey.dispatch import Dispatched, dispatch_event, dispatch_profile, dispatch_to
from cairn.journey.live import LiveJourney, LiveJourneys, Pause, PauseMode
from cairn.journey.model import Journey
from cairn.journey.plan import Plan, compile_plan
from cairn.journey.state import (
    CancelTimer,
    EventInput,
    LifeInput,
    Profile,
    ReceiptInput,
    RequestActivation,
    ScheduleTimer,
    Standing,
    TimerInput,
    Transition,
    WithdrawActivation,
)
from cairn.rules import Scope, compile_criteria

HORIZON_US = 30 * 24 * HOUR_US
MOST_RINGS = 300


class TooLongError(Exception):
    """A case whose timers ring and ring."""


TIMES = int(os.environ.get("CAIRN_EXAMPLES", "1"))


def examples(count: int) -> settings:
    """So many examples of a property, or as many times as CAIRN_EXAMPLES says."""
    return settings(
        max_examples=count * TIMES,
        deadline=None,
        phases=[each for each in Phase if each is not Phase.explain],
        suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow, HealthCheck.data_too_large],
    )


class Player:
    """Whom a case is told to."""

    is_over = False

    def go_to(self, time_us: int, each: Happening | None) -> None:
        """Time passes until just before a moment; what is due before it rings."""

    def publish(self, model: Journey, segments: Iterable[str]) -> None: ...
    def take_event(self, event: Event, each: Happening) -> None: ...
    def change_profile(
        self, time_us: int, attributes: Mapping[str, Any], time_zone: str, each: Happening
    ) -> None: ...
    def receive(self, newest: int, each: Happening) -> None: ...
    def pause(self, journey_id: str, mode: str, time_us: int, each: Happening) -> None: ...
    def resume(self, journey_id: str, time_us: int, each: Happening) -> None: ...
    def end(self, journey_id: str, time_us: int, removes: bool, each: Happening) -> None: ...
    def check(self) -> None:
        """After each happening."""


def tell(case: Case, *players: Player) -> None:
    """Tells a case to its end, long after the last thing happened; ids and times are the same for all."""
    journeys = case.journeys()
    if any(len(versions) > 1 for versions in journeys):
        journeys.append([read(WITNESS)])
    later = [versions[1:] for versions in journeys]
    for versions in journeys:
        for player in players:
            player.publish(*versions[0])
    ids = [versions[0][0].journey_id for versions in journeys]
    attributes, zone = dict(case.attributes), ""
    paused: set[str] = set()
    ended: set[str] = set()
    resumed_us: dict[str, int] = {}
    now_us = clock_us = START_US
    for number, each in enumerate(case.happenings):
        clock_us += int(each.hours * HOUR_US)
        # Who does not come round leaves it open whether what is due in the very instant of a pause is before it or after.
        now_us = max(clock_us, now_us) + (not each.sweeps)
        journey_id = ids[each.journey]
        # Nobody pauses or ends a journey in the very microsecond in which it resumes.
        is_at_rest = journey_id not in ended and resumed_us.get(journey_id) != now_us
        can_pause = is_at_rest and journey_id not in paused
        if each.kind == "profile":
            attributes, zone = {**attributes, "level": float(each.level)}, each.time_zone
        for player in players:
            player.go_to(now_us, each)
            match each.kind:
                case "event":
                    time_us = max(now_us - int(each.late_hours * HOUR_US), START_US)
                    properties = {"size": float(each.size)}
                    if each.cart is not None:
                        properties["cart"] = each.cart
                    player.take_event(Event(f"e{number}", each.name, time_us, properties), each)
                case "profile":
                    player.change_profile(now_us, attributes, zone, each)
                case "receipt":
                    player.receive(each.size, each)
                case "publish" if later[each.journey] and journey_id not in ended:
                    player.publish(*later[each.journey][0])
                case "pause" if can_pause:
                    player.pause(journey_id, each.mode, now_us, each)
                case "resume" if journey_id in paused:
                    player.resume(journey_id, now_us, each)
                case "end" if is_at_rest:
                    player.end(journey_id, now_us, each.mode == "DROP", each)
        match each.kind:
            case "publish" if journey_id not in ended:
                later[each.journey] = later[each.journey][1:]
            case "pause" if can_pause:
                paused.add(journey_id)
            case "resume" if journey_id in paused:
                paused.discard(journey_id)
                resumed_us[journey_id] = now_us
            case "end" if is_at_rest:
                ended.add(journey_id)
                paused.discard(journey_id)
        for player in players:
            player.check()
    for player in players:
        player.go_to(now_us + HORIZON_US, None)
        player.is_over = True
        player.check()


def tell_or_skip(case: Case, *players: Player) -> None:
    """Tells a case, unless its journeys would not be saved, or it goes on and on."""
    try:
        tell(case, *players)
    except (RefusedError, TooManyStepsError, TooLongError):
        assume(False)
    except Exception:
        note(repr(case))
        raise


class ReferencePlayer(Player):
    """Tells it to the reference, all at its time, whatever the Scheduler of the case does."""

    def __init__(self, case: Case) -> None:
        self.reference = Reference(case.profile_id, case.attributes, "", lambda source: REACH[source])
        self.rings = 0

    def go_to(self, time_us: int, each: Happening | None) -> None:
        while (ring := self.reference.next_ring()) is not None and ring[0] < time_us:
            self.rings += 1
            if self.rings > MOST_RINGS:
                raise TooLongError
            self.reference.ring(ring[1], ring[0])

    def publish(self, model: Journey, segments: Iterable[str]) -> None:
        self.reference.publish(
            model, {name: compile_criteria(SEGMENTS[name], Scope.SEGMENT) for name in segments}
        )

    def take_event(self, event: Event, each: Happening) -> None:
        self.reference.take_event(event)

    def change_profile(
        self, time_us: int, attributes: Mapping[str, Any], time_zone: str, each: Happening
    ) -> None:
        self.reference.change_profile(time_us, attributes, time_zone)

    def receive(self, newest: int, each: Happening) -> None:
        sent = sorted(self.reference.sent, key=lambda one: (one.time_us, one.standing, one.life, one.step))
        if len(sent) >= newest:
            one = sent[-newest]
            self.reference.receive(one.standing, one.life, one.step)

    def pause(self, journey_id: str, mode: str, time_us: int, each: Happening) -> None:
        self.reference.pause(journey_id, mode, time_us)

    def resume(self, journey_id: str, time_us: int, each: Happening) -> None:
        self.reference.resume(journey_id, time_us)

    def end(self, journey_id: str, time_us: int, removes: bool, each: Happening) -> None:
        self.reference.end(journey_id, time_us, removes)


class CorePlayer(Player):
    """Tells it to the core as the service does: through dispatch, with a store, a Scheduler that may be late or stutter, an
    outbox that drops events that were taken already, and crashes before the commit."""

    def __init__(
        self,
        case: Case,
        profile_id: str = "",
        *,
        is_calm: bool = False,
        plans: dict[str, Plan] | None = None,
    ) -> None:
        self.is_calm = is_calm
        self.plans = {} if plans is None else plans
        self.journeys: dict[str, LiveJourney] = {}
        self.live = LiveJourneys()
        self.profile = Profile(profile_id or case.profile_id, dict(case.attributes))
        self.standings: dict[str, Standing] = {}
        self.taken: set[str] = set()
        self.timers: dict[str, tuple[int, str]] = {}
        self.asked: dict[str, tuple[int, str]] = {}
        self.transitions: list[Transition] = []
        self.requested: list[tuple[str, RequestActivation]] = []
        self.withdrawn: list[WithdrawActivation] = []
        self.outcomes: list[bytes] = []
        self.owed: set[str] = set()
        self.rings = 0

    def record(self) -> bytes:
        """All that came of it."""
        return msgspec.json.encode(
            [self.transitions, self.requested, self.withdrawn, sorted(self.standings.items()), self.profile]
        )

    # What the service does

    def run(self, input: Callable[[], Dispatched], each: Happening | None) -> None:
        """One input in one transaction; when the service dies over it, it is done again from the stored state."""
        out = input()
        if each is not None and each.crashes and not self.is_calm:
            lost = _bytes(out)
            self.standings = msgspec.json.decode(
                msgspec.json.encode(self.standings), type=dict[str, Standing]
            )
            self.profile = msgspec.json.decode(msgspec.json.encode(self.profile), type=Profile)
            out = input()
            assert _bytes(out) == lost, "not the same a second time, after the way to the database and back"
        self.outcomes.append(_bytes(out))
        self.profile = out.profile
        for standing_id, standing in out.standings.items():
            if standing is None:
                del self.standings[standing_id]
            else:
                self.standings[standing_id] = standing
        self.transitions += out.transitions
        for standing_id, effects in out.effects:
            for effect in effects:
                match effect:
                    case ScheduleTimer(timer_id=timer_id, due_us=due_us):
                        assert timer_id not in self.asked, "the id of a wake-up was used again"
                        self.timers[timer_id] = self.asked[timer_id] = due_us, standing_id
                    case CancelTimer(timer_id=timer_id):
                        self.timers.pop(timer_id, None)
                    case RequestActivation():
                        self.requested.append((standing_id, effect))
                    case WithdrawActivation():
                        self.withdrawn.append(effect)

    def to(
        self, standing_id: str, input: TimerInput | ReceiptInput | LifeInput, each: Happening | None
    ) -> None:
        self.run(lambda: dispatch_to(self.live, self.profile, self.standings, standing_id, input), each)

    def serve(self, journey: LiveJourney) -> None:
        self.journeys[journey.journey_id] = journey
        self.live = LiveJourneys(self.journeys[name] for name in sorted(self.journeys))

    def ring(self, until_us: int, each: Happening | None) -> None:
        """The timers that are due before a moment, in order."""
        while due := sorted(
            (due, name, timer) for timer, (due, name) in self.timers.items() if due < until_us
        ):
            self.rings += 1
            if self.rings > 4 * MOST_RINGS:
                raise TooLongError
            due_us, standing_id, timer_id = due[0]
            del self.timers[timer_id]
            self.to(standing_id, TimerInput(timer_id, due_us), each)

    def sweep(self, time_us: int, each: Happening | None, journey_id: str) -> None:
        """Comes round to all who stand in a journey whose life has changed."""
        for standing_id in sorted(self.standings):
            if standing_id in self.standings and standing_id.partition("/")[0] == journey_id:
                self.to(standing_id, LifeInput(time_us), each)

    # What happens

    def go_to(self, time_us: int, each: Happening | None) -> None:
        if each is None:
            # At the end nothing is left undone.
            for journey_id in sorted(self.owed):
                self.sweep(time_us - HORIZON_US, None, journey_id)
            self.ring(time_us, None)
            return
        if each.rings or self.is_calm:
            self.ring(time_us, each)
        if each.repeats and not self.is_calm:
            for timer_id, (due_us, standing_id) in list(self.asked.items()):
                if due_us < time_us and timer_id not in self.timers:
                    self.to(standing_id, TimerInput(timer_id, due_us), each)

    def publish(self, model: Journey, segments: Iterable[str]) -> None:
        known = self.journeys.get(model.journey_id)
        plans = known.plans if known else {}
        version = len(plans) + 1
        plan = self.plans.get(f"{model.journey_id} {version}")
        if plan is None:
            plan = compile_plan(model, version, segments={name: SEGMENTS[name] for name in segments})
            self.plans[f"{model.journey_id} {version}"] = plan
        self.serve(LiveJourney({**plans, version: plan}, known.pauses if known else ()))

    def take_event(self, event: Event, each: Happening) -> None:
        input = EventInput(event.event_id, event.time_us, event.view)
        for _ in range(2 if each.repeats else 1):
            if event.event_id not in self.taken:
                self.taken.add(event.event_id)
                self.run(lambda: dispatch_event(self.live, self.profile, self.standings, input), each)

    def change_profile(
        self, time_us: int, attributes: Mapping[str, Any], time_zone: str, each: Happening
    ) -> None:
        after = msgspec.structs.replace(self.profile, attributes=attributes, time_zone=time_zone)

        def run() -> Dispatched:
            changed = msgspec.structs.replace(after, behavior=self.profile.behavior)
            return dispatch_profile(self.live, self.profile, changed, self.standings, time_us)

        self.run(run, each)

    def receive(self, newest: int, each: Happening) -> None:
        lives: dict[tuple[str, str], int] = {}
        sent = []
        for standing_id, effect in self.requested:
            life = lives.setdefault((standing_id, effect.enrollment_id), len(lives))
            sent.append((effect.request_us, standing_id, life, effect.step_id, effect.activation_id))
        if len(sent) >= newest:
            _, standing_id, _, _, activation_id = sorted(sent)[-newest]
            self.to(standing_id, ReceiptInput(activation_id), each)

    def pause(self, journey_id: str, mode: str, time_us: int, each: Happening) -> None:
        journey = self.journeys[journey_id]
        self.serve(LiveJourney(journey.plans, (*journey.pauses, Pause(PauseMode[mode], time_us))))
        self.come_round(journey_id, time_us, each)

    def resume(self, journey_id: str, time_us: int, each: Happening) -> None:
        journey = self.journeys[journey_id]
        last = journey.pauses[-1]
        pauses = (*journey.pauses[:-1], Pause(last.mode, last.since_us, time_us))
        self.serve(LiveJourney(journey.plans, pauses))
        self.come_round(journey_id, time_us, each)

    def end(self, journey_id: str, time_us: int, removes: bool, each: Happening) -> None:
        journey = self.journeys[journey_id]
        self.serve(LiveJourney(journey.plans, journey.pauses, time_us, removes))
        self.come_round(journey_id, time_us, each)

    def come_round(self, journey_id: str, time_us: int, each: Happening) -> None:
        if each.sweeps or self.is_calm:
            self.sweep(time_us, each, journey_id)
        else:
            self.owed.add(journey_id)


def _bytes(out: Dispatched) -> bytes:
    return msgspec.json.encode(
        [out.transitions, [[name, [[type(each).__name__, each] for each in effects]] for name, effects in out.effects],
         dict(sorted(out.standings.items())), out.profile, out.failures, out.unserved]
    )  # fmt: skip
