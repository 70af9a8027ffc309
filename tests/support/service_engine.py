"""Owns playing the test kit's cases on running services: four services, two replicas of the Evaluator, a real Postgres.

Logical time is an event's own, so the days of a case lie in the past: its last moment is now. What happens at real time (a change of
the profile, an operator's word) happens now, and its lines are read as of the moment that the case gives it. Before anything is
played, the play is rehearsed on the bare machine; a case whose lines do not come of it is left out, and why is told.
"""

import asyncio
import enum
import functools
import json
import re
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import asyncpg
import grpc
import msgspec
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
from cairn.journey.document import read_documents
from cairn.journey.live import PauseMode
from cairn.journey.model import Journey
from cairn.journey.references import check_references
from cairn.journey.state import Kind, ReceiptInput, Transition
from cairn.runtime.clock import from_timestamp, now_us, to_timestamp
from cairn.testing.journeys import (
    START_US,
    Alarm,
    Case,
    Change,
    End,
    Event,
    Passes,
    Pause,
    Publish,
    Receipt,
    Resume,
    Story,
    explain,
    line,
    read_journeys,
)

SECOND_US: Final = 1_000_000
DEDUP_DAYS: Final = 30
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

_OLDEST_US: Final = DEDUP_DAYS * 86_400 * SECOND_US - 600 * SECOND_US
# What is due so soon after a case's last moment would come while others are still played.
_SOON_US: Final = 240 * SECOND_US
# How many profiles are tried until an experiment falls as the case says.
_ATTEMPTS: Final = 40
# Between two things that happen now, in a rehearsal.
_BEAT_US: Final = 200_000
_PATIENCE_S: Final = 20.0
_HELD: Final = "-held"
_NOBODY: Final = "has(profile.nobody_has_this)"
_AUDIENCE: Final = "-lets-go"
_SECRET: Final = "engine"
_ADDRESS: Final = "address_of_the_engine"


class Way(enum.Enum):
    """How a case is played. Each catches what the other can't.

    APART: each event in a call of its own, to one replica and then the other, with the Scheduler down until all is sent: state goes
    through Postgres between any two inputs, and what was due meanwhile acts before the input, or when the Scheduler is back.
    TOGETHER: the events between two other moments in one call, with the Scheduler up.
    """

    APART = "apart"
    TOGETHER = "together"


class LeftOut(enum.Enum):
    """Why a case can't be played on services."""

    TOO_LONG = f"it is longer than the {DEDUP_DAYS} days that an event may be old"
    CALENDAR = f"its moment of the calendar is not in the last {DEDUP_DAYS} days"
    MACHINE_ONLY = "something happens in it that only a story on the machine can do"
    RECEIPTS = "some receipts come and others do not: services send them all"
    REAL_TIME = (
        "what operators do, or changes of the profile, lie apart in it: they happen now, one after the other"
    )
    NAMELESS = "it names what does not exist, and is not published"
    SOON = "something is due within minutes after its end"
    RINGS = "a timer has to ring in it before an input of its own instant: not with the Scheduler down"
    ASKED_BY_TIMER = "a receipt comes in it for what a timer has asked for: not with the Scheduler down"


class Unplayable(Exception):  # noqa: N818 - the caller skips
    """A case is left out."""

    def __init__(self, reason: LeftOut) -> None:
        super().__init__(reason.value)
        self.reason = reason


@dataclass(frozen=True)
class Send:
    """One call with events."""

    events: tuple[Event, ...]


Act = Send | Change | Publish | Pause | Resume | End | Receipt
_NOW: Final = (Change, Pause, Resume, End)


@dataclass(frozen=True)
class Window:
    """A stretch of real time that stands for one moment of a case. `at_us` counts from the case's beginning."""

    from_us: int
    to_us: int
    at_us: int


@dataclass
class Script:
    """A case prepared to be played in one way.

    `length_us` is as much of it as is played; `is_held`: no receipt comes; `with_receipts`: each is waited for; `base_us` is when
    it began, in real time.
    """

    case: Case
    way: Way
    group: str
    profile_id: str
    acts: tuple[tuple[int, Act], ...]
    length_us: int
    is_cut: bool
    journeys: str
    several: bool
    is_held: bool = False
    with_receipts: bool = False
    base_us: int = 0
    windows: list[Window] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def tag(self) -> str:
        """What its journeys, segments and events have in their names: those of one text are shared by all of its cases."""
        return f"{self.group}h" if self.is_held else self.group

    @property
    def now_us(self) -> int | None:
        """From when on things happen at real time; None if nothing does."""
        return _begins_now(self.acts)

    def text(self, journeys: str) -> str:
        """A YAML text of the case's journeys as they are published for it."""
        return _renamed_text(journeys, self.tag, self.is_held)

    def event_name(self, name: str) -> str:
        return f"{name}.{self.tag}"

    def lines(self, transitions: Iterable[Transition], base_us: int, windows: Sequence[Window]) -> list[str]:
        """Transitions as the case's own lines: its names, its moments."""
        found = []
        for each in transitions:
            prefix = f"{self.tag}-"
            if not each.journey_id.startswith(prefix):
                # A journey of another case, which a change of the profile has led into.
                continue
            shift_us = 0
            for window in windows:
                if window.from_us <= each.time_us <= window.to_us:
                    shift_us = each.time_us - base_us - window.at_us
            detail = dict(each.detail)
            for name in ("journey", "channel"):
                if isinstance(detail.get(name), str):
                    detail[name] = (
                        detail[name].replace(prefix, "", 1).removesuffix(_HELD).removesuffix(_AUDIENCE)
                    )
            if "late_seconds" in detail:
                detail["late_seconds"] -= shift_us / SECOND_US
            own = msgspec.structs.replace(
                each, journey_id=each.journey_id.removeprefix(prefix), detail=detail
            )
            found.append(line(own, base_us + shift_us, self.several))
        return [each for each in found if not self.case.only or _kind(each) in self.case.only]


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
            for message in _messages(script.text(script.journeys)):
                messages[f"{type(message).__name__} {message.name}"] = message
        activations = [each for script in scripts for each in _activations(script)]
        for channel in sorted({each.channel for each in activations}):
            connection = activation_pb2.Connection(name=channel.removeprefix("connections/"))
            if channel.removesuffix(_HELD).endswith(_AUDIENCE):
                # Nobody listens there either. It fails at once for who has no address, whom it can't tell an audience of.
                connection.meta_audience.CopyFrom(
                    activation_pb2.MetaAudienceConnection(
                        audience_id="1",
                        access_token_secret=_SECRET,
                        base_url="http://127.0.0.1:1",
                        identifiers={"EMAIL": _ADDRESS},
                    )
                )
            elif channel.endswith(_HELD):
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
        named = {name for each in messages for name in _named_segments(each)} - {
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
            if begins_now is not None and _is_now(act, at_us, begins_now):
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
                await self._publish(list(_messages(script.text(act.journeys))))
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
                each.name for each in _messages(script.journeys) if isinstance(each, journey_pb2.Journey)
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


# Preparing


def prepare(case: Case, way: Way, group: int, number: int) -> Script:
    """A case's script, rehearsed; `group` is the number of its journeys, `number` its own. Raises Unplayable; LookupError when it can't be played and nobody knows why."""
    # Where time passes what is due may ring, unless the rest of the case then comes too late.
    first = _script(case, way, group, number, rests=way is Way.TOGETHER)
    try:
        return _rehearsed(first)
    except Unplayable:
        if way is Way.APART:
            raise
    return _rehearsed(_script(case, way, group, number, rests=False))


def _script(case: Case, way: Way, group: int, number: int, *, rests: bool) -> Script:
    acts, length_us = _acts(case, way, rests)
    begins_us = min((_first(at_us, act) for at_us, act in acts), default=0)
    played_us = min(length_us, _OLDEST_US + begins_us)
    if any(at_us > played_us for at_us, _ in acts):
        raise Unplayable(LeftOut.TOO_LONG)
    if case.start_us is not None:
        is_recent = now_us() - _OLDEST_US < case.start_us + begins_us
        if not is_recent or case.start_us + length_us > now_us() or _begins_now(acts) is not None:
            raise Unplayable(LeftOut.CALENDAR)
    texts = [case.journeys, *(act.journeys for _, act in acts if isinstance(act, Publish))]
    if not _is_publishable(texts):
        raise Unplayable(LeftOut.NAMELESS)
    ids = {each.name for text in texts for each in _messages(text) if isinstance(each, journey_pb2.Journey)}
    return Script(
        case,
        way,
        # What changes while it is played is its own.
        group=f"own{number}" if len(texts) > 1 or _has_life(acts) else f"g{group}",
        profile_id=f"{case.profile_id}-{number}",
        acts=acts,
        length_us=played_us,
        is_cut=played_us < length_us,
        journeys=case.journeys,
        several=len(ids) > 1,
    )


def _is_publishable(texts: Sequence[str]) -> bool:
    """Whether all that journeys name exists when they are published, one text after the other."""
    known: dict[str, journey_pb2.Journey] = {}
    for text in texts:
        journeys = {each.name: each for each in _messages(text) if isinstance(each, journey_pb2.Journey)}
        if any(check_references(journeys, known, segments=None).values()):
            return False
        known |= journeys
    return True


def _acts(case: Case, way: Way, rests: bool) -> tuple[tuple[tuple[int, Act], ...], int]:
    """What is done, each with the case's moment of it, and how long the case is. `rests`: events before and after time has passed
    are not of one call."""
    acts: list[tuple[int, Act]] = []
    length_us = 0
    is_open = False
    for happens_us, known_us, moment in case.timed():
        length_us = max(length_us, known_us)
        match moment:
            case Event():
                event = msgspec.structs.replace(moment, at_us=happens_us)
                if is_open and way is Way.TOGETHER and _begins_now(acts) is None:
                    _, last = acts[-1]
                    assert isinstance(last, Send)
                    acts[-1] = (happens_us, Send((*last.events, event)))
                else:
                    acts.append((happens_us, Send((event,))))
                is_open = True
                continue
            case Passes():
                is_open = is_open and not rests
                continue
            case Alarm():
                continue
            case Change() | Publish() | Pause() | Resume() | End() | Receipt():
                acts.append((happens_us, moment))
            case _:
                raise Unplayable(LeftOut.MACHINE_ONLY)
        is_open = False
    return tuple(acts), length_us


def _rehearsed(script: Script) -> Script:
    """Finds out under which conditions the play gives the case's lines. Raises Unplayable, LookupError."""
    case = script.case
    expected = list(case.then)
    own_id = script.profile_id
    draws = _has_experiment(case.journeys)
    receives = any(isinstance(act, Receipt) for _, act in script.acts)
    # Nothing may be due soon after its end either: it would come while others are still played.
    longer_us = _SOON_US
    if case.start_us is not None:
        longer_us += now_us() - case.start_us - script.length_us
    for attempt in range(_ATTEMPTS):
        silent = rehearse(script, receipts=False, longer_us=longer_us)
        heard = rehearse(script, receipts=True, longer_us=longer_us)
        if silent == expected and not receives:
            # If receipts make a difference they are held back.
            script.is_held = heard != expected
            # An experiment falls by the name of its journey as well, and that is another one now.
            if not draws or rehearse(script, receipts=False) == expected:
                break
            script.is_held = False
        elif heard == expected:
            script.with_receipts = receives
            break
        elif not draws:
            raise _why(script)
        # Experiments fall by the profile's id and the journey's: some will do.
        script.profile_id = f"{own_id}-{attempt}"
    else:
        raise _why(script)
    return script


def _why(script: Script) -> Exception:
    case = script.case
    receives = any(isinstance(act, Receipt) for _, act in script.acts)
    rehearsed = rehearse(script, receipts=receives)
    if rehearsed == list(case.then):
        return Unplayable(LeftOut.SOON)
    if receives:
        return Unplayable(LeftOut.ASKED_BY_TIMER if script.way is Way.APART else LeftOut.RECEIPTS)
    if script.now_us is not None:
        return Unplayable(LeftOut.REAL_TIME)
    if script.is_cut:
        return Unplayable(LeftOut.TOO_LONG)
    if script.way is Way.APART and _rung_late(case) != list(case.then):
        return Unplayable(LeftOut.RINGS)
    return LookupError(f"can't be rehearsed {script.way.value}; {explain(case, rehearsed)}")


def _rung_late(case: Case) -> list[str]:
    """What comes of a case if the Scheduler is down until its end."""
    moments = (each for each in case.moments if not isinstance(each, Alarm))
    late = (Alarm(on=False), *moments, Alarm(on=True))
    return msgspec.structs.replace(case, moments=late).told()


def rehearse(script: Script, *, receipts: bool, longer_us: int = 0) -> list[str]:
    """The lines that come of a script on the bare machine: what is played on services, under a virtual clock."""
    case = script.case
    start_us = START_US if case.start_us is None else case.start_us
    first, *others = _readable(script.text(script.journeys))
    story = Story(
        first,
        attributes=dict(case.attributes),
        time_zone=case.time_zone,
        profile_id=script.profile_id,
        start_us=start_us,
    )
    for other in others:
        story.publish(other)
    story.alarm_is_on = False
    received: set[str] = set()
    windows: list[Window] = []
    begins_now = script.now_us
    clock_us = start_us + (script.length_us if begins_now is None else begins_now)

    def receive() -> None:
        for each in story.requested if receipts else ():
            if each.activation_id not in received:
                received.add(each.activation_id)
                story.take(ReceiptInput(each.activation_id))

    def ring(until_us: int) -> None:
        story.now_us = max(story.now_us, until_us)
        story.happen(Alarm(on=False))
        while story.timers and (due_us := min(story.timers.values())) <= until_us:
            story.alarm_is_on = True
            story.ring(due_us)
            story.alarm_is_on = False
            receive()

    for number, (at_us, act) in enumerate(script.acts):
        is_now = (
            begins_now is not None
            and _is_now(act, at_us, begins_now)
            and (windows or not isinstance(act, Send))
        )
        if is_now:
            clock_us += _BEAT_US
            windows.append(Window(clock_us, clock_us, at_us))
        match act:
            case Send(events):
                for place, each in enumerate(events):
                    assert each.at_us is not None
                    happens_us = clock_us - start_us if is_now else each.at_us
                    story.happen(
                        msgspec.structs.replace(
                            each,
                            name=script.event_name(each.name),
                            at_us=happens_us,
                            event_id=each.event_id or f"e{number}-{place}",
                        )
                    )
            case Change():
                story.happen(msgspec.structs.replace(act, at_us=clock_us - start_us))
            case Publish():
                for each in _readable(script.text(act.journeys)):
                    story.publish(each)
            case Pause() | Resume() | End():
                story.now_us = clock_us
                named = f"{script.tag}-{act.journey}" if act.journey else ""
                story.happen(msgspec.structs.replace(act, journey=named))
                # Everybody is told at once, whatever the Scheduler does.
                story.happen(Alarm(on=True))
                story.alarm_is_on = False
            case Receipt():
                pass
        receive()
        if script.way is Way.TOGETHER:
            ring(clock_us)
    ring(clock_us + longer_us)
    return script.lines(story.transitions, start_us, windows)


def _first(at_us: int, act: Act) -> int:
    """When the first of it happens."""
    return min(each.at_us or 0 for each in act.events) if isinstance(act, Send) else at_us


@functools.lru_cache
def _readable(text: str) -> Sequence[Journey | str]:
    """What a story takes for a text: its journeys, read once for all rehearsals, or the text if segments belong to it."""
    journeys, segments = read_journeys(text)
    return (text,) if segments else journeys


def _begins_now(acts: Sequence[tuple[int, Act]]) -> int | None:
    return next((at_us for at_us, act in acts if isinstance(act, _NOW)), None)


def _has_experiment(journeys: str) -> bool:
    return any(
        isinstance(each, journey_pb2.Experiment) for text in _messages(journeys) for each in _walk(text)
    )


def _has_life(acts: Sequence[tuple[int, Act]]) -> bool:
    return any(isinstance(act, Pause | Resume | End) for _, act in acts)


def _is_now(act: Act, at_us: int, begins_now_us: int) -> bool:
    """Whether something happens at real time: an operator's word, a change, and an event that comes after one."""
    return isinstance(act, _NOW) or (isinstance(act, Send) and at_us >= begins_now_us)


def _profile(script: Script) -> pb.Profile:
    profile = pb.Profile(profile_id=script.profile_id, time_zone=script.case.time_zone)
    profile.attributes.update(dict(script.case.attributes))
    if script.is_held:
        profile.attributes[_ADDRESS] = "somebody@example.test"
    return profile


# Names: each set of journeys has its own, so that nobody is led into the journeys of another case


def _messages(text: str) -> Iterator[Message]:
    """The journeys and segments of a text, to be changed at will."""
    for each in _parsed(text):
        message = type(each)()
        message.CopyFrom(each)
        yield message


@functools.lru_cache
def _parsed(text: str) -> tuple[Message, ...]:
    documents, violations = read_documents(text)
    assert not violations, violations
    return tuple(each.message for each in documents if each.kind in ("journey", "segment"))


def _named_segments(message: Message) -> Iterator[str]:
    for each in _walk(message):
        for _, criteria in _criteria(each):
            yield from (found[3] for found in _SEGMENT.finditer(criteria))


def _criteria(message: Message) -> Iterator[tuple[str, str]]:
    """The fields of one message that hold criteria, with these."""
    for descriptor, value in message.ListFields():
        if descriptor.name in ("criteria", "entry", "milestone", "condition") and isinstance(value, str):
            yield descriptor.name, value


def _activations(script: Script) -> Iterator[journey_pb2.Activation]:
    texts = [script.journeys, *(act.journeys for _, act in script.acts if isinstance(act, Publish))]
    for text in texts:
        for message in _messages(script.text(text)):
            yield from (each for each in _walk(message) if isinstance(each, journey_pb2.Activation))


@functools.lru_cache
def _renamed_text(text: str, tag: str, is_held: bool) -> str:
    return "\n---\n".join(json.dumps(each) for each in _renamed(text, tag, is_held))


def _renamed(text: str, tag: str, is_held: bool) -> Iterator[dict[str, Any]]:
    """The documents of a text, with names of their own for journeys, segments and events."""
    for message in _messages(text):
        for each in _walk(message):
            if isinstance(each, journey_pb2.Journey | journey_pb2.Segment):
                each.name = f"{tag}-{each.name.rpartition('/')[2]}"
            if isinstance(each, journey_pb2.JumpTarget | journey_pb2.Jump):
                each.journey = f"{tag}-{each.journey.rpartition('/')[2]}"
            if isinstance(each, journey_pb2.Activation):
                # The log takes no action; what is held goes by mail. Only who has to let go has to be an audience.
                is_audience = each.until in (journey_pb2.AUDIENCE_UNTIL_EXIT, journey_pb2.AUDIENCE_UNTIL_GOAL)
                if is_audience:
                    each.channel += _AUDIENCE
                else:
                    each.action = journey_pb2.AUDIENCE_ACTION_UNSPECIFIED
                if is_held:
                    each.channel += _HELD
                if is_held and not is_audience:
                    each.template = each.template or "held"
            for name, criteria in list(_criteria(each)):
                setattr(each, name, _renamed_criteria(criteria, tag))
        document = json_format.MessageToDict(message, preserving_proto_field_name=True)
        yield {"segment": document} if isinstance(message, journey_pb2.Segment) else document


def _renamed_criteria(criteria: str, tag: str) -> str:
    """Criteria about events of other names: wherever a text stands for an event's name."""
    criteria = _NAMED.sub(lambda found: f"{found[1]}{found[2]}{found[3]}.{tag}{found[2]}", criteria)
    criteria = _ASKED.sub(lambda found: f"{found[1]}{found[2]}{found[3]}.{tag}{found[2]}", criteria)
    criteria = _SEGMENT.sub(lambda found: f"{found[1]}{found[2]}{tag}-{found[3]}{found[2]}", criteria)
    return _LISTED.sub(
        lambda found: found[1] + _QUOTED.sub(lambda text: f"{text[1]}{text[2]}.{tag}{text[1]}", found[2]),
        criteria,
    )


def _walk(message: Message) -> Iterator[Message]:
    yield message
    for descriptor, value in message.ListFields():
        if descriptor.type == descriptor.TYPE_MESSAGE:
            for each in value if descriptor.is_repeated else (value,):
                yield from _walk(each)


_NAMED: Final = re.compile(r"""((?:\bevent|\bentry|\))\.name\s*[=!]=\s*)(["'])(.*?)\2""")
_LISTED: Final = re.compile(r"""((?:\bevent|\bentry|\))\.name\s+in\s*)(\[[^\]]*\])""")
_ASKED: Final = re.compile(r"""(\b(?:count|sum|first|last)\(\s*)(["'])(.*?)\2""")
_SEGMENT: Final = re.compile(r"""(\bin_segment\(\s*)(["'])(.*?)\2""")
_QUOTED: Final = re.compile(r"""(["'])(.*?)\1""")
_KINDS: Final = frozenset(kind.name for kind in Kind)
_PAUSES: Final = {
    PauseMode.FREEZE: journey_pb2.PAUSE_MODE_FREEZE,
    PauseMode.RUN: journey_pb2.PAUSE_MODE_RUN,
    PauseMode.DROP: journey_pb2.PAUSE_MODE_DROP,
}


# Small things


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


def _kind(text: str) -> str:
    return next((word for word in text.split()[1:3] if word in _KINDS), "")
