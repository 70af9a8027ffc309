"""Owns the construction of the Definition service: nothing is constructed anywhere else."""

import sys
from functools import partial

from cairn.api.definition.v1.definition_pb2_grpc import add_DefinitionServiceServicer_to_server
from cairn.definition.api import FULL_NAME, ROLES, DefinitionApi
from cairn.definition.destinations import DestinationChecker
from cairn.definition.settings import DefinitionSettings
from cairn.definition.upkeep import UPKEEP_SECONDS, upkeep
from cairn.definition.watch import Revisions
from cairn.postgres.database import Database, migrate_service
from cairn.postgres.loop import Loop
from cairn.runtime.client import Channels, open_channel
from cairn.runtime.service import ServicerBinding, ServiceSpec, main

SETTINGS = DefinitionSettings
SERVICE = "definition"


async def build(settings: DefinitionSettings) -> ServiceSpec:
    """The whole service, not yet started; StartupError when Postgres or its schema isn't as it has to be."""
    channel = open_channel(settings.activation_address, settings)
    database = await Database.open(SERVICE, settings)
    pool = database.pool
    revisions = Revisions(pool)
    checker = DestinationChecker(channel, settings.activation_timeout_seconds)
    api = DefinitionApi(pool, checker, revisions, settings.heartbeat_seconds)
    return ServiceSpec(
        name=SERVICE,
        settings=settings,
        servicers=[
            ServicerBinding(
                add=add_DefinitionServiceServicer_to_server,
                servicer=api,
                full_name=FULL_NAME,
                roles=ROLES,
                quiet_methods=frozenset({"AcknowledgeRevision"}),
            )
        ],
        components=[
            database,
            Channels((channel,)),
            Loop("revisions", revisions.poll, settings.poll_seconds),
            Loop("upkeep", partial(upkeep, pool), UPKEEP_SECONDS),
        ],
    )


if __name__ == "__main__":
    sys.exit(main(SERVICE, build, SETTINGS, sys.argv[1:], partial(migrate_service, SERVICE)))
