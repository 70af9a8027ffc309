"""Owns publishing: drafts become versions that never change, all of a set or none.

Refuses a draft that changed after it was checked, and any set with something wrong in it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from cairn.api.definition.v1.definition_pb2 import PublishJourneysResponse
from cairn.api.definition.v1.journey_pb2 import Journey
from cairn.definition import metrics, store
from cairn.definition.destinations import DestinationChecker
from cairn.definition.drafts import destinations_of, draft_of, draft_violations
from cairn.definition.repeat import Call, earlier_answer, once
from cairn.definition.store import JourneyRow, VersionRow
from cairn.postgres.pool import AnyConnection, Pool, translate_errors
from cairn.runtime.clock import now_us
from cairn.runtime.errors import FieldViolation, aborted_etag, invalid, not_found

Item = tuple[str, str]
"""A journey's id and the etag that its draft must have, "" for any."""

PublishCall = Call[Sequence[VersionRow], PublishJourneysResponse]


async def check_publication(pool: Pool, checker: DestinationChecker, items: Sequence[Item]) -> dict[str, str]:
    """The etag of each draft found fit to be published, by journey id.

    Raises NOT_FOUND, ABORTED, PEER_UNAVAILABLE, or INVALID_ARGUMENT with all that is wrong in the whole set.
    """
    ids = [journey_id for journey_id, _ in items]
    with translate_errors():
        rows = await store.get_journeys(pool, ids)
        newest = await store.get_newest_versions(pool, ids)
    _require_present(rows, items)
    violations: list[FieldViolation] = []
    named = []
    for index, journey_id in enumerate(ids):
        row = rows[journey_id]
        if _is_published(row, newest.get(journey_id)):
            continue
        draft = draft_of(Journey.FromString(row.draft))
        # Rules may have become stricter since the draft was saved.
        own = draft_violations(draft)
        violations += [replace(one, field=_item_path(index, one.field)) for one in own]
        named += [replace(one, path=_item_path(index, one.path)) for one in destinations_of(draft, own)]
    violations += await checker.check(named)
    if violations:
        told = [_with_name(one, ids) for one in violations]
        raise invalid("Nothing was published", told)
    return {journey_id: row.etag for journey_id, row in rows.items()}


async def publish_journeys(
    pool: Pool,
    checker: DestinationChecker,
    announce: Callable[[int], None],
    items: Sequence[Item],
    call: PublishCall,
) -> PublishJourneysResponse:
    """Check the drafts, freeze them as versions, and `announce` the newest revision once it is committed."""
    answer = await earlier_answer(pool, call)
    if answer is not None:
        return answer
    # Outside the transaction: no lock may wait for another service.
    checked = await check_publication(pool, checker, items)
    fresh_count = 0

    async def act(connection: AnyConnection) -> list[VersionRow]:
        nonlocal fresh_count
        versions, fresh_count = await _freeze(connection, items, checked)
        return versions

    response = await once(pool, call, act)
    metrics.PUBLICATIONS.inc(fresh_count)
    announce(response.revision)
    return response


async def _freeze(
    connection: AnyConnection, items: Sequence[Item], checked: dict[str, str]
) -> tuple[list[VersionRow], int]:
    """The version of each item in their order, and how many of them are new."""
    ids = [journey_id for journey_id, _ in items]
    rows = await store.get_journeys(connection, ids, lock=True)
    _require_present(rows, [(journey_id, checked[journey_id]) for journey_id in ids])
    versions = await store.get_newest_versions(connection, ids)
    changed = [rows[one] for one in ids if not _is_published(rows[one], versions.get(one))]
    if changed:
        # The last lock to be taken, because every other publisher waits for it.
        last = await store.take_revisions(connection, len(changed))
        publish_us = now_us()
        fresh = [
            VersionRow(row.journey_id, row.latest_version + 1, row.draft, row.etag, publish_us, revision)
            for revision, row in enumerate(changed, start=last - len(changed) + 1)
        ]
        await store.insert_versions(connection, fresh)
        versions |= {row.journey_id: row for row in fresh}
    return [versions[journey_id] for journey_id in ids], len(changed)


def _require_present(rows: dict[str, JourneyRow], items: Sequence[Item]) -> None:
    for journey_id, etag in items:
        row = rows.get(journey_id)
        if row is None:
            raise not_found(f"journeys/{journey_id}")
        if etag not in ("", row.etag):
            raise aborted_etag(f"journeys/{journey_id}")


def _is_published(row: JourneyRow, newest: VersionRow | None) -> bool:
    return newest is not None and newest.etag == row.etag


def _item_path(index: int, path: str) -> str:
    return f"items[{index}].{path}" if path else f"items[{index}]"


def _with_name(violation: FieldViolation, ids: Sequence[str]) -> FieldViolation:
    """Say whose violation it is: a place in a request tells a person nothing."""
    index = int(violation.field.removeprefix("items[").split("]", 1)[0])
    return replace(violation, description=f"journeys/{ids[index]}: {violation.description}")
