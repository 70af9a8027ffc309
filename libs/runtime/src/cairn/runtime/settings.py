"""Owns the settings that every service shares, and how wrong ones are reported.

Refuses to default a secret, and to start with a value out of its bounds. A service subclasses
`ServiceSettings` with its own prefix, its ports and what it adds:

    class EvaluatorSettings(ServiceSettings):
        model_config = SettingsConfigDict(env_prefix="CAIRN_EVALUATOR_")
        grpc_port: GrpcPort = 7402
        http_port: HttpPort = 9402
"""

import difflib
import os
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from cairn.runtime.errors import StartupError

GrpcPort = Annotated[int, Field(ge=0, le=65535, description="Port of the gRPC server; 0 takes a free one.")]
HttpPort = Annotated[
    int, Field(ge=0, le=65535, description="Port of `/metrics` and `/healthz`; 0 takes a free one.")
]

_S = TypeVar("_S", bound=BaseSettings)


class ClientSettings(BaseSettings):
    """How this process calls Cairn's services."""

    model_config = SettingsConfigDict(env_prefix="CAIRN_")

    peer_token_file: Path | None = Field(
        default=None,
        description="File with the bearer token that this process shows to the services it calls; "
        "read again when it changes.",
    )
    peer_ca_file: Path | None = Field(
        default=None,
        description="PEM file with the authorities that the services it calls are trusted by: "
        "calls use TLS when set.",
    )
    tls_certificate_file: Path | None = Field(
        default=None,
        description="PEM file with this process's certificate chain: the server's own, and what it shows to "
        "the services it calls.",
    )
    tls_key_file: Path | None = Field(
        default=None, description="PEM file with the private key of the certificate."
    )
    allow_plaintext: bool = Field(
        default=False,
        description="Allow traffic without TLS off loopback, because something else (a mesh) encrypts it.",
    )
    max_message_bytes: int = Field(
        default=16 * 1024 * 1024,
        ge=64 * 1024,
        le=1024 * 1024 * 1024,
        description="Largest message, in bytes.",
    )
    default_deadline_seconds: float = Field(
        default=30.0, gt=0, le=3600, description="Deadline of a unary call that has none, in seconds."
    )


class ServiceSettings(ClientSettings):
    """What every service needs to run."""

    grpc_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address that the gRPC server binds."
    )
    grpc_port: GrpcPort = 0
    http_host: str = Field(
        default="127.0.0.1", min_length=1, description="Address that the HTTP server binds."
    )
    http_port: HttpPort = 0
    postgres_dsn: SecretStr = Field(
        default=SecretStr(""),
        validate_default=True,
        description="Where Postgres is: `postgresql://user:password@host:5432/database`. Required.",
    )
    postgres_role: str = Field(
        default="", description="Role that each connection takes on; empty keeps the login's own."
    )
    postgres_pool_size: int = Field(default=8, ge=1, le=200, description="Most connections to Postgres.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        default="INFO", description="Least level that is logged."
    )
    log_format: Literal["AUTO", "JSON", "CONSOLE"] = Field(
        default="AUTO", description="JSON lines, or text for people; `AUTO` is text on a terminal, else JSON."
    )
    tls_client_ca_file: Path | None = Field(
        default=None,
        description="PEM file with the authorities that callers' certificates must come from: "
        "mutual TLS when set.",
    )
    tokens_file: Path | None = Field(
        default=None,
        description="YAML file of callers, a list of `{name, role, sha256}` with role PRODUCE, OPERATE or READ "
        "and the token's SHA-256 in hexadecimal; read again when it changes. Without it the server is open, "
        "which only loopback may be.",
    )
    drain_seconds: float = Field(
        default=20.0,
        ge=0,
        le=3600,
        description="Longest time that a stop waits for what was accepted, in seconds.",
    )

    @field_validator("postgres_dsn")
    @classmethod
    def _dsn_is_given(cls, dsn: SecretStr) -> SecretStr:
        if not dsn.get_secret_value():
            raise ValueError("is required, as postgresql://user:password@host:5432/database")
        return dsn


def environment_name(settings: type[BaseSettings] | BaseSettings, field: str) -> str:
    """The environment variable of a field, as messages to operators name it: "CAIRN_EVALUATOR_GRPC_PORT"."""
    return f"{settings.model_config.get('env_prefix', '')}{field}".upper()


def load_settings(settings_class: type[_S]) -> _S:
    """The settings from the environment, or a StartupError with one line for each wrong variable.

    A value is never quoted back: it may be a secret.
    """
    try:
        return settings_class()
    except ValidationError as error:
        lines = []
        for wrong in error.errors(include_url=False, include_input=False, include_context=False):
            name = environment_name(settings_class, str(wrong["loc"][0]) if wrong["loc"] else "")
            lines.append(f"{name}: {wrong['msg'].removeprefix('Value error, ')}")
        raise StartupError("\n".join(lines)) from None


def misspelled_settings(settings_class: type[BaseSettings]) -> list[str]:
    """One line for each variable of the environment that looks like a setting with a slip of the pen.

    A warning's worth, no more: orchestrators inject variables of their own under a service's name.
    """
    prefix = environment_name(settings_class, "")
    known = [name.upper() for name in settings_class.model_fields]
    lines = []
    for name in sorted(os.environ):
        suffix = name.removeprefix(prefix)
        if name.startswith(prefix) and suffix not in known:
            close = difflib.get_close_matches(suffix, known, n=1, cutoff=0.8)
            lines += [f"{name} is no setting; did you mean {prefix}{close[0]}?" for _ in close]
    return lines
