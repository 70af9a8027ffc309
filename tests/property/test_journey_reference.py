"""The core does what the page says: it and a slow second reading of the page agree on any journeys, whatever happens.

`CAIRN_EXAMPLES=50 pytest tests/property/test_journey_reference.py --timeout=0` runs fifty times as many examples.
"""

from hypothesis import given
from reference_journeys import EVENTFUL, QUIET, Case, cases
from reference_play import CorePlayer, ReferencePlayer, examples, tell_or_skip
from reference_story import dues_of_core, dues_of_reference, find_difference


class Agreeing(ReferencePlayer):
    """Looks after each happening whether the core is where the reference is."""

    def __init__(self, case: Case, core: CorePlayer) -> None:
        super().__init__(case)
        self.core = core

    def check(self) -> None:
        self.check_story()
        ours, theirs = dues_of_core(self.core), dues_of_reference(self)
        assert {name: ours.get(name) for name in theirs} == theirs, "a wake-up, at the earliest due time"

    def check_story(self) -> None:
        found = find_difference(self.core, self)
        assert not found, f"\n{found}"


class AgreeingAtLast(Agreeing):
    """The same, but the alarm of the core is not to be relied on: what it missed is made up for at the end."""

    def check(self) -> None:
        if self.is_over:
            self.check_story()


@examples(220)
@given(cases(QUIET))
def test_they_agree(case: Case) -> None:
    core = CorePlayer(case)
    tell_or_skip(case, core, Agreeing(case, core))


@examples(220)
@given(cases(EVENTFUL, most=2))
def test_they_agree_when_journeys_are_paused_and_ended(case: Case) -> None:
    core = CorePlayer(case)
    tell_or_skip(case, core, Agreeing(case, core))


@examples(160)
@given(cases(QUIET, punctual=False))
def test_a_late_or_stuttering_alarm_changes_nothing(case: Case) -> None:
    core = CorePlayer(case)
    tell_or_skip(case, core, AgreeingAtLast(case, core))


@examples(160)
@given(cases(EVENTFUL, most=2, punctual=False, jumps=False))
def test_nor_does_a_service_that_comes_round_late_after_a_pause(case: Case) -> None:
    core = CorePlayer(case)
    tell_or_skip(case, core, AgreeingAtLast(case, core))
