"""Owns the statements of the last look: suppressions, consents, what profiles got lately; each once for a batch of one bucket."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from cairn.activation.caps import Sends
from cairn.activation.store import Database
from cairn.runtime.clock import to_datetime

_ANY_AT_ALL = """
SELECT EXISTS (SELECT 1 FROM suppressions) AS suppressions,
       EXISTS (SELECT 1 FROM consents WHERE bucket = $1) AS consents
"""


async def any_at_all(database: Database, bucket: int) -> tuple[bool, bool]:
    """Whether there are any suppressions, and any consents in the bucket."""
    row = await database.fetchrow(_ANY_AT_ALL, bucket)
    assert row is not None
    return row["suppressions"], row["consents"]


# No row of it belongs to a bucket: it is few rows beside the profiles, and the same for all.
_SUPPRESSIONS = """
SELECT address_hash, reason FROM suppressions WHERE address_hash = ANY($1::bytea[]) AND connection IN ('', $2)
"""


async def suppressions(
    database: Database, hashes: Sequence[bytes], connection: str
) -> Mapping[bytes, Sequence[int]]:
    """The reasons for which these addresses get no mail through a connection, by the address's hash."""
    found: dict[bytes, list[int]] = defaultdict(list)
    for row in await database.fetch(_SUPPRESSIONS, hashes, connection):
        found[row["address_hash"]].append(row["reason"])
    return found


_CONSENTS = """
SELECT DISTINCT ON (profile_id) profile_id, granted FROM consents
WHERE bucket = $1 AND profile_id = ANY($2::text[]) AND connection IN ('', $3)
ORDER BY profile_id, connection DESC
"""


async def consents(
    database: Database, bucket: int, profiles: Sequence[str], connection: str
) -> Mapping[str, bool]:
    """What profiles said about a connection, or else about all that they said nothing of; those who said something."""
    rows = await database.fetch(_CONSENTS, bucket, profiles, connection)
    return {row["profile_id"]: row["granted"] for row in rows}


# `state_time` is when it was sent: of SENDING the moment before, of SENT the answer's, of UNKNOWN when that was found. Who is removed
# from an audience (action 2) got nothing.
_RECENT_SENDS = """
SELECT d.profile_id, d.connection, split_part(d.journey_version, '/versions/', 1) AS journey, p.period_us, count(*) AS sends
FROM deliveries d JOIN unnest($5::bigint[], $6::timestamptz[]) AS p(period_us, since) ON d.state_time > p.since
WHERE d.bucket = $1 AND d.profile_id = ANY($2::text[]) AND d.request_time >= $3 AND d.state IN (3, 4, 7) AND d.action <> 2
  AND d.connection = ANY($4::text[])
GROUP BY d.profile_id, d.connection, journey, p.period_us
"""


async def recent_sends(
    database: Database,
    bucket: int,
    profiles: Sequence[str],
    *,
    connections: Sequence[str],
    periods_us: Sequence[int],
    floor_us: int,
    now: int,
) -> list[Sends]:
    """How often profiles were sent something through these connections within each period before now.

    What was requested before `floor_us` is not looked at.
    """
    rows = await database.fetch(
        _RECENT_SENDS,
        bucket,
        profiles,
        to_datetime(floor_us),
        connections,
        periods_us,
        [to_datetime(now - period_us) for period_us in periods_us],
    )
    return [
        Sends(row["profile_id"], row["connection"], row["journey"], row["period_us"], row["sends"])
        for row in rows
    ]


_FIRST_OPEN = """
SELECT d.profile_id, min(d.sequence) AS sequence FROM deliveries d
WHERE d.bucket = $1 AND d.profile_id = ANY($2::text[]) AND d.connection = $3 AND d.request_time >= $4 AND d.state <= 3
  AND NOT d.activation_id = ANY($5::text[])
GROUP BY d.profile_id
"""


async def first_open(
    database: Database,
    bucket: int,
    profiles: Sequence[str],
    connection: str,
    *,
    floor_us: int,
    besides: Sequence[str],
) -> Mapping[str, int]:
    """The place in the order of acceptance of the first delivery of each profile on a connection that is not done, if there is one.

    Left out are the activations `besides`; nothing that is open was requested before `floor_us`.
    """
    rows = await database.fetch(
        _FIRST_OPEN, bucket, profiles, connection, to_datetime(floor_us), list(besides)
    )
    return {row["profile_id"]: row["sequence"] for row in rows}


# Mail that nobody unsubscribes from is free of the caps, so it does not count for them either.
_WRITING_CONNECTIONS = """
SELECT id, coalesce(body->'plugin'->>'channel', '') AS plugin FROM resources
WHERE kind = 'connections' AND (body ?| $1::text[] OR body ? 'plugin')
  AND NOT coalesce((body->'mail'->>'transactional')::boolean, false)
"""


async def writing_connections(database: Database, kinds: Sequence[str]) -> list[tuple[str, str]]:
    """The connections of these kinds, by JSON name, with "", and those of plug-ins with the plug-in's name; none that is transactional."""
    return [(row["id"], row["plugin"]) for row in await database.fetch(_WRITING_CONNECTIONS, kinds)]


# Rows that wait for something else, such as quiet hours, have another detail. What is in somebody's hands is left to them.
_RELEASE = """
WITH held AS MATERIALIZED (
    SELECT activation_id, request_time, connection FROM deliveries
    WHERE bucket = $1 AND state = 1 AND next_attempt_time > $2 AND detail = $3
      AND NOT split_part(journey_version, '/versions/', 1) = ANY($4::text[]) AND request_time >= $5
    LIMIT $6 FOR UPDATE SKIP LOCKED
), released AS (
    UPDATE deliveries d SET next_attempt_time = $2
    FROM held
    WHERE d.bucket = $1 AND d.request_time = held.request_time AND d.activation_id = held.activation_id AND d.request_time >= $5
    RETURNING d.connection
)
SELECT count(*) AS rows, array_agg(DISTINCT connection) AS connections FROM released
"""


async def release_resumed(
    database: Database,
    bucket: int,
    *,
    detail: str,
    paused: Sequence[str],
    floor_us: int,
    limit: int,
    now: int,
) -> tuple[int, Sequence[str]]:
    """Makes at most `limit` deliveries due at once that wait, as `detail` says, for the resume of a journey that is none of the paused.

    How many, and through which connections they leave.
    """
    row = await database.fetchrow(
        _RELEASE, bucket, to_datetime(now), detail, list(paused), to_datetime(floor_us), limit
    )
    assert row is not None
    return row["rows"], row["connections"] or ()
