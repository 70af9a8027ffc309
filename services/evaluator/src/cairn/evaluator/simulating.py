"""Owns simulations on request: drafts or versions over given inputs, under a virtual clock. Stores nothing, sends nothing."""

from collections.abc import Iterator, Sequence

from cairn.api.definition.v1 import journey_pb2
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.wire import is_id, is_time, struct_to_json, to_transition
from cairn.journey.calendar import is_time_zone
from cairn.journey.live import LiveJourney, LiveJourneys
from cairn.journey.parse import parse_journey
from cairn.journey.plan import Plan, compile_plan
from cairn.journey.references import check_references
from cairn.journey.simulation import (
    SimulatedEvent,
    SimulatedInput,
    SimulatedProfile,
    Simulation,
    simulate,
    time_problem,
)
from cairn.journey.walk import short_name
from cairn.rules import CriteriaError, Scope, compile_criteria
from cairn.runtime.clock import from_timestamp
from cairn.runtime.errors import FieldViolation, invalid

MOST_INPUTS = 20_000
MOST_TRANSITIONS_AT_ONCE = 10_000
PAGE = 1_000
_MOST_JOURNEYS = 100


def simulation_of(book: JourneyBook, request: pb.SimulateRequest) -> Simulation:
    """The simulation that a request asks for, not yet run; INVALID_ARGUMENT with every violation at once."""
    violations: list[FieldViolation] = []
    plans = [*_drafts(request, violations), *_versions(book, request, violations)]
    if not plans and not violations:
        violations.append(
            FieldViolation("journeys", "is empty, and so is versions; give at least one to run")
        )
    ids = [plan.journey_id for plan in plans]
    violations += [
        FieldViolation("journeys", f"names {each!r} more than once")
        for each in sorted(set(ids))
        if ids.count(each) > 1
    ]
    inputs = _inputs(request, violations)
    until_us = None
    if request.HasField("until"):
        if is_time(request.until):
            until_us = from_timestamp(request.until)
        else:
            violations.append(FieldViolation("until", "is no valid time"))
    if violations:
        raise invalid("The simulation can't be run", violations)
    live = LiveJourneys(LiveJourney({plan.version: plan}) for plan in plans)
    return simulate(live, inputs, until_us)


def run_pages(simulation: Simulation) -> Iterator[list[pb.SimulatedTransition]]:
    """What happens, in order of time, in lists of at most PAGE."""
    page: list[pb.SimulatedTransition] = []
    for profile_id, transition in simulation:
        page.append(pb.SimulatedTransition(profile_id=profile_id, transition=to_transition(transition)))
        if len(page) == PAGE:
            yield page
            page = []
    if page:
        yield page


def run_once(simulation: Simulation) -> pb.SimulateOnceResponse:
    """The first MOST_TRANSITIONS_AT_ONCE of what happens, and whether there was more."""
    answer = pb.SimulateOnceResponse()
    for page in run_pages(simulation):
        room = MOST_TRANSITIONS_AT_ONCE - len(answer.transitions)
        answer.transitions.extend(page[:room])
        if len(page) > room:
            answer.cut = True
            break
    return answer


def _drafts(request: pb.SimulateRequest, violations: list[FieldViolation]) -> Iterator[Plan]:
    if len(request.journeys) > _MOST_JOURNEYS:
        violations.append(
            FieldViolation("journeys", f"has {len(request.journeys)}; at most {_MOST_JOURNEYS} run")
        )
        return
    segments = _segments(request.segments, violations)
    messages = {short_name("journeys", each.name): each for each in request.journeys}
    wrong = check_references(messages, known=None, segments=None)
    for index, message in enumerate(request.journeys):
        journey, found = parse_journey(message)
        found = (*found, *wrong[short_name("journeys", message.name)])
        violations += [FieldViolation(f"journeys[{index}].{each.path}", each.message) for each in found]
        if journey is not None:
            yield compile_plan(journey, 1, segments=segments)


def _segments(segments: Sequence[journey_pb2.Segment], violations: list[FieldViolation]) -> dict[str, str]:
    sources = {}
    for index, segment in enumerate(segments):
        try:
            compile_criteria(segment.criteria, Scope.SEGMENT)
        except CriteriaError as error:
            violations += [
                FieldViolation(
                    f"segments[{index}].criteria",
                    f"line {problem.line}, column {problem.column}: {problem.message}",
                )
                for problem in error.problems
            ]
        sources[short_name("segments", segment.name)] = segment.criteria
    return sources


def _versions(
    book: JourneyBook, request: pb.SimulateRequest, violations: list[FieldViolation]
) -> Iterator[Plan]:
    for index, name in enumerate(request.versions):
        journey_id, _, number = name.removeprefix("journeys/").partition("/versions/")
        journey = book.get(journey_id)
        plan = (
            journey.plans.get(int(number))
            if journey and number.isascii() and number.isdigit() and len(number) < 10
            else None
        )
        if plan is None:
            text = f"is {name[:80]!r}, which is not served here; write it as journeys/{{id}}/versions/{{version}}"
            violations.append(FieldViolation(f"versions[{index}]", text))
        else:
            yield plan


def _inputs(request: pb.SimulateRequest, violations: list[FieldViolation]) -> list[SimulatedInput]:
    if len(request.inputs) > MOST_INPUTS:
        text = f"has {len(request.inputs):,} inputs; at most {MOST_INPUTS:,} are run"
        violations.append(FieldViolation("inputs", text))
        return []
    inputs: list[SimulatedInput] = []
    for index, each in enumerate(request.inputs):
        path = f"inputs[{index}]"
        match each.WhichOneof("input"):
            case "event":
                inputs += _event(f"{path}.event", each.event, violations)
            case "profile":
                inputs += _profile(f"{path}.profile", each.profile, violations)
            case _:
                violations.append(FieldViolation(path, "is empty; give an event or a profile"))
    return inputs


def _event(path: str, event: pb.Event, violations: list[FieldViolation]) -> Iterator[SimulatedEvent]:
    count = len(violations)
    for field in ("event_id", "profile_id", "name"):
        if not is_id(getattr(event, field)):
            violations.append(FieldViolation(f"{path}.{field}", "is missing, or longer than 256 bytes"))
    if not (event.HasField("occur_time") and is_time(event.occur_time)):
        violations.append(FieldViolation(f"{path}.occur_time", "is missing, or no valid time"))
    elif problem := time_problem(from_timestamp(event.occur_time)):
        violations.append(FieldViolation(f"{path}.occur_time", problem))
    if len(violations) == count:
        time_us = from_timestamp(event.occur_time)
        properties = struct_to_json(event.properties)
        yield SimulatedEvent(event.event_id, event.profile_id, event.name, time_us, properties)


def _profile(
    path: str, profile: pb.SimulatedProfile, violations: list[FieldViolation]
) -> Iterator[SimulatedProfile]:
    count = len(violations)
    if not is_id(profile.profile_id):
        violations.append(FieldViolation(f"{path}.profile_id", "is missing, or longer than 256 bytes"))
    if not (profile.HasField("time") and is_time(profile.time)):
        violations.append(FieldViolation(f"{path}.time", "is missing, or no valid time"))
    elif problem := time_problem(from_timestamp(profile.time)):
        violations.append(FieldViolation(f"{path}.time", problem))
    if profile.time_zone and not is_time_zone(profile.time_zone):
        violations.append(FieldViolation(f"{path}.time_zone", "is no IANA time zone; one is Asia/Tokyo"))
    if len(violations) == count:
        attributes = struct_to_json(profile.attributes)
        yield SimulatedProfile(
            profile.profile_id, from_timestamp(profile.time), attributes, profile.time_zone
        )
