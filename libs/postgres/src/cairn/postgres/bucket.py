"""Owns the one hash that spreads profiles over buckets, and how many there are when nobody says. Pure; refuses to know a database."""

import zlib

DEFAULT_BUCKET_COUNT = 4
"""For a database on one machine of a few cores; one made for a cluster takes 256.

Each bucket is a lane with batches of its own: with 8 on two cores the batches are smaller, which costs a tenth more CPU.
"""


def bucket_of(key: str, bucket_count: int) -> int:
    """The bucket, 0 to bucket_count - 1, in which everything about `key` is stored.

    The answer is part of the stored data: it is the same in every process and release, for ever. Any string has
    one, also a string with lone surrogates. `bucket_count` is the database's own number (`read_bucket_count`).
    """
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % bucket_count
