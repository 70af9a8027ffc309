"""Owns publishing: drafts become versions that never change, all of a set or none.

Refuses a draft that changed after it was checked, a journey that has ended, and any set with something wrong in it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from cairn.api.definition.v1.definition_pb2 import PublishJourneysResponse
from cairn.api.definition.v1.journey_pb2 import Journey
from cairn.definition import metrics, store, store_lives
from cairn.definition.destinations import DestinationChecker
from cairn.definition.drafts import Draft, destinations_of, draft_of, draft_violations
from cairn.definition.life import refuse
from cairn.definition.references import read_surroundings, reference_violations, type_violations
from cairn.definition.repeat import Call, earlier_answer, once
from cairn.definition.store import JourneyRow, VersionRow
from cairn.postgres.pool import AnyConnection, Pool, translate_errors
from cairn.runtime.clock import now_us
from cairn.runtime.errors import FieldViolation, aborted_etag, invalid, not_found

Item = tuple[str, str]
"""A journey's id and the etag that its draft must have, "" for any."""

PublishCall = Call[Sequence[VersionRow], PublishJourneysResponse]


@dataclass(frozen=True, slots=True)
class _Set:
    """Journeys to publish: their rows and newest versions, and of those that changed since, by id, the draft, its segments
    as a version keeps them, and what is wrong with what it names."""

    rows: Mapping[str, JourneyRow]
    newest: Mapping[str, VersionRow]
    changed: Mapping[str, Draft]
    segments: Mapping[str, bytes]
    violations: Mapping[str, Sequence[FieldViolation]]


async def check_publication(pool: Pool, checker: DestinationChecker, items: Sequence[Item]) -> dict[str, str]:
    """The etag of each draft found fit to be published, by journey id.

    Raises NOT_FOUND, ABORTED, FAILED_PRECONDITION for a journey that has ended, PEER_UNAVAILABLE, or INVALID_ARGUMENT with
    all that is wrong in the whole set.
    """
    ids = [journey_id for journey_id, _ in items]
    with translate_errors():
        found = await _read_set(pool, items)
    violations: list[FieldViolation] = []
    named = []
    for index, journey_id in enumerate(ids):
        if journey_id in found.changed:
            draft = found.changed[journey_id]
            # Rules may have become stricter since the draft was saved.
            own = draft_violations(draft)
            told = (*own, *found.violations[journey_id])
            violations += [replace(one, field=_item_path(index, one.field)) for one in told]
            named += [replace(one, path=_item_path(index, one.path)) for one in destinations_of(draft, own)]
    violations += await checker.check(named)
    _require_none(violations, ids)
    return {journey_id: row.etag for journey_id, row in found.rows.items()}


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
        versions, fresh_count = await _freeze(connection, [(one, checked[one]) for one, _ in items])
        return versions

    response = await once(pool, call, act)
    metrics.PUBLICATIONS.inc(fresh_count)
    announce(response.revision)
    return response


async def _freeze(connection: AnyConnection, items: Sequence[Item]) -> tuple[list[VersionRow], int]:
    """The version of each item in their order, and how many of them are new."""
    ids = [journey_id for journey_id, _ in items]
    await store.get_journeys(connection, ids, lock=True)
    # The last lock to be taken, because every other publisher waits for it. Behind it nothing that journeys name in each
    # other can change any more, so what was found right before is looked at once again.
    await store.lock_revision(connection)
    found = await _read_set(connection, items)
    _require_none(
        [
            replace(one, field=_item_path(ids.index(journey_id), one.field))
            for journey_id, violations in found.violations.items()
            for one in violations
        ],
        ids,
    )
    if not found.changed:
        return [found.newest[journey_id] for journey_id in ids], 0
    last = await store.take_revisions(connection, len(found.changed))
    publish_us = now_us()
    rows = [found.rows[journey_id] for journey_id in found.changed]
    fresh = [
        VersionRow(
            row.journey_id,
            row.latest_version + 1,
            row.draft,
            row.etag,
            publish_us,
            revision,
            found.segments[row.journey_id],
        )
        for revision, row in enumerate(rows, start=last - len(rows) + 1)
    ]
    await store.insert_versions(connection, fresh)
    await store_lives.begin_lives(connection, [row for row in fresh if row.version == 1])
    versions = {**found.newest, **{row.journey_id: row for row in fresh}}
    return [versions[journey_id] for journey_id in ids], len(fresh)


async def _read_set(database: store.Database, items: Sequence[Item]) -> _Set:
    """The set as it is now; NOT_FOUND, ABORTED, FAILED_PRECONDITION unless each of it is there to be published."""
    ids = [journey_id for journey_id, _ in items]
    rows = await store.get_journeys(database, ids)
    _require_present(rows, items)
    newest = await store.get_newest_versions(database, ids)
    drafts = {journey_id: draft_of(Journey.FromString(rows[journey_id].draft)) for journey_id in ids}
    journeys = {journey_id: draft.journey for journey_id, draft in drafts.items()}
    surroundings = await read_surroundings(database, journeys)
    segments = {journey_id: surroundings.pack_segments(journey) for journey_id, journey in journeys.items()}
    changed = {
        journey_id: draft
        for journey_id, draft in drafts.items()
        if not _is_published(rows[journey_id], segments[journey_id], newest.get(journey_id))
    }
    violations = reference_violations(
        {journey_id: journeys[journey_id] for journey_id in changed},
        {journey_id: journey for journey_id, journey in journeys.items() if journey_id not in changed},
        surroundings,
    )
    for journey_id, draft in changed.items():
        if journey_id in newest:
            violations[journey_id] += type_violations(draft.journey, newest[journey_id].document)
    return _Set(rows, newest, changed, segments, violations)


def _require_present(rows: Mapping[str, JourneyRow], items: Sequence[Item]) -> None:
    for journey_id, etag in items:
        row = rows.get(journey_id)
        if row is None:
            raise not_found(f"journeys/{journey_id}")
        if etag not in ("", row.etag):
            raise aborted_etag(f"journeys/{journey_id}")
        if row.state == "ENDED":
            refuse(journey_id, "has ended for good and can't be published again; create another journey")


def _require_none(violations: Sequence[FieldViolation], ids: Sequence[str]) -> None:
    if violations:
        raise invalid("Nothing was published", [_with_name(one, ids) for one in violations])


def _is_published(row: JourneyRow, segments: bytes, newest: VersionRow | None) -> bool:
    return newest is not None and newest.etag == row.etag and newest.segments == segments


def _item_path(index: int, path: str) -> str:
    return f"items[{index}].{path}" if path else f"items[{index}]"


def _with_name(violation: FieldViolation, ids: Sequence[str]) -> FieldViolation:
    """Say whose violation it is: a place in a request tells a person nothing."""
    index = int(violation.field.removeprefix("items[").split("]", 1)[0])
    return replace(violation, description=f"journeys/{ids[index]}: {violation.description}")
