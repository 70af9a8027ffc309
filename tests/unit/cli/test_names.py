"""How things are called: ids become resource names, enum values lose their prefix."""

import pytest

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1.journey_pb2 import AudienceAction
from cairn.cli.names import resource, short, value, versioned, word, words


@pytest.mark.parametrize(
    ("kind", "name", "full"),
    [
        ("connections", "email", "connections/email"),
        ("connections", "connections/email", "connections/email"),
        ("deliveries", "a/b.2", "deliveries/a/b.2"),
        ("journeys", "", ""),
    ],
)
def test_an_id_and_a_resource_name_mean_the_same(kind: str, name: str, full: str) -> None:
    assert resource(kind, name) == full


@pytest.mark.parametrize(
    ("name", "version", "full"),
    [
        ("welcome", None, "templates/welcome"),
        ("welcome", 2, "templates/welcome/versions/2"),
        ("welcome/2", None, "templates/welcome/versions/2"),
        ("templates/welcome/versions/2", None, "templates/welcome/versions/2"),
        ("", None, ""),
    ],
)
def test_a_version_of_a_template_can_be_named(name: str, version: int | None, full: str) -> None:
    assert versioned(name, version) == full


def test_the_values_of_an_enum_are_said_without_its_prefix() -> None:
    assert words(AudienceAction) == ["ADD", "REMOVE"]
    assert words(pb.SuppressionReason) == ["HARD_BOUNCE", "COMPLAINT", "UNSUBSCRIBE", "MANUAL"]
    for enum in (pb.DeliveryState, pb.FeedbackKind, pb.SuppressionReason, AudienceAction):
        for name in words(enum):
            assert word(enum, value(enum, name.lower())) == name


def test_what_says_nothing_is_empty_and_what_is_not_known_yet_stays_a_number() -> None:
    assert word(pb.DeliveryState, 0) == ""
    assert word(pb.DeliveryState, 99) == "99"
    assert short("") == ""
    assert short("journeys/a/versions/3") == "a/3"
