import re
import tomllib

import pytest
from deploy_files import DEPLOY, ROOT, SERVICES, ports, public_ports, stages


def copied_from_context(service: str) -> list[str]:
    return [
        source.replace("${SERVICE}", service)
        for stage in stages().values()
        for arguments in stage.all("COPY")
        if not arguments.startswith("--from=")
        for source in arguments.split()[:-1]
    ]


@pytest.mark.parametrize("service", SERVICES)
def test_what_it_copies_exists_and_is_sent_to_the_engine(service: str) -> None:
    sources = copied_from_context(service)
    allowed = [
        line[1:] for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    assert f"services/{service}" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == each or source.startswith(f"{each}/") for each in allowed), source


def test_it_copies_the_libraries_that_the_services_need_and_no_other() -> None:
    needed = [f"services/{service}" for service in SERVICES]
    for folder in needed:
        project = tomllib.loads((ROOT / folder / "pyproject.toml").read_text())["project"]
        for name in project["dependencies"]:
            if name.startswith("cairn-") and f"libs/{name[6:]}" not in needed:
                needed.append(f"libs/{name[6:]}")
    libraries = {folder for folder in needed if folder.startswith("libs/")}
    assert {source for source in copied_from_context(SERVICES[0]) if source.startswith("libs/")} == libraries
    installed = {
        word[2:]
        for arguments in stages()["build"].all("RUN")
        for word in arguments.split()
        if word.startswith("./libs/")
    }
    assert installed == libraries


def test_there_is_a_stage_for_each_service_and_the_image_is_one_of_them() -> None:
    assert set(stages()) == {"build", "runtime", *SERVICES, ""}
    assert stages()[""].base == "${SERVICE}"


@pytest.mark.parametrize("service", SERVICES)
def test_the_ports_are_those_of_the_settings(service: str) -> None:
    stage = stages()[service]
    grpc_port, http_port = ports(service)
    assert stage.base == "runtime"
    expected = (grpc_port, http_port, *public_ports(service))
    assert stage.all("EXPOSE") == [" ".join(map(str, expected))]
    assert stage.env()["HTTP_PORT"] == str(http_port)


def test_everything_from_an_index_is_pinned_by_a_hash() -> None:
    installs = [
        arguments for stage in stages().values() for arguments in stage.all("RUN") if " install " in arguments
    ]
    for arguments in installs:
        assert "--no-deps" in arguments
        local = re.findall(r'(?<= )"?\./\S+', arguments)
        assert bool(local) != ("--require-hashes -r requirements-runtime.lock" in arguments), arguments


def test_it_runs_as_a_numbered_user_and_hears_the_signal_itself() -> None:
    assert stages()["runtime"].all("USER") == ["10001:10001"]
    assert not any(stage.all("USER") for name, stage in stages().items() if name != "runtime")
    assert "exec python -m" in stages()[""].all("ENTRYPOINT")[0]
