"""Owns the stage of a workload: the suite as real processes on a fresh Postgres, a producer beside it, and what is read off them."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import asyncpg
import grpc
from load import Phase
from meters import children_of, cpu_seconds

from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub
from cairn.api.definition.v1 import definition_pb2
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from cairn.cli.suite import Suite
from cairn.journey.document import read_documents

_POLL_SECONDS = 0.25
_DRAIN_SECONDS = 300.0

# What is still to come: timers due by a time, activations on their way to the ledger, deliveries that are not settled, fates that were
# not told.
_OPEN = """
SELECT EXISTS (SELECT FROM scheduler.timers WHERE bucket = ANY($2::int[]) AND state = 0 AND due_time <= $1)
    OR EXISTS (SELECT FROM evaluator.outbox)
    OR EXISTS (SELECT FROM activation.deliveries WHERE bucket = ANY($2::int[]) AND state <= 3)
    OR EXISTS (SELECT FROM activation.receipts)
"""


@dataclass
class Sent:
    """What a producer sent in one phase; times in microseconds. `rows` are [first place, places, events' time, acknowledged]."""

    rows: list[list[int]]
    events: int
    refused: int
    overloaded: int
    began_us: int
    ended_us: int

    @property
    def seconds(self) -> float:
        """From the first event that left to the last that was acknowledged."""
        return (self.ended_us - self.began_us) / 1_000_000

    @property
    def last_us(self) -> int:
        """When the last event happened."""
        return max(row[2] for row in self.rows)

    def times(self, phase: Phase) -> dict[int, tuple[int, int]]:
        """For each place of the phase when its event happened, and when it was acknowledged."""
        places = phase.places
        found = {}
        for first, count, time_us, acknowledged_us in self.rows:
            start = places.index(first)
            for place in places[start : start + count]:
                found[place] = time_us, acknowledged_us
        return found


class Stage:
    """A running suite, and a producer beside it. Use in `async with`; the suite is the caller's."""

    def __init__(self, suite: Suite) -> None:
        self.suite = suite
        self.revision = 0
        self._channels: dict[str, grpc.aio.Channel] = {}

    async def __aenter__(self) -> Self:
        self.database = await asyncpg.connect(self.suite.dsn)
        self._producer = subprocess.Popen(  # noqa: ASYNC220 - once, before anything runs
            [sys.executable, str(Path(__file__).with_name("producer.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._producer.kill()
        self._producer.wait()
        for channel in self._channels.values():
            await channel.close()
        await self.database.close()

    # Preparing

    async def publish(self, text: str) -> None:
        """Puts and publishes what a YAML text holds, and returns when the Evaluator serves it."""
        documents, violations = read_documents(text)
        if violations:
            raise AssertionError(violations)
        activation = ActivationServiceStub(self._channel("activation"))
        definition = DefinitionServiceStub(self._channel("definition"))
        items = []
        for document in documents:
            if document.kind == "connection":
                await activation.PutConnection(
                    activation_pb2.PutConnectionRequest(connection=document.message)
                )
            elif document.kind == "template":
                await activation.PutTemplate(activation_pb2.PutTemplateRequest(template=document.message))
            else:
                saved = await definition.CreateJourney(
                    definition_pb2.CreateJourneyRequest(journey=document.message)
                )
                items.append(definition_pb2.PublishItem(name=saved.journey.name))
        for start in range(0, len(items), 100):
            request = definition_pb2.PublishJourneysRequest(items=items[start : start + 100])
            self.revision = (await definition.PublishJourneys(request, timeout=120)).revision
        event = pb.Event(event_id="served", profile_id="nobody", name="nothing")
        event.occur_time.GetCurrentTime()
        await self._evaluator().IngestEvents(
            pb.IngestEventsRequest(events=[event], min_revision=self.revision), timeout=60
        )

    async def describe(self, profiles: Sequence[pb.Profile]) -> None:
        """Upserts profiles."""
        for start in range(0, len(profiles), 5_000):
            await self._evaluator().UpsertProfiles(
                pb.UpsertProfilesRequest(profiles=profiles[start : start + 5_000]), timeout=60
            )

    # Sending

    async def send(
        self, phases: Sequence[Phase], on_ready: Callable[[], Awaitable[None]] | None = None
    ) -> list[Sent]:
        """Has the producer send phases, one after the other; `on_ready` is awaited between preparing and sending."""
        wanted = {
            "address": self.suite.address("evaluator"),
            "revision": self.revision,
            "phases": [phase.to_json() for phase in phases],
        }
        self._tell(json.dumps(wanted))
        await self._hear()
        if on_ready:
            await on_ready()
        self._tell("go")
        return [Sent(**record) for record in (await self._hear())["records"]]

    async def drained(self, due_us: int) -> float:
        """Waits until nothing is to come of what was due by a time; when that was, in seconds since the epoch."""
        due = datetime_of(due_us)
        deadline = time.time() + _DRAIN_SECONDS
        buckets = list(range(await self.database.fetchval("SELECT bucket_count FROM cairn.database")))
        while await self.database.fetchval(_OPEN, due, buckets):
            if time.time() > deadline:
                raise AssertionError("it was not drained after five minutes")
            await asyncio.sleep(_POLL_SECONDS)
        return time.time()

    # Reading off

    def pids(self) -> dict[str, list[int]]:
        """The processes of the suite, by part, Postgres' included."""
        return {name: [pid] for name, pid in self._service_pids().items()} | {
            "postgres": self._postgres_pids()
        }

    def cpu(self) -> dict[str, float]:
        """CPU seconds since the start, by service, and of Postgres."""
        used = {name: cpu_seconds(pid) for name, pid in self._service_pids().items()}
        postmaster, *backends = self._postgres_pids()
        used["postgres"] = cpu_seconds(postmaster, ended_children=True) + sum(
            cpu_seconds(pid) for pid in backends
        )
        return used

    def _service_pids(self) -> dict[str, int]:
        return {name: each.child.pid for name, each in self.suite.instances.items()}

    def _postgres_pids(self) -> list[int]:
        assert self.suite.postgres is not None
        postmaster = self.suite.postgres.pid
        return [postmaster, *children_of(postmaster)]

    def _channel(self, service: str) -> grpc.aio.Channel:
        if service not in self._channels:
            options = [("grpc.max_send_message_length", 1 << 26)]
            self._channels[service] = grpc.aio.insecure_channel(self.suite.address(service), options=options)
        return self._channels[service]

    def _evaluator(self) -> Any:
        return EvaluatorServiceStub(self._channel("evaluator"))

    def _tell(self, line: str) -> None:
        assert self._producer.stdin is not None
        self._producer.stdin.write(line + "\n")
        self._producer.stdin.flush()

    async def _hear(self) -> dict[str, Any]:
        assert self._producer.stdout is not None
        line = await asyncio.to_thread(self._producer.stdout.readline)
        if not line:
            raise AssertionError("the producer ended; its words are above")
        answer: dict[str, Any] = json.loads(line)
        return answer


def datetime_of(time_us: int) -> datetime:
    """A time as Postgres takes it."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)


def used_between(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """CPU seconds of each part between two readings."""
    return {name: after[name] - before.get(name, 0.0) for name in after}
