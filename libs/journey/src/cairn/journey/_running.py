"""Owns the running of steps, and what a run collects: one input on one standing, on copies.

Refuses to decide which rule acts: that is `machine`.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any, Final

from msgspec.structs import replace

from cairn.journey import limits
from cairn.journey.behavior import Behavior
from cairn.journey.calendar import is_time_zone, next_time_of_day
from cairn.journey.live import LiveJourney, Pause, PauseMode
from cairn.journey.model import AudienceAction, AudienceUntil, Target
from cairn.journey.plan import (
    ActivateInstruction,
    DecideInstruction,
    ExperimentInstruction,
    GotoInstruction,
    JumpInstruction,
    RestInstruction,
    WaitForConditionInstruction,
    WaitingInstruction,
    WaitInstruction,
    WaitUntilInstruction,
)
from cairn.journey.state import (
    HELD,
    OPEN_STATES,
    RESTING,
    WAITING,
    CancelTimer,
    Effect,
    Enrollment,
    EnrollmentState,
    EventInput,
    Json,
    Kind,
    PendingActivation,
    Profile,
    RequestActivation,
    Standing,
    StartInput,
    StartJourney,
    Transition,
    WithdrawActivation,
    entry_view,
)
from cairn.journey.times import format_time
from cairn.rules import Criteria, CriteriaFailed

# By themselves: Python 3.11 takes ten times as long to find a member of an enum.
_WAIT_STARTED: Final = Kind.WAIT_STARTED
_WAIT_ENDED: Final = Kind.WAIT_ENDED
_WAIT_CANCELED: Final = Kind.WAIT_CANCELED
_STAGE_ENTERED: Final = Kind.STAGE_ENTERED
_ACTIVATION_REQUESTED: Final = Kind.ACTIVATION_REQUESTED
_ACTIVATION_WITHDRAWN: Final = Kind.ACTIVATION_WITHDRAWN
_RESTED: Final = Kind.RESTED
_NEVER: Final = AudienceUntil.NEVER
_REMOVE: Final = AudienceAction.REMOVE
_ENDED: Final[Mapping[Kind, EnrollmentState]] = {
    Kind[state.name]: state for state in EnrollmentState if state not in OPEN_STATES
}
"""The state in which each kind of end leaves an enrollment."""


class UnknownVersionError(LookupError):
    """An enrollment is in a version that is not among the plans given."""


class Running:
    """What is known while one input runs on one standing, and what has come of it so far.

    `input` is the event at hand, None where the input is none; `event` and `cause` are the input as criteria and transitions see
    it, `at_us` the time at which it is judged. `lived` counts the pauses that the enrollment has lived through, `pause` is the one
    that lasts; `steps` counts those that have run in this instant.
    """

    __slots__ = (
        "at_us", "before", "cause", "effects", "enrollment", "entry_seen", "event", "event_name", "failures", "input",
        "journey", "key", "late_us", "lived", "pause", "plan", "previous", "profile", "standing", "starts", "steps",
        "transitions",
    )  # fmt: skip

    def __init__(
        self, journey: LiveJourney, profile: Profile, previous: Profile, standing: Standing, key: str
    ) -> None:
        self.journey = journey
        self.profile = profile
        self.previous = previous
        self.before = self.standing = standing
        self.key = key
        self.input: EventInput | None = None
        self.event: Mapping[str, Any] | None = None
        self.event_name: str | None = None
        self.cause = ""
        self.at_us = self.late_us = self.steps = self.lived = self.failures = 0
        self.pause: Pause | None = None
        self.entry_seen: Mapping[str, Any] | None = None
        self.effects: list[Effect] = []
        self.transitions: list[Transition] = []
        self.starts: tuple[StartJourney, ...] = ()
        enrollment = standing.enrollment
        if enrollment is None or enrollment.state not in OPEN_STATES:
            self.plan = journey.newest
            self.enrollment: Enrollment | None = None
            return
        plan = journey.plans.get(enrollment.version)
        if plan is None:
            raise UnknownVersionError(f"{journey.journey_id} version {enrollment.version}")
        self.plan = plan
        self.enrollment = replace(enrollment)

    @property
    def is_frozen(self) -> bool:
        """Whether the enrollment's clock stands still."""
        return self.pause is not None and self.pause.mode is not PauseMode.RUN

    # Criteria

    def holds(self, criteria: Criteria, enrollment: Enrollment | None) -> bool:
        """Whether a criteria that can hold on this input does; one that fails on an input is false for it, and counted."""
        if criteria.is_by_name:
            return True
        entry = None
        if criteria.reads_entry and enrollment is not None:
            if self.entry_seen is None:
                self.entry_seen = entry_view(enrollment.entry)
            entry = self.entry_seen
        behavior = None
        if criteria.reads_behavior:
            plan, profile = self.plan, self.profile
            behavior = Behavior(profile.behavior, profile.attributes, plan.segments, self.at_us)
        try:
            return criteria.evaluate(self.event, entry, self.profile.attributes, behavior)
        except CriteriaFailed:
            self.failures += 1
            return False

    def can_hold(self, criteria: Criteria, enrollment: Enrollment | None) -> bool:
        """The same for any criteria: one that this input's name rules out is not evaluated."""
        if self.event_name is None:
            if criteria.needs_event:
                return False
        elif (needed := criteria.event_names_needed) is not None and self.event_name not in needed:
            return False
        return self.holds(criteria, enrollment)

    # Steps

    def go_on(self, enrollment: Enrollment) -> None:
        """Runs steps from where the enrollment stands; while the journey is paused they wait for the resume."""
        if self.pause is None:
            self.run_steps(enrollment)
            return
        enrollment.state = HELD
        enrollment.wait_until_us = 0
        enrollment.held = self.input.stored() if self.input is not None else None

    def run_steps(self, enrollment: Enrollment) -> None:
        """Runs steps until one must wait or there are none left."""
        program = self.plan.program
        while True:
            instruction = program[enrollment.position]
            if type(instruction) is GotoInstruction:
                enrollment.position = instruction.to
                continue
            self.steps += 1
            if self.steps > limits.MAX_STEPS:
                # Steps of one enrollment go forward only: jumps have led here, perhaps round and round.
                self.rest(enrollment, "", {"reason": f"more than {limits.MAX_STEPS} steps"})
                return
            if type(instruction) is ActivateInstruction:
                self.activate(enrollment, instruction)
                enrollment.position += 1
            elif type(instruction) is RestInstruction:
                self.rest(enrollment, instruction.step_id)
                return
            elif type(instruction) is DecideInstruction:
                enrollment.position = self.decide(enrollment, instruction)
            elif type(instruction) is ExperimentInstruction:
                enrollment.position = self.draw(enrollment, instruction)
            elif type(instruction) is JumpInstruction:
                self.jump(enrollment, instruction)
                return
            else:
                self.begin_wait(enrollment, instruction)
                if type(instruction) is not WaitForConditionInstruction or not self.can_hold(
                    instruction.criteria, enrollment
                ):
                    return
                self.record_wait_end(enrollment, instruction, met=True)
                enrollment.position = instruction.met

    def begin_wait(self, enrollment: Enrollment, instruction: WaitingInstruction) -> None:
        now = enrollment.now_us
        if type(instruction) is WaitInstruction:
            until_us = now + instruction.duration_us
        elif type(instruction) is WaitForConditionInstruction:
            until_us = now + instruction.timeout_us
        elif type(instruction) is WaitUntilInstruction:
            until_us = max(now, instruction.moment_us)
        else:
            # A zone that the time zone database has dropped since must not hold anybody up.
            zone = self.profile.time_zone
            if not is_time_zone(zone):
                zone = self.plan.time_zone or "UTC"
            until_us = next_time_of_day(now, zone, instruction.minute, instruction.weekdays)
        enrollment.state = WAITING
        enrollment.wait_until_us = until_us
        self.record(_WAIT_STARTED, enrollment, instruction.step_id, {"until": format_time(until_us)})

    def end_wait(self, enrollment: Enrollment, *, met: bool) -> None:
        """The open wait is over: its time has come, or its condition is met."""
        instruction = self.plan.program[enrollment.position]
        assert isinstance(instruction, WaitingInstruction)
        self.record_wait_end(enrollment, instruction, met=met)
        if type(instruction) is WaitForConditionInstruction:
            enrollment.position = instruction.met if met else instruction.timed_out
        else:
            enrollment.position += 1
        self.go_on(enrollment)

    def record_wait_end(self, enrollment: Enrollment, instruction: WaitingInstruction, *, met: bool) -> None:
        detail: Json = {}
        if type(instruction) is WaitForConditionInstruction:
            detail["way"] = "met" if met else "timed_out"
        if self.late_us:
            detail["late_seconds"] = self.late_us / 1_000_000
        enrollment.wait_until_us = 0
        self.record(_WAIT_ENDED, enrollment, instruction.step_id, detail)

    def decide(self, enrollment: Enrollment, instruction: DecideInstruction) -> int:
        for name, criteria, to in instruction.branches:
            if criteria is None or self.can_hold(criteria, enrollment):
                self.record(Kind.BRANCH_TAKEN, enrollment, instruction.step_id, {"branch": name})
                return to
        raise AssertionError("the last branch always holds")

    def draw(self, enrollment: Enrollment, instruction: ExperimentInstruction) -> int:
        parts = (self.profile.profile_id, self.plan.journey_id, instruction.step_id)
        digest = blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=8).digest()
        drawn = int.from_bytes(digest) * 100 >> 64
        name, to = next((name, to) for name, bound, to in instruction.variants if drawn < bound)
        self.record(Kind.BRANCH_TAKEN, enrollment, instruction.step_id, {"branch": name})
        return to

    def activate(self, enrollment: Enrollment, instruction: ActivateInstruction) -> None:
        # A step is visited at most once in an enrollment: stages and steps only go forward.
        activation_id = f"{enrollment.enrollment_id}.{enrollment.position}"
        pending = self.request(enrollment, instruction, activation_id, enrollment.stage, instruction.action)
        enrollment.pending = (*enrollment.pending, pending)
        if instruction.until is not _NEVER:
            enrollment.added = (*enrollment.added, enrollment.position)
        detail = {"activation_id": activation_id, "channel": instruction.channel}
        self.record(_ACTIVATION_REQUESTED, enrollment, instruction.step_id, detail)

    def request(
        self,
        enrollment: Enrollment,
        instruction: ActivateInstruction,
        activation_id: str,
        stage: int,
        action: AudienceAction,
    ) -> PendingActivation:
        """Asks for what an activation does, with all that the message needs."""
        profile = self.profile
        self.effects.append(
            RequestActivation(
                activation_id=activation_id,
                request_us=enrollment.now_us,
                version=enrollment.version,
                enrollment_id=enrollment.enrollment_id,
                stage=self.plan.stage_names[stage],
                step_id=instruction.step_id,
                channel=instruction.channel,
                template=instruction.template,
                action=action,
                attributes=profile.attributes,
                entry=enrollment.entry,
                latest=enrollment.latest_event,
                time_zone=profile.time_zone or self.plan.time_zone,
            )
        )
        return PendingActivation(activation_id, enrollment.now_us, instruction.step_id)

    def let_go(self, enrollment: Enrollment, kind: Kind) -> tuple[PendingActivation, ...]:
        """Has the audiences that the enrollment added the profile to remove it again, as far as this kind of end asks for it.

        Also where the addition has no receipt: it may be under way, and removing who is no member harms nobody. A removal is no message:
        it does not wait for a paused journey to resume.
        """
        asked = []
        for position in enrollment.added:
            instruction = self.plan.program[position]
            assert type(instruction) is ActivateInstruction
            if instruction.until is AudienceUntil.GOAL and kind is not Kind.GOAL_ACHIEVED:
                continue
            activation_id = f"{enrollment.enrollment_id}.{position}.remove"
            stage = self.plan.stage_at(position)
            asked.append(self.request(enrollment, instruction, activation_id, stage, _REMOVE))
            detail = {
                "activation_id": activation_id,
                "channel": instruction.channel,
                "action": _REMOVE.name,
            }
            self.record(_ACTIVATION_REQUESTED, enrollment, instruction.step_id, detail, stage)
        return tuple(asked)

    def jump(self, enrollment: Enrollment, instruction: JumpInstruction) -> None:
        target = instruction.target
        entry, latest = enrollment.entry, enrollment.latest_event
        detail = {"journey": target.journey_id, "stage": target.stage}
        self.end(enrollment, Kind.JUMPED, detail, "", instruction.step_id)
        self.start(target, enrollment, entry, latest)

    def start(self, target: Target, enrollment: Enrollment, entry: Json | None, latest: Json | None) -> None:
        """Asks for another journey to begin where this enrollment ended. The event at hand begins it, else the one that began this."""
        event = self.input.stored() if self.input is not None else None
        start = StartInput(
            time_us=enrollment.now_us,
            stage=target.stage,
            from_journey=self.plan.journey_id,
            from_enrollment=enrollment.enrollment_id,
            event=event,
            entry=event or entry,
            latest=event or latest,
            steps=self.steps,
        )
        self.starts = (*self.starts, StartJourney(target.journey_id, start))

    def rest(self, enrollment: Enrollment, step_id: str, detail: Json | None = None) -> None:
        enrollment.state = RESTING
        enrollment.wait_until_us = 0
        enrollment.rest_us = enrollment.now_us
        self.record(_RESTED, enrollment, step_id, detail)
        if enrollment.stage == self.plan.last_stage and self.plan.is_last_stage_final:
            self.end(enrollment, Kind.COMPLETED)

    # Moves

    def leave_step(self, enrollment: Enrollment, reason: str) -> None:
        """Cancels the open wait and takes back every activation that has no receipt yet."""
        if enrollment.state is WAITING and enrollment.wait_until_us:
            instruction = self.plan.program[enrollment.position]
            assert isinstance(instruction, WaitingInstruction)
            self.record(_WAIT_CANCELED, enrollment, instruction.step_id)
            enrollment.wait_until_us = 0
        for each in enrollment.pending:
            self.effects.append(WithdrawActivation(each.activation_id, each.request_us, reason))
            detail = {"activation_id": each.activation_id}
            self.record(_ACTIVATION_WITHDRAWN, enrollment, each.step_id, detail)
        enrollment.pending = ()

    def enter_stage(self, enrollment: Enrollment, stage: int, detail: Json | None = None) -> None:
        enrollment.stage = stage
        enrollment.stage_enter_us = enrollment.now_us
        enrollment.position = self.plan.stages[stage].start
        enrollment.rest_us = 0
        self.record(_STAGE_ENTERED, enrollment, "", detail)

    def end(
        self,
        enrollment: Enrollment,
        kind: Kind,
        detail: Json | None = None,
        exit: str = "",
        step: str = "",
    ) -> None:
        # Before the end is told: who has left is silent.
        enrollment.pending = self.let_go(enrollment, kind) if enrollment.added else ()
        enrollment.added = ()
        self.record(kind, enrollment, step, detail)
        self.cancel_timer(enrollment)
        enrollment.state = _ENDED[kind]
        enrollment.end_us = enrollment.now_us
        enrollment.exit = exit
        enrollment.wait_until_us = 0
        enrollment.entry = enrollment.latest = enrollment.held = None
        self.keep(enrollment)
        self.enrollment = None

    # What comes of it

    def record(
        self,
        kind: Kind,
        enrollment: Enrollment,
        step: str = "",
        detail: Json | None = None,
        stage: int | None = None,
    ) -> None:
        plan = self.plan
        self.transitions.append(
            Transition(
                enrollment.now_us,
                plan.journey_id,
                enrollment.version,
                enrollment.enrollment_id,
                kind,
                plan.stage_names[enrollment.stage if stage is None else stage],
                step,
                detail or {},
                self.cause,
            )
        )

    def writable(self) -> Standing:
        """The standing, copied once before it is changed."""
        if self.standing is self.before:
            self.standing = replace(self.before)
        return self.standing

    def keep(self, enrollment: Enrollment) -> None:
        self.writable().enrollment = enrollment

    def cancel_timer(self, enrollment: Enrollment) -> None:
        if enrollment.wake_us:
            if not self.journey.is_batch:
                self.effects.append(CancelTimer(enrollment.timer_id))
            enrollment.wake_us = 0
