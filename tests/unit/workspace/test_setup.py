"""Setting up from nothing: what a Python that can't do it is told, and what `make` says of itself."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def run_setup(folder: Path, python: str) -> subprocess.CompletedProcess[str]:
    """Runs a copy of the script, which makes its .venv beside itself, with one program as the only Python."""
    (folder / "tools").mkdir()
    shutil.copy(ROOT / "tools" / "setup.sh", folder / "tools")
    shim = folder / "a-python"
    shim.write_text(f"#!/bin/sh\n{python}\n")
    shim.chmod(0o755)
    return subprocess.run(
        ["sh", str(folder / "tools" / "setup.sh")],
        env={**os.environ, "PYTHON": str(shim)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("python", "said"),
    [
        pytest.param(
            'case "$2" in *version_info*) exit 1;; esac; echo "Python 3.9"',
            "setup: needs Python 3.11 or newer, and found none",
            id="too old",
        ),
        pytest.param(
            'case "$2" in *ensurepip*) exit 1;; *executable*) echo /usr/bin/python3.11;; esac',
            "setup: /usr/bin/python3.11 has no ensurepip, so it can't make an environment; on Debian: apt install python3-venv",
            id="no ensurepip",
        ),
        pytest.param(
            'case "$1" in -m) echo "no room" >&2; exit 1;; --version) echo Python 3.11;; esac',
            "setup: .venv could not be made",
            id="no environment",
        ),
    ],
)
def test_a_python_that_can_not_do_it_is_told_in_one_line(tmp_path: Path, python: str, said: str) -> None:
    done = run_setup(tmp_path, python)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(said)
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".venv").exists()


def test_make_alone_lists_every_target() -> None:
    done = subprocess.run(["make", "-C", str(ROOT)], capture_output=True, text=True, timeout=60, check=True)
    listed = {line.split()[1] for line in done.stdout.splitlines() if line.startswith("  make ")}
    assert listed >= {"help", "setup", "demo", "up", "test", "check", "lint", "types", "fmt", "protos"}


def test_ci_runs_the_checks_and_nothing_else() -> None:
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    commands = [line for line in lines if line and not line.startswith(("#", "set ", "cd "))]
    assert commands == ["exec make check"]


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-runtime.lock"])
def test_locks_have_hashes_and_no_addresses(lock: str) -> None:
    text = (ROOT / lock).read_text()
    assert "://" not in text
    entries = [entry for entry in text.split("\n") if entry and not entry.startswith((" ", "#"))]
    assert entries
    assert all(entry.endswith("\\") for entry in entries), "every entry goes on with its hashes"
