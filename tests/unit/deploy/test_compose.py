from typing import Any

import pytest
from deploy_files import DEPLOY, PUBLIC_PORT, SERVICES, documents, loaded, ports, public_ports, settings_class

from cairn.runtime.server import check_door

COMPOSE = documents(DEPLOY / "compose.yaml")[0]
CONTAINERS: dict[str, dict[str, Any]] = COMPOSE["services"]
STEPS = ("prepare", *(f"migrate-{service}" for service in SERVICES))


def seconds(text: str) -> int:
    return int(text.removesuffix("s"))


def test_it_runs_the_services_the_steps_before_them_and_postgres() -> None:
    assert set(CONTAINERS) == {"postgres", *STEPS, *SERVICES}


@pytest.mark.parametrize("service", SERVICES)
def test_the_ports_are_those_of_the_settings_and_published_on_loopback(service: str) -> None:
    expected = (*ports(service), *public_ports(service))
    assert CONTAINERS[service]["ports"] == [f"127.0.0.1:{port}:{port}" for port in expected]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_with_its_environment(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded(service, CONTAINERS[service]["environment"], monkeypatch)
    check_door(settings)
    assert settings.postgres_role == f"cairn_{service}"
    assert settings.tokens_file is not None
    assert settings.peer_token_file is not None
    secrets = {settings.tokens_file.name, settings.peer_token_file.name}
    assert {str(settings.tokens_file.parent), str(settings.peer_token_file.parent)} == {"/run/secrets"}
    assert secrets == set(CONTAINERS[service]["secrets"]) <= set(COMPOSE["secrets"])


def test_the_world_reaches_activation_once_its_address_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = loaded("activation", CONTAINERS["activation"]["environment"], monkeypatch).model_dump()
    assert settings["public_host"] == "0.0.0.0"
    assert settings["public_port"] == PUBLIC_PORT
    assert settings["public_base_url"] == ""
    assert "PUBLIC_BASE_URL" in CONTAINERS["activation"]["environment"]["CAIRN_ACTIVATION_PUBLIC_BASE_URL"]


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_finds_the_others(service: str) -> None:
    environment = CONTAINERS[service]["environment"]
    for field in settings_class(service).model_fields:
        if field.endswith("_address"):
            peer = field.removesuffix("_address")
            assert environment[f"CAIRN_{service}_{field}".upper()] == f"{peer}:{ports(peer)[0]}"


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_starts_after_its_migration_and_that_after_the_preparation(service: str) -> None:
    done = {"condition": "service_completed_successfully"}
    assert CONTAINERS[service]["depends_on"][f"migrate-{service}"] == done
    assert CONTAINERS[f"migrate-{service}"]["depends_on"] == {"prepare": done}
    assert CONTAINERS["prepare"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


@pytest.mark.parametrize("service", SERVICES)
def test_a_migration_has_its_own_role(service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = CONTAINERS[f"migrate-{service}"]
    assert step["command"] == ["migrate"]
    assert loaded(service, step["environment"], monkeypatch).postgres_role == f"cairn_{service}"


@pytest.mark.parametrize("service", SERVICES)
def test_each_image_is_built_for_its_service(service: str) -> None:
    for name in (service, f"migrate-{service}"):
        assert CONTAINERS[name]["image"] == f"cairn-{service}"
        assert CONTAINERS[name]["build"] == {
            "context": "..",
            "dockerfile": "deploy/Dockerfile",
            "args": {"SERVICE": service},
        }


def test_each_image_is_named_once() -> None:
    text = (DEPLOY / "compose.yaml").read_text()
    lines = [line for line in text.splitlines() if "image:" in line and "image: *" not in line]
    assert len(lines) == 1 + len(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_a_stop_may_take_as_long_as_a_drain(service: str) -> None:
    drain = settings_class(service).model_fields["drain_seconds"].default
    assert seconds(CONTAINERS[service]["stop_grace_period"]) >= drain + 20


@pytest.mark.parametrize("name", [*SERVICES, *STEPS])
def test_our_containers_can_write_nowhere_and_gain_nothing(name: str) -> None:
    container = CONTAINERS[name]
    assert container["read_only"]
    assert container["cap_drop"] == ["ALL"]
    assert container["security_opt"] == ["no-new-privileges:true"]


def test_its_postgres_is_one_that_the_services_run_on() -> None:
    version = int(CONTAINERS["postgres"]["image"].removeprefix("postgres:"))
    assert 15 <= version <= 18


def test_the_step_before_the_migrations_is_in_the_image() -> None:
    script = CONTAINERS["prepare"]["entrypoint"][1]
    assert f"COPY deploy/prepare.py {script}" in (DEPLOY / "Dockerfile").read_text()
    assert CONTAINERS["prepare"]["image"] == "cairn-definition"
