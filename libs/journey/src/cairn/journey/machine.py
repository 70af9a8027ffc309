"""Owns the life cycle: `advance` is the only place where an enrollment changes.

For each input, in this order, the first that holds acts: the goal, an exit of the journey, an exit of the stage, a
milestone, the current step. Time is the input's own; nothing here knows a clock.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import msgspec

from cairn.journey.dues import applies, next_due_us, stale_dues
from cairn.journey.model import ExitCriterion
from cairn.journey.plan import ActivateInstruction, LiveJourney, Plan, WaitInstruction
from cairn.journey.reentry import enrollment_id_of, refusal
from cairn.journey.state import (
    CancelTimer,
    Effect,
    Enrollment,
    EnrollmentState,
    EventInput,
    Input,
    Json,
    Kind,
    Outcome,
    PendingActivation,
    Profile,
    ProfileInput,
    ReceiptInput,
    RequestActivation,
    ScheduleTimer,
    Standing,
    TimerInput,
    Transition,
    WithdrawActivation,
    entry_view,
)
from cairn.journey.times import format_time
from cairn.rules import Criteria, CriteriaFailed


class UnknownVersionError(LookupError):
    """An enrollment is in a version that is not among the plans given."""


def advance(journey: LiveJourney, profile: Profile, standing: Standing, input: Input) -> Outcome:
    """What one input does to how a profile stands with a journey. Pure; `standing` is left as it is.

    A timer or a receipt that is no longer of interest gives back the very same standing.
    Raises UnknownVersionError when the open enrollment's version is not among the journey's plans.
    """
    run = _Run(journey, profile, standing, input)
    match input:
        case ReceiptInput():
            return run.take_receipt(input)
        case TimerInput():
            return run.take_timer(input)
        case _:
            return run.take(input)


class _Move(NamedTuple):
    """A rule that holds: its name, and where it leads (a stage's index, or None: out)."""

    rule: str
    to: int | None
    exit: str = ""


_GOAL = "goal"


class _Run:
    """One input on one standing. Works on copies and collects what comes of it."""

    def __init__(self, journey: LiveJourney, profile: Profile, standing: Standing, input: Input) -> None:
        self.journey = journey
        self.profile = profile
        self.before = standing
        self.input = input
        self.standing = standing
        self.effects: list[Effect] = []
        self.transitions: list[Transition] = []
        self.failures = 0
        self.event: Mapping[str, Any] | None = None
        self.late_us = 0
        self.cause = ""
        enrollment = standing.enrollment
        self.enrollment: Enrollment | None = None
        self.plan = journey.newest
        if enrollment is not None and enrollment.is_open:
            if enrollment.version not in journey.plans:
                raise UnknownVersionError(f"{journey.journey_id} version {enrollment.version}")
            self.plan = journey.plans[enrollment.version]
            self.enrollment = msgspec.structs.replace(enrollment)

    # The three kinds of input

    def take_receipt(self, input: ReceiptInput) -> Outcome:
        enrollment = self.enrollment
        if enrollment is None:
            return Outcome(self.before)
        pending = tuple(each for each in enrollment.pending if each.activation_id != input.activation_id)
        if len(pending) == len(enrollment.pending):
            return Outcome(self.before)
        enrollment.pending = pending
        return self.outcome()

    def take_timer(self, input: TimerInput) -> Outcome:
        enrollment = self.enrollment
        if enrollment is None or not enrollment.wake_us or input.timer_id != enrollment.timer_id:
            return Outcome(self.before)
        enrollment.wake_us = 0
        self.pass_time(enrollment, input.time_us)
        return self.outcome()

    def take(self, input: EventInput | ProfileInput) -> Outcome:
        """An event or a change of the profile: what was due before it, the input itself, what is due with it."""
        time_us = input.time_us
        if self.enrollment is not None:
            self.pass_time_before(self.enrollment, input)
        self.see(input)
        goal_met = self.remember_goal(time_us)
        current, moved = self.enrollment, False
        if current is not None:
            self.late_us = max(0, current.now_us - time_us)
            current.now_us = max(current.now_us, time_us)
            if isinstance(input, EventInput):
                self.keep_latest(current, input)
            moved = self.test_and_move(current, goal_met if self.plan is self.journey.newest else None)
        if not moved and (current is None or self.may_begin_again(current)):
            self.late_us = 0
            self.try_entry(input, goal_met)
        if self.enrollment is not None:
            self.pass_time(self.enrollment, self.enrollment.now_us)
        return self.outcome()

    def see(self, input: EventInput | ProfileInput) -> None:
        """From here on the input is what criteria read and what caused the changes."""
        if isinstance(input, EventInput):
            self.event = input.view
            self.cause = f"event {input.event_id}"
        else:
            self.cause = "profile"

    def keep_latest(self, enrollment: Enrollment, input: EventInput) -> None:
        """The latest event is the one that happened last, not the one that came last."""
        latest = entry_view(enrollment.latest)
        if latest is None or latest["occur_time"] <= input.view["occur_time"]:
            enrollment.latest = input.stored()

    # Time

    def pass_time_before(self, enrollment: Enrollment, input: EventInput | ProfileInput) -> None:
        """Applies what was due before an input; it sees the profile as it was then."""
        profile = self.profile
        if isinstance(input, ProfileInput):
            self.profile = Profile(profile.profile_id, input.previous)
        self.pass_time(enrollment, input.time_us - 1)
        self.profile = profile

    def pass_time(self, enrollment: Enrollment, until_us: int) -> None:
        """Applies all that is due up to and including a moment, in order of due time. Each is an input of its own, without an event."""
        self.event, self.cause, self.late_us = None, "timer", 0
        while enrollment.is_open:
            due = next_due_us(self.plan, enrollment)
            if due is None or due > until_us:
                break
            enrollment.now_us = max(enrollment.now_us, due)
            self.apply_due(enrollment)

    def apply_due(self, enrollment: Enrollment) -> None:
        now = enrollment.now_us
        stale = tuple(exit for exit, due in stale_dues(self.plan, enrollment) if due <= now)
        if self.test_and_move(enrollment, None, stale):
            return
        if self.wait_is_over(enrollment):
            self.record(Kind.WAIT_ENDED, enrollment, self.plan.program[enrollment.position].step_id)
            enrollment.position += 1
            self.run_steps(enrollment)
        else:
            self.end(enrollment, EnrollmentState.COMPLETED, Kind.COMPLETED)

    # The rules, in their order

    def test_and_move(
        self, enrollment: Enrollment, goal_met: bool | None, stale: tuple[ExitCriterion, ...] = ()
    ) -> bool:
        """Tests rules 1 to 4 and acts on the first that holds. `goal_met` None: not known yet."""
        held = self.held(enrollment, goal_met, stale)
        first = next(held, None)
        if first is None:
            return False
        also_held = [move.rule for move in held]
        if self.wait_is_over(enrollment):
            also_held.append(f"step {self.plan.program[enrollment.position].step_id}")
        self.move(enrollment, first, also_held)
        return True

    def wait_is_over(self, enrollment: Enrollment) -> bool:
        """Whether rule 5 holds: the current step is a wait that expires. An event of the same instant comes before it."""
        waits = enrollment.state is EnrollmentState.WAITING
        return self.cause == "timer" and waits and enrollment.wait_until_us <= enrollment.now_us

    def held(
        self, enrollment: Enrollment, goal_met: bool | None, stale: tuple[ExitCriterion, ...]
    ) -> Iterator[_Move]:
        plan, entry = self.plan, self.entry_of(enrollment)
        if plan.goal is not None and (self.holds(plan.goal, entry) if goal_met is None else goal_met):
            yield _Move(_GOAL, None)
        yield from self.held_after_goal(enrollment, entry, stale)

    def held_after_goal(
        self, enrollment: Enrollment, entry: Mapping[str, Any] | None, stale: tuple[ExitCriterion, ...]
    ) -> Iterator[_Move]:
        plan, stage = self.plan, enrollment.stage
        for exit in (*plan.exits, *plan.stages[stage].exits):
            if exit.criteria is None:
                holds = any(exit is due for due in stale)
            else:
                holds = applies(exit, enrollment) and self.holds(exit.criteria, entry)
            if holds:
                yield _Move(f"exit {exit.name}", exit.to, exit.name)
        furthest = len(plan.stages) - 2 if plan.skip_stages else min(stage, len(plan.stages) - 2)
        for index in range(furthest, stage - 1, -1):
            milestone = plan.stages[index].milestone
            if milestone is not None and self.holds(milestone, entry):
                yield _Move(f"milestone {plan.stages[index].name}", index + 1)

    def holds(self, criteria: Criteria, entry: Mapping[str, Any] | None) -> bool:
        """A criteria that fails on an input is false for it, and counted."""
        try:
            return criteria.evaluate(self.event, entry, self.profile.attributes)
        except CriteriaFailed:
            self.failures += 1
            return False

    def entry_of(self, enrollment: Enrollment | None) -> Mapping[str, Any] | None:
        return entry_view(enrollment.entry) if enrollment is not None and self.plan.reads_entry else None

    # Moves

    def move(self, enrollment: Enrollment, move: _Move, also_held: list[str]) -> None:
        more: Json = {"also_held": also_held} if also_held else {}
        if self.late_us:
            more["late_seconds"] = self.late_us / 1_000_000
        self.leave_step(enrollment, move.rule)
        if move.rule == _GOAL:
            self.end(enrollment, EnrollmentState.GOAL_ACHIEVED, Kind.GOAL_ACHIEVED, more)
        elif move.to is None:
            self.end(enrollment, EnrollmentState.EXITED, Kind.EXITED, {"exit": move.exit, **more}, move.exit)
        else:
            if move.exit:
                more = {"exit": move.exit, **more}
            else:
                for skipped in range(enrollment.stage + 1, move.to):
                    self.record(Kind.STAGE_SKIPPED, enrollment, stage=skipped)
            self.enter_stage(enrollment, move.to, more)
            self.run_steps(enrollment)

    def leave_step(self, enrollment: Enrollment, reason: str) -> None:
        """Cancels the open wait and takes back every activation that has no receipt yet."""
        if enrollment.state is EnrollmentState.WAITING and enrollment.wait_until_us:
            self.record(Kind.WAIT_CANCELED, enrollment, self.plan.program[enrollment.position].step_id)
            enrollment.wait_until_us = 0
        for each in enrollment.pending:
            self.effects.append(WithdrawActivation(each.activation_id, each.request_us, reason))
            self.record(
                Kind.ACTIVATION_WITHDRAWN,
                enrollment,
                each.step_id,
                detail={"activation_id": each.activation_id},
            )
        enrollment.pending = ()

    def enter_stage(self, enrollment: Enrollment, stage: int, detail: Json | None = None) -> None:
        enrollment.stage = stage
        enrollment.stage_enter_us = enrollment.now_us
        enrollment.position = self.plan.stages[stage].start
        enrollment.rest_us = 0
        self.record(Kind.STAGE_ENTERED, enrollment, detail=detail)

    def run_steps(self, enrollment: Enrollment) -> None:
        """Runs steps until one must wait or there are none left."""
        program = self.plan.program
        while True:
            instruction = program[enrollment.position]
            if isinstance(instruction, ActivateInstruction):
                self.activate(enrollment, instruction)
                enrollment.position += 1
            elif isinstance(instruction, WaitInstruction):
                enrollment.state = EnrollmentState.WAITING
                enrollment.wait_until_us = enrollment.now_us + instruction.duration_us
                until = format_time(enrollment.wait_until_us)
                self.record(Kind.WAIT_STARTED, enrollment, instruction.step_id, detail={"until": until})
                return
            else:
                self.rest(enrollment, instruction.step_id)
                return

    def activate(self, enrollment: Enrollment, instruction: ActivateInstruction) -> None:
        # A step is visited at most once in an enrollment: stages and steps only go forward.
        activation_id = f"{enrollment.enrollment_id}.{enrollment.position}"
        self.effects.append(
            RequestActivation(
                activation_id=activation_id,
                request_us=enrollment.now_us,
                version=enrollment.version,
                enrollment_id=enrollment.enrollment_id,
                stage=self.plan.stages[enrollment.stage].name,
                step_id=instruction.step_id,
                channel=instruction.channel,
                template=instruction.template,
                action=instruction.action,
                attributes=self.profile.attributes,
                entry=enrollment.entry,
                latest=enrollment.latest,
            )
        )
        pending = PendingActivation(activation_id, enrollment.now_us, instruction.step_id)
        enrollment.pending = (*enrollment.pending, pending)
        detail = {"activation_id": activation_id, "channel": instruction.channel}
        self.record(Kind.ACTIVATION_REQUESTED, enrollment, instruction.step_id, detail=detail)

    def rest(self, enrollment: Enrollment, step_id: str) -> None:
        enrollment.state = EnrollmentState.RESTING
        enrollment.wait_until_us = 0
        enrollment.rest_us = enrollment.now_us
        self.record(Kind.RESTED, enrollment, step_id)
        if enrollment.stage == len(self.plan.stages) - 1 and self.plan.is_last_stage_final:
            self.end(enrollment, EnrollmentState.COMPLETED, Kind.COMPLETED)

    def end(
        self,
        enrollment: Enrollment,
        state: EnrollmentState,
        kind: Kind,
        detail: Json | None = None,
        exit: str = "",
    ) -> None:
        self.record(kind, enrollment, detail=detail)
        self.cancel_timer(enrollment)
        enrollment.state = state
        enrollment.end_us = enrollment.now_us
        enrollment.exit = exit
        enrollment.wait_until_us = 0
        enrollment.pending = ()
        enrollment.entry = enrollment.latest = None
        self.keep(enrollment)
        self.enrollment = None
        if state is EnrollmentState.GOAL_ACHIEVED:
            self.standing.achieved = True

    # Entry

    def may_begin_again(self, enrollment: Enrollment) -> bool:
        """Somebody at rest in the last stage may begin again."""
        return enrollment.state is EnrollmentState.RESTING and enrollment.stage == len(self.plan.stages) - 1

    def remember_goal(self, time_us: int) -> bool:
        """Whether the input meets the goal of the newest version; if so, when is kept, enrolled or not."""
        goal = self.journey.newest.goal
        if goal is None or not self.holds(goal, self.entry_of(self.enrollment)):
            return False
        if time_us > self.standing.goal_us:
            self.writable().goal_us = time_us
        return True

    def try_entry(self, input: EventInput | ProfileInput, goal_met: bool) -> None:
        """Begins an enrollment in the newest version if the input meets its entry criteria and no rule of re-entry forbids it."""
        plan = self.journey.newest
        if goal_met or not self.holds(plan.entry, None):
            return
        if reason := refusal(plan, self.standing, input.time_us):
            self.transitions.append(
                Transition(
                    input.time_us, plan.journey_id, plan.version, "", Kind.ENTRY_REFUSED, plan.stages[0].name, "",
                    {"reason": reason}, self.cause,
                )
            )  # fmt: skip
            return
        time_us = input.time_us
        if self.enrollment is not None:
            # The old one's logical time is where the new one begins: a profile is in a journey once at any time.
            time_us = self.enrollment.now_us
            self.end(self.enrollment, EnrollmentState.COMPLETED, Kind.COMPLETED)
        self.begin(plan, input, time_us)

    def begin(self, plan: Plan, input: EventInput | ProfileInput, time_us: int) -> None:
        stored = input.stored() if isinstance(input, EventInput) else None
        enrollment = Enrollment(
            enrollment_id=enrollment_id_of(
                self.profile.profile_id, plan.journey_id, self.cause, time_us, self.standing.entries
            ),
            version=plan.version,
            state=EnrollmentState.WAITING,
            stage=0,
            position=0,
            enter_us=time_us,
            stage_enter_us=time_us,
            now_us=time_us,
            entry=stored,
            latest=stored,
        )
        standing = self.writable()
        standing.entries += 1
        standing.last_entry_us = max(standing.last_entry_us, time_us)
        self.plan, self.enrollment = plan, enrollment
        late_us = time_us - input.time_us
        self.record(
            Kind.ENTERED, enrollment, detail={"late_seconds": late_us / 1_000_000} if late_us else None
        )
        self.enter_stage(enrollment, 0)
        # The goal is not met, or the input would not have begun anything.
        if not self.test_and_move(enrollment, goal_met=False):
            self.run_steps(enrollment)

    # What comes of it

    def record(
        self,
        kind: Kind,
        enrollment: Enrollment,
        step: str = "",
        *,
        stage: int | None = None,
        detail: Json | None = None,
    ) -> None:
        self.transitions.append(
            Transition(
                time_us=enrollment.now_us,
                journey_id=self.plan.journey_id,
                version=enrollment.version,
                enrollment_id=enrollment.enrollment_id,
                kind=kind,
                stage=self.plan.stages[enrollment.stage if stage is None else stage].name,
                step=step,
                detail=detail or {},
                cause=self.cause,
            )
        )

    def writable(self) -> Standing:
        """The standing, copied once before it is changed."""
        if self.standing is self.before:
            self.standing = msgspec.structs.replace(self.before)
        return self.standing

    def keep(self, enrollment: Enrollment) -> None:
        self.writable().enrollment = enrollment

    def cancel_timer(self, enrollment: Enrollment) -> None:
        if enrollment.wake_us:
            self.effects.append(CancelTimer(enrollment.timer_id))
            enrollment.wake_us = 0

    def outcome(self) -> Outcome:
        """Keeps the open enrollment and asks for one wake-up at the earliest of its due times."""
        enrollment = self.enrollment
        if enrollment is not None:
            due = next_due_us(self.plan, enrollment)
            if due is not None and due != enrollment.wake_us:
                self.cancel_timer(enrollment)
                enrollment.wake_us = due
                enrollment.wake_number += 1
                self.effects.append(ScheduleTimer(enrollment.timer_id, due))
            self.keep(enrollment)
        return Outcome(self.standing, tuple(self.effects), tuple(self.transitions), self.failures)
