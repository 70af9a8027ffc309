"""Owns the one hash that spreads profiles over buckets. Pure; refuses to know how many buckets there are."""

import zlib


def bucket_of(key: str, bucket_count: int) -> int:
    """The bucket, 0 to bucket_count - 1, in which everything about `key` is stored.

    The answer is part of the stored data: it is the same in every process and release, for ever. Any string has
    one, also a string with lone surrogates. `bucket_count` is the database's own number (`read_bucket_count`).
    """
    return zlib.crc32(key.encode("utf-8", "surrogatepass")) % bucket_count
