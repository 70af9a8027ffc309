"""What a draft is, without any I/O."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.api.definition.v1.journey_pb2 import Journey
from cairn.definition.drafts import (
    MAX_DRAFT_BYTES,
    OUTPUT_ONLY,
    destinations_of,
    draft_of,
    draft_violations,
    mask_violations,
    merge,
)
from cairn.runtime.errors import FieldViolation

names = st.sampled_from(["", "x", "email", "connections/email", "templates/x", "journeys/x", "a/b"])
texts = st.sampled_from(["", "one", "two"])


@st.composite
def journeys(draw: st.DrawFn) -> Journey:
    journey = Journey(name=draw(names), latest_version=draw(st.integers(0, 3)), etag=draw(texts))
    journey.pause.mode = draw(st.sampled_from([0, 1]))
    if draw(st.booleans()):
        journey.goal.criteria = draw(texts)
    if draw(st.booleans()):
        journey.skip_stages = draw(st.booleans())
    journey.purpose.description = draw(texts)
    for _ in range(draw(st.integers(0, 3))):
        stage = journey.stages.add(name=draw(texts))
        for _ in range(draw(st.integers(0, 2))):
            activation = stage.steps.add().activation
            activation.channel, activation.template = draw(names), draw(names)
    return journey


@given(journeys())
def test_the_canonical_form_is_its_own_canonical_form(journey: Journey) -> None:
    once = draft_of(journey)
    again = draft_of(once.journey)
    assert (again.document, again.etag) == (once.document, once.etag)
    assert draft_of(Journey.FromString(once.document)) == once


@given(journeys())
def test_what_only_we_write_is_never_taken_from_a_caller(journey: Journey) -> None:
    plain = Journey()
    plain.CopyFrom(journey)
    for field in OUTPUT_ONLY:
        plain.ClearField(field)
    assert draft_of(plain).etag == draft_of(journey).etag


@given(journeys(), journeys())
def test_equal_content_and_equal_etags_are_the_same(one: Journey, other: Journey) -> None:
    a, b = draft_of(one), draft_of(other)
    assert (a.journey == b.journey) == (a.etag == b.etag) == (a.document == b.document)


def test_a_field_that_we_do_not_know_is_no_part_of_a_draft() -> None:
    unknown = Journey(name="x").SerializeToString() + b"\xa8\x3e\x01"  # field 1000
    assert draft_of(Journey.FromString(unknown)) == draft_of(Journey(name="x"))


@pytest.mark.parametrize(
    ("given_name", "stored"),
    [("x", "journeys/x"), ("journeys/x", "journeys/x"), ("", ""), ("templates/x", "templates/x")],
)
def test_names_are_completed_and_otherwise_left_alone(given_name: str, stored: str) -> None:
    assert draft_of(Journey(name=given_name)).journey.name == stored


@given(
    journeys(),
    journeys(),
    st.sets(st.sampled_from(["goal", "stages", "purpose", "skip_stages", "name", "etag"])),
)
def test_a_merge_takes_the_fields_of_the_mask_and_no_other(
    stored: Journey, change: Journey, paths: set[str]
) -> None:
    if not paths:
        assert merge(stored, change, []) == change
        return
    merged = merge(stored, change, sorted(paths))
    for field in Journey.DESCRIPTOR.fields_by_name:
        source = change if field in paths and field != "name" else stored
        assert getattr(merged, field) == getattr(source, field), field
    for field in ("goal", "skip_stages"):
        assert merged.HasField(field) == (change if field in paths else stored).HasField(field)


@pytest.mark.parametrize(
    ("paths", "refused"),
    [
        ([], []),
        (["goal", "etag", "name"], []),
        (["goal.criteria"], ["update_mask.paths[0]"]),
        (["goal", "", "*"], ["update_mask.paths[1]", "update_mask.paths[2]"]),
    ],
)
def test_a_mask_names_top_level_fields(paths: list[str], refused: list[str]) -> None:
    assert [one.field for one in mask_violations(paths)] == refused


def test_a_draft_is_bounded_as_a_whole() -> None:
    journey = Journey(name="x")
    for number in range(MAX_DRAFT_BYTES // 1000 + 1):
        journey.exit_criteria.add(name=f"e{number}", criteria="x" * 1000)
    found = [one for one in draft_violations(draft_of(journey)) if not one.field]
    assert len(found) == 1
    assert f"{MAX_DRAFT_BYTES:,}" in found[0].description


def test_a_pause_is_no_part_of_a_draft() -> None:
    paused = Journey(name="x", pause={"mode": "PAUSE_MODE_RUN"})
    assert draft_of(paused) == draft_of(Journey(name="x"))


def nested() -> Journey:
    """An activation and a jump below every kind of way, and a goal with a target."""
    journey = Journey(name="x", goal={"criteria": "true", "target": {"journey": "y"}})
    stage = journey.stages.add(name="s")
    wait, decision, experiment = (
        stage.steps.add().wait,
        stage.steps.add().decision,
        stage.steps.add().experiment,
    )
    ways = (
        wait.met,
        wait.timed_out,
        decision.branches.add(name="a").steps,
        decision.otherwise,
        experiment.variants.add(name="b").steps,
    )
    for way in ways:
        way.add(activation={"channel": "email", "template": "t"})
        way.add(jump={"journey": "y"})
    return journey


def test_names_in_every_way_and_of_every_target_are_completed() -> None:
    saved = draft_of(nested()).journey
    assert saved.goal.target.journey == "journeys/y"
    text = str(saved)
    assert text.count('channel: "connections/email"') == text.count('template: "templates/t"') == 5
    assert text.count('journey: "journeys/y"') == 6


def test_destinations_in_every_way_are_named_with_their_paths() -> None:
    found = [one.path.removeprefix("stages[0].steps") for one in destinations_of(draft_of(nested()))]
    assert found == [
        "[0].wait.met[0].activation",
        "[0].wait.timed_out[0].activation",
        "[1].decision.branches[0].steps[0].activation",
        "[1].decision.otherwise[0].activation",
        "[2].experiment.variants[0].steps[0].activation",
    ]


def test_destinations_are_named_with_the_path_of_their_activation() -> None:
    journey = Journey(name="x")
    journey.stages.add().steps.add().wait.duration.FromSeconds(1)
    stage = journey.stages.add()
    for template in ("a", "b"):
        activation = stage.steps.add().activation
        activation.channel, activation.template = "email", template
    draft = draft_of(journey)
    found = destinations_of(draft)
    assert [(one.path, one.destination.template) for one in found] == [
        ("stages[1].steps[0].activation", "templates/a"),
        ("stages[1].steps[1].activation", "templates/b"),
    ]
    known = [FieldViolation("stages[1].steps[1].activation.channel", "is missing")]
    assert [one.path for one in destinations_of(draft, known)] == ["stages[1].steps[0].activation"]
