"""Owns what tests do with a whole Cairn of real processes: publish, send until acknowledged, look at what came of it."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import grpc

from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub
from cairn.api.definition.v1 import definition_pb2
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.api.evaluator.v1 import evaluator_pb2 as pb
from cairn.api.evaluator.v1.evaluator_pb2_grpc import EvaluatorServiceStub
from cairn.cli.suite import Suite
from cairn.journey.document import read_documents
from cairn.runtime.clock import from_timestamp, now_us, to_timestamp
from cairn.testing.mail_server import read_index

CART = """
connection: {{name: email, {connection}}}
---
template: {{name: cart-reminder, subject: Your cart, text: "Still there: {{{{ entry.properties.products[0] }}}}"}}
---
name: abandoned-cart
type: REAL_TIME
goal: {{criteria: event.name == "purchase"}}
reentry: {{mode: ALWAYS}}
stages:
  - name: cart
    entry: event.name == "cart_add"
    steps:
      - wait: {{duration: {wait}}}
      - activation: {{channel: email, template: cart-reminder}}
"""

FINAL = {
    activation_pb2.DELIVERY_STATE_SENT,
    activation_pb2.DELIVERY_STATE_FAILED,
    activation_pb2.DELIVERY_STATE_UNKNOWN,
    activation_pb2.DELIVERY_STATE_WITHDRAWN,
    activation_pb2.DELIVERY_STATE_REFUSED,
}


@dataclass
class MailBox:
    """What the mail server received."""

    folder: Path
    port: int

    def recipients(self) -> Counter[str]:
        return Counter(address for entry in read_index(self.folder) for address in entry["to"])


@dataclass
class Cairn:
    """The suite, and what a test does with it."""

    suite: Suite
    channels: dict[str, grpc.aio.Channel] = field(default_factory=dict)
    revision: int = 0

    def channel(self, service: str) -> grpc.aio.Channel:
        if service not in self.channels:
            options = [("grpc.max_reconnect_backoff_ms", 500), ("grpc.initial_reconnect_backoff_ms", 100)]
            self.channels[service] = grpc.aio.insecure_channel(self.suite.address(service), options=options)
        return self.channels[service]

    async def publish(self, text: str) -> int:
        """Puts, saves and publishes what a YAML text holds; the revision."""
        documents, violations = read_documents(text)
        assert not violations
        activation = ActivationServiceStub(self.channel("activation"))
        definition = DefinitionServiceStub(self.channel("definition"))
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
        answer = await definition.PublishJourneys(definition_pb2.PublishJourneysRequest(items=items))
        self.revision = answer.revision
        return answer.revision

    async def describe(self, profile_ids: Sequence[str]) -> None:
        profiles = [pb.Profile(profile_id=each) for each in profile_ids]
        for profile in profiles:
            profile.attributes.update({"email": f"{profile.profile_id}@example.test"})
        stub = EvaluatorServiceStub(self.channel("evaluator"))
        answer = await stub.UpsertProfiles(pb.UpsertProfilesRequest(profiles=profiles))
        assert answer.accepted == len(profile_ids)

    async def send(self, events: Sequence[pb.Event], *, evaluator: str = "evaluator") -> int:
        """Sends a batch until it is acknowledged, always with the same ids; when that was, in microseconds."""
        stub = EvaluatorServiceStub(self.channel(evaluator))
        # Without the revision an Evaluator that has not heard of the journey yet would take the events for noise.
        request = pb.IngestEventsRequest(events=events, min_revision=self.revision)
        while True:
            try:
                answer = await stub.IngestEvents(request, timeout=5)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REPEATED:
                    raise
                await asyncio.sleep(0.05)
            else:
                assert answer.accepted == len(events)
                assert not answer.refusals
                return now_us()

    async def deliveries(self) -> list[activation_pb2.Delivery]:
        """Every delivery there is."""
        stub = ActivationServiceStub(self.channel("activation"))
        request = activation_pb2.ListDeliveriesRequest(page_size=1000)
        found: list[activation_pb2.Delivery] = []
        while True:
            answer = await stub.ListDeliveries(request, timeout=10, wait_for_ready=True)
            found += answer.deliveries
            if not answer.next_page_token:
                return found
            request.page_token = answer.next_page_token

    async def close(self) -> None:
        for channel in self.channels.values():
            await channel.close()


_REPEATED = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.CANCELLED,
}


def event(profile_id: str, name: str, number: int = 1, time_us: int | None = None) -> pb.Event:
    made = pb.Event(event_id=f"{name}-{number}", profile_id=profile_id, name=name)
    made.occur_time.CopyFrom(to_timestamp(time_us or now_us()))
    made.properties.update({"products": [f"lamp {profile_id}"]})
    return made


def time_of(sent: pb.Event) -> int:
    return from_timestamp(sent.occur_time)


async def until(holds: Callable[[], object], what: str, seconds: float = 60.0) -> None:
    """Polls until something holds; an awaitable is awaited."""
    deadline = time.monotonic() + seconds
    while True:
        value = holds()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return
        assert time.monotonic() < deadline, f"still not: {what}"
        await asyncio.sleep(0.1)


async def count_in_flight(dsn: str) -> int:
    """How many deliveries are past the point of no return, by the ledger."""
    connection = await asyncpg.connect(dsn)
    try:
        sending = activation_pb2.DELIVERY_STATE_SENDING
        return int(
            await connection.fetchval("SELECT count(*) FROM activation.deliveries WHERE state = $1", sending)
        )
    finally:
        await connection.close()


def chunks(items: Sequence[pb.Event], size: int) -> Iterable[Sequence[pb.Event]]:
    return (items[start : start + size] for start in range(0, len(items), size))
