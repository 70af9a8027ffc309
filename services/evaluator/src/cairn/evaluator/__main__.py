"""Owns the construction of the Evaluator: nothing is constructed anywhere else.

python -m cairn.evaluator            serves until SIGTERM
python -m cairn.evaluator migrate    brings the schema up to date
"""

import sys
from functools import partial

import structlog

from cairn.api.activation.v1.activation_pb2_grpc import add_ReceiptSinkServiceServicer_to_server
from cairn.api.evaluator.v1.evaluator_pb2_grpc import add_EvaluatorServiceServicer_to_server
from cairn.api.scheduler.v1.scheduler_pb2_grpc import add_TimerSinkServiceServicer_to_server
from cairn.evaluator import api
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.components import PARTITION_SECONDS, Lanes, WriterName, keep_partitions
from cairn.evaluator.erasing import Eraser, ProfileHashes
from cairn.evaluator.importing import Importer
from cairn.evaluator.intake import Intake
from cairn.evaluator.lane import Lane, LaneSettings
from cairn.evaluator.peers import Activation, Erasures, Scheduler
from cairn.evaluator.relay import Relay
from cairn.evaluator.runner import Runner
from cairn.evaluator.runs import Runs
from cairn.evaluator.schedules import ScheduleSync
from cairn.evaluator.settings import EvaluatorSettings
from cairn.evaluator.sweeper import SWEEP_SECONDS, Sweeper
from cairn.evaluator.watch import JourneyWatch
from cairn.evaluator.wire import DAY_US
from cairn.postgres.database import Database, migrate_service
from cairn.postgres.loop import Loop
from cairn.runtime.client import Channels, open_channel
from cairn.runtime.ids import random_id
from cairn.runtime.service import ServicerBinding, ServiceSpec, main

SERVICE = "evaluator"
SETTINGS = EvaluatorSettings

log = structlog.get_logger()


async def build(settings: EvaluatorSettings) -> ServiceSpec:
    """The service, not yet started. StartupError when Postgres can't be used or has another schema."""
    return _assemble(settings, await Database.open(SERVICE, settings, times_in_us=True))


def _assemble(settings: EvaluatorSettings, database: Database) -> ServiceSpec:
    if settings.speed > 1:
        log.warning("speed", meaning=f"durations, timeouts and staleness are divided by {settings.speed}")
    definition = open_channel(settings.definition_address, settings)
    scheduler = open_channel(settings.scheduler_address, settings)
    activation = open_channel(settings.activation_address, settings)
    writer = random_id()
    book = JourneyBook(settings.speed)
    watch = JourneyWatch(database.pool, definition, book, f"{writer:x}")
    destinations = (
        Scheduler(scheduler, settings.peer_deadline_seconds),
        Activation(activation, settings.peer_deadline_seconds),
        Erasures(activation, settings.peer_deadline_seconds),
    )
    eraser = Eraser(database.pool, ProfileHashes(database.pool), writer)
    relay = Relay(database.pool, writer, destinations, database.bucket_count, eraser)
    lanes = _lanes(settings, database, book, relay, eraser, watch, writer)
    backlog = settings.lane_backlog * database.bucket_count // 2
    intake = Intake(lanes, book, settings.dedup_days * DAY_US, backlog)
    importer = Importer(database.pool, database.bucket_count, book, intake, eraser)
    scans = max(1, settings.postgres_pool_size // 4)
    runner = Runner(database.pool, database.connect, book, lanes, scans)
    runs = Runs(database.pool, database.bucket_count, book, runner.gate, runner.wake)
    keep = partial(keep_partitions, database.pool, settings.dedup_days, settings.timeline_days)
    return ServiceSpec(
        name=SERVICE,
        settings=settings,
        servicers=_bindings(database, book, intake, importer, runs),
        components=(
            database,
            Channels((definition, scheduler, activation)),
            Loop("partitions", keep, PARTITION_SECONDS),
            WriterName(database, writer),
            watch,
            relay,
            Lanes(lanes),
            Loop("sweeper", Sweeper(database.pool, book, lanes).sweep, SWEEP_SECONDS),
            ScheduleSync(book, scheduler, settings.peer_deadline_seconds),
            runner,
        ),
    )


def _lanes(
    settings: EvaluatorSettings,
    database: Database,
    book: JourneyBook,
    relay: Relay,
    eraser: Eraser,
    watch: JourneyWatch,
    writer: int,
) -> tuple[Lane, ...]:
    shared = LaneSettings(
        writer=writer,
        batch_size=settings.batch_size,
        backlog=settings.lane_backlog,
        cache_bytes=settings.cache_megabytes * 1_000_000 // database.bucket_count,
        dedup_days=settings.dedup_days,
    )
    lane = partial(
        Lane,
        pool=database.pool,
        book=book,
        relay=relay,
        eraser=eraser,
        settings=shared,
        reload_journeys=watch.reload,
    )
    return tuple(lane(bucket) for bucket in range(database.bucket_count))


def _bindings(
    database: Database, book: JourneyBook, intake: Intake, importer: Importer, runs: Runs
) -> tuple[ServicerBinding, ...]:
    return (
        ServicerBinding(
            add_EvaluatorServiceServicer_to_server,
            api.EvaluatorApi(database.pool, database.bucket_count, book, intake, importer, runs),
            api.FULL_NAME,
            api.ROLES,
            quiet_methods=frozenset({"IngestEvents", "UpsertProfiles"}),
        ),
        ServicerBinding(
            add_TimerSinkServiceServicer_to_server,
            api.TimerSinkApi(intake, runs),
            api.TIMER_SINK_NAME,
            api.TIMER_SINK_ROLES,
            quiet_methods=frozenset(api.TIMER_SINK_ROLES),
        ),
        ServicerBinding(
            add_ReceiptSinkServiceServicer_to_server,
            api.ReceiptSinkApi(intake),
            api.RECEIPT_SINK_NAME,
            api.RECEIPT_SINK_ROLES,
            quiet_methods=frozenset(api.RECEIPT_SINK_ROLES),
        ),
    )


if __name__ == "__main__":
    sys.exit(main(SERVICE, build, SETTINGS, sys.argv[1:], partial(migrate_service, SERVICE)))
