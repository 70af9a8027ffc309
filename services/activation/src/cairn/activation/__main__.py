"""`python -m cairn.activation`: the only place that constructs anything."""

import sys
from functools import partial

from cairn.activation.api import ROLES, ActivationServicer
from cairn.activation.board import Board
from cairn.activation.catalog import Catalog
from cairn.activation.channels.base import ChannelTools
from cairn.activation.dispatcher import Dispatcher
from cairn.activation.housekeeping import HOUSEKEEPING_SECONDS, keep_days
from cairn.activation.lane import Tools
from cairn.activation.ledger import RetryPolicy
from cairn.activation.operations import Ledger
from cairn.activation.relay import Relay
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.api.activation.v1 import activation_pb2, activation_pb2_grpc
from cairn.postgres.database import Database, migrate_service
from cairn.postgres.loop import Loop
from cairn.runtime.client import Channels, open_channel
from cairn.runtime.ids import random_id
from cairn.runtime.service import ServicerBinding, ServiceSpec, main

SETTINGS = ActivationSettings
"""The class that a supervisor asks for defaults and names."""

SERVICE = "activation"
_SECOND_US = 1_000_000


async def build(settings: ActivationSettings) -> ServiceSpec:
    """The whole service, constructed and not yet started."""
    database = await Database.open(SERVICE, settings)
    pool = database.pool
    evaluator = open_channel(settings.evaluator_address, settings)
    secrets = Secrets(settings.secrets_dir)
    catalog = Catalog(ChannelTools(secrets, settings))
    board = Board(random_id())
    policy = RetryPolicy(
        budget=settings.attempts_budget,
        base_us=int(settings.retry_base_seconds * _SECOND_US),
        cap_us=int(settings.retry_cap_seconds * _SECOND_US),
    )
    tools = Tools(pool, catalog, board, policy)
    ledger = Ledger(pool, catalog, board, database.bucket_count, settings.attempts_budget)
    servicer = ActivationServicer(ledger, pool, catalog, secrets, settings.max_activations_under_way)
    service = activation_pb2.DESCRIPTOR.services_by_name["ActivationService"]
    return ServiceSpec(
        name=SERVICE,
        settings=settings,
        servicers=[
            ServicerBinding(
                add=activation_pb2_grpc.add_ActivationServiceServicer_to_server,
                servicer=servicer,
                full_name=service.full_name,
                roles=ROLES,
                quiet_methods=frozenset({"Activate", "Withdraw"}),
            )
        ],
        components=[
            database,
            Channels((evaluator,)),
            Loop("housekeeping", partial(keep_days, pool, settings.retention_days), HOUSEKEEPING_SECONDS),
            Relay(pool, board, evaluator),
            Dispatcher(tools, database.connect, database.bucket_count, settings.sweep_seconds),
        ],
    )


if __name__ == "__main__":
    sys.exit(main(SERVICE, build, SETTINGS, sys.argv[1:], partial(migrate_service, SERVICE)))
