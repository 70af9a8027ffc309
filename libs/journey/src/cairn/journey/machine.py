"""Owns the life cycle: `advance` is the only place where an enrollment changes.

What each kind of input is tested for, who begins, and what pauses and the end of a journey do. Time is the input's own; nothing here
knows a clock. Which rule acts is in `_rules`, what the steps of a stage do in `_running`, who an input reaches in `dispatch`.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

from msgspec.structs import replace

from cairn.journey._rules import Ruled
from cairn.journey._running import UnknownVersionError
from cairn.journey.dues import shift
from cairn.journey.live import LiveJourney, Pause, PauseMode
from cairn.journey.plan import Plan
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
    LastRun,
    LifeInput,
    Outcome,
    Profile,
    ProfileInput,
    ReceiptInput,
    RememberedEntry,
    RequestActivation,
    RunInput,
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
    A timer or a receipt that is no longer of interest, and a run that changes nothing or came by before, give back the very same standing.
    Raises UnknownVersionError when the open enrollment's version is not among the journey's plans.
    """
    run = _Run(journey, profile, previous or profile, standing, key)
    return _TAKES[type(input)](run, input, may_enter)


class _Run(Ruled):
    """One input on one standing: what each kind of input is tested for, who begins, and the life of the journey."""

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
        if (
            enrollment is None
            or not enrollment.wake_us
            or input.timer_id != enrollment.timer_id
            or self.journey.is_batch
        ):
            return Outcome(self.before)
        enrollment.wake_us = 0
        self.live_through()
        return self.outcome(self.pass_time(input.time_us))

    def take_life(self, input: LifeInput, _: bool) -> Outcome:
        if self.journey.is_batch and not self.is_moved_by_life():
            return Outcome(self.before)
        self.live_through()
        enrollment = self.enrollment
        if enrollment is None and self.standing is self.before:
            return Outcome(self.before)
        until_us = input.time_us
        if enrollment is not None and self.journey.is_batch:
            # What is due there is left to the next run.
            until_us = enrollment.now_us
        return self.outcome(self.pass_time(until_us))

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

    def take_run(self, input: RunInput, may_enter: bool) -> Outcome:
        """A run comes by: what was due before it, the rules with it, what is due with it.

        It looks at everybody each time: so it keeps no time of a goal that holds again, and tells of nobody who may not enter.
        """
        time_us, last = input.time_us, self.before.last_run
        if last is not None and time_us <= last.time_us:
            return Outcome(self.before)
        self.catch_up(time_us - 1)
        self.see(None, f"run {input.run_id}", time_us)
        current, newest, moved = self.enrollment, self.journey.newest, False
        if current is not None:
            # Who jumped in while the run was under way is ahead of it.
            self.at_us = current.now_us = max(time_us, current.now_us)
        chances = newest.chances(None)
        # As of no time, so that it is not kept.
        goal_met = chances.goal is not None and self.remember_goal(chances.goal, 0)
        if current is not None:
            moved = self.test_and_move(current, goal_met if self.plan is newest else None)
            moved = moved or self.meet_condition(current)
        if chances.entry is not None and may_enter and not moved and not goal_met:
            restarts = self.enrollment is not None and not self.is_at_rest(self.enrollment)
            if restarts or not refusal(newest, self.standing, time_us):
                self.try_entry(chances.entry, time_us, newest.audience)
        enrollment = self.enrollment
        due = None if enrollment is None else self.pass_time(enrollment.now_us)
        if not self.transitions and self.standing is self.before:
            return Outcome(self.before, failures=self.failures)
        self.writable().last_run = LastRun(
            time_us,
            sum(type(effect) is RequestActivation for effect in self.effects),
            any(each.kind is _ENTERED for each in self.transitions),
        )
        return self.outcome(due)

    def take_start(self, input: StartInput, _: bool) -> Outcome:
        """A jump arrives. It is an input of its own to this journey, whose entry criteria it need not meet."""
        if self.journey.is_batch:
            self.live_through()
        else:
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

    # Entry

    def remember_goal(self, goal: Criteria, time_us: int) -> bool:
        """Whether the input meets the goal of the newest version; if so, when is kept, enrolled or not."""
        plan, self.plan = self.plan, self.journey.newest
        met = self.holds(goal, self.enrollment)
        self.plan = plan
        if met and time_us > self.standing.goal_us:
            self.writable().goal_us = time_us
        return met

    def try_entry(self, entry: Criteria, time_us: int, audience: Criteria | None = None) -> None:
        """Begins an enrollment in the newest version if the input meets its entry criteria, the profile is in the audience, and no rule of
        re-entry forbids it."""
        current = self.enrollment
        if current is not None and not self.may_begin(current):
            return
        plan, self.plan, at_us = self.plan, self.journey.newest, self.at_us
        self.at_us = time_us
        holds = (audience is None or self.holds(audience, None)) and self.holds(entry, None)
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

    def is_moved_by_life(self) -> bool:
        """Whether what became of a batch journey changes the standing at once, rather than with the next run: it holds something, or is removed."""
        if self.standing.remembered is not None:
            return True
        enrollment, journey = self.enrollment, self.journey
        if enrollment is None:
            return False
        drops = any(each.mode is PauseMode.DROP for each in journey.pauses[self.standing.pauses :])
        return enrollment.state is HELD or drops or (journey.end_us is not None and journey.removes)

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
            # A pause that only the end ended held everything until then: nothing may act in between. Nor what no run has come for.
            if not (journey.is_batch or (journey.pauses and journey.pauses[-1].until_us == journey.end_us)):
                self.pass_time(journey.end_us - 1)
            if self.enrollment is not None:
                self.remove(self.enrollment, journey.end_us, "end")

    def live_through_one(self, pause: Pause) -> None:
        """One pause: what was due before it, what it does to the enrollment, and if it is over, its resume."""
        # What was due in a batch journey before, a run applies; none does while the pause lasts, or to who is removed.
        if not self.journey.is_batch or (pause.until_us is not None and pause.mode is not PauseMode.DROP):
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
                if not self.journey.is_batch:
                    enrollment.wake_number += 1
                    self.effects.append(ScheduleTimer(enrollment.timer_id, due))
            self.writable().enrollment = enrollment
        return Outcome(self.standing, self.effects, self.transitions, self.failures, self.starts)


_TAKES: Final[Mapping[type[Input], Callable[[_Run, Any, bool], Outcome]]] = {
    EventInput: _Run.take,
    TimerInput: _Run.take_timer,
    ReceiptInput: _Run.take_receipt,
    ProfileInput: _Run.take,
    RunInput: _Run.take_run,
    StartInput: _Run.take_start,
    LifeInput: _Run.take_life,
}
"""What takes each kind of input."""
