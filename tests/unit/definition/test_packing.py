"""How a version keeps its segments."""

from cairn.api.definition.v1.journey_pb2 import Segment
from cairn.definition.packing import pack_segments, unpack_segments


def test_what_is_packed_is_unpacked() -> None:
    segments = [Segment(name="segments/a", criteria="profile.a"), Segment(name="segments/b", description="x")]
    packed = pack_segments([one.SerializeToString() for one in segments])
    assert list(unpack_segments(packed)) == segments
    assert pack_segments([]) == b""
