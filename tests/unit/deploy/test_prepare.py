import importlib.util
import subprocess
import sys

from deploy_files import DEPLOY, SERVICES

SCRIPT = DEPLOY / "prepare.py"


def test_it_prepares_for_every_service() -> None:
    spec = importlib.util.spec_from_file_location("deploy_prepare", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert sorted(module.SERVICES) == list(SERVICES)


def test_without_a_database_it_says_so_in_one_line() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT)],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == "prepare: CAIRN_DSN is required, as postgresql://user:password@host:5432/database\n"
