"""What pausing, resuming and ending a journey does to those who are in it, and to those who would enter meanwhile."""

import pytest
from house import event, until

from cairn.api.definition.v1 import definition_pb2, journey_pb2
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub

# An hour is a second here: whoever waits 1h waits a second, whoever waits 20d waits for as long as the tests run.
JOURNEY = """
name: {name}
type: REAL_TIME
goal: {{criteria: event.name == "bought-{name}"}}
reentry: {{mode: ALWAYS}}
stages:
  - name: one
    entry: event.name == "begin-{name}"
    milestone: event.name == "next-{name}"
    steps:
      - {{name: pause, wait: {{duration: {wait}}}}}
      - activation: {{channel: ledger}}
  - name: two
    steps:
      - {{name: hello, activation: {{channel: ledger}}}}
      - {{name: rest, wait: {{duration: 20d}}}}
"""


class Life:
    """One journey of a test's own, and what an operator does with it."""

    def __init__(self, door, name: str) -> None:
        self.door = door
        self.name = name
        self.stub = DefinitionServiceStub(door.cairn.channel("definition"))

    async def publish(self, wait: str) -> None:
        await self.door.cairn.publish(JOURNEY.format(name=self.name, wait=wait))

    async def pause(self, mode: int = journey_pb2.PAUSE_MODE_FREEZE) -> None:
        request = definition_pb2.PauseJourneyRequest(name=f"journeys/{self.name}", mode=mode)
        await self._served((await self.stub.PauseJourney(request, timeout=10)).revision)

    async def resume(self) -> None:
        request = definition_pb2.ResumeJourneyRequest(name=f"journeys/{self.name}")
        await self._served((await self.stub.ResumeJourney(request, timeout=10)).revision)

    async def end(self, *, remove: bool) -> None:
        request = definition_pb2.EndJourneyRequest(name=f"journeys/{self.name}", remove=remove)
        await self._served((await self.stub.EndJourney(request, timeout=10)).revision)

    async def send(self, profile_id: str, what: str, number: int = 1) -> None:
        answer = await self.door.ingest(event(profile_id, f"{what}-{self.name}", number))
        assert answer.accepted == 1

    async def kinds(self, profile_id: str) -> list[str]:
        return await self.door.kinds(profile_id, self.name)

    async def _served(self, revision: int) -> None:
        """Every Evaluator is past the revision: those that lag would act as if nothing had been said."""
        self.door.cairn.revision = revision

        async def all_are() -> bool:
            answer = await self.stub.ListWatchers(definition_pb2.ListWatchersRequest(), timeout=10)
            return all(each.revision >= revision for each in answer.watchers)

        await until(all_are, f"revision {revision} is served")


@pytest.fixture
def life(door, profile_id) -> Life:
    return Life(door, f"life-{profile_id}")


BEGUN = ["ENTERED", "STAGE_ENTERED", "WAIT_STARTED"]
DONE = ["WAIT_ENDED", "ACTIVATION_REQUESTED", "RESTED"]


async def test_a_frozen_wait_goes_on_where_it_stood(life, door, new_id) -> None:
    await life.publish("8h")
    waiting, entering = new_id(), new_id()
    await life.send(waiting, "begin")
    await life.pause()
    await life.send(entering, "begin")
    assert await life.kinds(entering) == []

    # Its old wake-up comes meanwhile, and is spent.
    async def is_spent() -> bool:
        (enrollment,) = await door.enrollments(waiting)
        return not enrollment.HasField("due_time")

    await until(is_spent, "the wake-up of before the pause comes")
    assert await life.kinds(waiting) == BEGUN
    await life.resume()

    async def went_on() -> bool:
        return (await life.kinds(waiting), await life.kinds(entering)) == (BEGUN + DONE, BEGUN + DONE)

    await until(went_on, "both go on after the resume")


async def test_while_paused_goals_act_and_milestones_move_but_steps_wait(life, door, new_id) -> None:
    await life.publish("20d")
    buyer, mover = new_id(), new_id()
    for each in (buyer, mover):
        await life.send(each, "begin")
    await life.pause()
    await life.send(buyer, "bought")
    await life.send(mover, "next")
    assert await life.kinds(buyer) == [*BEGUN, "WAIT_CANCELED", "GOAL_ACHIEVED"]
    assert await life.kinds(mover) == [*BEGUN, "WAIT_CANCELED", "STAGE_ENTERED"]
    assert await door.states(mover) == {life.name: "HELD"}
    await life.resume()

    async def sent() -> bool:
        return (await life.kinds(mover))[5:] == ["ACTIVATION_REQUESTED", "WAIT_STARTED"]

    await until(sent, "the held step runs after the resume")


async def test_timers_age_in_a_run_pause_and_what_they_would_do_is_held(life, door, profile_id) -> None:
    await life.publish("8h")
    await life.send(profile_id, "begin")
    await life.pause(journey_pb2.PAUSE_MODE_RUN)

    async def ended() -> bool:
        return await life.kinds(profile_id) == [*BEGUN, "WAIT_ENDED"]

    await until(ended, "the wait ends in the pause")
    assert await door.states(profile_id) == {life.name: "HELD"}
    await life.resume()

    async def sent() -> bool:
        return await life.kinds(profile_id) == BEGUN + DONE

    await until(sent, "the message is asked for after the resume")


async def test_a_dropping_pause_removes_who_is_in_and_remembers_who_comes(life, door, new_id) -> None:
    await life.publish("20d")
    inside, coming = new_id(), new_id()
    await life.send(inside, "begin")
    await life.pause(journey_pb2.PAUSE_MODE_DROP)

    async def removed() -> bool:
        return await life.kinds(inside) == [*BEGUN, "WAIT_CANCELED", "REMOVED"]

    await until(removed, "who was in is removed, without an input of his own")
    await life.send(coming, "begin")
    assert await life.kinds(coming) == []
    await life.resume()

    async def begun() -> bool:
        return await life.kinds(coming) == BEGUN

    await until(begun, "who came meanwhile begins")
    assert await door.states(inside) == {life.name: "REMOVED"}


@pytest.mark.parametrize("remove", [False, True])
async def test_an_end_drains_or_removes_and_nobody_enters_any_more(life, door, new_id, remove) -> None:
    await life.publish("20d")
    inside, coming = new_id(), new_id()
    await life.send(inside, "begin")
    await life.end(remove=remove)
    await life.send(coming, "begin")
    assert await life.kinds(coming) == []
    if remove:

        async def removed() -> bool:
            return await door.states(inside) == {life.name: "REMOVED"}

        await until(removed, "who was in is removed")
    else:
        await life.send(inside, "next")
        assert (await life.kinds(inside))[3:] == [
            "WAIT_CANCELED",
            "STAGE_ENTERED",
            "ACTIVATION_REQUESTED",
            "WAIT_STARTED",
        ]


async def test_a_damaged_profile_is_passed_over_by_a_removal(life, door, database, new_id) -> None:
    """Looked at for ever, it would have its whole bucket read again and again."""
    await life.publish("20d")
    inside, damaged = new_id(), f"damaged-{life.name}"
    await life.send(inside, "begin")
    standings = f'{{"{life.name}": "damaged"}}'
    await database.execute(
        "INSERT INTO profiles (bucket, profile_id, revision, standings, update_time) VALUES (0, $1, 1, $2::text, now())",
        damaged,
        standings,
    )
    try:
        await life.end(remove=True)

        async def is_swept() -> bool:
            swept = await database.fetchval(
                "SELECT count(*) FROM removals WHERE journey_id = $1 AND bucket = 0", life.name
            )
            return swept == 1 and await door.states(inside) == {life.name: "REMOVED"}

        await until(is_swept, "the bucket of the damaged profile is done", seconds=15)
    finally:
        await database.execute("DELETE FROM profiles WHERE profile_id = $1", damaged)
