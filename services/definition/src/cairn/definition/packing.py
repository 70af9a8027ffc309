"""Owns how a version keeps the segments that it was published with: as one document."""

from collections.abc import Sequence

from cairn.api.definition.v1.journey_pb2 import JourneyVersion, Segment


def pack_segments(documents: Sequence[bytes]) -> bytes:
    """The segments of a version as one document: equal segments in equal order give equal bytes."""
    holder = JourneyVersion(segments=[Segment.FromString(document) for document in documents])
    return holder.SerializeToString(deterministic=True)


def unpack_segments(packed: bytes) -> Sequence[Segment]:
    """The segments that `pack_segments` packed."""
    return JourneyVersion.FromString(packed).segments
