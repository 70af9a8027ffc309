"""What the README tells people to type does what it says: its journey, its grpcurl lines, its commands."""

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cairn.cli.suite import Suite

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.startswith("grpcurl ")]

# grpcurl is no Python package; buf has the same client. This stands in its place on the PATH and passes each call on.
GRPCURL = """#!{python}
import os, sys
arguments, data = sys.argv[1:], None
arguments.remove("-plaintext")
if arguments[0] == "-d":
    data, arguments = arguments[1], arguments[2:]
address, method = arguments
port = int(address.rpartition(":")[2])
address = os.environ[f"ADDRESS_{{port}}"]
command = ["buf", "curl", "--protocol", "grpc", "--http2-prior-knowledge"]
if method == "list":
    command += ["--list-services", f"http://{{address}}"]
else:
    command += ["--data", data or "{{}}", f"http://{{address}}/{{method}}"]
os.execvp(command[0], command)
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    folder = tmp_path_factory.mktemp("readme")
    shim = folder / "grpcurl"
    shim.write_text(GRPCURL.format(python=sys.executable))
    shim.chmod(shim.stat().st_mode | stat.S_IXUSR)
    with Suite(log_dir=folder / "logs") as suite:
        services = ("definition", "evaluator", "scheduler", "activation")
        addresses = {f"ADDRESS_{7401 + place}": suite.address(name) for place, name in enumerate(services)}
        path = f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        yield {**os.environ, **addresses, "PATH": path}


def test_every_grpcurl_line_runs(environment: dict[str, str]) -> None:
    """In their order: later lines look at what earlier ones made."""
    assert len(LINES) >= 14
    answers = []
    for line in LINES:
        done = subprocess.run(
            ["sh", "-c", line], env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{line}\n{done.stderr}"
        answers.append(done.stdout)
    told = dict(zip(LINES, answers, strict=True))
    listed = next(told[line] for line in LINES if line.endswith("list"))
    assert "cairn.api.evaluator.v1.EvaluatorService" in listed
    assert "cairn.api.scheduler.v1.TimerSinkService" in listed
    health = next(told[line] for line in LINES if "Health/Check" in line)
    assert "SERVING" in health
    ingested = next(told[line] for line in LINES if "IngestEvents" in line)
    assert '"accepted": 1' in ingested
    assert "refusals" not in ingested
    assert "Hello Cleo" in next(told[line] for line in LINES if "PreviewTemplate" in line)
    assert "zoe@example.com" in next(told[line] for line in LINES if "ListSuppressions" in line)
    timeline = next(told[line] for line in LINES if "GetTimeline" in line)
    assert "TRANSITION_KIND_ENTERED" in timeline
    assert "journeys/greet/versions/1" in next(told[line] for line in LINES if "ListEnrollments" in line)


def test_the_journey_it_shows_is_the_example() -> None:
    shown = re.search(r"```yaml\n(.*?)```", README, re.DOTALL)
    assert shown is not None
    assert shown[1] == (ROOT / "deploy" / "examples" / "abandoned-cart.yaml").read_text()


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#([^)]+))?\)", README)
    assert links
    for target, anchor in links:
        assert (ROOT / target).exists(), target
        if anchor:
            heads = re.findall(r"^#+ (.+)$", (ROOT / target).read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}, (
                anchor
            )


def test_every_make_target_it_names_exists() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {word for block in BLOCKS for word in re.findall(r"^make ([a-z]+)", block, re.MULTILINE)}
    assert named >= {"demo", "up", "test", "check"}
    assert named <= targets
