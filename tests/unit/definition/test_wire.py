"""Names, pages and tokens, without any I/O."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cairn.api.definition.v1.definition_pb2 import DESCRIPTOR, PublishItem
from cairn.definition import wire, wire_segments
from cairn.definition.api import FULL_NAME, ROLES
from cairn.runtime.errors import CairnError


@pytest.mark.parametrize("name", ["a", "abandoned-cart", "journeys/abandoned-cart", "journeys/x1", "x" * 63])
def test_a_journey_is_named_in_full_or_by_its_id(name: str) -> None:
    assert wire.parse_journey_name("name", name) == name.removeprefix("journeys/")


@pytest.mark.parametrize(
    "name",
    ["", "journeys/", "journeys//x", "A", "1a", "a-", "a_b", "a\n", "x" * 64, "journeys/a/versions/1", "a\0"],
)
def test_a_malformed_name_is_refused_by_its_field(name: str) -> None:
    with pytest.raises(CairnError) as caught:
        wire.parse_journey_name("parent", name)
    assert [one.field for one in caught.value.violations] == ["parent"]


@pytest.mark.parametrize(
    ("name", "parsed"),
    [
        ("journeys/a/versions/1", ("a", 1)),
        ("journeys/a-b/versions/999999999", ("a-b", 999_999_999)),
        ("a/versions/1", None),
        ("journeys/a/versions/0", None),
        ("journeys/a/versions/01", None),
        ("journeys/a/versions/9999999999", None),
        ("journeys/a", None),
    ],
)
def test_a_version_is_named_in_full(name: str, parsed: tuple[str, int] | None) -> None:
    if parsed:
        assert wire.parse_version_name("name", name) == parsed
    else:
        with pytest.raises(CairnError):
            wire.parse_version_name("name", name)


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True), st.integers(1, wire.MAX_VERSION))
def test_a_token_gives_back_where_the_page_ended(journey_id: str, version: int) -> None:
    assert wire.parse_journey_key(wire.parse_page(0, wire.page_token(journey_id))[1]) == journey_id
    assert wire.parse_version_key(wire.parse_page(0, wire.page_token(str(version)))[1]) == version


@given(st.text(max_size=30))
def test_any_other_token_is_refused_by_its_field_or_is_a_key(token: str) -> None:
    for parse_key in (wire.parse_journey_key, wire.parse_version_key):
        try:
            parse_key(wire.parse_page(1, token)[1])
        except CairnError as error:
            fields = [one.field for one in error.violations]
        else:
            fields = ["page_token"]
        assert fields == ["page_token"]


@pytest.mark.parametrize(("asked", "given_size"), [(0, 100), (1, 1), (1000, 1000)])
def test_page_sizes(asked: int, given_size: int) -> None:
    assert wire.parse_page(asked, "") == (given_size, "")


def test_all_that_is_wrong_with_a_set_is_told_at_once() -> None:
    items = [PublishItem(name=name) for name in ("a", "B", "journeys/a", "")]
    with pytest.raises(CairnError) as caught:
        wire.parse_items(items)
    assert [one.field for one in caught.value.violations] == [
        "items[1].name",
        "items[2].name",
        "items[3].name",
    ]


@pytest.mark.parametrize("count", [0, 101])
def test_a_set_has_1_to_100_journeys(count: int) -> None:
    with pytest.raises(CairnError) as caught:
        wire.parse_items([PublishItem(name=f"j{number}") for number in range(count)])
    assert [one.field for one in caught.value.violations] == ["items"]


@pytest.mark.parametrize(
    ("mode", "meant"), [(0, "FREEZE"), (1, "FREEZE"), (2, "RUN"), (3, "DROP"), (4, None)]
)
def test_a_pause_has_a_mode_and_freezes_by_default(mode: int, meant: str | None) -> None:
    if meant:
        assert wire.parse_pause_mode(mode) == meant
    else:
        with pytest.raises(CairnError) as caught:
            wire.parse_pause_mode(mode)
        assert [one.field for one in caught.value.violations] == ["mode"]


@pytest.mark.parametrize(
    ("versions", "field"), [((1, 0), ""), ((2, 1), ""), ((0, 1), "from_version"), ((1, -1), "to_version")]
)
def test_versions_to_compare_count_from_1_and_the_draft_is_0(versions: tuple[int, int], field: str) -> None:
    if field:
        with pytest.raises(CairnError) as caught:
            wire.parse_compared(*versions)
        assert [one.field for one in caught.value.violations] == [field]
    else:
        assert wire.parse_compared(*versions) == versions


@pytest.mark.parametrize("name", ["vip", "segments/vip"])
def test_a_segment_is_named_in_full_or_by_its_id(name: str) -> None:
    assert wire_segments.parse_segment_name("name", name) == "vip"


@pytest.mark.parametrize("name", ["", "segments/", "journeys/vip", "VIP", "vip\n", "segments/a/b"])
def test_a_malformed_name_of_a_segment_is_refused(name: str) -> None:
    with pytest.raises(CairnError) as caught:
        wire_segments.parse_segment_name("name", name)
    assert [one.field for one in caught.value.violations] == ["name"]


def test_a_token_of_another_list_is_no_page_of_segments() -> None:
    assert wire_segments.parse_segment_page(0, wire.page_token("vip")) == (100, "vip")
    with pytest.raises(CairnError):
        wire_segments.parse_segment_page(0, wire.page_token("journeys/1"))


def test_every_method_says_who_may_call_it() -> None:
    service = DESCRIPTOR.services_by_name["DefinitionService"]
    assert service.full_name == FULL_NAME
    assert set(ROLES) == {method.name for method in service.methods}
