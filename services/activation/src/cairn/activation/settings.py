"""Owns Activation's settings."""

from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator
from pydantic_settings import NoDecode, SettingsConfigDict

from cairn.runtime.auth import is_loopback
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
    definition_address: str = Field(
        "127.0.0.1:7401",
        description="Where Definition is, as `host:port`: which journeys are paused comes from there. Empty: none ever is.",
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
        3600.0,
        gt=0,
        le=86400,
        description="Longest pause between two attempts, in seconds; a destination may ask for up to a day.",
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
        30.0,
        gt=0,
        le=600,
        description="Longest wait for the answer of an ad platform, a mail API or a webhook, in seconds.",
    )
    webhook_allowed_networks: Annotated[tuple[IPv4Network | IPv6Network, ...], NoDecode] = Field(
        (),
        description="Networks beside the public internet that webhooks may lead to, also without TLS: `10.1.0.0/16,fd00::/8`. "
        "Never one with the metadata service of a cloud, 169.254.169.254.",
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
    public_host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address that the public HTTP server (unsubscribing, providers' feedback) binds.",
    )
    public_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="Port of the public HTTP server, which speaks plain HTTP behind your own proxy with TLS; 0 takes a free one. "
        "Unset: there is none.",
    )
    public_base_url: str = Field(
        "",
        pattern=r"^(https?://[^\s/?#@]+(/[^\s?#]*)?)?$",
        description="Where the world reaches the public HTTP server: `https://mail.example.com`; http on this machine's loopback only. "
        "Unset: mail goes without List-Unsubscribe.",
    )
    hash_key_secret: str = Field(
        "",
        description="Name of a secret of at least 32 characters, the key that addresses and erased profiles are hashed with. Unset: "
        "the database keeps a key of its own. It must never change: suppressions would be forgotten.",
    )
    link_key_secret: str = Field(
        "",
        description="Name of a secret of at least 32 characters, the key of unsubscribe addresses. Unset: the database keeps a key "
        "of its own. When it changes, the addresses in mail that was sent before lead nowhere.",
    )
    sns_certificate_hosts: str = Field(
        "",
        description="For tests: further hosts, `HOST:PORT` with commas between them, that may serve the certificates of Amazon SNS, "
        "by http where they are this machine's loopback. Unset: Amazon's own.",
    )

    @field_validator("webhook_allowed_networks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Networks with commas between them, as they stand in an environment variable."""
        return (
            [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value
        )

    @field_validator("public_base_url")
    @classmethod
    def _is_safe(cls, url: str) -> str:
        """One-click unsubscribing asks for https (RFC 8058)."""
        if url.startswith("http://") and not is_loopback(urlsplit(url).hostname or ""):
            raise ValueError("has to be https, or http on this machine's loopback")
        return url
