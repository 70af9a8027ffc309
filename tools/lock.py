"""Pins what the workspace depends on: requirements.lock with everything, requirements-runtime.lock with what images need.

    python tools/lock.py            write both, with hashes and without index addresses
    python tools/lock.py --check    exit 1 when a package of the workspace needs something that is not pinned

Reads the dependencies of every package in libs/ and services/; the workspace's own packages are installed, not pinned.
"""

import argparse
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements.lock"
RUNTIME_LOCK = ROOT / "requirements-runtime.lock"
RUNTIME_FOLDERS = ("libs/api", "libs/rules", "libs/journey", "libs/runtime", "libs/postgres", "services/*")
BUILD = ("hatchling",)


def requirements(folders: Iterable[str], extras: bool) -> set[str]:
    """What the packages in some folders depend on, without each other."""
    found: set[str] = set()
    for pattern in folders:
        for path in sorted(ROOT.glob(f"{pattern}/pyproject.toml")):
            project = tomllib.loads(path.read_text())["project"]
            found |= set(project.get("dependencies", ()))
            if extras:
                for group in project.get("optional-dependencies", {}).values():
                    found |= set(group)
    return {each for each in found if not each.startswith("cairn-")}


def name_of(requirement: str) -> str:
    """The normalized name of a distribution in a requirement."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def compile_lock(lock: Path, wanted: set[str], constraints: list[str]) -> None:
    """Resolves with uv and writes a lock for every platform and every Python from 3.11."""
    names = {name_of(each) for each in wanted}
    held = [each for each in constraints if name_of(each) in names]
    command = [
        *(sys.executable, "-m", "uv", "pip", "compile", "-"),
        *("--universal", "--python-version", "3.11", "--generate-hashes", "--no-annotate", "--no-header"),
        *("--no-emit-index-url", "--no-emit-find-links", "--output-file", str(lock), "--quiet"),
    ]
    subprocess.run(command, input="\n".join(sorted(wanted) + held), text=True, check=True, cwd=ROOT)


def missing(lock: Path, wanted: set[str]) -> list[str]:
    """What is wanted and not pinned."""
    pinned = {name_of(line) for line in lock.read_text().splitlines() if re.match(r"[A-Za-z0-9]", line)}
    return sorted(each for each in wanted if name_of(each) not in pinned)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when something is not pinned"
    )
    check = parser.parse_args().check
    workspace = tomllib.loads((ROOT / "pyproject.toml").read_text())
    everything = requirements(("libs/*", "services/*"), extras=True) | set(
        workspace["dependency-groups"]["dev"]
    )
    runtime = requirements(RUNTIME_FOLDERS, extras=False) | set(BUILD)
    if check:
        lacking = missing(LOCK, everything) + missing(RUNTIME_LOCK, runtime)
        for each in lacking:
            print(f"lock: {each} is not pinned; run `make lock`", file=sys.stderr)
        return 1 if lacking else 0
    constraints = workspace["tool"]["cairn"]["constraints"]["grpc"]
    compile_lock(LOCK, everything, constraints)
    compile_lock(RUNTIME_LOCK, runtime, constraints)
    return 0


if __name__ == "__main__":
    sys.exit(main())
