"""Deliveries of paused journeys, with a real Definition beside the real Activation, each a process that can be away."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from cairn.api.activation.v1 import activation_pb2 as pb
from cairn.api.definition.v1 import definition_pb2
from cairn.api.definition.v1.definition_pb2_grpc import DefinitionServiceStub
from cairn.api.definition.v1.journey_pb2 import Journey
from cairn.cli.processes import free_ports
from cairn.definition.settings import DefinitionSettings
from cairn.postgres.database import migrate_service
from cairn.postgres.pool import connect

SENT, PENDING = pb.DELIVERY_STATE_SENT, pb.DELIVERY_STATE_PENDING
DETAIL = "held: its journey is paused"


@dataclass
class Definition:
    """A Definition that asks an Activation about destinations, and is asked by it about pauses."""

    dsn: str
    port: int
    activation_address: str = ""
    process: asyncio.subprocess.Process | None = None
    channel: grpc.aio.Channel | None = None

    async def start(self) -> None:
        values = {
            "grpc_port": self.port,
            "http_port": 0,
            "postgres_dsn": self.dsn,
            "activation_address": self.activation_address,
        }
        environment = {f"CAIRN_DEFINITION_{name.upper()}": str(value) for name, value in values.items()}
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "cairn.definition"),
            env={**os.environ, **environment},
            stderr=asyncio.subprocess.DEVNULL,
        )
        self.channel = grpc.aio.insecure_channel(f"127.0.0.1:{self.port}")
        await asyncio.wait_for(self.channel.channel_ready(), 30)

    @property
    def stub(self) -> DefinitionServiceStub:
        assert self.channel
        return DefinitionServiceStub(self.channel)

    async def publish(self, name: str) -> None:
        journey = Journey(name=name, type="JOURNEY_TYPE_REAL_TIME")
        stage = journey.stages.add(name="signed-up", entry='event.name == "newsletter_signup"')
        stage.steps.add(activation={"channel": "email", "template": "hello"})
        await self.stub.CreateJourney(definition_pb2.CreateJourneyRequest(journey=journey))
        items = [definition_pb2.PublishItem(name=f"journeys/{name}")]
        await self.stub.PublishJourneys(definition_pb2.PublishJourneysRequest(items=items))

    async def pause(self, name: str) -> None:
        await self.stub.PauseJourney(
            definition_pb2.PauseJourneyRequest(name=f"journeys/{name}", mode="PAUSE_MODE_RUN")
        )

    async def resume(self, name: str) -> None:
        await self.stub.ResumeJourney(definition_pb2.ResumeJourneyRequest(name=f"journeys/{name}"))

    async def stop(self) -> None:
        if self.channel is not None:
            await self.channel.close()
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            await self.process.wait()


@pytest.fixture
async def definition(activation_postgres) -> AsyncIterator[Definition]:
    """Not started yet; it has a port already."""
    [port] = free_ports(1)
    name = f"definition_{port}"
    server = await connect(activation_postgres.dsn)
    await server.execute(f"CREATE DATABASE {name}")
    dsn = activation_postgres.dsn.rpartition("/")[0] + f"/{name}"
    await migrate_service("definition", DefinitionSettings(postgres_dsn=dsn))
    definition = Definition(dsn, port)
    yield definition
    await definition.stop()
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")
    await server.close()


@pytest.fixture
async def service(activation, make, mail_server, definition, rows):
    """Activation beside a Definition that came after it, with two live journeys."""
    replica = await activation(definition_address=f"127.0.0.1:{definition.port}")
    replica.mail = await mail_server()
    replica.rows = rows
    await replica.put(make.smtp_connection(replica.mail.port), make.template())
    definition.activation_address = f"127.0.0.1:{replica.service.grpc_port}"
    await definition.start()
    await definition.publish("welcome")
    await definition.publish("winback")
    return replica


async def until_held(replica: Any, make: Any, eventually: Any, mark: str) -> pb.Delivery:
    """The first mail of `welcome` that is held: until Definition's word has come they leave."""
    number = 0

    async def held() -> pb.Delivery | None:
        nonlocal number
        number += 1
        id_ = f"{mark}-{number}"
        await replica.activate(make.mail(id_))

        async def looked_at() -> pb.Delivery | None:
            delivery = (await replica.deliveries())[id_]
            return delivery if delivery.state == SENT or delivery.detail == DETAIL else None

        delivery = await eventually(looked_at)
        return delivery if delivery.state == PENDING else None

    return await eventually(held)


def by_winback(activation: pb.Activation) -> pb.Activation:
    activation.journey_version = "journeys/winback/versions/1"
    return activation


async def test_what_a_paused_journey_asked_for_waits_for_its_resume_and_nothing_else_does(
    service, make, definition, eventually
) -> None:
    await definition.pause("welcome")
    held = await until_held(service, make, eventually, "paused")
    assert held.attempts == 0
    assert held.next_attempt_time.ToMicroseconds() > held.state_time.ToMicroseconds()
    await service.activate(by_winback(make.mail("other")))
    await eventually(lambda: "other" in service.mail.activations())
    # As long as this the lane itself would not look again.
    request = "UPDATE deliveries SET next_attempt_time = next_attempt_time + interval '1 day' WHERE activation_id = '{}' RETURNING 1"
    assert await service.rows(request.format(held.activation_id))
    assert held.activation_id not in service.mail.activations()
    await definition.resume("welcome")
    await eventually(lambda: held.activation_id in service.mail.activations())


async def test_what_is_known_of_pauses_stays_while_definition_is_away(
    service, make, definition, eventually
) -> None:
    await definition.pause("welcome")
    await until_held(service, make, eventually, "before")
    await definition.stop()
    await service.activate(make.mail("meanwhile"), by_winback(make.mail("other")))

    async def looked_at() -> bool:
        found = await service.deliveries()
        return found["meanwhile"].detail == DETAIL and found["other"].state == SENT

    await eventually(looked_at)
    await definition.start()
    await definition.resume("welcome")
    await eventually(lambda: "meanwhile" in service.mail.activations())


async def test_an_activation_that_starts_knows_of_a_pause_and_of_a_resume_that_it_missed(
    service, make, definition, eventually, activation_process
) -> None:
    await definition.pause("welcome")
    held = await until_held(service, make, eventually, "held")
    address = f"127.0.0.1:{definition.port}"
    await service.stop()
    replica = await activation_process(definition_address=address)
    await replica.activate(make.mail("at-once"))

    async def is_held() -> bool:
        delivery = (await replica.deliveries())["at-once"]
        assert delivery.state != SENT
        return delivery.detail == DETAIL

    await eventually(is_held)
    await replica.kill()
    await definition.resume("welcome")
    much_later = "UPDATE deliveries SET next_attempt_time = next_attempt_time + interval '1 day' WHERE state IN (1, 2) RETURNING 1"
    assert len(await service.rows(much_later)) == 2
    await activation_process(definition_address=address)
    await eventually(lambda: {"at-once", held.activation_id} <= set(service.mail.activations()))


async def test_what_leaves_nowhere_waits_as_well(service, make, definition, eventually) -> None:
    await service.put(make.log_connection())
    await definition.pause("welcome")
    await until_held(service, make, eventually, "paused")
    await service.activate(make.log("logged"), by_winback(make.log("other")))

    async def state(id_: str) -> tuple[int, str]:
        delivery = (await service.deliveries())[id_]
        return delivery.state, delivery.detail

    async def is_held() -> bool:
        found = await state("logged")
        assert found[0] != SENT
        return found[1] == DETAIL

    assert await state("other") == (SENT, "logged")
    await eventually(is_held)
    await definition.resume("welcome")

    async def is_sent() -> bool:
        return await state("logged") == (SENT, "logged")

    await eventually(is_sent)


async def test_without_a_definition_nothing_is_held(activation, make, mail_server) -> None:
    [nowhere] = free_ports(1)
    replica = await activation(definition_address=f"127.0.0.1:{nowhere}")
    server = await mail_server()
    await replica.put(make.smtp_connection(server.port), make.template())
    await replica.activate(make.mail("a"))
    assert (await replica.settled(1))["a"].state == SENT


async def test_a_removal_passes_a_pause_but_nothing_that_waits_before_it(
    service, make, definition, eventually, meta_platform
) -> None:
    await service.put(make.meta_connection(meta_platform.port))
    await service.activate(make.audience("add-member", "member"))
    await service.settled(1)
    await definition.pause("welcome")
    await until_held(service, make, eventually, "paused")
    await service.activate(
        make.audience("add-together", "together"), make.audience("remove-together", "together", "REMOVE")
    )
    await service.activate(make.audience("add-before", "before"))

    async def are_held(*ids: str) -> bool:
        found = await service.deliveries()
        assert all(found[id_].state != SENT for id_ in ids)
        return all(found[id_].detail == DETAIL for id_ in ids)

    await eventually(lambda: are_held("add-together", "remove-together", "add-before"))
    await service.activate(
        make.audience("remove-before", "before", "REMOVE"),
        make.audience("remove-member", "member", "REMOVE"),
        make.audience("remove-stranger", "stranger", "REMOVE"),
        by_winback(make.audience("add-other", "other")),
        make.audience("remove-other", "other", "REMOVE"),
    )

    async def have_passed() -> bool:
        found = await service.deliveries()
        return {found[f"remove-{who}"].state for who in ("member", "stranger", "other")} == {SENT}

    await eventually(have_passed)
    await eventually(lambda: are_held("add-together", "remove-together", "add-before", "remove-before"))
    await definition.resume("welcome")

    async def are_done() -> bool:
        found = await service.deliveries()
        return {d.state for id_, d in found.items() if id_.startswith(("add-", "remove-"))} == {SENT}

    await eventually(are_done)
    assert (await meta_platform.state())["members"]["123"] == []
