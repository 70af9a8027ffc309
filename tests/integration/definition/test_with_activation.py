"""The question for destinations, answered by the real Activation."""

from collections.abc import AsyncIterator

import grpc
import pytest

from cairn.activation import __main__ as activation
from cairn.api.activation.v1 import activation_pb2
from cairn.api.activation.v1.activation_pb2_grpc import ActivationServiceStub
from cairn.postgres.database import migrate_service
from cairn.postgres.roles import role_of
from cairn.runtime.service import Service


@pytest.fixture
async def activation_address(definition_dsn: str) -> AsyncIterator[str]:
    settings = activation.SETTINGS(
        postgres_dsn=definition_dsn, postgres_role=role_of("activation"), grpc_port=0, http_port=0
    )
    await migrate_service("activation", settings)
    service = Service(await activation.build(settings))
    await service.start()
    yield f"127.0.0.1:{service.grpc_port}"
    await service.stop()


async def test_a_journey_is_published_once_its_connection_and_template_exist(
    start_replica, activation_address: str
) -> None:
    replica = await start_replica(activation_address=activation_address)
    await replica.create(replica.welcome())
    error = await replica.refusal(replica.publish("welcome"))
    assert [one.field for one in error.violations] == [
        "items[0].stages[0].steps[1].activation.channel",
        "items[0].stages[0].steps[1].activation.template",
    ]
    async with grpc.aio.insecure_channel(activation_address) as channel:
        stub = ActivationServiceStub(channel)
        connection = activation_pb2.Connection(name="email", log=activation_pb2.LogConnection())
        await stub.PutConnection(activation_pb2.PutConnectionRequest(connection=connection))
        template = activation_pb2.Template(name="welcome", subject="Hello", text="Welcome!")
        await stub.PutTemplate(activation_pb2.PutTemplateRequest(template=template))
    assert (await replica.publish("welcome")).versions[0].version == 1
