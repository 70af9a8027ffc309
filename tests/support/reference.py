"""Owns a second reading of the page: an interpreter of one profile's journeys that is slow, plain, and written from
`journeys.md` rather than from the core. A property test holds the two together.

It walks the model as written, keeps every event, and does everything at once at its time: timers ring when they are due,
a pause or a resume acts on all that it concerns the moment it comes. There is no program, no index and no cache.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from reference_state import (
    DAY_US,
    TIMER,
    Detail,
    Entry,
    Hand,
    Life,
    Line,
    Served,
    Standing,
    Version,
    applies,
    criteria_of,
    shift,
)
from reference_steps import Steps
from reference_world import Event, text_of_key

from cairn.journey.model import ExitCriterion, Journey, ReentryMode, WhileActive
from cairn.rules import Criteria


class Reference(Steps):
    """One profile in all journeys."""

    # Inputs

    def publish(self, model: Journey, segments: Mapping[str, Criteria]) -> None:
        served = self.journeys.setdefault(model.journey_id, Served())
        served.versions.append(Version(len(served.versions) + 1, model, segments))

    def take_event(self, event: Event) -> None:
        if event.name in {ask.name for each in self.every_criteria() for ask in each.asks}:
            self.world.counted.append(event)
        for journey_id in sorted(self.journeys):
            if not self.reaches(self.journeys[journey_id], event.name):
                continue
            path = self.journeys[journey_id].newest.model.key
            key = text_of_key(path, event.properties) if path else ""
            if key is not None:
                self.take(self.standing(journey_id, key), event, event.time_us, may_begin=True)
            else:
                self.remember_goal_for_all(journey_id, event, event.time_us)
                for standing in self.open_standings(journey_id):
                    self.take(standing, event, event.time_us, may_begin=False)
        self.begin_what_jumps_lead_to()

    def change_profile(self, time_us: int, attributes: Mapping[str, Any], time_zone: str) -> None:
        self.world.attributes, self.world.time_zone = attributes, time_zone
        reached = set()
        for journey_id, served in self.journeys.items():
            if served.newest.model.key:
                self.remember_goal_for_all(journey_id, None, time_us)
            else:
                reached.add(self.standing(journey_id, "").name)
            reached |= {standing.name for standing in self.open_standings(journey_id)}
        for name in sorted(reached):
            standing = self.standings[name]
            self.take(standing, None, time_us, may_begin=not standing.key)
        self.begin_what_jumps_lead_to()

    def receive(self, standing: str, life: int, step: str) -> None:
        current = self.standings[standing].life
        if current is not None and current.number == life:
            current.pending = [each for each in current.pending if each != step]

    def pause(self, journey_id: str, mode: str, time_us: int) -> None:
        self.journeys[journey_id].pause = (mode, time_us)
        for standing in self.open_standings(journey_id) if mode == "DROP" else ():
            self.remove(standing, time_us, "pause")
        self.apply_dues_of(journey_id, time_us)

    def resume(self, journey_id: str, time_us: int) -> None:
        served = self.journeys[journey_id]
        assert served.pause is not None
        mode, since_us = served.pause
        for standing in self.standings_of(journey_id):
            if mode == "RUN":
                # What is due before the resume finds the journey paused, what is due with it comes after.
                self.apply_dues(standing, time_us - 1)
            if mode == "FREEZE" and standing.life is not None:
                shift(standing.life, since_us, time_us)
        served.pause = None
        for standing in self.standings_of(journey_id):
            self.resume_one(standing, time_us)
            self.begin_what_jumps_lead_to()

    def end(self, journey_id: str, time_us: int, removes: bool) -> None:
        served = self.journeys[journey_id]
        served.ended = True
        if removes:
            for standing in self.open_standings(journey_id):
                self.remove(standing, time_us, "end")
        if served.pause is not None:
            self.resume(journey_id, time_us)
        self.apply_dues_of(journey_id, time_us)

    def ring(self, name: str, due_us: int) -> None:
        """A wake-up."""
        self.apply_dues(self.standings[name], due_us)
        self.begin_what_jumps_lead_to()

    def next_ring(self) -> tuple[int, str] | None:
        """When the next wake-up is due, and whose."""
        dues = [
            (due, name)
            for name, standing in self.standings.items()
            if (due := self.next_due(standing)) is not None
        ]
        return min(dues, default=None)

    # Who is reached

    def every_criteria(self) -> Iterator[Criteria]:
        for served in self.journeys.values():
            for version in served.versions:
                yield from criteria_of(version)

    def reaches(self, served: Served, name: str) -> bool:
        for version in served.versions:
            for criteria in criteria_of(version):
                names = self.reach(criteria.source)
                if names is None or name in names:
                    return True
        return False

    def standing(self, journey_id: str, key: str) -> Standing:
        standing = Standing(journey_id, key)
        return self.standings.setdefault(standing.name, standing)

    def standings_of(self, journey_id: str) -> list[Standing]:
        return [each for _, each in sorted(self.standings.items()) if each.journey == journey_id]

    def open_standings(self, journey_id: str) -> list[Standing]:
        return [each for each in self.standings_of(journey_id) if each.life is not None]

    # One input in one journey

    def take(self, standing: Standing, event: Event | None, time_us: int, *, may_begin: bool) -> None:
        cause = f"event {event.event_id}" if event else "profile"
        goal_met = self.meets_goal(standing.journey, event, standing.life, time_us)
        if goal_met:
            standing.goal_us = max(standing.goal_us, time_us)
        acted, life = False, standing.life
        if life is not None:
            hand = Hand(event, cause, max(0, life.now_us - time_us))
            life.now_us = max(life.now_us, time_us)
            if event is not None and (life.latest is None or life.latest.time_us <= event.time_us):
                life.latest = event
            acted = self.act_on_rules(standing, life, hand)
            if not acted and self.meets_condition(life, hand):
                self.end_wait(standing, life, hand, "met")
                acted = True
        if not acted and may_begin and not goal_met:
            newest = self.journeys[standing.journey].newest
            if self.world.holds(newest.model.entry, event, None, newest.segments, time_us):
                self.enter(standing, Entry(time_us, cause, event, event, event))
        if standing.life is not None:
            self.apply_dues(standing, standing.life.now_us)

    def meets_goal(self, journey_id: str, event: Event | None, life: Life | None, time_us: int) -> bool:
        newest = self.journeys[journey_id].newest
        entry = None
        if life is not None:
            # Once for all that asks: judged at the enrollment's time where there is one.
            entry, time_us = life.entry, max(time_us, life.now_us)
        goal = newest.model.goal
        return goal is not None and self.world.holds(goal, event, entry, newest.segments, time_us)

    def remember_goal_for_all(self, journey_id: str, event: Event | None, time_us: int) -> None:
        if self.meets_goal(journey_id, event, None, time_us):
            served = self.journeys[journey_id]
            served.goal_us = max(served.goal_us, time_us)

    # The rules, in their order

    def act_on_rules(self, standing: Standing, life: Life, hand: Hand, *, with_goal: bool = True) -> bool:
        """Rules 1 to 4: acts on the first that holds."""
        held = list(self.held_rules(life, hand, with_goal))
        if not held:
            return False
        detail: Detail = {}
        also_held = [name for name, _, _ in held[1:]]
        if self.meets_step(life, hand):
            also_held.append(f"step {life.todo[0].step_id}")
        if also_held:
            detail["also_held"] = also_held
        if hand.late_us:
            detail["late_seconds"] = hand.late_us / 1_000_000
        name, exit, to = held[0]
        self.leave_step(standing, life, hand)
        if exit is not None:
            detail["exit"] = exit.name
        if name == "goal":
            self.achieve_goal(standing, life, hand, detail)
        elif to is None:
            self.end_life(standing, life, "EXITED", hand, detail)
        else:
            for skipped in range(life.stage + 1, to) if exit is None else ():
                self.tell(standing, life, "STAGE_SKIPPED", hand, stage=skipped)
            self.enter_stage(standing, life, to, hand, detail)
            self.run_or_hold(standing, life, hand)
        return True

    def held_rules(
        self, life: Life, hand: Hand, with_goal: bool
    ) -> Iterator[tuple[str, ExitCriterion | None, int | None]]:
        model, stages = life.model, life.model.stages
        if with_goal and model.goal is not None and self.holds(life, model.goal, hand):
            yield "goal", None, None
        for exit in model.exits:
            # One that leads to where the profile is already, or past it, says nothing.
            if (exit.to is None or exit.to > life.stage) and self.exit_holds(life, exit, life.enter_us, hand):
                yield f"exit {exit.name}", exit, exit.to
        for exit in stages[life.stage].exits:
            if self.exit_holds(life, exit, life.stage_us, hand):
                yield f"exit {exit.name}", exit, exit.to
        for index in reversed(range(len(stages) - 1)):
            is_tested = index == life.stage or (index > life.stage and model.skip_stages)
            milestone = stages[index].milestone
            if is_tested and milestone is not None and self.holds(life, milestone, hand):
                yield f"milestone {stages[index].name}", None, index + 1

    def exit_holds(self, life: Life, exit: ExitCriterion, since_us: int, hand: Hand) -> bool:
        if exit.criteria is not None:
            return self.holds(life, exit.criteria, hand)
        assert exit.stale_us is not None
        return hand.cause == "timer" and since_us + exit.stale_us <= life.now_us

    def meets_step(self, life: Life, hand: Hand) -> bool:
        if hand.cause == "timer":
            return life.state == "waiting" and life.until_us <= life.now_us
        return self.meets_condition(life, hand)

    def achieve_goal(self, standing: Standing, life: Life, hand: Hand, detail: Detail) -> None:
        target = life.model.goal_target
        if target is not None:
            detail = {"journey": target.journey_id, "stage": target.stage, **detail}
        standing.achieved = True
        self.end_life(standing, life, "GOAL_ACHIEVED", hand, detail)
        if target is not None:
            self.jump_to(standing, life, target, hand)

    # Time

    def next_due(self, standing: Standing) -> int | None:
        """When time alone does something next; None when it never does, or while the clock stands still."""
        life, pause = standing.life, self.journeys[standing.journey].pause
        if life is None or (pause is not None and pause[0] != "RUN"):
            return None
        dues = [life.enter_us + exit.stale_us for exit in life.model.exits if applies(exit, life)]
        dues += [
            life.stage_us + exit.stale_us
            for exit in life.model.stages[life.stage].exits
            if exit.stale_us is not None
        ]
        if life.state == "resting" and not dues:
            dues = [life.rest_us + 24 * DAY_US]
        if life.state == "waiting":
            dues.append(life.until_us)
        return min(dues, default=None)

    def apply_dues(self, standing: Standing, until_us: int) -> None:
        """What is due up to and including a moment, each an input of its own."""
        while (due := self.next_due(standing)) is not None and due <= until_us:
            life = standing.life
            assert life is not None
            if due > life.now_us:
                life.now_us, self.steps = due, 0
            if self.act_on_rules(standing, life, TIMER):
                continue
            if life.state == "waiting":
                self.end_wait(standing, life, TIMER, "timed_out")
            else:
                self.end_life(standing, life, "COMPLETED", TIMER)

    def apply_dues_of(self, journey_id: str, time_us: int) -> None:
        """What an operator does is an input of its time too: then what is due at that very time."""
        for standing in self.standings_of(journey_id):
            self.apply_dues(standing, time_us)
            self.begin_what_jumps_lead_to()

    def remove(self, standing: Standing, time_us: int, cause: str) -> None:
        life, hand = standing.life, Hand(None, cause)
        assert life is not None
        life.now_us = max(life.now_us, time_us)
        self.leave_step(standing, life, hand)
        self.end_life(standing, life, "REMOVED", hand)

    def resume_one(self, standing: Standing, time_us: int) -> None:
        life, entry, self.steps = standing.life, standing.remembered, 0
        if life is not None and life.state == "held":
            life.now_us = max(life.now_us, time_us)
            self.run(standing, life, Hand(life.held, "resume"))
        standing.remembered = None
        if entry is not None and self.journeys[standing.journey].ended:
            # The pause ended with the journey: nobody enters.
            self.enter(standing, entry)
        elif entry is not None:
            newest = self.journeys[standing.journey].newest
            if self.refusal(standing, newest.model, entry.time_us) == "goal":
                self.refuse(standing, entry, "goal")
            else:
                self.enter(standing, entry._replace(time_us=max(time_us, entry.time_us)))
        if standing.life is not None:
            self.apply_dues(standing, time_us)

    # Entry

    def enter(self, standing: Standing, entry: Entry) -> None:
        """Begins an enrollment, or refuses to, or remembers to when the journey resumes."""
        served, old = self.journeys[standing.journey], standing.life
        newest = served.newest
        is_jump = entry.stage is not None
        if served.ended:
            if is_jump:
                self.refuse(standing, entry, "ended")
            return
        names = [stage.name for stage in newest.model.stages]
        if entry.stage and entry.stage not in names:
            # It was there when the jump was published.
            self.refuse(standing, entry, "stage")
            return
        on_its_way = old is not None and not (old.state == "resting" and old.is_in_last_stage)
        restarts = newest.model.reentry.while_active is WhileActive.RESTART
        if on_its_way and not restarts:
            return
        reason = self.refusal(standing, newest.model, entry.time_us)
        if reason == "goal" or (reason and not on_its_way):
            self.refuse(standing, entry, reason)
            return
        if served.pause is not None:
            if standing.remembered is None or restarts:
                standing.remembered = entry
            return
        self.begin(standing, newest, entry, on_its_way)

    def refusal(self, standing: Standing, model: Journey, time_us: int) -> str:
        rules = model.reentry
        goal_us = max(standing.goal_us, self.journeys[standing.journey].goal_us)
        if model.goal is not None and time_us < goal_us <= time_us + 24 * DAY_US:
            return "goal"
        if rules.mode is ReentryMode.NEVER and standing.entries > 0:
            return "mode"
        if rules.mode is ReentryMode.UNLESS_GOAL_ACHIEVED and standing.achieved:
            return "mode"
        if rules.cooldown_us and standing.entries and time_us - standing.last_entry_us < rules.cooldown_us:
            return "cooldown"
        if rules.max_entries and standing.entries >= rules.max_entries:
            return "maximum"
        return ""

    def refuse(self, standing: Standing, entry: Entry, reason: str) -> None:
        newest = self.journeys[standing.journey].newest
        stage = entry.stage or newest.model.stages[0].name
        self.lines.append(
            Line(
                standing.name, 0, entry.time_us, newest.number, "ENTRY_REFUSED", stage, "",
                {"reason": reason}, entry.cause,
            )
        )  # fmt: skip

    def begin(self, standing: Standing, newest: Version, entry: Entry, restarts: bool) -> None:
        time_us, old, hand = entry.time_us, standing.life, Hand(entry.event, entry.cause)
        if old is not None:
            time_us = old.now_us = max(time_us, old.now_us)
            if restarts:
                self.leave_step(standing, old, hand)
            self.end_life(standing, old, "RESTARTED" if restarts else "COMPLETED", hand)
        if not restarts:
            standing.entries += 1
            standing.last_entry_us = max(standing.last_entry_us, time_us)
        standing.births += 1
        life = Life(
            standing.births, newest, 0, time_us, time_us, time_us, entry=entry.entry, latest=entry.latest
        )
        standing.life = life
        names = [stage.name for stage in newest.model.stages]
        life.stage = names.index(entry.stage) if entry.stage else 0
        late_us = time_us - entry.time_us
        self.tell(
            standing, life, "ENTERED", hand, detail={"late_seconds": late_us / 1_000_000} if late_us else {}
        )
        self.enter_stage(standing, life, life.stage, hand, {})
        # A jump's input was tested where it came from.
        if entry.stage is not None or not self.act_on_rules(standing, life, hand, with_goal=False):
            self.run_or_hold(standing, life, hand)

    def begin_what_jumps_lead_to(self) -> None:
        """After all journeys have taken the input."""
        while self.starts:
            target, entry = self.starts.pop(0)
            served = self.journeys.get(target.journey_id)
            if served is None:
                continue
            path = served.newest.model.key
            key = (text_of_key(path, entry.entry.properties) if entry.entry else None) if path else ""
            if key is None:
                continue
            standing = self.standing(target.journey_id, key)
            # An input like any other: first what was due before it, as for who began late and is overdue from the start.
            self.apply_dues(standing, entry.time_us - 1)
            self.enter(standing, entry)
            if standing.life is not None:
                self.apply_dues(standing, standing.life.now_us)
        self.steps = 0
