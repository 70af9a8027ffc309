"""Owns Activation's settings."""

from pathlib import Path

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from cairn.runtime.settings import GrpcPort, HttpPort, ServiceSettings


class ActivationSettings(ServiceSettings):
    """What the Activation service needs to run."""

    model_config = SettingsConfigDict(env_prefix="CAIRN_ACTIVATION_")

    grpc_port: GrpcPort = 7404
    http_port: HttpPort = 9404
    postgres_pool_size: int = Field(4, ge=2, le=200, description="Most connections to Postgres.")
    evaluator_address: str = Field(
        "127.0.0.1:7402", description="Where receipts go: `host:port` of a `ReceiptSinkService`."
    )
    secrets_dir: Path | None = Field(
        None,
        description="Folder with a file for each secret that connections name; without it, and for those it lacks, "
        "`CAIRN_SECRET_<NAME>`.",
    )
    attempts_budget: int = Field(8, ge=1, le=100, description="Attempts of one delivery before it is FAILED.")
    retry_base_seconds: float = Field(
        2.0,
        gt=0,
        le=3600,
        description="Longest pause after the first failed attempt, in seconds; four times as long after each other.",
    )
    retry_cap_seconds: float = Field(
        3600.0, gt=0, le=86400, description="Longest pause between two attempts, in seconds."
    )
    sweep_seconds: float = Field(
        2.0,
        gt=0,
        le=60,
        description="How often the ledger is searched for what nobody told this process of, in seconds.",
    )
    smtp_timeout_seconds: float = Field(
        30.0, gt=0, le=600, description="Longest wait for a mail server's answer, in seconds."
    )
    http_timeout_seconds: float = Field(
        30.0, gt=0, le=600, description="Longest wait for an ad platform's answer, in seconds."
    )
    retention_days: int = Field(
        400, ge=10, le=36500, description="Days after which a delivery's row is dropped."
    )
    max_activations_under_way: int = Field(
        50_000,
        ge=10_000,
        le=1_000_000,
        description="Activations that may be on their way into the ledger at once; more are refused as OVERLOADED.",
    )
