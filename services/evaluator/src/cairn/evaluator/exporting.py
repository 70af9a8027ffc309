"""Owns profiles as they leave in bulk: bucket by bucket in the order of their ids, those who meet a criteria, from any place on."""

from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.evaluator import store_bulk
from cairn.evaluator.evaluation import decode_tracks
from cairn.evaluator.operations import decode_token, encode_token, page_size
from cairn.evaluator.store_bulk import ExportedRow
from cairn.evaluator.wire import json_to_struct
from cairn.journey.behavior import Behavior
from cairn.postgres.pool import Pool, translate_errors
from cairn.rules import Criteria, CriteriaError, CriteriaFailed, Scope, compile_criteria
from cairn.runtime.errors import FieldViolation, invalid

_ROWS: Final = 2_000
_START: Final = (0, "")


async def export_pages(
    pool: Pool, bucket_count: int, request: pb.ExportProfilesRequest, now_us: int
) -> AsyncIterator[pb.ExportProfilesResponse]:
    """The messages of an export; the last one has no next_page_token. `now_us` is the moment of which windows of behavior are."""
    criteria = _read_criteria(request.criteria)
    bucket, after = decode_token(request.page_token, _START)
    while True:
        rows, bucket, after = await _read(pool, bucket_count, bucket, after, _ROWS)
        chosen = [row for row in rows if criteria is None or _meets(row, criteria, now_us)]
        answer = pb.ExportProfilesResponse(
            profiles=pb.ProfileRows(
                profile_ids=[row.profile_id for row in chosen],
                attributes=[row.attributes for row in chosen],
                time_zones=[row.time_zone for row in chosen],
            )
        )
        if bucket < bucket_count:
            answer.next_page_token = encode_token(bucket, after)
        yield answer
        if bucket >= bucket_count:
            return


async def list_profiles(
    pool: Pool, bucket_count: int, request: pb.ListProfilesRequest, now_us: int
) -> pb.ListProfilesResponse:
    """A page of profiles."""
    criteria = _read_criteria(request.criteria)
    bucket, after = decode_token(request.page_token, _START)
    answer = pb.ListProfilesResponse()
    rows, bucket, after = await _read(pool, bucket_count, bucket, after, page_size(request.page_size))
    for row in rows:
        if criteria is None or _meets(row, criteria, now_us):
            answer.profiles.add(
                name=f"profiles/{row.profile_id}",
                profile_id=row.profile_id,
                attributes=json_to_struct(msgspec.json.decode(row.attributes)),
                time_zone=row.time_zone,
            )
    if bucket < bucket_count:
        answer.next_page_token = encode_token(bucket, after)
    return answer


async def _read(
    pool: Pool, bucket_count: int, bucket: int, after: str, limit: int
) -> tuple[list[ExportedRow], int, str]:
    """The next rows, and the place behind them."""
    if bucket >= bucket_count:
        return [], bucket, ""
    with translate_errors():
        rows = await store_bulk.export_profiles(pool, bucket, after, limit)
    if len(rows) < limit:
        return rows, bucket + 1, ""
    return rows, bucket, rows[-1].profile_id


def _read_criteria(source: str) -> Criteria | None:
    if not source:
        return None
    try:
        criteria = compile_criteria(source, Scope.SEGMENT)
    except CriteriaError as error:
        raise invalid(
            "The criteria can't be read.",
            [FieldViolation("criteria", problem.message) for problem in error.problems],
        ) from None
    if criteria.segments:
        raise invalid(
            "The criteria names segments.",
            [FieldViolation("criteria", "names segments, which only journeys know; write out what they say")],
        )
    return criteria


def _meets(row: ExportedRow, criteria: Criteria, now_us: int) -> bool:
    attributes: dict[str, Any] = msgspec.json.decode(row.attributes)
    behavior = Behavior(decode_tracks(row.behavior), attributes, {}, now_us)
    try:
        return criteria.evaluate(None, None, attributes, behavior)
    except CriteriaFailed:
        return False
