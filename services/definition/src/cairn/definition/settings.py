"""Owns the settings of Definition. Refuses values out of bounds, by `cairn.runtime.settings`."""

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from cairn.runtime.settings import GrpcPort, HttpPort, ServiceSettings


class DefinitionSettings(ServiceSettings):
    """What Definition needs to run."""

    model_config = SettingsConfigDict(env_prefix="CAIRN_DEFINITION_")

    grpc_port: GrpcPort = 7401
    http_port: HttpPort = 9401
    postgres_pool_size: int = Field(4, ge=2, le=200, description="Most connections to Postgres.")
    activation_address: str = Field(
        "127.0.0.1:7404",
        min_length=1,
        description="Where Activation is, `host:port`: it is asked for destinations when journeys are published.",
    )
    activation_timeout_seconds: float = Field(
        5.0, gt=0, le=60, description="Longest wait for an answer of Activation, in seconds."
    )
    heartbeat_seconds: float = Field(
        3.0, ge=0.1, le=60, description="Longest silence on a watch of journeys, in seconds."
    )
    poll_seconds: float = Field(
        0.2,
        ge=0.01,
        le=10,
        description="How often Postgres is asked for what other replicas have published, in seconds.",
    )
