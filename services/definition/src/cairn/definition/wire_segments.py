"""Owns the form of segments on the wire: their names, rows to messages."""

import re

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.definition.v1.journey_pb2 import Segment
from cairn.definition.store import Page
from cairn.definition.store_segments import SegmentRow
from cairn.definition.wire import page_token, parse_page, refuse
from cairn.journey.limits import ID_PATTERN, ID_RULE
from cairn.runtime.clock import to_timestamp

_SEGMENT = re.compile(rf"(?:segments/)?({ID_PATTERN.pattern})")


def parse_segment_name(field: str, name: str) -> str:
    """The id in `segments/{id}` or the id alone."""
    matched = _SEGMENT.fullmatch(name)
    if matched is None:
        raise refuse(field, f"has to be segments/{{id}}; an id has {ID_RULE}")
    return matched[1]


def parse_segment_page(page_size: int, token: str) -> tuple[int, str]:
    """How many segments to list, and the id after which to go on: empty on the first page."""
    limit, key = parse_page(page_size, token)
    if key and not ID_PATTERN.fullmatch(key):
        raise refuse("page_token", "is not a next_page_token of this call")
    return limit, key


def render_segment(row: SegmentRow) -> Segment:
    """The segment with what only we write."""
    segment = Segment.FromString(row.document)
    segment.etag = row.etag
    segment.update_time.CopyFrom(to_timestamp(row.update_us))
    return segment


def render_segment_page(page: Page[SegmentRow]) -> pb.ListSegmentsResponse:
    """The token of a page that has more after it is its last id."""
    return pb.ListSegmentsResponse(
        segments=[render_segment(row) for row in page.rows],
        next_page_token=page_token(page.rows[-1].segment_id) if page.more else "",
    )
