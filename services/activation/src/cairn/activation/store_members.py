"""Owns the statements on the members of audiences: whom each should hold, by the last change that its platform took of each person."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from cairn.activation import store_erasure
from cairn.activation.model import Claim, Member
from cairn.activation.store import Database
from cairn.activation.store_erasure import REMOVAL_PREFIX
from cairn.api.definition.v1 import journey_pb2
from cairn.runtime.clock import from_datetime, to_datetime


@dataclass(frozen=True, slots=True)
class Membership:
    """What an audience should hold of somebody: `identifiers` as the platform got them; `profile_id` a pseudonym after an erasure."""

    bucket: int
    profile_id: str
    present: bool
    identifiers: Mapping[str, str]
    activation_id: str
    update_us: int


# The last change that was taken counts, also where it was asked for before another: a human may have had it tried again since.
_WRITE_MEMBERS = """
INSERT INTO members (bucket, connection, profile_id, present, identifiers, activation_id, sequence, update_time)
SELECT $1, $2, n.profile_id, n.present, n.identifiers, n.activation_id, n.sequence, $3::timestamptz
FROM unnest($4::text[], $5::boolean[], $6::text[], $7::text[], $8::bigint[])
    AS n(profile_id, present, identifiers, activation_id, sequence)
ON CONFLICT (bucket, profile_id, connection) DO UPDATE SET present = excluded.present, identifiers = excluded.identifiers,
    activation_id = excluded.activation_id, sequence = excluded.sequence, update_time = excluded.update_time
"""
_FORGET_MEMBERS = "DELETE FROM members WHERE bucket = $1 AND connection = $2 AND profile_id = ANY($3::text[])"


async def write_members(
    database: Database, bucket: int, connection: str, taken: Sequence[tuple[Claim, Member]], now: int
) -> None:
    """Writes down what a connection's platform took of a batch, in its order, in one statement (and two for those who were erased).

    To be called in the transaction that writes the results. Erased people whom an audience let go are forgotten.
    """
    last = {claim.profile_id: (claim, member) for claim, member in taken}
    gone = [
        profile_id
        for profile_id, (claim, member) in last.items()
        if claim.activation_id.startswith(REMOVAL_PREFIX) and not member.present
    ]
    if gone:
        await database.execute(_FORGET_MEMBERS, bucket, connection, gone)
        await store_erasure.forget_identifiers(
            database, bucket, [(last[id_][0].activation_id, last[id_][0].request_us) for id_ in gone]
        )
        for profile_id in gone:
            del last[profile_id]
    if last:
        await database.execute(
            _WRITE_MEMBERS,
            bucket,
            connection,
            to_datetime(now),
            list(last),
            [member.present for _, member in last.values()],
            [msgspec.json.encode(member.identifiers).decode() for _, member in last.values()],
            [claim.activation_id for claim, _ in last.values()],
            [claim.sequence for claim, _ in last.values()],
        )


_HELD = """
SELECT profile_id, identifiers FROM members
WHERE bucket = $1 AND connection = $2 AND profile_id = ANY($3::text[]) AND present
"""


async def read_held(
    database: Database, bucket: int, connection: str, claims: Sequence[Claim]
) -> dict[str, Mapping[str, str]]:
    """What an audience got of those whom a batch removes, by activation: it knows them by that, whatever their profile says by now.

    Left out are those whom it does not hold, and those whom the batch itself adds before.
    """
    seen: set[str] = set()
    wanted: dict[str, str] = {}
    for claim in claims:
        if claim.action == journey_pb2.AUDIENCE_ACTION_REMOVE and claim.profile_id not in seen:
            wanted[claim.profile_id] = claim.activation_id
        seen.add(claim.profile_id)
    if not wanted:
        return {}
    rows = await database.fetch(_HELD, bucket, connection, list(wanted))
    return {
        wanted[row["profile_id"]]: msgspec.json.decode(row["identifiers"], type=dict[str, str])
        for row in rows
    }


_LIST_MEMBERS = """
SELECT profile_id, present, identifiers, activation_id, update_time FROM members
WHERE bucket = $1 AND connection = $2 AND profile_id > $3 AND (present OR $4) ORDER BY profile_id LIMIT $5
"""


async def list_members(
    database: Database, bucket: int, connection: str, *, after: str, include_removed: bool, limit: int
) -> list[Membership]:
    """A bucket's members of a connection's audience behind a profile id ("" for the first), by profile id."""
    rows = await database.fetch(_LIST_MEMBERS, bucket, connection, after, include_removed, limit)
    return [
        Membership(
            bucket=bucket,
            profile_id=row["profile_id"],
            present=row["present"],
            identifiers=msgspec.json.decode(row["identifiers"], type=dict[str, str]),
            activation_id=row["activation_id"],
            update_us=from_datetime(row["update_time"]),
        )
        for row in rows
    ]
