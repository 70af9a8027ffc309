"""Owns the Scheduler's settings: the shared ones with its ports, and its own."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from cairn.runtime.settings import GrpcPort, HttpPort, ServiceSettings


class SchedulerSettings(ServiceSettings):
    """What the Scheduler needs to run."""

    model_config = SettingsConfigDict(env_prefix="CAIRN_SCHEDULER_")

    grpc_port: GrpcPort = 7403
    http_port: HttpPort = 9403
    # Eight cost more memory in Postgres, and CPU, than they bring: each is a process there.
    postgres_pool_size: int = Field(4, ge=2, le=200, description="Most connections to Postgres.")
    evaluator_address: str = Field(
        "127.0.0.1:7402",
        min_length=1,
        description="Where due timers and schedules go, as `host:port`: any server of `TimerSinkService`.",
    )
    sink_deadline_seconds: float = Field(
        10.0, gt=0, le=300, description="How long one call to the sink may take, in seconds."
    )
    sweep_seconds: float = Field(
        1.0, ge=0.05, le=60, description="How often a shard without due timers is looked at, in seconds."
    )
    gather_milliseconds: int = Field(
        5,
        ge=0,
        le=1000,
        description="Least time between two calls to the sink with few timers, in milliseconds: timers of any shard "
        "that are due within it go out together, and late by as much.",
    )
    max_timers_in_flight: int = Field(
        200_000,
        ge=10_000,
        le=10_000_000,
        description="Most timers in calls that are being worked on; beyond, calls are refused as OVERLOADED.",
    )
