"""Owns what the suite costs: CPU seconds and memory of its processes and of Postgres, read from /proc."""

import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
# Reading it walks all pages of all processes, which costs as much as a hundred events: seldom.
_SAMPLE_SECONDS = 4.0


def cpu_seconds(pid: int, *, ended_children: bool = False) -> float:
    """User and system time that a process has used; with `ended_children` also what those used that it has waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return sum(int(field) for field in fields[11 : 15 if ended_children else 13]) / _TICKS


def children_of(pid: int) -> list[int]:
    """The processes that a process has started and that live."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(each) for each in task.read_text().split()]
        except OSError:
            continue
    return found


def pss_mb(pids: Iterable[int]) -> float:
    """Memory of processes, what they share counted once, in MB of 1,000,000 bytes."""
    total = 0
    for pid in pids:
        try:
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += int(line.split()[1]) * 1024
        except OSError:
            continue
    return total / 1_000_000


class PeakMemory:
    """The most memory that the parts had together while it ran, sampled every few seconds, and what each had at that moment."""

    def __init__(self, pids: Callable[[], dict[str, list[int]]]) -> None:
        self._pids = pids
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak_mb = 0.0
        self.parts: dict[str, float] = {}

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._sample()

    def _run(self) -> None:
        while not self._stop.wait(_SAMPLE_SECONDS):
            self._sample()

    def _sample(self) -> None:
        parts = {name: round(pss_mb(pids), 1) for name, pids in self._pids().items()}
        if sum(parts.values()) > self.peak_mb:
            self.peak_mb, self.parts = sum(parts.values()), parts
