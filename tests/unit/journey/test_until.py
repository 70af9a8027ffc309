"""An audience lets go: who was added with `until` is removed again when the enrollment ends, or when it ends by its goal."""

from collections.abc import Mapping
from typing import Any

import msgspec
import pytest
from google.protobuf.json_format import ParseDict

from cairn.api.definition.v1 import journey_pb2 as pb
from cairn.journey.diagram import to_mermaid
from cairn.journey.difference import diff_journeys
from cairn.journey.document import read_documents
from cairn.journey.model import Activation, AudienceAction, AudienceUntil
from cairn.journey.parse import parse_journey
from cairn.journey.state import (
    Enrollment,
    EnrollmentState,
    Kind,
    ReceiptInput,
    RequestActivation,
    WithdrawActivation,
)
from cairn.testing.journeys import (
    Case,
    Story,
    alarm,
    end,
    event,
    passes,
    pause,
    play,
    profile,
    read_journey,
    receipt,
    resume,
)

AUDIENCE = """
name: audience
type: REAL_TIME
goal: {criteria: event.name == "goal"}
reentry: {mode: ALWAYS, while_active: RESTART}
exit_criteria: [{name: out, criteria: event.name == "out"}, {name: cold, stale: 10d}]
stages:
  - name: one
    entry: event.name == "begin"
    milestone: event.name == "on"
    steps:
      - {name: seen, activation: {channel: ads, action: ADD, until: EXIT}}
      - {name: wanted, activation: {channel: more-ads, action: ADD, until: GOAL}}
      - {name: kept, activation: {channel: ads, action: ADD}}
      - {name: mail, activation: {channel: email, template: hello}}
      - wait: {duration: 3d}
  - name: two
    steps: [{wait: {duration: 2d}}, {jump: {journey: audience, stage: two}}]
"""
# All have their receipts, unless a case is about that.
RECEIVED = tuple(receipt(step) for step in ("seen", "wanted", "kept", "mail"))
BEGUN = (
    "0s ENTERED one",
    "0s STAGE_ENTERED one",
    "0s ACTIVATION_REQUESTED seen through ads",
    "0s ACTIVATION_REQUESTED wanted through more-ads",
    "0s ACTIVATION_REQUESTED kept through ads",
    "0s ACTIVATION_REQUESTED mail through email",
    "0s WAIT_STARTED one/5 until 3d",
)


def removed(at: str, *steps: str) -> tuple[str, ...]:
    channels = {"seen": "ads", "wanted": "more-ads"}
    return tuple(f"{at} ACTIVATION_REQUESTED {step} REMOVE through {channels[step]}" for step in steps)


FINISHES = """
name: finishes
type: REAL_TIME
reentry: {mode: ALWAYS}
stages:
  - name: one
    entry: event.name == "begin"
    steps: [{activation: {channel: ads, action: ADD, until: EXIT}}]
"""
JUMPS = """
name: from
type: REAL_TIME
stages:
  - name: one
    entry: event.name == "begin"
    steps:
      - {name: seen, activation: {channel: ads, action: ADD, until: EXIT}}
      - {name: wanted, activation: {channel: more-ads, action: ADD, until: GOAL}}
      - jump: {journey: into}
---
name: into
type: REAL_TIME
stages:
  - name: hello
    entry: event.name == "never"
    steps: [{wait: {duration: 1d}}]
"""

CASES = (
    Case(
        "the goal: both audiences let go, and who was added for good stays",
        AUDIENCE,
        (event("begin"), *RECEIVED, event("goal", at="1d")),
        (*BEGUN, "1d WAIT_CANCELED one/5", *removed("1d", "seen", "wanted"), "1d GOAL_ACHIEVED one"),
    ),
    Case(
        "an exit out of the journey: only where it says EXIT",
        AUDIENCE,
        (event("begin"), *RECEIVED, event("out", at="1d")),
        (*BEGUN, "1d WAIT_CANCELED one/5", *removed("1d", "seen"), "1d EXITED one by out"),
    ),
    Case(
        "staleness is an exit like any other",
        AUDIENCE,
        (event("begin"), passes("10d")),
        (
            *BEGUN,
            "3d WAIT_ENDED one/5",
            "3d RESTED one",
            *(f"10d ACTIVATION_WITHDRAWN {step}" for step in ("seen", "wanted", "kept", "mail")),
            *removed("10d", "seen"),
            "10d EXITED one by cold",
        ),
    ),
    Case(
        "a milestone moves on and ends nothing: the audience keeps whom it has, and lets go from the stage where it was asked",
        AUDIENCE,
        (event("begin"), *RECEIVED, event("on", at="1d"), event("out", at="2d")),
        (
            *BEGUN,
            "1d WAIT_CANCELED one/5",
            "1d STAGE_ENTERED two",
            "1d WAIT_STARTED two/1 until 3d",
            "2d WAIT_CANCELED two/1",
            *removed("2d", "seen"),
            "2d EXITED two by out",
        ),
    ),
    Case(
        "without a receipt: taken back, and removed as well, as taking back may come too late",
        AUDIENCE,
        (event("begin"), event("out", at="1d")),
        (
            *BEGUN,
            "1d WAIT_CANCELED one/5",
            *(f"1d ACTIVATION_WITHDRAWN {step}" for step in ("seen", "wanted", "kept", "mail")),
            *removed("1d", "seen"),
            "1d EXITED one by out",
        ),
    ),
    Case(
        "begun anew: the old enrollment's audience lets go before the new one's adds",
        AUDIENCE,
        (event("begin"), *RECEIVED, event("begin", at="1d")),
        (
            *BEGUN,
            "1d WAIT_CANCELED one/5",
            *removed("1d", "seen"),
            "1d RESTARTED one",
            "1d ENTERED one",
            "1d STAGE_ENTERED one",
            "1d ACTIVATION_REQUESTED seen through ads",
            "1d ACTIVATION_REQUESTED wanted through more-ads",
            "1d ACTIVATION_REQUESTED kept through ads",
            "1d ACTIVATION_REQUESTED mail through email",
            "1d WAIT_STARTED one/5 until 4d",
        ),
    ),
    Case(
        "completed at once: added and removed in one go, in this order",
        FINISHES,
        (event("begin"),),
        (
            "0s ENTERED one",
            "0s STAGE_ENTERED one",
            "0s ACTIVATION_REQUESTED one/1 through ads",
            "0s RESTED one",
            "0s ACTIVATION_REQUESTED one/1 REMOVE through ads",
            "0s COMPLETED one",
        ),
    ),
    Case(
        "a jump ends the enrollment: only where it says EXIT",
        JUMPS,
        (event("begin"),),
        (
            "from 0s ENTERED one",
            "from 0s STAGE_ENTERED one",
            "from 0s ACTIVATION_REQUESTED seen through ads",
            "from 0s ACTIVATION_REQUESTED wanted through more-ads",
            "from 0s ACTIVATION_REQUESTED seen REMOVE through ads",
            "from 0s JUMPED one/3 to into",
            "into 0s ENTERED hello",
            "into 0s STAGE_ENTERED hello",
            "into 0s WAIT_STARTED hello/1 until 1d",
        ),
    ),
    # Pauses and the end of a journey. A removal is no message: it does not wait for the resume, as a person who has left, or who
    # bought, must not be shown advertisements for as long as an operator thinks.
    Case(
        "DROP: the enrollment ends, and the audience lets go",
        AUDIENCE,
        (event("begin"), *RECEIVED, passes("1d"), pause("DROP")),
        (*BEGUN, "1d WAIT_CANCELED one/5", *removed("1d", "seen"), "1d REMOVED one"),
    ),
    Case(
        "FREEZE: the goal acts meanwhile, and so do the removals",
        AUDIENCE,
        (event("begin"), *RECEIVED, passes("1d"), pause(), event("goal", at="2d"), passes("1d"), resume()),
        (*BEGUN, "2d WAIT_CANCELED one/5", *removed("2d", "seen", "wanted"), "2d GOAL_ACHIEVED one"),
    ),
    Case(
        "the journey ends and removes who is in it",
        AUDIENCE,
        (event("begin"), *RECEIVED, passes("1d"), end(remove=True)),
        (*BEGUN, "1d WAIT_CANCELED one/5", *removed("1d", "seen"), "1d REMOVED one"),
    ),
    Case(
        "the journey ends and drains: nobody has left yet",
        AUDIENCE,
        (event("begin"), *RECEIVED, passes("1d"), end(), passes("1d")),
        BEGUN,
    ),
)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.words)
def test_case(case: Case) -> None:
    case.check()


def removals(story: Story) -> list[RequestActivation]:
    return [each for each in story.requested if each.activation_id.endswith(".remove")]


def test_a_removal_is_an_activation_like_any_other() -> None:
    """It carries what the message needs as it is at the end, so that the audience finds whom it added."""
    story = play(
        AUDIENCE,
        event("begin", size=1),
        *RECEIVED,
        profile(at="1h", email="ann@example.test", time_zone="Asia/Tokyo"),
        event("on", at="1d", size=2),
        event("out", at="2d", size=3),
    )
    (request,) = removals(story)
    (added,) = (each for each in story.requested if each.step_id == "seen" and each is not request)
    assert request.activation_id == f"{added.activation_id}.remove"
    assert (request.channel, request.template, request.action) == (
        "connections/ads",
        "",
        AudienceAction.REMOVE,
    )
    assert (request.stage, request.step_id, request.version) == ("one", "seen", 1)
    assert request.enrollment_id == added.enrollment_id
    assert request.attributes == {"email": "ann@example.test"}
    assert request.time_zone == "Asia/Tokyo"
    assert (request.entry or {})["properties"] == {"size": 1.0}
    assert (request.latest or {})["properties"] == {"size": 3.0}
    assert request.request_us == story.start_us + 2 * 86_400_000_000


def test_effects_come_in_order_the_withdrawal_then_the_removal() -> None:
    story = play(AUDIENCE, event("begin"), event("out", at="1d"))
    effects = [each for each in story.effects if isinstance(each, RequestActivation | WithdrawActivation)]
    assert [(type(each), each.activation_id.partition(".")[2]) for each in effects[-5:]] == [
        (WithdrawActivation, "0"),
        (WithdrawActivation, "1"),
        (WithdrawActivation, "2"),
        (WithdrawActivation, "3"),
        (RequestActivation, "0.remove"),
    ]


def test_an_end_before_its_time_does_not_remove_before_it_added() -> None:
    """An exit that happened before the enrollment's last input is judged at the enrollment's time."""
    story = play(AUDIENCE, event("begin", at="5h"), *RECEIVED, alarm(on=False), event("out", at="1h"))
    (request,) = removals(story)
    assert request.request_us == story.start_us + 5 * 3_600_000_000


# What is kept, and the receipt of a removal


def enrollment_of(story: Story) -> Enrollment:
    enrollment = story.standing.enrollment
    assert enrollment is not None
    return enrollment


def test_only_those_that_have_to_let_go_are_remembered() -> None:
    assert enrollment_of(play(AUDIENCE, event("begin"))).added == (0, 1)
    assert enrollment_of(play(AUDIENCE, event("begin"), event("out"))).added == ()
    without = AUDIENCE.replace(", until: EXIT", "").replace(", until: GOAL", ", until: NEVER")
    assert enrollment_of(play(without, event("begin"))).added == ()


def test_an_enrollment_of_the_release_before_remembers_none() -> None:
    stored = msgspec.json.encode(enrollment_of(play(AUDIENCE, event("begin"))))
    fields = msgspec.json.decode(stored)
    assert fields[-1] == [0, 1]
    assert msgspec.json.decode(msgspec.json.encode(fields[:-1]), type=Enrollment).added == ()


def test_the_receipt_of_a_removal_opens_nothing() -> None:
    story = play(AUDIENCE, event("begin"), *RECEIVED, event("goal", at="1d"))
    first, second = removals(story)
    ended = enrollment_of(story)
    assert [each.activation_id for each in ended.pending] == [first.activation_id, second.activation_id]
    lines = story.lines
    story.take(ReceiptInput(first.activation_id))
    after = enrollment_of(story)
    assert [each.activation_id for each in after.pending] == [second.activation_id]
    story.take(ReceiptInput(second.activation_id))
    assert enrollment_of(story) == msgspec.structs.replace(ended, pending=())
    assert enrollment_of(story).state is EnrollmentState.GOAL_ACHIEVED
    assert story.lines == lines
    assert len(ended.pending) == 2, "what was passed in was changed"


def test_a_receipt_that_nobody_waits_for_leaves_an_ended_enrollment_as_it_is() -> None:
    story = play(AUDIENCE, event("begin"), *RECEIVED, event("goal", at="1d"))
    before = story.standing
    story.take(ReceiptInput("somebody.else"))
    assert story.standing is before


def test_the_explanation_still_ends_with_the_end() -> None:
    """Who has left is silent: the removals are told before."""
    story = play(AUDIENCE, event("begin"), event("goal", at="1d"))
    assert story.transitions[-1].kind is Kind.GOAL_ACHIEVED


def test_a_later_version_does_not_change_what_an_old_enrollment_lets_go_of() -> None:
    story = play(AUDIENCE, event("begin"), *RECEIVED)
    story.publish(
        AUDIENCE.replace(
            "{name: seen, activation: {channel: ads, action: ADD, until: EXIT}}", "wait: {duration: 1h}"
        )
    )
    event("out", at="1d")(story)
    (request,) = removals(story)
    assert (request.version, request.step_id) == (1, "seen")


# The time zone of a message


@pytest.mark.parametrize(
    ("own", "of_profile", "told"),
    [
        ("", "", ""),
        ("", "Asia/Tokyo", "Asia/Tokyo"),
        ("Europe/Berlin", "", "Europe/Berlin"),
        ("Europe/Berlin", "Asia/Tokyo", "Asia/Tokyo"),
    ],
)
def test_a_message_has_the_zone_of_the_profile_else_of_the_journey(
    own: str, of_profile: str, told: str
) -> None:
    text = f"{AUDIENCE}\ntime_zone: {own}" if own else AUDIENCE
    story = play(text, event("begin"), time_zone=of_profile)
    assert {each.time_zone for each in story.requested} == {told}


def test_a_wait_until_a_time_of_day_still_takes_utc_where_nobody_says_anything() -> None:
    text = AUDIENCE.replace("{duration: 3d}", '{until_time: "09:00"}')
    assert play(text, event("begin")).lines[-1] == "0s WAIT_STARTED one/5 until 9h"


# Reading and writing


def message_of(**activation: Any) -> pb.Journey:
    step = {"activation": {"channel": "ads", **activation}}
    document: Mapping[str, Any] = {
        "name": "journeys/one",
        "type": "JOURNEY_TYPE_REAL_TIME",
        "stages": [{"name": "one", "entry": 'event.name == "a"', "steps": [step]}],
    }
    return ParseDict(document, pb.Journey())


@pytest.mark.parametrize("until", ["EXIT", "GOAL"])
@pytest.mark.parametrize("action", ["AUDIENCE_ACTION_UNSPECIFIED", "AUDIENCE_ACTION_REMOVE"])
def test_until_needs_the_action_add(action: str, until: str) -> None:
    _, violations = parse_journey(message_of(action=action, until=f"AUDIENCE_UNTIL_{until}"))
    assert [(each.path, each.message) for each in violations] == [
        (
            "stages[0].steps[0].activation.until",
            f"is {until} without the action ADD; only who was added can be removed again: leave it out",
        )
    ]


def test_until_never_is_what_is_meant_anyway() -> None:
    for action in ("UNSPECIFIED", "ADD", "REMOVE"):
        journey, violations = parse_journey(
            message_of(action=f"AUDIENCE_ACTION_{action}", until="AUDIENCE_UNTIL_NEVER")
        )
        assert violations == ()
        assert journey is not None


def test_an_unknown_number_is_refused() -> None:
    message = message_of(action="AUDIENCE_ACTION_ADD")
    message.stages[0].steps[0].activation.until = 9  # type: ignore[assignment]
    _, violations = parse_journey(message)
    assert [(each.path, each.message) for each in violations] == [
        ("stages[0].steps[0].activation.until", "is 9, which is no way to end; say EXIT, GOAL or NEVER")
    ]


def test_documents_say_it_without_a_prefix() -> None:
    step = read_journey(AUDIENCE).stages[0].steps[0]
    assert step.kind == Activation("connections/ads", "", AudienceAction.ADD, AudienceUntil.EXIT)
    _, violations = read_documents(AUDIENCE.replace("until: EXIT", "until: LEAVE"))
    assert [(each.path, each.message) for each in violations] == [
        ("stages[0].steps[0].activation.until", "is 'LEAVE'; it is one of NEVER, EXIT, GOAL")
    ]


def test_a_difference_tells_it() -> None:
    before = message_of(action="AUDIENCE_ACTION_ADD")
    after = message_of(action="AUDIENCE_ACTION_ADD", until="AUDIENCE_UNTIL_EXIT")
    (found,) = diff_journeys(before, after)
    assert (found.element, found.field, found.before, found.after) == (
        "step one/1",
        "activation.until",
        "",
        "EXIT",
    )


def test_a_diagram_says_when_the_audience_lets_go() -> None:
    text = to_mermaid(read_journey(AUDIENCE))
    assert "add until the end" in text
    assert "add until the goal" in text
