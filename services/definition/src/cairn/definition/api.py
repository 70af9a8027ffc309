"""Owns the handlers of DefinitionService: parse, one operation, render. Refuses to decide anything."""

from collections.abc import AsyncIterator

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceServicer
from cairn.definition import operations, publication, wire
from cairn.definition.destinations import DestinationChecker
from cairn.definition.drafts import draft_of, mask_violations
from cairn.definition.repeat import Call
from cairn.definition.watch import Revisions, watch
from cairn.journey.parse import count_elements
from cairn.postgres.pool import Pool
from cairn.runtime.auth import Role
from cairn.runtime.errors import invalid

FULL_NAME = "cairn.api.definition.v1.DefinitionService"

ROLES = {
    "CreateJourney": Role.OPERATE,
    "GetJourney": Role.READ,
    "ListJourneys": Role.READ,
    "UpdateJourney": Role.OPERATE,
    "DeleteJourney": Role.OPERATE,
    "ValidateJourney": Role.READ,
    "PublishJourneys": Role.OPERATE,
    "GetJourneyVersion": Role.READ,
    "ListJourneyVersions": Role.READ,
    "WatchJourneys": Role.READ,
    "ListJourneyChanges": Role.READ,
    "AcknowledgeRevision": Role.OPERATE,
    "ListWatchers": Role.READ,
}
"""The least role of each method."""


class DefinitionApi(DefinitionServiceServicer):
    """Serves journeys from one pool; `heartbeat_s` is the longest silence on a watch, in seconds."""

    def __init__(
        self, pool: Pool, checker: DestinationChecker, revisions: Revisions, heartbeat_s: float
    ) -> None:
        self._pool = pool
        self._checker = checker
        self._revisions = revisions
        self._heartbeat_s = heartbeat_s

    async def CreateJourney(
        self, request: pb.CreateJourneyRequest, context: object
    ) -> pb.CreateJourneyResponse:
        call = Call(
            wire.parse_request_id(request.request_id),
            request,
            wire.render_created,
            pb.CreateJourneyResponse,
        )
        return await operations.create_journey(self._pool, draft_of(request.journey), call)

    async def GetJourney(self, request: pb.GetJourneyRequest, context: object) -> pb.GetJourneyResponse:
        journey_id = wire.parse_journey_name("name", request.name)
        row = await operations.get_journey(self._pool, journey_id)
        return pb.GetJourneyResponse(journey=wire.render_journey(row))

    async def ListJourneys(self, request: pb.ListJourneysRequest, context: object) -> pb.ListJourneysResponse:
        limit, key = wire.parse_page(request.page_size, request.page_token)
        page = await operations.list_journeys(self._pool, wire.parse_journey_key(key), limit)
        return wire.render_journey_page(page)

    async def UpdateJourney(
        self, request: pb.UpdateJourneyRequest, context: object
    ) -> pb.UpdateJourneyResponse:
        journey_id = wire.parse_journey_name("journey.name", request.journey.name)
        paths = list(request.update_mask.paths)
        violations = mask_violations(paths)
        if violations:
            raise invalid("The update mask is wrong", violations)
        call = Call(
            wire.parse_request_id(request.request_id),
            request,
            wire.render_updated,
            pb.UpdateJourneyResponse,
        )
        return await operations.update_journey(
            self._pool, journey_id, request.journey, paths, allow_missing=request.allow_missing, call=call
        )

    async def DeleteJourney(
        self, request: pb.DeleteJourneyRequest, context: object
    ) -> pb.DeleteJourneyResponse:
        journey_id = wire.parse_journey_name("name", request.name)
        await operations.delete_journey(self._pool, journey_id, request.etag)
        return pb.DeleteJourneyResponse()

    async def ValidateJourney(
        self, request: pb.ValidateJourneyRequest, context: object
    ) -> pb.ValidateJourneyResponse:
        draft = draft_of(request.journey)
        violations = await operations.validate_journey(self._checker, draft)
        return pb.ValidateJourneyResponse(
            violations=[pb.Violation(field=one.field, description=one.description) for one in violations],
            elements=count_elements(draft.journey),
        )

    async def PublishJourneys(
        self, request: pb.PublishJourneysRequest, context: object
    ) -> pb.PublishJourneysResponse:
        items = wire.parse_items(request.items)
        call = Call(
            wire.parse_request_id(request.request_id),
            request,
            wire.render_published,
            pb.PublishJourneysResponse,
        )
        if request.validate_only:
            await publication.check_publication(self._pool, self._checker, items)
            return pb.PublishJourneysResponse()
        return await publication.publish_journeys(
            self._pool, self._checker, self._revisions.announce, items, call
        )

    async def GetJourneyVersion(
        self, request: pb.GetJourneyVersionRequest, context: object
    ) -> pb.GetJourneyVersionResponse:
        journey_id, version = wire.parse_version_name("name", request.name)
        row = await operations.get_version(self._pool, journey_id, version)
        return pb.GetJourneyVersionResponse(journey_version=wire.render_version(row))

    async def ListJourneyVersions(
        self, request: pb.ListJourneyVersionsRequest, context: object
    ) -> pb.ListJourneyVersionsResponse:
        journey_id = wire.parse_journey_name("parent", request.parent)
        limit, key = wire.parse_page(request.page_size, request.page_token)
        before = wire.parse_version_key(key)
        page = await operations.list_versions(self._pool, journey_id, before, limit)
        return wire.render_version_page(page)

    async def WatchJourneys(
        self, request: pb.WatchJourneysRequest, context: object
    ) -> AsyncIterator[pb.WatchJourneysResponse]:
        after = wire.parse_revision("after_revision", request.after_revision)
        async for changes in watch(self._pool, self._revisions, after, self._heartbeat_s):
            after = wire.reached(changes, after)
            yield pb.WatchJourneysResponse(
                versions=[wire.render_version(row) for row in changes.versions],
                revision=after,
                caught_up=after >= changes.newest,
            )

    async def ListJourneyChanges(
        self, request: pb.ListJourneyChangesRequest, context: object
    ) -> pb.ListJourneyChangesResponse:
        after = wire.parse_revision("after_revision", request.after_revision)
        changes = await operations.list_changes(self._pool, after)
        reached = wire.reached(changes, after)
        return pb.ListJourneyChangesResponse(
            versions=[wire.render_version(row) for row in changes.versions],
            revision=reached,
            caught_up=reached >= changes.newest,
        )

    async def AcknowledgeRevision(
        self, request: pb.AcknowledgeRevisionRequest, context: object
    ) -> pb.AcknowledgeRevisionResponse:
        watcher = wire.parse_watcher(request.watcher)
        revision = wire.parse_revision("revision", request.revision)
        await operations.acknowledge_revision(self._pool, watcher, revision, leaving=request.leaving)
        return pb.AcknowledgeRevisionResponse()

    async def ListWatchers(self, request: pb.ListWatchersRequest, context: object) -> pb.ListWatchersResponse:
        rows, newest = await operations.list_watchers(self._pool)
        return pb.ListWatchersResponse(watchers=[wire.render_watcher(row) for row in rows], revision=newest)
