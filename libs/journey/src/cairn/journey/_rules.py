"""Owns which rule acts on an enrollment, as time passes and with the input at hand, and what the one that acts does.

In this order: the goal, an exit of the journey, an exit of the stage, a milestone, the current step.
"""

from cairn.journey._running import Running
from cairn.journey.dues import next_due_us, stale_exits
from cairn.journey.model import ExitCriterion
from cairn.journey.plan import GOAL, Rule, WaitForConditionInstruction
from cairn.journey.state import WAITING, Enrollment, EventInput, Json, Kind


class Ruled(Running):
    """One input on one standing: which rule acts."""

    __slots__ = ()

    def see(self, input: EventInput | None, cause: str, time_us: int) -> None:
        """From here on the input is what criteria read and what caused the changes."""
        self.input, self.cause, self.at_us = input, cause, time_us
        if input is None:
            self.event = self.event_name = None
        else:
            self.event = input.view
            self.event_name = input.view["name"]

    # Time

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
        self.end(enrollment, Kind.GOAL_ACHIEVED, detail)
        if target is not None:
            self.start(target, enrollment, entry, latest)
