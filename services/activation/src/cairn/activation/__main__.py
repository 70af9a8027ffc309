"""`python -m cairn.activation`: the only place that constructs anything."""

import sys
from functools import partial

from cairn.activation.api import ROLES, ActivationServicer
from cairn.activation.audiences import Audiences
from cairn.activation.board import Board
from cairn.activation.catalog import Catalog
from cairn.activation.channels.base import ChannelTools
from cairn.activation.dispatcher import Dispatcher
from cairn.activation.erased import ErasedProfiles
from cairn.activation.erasure import AGAIN_SECONDS, Eraser
from cairn.activation.guard import Guard
from cairn.activation.housekeeping import HOUSEKEEPING_SECONDS, forget_feedback, keep_days
from cairn.activation.keys import load_keys
from cairn.activation.ledger import RetryPolicy
from cairn.activation.links import Links
from cairn.activation.operations import Ledger
from cairn.activation.pauses import Pauses
from cairn.activation.people import DOUBT_SECONDS, People
from cairn.activation.policy import Policies
from cairn.activation.public_server import PublicServer
from cairn.activation.relay import Relay
from cairn.activation.secrets import Secrets
from cairn.activation.settings import ActivationSettings
from cairn.activation.tools import Tools
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
    definition = open_channel(settings.definition_address, settings) if settings.definition_address else None
    secrets = Secrets(settings.secrets_dir)
    keys = await load_keys(pool, secrets, settings)
    links = Links(keys.links, settings.public_base_url)
    catalog = Catalog(
        ChannelTools(secrets, settings, links.unsubscribe_url if settings.public_base_url else None)
    )
    board = Board(random_id())
    people = People(pool, keys, board, database.bucket_count)
    erased = ErasedProfiles(pool, keys.hash_profile)
    eraser = Eraser(pool, keys, catalog, board, database.bucket_count, erased.note)
    policies = Policies()
    pauses = Pauses(pool, board, definition)
    guard = Guard(pool, policies, pauses, keys.hash_address)
    board.on_said = guard.forget
    policy = RetryPolicy(
        budget=settings.attempts_budget,
        base_us=int(settings.retry_base_seconds * _SECOND_US),
        cap_us=int(settings.retry_cap_seconds * _SECOND_US),
    )
    tools = Tools(pool, catalog, board, policy, guard)
    ledger = Ledger(
        pool, catalog, board, database.bucket_count, settings.attempts_budget, erased, guard.is_held
    )
    servicer = ActivationServicer(
        ledger,
        pool,
        catalog,
        secrets,
        settings.max_activations_under_way,
        people=people,
        eraser=eraser,
        policies=policies,
        audiences=Audiences(pool, catalog, database.bucket_count),
    )
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
            Channels((evaluator,) if definition is None else (evaluator, definition)),
            Loop("housekeeping", partial(keep_days, pool, settings.retention_days), HOUSEKEEPING_SECONDS),
            Loop(
                "old-feedback",
                partial(forget_feedback, people, settings.retention_days),
                HOUSEKEEPING_SECONDS,
            ),
            Loop("doubts", people.settle_doubts, DOUBT_SECONDS),
            Loop("erasures", eraser.look_again, AGAIN_SECONDS),
            Relay(pool, board, evaluator),
            pauses,
            Dispatcher(tools, database.connect, database.bucket_count, settings.sweep_seconds),
            PublicServer(settings, pool, catalog, people, links),
        ],
    )


if __name__ == "__main__":
    sys.exit(main(SERVICE, build, SETTINGS, sys.argv[1:], partial(migrate_service, SERVICE)))
