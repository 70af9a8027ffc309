"""What changed between versions, and the draft."""

import pytest

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason


async def diff(replica, name: str, before: int, after: int = 0) -> list[tuple[str, str, str, str, str]]:
    request = pb.DiffJourneyVersionsRequest(name=name, from_version=before, to_version=after)
    answer = await replica.stub.DiffJourneyVersions(request)
    return [
        (pb.DifferenceKind.Name(one.kind).rpartition("_")[2], one.element, one.field, one.before, one.after)
        for one in answer.differences
    ]


async def test_two_versions_and_the_draft_are_compared(definition) -> None:
    await definition.create(definition.welcome())
    await definition.publish("welcome")
    assert await diff(definition, "journeys/welcome", 1) == []
    await definition.update(definition.welcome(wait_s=7200))
    told = [("CHANGED", "step signed-up/1", "wait.duration", "1h", "2h")]
    assert await diff(definition, "welcome", 1) == told
    await definition.publish("welcome")
    assert await diff(definition, "welcome", 1, 2) == told
    assert await diff(definition, "welcome", 2) == []
    assert await diff(definition, "welcome", 2, 1) == [
        ("CHANGED", "step signed-up/1", "wait.duration", "2h", "1h")
    ]
    await definition.update(definition.welcome(template="tips"))
    assert await diff(definition, "welcome", 2) == [
        ("CHANGED", "step signed-up/1", "wait.duration", "2h", "1h"),
        ("CHANGED", "step signed-up/2", "activation.template", "welcome", "tips"),
    ]


async def test_segments_of_versions_are_compared_and_those_of_the_draft_as_they_are_now(definition) -> None:
    for name in ("base", "vip", "more"):
        await definition.put_segment(name, "profile.a")
    await definition.put_segment("vip", 'in_segment("base")')
    journey = definition.welcome()
    journey.stages[0].entry = 'in_segment("vip")'
    await definition.create(journey)
    await definition.publish("welcome")
    await definition.put_segment("base", "profile.b")
    assert await diff(definition, "welcome", 1) == [
        ("CHANGED", "segment base", "criteria", "profile.a", "profile.b")
    ]
    journey.stages[0].entry = 'in_segment("more")'
    await definition.update(journey)
    await definition.publish("welcome")
    assert await diff(definition, "welcome", 1, 2) == [
        ("CHANGED", "stage signed-up", "entry", 'in_segment("vip")', 'in_segment("more")'),
        ("REMOVED", "segment base", "", "profile.a", ""),
        ("ADDED", "segment more", "", "", "profile.a"),
        ("REMOVED", "segment vip", "", 'in_segment("base")', ""),
    ]


async def test_what_is_not_there_is_named(definition) -> None:
    await definition.create(definition.welcome())
    await definition.publish("welcome")
    for name, before, after, resource in (
        ("none", 1, 0, "journeys/none/versions/1"),
        ("welcome", 2, 0, "journeys/welcome/versions/2"),
        ("welcome", 1, 2, "journeys/welcome/versions/2"),
    ):
        error = await definition.refusal(diff(definition, name, before, after))
        assert (error.reason, error.resource) == (ErrorReason.ERROR_REASON_NOT_FOUND, resource)


@pytest.mark.parametrize(
    ("name", "before", "after", "field"),
    [
        ("A", 1, 0, "name"),
        ("a", 0, 0, "from_version"),
        ("a", -1, 0, "from_version"),
        ("a", 1, -1, "to_version"),
    ],
)
async def test_a_malformed_request_is_refused(
    definition, name: str, before: int, after: int, field: str
) -> None:
    error = await definition.refusal(diff(definition, name, before, after))
    assert [one.field for one in error.violations] == [field]
