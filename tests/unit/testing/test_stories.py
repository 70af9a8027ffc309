"""The words of the test kit: given, when, after, then; the case as data; how two timelines that differ are shown."""

from pathlib import Path

import pytest

from cairn.journey.state import Kind, Transition
from cairn.testing.journeys import (
    START_US,
    Case,
    MachineEngine,
    Mismatch,
    Passes,
    Place,
    alarm,
    end,
    event,
    explain,
    given,
    line,
    passes,
    pause,
    play,
    profile,
    publish,
    read_journey,
    read_journeys,
    receipt,
    resume,
)

CART = """
name: cart
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
reentry: {mode: ALWAYS}
stages:
  - name: one
    entry: event.name == "cart_add"
    steps: [{wait: {duration: 3h}}, {activation: {channel: email}}]
"""
BEGUN = ("0s ENTERED one", "0s STAGE_ENTERED one", "0s WAIT_STARTED one/1 until 3h")
REMINDED = ("3h WAIT_ENDED one/1", "3h ACTIVATION_REQUESTED one/2 through email", "3h RESTED one")


def test_given_when_after_then() -> None:
    given(CART).when("cart_add").then(*BEGUN).after("3h").then(*REMINDED).when("purchase").then(
        "3h ACTIVATION_WITHDRAWN one/2", "3h GOAL_ACHIEVED one"
    )


def test_then_says_all_that_has_come_since_the_last_then() -> None:
    story = given(CART).when("cart_add")
    with pytest.raises(Mismatch):
        story.then(*BEGUN[:2])
    with pytest.raises(Mismatch):
        story.then(*BEGUN).after("3h").then()
    story.then(*BEGUN).after("2h").then().after("1h").then(*REMINDED)


def test_a_story_can_be_told_on_in_two_ways() -> None:
    begun = given(CART).when("cart_add").then(*BEGUN)
    begun.after("3h").then(*REMINDED)
    begun.when(event("purchase", at="1h")).then("1h WAIT_CANCELED one/1", "1h GOAL_ACHIEVED one")


def test_an_event_by_name_has_the_properties_beside_it() -> None:
    text = CART.replace('"cart_add"', '"cart_add" && event.properties.total > 5')
    given(text).when("cart_add", total=5).then()
    given(text).when("cart_add", total=6).then(*BEGUN)


def test_what_is_given_of_a_profile() -> None:
    text = CART.replace("{duration: 3h}", '{until_time: "09:00"}').replace(
        '"cart_add"', '"cart_add" && profile.vip'
    )
    given(text).when("cart_add").then()
    story = given(text, attributes={"vip": True}, time_zone="Europe/Berlin", profile_id="bob").when(
        "cart_add"
    )
    assert MachineEngine().play(story.case())[2] == "0s WAIT_STARTED one/1 until 8h"
    assert story.case().profile_id == "bob"


def test_journeys_from_files_and_several_of_them(tmp_path: Path) -> None:
    file = tmp_path / "other.yaml"
    file.write_text(CART.replace("name: cart", "name: other"))
    given(CART, file).when("cart_add").then(
        *(f"cart {each}" for each in BEGUN), *(f"other {each}" for each in BEGUN)
    )


def test_all_of_a_story_is_data() -> None:
    case = given(CART).when("cart_add").then(*BEGUN).after("3h").then(*REMINDED).case("reminded")
    assert case == Case("reminded", f"{CART}", (event("cart_add"), passes("3h")), (*BEGUN, *REMINDED))
    case.check()


class Recorder:
    """Another engine."""

    def play(self, case: Case) -> list[str]:
        return [f"0s {len(case.moments)} moments"]


def test_another_engine_plays_the_same_case() -> None:
    case = Case("words", CART, (event("a"), passes("1h")), ("0s 2 moments",))
    case.check(Recorder())
    with pytest.raises(Mismatch):
        case.check()


def test_when_things_happen_and_when_that_becomes_known() -> None:
    """For an engine that has to send them at the right moment."""
    hour = 3_600_000_000
    moments = (
        event("a"),
        passes("2h"),
        event("b", at="1h"),
        event("c", at="5h"),
        profile(x=1),
        event("d", at="-1h"),
    )
    timed = Case("words", CART, moments, ()).timed()
    assert [(happens // hour, known // hour) for happens, known, _ in timed] == [
        (0, 0),
        (2, 2),
        (1, 2),
        (5, 5),
        (5, 5),
        (-1, 5),
    ]
    assert [moment for _, _, moment in timed] == list(moments)


def test_what_only_the_machine_can_play_is_seen_from_the_moments() -> None:
    kinds = {type(each).__name__ for each in (alarm(on=False), receipt("one/2"))}
    assert kinds == {"Alarm", "Receipt"}


def test_lines_of_some_kinds_alone() -> None:
    moments = (event("cart_add"), passes("3h"))
    Case("words", CART, moments, (REMINDED[1],), only=("ACTIVATION_REQUESTED",)).check()
    Case("words", CART, moments, (BEGUN[0], REMINDED[2]), only=("ENTERED", "RESTED")).check()
    two = CART + "\n---\n" + CART.replace("name: cart", "name: other")
    Case(
        "words", two, moments, (f"cart {REMINDED[1]}", f"other {REMINDED[1]}"), only=("ACTIVATION_REQUESTED",)
    ).check()
    # A stage of that name is no kind.
    stage = CART.replace("name: one", "name: entered")
    Case("words", stage, moments, (), only=("EXITED",)).check()


def test_the_difference_of_two_timelines() -> None:
    case = Case("one reminder", CART, (), BEGUN, place=Place("cart.yaml", 3, (10, 11, 12)))
    assert explain(case, (BEGUN[0], "0s SOMETHING else", BEGUN[2], "3h MORE")).splitlines() == [
        "cart.yaml:11: one reminder: another timeline than expected (- expected, + happened)",
        "    0s ENTERED one",
        "  - 0s STAGE_ENTERED one    (line 11)",
        "  + 0s SOMETHING else",
        "    0s WAIT_STARTED one/1 until 3h",
        "  + 3h MORE",
    ]
    assert explain(Case("nothing", CART, (), BEGUN[:1]), ()).splitlines() == [
        "nothing: another timeline than expected (- expected, + happened)",
        "  - 0s ENTERED one",
    ]
    assert explain(Case("more", CART, (), BEGUN[:1], place=Place("f", 1, (7,))), BEGUN[:2]).startswith(
        "f:7: more"
    )


def test_a_mismatch_is_a_failed_assertion_and_keeps_what_happened() -> None:
    with pytest.raises(AssertionError) as raised:
        given(CART).when("cart_add").then("0s ENTERED two")
    assert isinstance(raised.value, Mismatch)
    assert raised.value.told == BEGUN
    assert "  - 0s ENTERED two\n  + 0s ENTERED one" in str(raised.value)


# The story on the machine


def test_a_late_event_arrives_now_and_happens_then() -> None:
    story = play(CART, passes("1h"), event("cart_add", at="30m"), passes("2h30m"))
    assert story.lines[0] == "30m ENTERED one"
    assert story.lines[-1] == "3h30m RESTED one"


def test_what_a_late_event_asks_for_and_is_overdue_rings_at_once() -> None:
    story = play(CART, passes("5h"), event("cart_add", at="1h"))
    assert story.lines[-1] == "4h RESTED one"


def test_an_event_can_happen_before_the_story_begins() -> None:
    assert play(CART, event("cart_add", at="-1h")).lines[0] == "-1h ENTERED one"


def test_without_the_alarm_nothing_rings_until_it_is_back() -> None:
    story = play(CART, event("cart_add"), alarm(on=False), passes("5h"))
    assert story.lines == list(BEGUN)
    alarm(on=True)(story)
    assert story.lines == [*BEGUN, *REMINDED]


def test_an_event_with_an_id_counts_once() -> None:
    story = play(CART, event("cart_add", event_id="x"), event("purchase", at="1h", event_id="x"))
    assert story.lines == list(BEGUN)


def test_a_receipt_is_for_the_newest_activation_of_its_step() -> None:
    story = play(CART, event("cart_add"), passes("3h"), receipt("one/2"), event("purchase", at="4h"))
    assert story.withdrawn == []
    with pytest.raises(IndexError):
        receipt("one/2")(play(CART))


def test_publishing_pausing_and_ending_are_of_a_journey() -> None:
    two = CART + "\n---\n" + CART.replace("name: cart", "name: other")
    story = play(
        two, publish(CART.replace("3h", "1h")), event("cart_add"), pause(journey="other"), passes("1h")
    )
    assert [text for text in story.lines if "RESTED" in text] == ["cart 1h RESTED one"]
    for moment in (
        resume("other"),
        passes("3h"),
        end(journey="other"),
        event("purchase"),
        event("cart_add", at="5h"),
    ):
        moment(story)
    assert [text.split()[0] for text in story.lines if "5h ENTERED" in text] == ["cart"]
    assert story.journeys["cart"].newest.version == 2


def test_a_pause_has_a_mode() -> None:
    with pytest.raises(KeyError):
        pause("SLEEP")


@pytest.mark.parametrize("wrong", ["3 hours", "soon", "", "h"])
def test_what_is_no_duration(wrong: str) -> None:
    with pytest.raises(ValueError, match="is no duration; one is 3h"):
        passes(wrong)
    with pytest.raises(ValueError, match="is no duration; one is 3h"):
        event("cart_add", at=wrong)


def test_what_is_wrong_with_journeys_is_told_at_once() -> None:
    with pytest.raises(ValueError, match="is no field") as raised:
        read_journeys("nme: x\n---\n" + CART.replace("3h", "0s"))
    assert "more than 0 to 366d" in str(raised.value)
    with pytest.raises(ValueError, match="holds no journey"):
        read_journeys("segment: {name: vip, criteria: 'true'}")
    with pytest.raises(ValueError, match="holds 2 journeys"):
        read_journey(CART + "\n---\n" + CART.replace("name: cart", "name: other"))
    with pytest.raises(ValueError, match="does not have"):
        read_journeys(
            CART.replace("{activation: {channel: email}}", "{jump: {journey: other, stage: x}}")
            + "\n---\n"
            + CART.replace("name: cart", "name: other")
        )


# Lines


def test_lines() -> None:
    hour = 3_600_000_000

    def said(kind: Kind, step: str = "", **detail: object) -> str:
        transition = Transition(START_US + hour, "cart", 1, "", kind, "one", step, dict(detail), "")
        return line(transition, START_US)

    assert said(Kind.ENTERED) == "1h ENTERED one"
    assert said(Kind.WAIT_STARTED, "one/1", until="2026-01-01T03:00:00Z") == "1h WAIT_STARTED one/1 until 3h"
    assert said(Kind.WAIT_ENDED, "one/1", way="timed_out") == "1h WAIT_ENDED one/1 timed out"
    assert said(Kind.BRANCH_TAKEN, "one/1", branch="big") == "1h BRANCH_TAKEN one/1 big"
    assert said(Kind.JUMPED, "one/1", journey="a", stage="b") == "1h JUMPED one/1 to a/b"
    assert said(Kind.JUMPED, "one/1", journey="a", stage="") == "1h JUMPED one/1 to a"
    assert said(Kind.GOAL_ACHIEVED, journey="a", stage="") == "1h GOAL_ACHIEVED one to a"
    assert said(Kind.ACTIVATION_REQUESTED, "one/2", channel="connections/email", activation_id="x") == (
        "1h ACTIVATION_REQUESTED one/2 through email"
    )
    assert said(Kind.EXITED, exit="out", also_held=["milestone one"], late_seconds=90.0) == (
        "1h EXITED one by out late by 1m30s over milestone one"
    )
    assert said(Kind.ENTRY_REFUSED, reason="mode") == "1h ENTRY_REFUSED one because of mode"


def test_time_that_passes_is_data_too() -> None:
    assert passes("90m") == Passes(5_400_000_000)
