"""Owns the handlers of DefinitionService: parse, one operation, render. Refuses to decide anything."""

from collections.abc import AsyncIterator

from cairn.api.definition.v1 import definition_pb2 as pb
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceServicer
from cairn.definition import life, operations, publication, segments, wire, wire_segments
from cairn.definition.destinations import DestinationChecker
from cairn.definition.drafts import draft_of, mask_violations
from cairn.definition.repeat import Call
from cairn.definition.watch import Revisions, watch
from cairn.journey.parse import count_elements
from cairn.journey.segments import segment_draft_of
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
    "PauseJourney": Role.OPERATE,
    "ResumeJourney": Role.OPERATE,
    "EndJourney": Role.OPERATE,
    "GetJourneyVersion": Role.READ,
    "ListJourneyVersions": Role.READ,
    "DiffJourneyVersions": Role.READ,
    "PutSegment": Role.OPERATE,
    "GetSegment": Role.READ,
    "ListSegments": Role.READ,
    "DeleteSegment": Role.OPERATE,
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
        violations = await operations.validate_journey(self._pool, self._checker, draft)
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

    async def PauseJourney(self, request: pb.PauseJourneyRequest, context: object) -> pb.PauseJourneyResponse:
        journey_id = wire.parse_journey_name("name", request.name)
        change = life.paused(wire.parse_pause_mode(request.mode))
        call = Call(
            wire.parse_request_id(request.request_id), request, wire.render_paused, pb.PauseJourneyResponse
        )
        return await life.change_life(self._pool, self._revisions.announce, journey_id, change, call)

    async def ResumeJourney(
        self, request: pb.ResumeJourneyRequest, context: object
    ) -> pb.ResumeJourneyResponse:
        journey_id = wire.parse_journey_name("name", request.name)
        call = Call(
            wire.parse_request_id(request.request_id), request, wire.render_resumed, pb.ResumeJourneyResponse
        )
        return await life.change_life(self._pool, self._revisions.announce, journey_id, life.resumed, call)

    async def EndJourney(self, request: pb.EndJourneyRequest, context: object) -> pb.EndJourneyResponse:
        journey_id = wire.parse_journey_name("name", request.name)
        change = life.ended(remove=request.remove)
        call = Call(
            wire.parse_request_id(request.request_id), request, wire.render_ended, pb.EndJourneyResponse
        )
        return await life.change_life(self._pool, self._revisions.announce, journey_id, change, call)

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

    async def DiffJourneyVersions(
        self, request: pb.DiffJourneyVersionsRequest, context: object
    ) -> pb.DiffJourneyVersionsResponse:
        journey_id = wire.parse_journey_name("name", request.name)
        compared = wire.parse_compared(request.from_version, request.to_version)
        return wire.render_differences(await operations.diff_versions(self._pool, journey_id, *compared))

    async def PutSegment(self, request: pb.PutSegmentRequest, context: object) -> pb.PutSegmentResponse:
        draft = segment_draft_of(request.segment)
        row = await segments.put_segment(self._pool, draft, request.segment.etag)
        return pb.PutSegmentResponse(segment=wire_segments.render_segment(row))

    async def GetSegment(self, request: pb.GetSegmentRequest, context: object) -> pb.GetSegmentResponse:
        row = await segments.get_segment(self._pool, wire_segments.parse_segment_name("name", request.name))
        return pb.GetSegmentResponse(segment=wire_segments.render_segment(row))

    async def ListSegments(self, request: pb.ListSegmentsRequest, context: object) -> pb.ListSegmentsResponse:
        limit, after_id = wire_segments.parse_segment_page(request.page_size, request.page_token)
        return wire_segments.render_segment_page(await segments.list_segments(self._pool, after_id, limit))

    async def DeleteSegment(
        self, request: pb.DeleteSegmentRequest, context: object
    ) -> pb.DeleteSegmentResponse:
        segment_id = wire_segments.parse_segment_name("name", request.name)
        await segments.delete_segment(self._pool, segment_id, request.etag)
        return pb.DeleteSegmentResponse()

    async def WatchJourneys(
        self, request: pb.WatchJourneysRequest, context: object
    ) -> AsyncIterator[pb.WatchJourneysResponse]:
        after = wire.parse_revision("after_revision", request.after_revision)
        async for changes in watch(self._pool, self._revisions, after, self._heartbeat_s):
            yield wire.render_news(changes)

    async def ListJourneyChanges(
        self, request: pb.ListJourneyChangesRequest, context: object
    ) -> pb.ListJourneyChangesResponse:
        after = wire.parse_revision("after_revision", request.after_revision)
        return wire.render_changes(await operations.list_changes(self._pool, after))

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
