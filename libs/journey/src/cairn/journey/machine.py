"""Owns the life cycle: `advance` is the only place where an enrollment changes.

For each input, in this order, the first that holds acts: the goal, an exit of the journey, an exit of the stage, a
milestone, the current step. Time is the input's own; nothing here knows a clock. What the steps of a stage do is in
`_running`, who an input reaches in `dispatch`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from cairn.journey._running import Running, UnknownVersionError
from cairn.journey.dues import next_due_us, shift, stale_exits
from cairn.journey.live import LiveJourney, Pause, PauseMode
from cairn.journey.model import ExitCriterion
from cairn.journey.plan import GOAL, Plan, Rule, WaitForConditionInstruction
from cairn.journey.reentry import enrollment_id_of, refusal
from cairn.journey.state import (
    HELD,
    RESTING,
    WAITING,
    Enrollment,
    EventInput,
    Input,
    Json,
    Kind,
    LifeInput,
    Outcome,
    Profile,
    ProfileInput,
    ReceiptInput,
    RememberedEntry,
    ScheduleTimer,
    Standing,
    StartInput,
    TimerInput,
    Transition,
    stored_input,
)
from cairn.rules import Criteria

__all__ = ["UnknownVersionError", "advance"]

_ENTERED: Final = Kind.ENTERED
_GOAL_ACHIEVED: Final = Kind.GOAL_ACHIEVED


def advance(
    journey: LiveJourney,
    profile: Profile,
    standing: Standing,
    input: Input,
    *,
    previous: Profile | None = None,
    key: str = "",
    may_enter: bool = True,
) -> Outcome:
    """What one input does to how a profile stands with one journey. Pure; `standing` is left as it is.

    `profile` is as it is with the input, `previous` as it was until then (default: the same): what was due before sees that.
    `key` is the value that the standing is for in a keyed journey; without `may_enter` the input begins nothing there.
    A timer or a receipt that is no longer of interest gives back the very same standing.
    Raises UnknownVersionError when the open enrollment's version is not among the journey's plans.
    """
    run = _Run(journey, profile, previous or profile, standing, key)
    return _TAKES[type(input)](run, input, may_enter)


class _Run(Running):
    """One input on one standing: who it is tested for, and which rule acts."""

    __slots__ = ()

    # The kinds of input

    def take_receipt(self, input: ReceiptInput, _: bool) -> Outcome:
        # One that has ended waits for the fates of what it asked for at its end; they do not open it again.
        enrollment = self.enrollment or self.before.enrollment
        if enrollment is None or not enrollment.pending:
            return Outcome(self.before)
        pending = [each for each in enrollment.pending if each.activation_id != input.activation_id]
        if len(pending) == len(enrollment.pending):
            return Outcome(self.before)
        if self.enrollment is None:
            enrollment = replace(enrollment)
        enrollment.pending = tuple(pending)
        self.keep(enrollment)
        return Outcome(self.standing)

    def take_timer(self, input: TimerInput, _: bool) -> Outcome:
        enrollment = self.enrollment
        if enrollment is None or not enrollment.wake_us or input.timer_id != enrollment.timer_id:
            return Outcome(self.before)
        enrollment.wake_us = 0
        self.live_through()
        return self.outcome(self.pass_time(input.time_us))

    def take_life(self, input: LifeInput, _: bool) -> Outcome:
        self.live_through()
        if self.enrollment is None and self.standing is self.before:
            return Outcome(self.before)
        return self.outcome(self.pass_time(input.time_us))

    def take(self, input: EventInput | ProfileInput, may_enter: bool) -> Outcome:
        """An event or a change of the profile: what was due before it, the input itself, what is due with it."""
        time_us = input.time_us
        self.catch_up(time_us - 1)
        event = input if type(input) is EventInput else None
        self.see(event, "profile" if event is None else f"event {event.event_id}", time_us)
        current, newest, moved = self.enrollment, self.journey.newest, False
        if current is not None:
            if time_us < current.now_us:
                self.late_us = current.now_us - time_us
                self.at_us = current.now_us
            else:
                current.now_us = time_us
            if event is not None:
                self.keep_latest(current, event)
        chances = newest.chances(self.event_name)
        goal_met = chances.goal is not None and self.remember_goal(chances.goal, time_us)
        if current is not None:
            moved = self.test_and_move(current, goal_met if self.plan is newest else None)
            moved = moved or self.meet_condition(current)
        if chances.entry is not None and may_enter and not moved and not goal_met:
            self.try_entry(chances.entry, time_us)
        enrollment = self.enrollment
        return self.outcome(None if enrollment is None else self.pass_time(enrollment.now_us))

    def take_start(self, input: StartInput, _: bool) -> Outcome:
        """A jump arrives. It is an input of its own to this journey, whose entry criteria it need not meet."""
        self.catch_up(input.time_us - 1)
        self.steps = input.steps
        event = stored_input(input.event) if input.event else None
        self.see(event, f"jump {input.from_journey}", input.time_us)
        self.enter(
            RememberedEntry(
                time_us=input.time_us,
                cause=self.cause,
                id_cause=f"jump {input.from_enrollment}",
                event=input.event,
                stage=input.stage,
                entry=input.entry,
                latest=input.latest,
            )
        )
        enrollment = self.enrollment
        return self.outcome(None if enrollment is None else self.pass_time(enrollment.now_us))

    def see(self, input: EventInput | None, cause: str, time_us: int) -> None:
        """From here on the input is what criteria read and what caused the changes."""
        self.input, self.cause, self.at_us = input, cause, time_us
        if input is None:
            self.event = self.event_name = None
        else:
            self.event = input.view
            self.event_name = input.view["name"]

    def keep_latest(self, enrollment: Enrollment, input: EventInput) -> None:
        """The latest event is the one that happened last, not the one that came last."""
        stored, latest = input.stored(), enrollment.latest or enrollment.entry
        # All are written in UTC, so that their order is that of their text.
        if latest is None or latest["occur_time"] <= stored["occur_time"]:
            enrollment.latest = stored

    # Time

    def catch_up(self, until_us: int) -> None:
        """Applies all that came before an input: it sees the profile as it was then."""
        enrollment = self.enrollment
        # Its wake-up is when time will next do something: until then there is nothing to do.
        if not self.journey.has_lived and (enrollment is None or until_us < enrollment.wake_us):
            return
        profile, self.profile = self.profile, self.previous
        self.live_through()
        self.pass_time(until_us)
        self.profile, self.steps = profile, 0

    def pass_time(self, until_us: int) -> int | None:
        """Applies all that is due up to and including a moment, in order of due time. Each is an input of its own, without an event.

        Returns when time will next do something to the open enrollment; None when it never will.
        """
        enrollment = self.enrollment
        if enrollment is None or (self.pause is not None and self.is_frozen):
            return None
        due = next_due_us(self.plan, enrollment)
        if due is None or due > until_us:
            return due
        seen = self.input, self.cause, self.at_us, self.late_us
        while due is not None and due <= until_us:
            if due > enrollment.now_us:
                # Steps are counted by the instant: what takes time can't go round in one.
                enrollment.now_us, self.steps = due, 0
            self.see(None, "timer", enrollment.now_us)
            self.late_us = 0
            self.apply_due(enrollment)
            due = next_due_us(self.plan, enrollment) if self.enrollment is enrollment else None
        input, cause, at_us, self.late_us = seen
        self.see(input, cause, at_us)
        return due

    def apply_due(self, enrollment: Enrollment) -> None:
        stale = stale_exits(self.plan, enrollment)
        if self.test_and_move(enrollment, None, stale):
            return
        if enrollment.state is WAITING:
            self.end_wait(enrollment, met=False)
        else:
            self.end(enrollment, Kind.COMPLETED)

    # The rules, in their order

    def test_and_move(
        self,
        enrollment: Enrollment,
        goal_met: bool | None,
        stale: tuple[ExitCriterion, ...] = (),
    ) -> bool:
        """Tests rules 1 to 4 and acts on the first that holds. `goal_met` None: not known yet."""
        rules = self.plan.chances(self.event_name).rules[enrollment.stage]
        if not rules:
            return False
        held = []
        for rule in rules:
            if rule.criteria is None:
                holds = bool(stale) and any(rule.exit is each for each in stale)
            elif goal_met is not None and rule.name == GOAL:
                holds = goal_met
            else:
                holds = self.holds(rule.criteria, enrollment)
            if holds:
                held.append(rule)
        if not held:
            return False
        also_held = [rule.name for rule in held[1:]] if len(held) > 1 else []
        if self.step_holds(enrollment):
            also_held.append(f"step {self.plan.program[enrollment.position].step_id}")  # type: ignore[union-attr]
        self.move(enrollment, held[0], also_held)
        return True

    def step_holds(self, enrollment: Enrollment) -> bool:
        """Whether rule 5 holds: the current step is a wait that expires, or one whose condition is met. An event of the same
        instant comes before the expiry."""
        if enrollment.state is not WAITING or not enrollment.wait_until_us:
            return False
        if self.cause == "timer":
            return enrollment.wait_until_us <= enrollment.now_us
        instruction = self.plan.program[enrollment.position]
        return type(instruction) is WaitForConditionInstruction and self.can_hold(
            instruction.criteria, enrollment
        )

    def meet_condition(self, enrollment: Enrollment) -> bool:
        """Rule 5 for an input that is no timer: goes on if the condition that is waited for is met."""
        instruction = self.plan.program[enrollment.position]
        if type(instruction) is not WaitForConditionInstruction or not self.step_holds(enrollment):
            return False
        self.end_wait(enrollment, met=True)
        return True

    def move(self, enrollment: Enrollment, rule: Rule, also_held: list[str]) -> None:
        more: Json = {"also_held": also_held} if also_held else {}
        if self.late_us:
            more["late_seconds"] = self.late_us / 1_000_000
        self.leave_step(enrollment, rule.name)
        name = rule.exit.name if rule.exit is not None else ""
        if rule.exit is None and rule.to is None:
            self.achieve_goal(enrollment, more)
        elif rule.to is None:
            self.end(enrollment, Kind.EXITED, {"exit": name, **more}, name)
        else:
            if name:
                more = {"exit": name, **more}
            else:
                for skipped in range(enrollment.stage + 1, rule.to):
                    self.record(Kind.STAGE_SKIPPED, enrollment, "", None, skipped)
            self.enter_stage(enrollment, rule.to, more)
            self.go_on(enrollment)

    def achieve_goal(self, enrollment: Enrollment, detail: Json) -> None:
        target = self.plan.goal_target
        if target is not None:
            detail = {"journey": target.journey_id, "stage": target.stage, **detail}
        self.writable().achieved = True
        entry, latest = enrollment.entry, enrollment.latest_event
        self.end(enrollment, _GOAL_ACHIEVED, detail)
        if target is not None:
            self.start(target, enrollment, entry, latest)

    # Entry

    def remember_goal(self, goal: Criteria, time_us: int) -> bool:
        """Whether the input meets the goal of the newest version; if so, when is kept, enrolled or not."""
        plan, self.plan = self.plan, self.journey.newest
        met = self.holds(goal, self.enrollment)
        self.plan = plan
        if met and time_us > self.standing.goal_us:
            self.writable().goal_us = time_us
        return met

    def try_entry(self, entry: Criteria, time_us: int) -> None:
        """Begins an enrollment in the newest version if the input meets its entry criteria and no rule of re-entry forbids it."""
        current = self.enrollment
        if current is not None and not self.may_begin(current):
            return
        plan, self.plan, at_us = self.plan, self.journey.newest, self.at_us
        self.at_us = time_us
        holds = self.holds(entry, None)
        self.plan, self.at_us = plan, at_us
        if not holds:
            return
        stored = self.input.stored() if self.input is not None else None
        self.enter(
            RememberedEntry(
                time_us=time_us,
                cause=self.cause,
                id_cause=self.cause,
                event=stored,
                entry=stored,
                latest=stored,
            )
        )

    def may_begin(self, enrollment: Enrollment) -> bool:
        """Somebody at rest in the last stage may begin again, and anybody where a new entry event restarts."""
        return self.journey.newest.restarts or self.is_at_rest(enrollment)

    def is_at_rest(self, enrollment: Enrollment) -> bool:
        return enrollment.state is RESTING and enrollment.stage == self.plan.last_stage

    def enter(self, entry: RememberedEntry, *, before_end: bool = False) -> None:
        """Begins an enrollment, or refuses to, or remembers to when the journey resumes. `before_end` says that it would have done
        so before the journey ended, had somebody looked."""
        plan = self.journey.newest
        if self.journey.end_us is not None and not before_end:
            self.refuse_ended(entry)
            return
        if entry.stage and entry.stage not in plan.stage_names:
            # There when the jump was published; a version since has left it out.
            self.refuse(plan, entry, "stage")
            return
        current = self.enrollment
        if current is not None and not self.may_begin(current):
            return
        restarts = current is not None and not self.is_at_rest(current)
        reason = refusal(plan, self.standing, entry.time_us)
        if reason and not (restarts and reason != "goal"):
            self.refuse(plan, entry, reason)
            return
        if self.pause is not None:
            if self.standing.remembered is None or plan.restarts:
                standing = self.writable()
                standing.remembered, standing.pauses = entry, self.lived
            return
        self.begin(plan, entry, restarts)

    def refuse_ended(self, entry: RememberedEntry) -> None:
        """Nobody enters a journey that has ended: who comes by a jump is told, an event is none of its business any more."""
        if entry.stage is not None:
            self.refuse(self.journey.newest, entry, "ended")

    def refuse(self, plan: Plan, entry: RememberedEntry, reason: str) -> None:
        stage = entry.stage or plan.stage_names[0]
        self.transitions.append(
            Transition(
                entry.time_us, plan.journey_id, plan.version, "", Kind.ENTRY_REFUSED, stage, "",
                {"reason": reason}, self.cause,
            )
        )  # fmt: skip

    def begin(self, plan: Plan, entry: RememberedEntry, restarts: bool) -> None:
        time_us, current = entry.time_us, self.enrollment
        if current is not None:
            # The old one's logical time is where the new one begins: a profile is in a journey once at any time.
            time_us = current.now_us = max(time_us, current.now_us)
            if restarts:
                self.leave_step(current, "restart")
                self.end(current, Kind.RESTARTED)
            else:
                self.end(current, Kind.COMPLETED)
        stage = plan.stage_names.index(entry.stage) if entry.stage else 0
        enrollment = Enrollment(
            enrollment_id=enrollment_id_of(
                self.profile.profile_id, plan.journey_id, self.key, entry.id_cause, time_us, self.standing
            ),
            version=plan.version,
            state=WAITING,
            stage=stage,
            position=0,
            enter_us=time_us,
            stage_enter_us=time_us,
            now_us=time_us,
            entry=entry.entry,
            latest=None if entry.latest == entry.entry else entry.latest,
        )
        standing = self.writable()
        if not restarts:
            standing.entries += 1
            standing.last_entry_us = max(standing.last_entry_us, time_us)
        standing.pauses, standing.remembered = self.lived, None
        self.plan, self.enrollment, self.at_us, self.entry_seen = plan, enrollment, time_us, None
        self.late_us = 0
        late_us = time_us - entry.time_us
        detail: Json | None = {"late_seconds": late_us / 1_000_000} if late_us else None
        self.record(_ENTERED, enrollment, "", detail)
        self.enter_stage(enrollment, stage)
        # A jump's input was tested where it came from. The goal is not met, or an input would not have begun anything.
        if entry.stage is not None or not self.test_and_move(enrollment, False):
            self.go_on(enrollment)

    # The life of the journey

    def live_through(self) -> None:
        """Applies the pauses that the enrollment has not lived through yet, and the end of the journey."""
        journey = self.journey
        if journey.pauses:
            over = len(journey.pauses) - (journey.pause is not None)
            concerned = self.enrollment is not None or self.standing.remembered is not None
            self.lived = self.standing.pauses if concerned else over
            for pause in journey.pauses[self.lived :]:
                self.live_through_one(pause)
            if concerned and self.lived != self.standing.pauses:
                self.writable().pauses = self.lived
        if journey.end_us is not None and journey.removes:
            # A pause that only the end ended held everything until then: nothing may act in between.
            if not (journey.pauses and journey.pauses[-1].until_us == journey.end_us):
                self.pass_time(journey.end_us - 1)
            if self.enrollment is not None:
                self.remove(self.enrollment, journey.end_us, "end")

    def live_through_one(self, pause: Pause) -> None:
        """One pause: what was due before it, what it does to the enrollment, and if it is over, its resume."""
        self.pass_time(pause.since_us - 1)
        if pause.mode is PauseMode.DROP and self.enrollment is not None:
            self.remove(self.enrollment, pause.since_us, "pause")
        self.pause = pause
        if pause.until_us is None:
            return
        if self.enrollment is not None:
            if pause.mode is PauseMode.FREEZE:
                shift(self.plan, self.enrollment, pause.since_us, pause.until_us)
            else:
                self.pass_time(pause.until_us - 1)
        self.pause = None
        self.lived += 1
        self.steps = 0
        self.resume(pause.until_us)

    def resume(self, until_us: int) -> None:
        """What was held goes on, and what would have begun begins, both at the resume."""
        enrollment, remembered = self.enrollment, self.standing.remembered
        ended = until_us == self.journey.end_us
        if ended and self.journey.removes:
            # The end of the journey ended the pause, and takes away what was held.
            enrollment = None
        if enrollment is not None and enrollment.state is HELD:
            enrollment.now_us = max(enrollment.now_us, until_us)
            held, enrollment.held = enrollment.held, None
            self.see(stored_input(held) if held else None, "resume", enrollment.now_us)
            self.run_steps(enrollment)
        if remembered is None:
            return
        self.writable().remembered = None
        event = stored_input(remembered.event) if remembered.event else None
        self.see(event, remembered.cause, max(until_us, remembered.time_us))
        if ended:
            self.refuse_ended(remembered)
        elif refusal(self.journey.newest, self.standing, remembered.time_us) == "goal":
            self.refuse(self.journey.newest, remembered, "goal")
        else:
            self.enter(replace(remembered, time_us=self.at_us), before_end=True)

    def remove(self, enrollment: Enrollment, time_us: int, cause: str) -> None:
        enrollment.now_us = max(enrollment.now_us, time_us)
        self.see(None, cause, enrollment.now_us)
        self.leave_step(enrollment, cause)
        self.end(enrollment, Kind.REMOVED)

    # What comes of it

    def outcome(self, due: int | None) -> Outcome:
        """Keeps the open enrollment and asks for one wake-up, at the earliest of its due times."""
        enrollment = self.enrollment
        if enrollment is not None:
            if due is not None and due != enrollment.wake_us:
                self.cancel_timer(enrollment)
                enrollment.wake_us = due
                enrollment.wake_number += 1
                self.effects.append(ScheduleTimer(enrollment.timer_id, due))
            self.writable().enrollment = enrollment
        return Outcome(self.standing, self.effects, self.transitions, self.failures, self.starts)


_TAKES: Final[Mapping[type[Input], Callable[[_Run, Any, bool], Outcome]]] = {
    EventInput: _Run.take,
    TimerInput: _Run.take_timer,
    ReceiptInput: _Run.take_receipt,
    ProfileInput: _Run.take,
    StartInput: _Run.take_start,
    LifeInput: _Run.take_life,
}
"""What takes each kind of input."""
