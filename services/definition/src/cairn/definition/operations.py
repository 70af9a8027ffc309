"""Owns what can be done with drafts, versions and watchers: one transaction each.

Publishing is in `publication`, pausing and ending in `life`, segments are in `segments`.

Refuses to save what is not valid, and to overwrite what its caller has not seen.
"""

from collections.abc import Sequence

from cairn.api.definition.v1.journey_pb2 import Journey
from cairn.api.errors.v1.error_reason_pb2 import ErrorReason
from cairn.definition import store, store_lives
from cairn.definition.destinations import DestinationChecker
from cairn.definition.drafts import Draft, destinations_of, draft_of, draft_violations, merge
from cairn.definition.packing import unpack_segments
from cairn.definition.references import read_surroundings, reference_violations, type_violations
from cairn.definition.repeat import Call, M, once
from cairn.definition.store import JourneyRow, Page, VersionRow, WatcherRow
from cairn.definition.store_lives import Changes
from cairn.journey.difference import Difference, diff_journeys
from cairn.journey.limits import ID_PATTERN
from cairn.journey.segments import diff_segments
from cairn.postgres.pool import AnyConnection, Pool, translate_errors
from cairn.runtime.clock import now_us
from cairn.runtime.errors import CairnError, FieldViolation, aborted_etag, invalid, not_found

MAX_CHANGES = 1000


def require_valid(draft: Draft) -> None:
    """Raise INVALID_ARGUMENT with every violation of a draft at once."""
    violations = draft_violations(draft)
    if violations:
        raise invalid(f"{draft.journey.name or 'The journey'} is not valid", violations)


async def create_journey(pool: Pool, draft: Draft, call: Call[JourneyRow, M]) -> M:
    """Save a new draft; ALREADY_EXISTS when the id is taken."""
    require_valid(draft)

    async def act(connection: AnyConnection) -> JourneyRow:
        row = await _insert(connection, draft)
        if row is None:
            name = draft.journey.name
            raise CairnError(
                ErrorReason.ERROR_REASON_ALREADY_EXISTS,
                f"{name} exists already; update it, or choose another name.",
                resource=name,
            )
        return row

    return await once(pool, call, act)


async def get_journey(pool: Pool, journey_id: str) -> JourneyRow:
    """The journey with its draft, or NOT_FOUND."""
    with translate_errors():
        row = await store.get_journey(pool, journey_id)
    if row is None:
        raise not_found(f"journeys/{journey_id}")
    return row


async def list_journeys(pool: Pool, after_id: str, limit: int) -> Page[JourneyRow]:
    """A page of journeys in order of id."""
    with translate_errors():
        return await store.list_journeys(pool, after_id, limit)


async def update_journey(
    pool: Pool,
    journey_id: str,
    given: Journey,
    paths: Sequence[str],
    *,
    allow_missing: bool,
    call: Call[JourneyRow, M],
) -> M:
    """Merge the fields in `paths` (none: all) of `given` into the draft; an etag that it carries must be the present one."""

    async def act(connection: AnyConnection) -> JourneyRow:
        row = await store.get_journey(connection, journey_id, lock=True)
        if row is None:
            if not allow_missing:
                raise not_found(f"journeys/{journey_id}")
            if given.etag:
                raise aborted_etag(f"journeys/{journey_id}")
            draft = draft_of(given)
            require_valid(draft)
            created = await _insert(connection, draft)
            if created is not None:
                return created
            # Somebody created it between our look and our insert.
            raise aborted_etag(f"journeys/{journey_id}")
        if given.etag not in ("", row.etag):
            raise aborted_etag(f"journeys/{journey_id}")
        draft = draft_of(merge(Journey.FromString(row.draft), given, paths))
        if draft.etag == row.etag:
            return row
        require_valid(draft)
        return await store.update_draft(connection, journey_id, draft.document, draft.etag, now_us())

    return await once(pool, call, act)


async def delete_journey(pool: Pool, journey_id: str, etag: str) -> None:
    """Remove a journey that was never published; FAILED_PRECONDITION otherwise."""
    name = f"journeys/{journey_id}"
    with translate_errors():
        async with pool.acquire() as connection, connection.transaction():
            row = await store.get_journey(connection, journey_id, lock=True)
            if row is None:
                raise not_found(name)
            if etag not in ("", row.etag):
                raise aborted_etag(name)
            if row.latest_version:
                raise CairnError(
                    ErrorReason.ERROR_REASON_FAILED_PRECONDITION,
                    f"{name} was published (version {row.latest_version}), and profiles may be in it; "
                    "only a journey that was never published can be deleted.",
                    resource=name,
                )
            await store.delete_journey(connection, journey_id)


async def validate_journey(pool: Pool, checker: DestinationChecker, draft: Draft) -> list[FieldViolation]:
    """All that saving and publishing would refuse; PEER_UNAVAILABLE when Activation can't be asked."""
    violations = draft_violations(draft)
    journeys = {draft.journey_id: draft.journey}
    with translate_errors():
        surroundings = await read_surroundings(pool, journeys)
        known = ID_PATTERN.fullmatch(draft.journey_id)
        row = await store.get_journey(pool, draft.journey_id) if known else None
        newest = await store.get_newest_versions(pool, [draft.journey_id]) if row is not None else {}
    named = reference_violations(journeys, {}, surroundings)[draft.journey_id]
    if draft.journey_id in newest:
        named += type_violations(draft.journey, newest[draft.journey_id].document)
    if row is not None and row.state == "ENDED":
        text = f"{draft.journey.name} has ended for good and can't be published again; take another name"
        named.append(FieldViolation("name", text))
    return [*violations, *named, *await checker.check(destinations_of(draft, violations))]


async def get_version(pool: Pool, journey_id: str, version: int) -> VersionRow:
    """One published version, or NOT_FOUND."""
    with translate_errors():
        row = await store.get_version(pool, journey_id, version)
    if row is None:
        raise not_found(f"journeys/{journey_id}/versions/{version}")
    return row


async def list_versions(pool: Pool, journey_id: str, before: int, limit: int) -> Page[VersionRow]:
    """A page of versions below a number, newest first; NOT_FOUND without the journey."""
    with translate_errors():
        page = await store.list_versions(pool, journey_id, before, limit)
    if not page.rows:
        await get_journey(pool, journey_id)
    return page


async def diff_versions(
    pool: Pool, journey_id: str, from_version: int, to_version: int
) -> tuple[Difference, ...]:
    """What changed from one version to another, or to the draft with the segments as they are now when that is 0. NOT_FOUND."""
    before = await get_version(pool, journey_id, from_version)
    if to_version:
        after = await get_version(pool, journey_id, to_version)
        journey, segments = Journey.FromString(after.document), after.segments
    else:
        journey = Journey.FromString((await get_journey(pool, journey_id)).draft)
        with translate_errors():
            surroundings = await read_surroundings(pool, {journey_id: journey})
        segments = surroundings.pack_segments(journey)
    return (
        *diff_journeys(Journey.FromString(before.document), journey),
        *diff_segments(unpack_segments(before.segments), unpack_segments(segments)),
    )


async def list_changes(pool: Pool, after_revision: int) -> Changes:
    """The versions and lives after a revision, those of at most 1,000 revisions."""
    with translate_errors():
        changes = await store_lives.list_changes(pool, after_revision, MAX_CHANGES, store.PAGE_BYTES)
    if after_revision > changes.newest:
        rule = (
            f"is {after_revision}, and the newest revision is {changes.newest}: "
            "this is another database, begin again from 0"
        )
        raise invalid(f"after_revision {rule}.", [FieldViolation("after_revision", rule)])
    return changes


async def acknowledge_revision(pool: Pool, watcher: str, revision: int, *, leaving: bool) -> None:
    """Note what a watcher serves, or that it leaves."""
    with translate_errors():
        if leaving:
            await store.delete_watcher(pool, watcher)
        else:
            await store.put_watcher(pool, watcher, revision, await store.read_clock(pool))


async def list_watchers(pool: Pool) -> tuple[list[WatcherRow], int]:
    """The live watchers and the newest revision.

    The revision is read first: a watcher may be ahead of the revision told here, never wrongly behind it.
    """
    with translate_errors():
        newest = await store.read_revision(pool)
        return await store.list_watchers(pool, await store.read_clock(pool)), newest


async def _insert(connection: AnyConnection, draft: Draft) -> JourneyRow | None:
    return await store.insert_journey(connection, draft.journey_id, draft.document, draft.etag, now_us())
