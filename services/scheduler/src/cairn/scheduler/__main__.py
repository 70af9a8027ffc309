"""Owns the Scheduler's process: the only place that constructs anything.

python -m cairn.scheduler            serves until SIGTERM
python -m cairn.scheduler migrate    brings the schema up to date
"""

import sys
from functools import partial

from cairn.api.scheduler.v1.scheduler_pb2_grpc import (
    TimerSinkServiceStub,
    add_SchedulerServiceServicer_to_server,
)
from cairn.postgres.database import Database, migrate_service
from cairn.runtime.client import Channels, open_channel
from cairn.runtime.service import ServicerBinding, ServiceSpec, main
from cairn.scheduler.alarms import Alarms
from cairn.scheduler.api import FULL_NAME, QUIET_METHODS, ROLES, SchedulerApi
from cairn.scheduler.notices import Notices
from cairn.scheduler.operations import Timers
from cairn.scheduler.operations_schedules import Schedules
from cairn.scheduler.relay import Relay
from cairn.scheduler.schedule_alarm import ScheduleAlarm
from cairn.scheduler.schedule_relay import ScheduleRelay
from cairn.scheduler.sending import Sender
from cairn.scheduler.server_clock import ServerClock
from cairn.scheduler.settings import SchedulerSettings
from cairn.scheduler.upkeep import Upkeep

SERVICE = "scheduler"
"""Its short name, which is its schema's too."""

SETTINGS = SchedulerSettings


async def build(settings: SchedulerSettings) -> ServiceSpec:
    """The service, not yet started. StartupError when Postgres can't be used or has another schema."""
    database = await Database.open(SERVICE, settings, times_in_us=True)
    pool = database.pool
    channel = open_channel(settings.evaluator_address, settings)
    clock = ServerClock()
    sweep_us = round(settings.sweep_seconds * 1_000_000)
    sink = TimerSinkServiceStub(channel)
    sender = Sender(sink, settings.sink_deadline_seconds, settings.gather_milliseconds / 1_000)
    relay = Relay(pool, sender, clock)
    schedule_relay = ScheduleRelay(pool, sink, clock, settings.sink_deadline_seconds)
    schedule_alarm = ScheduleAlarm(schedule_relay, clock, sweep_us=sweep_us)
    alarms = Alarms(
        database.connect,
        database.bucket_count,
        relay,
        schedule_alarm,
        clock,
        sweep_us=sweep_us,
    )
    timers = Timers(
        pool,
        database.bucket_count,
        alarms,
        clock,
        sweep_us=sweep_us,
        max_in_flight=settings.max_timers_in_flight,
    )
    binding = ServicerBinding(
        add=add_SchedulerServiceServicer_to_server,
        servicer=SchedulerApi(timers, Schedules(pool, schedule_alarm, clock)),
        full_name=FULL_NAME,
        roles=ROLES,
        quiet_methods=QUIET_METHODS,
    )
    components = (
        database,
        Channels((channel,)),
        Upkeep(pool, clock, alarms, schedule_alarm),
        alarms,
        Notices(database.connect, alarms),
    )
    return ServiceSpec(SERVICE, settings, (binding,), components)


if __name__ == "__main__":
    sys.exit(main(SERVICE, build, SETTINGS, sys.argv[1:], partial(migrate_service, SERVICE)))
