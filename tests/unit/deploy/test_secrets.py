import shutil
import subprocess
from pathlib import Path

import pytest
from deploy_files import DEPLOY, SERVICES, documents

from cairn.runtime.auth import Role, parse_token, parse_tokens, token_digest

README = DEPLOY / "secrets.example" / "README.md"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the commands of the README have run."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("deploy")
    commands = README.read_text().split("```sh\n")[1].split("```")[0]
    subprocess.run(["sh", "-c", commands], cwd=folder, check=True, capture_output=True)
    return folder


def test_the_commands_make_every_file_that_compose_reads(made: Path) -> None:
    compose = documents(DEPLOY / "compose.yaml")[0]
    for secret in compose["secrets"].values():
        assert (made / secret["file"]).is_file()
    (volume,) = compose["services"]["activation"]["volumes"]
    assert (made / volume.split(":")[0]).is_dir()
    name, _, password = (made / ".env").read_text().strip().partition("=")
    assert f"${{{name}:?" in (DEPLOY / "compose.yaml").read_text()
    assert len(password) == 48


def test_each_service_is_a_known_caller_that_may_hand_things_over(made: Path) -> None:
    callers = {
        caller.digest: caller for caller in parse_tokens((made / "secrets" / "tokens.yaml").read_text())
    }
    for service in SERVICES:
        token = parse_token((made / "secrets" / f"{service}.token").read_text())
        caller = callers[token_digest(token)]
        assert (caller.name, caller.role) == (service, Role.OPERATE)


def test_others_on_the_machine_are_kept_out_but_a_container_reads_its_files(made: Path) -> None:
    assert (made / ".env").stat().st_mode & 0o777 == 0o600
    assert (made / "secrets").stat().st_mode & 0o777 == 0o700
    assert (made / "secrets" / "connections").stat().st_mode & 0o777 == 0o755
    assert (made / "secrets" / "tokens.yaml").stat().st_mode & 0o777 == 0o644


def test_no_secret_can_be_committed(made: Path) -> None:
    ignored = (DEPLOY / ".gitignore").read_text().splitlines()
    assert {f"/{path.name}" + ("/" if path.is_dir() else "") for path in made.iterdir()} <= set(ignored)
