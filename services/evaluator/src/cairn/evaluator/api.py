"""Owns the gRPC surface of the Evaluator: parse, one operation, render."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Any

from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import ReceiptSinkServiceServicer
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceServicer
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.api.scheduler.v1.scheduler_pb2_grpc import TimerSinkServiceServicer
from cairn.evaluator import operations
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.explaining import explain
from cairn.evaluator.exporting import export_pages, list_profiles
from cairn.evaluator.importing import Importer
from cairn.evaluator.intake import Intake
from cairn.evaluator.runs import Runs
from cairn.evaluator.simulating import run_once, run_pages, simulation_of
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us, to_duration
from cairn.runtime.errors import CairnError
from cairn.runtime.service import Role

FULL_NAME = "cairn.api.evaluator.v1.EvaluatorService"
TIMER_SINK_NAME = "cairn.api.scheduler.v1.TimerSinkService"
RECEIPT_SINK_NAME = "cairn.api.activation.v1.ReceiptSinkService"

ROLES = {
    "IngestEvents": Role.PRODUCE,
    "StreamEvents": Role.PRODUCE,
    "UpsertProfiles": Role.PRODUCE,
    "ImportProfiles": Role.PRODUCE,
    "ExportProfiles": Role.READ,
    "ListProfiles": Role.READ,
    "EraseProfiles": Role.OPERATE,
    "GetProfile": Role.READ,
    "GetEnrollment": Role.READ,
    "ListEnrollments": Role.READ,
    "GetTimeline": Role.READ,
    "Explain": Role.READ,
    "Simulate": Role.READ,
    "SimulateOnce": Role.READ,
    "RunBatch": Role.OPERATE,
    "StartRun": Role.OPERATE,
    "PreviewRun": Role.READ,
    "GetRun": Role.READ,
    "ListRuns": Role.READ,
    "PauseRun": Role.OPERATE,
    "ResumeRun": Role.OPERATE,
    "CancelRun": Role.OPERATE,
}
TIMER_SINK_ROLES = {"FireTimers": Role.OPERATE, "FireSchedule": Role.OPERATE}
RECEIPT_SINK_ROLES = {"DeliverReceipts": Role.OPERATE}

# How many batches of one stream may be under way: enough to keep the lanes busy, few enough to bound memory.
STREAM_WINDOW = 16

_Context = Any


class EvaluatorApi(EvaluatorServiceServicer):
    """EvaluatorService; its calls are described in the contract."""

    def __init__(
        self,
        pool: Pool,
        bucket_count: int,
        book: JourneyBook,
        intake: Intake,
        importer: Importer,
        runs: Runs,
    ) -> None:
        self._pool = pool
        self._bucket_count = bucket_count
        self._book = book
        self._intake = intake
        self._importer = importer
        self._runs = runs

    async def IngestEvents(
        self, request: pb.IngestEventsRequest, context: _Context
    ) -> pb.IngestEventsResponse:
        taken = await self._intake.ingest(request.events, request.min_revision, request.replay)
        return pb.IngestEventsResponse(
            accepted=taken.accepted, duplicates=taken.duplicates, refusals=taken.messages()
        )

    async def StreamEvents(
        self, request_iterator: AsyncIterable[pb.StreamEventsRequest], context: _Context
    ) -> AsyncIterator[pb.StreamEventsResponse]:
        under_way: set[asyncio.Task[pb.StreamEventsResponse]] = set()
        requests = aiter(request_iterator)
        reading: asyncio.Future[pb.StreamEventsRequest | None] | None = asyncio.ensure_future(
            self._next(requests)
        )
        try:
            while reading is not None or under_way:
                waiting: set[asyncio.Future[Any]] = set(under_way)
                # A caller that sends faster than we commit is held by gRPC's flow control, not by our memory.
                if reading is not None and len(under_way) < STREAM_WINDOW:
                    waiting.add(reading)
                done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                if reading is not None and reading in done:
                    request = reading.result()
                    reading = None
                    if request is not None:
                        under_way.add(asyncio.create_task(self._batch(request)))
                        reading = asyncio.ensure_future(self._next(requests))
                for task in under_way & done:
                    under_way.discard(task)
                    yield task.result()
        finally:
            for task in under_way:
                task.cancel()

    async def _next(self, requests: AsyncIterator[pb.StreamEventsRequest]) -> pb.StreamEventsRequest | None:
        """The next request, as soon as there is room for it; None after the last."""
        await self._intake.room()
        return await anext(requests, None)

    async def _batch(self, request: pb.StreamEventsRequest) -> pb.StreamEventsResponse:
        """One batch of a stream; its failure is its answer, and the stream goes on."""
        try:
            taken = await self._intake.ingest(request.events, request.min_revision, request.replay)
        except CairnError as error:
            return pb.StreamEventsResponse(sequence=request.sequence, error=_batch_error(error))
        return pb.StreamEventsResponse(
            sequence=request.sequence,
            accepted=taken.accepted,
            duplicates=taken.duplicates,
            refusals=taken.messages(),
        )

    async def UpsertProfiles(
        self, request: pb.UpsertProfilesRequest, context: _Context
    ) -> pb.UpsertProfilesResponse:
        taken = await self._intake.upsert(request.profiles, request.mode)
        return pb.UpsertProfilesResponse(accepted=taken.accepted, refusals=taken.messages())

    async def ImportProfiles(
        self, request_iterator: AsyncIterable[pb.ImportProfilesRequest], context: _Context
    ) -> pb.ImportProfilesResponse:
        return await self._importer.take(request_iterator)

    async def ExportProfiles(
        self, request: pb.ExportProfilesRequest, context: _Context
    ) -> AsyncIterator[pb.ExportProfilesResponse]:
        async for page in export_pages(self._pool, self._bucket_count, request, now_us()):
            yield page

    async def ListProfiles(
        self, request: pb.ListProfilesRequest, context: _Context
    ) -> pb.ListProfilesResponse:
        return await list_profiles(self._pool, self._bucket_count, request, now_us())

    async def EraseProfiles(
        self, request: pb.EraseProfilesRequest, context: _Context
    ) -> pb.EraseProfilesResponse:
        return pb.EraseProfilesResponse(erased=await self._intake.erase(request.profile_ids))

    async def GetProfile(self, request: pb.GetProfileRequest, context: _Context) -> pb.GetProfileResponse:
        profile = await operations.get_profile(self._pool, self._bucket_count, request.name)
        return pb.GetProfileResponse(profile=profile)

    async def GetEnrollment(
        self, request: pb.GetEnrollmentRequest, context: _Context
    ) -> pb.GetEnrollmentResponse:
        enrollment = await operations.get_enrollment(self._pool, self._bucket_count, self._book, request.name)
        return pb.GetEnrollmentResponse(enrollment=enrollment)

    async def ListEnrollments(
        self, request: pb.ListEnrollmentsRequest, context: _Context
    ) -> pb.ListEnrollmentsResponse:
        return await operations.list_enrollments(self._pool, self._bucket_count, self._book, request)

    async def GetTimeline(self, request: pb.GetTimelineRequest, context: _Context) -> pb.GetTimelineResponse:
        return await operations.get_timeline(self._pool, self._bucket_count, request)

    async def Explain(self, request: pb.ExplainRequest, context: _Context) -> pb.ExplainResponse:
        return await explain(self._pool, self._bucket_count, self._book, request)

    async def Simulate(
        self, request: pb.SimulateRequest, context: _Context
    ) -> AsyncIterator[pb.SimulateResponse]:
        for page in run_pages(simulation_of(self._book, request)):
            yield pb.SimulateResponse(transitions=page)
            # Between pages events and timers have their turn.
            await asyncio.sleep(0)

    async def SimulateOnce(
        self, request: pb.SimulateOnceRequest, context: _Context
    ) -> pb.SimulateOnceResponse:
        return run_once(simulation_of(self._book, request.simulation))

    async def RunBatch(
        self, request: pb.RunBatchRequest, context: _Context
    ) -> AsyncIterator[pb.RunBatchResponse]:
        if request.validate_only:
            answers = self._runs.preview(request.journey, request.min_revision)
        else:
            answers = self._runs.run(request.journey, request.request_id, request.min_revision)
        async for answer in answers:
            yield answer

    async def StartRun(self, request: pb.StartRunRequest, context: _Context) -> pb.StartRunResponse:
        run = await self._runs.start(request.journey, request.request_id, request.min_revision)
        return pb.StartRunResponse(run=run)

    async def PreviewRun(self, request: pb.PreviewRunRequest, context: _Context) -> pb.PreviewRunResponse:
        return await self._runs.preview_once(request.journey, request.min_revision)

    async def GetRun(self, request: pb.GetRunRequest, context: _Context) -> pb.GetRunResponse:
        return pb.GetRunResponse(run=await self._runs.get(request.name))

    async def ListRuns(self, request: pb.ListRunsRequest, context: _Context) -> pb.ListRunsResponse:
        return await self._runs.list_page(request)

    async def PauseRun(self, request: pb.PauseRunRequest, context: _Context) -> pb.PauseRunResponse:
        return pb.PauseRunResponse(run=await self._runs.pause(request.name))

    async def ResumeRun(self, request: pb.ResumeRunRequest, context: _Context) -> pb.ResumeRunResponse:
        return pb.ResumeRunResponse(run=await self._runs.resume(request.name))

    async def CancelRun(self, request: pb.CancelRunRequest, context: _Context) -> pb.CancelRunResponse:
        return pb.CancelRunResponse(run=await self._runs.cancel(request.name))


class TimerSinkApi(TimerSinkServiceServicer):
    """TimerSinkService, as the Scheduler's contract describes it."""

    def __init__(self, intake: Intake, runs: Runs) -> None:
        self._intake = intake
        self._runs = runs

    async def FireTimers(
        self, request: scheduler_pb2.FireTimersRequest, context: _Context
    ) -> scheduler_pb2.FireTimersResponse:
        return scheduler_pb2.FireTimersResponse(answers=await self._intake.fire(request.timers))

    async def FireSchedule(
        self, request: scheduler_pb2.FireScheduleRequest, context: _Context
    ) -> scheduler_pb2.FireScheduleResponse:
        return scheduler_pb2.FireScheduleResponse(answer=await self._runs.fire(request))


class ReceiptSinkApi(ReceiptSinkServiceServicer):
    """ReceiptSinkService, as Activation's contract describes it."""

    def __init__(self, intake: Intake) -> None:
        self._intake = intake

    async def DeliverReceipts(
        self, request: activation_pb2.DeliverReceiptsRequest, context: _Context
    ) -> activation_pb2.DeliverReceiptsResponse:
        await self._intake.record(request.receipts)
        return activation_pb2.DeliverReceiptsResponse()


def _batch_error(error: CairnError) -> pb.BatchError:
    delay = None if error.retry_after_s is None else to_duration(round(error.retry_after_s * 1_000_000))
    return pb.BatchError(reason=error.reason, message=error.message, retry_delay=delay)
