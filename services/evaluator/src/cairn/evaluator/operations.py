"""Owns the reads, one function for each call: profiles, enrollments, timelines."""

import base64
import binascii
from collections.abc import Collection, Iterator
from typing import Any, TypeVar, cast

import msgspec

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.evaluator import store
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.evaluation import decode_standings, decode_transitions
from cairn.evaluator.store import ProfileRow, RowKind, TimelineRow
from cairn.evaluator.wire import json_to_struct, to_enrollment, to_transition
from cairn.journey.limits import ID_PATTERN
from cairn.journey.parse import short_name
from cairn.postgres.bucket import bucket_of
from cairn.postgres.pool import Pool, translate_errors
from cairn.runtime.clock import to_timestamp
from cairn.runtime.errors import FieldViolation, invalid, not_found

_T = TypeVar("_T", bound=tuple[int | str, ...])

DEFAULT_PAGE = 100
MAX_PAGE = 1_000
_SCAN_ROWS = 500
# One call reads no more profiles than this, however few of them its filters let through.
_MAX_SCANNED = 20_000
END_OF_TIME_US = 253_402_214_400_000_000
"""The last day of the year 9999: where a timeline read backwards begins."""

_ANY = msgspec.json.Decoder(list[Any])


async def get_profile(pool: Pool, bucket_count: int, name: str) -> pb.Profile:
    """One profile; NOT_FOUND."""
    row = await _profile(pool, bucket_count, profile_id_of("name", name))
    return pb.Profile(
        name=f"profiles/{row.profile_id}",
        profile_id=row.profile_id,
        attributes=json_to_struct(msgspec.json.decode(row.attributes)),
        time_zone=row.time_zone,
        revision=row.revision,
        update_time=to_timestamp(row.update_us),
    )


async def get_enrollment(pool: Pool, bucket_count: int, book: JourneyBook, name: str) -> pb.Enrollment:
    """One enrollment; NOT_FOUND."""
    profile_part, slash, enrollment_id = name.rpartition("/enrollments/")
    if not slash or not enrollment_id:
        raise wrong_name("name", name, "profiles/{profile_id}/enrollments/{enrollment_id}")
    profile_id = profile_id_of("name", profile_part)
    rows = await _load(pool, bucket_count, profile_id)
    for row in rows:
        for enrollment in _enrollments(book, row, "", ()):
            if enrollment.name == f"profiles/{profile_id}/enrollments/{enrollment_id}":
                return enrollment
    raise not_found(name)


async def list_enrollments(
    pool: Pool, bucket_count: int, book: JourneyBook, request: pb.ListEnrollmentsRequest
) -> pb.ListEnrollmentsResponse:
    """A page of enrollments: of one profile, or of all, which goes bucket by bucket through the profiles."""
    size = page_size(request.page_size)
    profile_id = profile_id_of("parent", request.parent)
    journey_id = _journey_id(request.journey)
    states = frozenset(request.states)
    # The last profile of which all was told, and how much was told of the one that follows it.
    bucket, after, told = decode_token(request.page_token, (0, "", 0))
    answer = pb.ListEnrollmentsResponse()
    if profile_id != "-":
        row = await _profile(pool, bucket_count, profile_id)
        found = _enrollments(book, row, journey_id, states)
        answer.enrollments.extend(found[told : told + size])
        if len(found) > told + size:
            answer.next_page_token = encode_token(0, "", told + size)
        return answer
    scanned = 0
    while bucket < bucket_count and scanned < _MAX_SCANNED:
        with translate_errors():
            rows = await store.list_profiles(pool, bucket, after, journey_id, _SCAN_ROWS)
        scanned += len(rows)
        for row in rows:
            found = _enrollments(book, row, journey_id, states)[told:]
            room = size - len(answer.enrollments)
            answer.enrollments.extend(found[:room])
            if len(found) > room:
                answer.next_page_token = encode_token(bucket, after, told + room)
                return answer
            after, told = row.profile_id, 0
        if len(rows) < _SCAN_ROWS:
            bucket, after = bucket + 1, ""
    if bucket < bucket_count:
        answer.next_page_token = encode_token(bucket, after, 0)
    return answer


async def get_timeline(
    pool: Pool, bucket_count: int, request: pb.GetTimelineRequest
) -> pb.GetTimelineResponse:
    """A page of what happened to a profile, newest first; NOT_FOUND when there is no such profile."""
    profile_id = profile_id_of("profile", request.profile)
    size = page_size(request.page_size)
    bucket = bucket_of(profile_id, bucket_count)
    # The row that the last page ended in, and how many of its entries were told.
    time_us, row_id, told = decode_token(request.page_token, (END_OF_TIME_US, 0, 0))
    first = min(time_us, END_OF_TIME_US), row_id
    with translate_errors():
        rows = await store.read_timeline(pool, bucket, profile_id, first, size + 1)
    if not rows and not request.page_token:
        await _profile(pool, bucket_count, profile_id)
    answer = pb.GetTimelineResponse()
    for row in rows:
        place = row.record_us, row.row_id
        for number, entry in enumerate(_entries(row)):
            if place == first and number < told:
                continue
            if len(answer.entries) == size:
                answer.next_page_token = encode_token(*place, number)
                return answer
            answer.entries.append(entry)
    return answer


def page_size(asked: int) -> int:
    """The size of a page: the default for 0, the bounds for what is out of them."""
    return min(asked, MAX_PAGE) if asked > 0 else DEFAULT_PAGE


def profile_id_of(field: str, name: str) -> str:
    """The profile's id in its resource name."""
    profile_id = name.removeprefix("profiles/")
    if profile_id == name or not profile_id or "\0" in profile_id:
        raise wrong_name(field, name, "profiles/{profile_id}")
    return profile_id


async def _profile(pool: Pool, bucket_count: int, profile_id: str) -> ProfileRow:
    rows = await _load(pool, bucket_count, profile_id)
    if not rows:
        raise not_found(f"profiles/{profile_id}")
    return rows[0]


async def _load(pool: Pool, bucket_count: int, profile_id: str) -> list[ProfileRow]:
    with translate_errors():
        return await store.load_profiles(pool, bucket_of(profile_id, bucket_count), [profile_id])


def _enrollments(
    book: JourneyBook, row: ProfileRow, journey_id: str, states: Collection[int]
) -> list[pb.Enrollment]:
    return [
        to_enrollment(row.profile_id, book.get(each.partition("/")[0]), each, standing.enrollment)
        for each, standing in decode_standings(row.standings).items()
        if standing.enrollment is not None
        and (not journey_id or each.partition("/")[0] == journey_id)
        and (not states or standing.enrollment.state in states)
    ]


def _entries(row: TimelineRow) -> Iterator[pb.TimelineEntry]:
    """The entries of one row, newest first."""
    recorded = to_timestamp(row.record_us)
    match row.kind:
        case RowKind.TRANSITIONS:
            for transition in reversed(decode_transitions(row.entries)):
                yield pb.TimelineEntry(record_time=recorded, transition=to_transition(transition))
        case RowKind.RECEIPT:
            activation_id, state, state_us, detail = _ANY.decode(row.entries)
            receipt = pb.ActivationReceipt(
                activation_id=activation_id,
                state=state,
                time=to_timestamp(state_us),
                detail=detail,
            )
            yield pb.TimelineEntry(record_time=recorded, receipt=receipt)
        case RowKind.REFUSAL:
            effect_id, reason, message = _ANY.decode(row.entries)
            refusal = pb.EffectRefusal(effect_id=effect_id, reason=reason, message=message, time=recorded)
            yield pb.TimelineEntry(record_time=recorded, refusal=refusal)


def encode_token(*place: int | str) -> str:
    """A place in a list as a page token."""
    return base64.urlsafe_b64encode(msgspec.json.encode(place)).decode()


def decode_token(token: str, start: _T) -> _T:
    """The place that a token stands for; without one, where to start."""
    if not token:
        return start
    try:
        place = msgspec.json.decode(base64.urlsafe_b64decode(token))
        if [type(part) for part in place] == [type(part) for part in start] and all(map(_is_storable, place)):
            return cast(_T, tuple(place))
    except (msgspec.DecodeError, binascii.Error, ValueError, TypeError):
        pass
    raise invalid(
        "page_token is none of ours.",
        [FieldViolation("page_token", "is not the next_page_token of a page before; begin without one")],
    )


def _is_storable(part: int | str) -> bool:
    return "\0" not in part if isinstance(part, str) else 0 <= part < 1 << 63


def _journey_id(name: str) -> str:
    """The journey's id in its resource name; empty when none is given."""
    journey_id = short_name("journeys", name)
    if journey_id and not ID_PATTERN.fullmatch(journey_id):
        raise wrong_name("journey", name, "journeys/{id}")
    return journey_id


def wrong_name(field: str, name: str, pattern: str) -> Exception:
    """INVALID_ARGUMENT for a resource name that is none of its kind."""
    return invalid(
        f"{field} is no resource name of its kind.",
        [FieldViolation(field, f"is {name[:80]!r}; write it as {pattern}")],
    )
