"""Owns whom an input reaches: which journeys, in a keyed one which keys, and the journeys that jumps begin.

A standing is known by its id: the journey's, or `journey/key` for one value of a key. The service, the simulator and the
tests all come to the machine through here.
"""

from collections.abc import Iterator, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
from msgspec.structs import replace

from cairn.journey import limits
from cairn.journey.behavior import record
from cairn.journey.live import LiveJourney, LiveJourneys
from cairn.journey.machine import UnknownVersionError, advance
from cairn.journey.reentry import is_needed
from cairn.journey.state import (
    OPEN_STATES,
    Effect,
    EventInput,
    Input,
    LifeInput,
    Profile,
    ProfileInput,
    ReceiptInput,
    RunInput,
    Standing,
    StartInput,
    StartJourney,
    TimerInput,
    Transition,
)


class Dispatched(msgspec.Struct, eq=False, gc=False):
    """What one input did to one profile.

    `profile` is the profile with the input; `standings` are those that changed, by their ids, None for one that nobody needs any
    more; `effects` are in order, each list with the id of its standing; `failures` counts criteria that failed, by journey;
    `quiet` are the journeys that the input reached without changing anything that is told of; `unserved` are journeys that
    a jump leads to and that are not served here.
    """

    profile: Profile
    standings: dict[str, Standing | None] = {}
    effects: list[tuple[str, Sequence[Effect]]] = []
    transitions: list[Transition] = []
    failures: dict[str, int] = {}
    quiet: list[str] = []
    unserved: list[str] = []


def dispatch_event(
    live: LiveJourneys, profile: Profile, standings: Mapping[str, Standing], input: EventInput
) -> Dispatched:
    """What an event does. It is counted in the profile's behavior first; what was due before it does not see it."""
    name = input.view["name"]
    before = profile
    need = live.needs.get(name)
    if need is not None:
        tracks = record(profile.behavior, need, input.stored(), input.time_us)
        profile = Profile(profile.profile_id, profile.attributes, profile.time_zone, tracks)
    run = _Dispatcher(live, profile, standings, Dispatched(profile))
    if run.is_behind(input.time_us):
        run.catch_up(input.time_us, before)
    out = run.out
    for journey in live.concerned_by_event(name):
        told = len(out.transitions)
        if journey.is_keyed:
            run.keyed(journey, input, before)
        else:
            run.one(journey, journey.journey_id, "", input, before)
        if len(out.transitions) == told and not run.remembers(journey.journey_id):
            out.quiet.append(journey.journey_id)
    return run.finish()


def dispatch_profile(
    live: LiveJourneys, before: Profile, after: Profile, standings: Mapping[str, Standing], time_us: int
) -> Dispatched:
    """What a change of the profile does: to those journeys that it is in, and to those that it could begin.

    Raises UnknownVersionError for an open enrollment in a journey that is not served here.
    """
    run = _Dispatcher(live, after, standings, Dispatched(after))
    if run.is_behind(time_us):
        run.catch_up(time_us, before)
    input = ProfileInput(time_us)
    changed = run.out.standings
    reached = set(live.ids_by_profile)
    for standing_id, standing in ({**standings, **changed} if changed else standings).items():
        if standing is not None and _is_open(standing) and standing_id not in live.batch_ids:
            reached.add(standing_id)
    for standing_id in sorted(reached):
        journey_id, _, key = standing_id.partition("/")
        journey = live.get(journey_id)
        if journey is None:
            raise UnknownVersionError(journey_id)
        # Without an event there is no value of a key that could begin anything.
        may_enter = standing_id in live.ids_by_profile and not journey.newest.key
        run.one(journey, standing_id, key, input, before, may_enter)
    return run.finish()


def dispatch_to(
    live: LiveJourneys,
    profile: Profile,
    standings: Mapping[str, Standing],
    standing_id: str,
    input: TimerInput | ReceiptInput | LifeInput,
) -> Dispatched:
    """What an input does that is for one standing. Raises UnknownVersionError when its journey is not served here."""
    run = _Dispatcher(live, profile, standings, Dispatched(profile))
    standing = standings.get(standing_id)
    if standing is not None:
        journey_id, _, key = standing_id.partition("/")
        journey = live.get(journey_id)
        if journey is None:
            raise UnknownVersionError(journey_id)
        # A timer that nobody waits for, or a receipt, moves nothing.
        if (
            type(input) is not ReceiptInput
            and run.is_behind(input.time_us)
            and (type(input) is LifeInput or _is_awaited(standing, input))
        ):
            run.catch_up(input.time_us, profile)
        run.one(journey, standing_id, key, input, profile)
    return run.finish()


def dispatch_run(
    live: LiveJourneys,
    profile: Profile,
    standings: Mapping[str, Standing],
    journey_id: str,
    input: RunInput,
) -> Dispatched:
    """What a run of a batch journey does to one profile: nothing a second time. Raises UnknownVersionError when the journey is not served here."""
    journey = live.get(journey_id)
    if journey is None:
        raise UnknownVersionError(journey_id)
    run = _Dispatcher(live, profile, standings, Dispatched(profile))
    run.one(journey, journey_id, "", input, profile)
    if run.starts and run.is_behind(input.time_us):
        # What was due elsewhere before may have begun the same journey first. Nobody else sees what a run does.
        run = _Dispatcher(live, profile, standings, Dispatched(profile))
        run.catch_up(input.time_us, profile)
        run.one(journey, journey_id, "", input, profile)
    return run.finish()


def key_of(path: tuple[str, ...], properties: Mapping[str, Any]) -> str | None:
    """The value of a key in an event's properties as text; None when it is not there, or is no text, number or boolean."""
    value: Any = properties
    for name in path:
        # A dict, unless somebody made up an event: what a mapping is at all takes long to find out.
        if not isinstance(value, dict | Mapping) or name not in value:
            return None
        value = value[name]
    match value:
        case bool():
            text = "true" if value else "false"
        case int() | float():
            text = str(int(value)) if value == int(value) else repr(float(value))
        case str():
            text = value
        case _:
            return None
    if not text:
        return None
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > limits.MAX_KEY_BYTES or "\0" in text:
        return blake2b(data, digest_size=16).hexdigest()
    return text


class _Dispatcher(msgspec.Struct, eq=False, gc=False):
    """One input on its way to the standings that it reaches, and to those that it begins."""

    live: LiveJourneys
    profile: Profile
    standings: Mapping[str, Standing]
    out: Dispatched
    starts: list[StartJourney] = []

    def remembers(self, journey_id: str) -> bool:
        """Whether something waits for a journey's resume to begin."""
        for standing_id, standing in self.out.standings.items():
            remembers = standing is not None and standing.remembered is not None
            if remembers and standing_id.partition("/")[0] == journey_id:
                return True
        return False

    def standing(self, standing_id: str) -> Standing:
        changed = self.out.standings
        if changed and standing_id in changed:
            return changed[standing_id] or Standing()
        return self.standings.get(standing_id) or Standing()

    def is_behind(self, time_us: int) -> bool:
        """Whether anything may have come to a standing before an input."""
        if self.live.have_lives:
            return True
        for standing in self.standings.values():
            enrollment = standing.enrollment
            if enrollment is not None and 0 < enrollment.wake_us < time_us:
                # Of batch journeys only a run applies what is due.
                return not self.live.batch_ids or self._earliest(time_us, set()) is not None
        return False

    def catch_up(self, time_us: int, before: Profile) -> None:
        """Applies to every standing what came before an input: what was due before its moment, and the resumes and ends of journeys
        that a sweep has not brought yet; in order of time, as the profile was until then.

        The machine does the same for the one that an input reaches; here it is done for all, because a jump, the event itself or a
        resume can make one see what another did. Nothing to do unless something `is_behind`.
        """
        stuck: set[str] = set()
        while found := self._earliest(time_us, stuck):
            due_us, standing_id = found
            journey_id, _, key = standing_id.partition("/")
            journey = self.live.get(journey_id)
            stuck.add(standing_id)
            if journey is None:
                continue
            now, self.profile = self.profile, before
            try:
                self.one(journey, standing_id, key, LifeInput(due_us), before)
                self.begin_started()
            except UnknownVersionError:
                # Whoever the input does not reach must not hold it up.
                continue
            finally:
                self.profile = now
            changed = self.out.standings.get(standing_id)
            if changed is not None and self._due_us(standing_id, changed, time_us) != due_us:
                stuck.discard(standing_id)

    def _earliest(self, time_us: int, stuck: set[str]) -> tuple[int, str] | None:
        """The time and the id of the standing to which something comes first of what comes before an input."""
        found: tuple[int, str] | None = None
        standings = {**self.standings, **self.out.standings} if self.out.standings else self.standings
        for standing_id, standing in standings.items():
            if standing is not None and standing_id not in stuck and standing_id not in self.live.batch_ids:
                due_us = self._due_us(standing_id, standing, time_us)
                if due_us:
                    found = min(found or (due_us, standing_id), (due_us, standing_id))
        return found

    def _due_us(self, standing_id: str, standing: Standing, time_us: int) -> int:
        """When something comes to a standing before an input; 0 when nothing does."""
        wake_us = _wake_us(standing)
        due_us = wake_us if wake_us < time_us else 0
        if self.live.have_lives and (standing.remembered is not None or _is_open(standing)):
            journey = self.live.get(standing_id.partition("/")[0])
            life_us = _unlived_us(journey, standing) if journey is not None else 0
            if life_us and not 0 < due_us < life_us:
                due_us = life_us
        return due_us

    def one(
        self,
        journey: LiveJourney,
        standing_id: str,
        key: str,
        input: Input,
        before: Profile,
        may_enter: bool = True,
    ) -> None:
        """Runs the machine on one standing."""
        standing = self.standing(standing_id)
        if key and (goal_us := self.standing(journey.journey_id).goal_us) > standing.goal_us:
            # An input without a key met the goal for all of them.
            standing = replace(standing, goal_us=goal_us)
        outcome = advance(
            journey, self.profile, standing, input, previous=before, key=key, may_enter=may_enter
        )
        out = self.out
        if outcome.failures:
            out.failures[journey.journey_id] = out.failures.get(journey.journey_id, 0) + outcome.failures
        if outcome.effects:
            out.effects.append((standing_id, outcome.effects))
        if outcome.starts:
            self.starts += outcome.starts
        if outcome.transitions:
            out.transitions += outcome.transitions
        if outcome.standing is not standing:
            out.standings[standing_id] = outcome.standing

    def keyed(self, journey: LiveJourney, input: EventInput, before: Profile) -> None:
        """An event that carries the key's property reaches that value's enrollment only, one without it reaches all."""
        journey_id, properties = journey.journey_id, input.view["properties"]
        newest = key_of(journey.newest.key, properties) if journey.newest.key else ""
        entry_id = _standing_id(journey_id, newest) if newest is not None else ""
        reached = [
            (standing_id, key)
            for standing_id, key, standing in self._of(journey_id)
            if standing_id != entry_id
            and _is_open(standing)
            and _is_meant(journey, key, standing, properties)
        ]
        if newest is not None:
            reached.append((entry_id, newest))
        elif journey_id not in (each for each, _ in reached):
            # Begins nothing, but may meet the goal.
            reached.append((journey_id, ""))
        for standing_id, key in reached:
            may_enter = standing_id == entry_id
            self.one(journey, standing_id, key, input, before, may_enter)
        self._forget(journey, input.time_us)

    def finish(self) -> Dispatched:
        """Begins what jumps lead to, and returns all that came of the input."""
        if self.starts:
            self.begin_started()
        return self.out

    def begin_started(self) -> None:
        """Begins what jumps lead to, one after the other."""
        while self.starts:
            effect = self.starts.pop(0)
            journey = self.live.get(effect.journey_id)
            if journey is None:
                self.out.unserved.append(effect.journey_id)
                continue
            key = self._key_of_start(journey, effect.start)
            if key is not None:
                standing_id = _standing_id(effect.journey_id, key)
                self.one(journey, standing_id, key, effect.start, self.profile)

    def _key_of_start(self, journey: LiveJourney, start: StartInput) -> str | None:
        """The value with which a jump begins a keyed journey, by the event that it carries; without one nothing begins."""
        path = journey.newest.key
        if not path:
            return ""
        return key_of(path, start.entry["properties"]) if start.entry else None

    def _of(self, journey_id: str) -> Iterator[tuple[str, str, Standing]]:
        """The standings with one journey: id, key, standing; in order of their ids."""
        prefix = f"{journey_id}/"
        ids = {*self.standings, *self.out.standings}
        for standing_id in sorted(each for each in ids if each == journey_id or each.startswith(prefix)):
            yield standing_id, standing_id[len(prefix) :], self.standing(standing_id)

    def _forget(self, journey: LiveJourney, now_us: int) -> None:
        for standing_id, key, standing in self._of(journey.journey_id):
            if key and standing_id in self.standings and not is_needed(journey, standing, now_us):
                self.out.standings[standing_id] = None


def _standing_id(journey_id: str, key: str) -> str:
    return f"{journey_id}/{key}" if key else journey_id


def _wake_us(standing: Standing) -> int:
    return standing.enrollment.wake_us if standing.enrollment is not None else 0


def _unlived_us(journey: LiveJourney, standing: Standing) -> int:
    """When a journey resumed from a pause, or ended, that a standing has not lived through yet; 0 when there is none."""
    if standing.pauses < len(journey.pauses):
        until_us = journey.pauses[standing.pauses].until_us
        if until_us is not None:
            return until_us
    return journey.end_us if journey.removes and journey.end_us is not None and _is_open(standing) else 0


def _is_awaited(standing: Standing, timer: TimerInput) -> bool:
    """Whether a timer is the one that its enrollment waits for."""
    enrollment = standing.enrollment
    return enrollment is not None and bool(enrollment.wake_us) and enrollment.timer_id == timer.timer_id


def _is_open(standing: Standing) -> bool:
    return standing.enrollment is not None and standing.enrollment.state in OPEN_STATES


def _is_meant(journey: LiveJourney, key: str, standing: Standing, properties: Mapping[str, Any]) -> bool:
    """Whether an event reaches an open enrollment, by the key of the version that it is in."""
    assert standing.enrollment is not None
    plan = journey.plans.get(standing.enrollment.version)
    if plan is None or not plan.key:
        return True
    value = key_of(plan.key, properties)
    return value is None or value == key
