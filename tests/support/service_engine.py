"""Owns playing the test kit's cases on running services: four services, two replicas of the Evaluator, a real Postgres.

Logical time is an event's own, so the days of a case lie in the past: its last moment is now. What happens at real time (a change of
the profile, an operator's word) happens now, and its lines are read as of the moment that the case gives it.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg
import grpc
from case_names import AUDIENCE, HELD, messages_of, named_segments, walk
from case_scripts import (
    DEDUP_DAYS,
    SECOND_US,
    Act,
    Script,
    Send,
    Unplayable,
    Way,
    Window,
    happens_now,
    prepare,
)
from google.protobuf import json_format
from google.protobuf.message import Message
from house import Cairn

from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub
from cairn.api.definition.v1 import definition_pb2, journey_pb2
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from cairn.cli.suite import Suite
from cairn.journey.live import PauseMode
from cairn.journey.state import Kind, Transition
from cairn.runtime.clock import from_timestamp, now_us, to_timestamp
from cairn.testing.journeys import (
    Case,
    Change,
    End,
    Event,
    Pause,
    Publish,
    Resume,
)

ENVIRONMENT: Final = {
    "evaluator": {"CAIRN_EVALUATOR_DEDUP_DAYS": str(DEDUP_DAYS), "CAIRN_EVALUATOR_DRAIN_SECONDS": "3"},
    "activation": {
        "CAIRN_ACTIVATION_DRAIN_SECONDS": "1",
        "CAIRN_ACTIVATION_ATTEMPTS_BUDGET": "100",
        "CAIRN_ACTIVATION_RETRY_CAP_SECONDS": "2",
        "CAIRN_SECRET_ENGINE": "token",
    },
}
"""What the suite has to be started with: an event may be a month old, and what nobody takes is tried on and on."""

AT_ONCE: Final = 40
"""How many cases are played side by side."""

_PATIENCE_S: Final = 20.0
_NOBODY: Final = "has(profile.nobody_has_this)"
_SECRET: Final = "engine"
_ADDRESS: Final = "address_of_the_engine"
_PAUSES: Final = {
    PauseMode.FREEZE: journey_pb2.PAUSE_MODE_FREEZE,
    PauseMode.RUN: journey_pb2.PAUSE_MODE_RUN,
    PauseMode.DROP: journey_pb2.PAUSE_MODE_DROP,
}


class ServiceEngine:
    """Plays cases on a suite with two Evaluators, all at once; then `through(way)` is an Engine of the test kit that gives their lines.

    To be used from a thread without a running loop, as it stops and starts the Scheduler.
    """

    def __init__(self, suite: Suite, replicas: tuple[str, str]) -> None:
        self.suite = suite
        self.replicas = replicas
        self.scripts: dict[tuple[int, Way], Script] = {}
        self.left_out: dict[tuple[int, Way], Exception] = {}
        self._revision = 0
        self._cases: list[Case] = []

    def play_all(self, cases: Sequence[Case]) -> None:
        """Plays cases, each in every way in which it can be played."""
        self._cases = list(cases)
        groups: dict[str, int] = {}
        for case in cases:
            group = groups.setdefault(case.journeys, len(groups))
            for way in Way:
                try:
                    script = prepare(case, way, group, len(self.scripts))
                except (Unplayable, LookupError) as left_out:
                    self.left_out[id(case), way] = left_out
                else:
                    self.scripts[id(case), way] = script
        scripts = list(self.scripts.values())
        asyncio.run(self._with(self._prepare(scripts)))
        self.suite.stop_service("scheduler")
        asyncio.run(self._with(self._play(each for each in scripts if each.way is Way.APART)))
        self.suite.start_service("scheduler")
        asyncio.run(self._with(self._play(each for each in scripts if each.way is Way.TOGETHER)))
        asyncio.run(self._with(self._watch(scripts)))

    def through(self, way: Way) -> "Played":
        """The lines of what was played in one way."""
        return Played(self, way)

    # Inside

    async def _with(self, work: Any) -> None:
        self._cairn = Cairn(self.suite)
        self._evaluators = [EvaluatorServiceStub(self._cairn.channel(each)) for each in self.replicas]
        self._definition = DefinitionServiceStub(self._cairn.channel("definition"))
        self._activation = ActivationServiceStub(self._cairn.channel("activation"))
        try:
            await work
        finally:
            await self._cairn.close()

    async def _prepare(self, scripts: Sequence[Script]) -> None:
        # Profiles first: what is described before there are journeys is no input to any, as it is none in a story.
        for batch in _batches(scripts, 1000):
            request = pb.UpsertProfilesRequest(profiles=[_profile(each) for each in batch])
            answer = await self._evaluators[0].UpsertProfiles(request, timeout=30)
            assert answer.accepted == len(batch), answer.refusals
        messages: dict[str, Message] = {}
        for script in scripts:
            for message in messages_of(script.text(script.journeys)):
                messages[f"{type(message).__name__} {message.name}"] = message
        activations = [each for script in scripts for each in _activations(script)]
        for channel in sorted({each.channel for each in activations}):
            connection = activation_pb2.Connection(name=channel.removeprefix("connections/"))
            if channel.removesuffix(HELD).endswith(AUDIENCE):
                # Nobody listens there either. It fails at once for who has no address, whom it can't tell an audience of.
                connection.meta_audience.CopyFrom(
                    activation_pb2.MetaAudienceConnection(
                        audience_id="1",
                        access_token_secret=_SECRET,
                        base_url="http://127.0.0.1:1",
                        identifiers={"EMAIL": _ADDRESS},
                    )
                )
            elif channel.endswith(HELD):
                # Nobody listens there, so that no receipt comes while a case is played.
                connection.smtp.CopyFrom(
                    activation_pb2.SmtpConnection(
                        host="127.0.0.1",
                        port=1,
                        security=activation_pb2.SMTP_SECURITY_NONE,
                        from_address="engine@example.test",
                        address_attribute=_ADDRESS,
                    )
                )
            else:
                connection.log.SetInParent()
            await self._activation.PutConnection(activation_pb2.PutConnectionRequest(connection=connection))
        for name in sorted({each.template for each in activations if each.template}):
            template = activation_pb2.Template(
                name=name.removeprefix("templates/"), subject="Hello", text="Hello."
            )
            await self._activation.PutTemplate(activation_pb2.PutTemplateRequest(template=template))
        await self._publish(list(messages.values()))

    async def _publish(self, messages: Sequence[Message]) -> None:
        """Saves and publishes, and returns when every Evaluator serves it."""
        segments = [each for each in messages if isinstance(each, journey_pb2.Segment)]
        # One that is not there is nobody's, to those who read it; but no journey that names it is published.
        named = {name for each in messages for name in named_segments(each)} - {
            each.name for each in segments
        }
        segments = [journey_pb2.Segment(name=each, criteria=_NOBODY) for each in sorted(named)] + segments
        for message in segments:
            await self._definition.PutSegment(definition_pb2.PutSegmentRequest(segment=message))
        journeys = [each for each in messages if isinstance(each, journey_pb2.Journey)]
        saved = []
        for journey in journeys:
            request = definition_pb2.UpdateJourneyRequest(journey=journey, allow_missing=True)
            saved.append((await self._definition.UpdateJourney(request, timeout=20)).journey.name)
        # Those that name each other have one tag, and come in one call.
        for batch in _batches(saved, 100, together=lambda name: name.split("/")[1].partition("-")[0]):
            items = [definition_pb2.PublishItem(name=each) for each in batch]
            answer = await self._definition.PublishJourneys(
                definition_pb2.PublishJourneysRequest(items=items), timeout=60
            )
            await self._served(answer.revision)

    async def _served(self, revision: int) -> None:
        self._revision = max(self._revision, revision)

        async def all_are() -> bool:
            answer = await self._definition.ListWatchers(definition_pb2.ListWatchersRequest(), timeout=10)
            return len(answer.watchers) >= len(self.replicas) and all(
                each.revision >= revision for each in answer.watchers
            )

        await _until(all_are, f"revision {revision} is served")

    async def _play(self, scripts: Iterable[Script]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(script: Script) -> None:
            async with gate:
                await self._play_one(script)

        async with asyncio.TaskGroup() as group:
            for script in scripts:
                group.create_task(one(script))

    async def _play_one(self, script: Script) -> None:
        now = now_us() // SECOND_US * SECOND_US
        begins_now = script.now_us
        script.base_us = now - (script.length_us if begins_now is None else begins_now)
        if script.case.start_us is not None:
            script.base_us = script.case.start_us
        for number, (at_us, act) in enumerate(script.acts):
            began = now_us()
            await self._act(script, number, act)
            if begins_now is not None and happens_now(act, at_us, begins_now):
                script.windows.append(Window(began, now_us(), at_us))
            if number < len(script.acts) - 1 and (script.way is Way.TOGETHER or script.with_receipts):
                await self._settle(script)

    async def _act(self, script: Script, number: int, act: Act) -> None:
        match act:
            case Send(events):
                stub = self._evaluators[number % 2 if script.way is Way.APART else 0]
                messages = [self._event(script, number, place, each) for place, each in enumerate(events)]
                request = pb.IngestEventsRequest(events=messages, min_revision=self._revision)
                answer = await stub.IngestEvents(request, timeout=60)
                assert not answer.refusals, (script.case.words, answer.refusals)
            case Change():
                profile = pb.Profile(profile_id=script.profile_id, time_zone=act.time_zone)
                profile.attributes.update(dict(act.attributes))
                stub = self._evaluators[number % 2 if script.way is Way.APART else 0]
                answer = await stub.UpsertProfiles(pb.UpsertProfilesRequest(profiles=[profile]), timeout=60)
                assert answer.accepted == 1, answer.refusals
            case Publish():
                await self._publish(list(messages_of(script.text(act.journeys))))
            case Pause():
                request = definition_pb2.PauseJourneyRequest(
                    name=self._journey(script, act.journey), mode=_PAUSES[act.mode]
                )
                await self._served((await self._definition.PauseJourney(request, timeout=20)).revision)
            case Resume():
                request = definition_pb2.ResumeJourneyRequest(name=self._journey(script, act.journey))
                await self._served((await self._definition.ResumeJourney(request, timeout=20)).revision)
            case End():
                request = definition_pb2.EndJourneyRequest(
                    name=self._journey(script, act.journey), remove=act.remove
                )
                await self._served((await self._definition.EndJourney(request, timeout=20)).revision)

    def _event(self, script: Script, number: int, place: int, given: Event) -> pb.Event:
        event = pb.Event(
            event_id=given.event_id or f"e{number}-{place}",
            profile_id=script.profile_id,
            name=script.event_name(given.name),
        )
        event.properties.update(dict(given.properties))
        assert given.at_us is not None
        begins_now = script.now_us
        after = begins_now is not None and given.at_us >= begins_now and script.windows
        event.occur_time.CopyFrom(to_timestamp(now_us() if after else script.base_us + given.at_us))
        return event

    def _journey(self, script: Script, journey_id: str) -> str:
        if not journey_id:
            journey_id = next(
                each.name for each in messages_of(script.journeys) if isinstance(each, journey_pb2.Journey)
            )
        return f"journeys/{script.tag}-{journey_id.removeprefix('journeys/')}"

    async def _settle(self, script: Script) -> None:
        """Returns when what is due has acted, and what was asked for has its receipts where they are waited for."""

        async def is_settled() -> bool:
            request = pb.ListEnrollmentsRequest(parent=f"profiles/{script.profile_id}", page_size=1000)
            answer = await self._evaluators[0].ListEnrollments(request, timeout=20)
            now = now_us()
            return not any(
                (
                    script.way is Way.TOGETHER
                    and each.HasField("due_time")
                    and from_timestamp(each.due_time) <= now
                )
                or (script.with_receipts and each.pending_activations)
                for each in answer.enrollments
            )

        await _until(is_settled, f"nothing is due any more: {script.case.words}")

    async def _watch(self, scripts: Sequence[Script]) -> None:
        """Reads the timelines once they are as expected, or all is quiet and they are not; then again, for they have to stay so."""
        async with self._database() as database:
            await _until(lambda: _is_quiet(database), "nothing is under way", 60)
            open_scripts = list(scripts)
            deadline = time.monotonic() + _PATIENCE_S
            while open_scripts and time.monotonic() < deadline:
                await self._read(open_scripts)
                open_scripts = [each for each in open_scripts if each.told != list(each.case.then)]
                await asyncio.sleep(0.2 if open_scripts else 0)
            await _until(lambda: _is_quiet(database), "nothing is under way", 60)
        await self._read(scripts)

    async def _read(self, scripts: Sequence[Script]) -> None:
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(script: Script) -> None:
            async with gate:
                transitions = [each async for each in self._transitions(script.profile_id)]
                script.told = script.lines(transitions, script.base_us, script.windows)

        async with asyncio.TaskGroup() as group:
            for script in scripts:
                group.create_task(one(script))

    async def _transitions(self, profile_id: str) -> AsyncIterator[Transition]:
        """Oldest first."""
        request = pb.GetTimelineRequest(profile=f"profiles/{profile_id}", page_size=1000)
        entries: list[pb.TimelineEntry] = []
        while True:
            try:
                answer = await self._evaluators[1].GetTimeline(request, timeout=20)
            except grpc.aio.AioRpcError as error:
                # Nothing has ever happened to it.
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    return
                raise
            entries += answer.entries
            request.page_token = answer.next_page_token
            if not answer.next_page_token:
                break
        for entry in reversed(entries):
            if entry.HasField("transition"):
                yield to_transition(entry.transition)

    @asynccontextmanager
    async def _database(self) -> AsyncIterator[asyncpg.Connection]:
        connection = await asyncpg.connect(self.suite.dsn)
        try:
            yield connection
        finally:
            await connection.close()


class Played:
    """An Engine: gives the lines of cases that were played already."""

    def __init__(self, engine: ServiceEngine, way: Way) -> None:
        self._engine = engine
        self._way = way

    def play(self, case: Case) -> list[str]:
        """The timeline that came of a case. Raises Unplayable; LookupError when it was left out and nobody knows why."""
        if left_out := self._engine.left_out.get((id(case), self._way)):
            raise left_out
        return self._engine.scripts[id(case), self._way].told


def to_transition(message: pb.Transition) -> Transition:
    """A transition as the machine has it, read over the wire."""
    _, journey_id, _, version = message.journey_version.split("/")
    return Transition(
        time_us=from_timestamp(message.time),
        journey_id=journey_id,
        version=int(version),
        enrollment_id=message.enrollment_id,
        kind=Kind(int(message.kind)),
        stage=message.stage,
        step=message.step,
        detail=json_format.MessageToDict(message.detail),
        cause=message.cause,
    )


def _profile(script: Script) -> pb.Profile:
    profile = pb.Profile(profile_id=script.profile_id, time_zone=script.case.time_zone)
    profile.attributes.update(dict(script.case.attributes))
    if script.is_held:
        profile.attributes[_ADDRESS] = "somebody@example.test"
    return profile


def _activations(script: Script) -> Iterator[journey_pb2.Activation]:
    texts = [script.journeys, *(act.journeys for _, act in script.acts if isinstance(act, Publish))]
    for text in texts:
        for message in messages_of(script.text(text)):
            yield from (each for each in walk(message) if isinstance(each, journey_pb2.Activation))


async def _is_quiet(database: asyncpg.Connection) -> bool:
    """Whether nothing is due and nothing on its way to the Scheduler or to Activation: one snapshot of both tables."""
    due, leaving = await database.fetchrow(
        "SELECT (SELECT count(*) FROM scheduler.timers WHERE state = 0 AND due_time <= now()), "
        "(SELECT count(*) FROM evaluator.outbox)"
    )
    return not due and not leaving


async def _until(holds: Any, what: str, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not await holds():
        assert time.monotonic() < deadline, f"still not: {what}"
        await asyncio.sleep(0.03)


def _batches(items: Sequence[Any], size: int, together: Any = None) -> Iterator[list[Any]]:
    """Lists of at most so many; neighbors that belong together stay together."""
    batch: list[Any] = []
    runs: list[list[Any]] = []
    for item in items:
        if runs and together is not None and together(runs[-1][-1]) == together(item):
            runs[-1].append(item)
        else:
            runs.append([item])
    for run in runs:
        if batch and len(batch) + len(run) > size:
            yield batch
            batch = []
        batch += run
    if batch:
        yield batch
