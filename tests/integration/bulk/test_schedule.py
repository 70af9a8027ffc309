"""From a journey's schedule to a run: the real Scheduler fires, the real Evaluator runs."""

import grpc
from house import until

from cairn.api.definition.v1 import definition_pb2
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub

JOURNEY = """
name: every-morning
type: BATCH
audience: profile.morning == true
schedule: {cron: 0 6 * * *, time_zone: Asia/Tokyo}
stages:
  - name: told
    entry: profile.age >= 18
    steps: [{activation: {channel: ledger}}]
"""
NAME = "schedules/journey.every-morning"


async def test_a_schedule_begins_a_run_once_and_goes_with_its_journey(bulk) -> None:
    await bulk.cairn.publish(JOURNEY)
    await bulk.take([(f"morning-{number}", {"morning": True, "age": 16 + number}) for number in range(10)])
    scheduler = SchedulerServiceStub(bulk.cairn.channel("scheduler"))

    async def schedule() -> scheduler_pb2.Schedule | None:
        try:
            request = scheduler_pb2.GetScheduleRequest(name=NAME)
            return (await scheduler.GetSchedule(request, timeout=20)).schedule
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return None

    await until(schedule, "the Scheduler has the journey's schedule")
    found = await schedule()
    assert found is not None
    assert (found.cron, found.time_zone, found.next_time.ToDatetime().hour) == ("0 6 * * *", "Asia/Tokyo", 21)

    for _ in range(2):
        await scheduler.RunSchedule(
            scheduler_pb2.RunScheduleRequest(name=NAME, request_id="by hand"), timeout=20
        )

    async def runs() -> list[pb.Run]:
        request = pb.ListRunsRequest(parent="journeys/every-morning")
        return list((await bulk.stub.ListRuns(request, timeout=20)).runs)

    async def is_done() -> bool:
        return [each.state for each in await runs()] == [pb.RUN_STATE_DONE]

    await until(is_done, "the run that the schedule began is over")
    (run,) = await runs()
    assert run.cause.startswith("schedule ")
    assert (run.progress.entered, run.progress.activated) == (8, 8)

    definition = DefinitionServiceStub(bulk.cairn.channel("definition"))
    await definition.EndJourney(definition_pb2.EndJourneyRequest(name="journeys/every-morning"), timeout=20)

    async def is_gone() -> bool:
        return await schedule() is None

    await until(is_gone, "an ended journey has no schedule")
    assert len(await runs()) == 1
