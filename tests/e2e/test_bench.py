"""The bench at a small size: it judges every profile, and says in JSON what it saw. No figure is asserted but those of right and wrong."""

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[1] / "bench" / "bench.py"


def bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(BENCH), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def test_carts_under_load_are_right_for_every_profile(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = bench("--only", "carts", "--scale", "0.02", "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(figures.read_text())
    assert told["machine"]["cores"] >= 1
    carts = told["workloads"]["carts"]
    assert carts["correct"]
    assert (carts["judged"], carts["wrong"], carts["events"]) == (2_000, {}, 3_000)
    assert carts["events_per_s"] > 0
    assert carts["cpu_s_per_10k_journeys"] > 0
    assert set(carts["lateness_ms"]) == {"p50", "p99", "max"}
    assert told["workloads"]["memory"]["peak_pss_mb"] >= carts["peak_pss_mb"] > 0
    assert "profiles judged" in done.stdout


def test_a_campaign_from_a_file_to_an_ad_audience_is_right_for_everybody_in_the_file(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    done = bench("--only", "campaign", "--scale", "0.02", "--json", str(figures))
    assert done.returncode == 0, done.stdout + done.stderr
    campaign = json.loads(figures.read_text())["workloads"]["campaign"]
    assert campaign["correct"]
    assert (campaign["judged"], campaign["members"], campaign["wrong"]) == (20_000, 2_000, {})


def test_a_workload_that_is_none_is_told_with_those_that_are() -> None:
    done = bench("--only", "nonsense")
    assert done.returncode == 2
    assert "nonsense is no workload; there are carts, spread" in done.stderr
