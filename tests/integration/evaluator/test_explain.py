"""Why somebody is where he is in a journey, or why he never entered: as the service tells it."""

from datetime import UTC

import grpc
import pytest
from house import event

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.runtime.clock import now_us, to_timestamp

JOURNEYS = """
name: explained
type: REAL_TIME
goal: {criteria: event.name == "purchase"}
reentry: {mode: NEVER}
stages:
  - name: cart
    entry: event.name == "checkout" && event.properties.total > 50
    milestone: event.name == "address" && event.properties.country == "JP"
    exit_criteria: [{name: idle, stale: 7d}]
    steps: [{wait: {duration: 20d}}]
  - name: till
---
name: explained-by-key
type: REAL_TIME
key: event.properties.cart_id
reentry: {mode: ALWAYS}
stages:
  - name: cart
    entry: event.name == "keyed_add"
    steps: [{wait: {duration: 20d}}]
"""
# The suite runs an hour in a second: what lies minutes back in these stories lies seconds back.
MINUTE_US = 1_000_000


@pytest.fixture(scope="session")
def published() -> set[str]:
    return set()


@pytest.fixture
async def journeys(cairn, published) -> None:
    if not published:
        await cairn.publish(JOURNEYS)
        published.add(str(cairn.revision))
    cairn.revision = int(next(iter(published)))


async def ask(door, profile_id: str, journey: str = "explained", **more) -> pb.ExplainResponse:
    request = pb.ExplainRequest(profile=f"profiles/{profile_id}", journey=f"journeys/{journey}", **more)
    return await door.stub.Explain(request, timeout=10)


def made(profile_id: str, name: str, number: int, ago_minutes: float, **properties) -> pb.Event:
    sent = event(profile_id, name, number, now_us() - round(ago_minutes * MINUTE_US))
    sent.ClearField("properties")
    sent.properties.update(properties)
    return sent


def clock(moment) -> str:
    return moment.ToDatetime(UTC).isoformat().replace("+00:00", "Z")


async def test_who_never_entered_hears_of_the_nearest_miss_with_its_values(
    journeys, door, profile_id
) -> None:
    far = made(profile_id, "checkout", 1, 30)
    near = made(profile_id, "checkout", 2, 20, total=40)
    await door.ingest(far, near)
    told = await ask(door, profile_id)
    assert not told.HasField("enrollment")
    moment = clock(near.occur_time)
    assert told.summary == (
        f"{profile_id} never entered explained; nearest miss: `event.properties.total` was 40, needed > 50, at {moment} "
        "(event checkout-2, `checkout`)."
    )
    assert [each.event_id for each in told.inputs] == ["checkout-2", "checkout-1"]
    (entry,) = told.inputs[0].rules
    assert [(part.text, part.verdict) for part in entry.criteria.children] == [
        ('event.name == "checkout"', pb.VERDICT_TRUE),
        ("event.properties.total > 50", pb.VERDICT_FALSE),
    ]
    total = entry.criteria.children[1]
    assert (total.saw, total.needed) == ("`event.properties.total` was 40", "> 50")
    assert told.inputs[1].rules[0].criteria.children[1].verdict == pb.VERDICT_FAILED


async def test_of_somebody_never_heard_of_it_is_told_what_never_came(journeys, door, profile_id) -> None:
    told = await ask(door, profile_id)
    assert told.summary == f"{profile_id} never entered explained; entry: no `checkout` that meets it."


async def test_who_is_inside_hears_since_when_until_when_because_of_what(journeys, door, profile_id) -> None:
    entering = made(profile_id, "checkout", 7, 10, total=60)
    await door.ingest(entering, made(profile_id, "address", 8, 5, country="FR"))
    told = await ask(door, profile_id)
    since = clock(entering.occur_time)
    assert told.summary.startswith(f"{profile_id} is in `cart`, waiting in `cart/1` until ")
    assert told.summary.endswith(
        f" since {since} because of event checkout-7; goal not met: no `purchase` since {since} that meets it."
    )
    assert [each.rule for each in told.rules] == ["goal", "exit idle", "milestone cart", "step cart/1"]
    assert [each.holds for each in told.rules] == [False] * 4
    assert told.enrollment.state == pb.ENROLLMENT_STATE_WAITING
    assert [pb.TransitionKind.Name(each.kind) for each in told.because] == [
        "TRANSITION_KIND_WAIT_STARTED",
        "TRANSITION_KIND_STAGE_ENTERED",
        "TRANSITION_KIND_ENTERED",
    ]
    (miss,) = told.inputs
    assert miss.event_id == "address-8"
    assert '`event.properties.country` was "FR", needed == "JP"' in miss.sentence


async def test_the_past_is_told_from_the_timeline(journeys, door, profile_id) -> None:
    await door.ingest(made(profile_id, "checkout", 1, 60, total=60), made(profile_id, "purchase", 2, 20))
    before = await ask(door, profile_id, at=to_timestamp(now_us() - 90 * MINUTE_US))
    assert "had not entered explained" in before.summary
    inside = await ask(door, profile_id, at=to_timestamp(now_us() - 40 * MINUTE_US))
    assert "was in `cart`, waiting in `cart/1` until" in inside.summary
    assert "because of event checkout-1" in inside.summary
    after = await ask(door, profile_id)
    assert f"{profile_id} is no longer in explained: goal achieved at" in after.summary
    await door.ingest(made(profile_id, "checkout", 3, 1, total=70))
    refused = await ask(door, profile_id)
    assert "event checkout-3" in refused.summary
    assert "its rules of re-entry let nobody begin again" in refused.summary


async def test_one_key_is_told_apart_from_another(journeys, door, profile_id) -> None:
    await door.ingest(
        made(profile_id, "keyed_add", 1, 30, cart_id="a"), made(profile_id, "keyed_add", 2, 20, cart_id=7)
    )
    newest = await ask(door, profile_id, "explained-by-key")
    assert (newest.enrollment.key, newest.because[0].cause) == ("7", "event keyed_add-2")
    other = await ask(door, profile_id, "explained-by-key", key="a")
    assert (other.enrollment.key, other.because[0].cause) == ("a", "event keyed_add-1")


async def test_few_and_small_inputs_are_kept(journeys, door, profile_id) -> None:
    events = [made(profile_id, "checkout", number, 30 - number, total=number) for number in range(9)]
    await door.ingest(*events, made(profile_id, "checkout", 10, 1, total=1, text="x" * 2000))
    told = await ask(door, profile_id)
    assert sorted(each.event_id for each in told.inputs) == ["checkout-10", "checkout-7", "checkout-8"]


async def test_a_journey_that_is_not_served_and_a_bad_name_are_told(journeys, door, profile_id) -> None:
    missing = await door.refusal(ask(door, profile_id, "nowhere"))
    assert (missing.code, missing.resource) == (grpc.StatusCode.NOT_FOUND, "journeys/nowhere")
    wrong = await door.refusal(ask(door, profile_id, "No Journey"))
    assert wrong.code is grpc.StatusCode.INVALID_ARGUMENT
    assert wrong.violations[0].field == "journey"
