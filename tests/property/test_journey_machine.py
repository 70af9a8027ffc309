"""What holds of the machine whatever the journeys, whatever happens and however often and late the alarm rings.

Run longer as `test_journey_reference.py` says.
"""

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from reference_journeys import EVENTFUL, HOUR_US, QUIET, START_US, Case, Happening, cases, read
from reference_play import CorePlayer, examples, tell, tell_or_skip
from reference_world import Event

from cairn.journey.dispatch import Dispatched
from cairn.journey.dues import next_due_us
from cairn.journey.model import AudienceAction, AudienceUntil
from cairn.journey.plan import ActivateInstruction, Plan
from cairn.journey.state import Kind, RequestActivation, Transition, WithdrawActivation

ENDS = {
    Kind.COMPLETED, Kind.EXITED, Kind.GOAL_ACHIEVED, Kind.JUMPED, Kind.RESTARTED, Kind.REMOVED,
}  # fmt: skip


class Suspicious(CorePlayer):
    """Looks at every input whether the machine keeps its word."""

    def __init__(self, case: Case) -> None:
        super().__init__(case)
        self.pending: set[str] = set()

    def run(self, input: Callable[[], Dispatched], each: Happening | None) -> None:
        before = msgspec.json.encode([self.standings, self.profile])
        out = input()
        assert msgspec.json.encode([self.standings, self.profile]) == before, "what was passed in was changed"
        super().run(input, each)
        for _, effects in out.effects:
            for effect in effects:
                if isinstance(effect, RequestActivation):
                    self.pending.add(effect.activation_id)
                elif isinstance(effect, WithdrawActivation):
                    assert effect.activation_id in self.pending, "withdrawn without being open"
                    self.pending.remove(effect.activation_id)
        for standing_id in out.standings:
            self.check_timers(standing_id)

    def check_timers(self, standing_id: str) -> None:
        standing = self.standings.get(standing_id)
        timers = {timer: due for timer, (due, name) in self.timers.items() if name == standing_id}
        enrollment = standing.enrollment if standing else None
        if enrollment is None or not enrollment.is_open:
            assert timers == {}, "one that has ended asks for nothing"
            return
        journey = self.journeys[standing_id.partition("/")[0]]
        due = next_due_us(journey.plans[enrollment.version], enrollment)
        if journey.pause is None and due is not None:
            assert due > enrollment.now_us, "what is due has been done"
            assert timers == {enrollment.timer_id: due}, "one wake-up, at the earliest of what is due"


@examples(100)
@given(cases(EVENTFUL, punctual=False))
def test_every_step_keeps_the_machines_word(case: Case) -> None:
    tell_or_skip(case, Suspicious(case))


@examples(100)
@given(cases(EVENTFUL))
def test_every_enrollment_is_a_life(case: Case) -> None:
    """It begins once, goes forward in time and stages, ends once, and is silent after; and there is one at a time."""
    core = CorePlayer(case)
    tell_or_skip(case, core)
    lives: dict[str, list[Transition]] = defaultdict(list)
    order: dict[str, list[str]] = defaultdict(list)
    for each in core.transitions:
        if each.kind is Kind.ENTRY_REFUSED:
            assert each.enrollment_id == ""
            continue
        if each.kind is Kind.ENTERED:
            assert each.enrollment_id not in lives
            order[each.journey_id].append(each.enrollment_id)
        lives[each.enrollment_id].append(each)
    for life in lives.values():
        check_life(life, core)
    told = [each.enrollment_id for each in core.transitions]
    for journey_id, ids in order.items():
        if not core.journeys[journey_id].is_keyed:
            # In order of telling: a late event, or a jump that it leads to, may begin one before another ended.
            for before, after in pairwise(ids):
                assert lives[before][-1].kind in ENDS
                assert core.transitions.index(lives[before][-1]) < told.index(after), "one at a time"


def check_life(life: list[Transition], core: CorePlayer) -> None:
    assert [each.kind for each in life[:2]] == [Kind.ENTERED, Kind.STAGE_ENTERED]
    times = [each.time_us for each in life]
    assert times == sorted(times)
    assert not any(each.kind in ENDS for each in life[:-1]), "who has left is silent"
    names = [stage.name for stage in core.journeys[life[0].journey_id].plans[life[0].version].stages]
    stages = [names.index(each.stage) for each in life if each.kind is Kind.STAGE_ENTERED]
    assert stages == sorted(set(stages)), "stages go forward only"
    starts = [each.step for each in life if each.kind is Kind.WAIT_STARTED]
    stops = [each.step for each in life if each.kind in (Kind.WAIT_ENDED, Kind.WAIT_CANCELED)]
    assert starts[: len(stops)] == stops, "a wait ends as one of those that began"
    assert len(starts) - len(stops) in (0, 1)


@examples(100)
@given(cases(EVENTFUL))
def test_an_audience_lets_go_of_whom_it_was_given(case: Case) -> None:
    """Each addition has one removal once its enrollment has ended, if that end is one that it waits for, and none before."""
    core = CorePlayer(case)
    tell_or_skip(case, core)
    ends = {each.enrollment_id: each for each in core.transitions if each.kind in ENDS}
    removals = {
        each.activation_id: each for _, each in core.requested if each.activation_id.endswith(".remove")
    }
    assert len({each.activation_id for _, each in core.requested}) == len(core.requested), (
        "none is asked for twice"
    )
    for standing_id, added in core.requested:
        if added.activation_id.endswith(".remove"):
            continue
        plan = core.journeys[standing_id.partition("/")[0]].plans[added.version]
        until = next(
            each.until
            for each in plan.program
            if isinstance(each, ActivateInstruction) and each.step_id == added.step_id
        )
        end = ends.get(added.enrollment_id)
        lets_go = end is not None and (
            until is AudienceUntil.EXIT or (until is AudienceUntil.GOAL and end.kind is Kind.GOAL_ACHIEVED)
        )
        removal = removals.pop(f"{added.activation_id}.remove", None)
        assert (removal is not None) == lets_go
        if removal is not None and end is not None:
            assert (removal.channel, removal.action) == (added.channel, AudienceAction.REMOVE)
            assert added.request_us <= removal.request_us == end.time_us
    assert removals == {}, "nothing is removed that was not added"


@examples(60)
@given(cases(QUIET))
def test_a_replay_is_the_same_to_the_byte(case: Case) -> None:
    """Crashes before the commit, wake-ups rung twice, events delivered twice: nobody can tell from what came of it."""
    wild, calm = CorePlayer(case), CorePlayer(case, is_calm=True)
    tell_or_skip(case, wild, calm)
    assert wild.record() == calm.record()


@examples(60)
@given(cases(EVENTFUL, most=2), st.integers(0, 3))
def test_profiles_do_not_see_each_other(case: Case, level: int) -> None:
    """However the deliveries of several profiles are mixed, each gets what it gets alone, though they share the plans."""
    plans: dict[str, Plan] = {}
    alone, beside = CorePlayer(case), CorePlayer(case, plans=plans)
    other = CorePlayer(case, "bob", plans=plans)
    other.profile = msgspec.structs.replace(other.profile, attributes={"level": float(level)})
    tell_or_skip(case, alone)
    tell(case, beside, other)
    assert beside.record() == alone.record()


CART = {
    "name": "cart",
    "type": "REAL_TIME",
    "goal": {"criteria": 'event.name == "d"'},
    "reentry": {"mode": "ALWAYS"},
    "stages": [
        {
            "name": "one",
            "entry": 'event.name == "a"',
            "steps": [{"wait": {"duration": "3h"}}, {"activation": {"channel": "email", "template": "t"}}],
        }
    ],
}


@examples(100)
@given(
    st.lists(
        st.tuples(st.sampled_from("aad"), st.integers(0, 5), st.integers(0, 5), st.booleans()), max_size=12
    )
)
def test_whoever_bought_is_not_reminded_until_a_later_cart(
    drawn: list[tuple[str, int, int, bool]],
) -> None:
    core = CorePlayer(Case(((CART,),), {}))
    core.publish(*read(CART))
    hours = 0

    def happens(name: str, at: float, rings: bool = True) -> None:
        each = Happening("event", 0, rings=rings)
        core.go_to(START_US + int(hours * HOUR_US), each)
        core.take_event(Event(f"e{len(core.taken)}", name, START_US + int(at * HOUR_US), {}), each)

    for name, more, late_hours, rings in drawn:
        hours += more
        happens(name, max(0, hours - late_hours), rings)
    before = len(core.requested)
    happens("d", hours)
    # What was due before the purchase is applied before it, and then taken back by it.
    caught_up = {effect.activation_id for _, effect in core.requested[before:]}
    assert caught_up <= {effect.activation_id for effect in core.withdrawn}
    before = len(core.requested)
    if hours:
        happens("a", hours - 1)
    hours += 1
    core.go_to(START_US + 1_000 * HOUR_US, Happening("event", 0))
    assert len(core.requested) == before
    happens("a", hours)
    core.go_to(START_US + 2_000 * HOUR_US, Happening("event", 0))
    assert len(core.requested) == before + 1
