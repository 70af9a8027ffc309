"""What becomes of what arrives for a profile that was erased, and for one that was made anew since."""

from typing import Any

import pytest

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.evaluator.evaluation import (
    Evaluated,
    ProfileState,
    decode_profile,
    erased_profile,
)
from cairn.evaluator.evaluation import evaluate as evaluate_at
from cairn.evaluator.inputs import LifeArrival, ReceiptArrival, Result, TimerArrival
from cairn.evaluator.store import ProfileRow
from cairn.evaluator.wire import DAY_US, Refused
from cairn.journey.state import Kind, LifeInput, ReceiptInput, ScheduleTimer, TimerInput

NOW_US = 1_767_225_600_000_000
ERASED_US = NOW_US - 1_000_000
TODAY = NOW_US // DAY_US
ERASED = erased_profile("ann", 7, ERASED_US)


def evaluate(book: Any, state: ProfileState, *arrivals: Any) -> Evaluated:
    return evaluate_at(book, state, arrivals, set(), NOW_US, TODAY - 7)


def receipt(enrollment_id: str) -> ReceiptArrival:
    return ReceiptArrival("ann", ReceiptInput(f"{enrollment_id}.1"), enrollment_id, NOW_US, "[]")


def reason(result: Result | Refused) -> "ErrorReason.ValueType | None":
    return result.reason if isinstance(result, Refused) else None


GONE = ErrorReason.ERROR_REASON_PROFILE_ERASED


@pytest.mark.parametrize("at_us", [ERASED_US - 1, ERASED_US, ERASED_US + 1])
def test_an_event_is_refused_whenever_it_happened(carts, event, at_us) -> None:
    evaluated = evaluate(carts, ERASED, event("cart_add", "1", at_us=at_us))
    assert [reason(each) for each in evaluated.results] == [GONE]
    assert (evaluated.write, evaluated.state) == (None, ERASED)


def test_a_timer_a_receipt_and_a_sweep_do_nothing_and_leave_nothing(carts) -> None:
    late = [
        TimerArrival("ann", "cart", TimerInput("e.t1", NOW_US)),
        receipt("e"),
        LifeArrival("ann", "cart", LifeInput(NOW_US)),
    ]
    evaluated = evaluate(carts, ERASED, *late)
    assert evaluated.results == [Result.STALE] * 3
    assert (evaluated.write, evaluated.receipts) == (None, [])


@pytest.mark.parametrize("attributes", [{}, {"city": "Kyoto"}])
def test_a_description_makes_it_anew_and_its_revision_goes_on(carts, description, attributes) -> None:
    evaluated = evaluate(carts, ERASED, description(**attributes))
    write, state = evaluated.write, evaluated.state
    assert evaluated.results == [Result.ACTED_ON]
    assert write is not None
    assert (write.revision, write.is_new) == (8, True)
    assert write.attributes == ('{"city":"Kyoto"}' if attributes else "{}")
    assert (state.revision, state.is_erased, state.attributes) == (8, False, attributes)
    assert state.seen.erased_us == ERASED_US


def test_in_one_batch_what_comes_before_the_description_is_refused_and_what_comes_after_is_not(
    carts, event, description
) -> None:
    arrivals = [event("cart_add", "1"), description(), event("cart_add", "2"), description()]
    evaluated = evaluate(carts, ERASED, *arrivals)
    assert [reason(each) for each in evaluated.results] == [GONE, None, None, None]
    assert list(evaluated.state.seen.ids) == ["2"]
    assert [each.kind for each in evaluated.transitions][:1] == [Kind.ENTERED]


def test_what_a_description_begins_is_younger_than_the_erasure(carts, description) -> None:
    """Activation refuses what was asked for before: also when the erasure came by a clock that is ahead."""
    state = erased_profile("ann", 7, NOW_US + 5_000_000)
    evaluated = evaluate(carts, state, description(plan="gold"))
    entered = evaluated.transitions[0]
    assert (entered.journey_id, entered.kind) == ("gold", Kind.ENTERED)
    assert entered.time_us == NOW_US + 5_000_001


@pytest.fixture
def anew(carts, description) -> ProfileState:
    """Made anew, and back from its table."""
    write = evaluate(carts, ERASED, description()).write
    assert write is not None
    assert write.attributes is not None
    row = ProfileRow("ann", write.revision, write.attributes, "", write.standings, 0, seen=write.seen or "")
    return decode_profile(row)


@pytest.mark.parametrize(("at_us", "refused"), [(ERASED_US, True), (ERASED_US + 1, False)])
def test_once_anew_only_what_happened_before_the_erasure_is_refused(
    carts, event, anew, at_us, refused
) -> None:
    """What had been seen until then is forgotten: the same event a second time would act a second time."""
    evaluated = evaluate(carts, anew, event("cart_add", "1", at_us=at_us))
    assert [reason(each) for each in evaluated.results] == [GONE if refused else None]
    assert (evaluated.write is None) == refused
    assert evaluated.write is None or not evaluated.write.is_new


def test_once_anew_receipts_count_only_for_what_is_known(carts, event, anew) -> None:
    state = evaluate(carts, anew, event("cart_add", "1")).state
    enrollment = state.standings["cart"].enrollment
    assert enrollment is not None
    evaluated = evaluate(carts, state, receipt("of-before"), receipt(enrollment.enrollment_id))
    assert len(evaluated.receipts) == 1
    assert evaluated.results == [Result.STALE, Result.STALE]


def test_once_anew_timers_ring(carts, event, anew) -> None:
    first = evaluate(carts, anew, event("cart_add", "1"))
    ((_, effects),) = first.effects
    (timer,) = (each for each in effects if isinstance(each, ScheduleTimer))
    arrival = TimerArrival("ann", "cart", TimerInput(timer.timer_id, timer.due_us))
    assert evaluate(carts, first.state, arrival).results == [Result.ACTED_ON]


def test_who_was_never_there_is_new_and_who_is_there_is_not(carts, event, description) -> None:
    new = evaluate(carts, ProfileState("ann"), event("cart_add", "1"))
    assert new.write is not None
    assert new.write.is_new
    known = evaluate(carts, new.state, description(city="Kyoto"))
    assert known.write is not None
    assert not known.write.is_new
