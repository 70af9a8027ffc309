"""Owns the answer to why a profile is where it is in a journey: reads what is known of it, and renders what the core finds."""

from collections.abc import Iterator

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.evaluator import store
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.evaluation import ProfileState, decode_profile, decode_transitions
from cairn.evaluator.operations import END_OF_TIME_US, profile_id_of, wrong_name
from cairn.evaluator.recent import RecentInput
from cairn.evaluator.store import RowKind
from cairn.evaluator.wire import is_time, to_enrollment, to_transition
from cairn.journey.explanation import Findings, InputFinding, Known, RuleFinding, explain_standing
from cairn.journey.limits import ID_PATTERN
from cairn.journey.live import LiveJourney
from cairn.journey.machine import UnknownVersionError, advance
from cairn.journey.state import EventInput, LifeInput, Profile, Standing, Transition
from cairn.journey.walk import short_name
from cairn.postgres.bucket import bucket_of
from cairn.postgres.pool import Pool, translate_errors
from cairn.rules import Explanation
from cairn.runtime.clock import from_timestamp, now_us, to_datetime, to_timestamp
from cairn.runtime.errors import FieldViolation, invalid, not_found

_PAGE = 200
# How far back a timeline is read for what put somebody where he is.
_MOST_ROWS = 2_000
_MOST_BECAUSE = 20
_VERDICTS = {"TRUE": pb.VERDICT_TRUE, "FALSE": pb.VERDICT_FALSE, "FAILED": pb.VERDICT_FAILED}


async def explain(
    pool: Pool, bucket_count: int, book: JourneyBook, request: pb.ExplainRequest
) -> pb.ExplainResponse:
    """Why a profile is where it is in a journey, or why it never entered; NOT_FOUND for a journey that is not served."""
    profile_id = profile_id_of("profile", request.profile)
    journey_id = short_name("journeys", request.journey)
    if not ID_PATTERN.fullmatch(journey_id):
        raise wrong_name("journey", request.journey, "journeys/{id}")
    journey = book.get(journey_id)
    if journey is None:
        raise not_found(f"journeys/{journey_id}")
    at_us, is_past = _moment(request)
    bucket = bucket_of(profile_id, bucket_count)
    with translate_errors():
        rows = await store.load_profiles(pool, bucket, [profile_id])
    state = decode_profile(rows[0]) if rows else ProfileState(profile_id)
    standing_id = _standing_id(state, journey_id, request.key)
    standing = state.standings.get(standing_id, Standing())
    profile = Profile(profile_id, state.attributes, state.time_zone, state.behavior)
    standing = _lived(journey, profile, standing)
    enrollment_id = standing.enrollment.enrollment_id if standing.enrollment else ""
    # With a key only its own enrollment counts; without one the past tells which it was.
    only = {"", enrollment_id} if request.key or not is_past else None
    transitions = await _transitions(pool, bucket, profile_id, journey_id, at_us, only)
    known = Known(
        journey=journey,
        profile=profile,
        standing=standing,
        transitions=transitions,
        recent=[
            _event(each) for each in state.recent if each.journey_id == journey_id and each.time_us <= at_us
        ],
        at_us=at_us,
        is_past=is_past,
    )
    answer = _render(explain_standing(known))
    if standing.enrollment is not None and not is_past:
        answer.enrollment.CopyFrom(to_enrollment(profile_id, journey, standing_id, standing.enrollment))
    answer.because.extend(to_transition(each) for each in known.transitions[:_MOST_BECAUSE])
    return answer


def _moment(request: pb.ExplainRequest) -> tuple[int, bool]:
    """As of when to explain, and whether that is past."""
    now = now_us()
    if not request.HasField("at"):
        return now, False
    if not is_time(request.at):
        raise invalid("at is no valid time.", [FieldViolation("at", "is no valid time")])
    at_us = from_timestamp(request.at)
    return min(at_us, END_OF_TIME_US), at_us < now


def _standing_id(state: ProfileState, journey_id: str, key: str) -> str:
    """The standing that is meant: the one of a key, or the one that was entered last."""
    if key:
        return f"{journey_id}/{key}"
    found = [
        (standing.enrollment.enter_us if standing.enrollment else 0, standing_id)
        for standing_id, standing in state.standings.items()
        if standing_id == journey_id or standing_id.startswith(f"{journey_id}/")
    ]
    return max(found)[1] if found else journey_id


async def _transitions(
    pool: Pool, bucket: int, profile_id: str, journey_id: str, at_us: int, only: set[str] | None
) -> list[Transition]:
    """What a profile's timeline tells of a journey up to a moment, newest first, from its newest rows.

    `only` are the enrollments that count (None: all); refusals of entry, which belong to none, have the id "".
    """
    found: list[Transition] = []
    place = (END_OF_TIME_US, (1 << 63) - 1)
    read = 0
    while read < _MOST_ROWS and len(found) < _MOST_BECAUSE:
        with translate_errors():
            rows = await store.read_timeline(pool, bucket, profile_id, place, _PAGE)
        for row in rows:
            if row.kind is RowKind.TRANSITIONS:
                told = reversed(decode_transitions(row.entries))
                found += [
                    each
                    for each in told
                    if each.journey_id == journey_id
                    and each.time_us <= at_us
                    and (only is None or each.enrollment_id in only)
                ]
        read += len(rows)
        if len(rows) < _PAGE:
            break
        place = (rows[-1].record_us, rows[-1].row_id - 1)
    return found


def _lived(journey: LiveJourney, profile: Profile, standing: Standing) -> Standing:
    """The standing as the machine will see it at its next input: pauses that are over have moved what is due."""
    try:
        return advance(journey, profile, standing, LifeInput(0)).standing
    except UnknownVersionError:
        return standing


def _event(recent: RecentInput) -> EventInput:
    view = {
        "name": recent.name,
        "properties": recent.properties or {},
        "occur_time": to_datetime(recent.time_us),
    }
    return EventInput(recent.event_id, recent.time_us, view)


def _render(findings: Findings) -> pb.ExplainResponse:
    return pb.ExplainResponse(
        summary=findings.summary,
        rules=map(_rule, findings.rules),
        inputs=map(_input, findings.inputs),
    )


def _rule(found: RuleFinding) -> pb.RuleExplanation:
    criteria = _criteria(found.criteria) if found.criteria is not None else None
    return pb.RuleExplanation(rule=found.rule, holds=found.holds, sentence=found.sentence, criteria=criteria)


def _input(found: InputFinding) -> pb.InputExplanation:
    return pb.InputExplanation(
        event_id=found.event.event_id,
        event_name=found.event.view["name"],
        occur_time=to_timestamp(found.event.time_us),
        rules=map(_rule, found.rules),
        nearness=found.nearness,
        sentence=found.sentence,
    )


def _criteria(found: Explanation) -> pb.CriteriaExplanation:
    return pb.CriteriaExplanation(
        text=found.text,
        verdict=_VERDICTS[found.verdict],
        saw=found.saw,
        needed=found.needed,
        why=found.why,
        children=_children(found),
    )


def _children(found: Explanation) -> Iterator[pb.CriteriaExplanation]:
    return (_criteria(each) for each in found.children)
