"""Owns how the reference interpreter runs steps, and what it tells; which rule acts is `reference`'s to decide."""

from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

from reference_state import Detail, Entry, Hand, Life, Line, Reach, Sent, Served, Standing, TooManyStepsError
from reference_world import World, first_time_of_day, written

from cairn.journey.model import (
    Activation,
    Decision,
    End,
    Experiment,
    Jump,
    Step,
    Target,
    Wait,
    WaitForCondition,
    WaitUntil,
    WaitUntilTime,
)
from cairn.rules import Criteria


class Steps:
    """One profile in all journeys, as far as its steps go."""

    def __init__(self, profile_id: str, attributes: Mapping[str, Any], time_zone: str, reach: Reach) -> None:
        self.profile_id = profile_id
        self.world = World(attributes, time_zone)
        self.reach = reach
        self.journeys: dict[str, Served] = {}
        self.standings: dict[str, Standing] = {}
        self.starts: list[tuple[Target, Entry]] = []
        self.lines: list[Line] = []
        self.sent: list[Sent] = []
        self.steps = 0

    def holds(self, life: Life, criteria: Criteria, hand: Hand) -> bool:
        return self.world.holds(criteria, hand.event, life.entry, life.version.segments, life.now_us)

    def meets_condition(self, life: Life, hand: Hand) -> bool:
        if life.state != "waiting":
            return False
        kind = life.todo[0].kind
        return isinstance(kind, WaitForCondition) and self.holds(life, kind.criteria, hand)

    # Steps

    def run_or_hold(self, standing: Standing, life: Life, hand: Hand) -> None:
        """Steps wait for the resume while the journey is paused."""
        if self.journeys[standing.journey].pause is None:
            self.run(standing, life, hand)
        else:
            life.state, life.held = "held", hand.event

    def run(self, standing: Standing, life: Life, hand: Hand) -> None:
        while life.todo:
            self.steps += 1
            if self.steps > 90:
                raise TooManyStepsError
            step = life.todo[0]
            match step.kind:
                case Activation() as activation:
                    self.send(standing, life, step, activation, hand)
                    life.todo = life.todo[1:]
                case Decision(branches=branches, otherwise=otherwise):
                    way, steps = "otherwise", otherwise
                    for branch in branches:
                        if self.holds(life, branch.criteria, hand):
                            way, steps = branch.name, branch.steps
                            break
                    self.take_branch(standing, life, way, steps, hand)
                case Experiment() as experiment:
                    way, steps = self.draw(standing, step, experiment)
                    self.take_branch(standing, life, way, steps, hand)
                case Jump(target=target):
                    detail = {"journey": target.journey_id, "stage": target.stage}
                    self.end_life(standing, life, "JUMPED", hand, detail, step.step_id)
                    self.jump_to(standing, life, target, hand)
                    return
                case End():
                    self.rest(standing, life, step.step_id, hand)
                    return
                case _:
                    self.begin_wait(standing, life, step, hand)
                    if not self.meets_condition(life, hand):
                        return
                    self.tell_wait_end(standing, life, hand, "met")
        self.rest(standing, life, "", hand)

    def begin_wait(self, standing: Standing, life: Life, step: Step, hand: Hand) -> None:
        match step.kind:
            case Wait(duration_us=duration_us) | WaitForCondition(timeout_us=duration_us):
                life.until_us = life.now_us + duration_us
            case WaitUntil(moment_us=moment_us):
                life.until_us = max(life.now_us, moment_us)
            case WaitUntilTime(minute=minute, weekdays=weekdays):
                zone = self.world.time_zone or life.model.time_zone or "UTC"
                life.until_us = first_time_of_day(life.now_us, zone, minute, weekdays)
        life.state = "waiting"
        self.tell(standing, life, "WAIT_STARTED", hand, step.step_id, {"until": written(life.until_us)})

    def end_wait(self, standing: Standing, life: Life, hand: Hand, way: str) -> None:
        self.tell_wait_end(standing, life, hand, way)
        self.run_or_hold(standing, life, hand)

    def tell_wait_end(self, standing: Standing, life: Life, hand: Hand, way: str) -> None:
        """A wait is over; of one for a condition the steps of the way come next, and then what follows it."""
        step, *rest = life.todo
        detail: Detail = {}
        ways: tuple[Step, ...] = ()
        if isinstance(step.kind, WaitForCondition):
            detail["way"] = way
            ways = step.kind.met if way == "met" else step.kind.timed_out
        if hand.late_us:
            detail["late_seconds"] = hand.late_us / 1_000_000
        self.tell(standing, life, "WAIT_ENDED", hand, step.step_id, detail)
        life.state, life.until_us = "running", 0
        life.todo = [*ways, *rest]

    def take_branch(
        self, standing: Standing, life: Life, way: str, steps: tuple[Step, ...], hand: Hand
    ) -> None:
        self.tell(standing, life, "BRANCH_TAKEN", hand, life.todo[0].step_id, {"branch": way})
        life.todo = [*steps, *life.todo[1:]]

    def draw(self, standing: Standing, step: Step, experiment: Experiment) -> tuple[str, tuple[Step, ...]]:
        text = "\0".join((self.profile_id, standing.journey, step.step_id))
        number = int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big")
        percent, bound = number * 100 >> 64, 0
        for variant in experiment.variants:
            bound += variant.percent
            if percent < bound:
                return variant.name, variant.steps
        raise AssertionError("percentages sum to 100")

    def send(self, standing: Standing, life: Life, step: Step, made: Activation, hand: Hand) -> None:
        life.pending.append(step.step_id)
        self.tell(standing, life, "ACTIVATION_REQUESTED", hand, step.step_id, {"channel": made.channel})
        self.hand_over(standing, life, life.stage, step, made, int(made.action))
        if made.until.name != "NEVER":
            life.added.append((life.stage, step, made))

    def hand_over(
        self, standing: Standing, life: Life, stage: int, step: Step, made: Activation, action: int
    ) -> None:
        name = life.model.stages[stage].name
        zone = self.world.time_zone or life.model.time_zone
        entry, latest = (each.event_id if each else None for each in (life.entry, life.latest))
        self.sent.append(
            Sent(
                standing.name, life.number, life.now_us, life.version.number, name, step.step_id, made.channel,
                made.template, action, dict(self.world.attributes), entry, latest, zone,
            )
        )  # fmt: skip

    def let_go(self, standing: Standing, life: Life, kind: str, hand: Hand) -> None:
        """Audiences that the enrollment added the profile to remove it: at any end, or when it ends by its goal."""
        for stage, step, made in life.added:
            if made.until.name == "EXIT" or kind == "GOAL_ACHIEVED":
                detail = {"channel": made.channel, "action": "REMOVE"}
                self.tell(standing, life, "ACTIVATION_REQUESTED", hand, step.step_id, detail, stage=stage)
                self.hand_over(standing, life, stage, step, made, 2)

    def rest(self, standing: Standing, life: Life, step: str, hand: Hand) -> None:
        life.state, life.rest_us, life.todo = "resting", life.now_us, []
        self.tell(standing, life, "RESTED", hand, step)
        exits = [*life.model.stages[-1].exits, *(exit for exit in life.model.exits if exit.to is None)]
        if life.is_in_last_stage and life.model.goal is None and not exits:
            self.end_life(standing, life, "COMPLETED", hand)

    # Moves

    def leave_step(self, standing: Standing, life: Life, hand: Hand) -> None:
        if life.state == "waiting":
            self.tell(standing, life, "WAIT_CANCELED", hand, life.todo[0].step_id)
        for step in life.pending:
            self.tell(standing, life, "ACTIVATION_WITHDRAWN", hand, step)
        life.state, life.pending = "running", []

    def enter_stage(self, standing: Standing, life: Life, stage: int, hand: Hand, detail: Detail) -> None:
        life.stage, life.stage_us, life.todo = stage, life.now_us, list(life.model.stages[stage].steps)
        self.tell(standing, life, "STAGE_ENTERED", hand, detail=detail)

    def end_life(
        self,
        standing: Standing,
        life: Life,
        kind: str,
        hand: Hand,
        detail: Detail | None = None,
        step: str = "",
    ) -> None:
        self.let_go(standing, life, kind, hand)
        self.tell(standing, life, kind, hand, step, detail)
        standing.life = None

    def jump_to(self, standing: Standing, life: Life, target: Target, hand: Hand) -> None:
        entry, latest = hand.event or life.entry, hand.event or life.latest
        cause = f"jump {standing.journey}"
        self.starts.append((target, Entry(life.now_us, cause, hand.event, entry, latest, target.stage)))

    def tell(
        self,
        standing: Standing,
        life: Life,
        kind: str,
        hand: Hand,
        step: str = "",
        detail: Detail | None = None,
        *,
        stage: int | None = None,
    ) -> None:
        name = life.model.stages[life.stage if stage is None else stage].name
        self.lines.append(
            Line(
                standing.name, life.number, life.now_us, life.version.number, kind, name, step,
                detail or {}, hand.cause,
            )
        )  # fmt: skip
