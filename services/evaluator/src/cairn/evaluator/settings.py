"""Owns the Evaluator's settings: the shared ones with its ports, and its own."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from cairn.runtime.settings import GrpcPort, HttpPort, ServiceSettings


class EvaluatorSettings(ServiceSettings):
    """What the Evaluator needs to run."""

    model_config = SettingsConfigDict(env_prefix="CAIRN_EVALUATOR_")

    grpc_port: GrpcPort = 7402
    http_port: HttpPort = 9402
    postgres_pool_size: int = Field(8, ge=2, le=200, description="Most connections to Postgres.")
    definition_address: str = Field(
        "127.0.0.1:7401",
        min_length=1,
        description="Where Definition is, as `host:port`: journeys come from there.",
    )
    scheduler_address: str = Field(
        "127.0.0.1:7403", min_length=1, description="Where the Scheduler is, as `host:port`: timers go there."
    )
    activation_address: str = Field(
        "127.0.0.1:7404",
        min_length=1,
        description="Where Activation is, as `host:port`: activations go there.",
    )
    speed: int = Field(
        1,
        ge=1,
        le=1_000_000,
        description="For demos and tests: divides durations, timeouts and staleness as a journey is loaded. Nothing is "
        "stored differently. The same on every replica.",
    )
    dedup_days: int = Field(
        7, ge=1, le=30, description="How long an event id is known again, in days; older events are refused."
    )
    timeline_days: int = Field(400, ge=1, le=4000, description="How long timelines are kept, in days.")
    batch_size: int = Field(1000, ge=1, le=10_000, description="Most inputs that one transaction takes.")
    lane_backlog: int = Field(
        5_000,
        ge=1000,
        le=1_000_000,
        description="Most inputs that wait in one lane, and half as many in each when all are counted; beyond, calls are refused as "
        "OVERLOADED and streams are not read.",
    )
    cache_megabytes: int = Field(
        40,
        ge=0,
        le=100_000,
        description="Most memory for profiles that are kept in memory, of all lanes together, in MB of 1,000,000 bytes.",
    )
    peer_deadline_seconds: float = Field(
        10.0, gt=0, le=300, description="How long one call to another service may take, in seconds."
    )
