"""What a segment is, and what it may name, without any I/O."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.api.definition.v1.journey_pb2 import Segment
from cairn.journey.difference import Difference, DifferenceKind
from cairn.journey.segments import (
    MAX_SEGMENTS,
    SegmentDraft,
    diff_segments,
    named_through,
    naming_violations,
    ring_through,
    segment_draft_of,
    segment_violations,
)


def draft(name: str, criteria: str = "profile.spent > 1000.0", description: str = "") -> SegmentDraft:
    return segment_draft_of(Segment(name=name, criteria=criteria, description=description))


def test_the_canonical_form_has_the_full_name_and_nothing_that_only_we_write() -> None:
    given_one = Segment(name="vip", criteria="profile.a", etag="mine")
    given_one.update_time.seconds = 7
    unknown = Segment.FromString(given_one.SerializeToString() + b"\xa8\x3e\x01")  # field 1000
    found = segment_draft_of(unknown)
    assert found.segment == Segment(name="segments/vip", criteria="profile.a")
    assert (found.segment_id, found.etag) == ("vip", draft("segments/vip", "profile.a").etag)
    assert found.etag != draft("vip", "profile.b").etag
    assert segment_draft_of(found.segment) == found


def test_the_segments_that_a_criteria_names_are_known() -> None:
    found = draft("top", 'in_segment("vip") && !in_segment("asleep") || in_segment("vip")')
    assert found.names == ("asleep", "vip")


def test_all_that_is_wrong_is_told_at_once() -> None:
    found = segment_violations(draft("VIP", 'event.name == "x" && profile.', "x" * 1001))
    assert [one.path for one in found] == ["name", "criteria", "description"]
    assert found[1].message.startswith("line 1, column ")
    assert "1,000" in found[2].message


@pytest.mark.parametrize("name", ["", "segments/", "journeys/vip", "segments/a/b", "-a", "a\0"])
def test_a_name_is_an_id_or_a_name_of_a_segment(name: str) -> None:
    assert "name" in [one.path for one in segment_violations(draft(name))]


@pytest.mark.parametrize("criteria", ['event.name == "x"', "entry.properties.a == 1.0", "1 + 1"])
def test_a_segment_is_a_condition_on_the_profile(criteria: str) -> None:
    assert [one.path for one in segment_violations(draft("vip", criteria))] == ["criteria"]


def test_a_segment_may_ask_behavior() -> None:
    assert segment_violations(draft("vip", 'count("purchase", duration("720h")) >= 3')) == []


def test_what_is_named_has_to_exist() -> None:
    found = naming_violations(draft("a", 'in_segment("b") && in_segment("c")'), {"b": ()})
    assert [(one.path, "'c'" in one.message) for one in found] == [("criteria", True)]


@pytest.mark.parametrize(
    ("others", "way"),
    [({}, "a > a"), ({"b": ("a",)}, "a > b > a"), ({"b": ("c",), "c": ("d", "a"), "d": ()}, "a > b > c > a")],
)
def test_a_ring_is_refused_with_its_way(others: dict[str, tuple[str, ...]], way: str) -> None:
    (found,) = naming_violations(draft("a", f'in_segment("{way.split(" > ")[1]}")'), others)
    assert way in found.message


def test_what_was_a_ring_before_this_change_is_none() -> None:
    assert naming_violations(draft("a", 'in_segment("b")'), {"a": ("b",), "b": ()}) == []


def test_how_many_are_used_is_bounded() -> None:
    others = {f"s{number}": (f"s{number + 1}",) for number in range(MAX_SEGMENTS - 1)}
    last = f"s{MAX_SEGMENTS - 1}"
    assert naming_violations(draft("a", 'in_segment("s0")'), {**others, last: ()}) == []
    (found,) = naming_violations(draft("a", 'in_segment("s0")'), {**others, last: ("z",), "z": ()})
    assert "65" in found.message


graphs = st.dictionaries(st.sampled_from("abcdef"), st.sets(st.sampled_from("abcdefg"), max_size=3))


@given(graphs)
def test_a_ring_is_a_way_back_and_found_whenever_there_is_one(graph: dict[str, set[str]]) -> None:
    for name in graph:
        ring = ring_through(name, graph)
        assert bool(ring) == (name in named_through(graph[name], graph))
        if ring:
            assert ring[0] == ring[-1] == name
            assert all(after in graph[before] for before, after in pairwise(ring))


def test_differences_of_segments() -> None:
    before = [
        draft("a", "profile.a").segment,
        draft("b", "profile.b").segment,
        draft("c", "profile.c").segment,
    ]
    after = [
        draft("b", "profile.b", "now in words").segment,
        draft("c", "profile.d").segment,
        draft("d", "profile.e").segment,
    ]
    assert diff_segments(before, after) == [
        Difference(DifferenceKind.REMOVED, "segment a", before="profile.a"),
        Difference(DifferenceKind.CHANGED, "segment b", "description", "", "now in words"),
        Difference(DifferenceKind.CHANGED, "segment c", "criteria", "profile.c", "profile.d"),
        Difference(DifferenceKind.ADDED, "segment d", after="profile.e"),
    ]
