"""Owns the statements on connections, templates and the versions of templates."""

from collections.abc import Sequence

import asyncpg

from cairn.activation.model import Resource
from cairn.activation.store import Database
from cairn.runtime.clock import from_datetime, to_datetime

# One statement decides and writes, so that of two writers with the same etag one is refused. A template that was removed and comes back
# goes on where it stopped: what deliveries say of its versions stays true.
_PUT = """
WITH saved AS (
    INSERT INTO resources AS r (kind, id, body, etag, update_time, version)
    SELECT $1, $2, $3::jsonb, $4, $5,
        1 + CASE WHEN $1 = 'templates' THEN (SELECT coalesce(max(version), 0) FROM template_versions WHERE id = $2) ELSE 0 END
    WHERE $6 = '' OR EXISTS (SELECT 1 FROM resources WHERE kind = $1 AND id = $2 AND etag = $6)
    ON CONFLICT (kind, id) DO UPDATE SET body = excluded.body, etag = excluded.etag,
        update_time = CASE WHEN r.etag = excluded.etag THEN r.update_time ELSE excluded.update_time END,
        version = r.version + (r.etag <> excluded.etag)::integer
    WHERE $6 = '' OR r.etag = $6
    RETURNING kind, id, body, etag, update_time, version
), kept AS (
    INSERT INTO template_versions (id, version, body, etag, update_time)
    SELECT id, version, body, etag, update_time FROM saved WHERE kind = 'templates'
    ON CONFLICT (id, version) DO NOTHING
)
SELECT kind, id, body, etag, update_time, version FROM saved
"""


async def put(database: Database, resource: Resource, expected_etag: str) -> Resource | None:
    """Creates or replaces it, as a new version when its etag is new; None when `expected_etag` is given and is not the present one."""
    row = await database.fetchrow(
        _PUT,
        resource.kind,
        resource.id,
        resource.body,
        resource.etag,
        to_datetime(resource.update_us),
        expected_etag,
    )
    return None if row is None else _resource(row)


_LOOK_UP = """
SELECT r.kind, r.id, CASE WHEN r.etag = ANY($3::text[]) THEN '' ELSE r.body::text END AS body, r.etag, r.update_time, r.version
FROM resources r JOIN unnest($1::text[], $2::text[]) AS k(kind, id) ON r.kind = k.kind AND r.id = k.id
"""


async def look_up(
    database: Database, names: Sequence[tuple[str, str]], known_etags: Sequence[str] = ()
) -> list[Resource]:
    """Those of these (kind, id) that exist; without the body where the caller knows the etag."""
    rows = await database.fetch(
        _LOOK_UP, [kind for kind, _ in names], [id_ for _, id_ in names], list(known_etags)
    )
    return [_resource(row) for row in rows]


_LIST = """
SELECT kind, id, body, etag, update_time, version FROM resources WHERE kind = $1 AND id > $2 ORDER BY id LIMIT $3
"""


async def list_page(database: Database, kind: str, after_id: str, limit: int) -> list[Resource]:
    """A page of a kind, in order of id."""
    return [_resource(row) for row in await database.fetch(_LIST, kind, after_id, limit)]


_VERSIONS = """
SELECT 'templates' AS kind, id, body, etag, update_time, version FROM template_versions
WHERE id = $1 AND version < $2 ORDER BY version DESC LIMIT $3
"""


async def list_versions(database: Database, id_: str, before: int, limit: int) -> list[Resource]:
    """A page of a template's versions, newest first, also of one that was removed."""
    return [_resource(row) for row in await database.fetch(_VERSIONS, id_, before, limit)]


async def find_version(database: Database, id_: str, version: int) -> Resource | None:
    """One version of a template, also of one that was removed."""
    rows = await list_versions(database, id_, version + 1, 1)
    return rows[0] if rows and rows[0].version == version else None


_REPEATABLE = "SELECT id FROM resources WHERE kind = 'connections' AND body ?| $1::text[]"


async def connections_of_kinds(database: Database, kinds: Sequence[str]) -> list[str]:
    """The ids of the connections whose `kind`, by its JSON name, is one of these."""
    return [row["id"] for row in await database.fetch(_REPEATABLE, list(kinds))]


_DELETE = "DELETE FROM resources WHERE kind = $1 AND id = $2 RETURNING id"


async def delete(database: Database, kind: str, id_: str) -> bool:
    """Removes one; False when there is none. The versions of a template stay: deliveries name them."""
    return await database.fetchval(_DELETE, kind, id_) is not None


def _resource(row: asyncpg.Record) -> Resource:
    return Resource(
        kind=row["kind"],
        id=row["id"],
        body=row["body"],
        etag=row["etag"],
        update_us=from_datetime(row["update_time"]),
        version=row["version"],
    )
