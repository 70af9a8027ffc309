"""Runs of batch journeys against the real service: whom they move, how they are begun, paused and ended, and what a dry run counts."""

import asyncio
import time
from collections import Counter
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from house import until

from cairn.api.definition.v1 import definition_pb2
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.scheduler.v1 import scheduler_pb2
from cairn.api.scheduler.v1.scheduler_pb2_grpc import SchedulerServiceStub, TimerSinkServiceStub
from cairn.postgres.bucket import bucket_of
from cairn.runtime.clock import from_timestamp, now_us, to_timestamp

# An hour is a second here.
JOURNEY = """
name: {name}
type: BATCH
audience: profile.group == "{name}"
goal: {{criteria: profile.done == true}}
{more}
stages:
  - name: one
    entry: profile.age >= 18
    milestone: profile.bought == true
    exit_criteria: [{{name: gone, criteria: profile.gone == true}}]
    steps:
      - {{name: hello, activation: {{channel: ledger}}}}
      - {{name: pause, wait: {{duration: {wait}}}}}
      - {{name: again, activation: {{channel: ledger}}}}
  - name: two
    steps:
      - {{name: thanks, activation: {{channel: ledger}}}}
      - {{name: rest, wait: {{duration: 20d}}}}
"""
BEGUN = ["ENTERED", "STAGE_ENTERED", "ACTIVATION_REQUESTED", "WAIT_STARTED"]


@dataclass
class Batch:
    """One batch journey of a test's own, and its people."""

    door: Any
    name: str

    @property
    def resource(self) -> str:
        return f"journeys/{self.name}"

    async def publish(self, *, wait: str = "20d", more: str = "") -> None:
        await self.door.cairn.publish(JOURNEY.format(name=self.name, wait=wait, more=more))

    async def person(self, profile_id: str, **attributes: Any) -> str:
        answer = await self.door.upsert(profile_id, group=self.name, **{"age": 20, **attributes})
        assert answer.accepted == 1
        return profile_id

    async def people(self, count: int) -> list[str]:
        ids = [f"{self.name}-{number:04}" for number in range(count)]
        profiles = [pb.Profile(profile_id=each) for each in ids]
        for profile in profiles:
            profile.attributes.update({"group": self.name, "age": 20})
        answer = await self.door.stub.UpsertProfiles(pb.UpsertProfilesRequest(profiles=profiles), timeout=20)
        assert answer.accepted == count
        return ids

    async def start(self, request_id: str = "") -> pb.Run:
        request = pb.StartRunRequest(
            journey=self.resource, request_id=request_id, min_revision=self.door.cairn.revision
        )
        return (await self.door.stub.StartRun(request, timeout=20)).run

    async def get(self, run: pb.Run) -> pb.Run:
        return (await self.door.stub.GetRun(pb.GetRunRequest(name=run.name), timeout=20)).run

    async def ended(self, run: pb.Run) -> pb.Run:
        async def is_over() -> bool:
            return (await self.get(run)).HasField("end_time")

        await until(is_over, "the run is over")
        return await self.get(run)

    async def run(self) -> pb.RunProgress:
        """A whole run, and what it did."""
        ended = await self.ended(await self.start())
        assert ended.state == pb.RUN_STATE_DONE, ended
        return ended.progress

    async def preview(self) -> pb.PreviewRunResponse:
        request = pb.PreviewRunRequest(journey=self.resource, min_revision=self.door.cairn.revision)
        return await self.door.stub.PreviewRun(request, timeout=20)

    async def kinds(self, profile_id: str) -> list[str]:
        return await self.door.kinds(profile_id, self.name)

    async def end(self) -> None:
        stub = DefinitionServiceStub(self.door.cairn.channel("definition"))
        answer = await stub.EndJourney(definition_pb2.EndJourneyRequest(name=self.resource), timeout=10)
        self.door.cairn.revision = answer.revision


@pytest.fixture
def batch(door, profile_id) -> Batch:
    return Batch(door, f"batch-{profile_id}")


def done(progress: pb.RunProgress) -> tuple[int, int, int, int]:
    return progress.moved, progress.entered, progress.activated, progress.failed


async def test_a_run_moves_who_is_in_the_audience_and_meets_the_entry_once(batch, door, new_id) -> None:
    await batch.publish()
    adult = await batch.person(new_id())
    minor = await batch.person(new_id(), age=17)
    achiever = await batch.person(new_id(), done=True)
    stranger = new_id()
    await door.upsert(stranger, group="another", age=20)
    progress = await batch.run()
    assert done(progress) == (1, 1, 1, 0)
    assert progress.seen == progress.profiles >= 4
    assert await batch.kinds(adult) == BEGUN
    for each in (minor, achiever, stranger):
        assert await batch.kinds(each) == []
    cause = (await door.timeline(adult))[0].transition.cause
    assert cause.startswith("run ")

    async def is_delivered() -> bool:
        deliveries = await door.cairn.deliveries()
        return [each.profile_id for each in deliveries if batch.name in each.journey_version] == [adult]

    await until(is_delivered, "the activation is handed over")
    revision = (await door.profile(adult)).revision
    # Nothing has changed, so that nothing is done.
    assert done(await batch.run()) == (0, 0, 0, 0)
    await batch.person(minor, age=18)
    assert done(await batch.run()) == (1, 1, 1, 0)
    # What moves a real-time journey moves nothing here; the fate of the activation is noted.
    assert (await door.profile(adult)).revision <= revision + 1


async def test_rules_act_with_a_run_and_with_nothing_else(batch, door, new_id) -> None:
    await batch.publish()
    buyer, leaver, achiever, still = [await batch.person(new_id()) for _ in range(4)]
    await batch.run()
    await batch.person(buyer, bought=True)
    await batch.person(leaver, gone=True)
    await batch.person(achiever, done=True)
    assert await batch.kinds(buyer) == BEGUN
    assert done(await batch.run()) == (3, 0, 1, 0)
    # Whether the first activation has its receipt by now is a matter of luck.
    kinds = [each for each in await batch.kinds(buyer) if each != "ACTIVATION_WITHDRAWN"]
    assert kinds == [*BEGUN, "WAIT_CANCELED", "STAGE_ENTERED", "ACTIVATION_REQUESTED", "WAIT_STARTED"]
    assert await door.states(leaver) == {batch.name: "EXITED"}
    assert await door.states(achiever) == {batch.name: "GOAL_ACHIEVED"}
    assert await batch.kinds(still) == BEGUN
    # Who is out stays out: by default nobody begins twice.
    await batch.person(leaver, gone=False)
    assert done(await batch.run()) == (0, 0, 0, 0)


async def test_a_wait_ends_with_the_first_run_after_it(batch, door, profile_id) -> None:
    await batch.publish(wait="1h")
    await batch.person(profile_id)
    began_us = now_us()
    await batch.run()

    async def has_ended() -> bool:
        progress = await batch.run()
        if not progress.moved:
            return False
        assert done(progress) == (1, 0, 1, 0)
        return True

    await until(has_ended, "a run finds that the wait is over")
    assert now_us() >= began_us + 1_000_000
    assert (await batch.kinds(profile_id))[:4] == BEGUN
    entries = [each.transition for each in await door.timeline(profile_id) if each.transition.kind]
    (ended,) = [each for each in entries if each.kind == pb.TRANSITION_KIND_WAIT_ENDED]
    (entered,) = [each for each in entries if each.kind == pb.TRANSITION_KIND_ENTERED]
    # At its own time, not at the run's.
    assert from_timestamp(ended.time) == from_timestamp(entered.time) + 1_000_000


async def test_who_may_begin_again_does_with_the_next_run(batch, profile_id) -> None:
    await batch.publish(more="reentry: {mode: ALWAYS}")
    await batch.person(profile_id)
    await batch.run()
    await batch.person(profile_id, gone=True)
    assert done(await batch.run()) == (1, 0, 0, 0)
    # Not with the run that ended it, but with each that finds him outside.
    await batch.person(profile_id, gone=False)
    assert done(await batch.run()) == (1, 1, 1, 0)


async def test_one_run_at_a_time_and_one_for_each_request(batch, door) -> None:
    await batch.publish(more="rate: 4/s")
    await batch.people(40)
    first = await batch.start("mine")
    assert (await batch.start("mine")).name == first.name
    refusal = await door.refusal(batch.start("other"))
    assert refusal.code is grpc.StatusCode.FAILED_PRECONDITION
    assert first.name in refusal.message
    assert refusal.metadata["run"] == first.name
    canceled = (await door.stub.CancelRun(pb.CancelRunRequest(name=first.name), timeout=10)).run
    assert canceled.state == pb.RUN_STATE_CANCELED
    # Also when it is over.
    assert (await batch.start("mine")).name == first.name
    for call in (
        door.stub.PauseRun(pb.PauseRunRequest(name=first.name)),
        door.stub.ResumeRun(pb.ResumeRunRequest(name=first.name)),
        door.stub.CancelRun(pb.CancelRunRequest(name=first.name)),
    ):
        assert (await door.refusal(call)).code is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_run_keeps_its_rate_and_stops_goes_on_and_ends_when_told(batch, door) -> None:
    await batch.publish(more="rate: 80/s")
    await batch.people(400)
    began = time.monotonic()
    run = await batch.start()

    async def activated() -> int:
        return (await batch.get(run)).progress.activated

    await until(lambda: _at_least(activated, 10), "it has begun")
    paused = (await door.stub.PauseRun(pb.PauseRunRequest(name=run.name), timeout=10)).run
    assert paused.state == pb.RUN_STATE_PAUSED

    async def stands_still() -> bool:
        before = await activated()
        await asyncio.sleep(1.5)
        return await activated() == before

    await until(stands_still, "it has stopped")
    count = await activated()
    assert count <= 80 * (time.monotonic() - began) + 20
    assert count < 400
    resumed = (await door.stub.ResumeRun(pb.ResumeRunRequest(name=run.name), timeout=10)).run
    assert resumed.state == pb.RUN_STATE_RUNNING
    ended = await batch.ended(run)
    assert done(ended.progress) == (400, 400, 400, 0)
    assert 80 * (time.monotonic() - began) + 20 >= 400


async def _at_least(value: Any, least: int) -> bool:
    return await value() >= least


async def test_a_dry_run_counts_what_the_run_then_does_and_does_nothing(batch, door, new_id) -> None:
    await batch.publish(more="reentry: {mode: ALWAYS}")
    people = [await batch.person(new_id(), n=number) for number in range(6)]
    await batch.run()
    for number, change in enumerate(({"bought": True}, {"gone": True}, {"done": True}, {})):
        await batch.person(people[number], **change)
    people += [await batch.person(new_id()) for _ in range(3)]
    before = {each: len(await batch.kinds(each)) for each in people}
    preview = await batch.preview()
    assert {each: len(await batch.kinds(each)) for each in people} == before
    assert not preview.run.name
    assert preview.run.state == pb.RUN_STATE_DONE
    progress = await batch.run()
    assert done(preview.run.progress) == done(progress) == (6, 3, 4, 0)
    happened: Counter[tuple[str, str, str]] = Counter()
    for each in people:
        for kind in (await batch.kinds(each))[before[each] :]:
            happened[kind] += 1
    counted: Counter[str] = Counter()
    for each in preview.counts:
        counted[pb.TransitionKind.Name(each.kind).removeprefix("TRANSITION_KIND_")] += each.count
    # What has its receipt meanwhile is not withdrawn any more.
    for kinds in (happened, counted):
        kinds.pop("ACTIVATION_WITHDRAWN", None)
    assert counted == happened
    places = [(each.stage, each.step) for each in preview.counts]
    assert places.index(("one", "hello")) < places.index(("one", "pause")) < places.index(("two", "thanks"))
    assert {each.way for each in preview.counts if each.kind == pb.TRANSITION_KIND_EXITED} == {"gone"}


async def test_progress_is_told_until_the_run_is_over_and_runs_are_listed(batch, door) -> None:
    await batch.publish()
    await batch.people(5)
    request = pb.RunBatchRequest(
        journey=batch.resource, request_id="followed", min_revision=door.cairn.revision
    )
    told = [each.run async for each in door.stub.RunBatch(request, timeout=20)]
    assert told[-1].state == pb.RUN_STATE_DONE
    assert done(told[-1].progress) == (5, 5, 5, 0)
    assert {each.name for each in told} == {told[0].name}
    counted = [
        each
        async for each in door.stub.RunBatch(
            pb.RunBatchRequest(journey=batch.resource, validate_only=True), timeout=20
        )
    ]
    assert counted[-1].run.state == pb.RUN_STATE_DONE
    assert not counted[-1].counts
    await batch.run()
    found: list[str] = []
    page = pb.ListRunsRequest(parent=batch.resource, page_size=1)
    while True:
        answer = await door.stub.ListRuns(page, timeout=10)
        found += [each.name for each in answer.runs]
        if not answer.next_page_token:
            break
        page.page_token = answer.next_page_token
    assert len(found) == 2
    assert found[1] == told[0].name
    everybody = await door.stub.ListRuns(pb.ListRunsRequest(parent="journeys/-"), timeout=10)
    assert set(found) <= {each.name for each in everybody.runs}


@pytest.mark.parametrize(
    ("journey", "code", "says"),
    [
        ("journeys/cart", grpc.StatusCode.FAILED_PRECONDITION, "is REAL_TIME"),
        ("journeys/nobodys", grpc.StatusCode.NOT_FOUND, "journeys/nobodys"),
        ("cart", grpc.StatusCode.INVALID_ARGUMENT, "journeys/{id}"),
        ("journeys/Cart", grpc.StatusCode.INVALID_ARGUMENT, "journeys/{id}"),
    ],
)
async def test_what_can_not_run_is_refused(door, journey, code, says) -> None:
    for call in (
        door.stub.StartRun(pb.StartRunRequest(journey=journey), timeout=10),
        door.stub.PreviewRun(pb.PreviewRunRequest(journey=journey), timeout=10),
    ):
        refusal = await door.refusal(call)
        assert refusal.code is code
        assert says in refusal.message


async def test_a_journey_that_has_ended_does_not_run(batch, door) -> None:
    await batch.publish(more="rate: 1/s")
    await batch.people(30)
    run = await batch.start()
    await batch.end()
    ended = await batch.ended(run)
    assert ended.state == pb.RUN_STATE_FAILED
    assert ended.problem == "The journey has ended."
    assert (await door.refusal(batch.start())).code is grpc.StatusCode.FAILED_PRECONDITION


async def test_what_sql_can_not_read_is_left_to_the_machine(batch, door, database, new_id) -> None:
    await batch.publish()
    odd = await batch.person(new_id(), note="a\0b")
    plain = await batch.person(new_id())
    damaged = f"damaged-{batch.name}"
    await database.execute(
        "INSERT INTO profiles (bucket, profile_id, revision, attributes, standings, update_time) VALUES ($1, $2, 1, $3, '{}', now())",
        bucket_of(damaged, await database.fetchval("SELECT bucket_count FROM cairn.database")),
        damaged,
        # At a glance he could enter.
        f'{{"group":"{batch.name}","age":20.0',
    )
    try:
        progress = await batch.run()
        assert done(progress) == (2, 2, 2, 1)
        assert await batch.kinds(odd) == await batch.kinds(plain) == BEGUN
    finally:
        await database.execute("DELETE FROM profiles WHERE profile_id = $1", damaged)


async def test_a_profile_that_is_erased_is_moved_no_more(batch, door, new_id) -> None:
    await batch.publish()
    erased, made_anew = await batch.person(new_id()), await batch.person(new_id())
    request = pb.EraseProfilesRequest(profile_ids=[erased, made_anew])
    assert (await door.stub.EraseProfiles(request, timeout=20)).erased == 2
    await batch.person(made_anew)
    assert done(await batch.run()) == (1, 1, 1, 0)
    assert await batch.kinds(made_anew) == BEGUN


# Schedules


class Firing:
    """The door through which the Scheduler tells of what is due."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch
        self.stub = TimerSinkServiceStub(batch.door.cairn.channel("evaluator"))

    async def __call__(self, fire_id: str, due_us: int) -> str:
        request = scheduler_pb2.FireScheduleRequest(
            fire_id=f"{self.batch.name}-{fire_id}",
            schedule=f"schedules/journey.{self.batch.name}",
            due_time=to_timestamp(due_us),
        )
        answer = (await self.stub.FireSchedule(request, timeout=20)).answer
        return scheduler_pb2.TimerAnswer.Name(answer).removeprefix("TIMER_ANSWER_")

    async def runs(self) -> list[pb.Run]:
        request = pb.ListRunsRequest(parent=self.batch.resource)
        return list((await self.batch.door.stub.ListRuns(request, timeout=10)).runs)


@pytest.mark.parametrize("missed", ["RUN_LATE", "SKIP"])
async def test_a_schedule_begins_one_run_for_each_firing(batch, profile_id, missed) -> None:
    await batch.publish(more=f'rate: 1/s\nschedule: {{cron: "0 6 1 1 *", missed: {missed}}}')
    fire = Firing(batch)
    await batch.people(30)
    await batch.preview()
    due_us = now_us()
    assert await fire("one", due_us) == "ACCEPTED"
    assert await fire("one", due_us) == "ACCEPTED"
    (run,) = await fire.runs()
    assert run.cause.startswith("schedule ")
    # It began later than this was due, and does what this would have done.
    assert await fire("earlier", due_us - 1) == "STALE"
    assert await fire("later", now_us() + 1_000_000) == ("RETRY" if missed == "RUN_LATE" else "STALE")
    await batch.door.stub.CancelRun(pb.CancelRunRequest(name=run.name), timeout=10)
    assert await fire("later", now_us()) == "ACCEPTED"
    newest = (await fire.runs())[0]
    await batch.door.stub.CancelRun(pb.CancelRunRequest(name=newest.name), timeout=10)
    await batch.end()
    with pytest.raises(grpc.aio.AioRpcError):
        await batch.start()
    assert await fire("after the end", now_us()) == "STALE"


async def test_the_firing_of_no_journey_is_of_no_interest(batch) -> None:
    assert await Firing(batch)("one", now_us()) == "STALE"


async def test_the_scheduler_has_what_the_journeys_say(batch, profile_id) -> None:
    await batch.person(profile_id)
    scheduler = SchedulerServiceStub(batch.door.cairn.channel("scheduler"))
    name = f"schedules/journey.{batch.name}"

    async def there() -> str | None:
        answer = await scheduler.ListSchedules(scheduler_pb2.ListSchedulesRequest(page_size=1000), timeout=10)
        kept = [each for each in answer.schedules if each.name == name]
        return f"{kept[0].cron} {kept[0].time_zone} {kept[0].skip_missed}" if kept else None

    async def is_there(wanted: str | None) -> bool:
        return await there() == wanted

    await batch.publish(more='schedule: {cron: "0 6 1 1 *", time_zone: Asia/Tokyo, missed: SKIP}')
    await until(lambda: is_there("0 6 1 1 * Asia/Tokyo True"), "the schedule is there")
    request = scheduler_pb2.RunScheduleRequest(name=name, request_id=f"now-{batch.name}")
    await scheduler.RunSchedule(request, timeout=10)

    async def has_begun() -> bool:
        return await batch.kinds(profile_id) == BEGUN

    await until(has_begun, "the schedule has begun a run")
    await batch.end()
    await until(lambda: is_there(None), "the schedule is gone")
