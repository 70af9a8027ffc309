"""Settings: their names, their bounds, and the table that the READMEs show."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr
from pydantic_settings import BaseSettings, SettingsConfigDict

from cairn.runtime.errors import StartupError
from cairn.runtime.settings import GrpcPort, ServiceSettings, environment_name, load_settings
from cairn.runtime.settings_docs import render_settings_table


class SampleSettings(ServiceSettings):
    model_config = SettingsConfigDict(env_prefix="CAIRN_SAMPLE_")
    grpc_port: GrpcPort = 7402


@pytest.fixture(autouse=True)
def dsn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRN_SAMPLE_POSTGRES_DSN", "postgresql://cairn:hunter2@localhost/cairn")


def test_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAIRN_SAMPLE_DRAIN_SECONDS", "3")
    monkeypatch.setenv("CAIRN_SAMPLE_TOKENS_FILE", "/etc/cairn/tokens.yaml")
    settings = load_settings(SampleSettings)
    assert settings.drain_seconds == 3
    assert settings.tokens_file == Path("/etc/cairn/tokens.yaml")
    assert settings.grpc_port == 7402
    assert settings.grpc_host == "127.0.0.1"


def test_no_secret_is_shown() -> None:
    settings = load_settings(SampleSettings)
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in render_settings_table(SampleSettings)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("grpc_port", "65536"),
        ("grpc_host", ""),
        ("postgres_pool_size", "0"),
        ("max_message_bytes", "1"),
        ("default_deadline_seconds", "0"),
        ("drain_seconds", "-1"),
        ("log_format", "XML"),
        ("postgres_dsn", ""),
    ],
)
def test_a_wrong_setting_is_named_and_its_value_is_not(
    monkeypatch: pytest.MonkeyPatch, field: str, value: str
) -> None:
    name = environment_name(SampleSettings, field)
    monkeypatch.setenv(name, value)
    with pytest.raises(StartupError) as caught:
        load_settings(SampleSettings)
    assert str(caught.value).startswith(f"{name}: ")
    assert len(str(caught.value).splitlines()) == 1


def test_every_shared_setting_has_a_meaning() -> None:
    for name, field in ServiceSettings.model_fields.items():
        assert field.description, name


class TinySettings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="CAIRN_TINY_")
    size: int = Field(5, ge=1, lt=10, description="How many | how much.")
    name: str = Field(description="What it is called.")
    secret: SecretStr = Field(SecretStr("hunter2"), description="What nobody sees.")
    loud: bool = Field(False, description="Whether it is heard.")


def test_the_table_tells_names_defaults_meanings_and_bounds() -> None:
    assert render_settings_table(TinySettings) == (
        "| variable | default | meaning |\n"
        "|---|---|---|\n"
        "| `CAIRN_TINY_LOUD` | `false` | Whether it is heard. |\n"
        "| `CAIRN_TINY_NAME` | required | What it is called. |\n"
        "| `CAIRN_TINY_SECRET` |  | What nobody sees. |\n"
        "| `CAIRN_TINY_SIZE` | `5` | How many \\| how much. (at least 1, less than 10) |\n"
    )
