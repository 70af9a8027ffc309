"""Owns `make bench`: runs the workloads against real processes, prints a table, writes figures as JSON.

make bench                                  all workloads, as large as their targets say: over a quarter of an hour
make bench ONLY=carts,spread SCALE=0.1      a part, smaller
make bench JSON=figures.json                the figures for programs, too
"""

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from activation_workloads import ACTIVATION_WORKLOADS, secrets
from batch_workloads import BATCH_WORKLOADS
from campaign_workloads import CAMPAIGN_WORKLOADS
from meters import PeakMemory
from rich.console import Console
from rich.table import Table
from stage import Stage
from workloads import WORKLOADS, Figures, Play, Workload

from cairn.cli.suite import Suite
from cairn.runtime.errors import StartupError


@dataclass(frozen=True)
class Target:
    """What a figure should be at least, or at most, at scale 1."""

    path: str
    bound: float
    at_least: bool
    words: str

    def value(self, figures: Figures) -> float | None:
        """The figure, None where it was not measured."""
        value: Any = figures
        for part in self.path.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def met(self, value: float) -> bool:
        """Whether it is as it should be."""
        return value >= self.bound if self.at_least else value <= self.bound


TARGETS: Mapping[str, Sequence[Target]] = {
    "carts": (
        Target("events_per_s", 30_000, True, "events/s accepted"),
        Target("cpu_s_per_10k_journeys", 1.3, False, "CPU-s for 10,000 journeys"),
        Target("lateness_ms.p99", 500, False, "lateness p99, ms"),
    ),
    "spread": (
        Target("lateness_ms.p50", 10, False, "lateness p50, ms"),
        Target("lateness_ms.p99", 50, False, "lateness p99, ms"),
    ),
    "burst": (
        Target("delivered_s", 3, False, "50,000 delivered within s"),
        Target("delivered_10k_s", 0.7, False, "10,000 delivered within s"),
    ),
    "noise": (Target("events_per_s", 200_000, True, "events/s accepted"),),
    "journeys": (Target("ratio", 0.8, True, "rate at 1,000 to rate at 1"),),
    "profiles": (Target("ratio", 0.8, True, "rate at 1,000,000 to rate at 10,000"),),
    "latency": (Target("event_to_data_ms.p99", 50, False, "event to DATA p99, ms"),),
    "unary": (Target("events_per_s", 3_000, True, "calls/s"),),
    "overload": (Target("ratio", 0.9, True, "rate of a flood to the best"),),
    "mails": (Target("per_s", 1_000, True, "templated mails/s, unsigned"),),
    "audience": (Target("per_s", 25_000, True, "audience members/s"),),
    "ledger": (
        Target("per_s", 20_000, True, "activations/s accepted"),
        Target("memory_grown_mb", 50, False, "grown with a million pending, MB"),
    ),
    "hop": (Target("activate_to_data_ms.p99", 30, False, "Activate to DATA p99, ms"),),
    "run": (
        Target("seconds", 15, False, "enrolled and handed over within s"),
        Target("evaluator_peak_mb", 400, False, "Evaluator's peak, MB"),
    ),
    "run_unchanged": (Target("seconds", 5, False, "nothing changed: over within s"),),
    "campaign": (
        Target("import_per_s", 50_000, True, "profiles/s imported"),
        Target("evaluator_peak_mb", 400, False, "Evaluator's peak, MB"),
    ),
    "beside": (Target("lateness_ms.p99", 1_000, False, "lateness p99 beside a run, ms"),),
    "memory": (Target("peak_pss_mb", 500, False, "peak of all, MB"),),
}


ALL: Mapping[str, Workload] = {**WORKLOADS, **ACTIVATION_WORKLOADS, **BATCH_WORKLOADS, **CAMPAIGN_WORKLOADS}
"""Every workload by name, in the order in which they run."""


def run_workload(name: str, scale: float, console: Console) -> Figures:
    """One workload on a suite of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="cairn-bench-", ignore_cleanup_errors=True) as folder,
        console.status(f"{name}: starting the suite") as status,
        Suite(log_dir=Path(folder), environment={"activation": secrets()}) as suite,
    ):

        async def play() -> Figures:
            async with Stage(suite) as stage:
                with PeakMemory(stage.pids) as memory:
                    figures = await ALL[name](
                        Play(stage, scale, lambda words: status.update(f"{name}: {words}"))
                    )
                return {
                    **figures,
                    "peak_pss_mb": round(memory.peak_mb, 1),
                    "peak_pss_mb_by_part": memory.parts,
                }

        return asyncio.run(play())


def machine() -> dict[str, Any]:
    """What this ran on."""
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "load_before": [round(each, 2) for each in os.getloadavg()],
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def table_of(workloads: Mapping[str, Figures], scale: float) -> Table:
    """The figures against their targets."""
    table = Table(
        title=None if scale == 1 else f"at {scale:g} of the size: the targets are those of the full size"
    )
    for column in ("workload", "figure"):
        table.add_column(column)
    for column in ("seen", "target"):
        table.add_column(column, justify="right")
    table.add_column("")
    for name, figures in workloads.items():
        for target in TARGETS[name]:
            value = target.value(figures)
            if value is None:
                continue
            sign = "≥" if target.at_least else "≤"
            verdict = "met" if target.met(value) else "[red]missed[/red]"
            table.add_row(name, target.words, f"{value:,.6g}", f"{sign} {target.bound:,.6g}", verdict)
        if "correct" in figures:
            fine = figures["correct"]
            words = f"{figures['judged']:,} profiles judged"
            seen = (
                "right"
                if fine
                else ", ".join(f"{count} {wrong}" for wrong, count in figures["wrong"].items())
            )
            table.add_row(name, words, seen, "all", "met" if fine else "[red]missed[/red]")
    return table


def _failed(error: Exception) -> Figures:
    return {"correct": False, "judged": 0, "wrong": {type(error).__name__: 1}, "error": str(error)}


def main() -> int:
    """Runs; 1 when a profile was judged wrong."""
    parser = argparse.ArgumentParser(
        prog="make bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--only", default="", help="workloads, with commas between: " + ", ".join(ALL))
    parser.add_argument("--scale", type=float, default=1.0, help="how large, 1 being the size of the targets")
    parser.add_argument("--json", type=Path, help="where the figures go as JSON")
    arguments = parser.parse_args()
    names = [name for name in arguments.only.split(",") if name] or list(ALL)
    if unknown := [name for name in names if name not in ALL]:
        parser.error(f"{unknown[0]} is no workload; there are {', '.join(ALL)}")
    console = Console()
    about, workloads = machine(), {}
    for number, name in enumerate(names, 1):
        console.print(f"[{number}/{len(names)}] {name}: {ALL[name].__doc__}", markup=False)
        try:
            workloads[name] = run_workload(name, arguments.scale, console)
        except StartupError as error:
            print(f"bench: {error}", file=sys.stderr)
            return 1
        except Exception as error:  # one workload that fails must not take the figures of the others with it
            console.print_exception()
            workloads[name] = _failed(error)
        shown = {key: value for key, value in workloads[name].items() if key not in {"judged", "correct"}}
        console.print_json(json.dumps(shown), indent=None)
    peaks = {name: figures["peak_pss_mb"] for name, figures in workloads.items() if "peak_pss_mb" in figures}
    workloads["memory"] = {"peak_pss_mb": max(peaks.values(), default=0.0), "peak_pss_mb_by_workload": peaks}
    console.print(table_of(workloads, arguments.scale))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"machine": about, "scale": arguments.scale, "workloads": workloads}, indent=2)
        )
    return 0 if all(figures.get("correct", True) for figures in workloads.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
