"""A key tells enrollments of one profile apart, and the rules of re-entry hold for each."""

import pytest

from cairn.journey.dispatch import key_of
from cairn.journey.limits import MAX_KEY_BYTES
from cairn.journey.state import Kind
from cairn.testing.journeys import Case, Story, event, passes, play, profile, publish

CARTS = """
name: carts
type: REAL_TIME
key: event.properties.cart
goal: {criteria: event.name == "purchase"}
reentry: {REENTRY}
exit_criteria: [{name: left, criteria: event.name == "leave" || profile.left}]
stages:
  - name: only
    entry: event.name == "add"
    steps: [{wait: {duration: 3h}}, {activation: {channel: email}}]
"""
ALWAYS = CARTS.replace("REENTRY", "mode: ALWAYS")


def open_keys(story: Story) -> list[str]:
    return [
        standing_id.partition("/")[2]
        for standing_id, standing in sorted(story.standings.items())
        if standing.enrollment is not None and standing.enrollment.is_open
    ]


def begun(at: str, until: str) -> tuple[str, ...]:
    return (f"{at} ENTERED only", f"{at} STAGE_ENTERED only", f"{at} WAIT_STARTED only/1 until {until}")


def achieved(at: str) -> tuple[str, ...]:
    return (f"{at} WAIT_CANCELED only/1", f"{at} GOAL_ACHIEVED only")


CASES = (
    Case(
        "one open enrollment for each value",
        ALWAYS,
        (event("add", cart="a"), event("add", at="1h", cart="b"), event("add", at="2h", cart="a")),
        (*begun("0s", "3h"), *begun("1h", "4h")),
    ),
    Case(
        "an event with the property reaches that value's enrollment only",
        ALWAYS,
        (
            event("add", cart="a"),
            event("add", at="1h", cart="b"),
            event("purchase", at="2h", cart="b"),
            passes("1h"),
        ),
        (
            *begun("0s", "3h"),
            *begun("1h", "4h"),
            *achieved("2h"),
            "3h WAIT_ENDED only/1",
            "3h ACTIVATION_REQUESTED only/2 through email",
            "3h RESTED only",
        ),
    ),
    Case(
        "an event without the property reaches all",
        ALWAYS,
        (event("add", cart="a"), event("add", at="1h", cart="b"), event("purchase", at="2h")),
        (*begun("0s", "3h"), *begun("1h", "4h"), *achieved("2h"), *achieved("2h")),
    ),
    Case(
        "a property that is no text, number or boolean is none",
        ALWAYS,
        (event("add", cart="a"), event("purchase", at="1h", cart=["a"])),
        (*begun("0s", "3h"), *achieved("1h")),
    ),
    Case(
        "an entry event without the key begins nothing", ALWAYS, (event("add"), event("add", cart=None)), ()
    ),
    Case(
        "a change of the profile reaches all",
        ALWAYS,
        (event("add", cart="a"), event("add", cart="b"), profile(at="1h", left=True)),
        (
            *begun("0s", "3h"),
            *begun("0s", "3h"),
            "1h WAIT_CANCELED only/1",
            "1h EXITED only by left",
            "1h WAIT_CANCELED only/1",
            "1h EXITED only by left",
        ),
    ),
    Case(
        "a change of the profile has no key, and begins nothing",
        ALWAYS.replace('event.name == "add"', "profile.full"),
        (profile(full=True),),
        (),
    ),
    # Re-entry by key
    Case(
        "a mode holds for each value",
        CARTS.replace("REENTRY", "mode: NEVER"),
        (
            event("add", cart="a"),
            event("purchase", at="1h", cart="a"),
            event("add", at="2h", cart="a"),
            event("add", at="3h", cart="b"),
        ),
        (*begun("0s", "3h"), *achieved("1h"), "2h ENTRY_REFUSED only because of mode", *begun("3h", "6h")),
    ),
    Case(
        "a goal that was achieved holds for its value",
        CARTS.replace("REENTRY", ""),
        (
            event("add", cart="a"),
            event("purchase", at="1h", cart="a"),
            event("add", at="2h", cart="b"),
            event("add", at="3h", cart="a"),
        ),
        (*begun("0s", "3h"), *achieved("1h"), *begun("2h", "5h"), "3h ENTRY_REFUSED only because of mode"),
    ),
    Case(
        "a cooldown holds for each value",
        CARTS.replace("REENTRY", "mode: ALWAYS, cooldown: 1d"),
        (
            event("add", cart="a"),
            event("purchase", at="1h", cart="a"),
            event("add", at="2h", cart="a"),
            event("add", at="3h", cart="b"),
        ),
        (
            *begun("0s", "3h"),
            *achieved("1h"),
            "2h ENTRY_REFUSED only because of cooldown",
            *begun("3h", "6h"),
        ),
    ),
    Case(
        "a maximum holds for each value",
        CARTS.replace("REENTRY", "mode: ALWAYS, max_entries: 1"),
        (
            event("add", cart="a"),
            event("purchase", at="1h", cart="a"),
            event("add", at="30d", cart="a"),
            event("add", at="30d", cart="b"),
        ),
        (
            *begun("0s", "3h"),
            *achieved("1h"),
            "30d ENTRY_REFUSED only because of maximum",
            *begun("30d", "30d3h"),
        ),
    ),
    Case(
        "a goal is remembered for its value: what it overtook is refused, another value is not",
        ALWAYS,
        (
            event("purchase", at="1h", cart="a"),
            event("add", at="30m", cart="a"),
            event("add", at="30m", cart="b"),
        ),
        ("30m ENTRY_REFUSED only because of goal", *begun("30m", "3h30m")),
    ),
    Case(
        "a goal without the key is remembered for every value",
        ALWAYS,
        (event("purchase", at="1h"), event("add", at="30m", cart="a"), event("add", at="2h", cart="b")),
        ("30m ENTRY_REFUSED only because of goal", *begun("2h", "5h")),
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_key(case: Case) -> None:
    case.check()


def test_each_value_has_an_enrollment_of_its_own() -> None:
    story = play(ALWAYS, event("add", cart="a"), event("add", at="1h", cart="b"), passes("3h"))
    assert open_keys(story) == ["a", "b"]
    first, second = story.requested
    assert first.enrollment_id != second.enrollment_id
    assert first.entry is not None
    assert second.entry is not None
    assert (first.entry["properties"], second.entry["properties"]) == ({"cart": "a"}, {"cart": "b"})


def test_events_of_two_values_do_not_touch_each_other() -> None:
    story = play(ALWAYS, event("add", cart="a"), event("add", cart="b"))
    before = story.standings["carts/b"]
    event("purchase", at="1h", cart="a")(story)
    assert story.standings["carts/b"] == before
    assert open_keys(story) == ["b"]


@pytest.mark.parametrize(
    ("properties", "key"),
    [
        ({"cart": "a"}, "a"),
        ({"cart": "a/b"}, "a/b"),
        ({"cart": 7.0}, "7"),
        ({"cart": 7}, "7"),
        ({"cart": 0.5}, "0.5"),
        ({"cart": -0.0}, "0"),
        ({"cart": True}, "true"),
        ({"cart": False}, "false"),
        ({"cart": ""}, None),
        ({"cart": None}, None),
        ({"cart": {"id": "a"}}, None),
        ({}, None),
    ],
)
def test_values_as_text(properties: dict[str, object], key: str | None) -> None:
    assert key_of(("cart",), properties) == key


def test_a_key_may_lie_deeper() -> None:
    assert key_of(("cart", "id"), {"cart": {"id": "a"}}) == "a"
    assert key_of(("cart", "id"), {"cart": "a"}) is None
    text = ALWAYS.replace("properties.cart", "properties.cart.id")
    assert open_keys(play(text, event("add", cart={"id": "x"}))) == ["x"]


def test_a_long_value_is_known_by_its_hash() -> None:
    short, long, other = "k" * MAX_KEY_BYTES, "k" * (MAX_KEY_BYTES + 1), "k" * (MAX_KEY_BYTES + 2)
    assert key_of(("cart",), {"cart": short}) == short
    hashed = key_of(("cart",), {"cart": long})
    assert hashed is not None
    assert len(hashed) == 32
    assert hashed != key_of(("cart",), {"cart": other})


def test_numbers_and_texts_of_the_same_letters_are_one_value() -> None:
    assert open_keys(play(ALWAYS, event("add", cart=7), event("add", at="1h", cart="7"))) == ["7"]


def test_a_standing_that_nobody_needs_is_forgotten() -> None:
    """Else a profile would keep every cart that it ever had."""
    story = play(ALWAYS, *(event("add", at=f"{hour}h", cart=f"c{hour}") for hour in range(5)))
    assert len(story.standings) == 5
    passes("60d")(story)
    event("add", cart="late")(story)
    assert [each for each in story.standings if each != "carts"] == ["carts/late"]


def test_what_the_rules_of_reentry_will_ask_for_is_kept() -> None:
    text = CARTS.replace("REENTRY", "mode: NEVER")
    story = play(text, event("add", cart="a"), passes("60d"), event("add", cart="b"), event("add", cart="a"))
    assert story.lines[-1] == "60d ENTRY_REFUSED only because of mode"


def test_a_version_with_another_key_leaves_open_ones_to_theirs() -> None:
    other = ALWAYS.replace("properties.cart", "properties.order")
    story = play(
        ALWAYS, event("add", cart="a", order="1"), publish(other), event("add", at="1h", cart="b", order="2")
    )
    assert open_keys(story) == ["2", "a"]
    event("purchase", at="2h", cart="a", order="3")(story)
    assert open_keys(story) == ["2"]


def test_a_restart_by_key_touches_its_value_only() -> None:
    text = CARTS.replace("REENTRY", "mode: ALWAYS, while_active: RESTART")
    story = play(
        text, event("add", cart="a"), event("add", at="1h", cart="b"), event("add", at="2h", cart="a")
    )
    assert [each.kind for each in story.transitions].count(Kind.RESTARTED) == 1
    passes("2h")(story)
    assert story.lines[-1] == "4h RESTED only"
    ends = [standing.enrollment.wait_until_us for standing in story.standings.values() if standing.enrollment]
    assert sorted((end - story.start_us) // 3_600_000_000 for end in ends if end) == [5]
