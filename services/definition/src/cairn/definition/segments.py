"""Owns what can be done with segments: one transaction each.

Refuses a ring of segments, one that names what does not exist, and to take away what another names.
"""

from collections.abc import Iterable

from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.definition import store, store_segments
from cairn.definition.store import Page
from cairn.definition.store_segments import SegmentRow
from cairn.journey.segments import SegmentDraft, naming_violations, segment_violations
from cairn.journey.violations import Violation
from cairn.postgres.pool import Pool, translate_errors
from cairn.runtime.errors import CairnError, FieldViolation, aborted_etag, invalid, not_found


async def put_segment(pool: Pool, draft: SegmentDraft, etag: str) -> SegmentRow:
    """Create or replace a segment; an `etag` that is given must be the present one. INVALID_ARGUMENT with all that is wrong."""
    violations = _fields(segment_violations(draft))
    if any(one.field == "segment.name" for one in violations):
        raise invalid("The segment is not valid", violations)
    name = draft.segment.name
    with translate_errors():
        async with pool.acquire() as connection, connection.transaction():
            await store_segments.lock_segments(connection)
            row = await store_segments.get_segment(connection, draft.segment_id)
            if etag and (row is None or row.etag != etag):
                raise aborted_etag(name)
            if row is not None and row.etag == draft.etag:
                return row
            others = await store_segments.get_segments_with_named(connection, draft.names)
            violations += _fields(naming_violations(draft, {one: row.names for one, row in others.items()}))
            if violations:
                raise invalid(f"{name} is not valid", violations)
            update_us = await store.read_clock(connection)
            fresh = SegmentRow(draft.segment_id, draft.document, draft.etag, draft.names, update_us)
            await store_segments.put_segment(connection, fresh)
            return fresh


async def get_segment(pool: Pool, segment_id: str) -> SegmentRow:
    """The segment, or NOT_FOUND."""
    with translate_errors():
        row = await store_segments.get_segment(pool, segment_id)
    if row is None:
        raise not_found(f"segments/{segment_id}")
    return row


async def list_segments(pool: Pool, after_id: str, limit: int) -> Page[SegmentRow]:
    """A page of segments in order of id."""
    with translate_errors():
        return await store_segments.list_segments(pool, after_id, limit)


async def delete_segment(pool: Pool, segment_id: str, etag: str) -> None:
    """Remove a segment; FAILED_PRECONDITION while another one names it. Versions keep what they were published with."""
    name = f"segments/{segment_id}"
    with translate_errors():
        async with pool.acquire() as connection, connection.transaction():
            await store_segments.lock_segments(connection)
            row = await store_segments.get_segment(connection, segment_id)
            if row is None:
                raise not_found(name)
            if etag not in ("", row.etag):
                raise aborted_etag(name)
            namers = await store_segments.list_namers(connection, segment_id)
            if namers:
                shown = ", ".join(f"segments/{one}" for one in namers[:10])
                more = f" and {len(namers) - 10} more" if len(namers) > 10 else ""
                raise CairnError(
                    ErrorReason.ERROR_REASON_FAILED_PRECONDITION,
                    f"{name} is named by {shown}{more}; change these first.",
                    resource=name,
                )
            await store_segments.delete_segment(connection, segment_id)


def _fields(violations: Iterable[Violation]) -> list[FieldViolation]:
    """Violations of a segment with their paths in a request that has it as `segment`."""
    return [FieldViolation(f"segment.{each.path}", each.message) for each in violations]
