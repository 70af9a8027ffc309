"""Measures the client against a real suite: events/s from one process to the acknowledgement of the last, and the CPU time that the
client and the Evaluator spend on an event. The events concern no journey, so that the client is the measure.

    .venv/bin/python tests/bench/bench_client.py [--events N] [--json FILE]

Three ways: `submit` makes and submits events and flushes at the end; `answers` awaits each event's answer too, some thousands behind;
`send` has 2,000 tasks that each send an event and wait for its answer.
"""

import argparse
import asyncio
import json
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from cairn.api.evaluator.v1.evaluator_pb2 import Event
from cairn.cli.suite import Suite
from cairn.client import EventClient, EventClientSettings, Pending, event

PROPERTIES = {"total": 42.5, "sku": "abc-123", "source": "newsletter"}
TASKS = 2_000
BEHIND = 5_000
REPEATS = 3
TICKS = os.sysconf("SC_CLK_TCK")


def made(number: int) -> Event:
    return event("page_view", f"profile-{number % 10_000}", PROPERTIES, event_id=f"view-{number}")


async def submit(client: EventClient, events: int) -> None:
    for number in range(events):
        await client.submit(made(number))
    await client.flush()


async def answers(client: EventClient, events: int) -> None:
    behind: deque[Pending] = deque()
    for number in range(events):
        behind.append(await client.submit(made(number)))
        if len(behind) > BEHIND:
            assert (await behind.popleft()).taken
    for pending in behind:
        assert (await pending).taken


async def send(client: EventClient, events: int) -> None:
    numbers = iter(range(events))

    async def one_after_the_other() -> None:
        for number in numbers:
            assert (await client.send(made(number))).taken

    await asyncio.gather(*(one_after_the_other() for _ in range(TASKS)))


WAYS: dict[str, Callable[[EventClient, int], Awaitable[None]]] = {
    "submit": submit,
    "answers": answers,
    "send": send,
}


def cpu_seconds(pid: int) -> float:
    """CPU time of another process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


async def run(address: str, pid: int, way: str, events: int) -> dict[str, float]:
    async with EventClient(address, EventClientSettings()) as client:
        await client.send(made(-1))  # connected
        other, own, began = cpu_seconds(pid), time.process_time(), time.perf_counter()
        await WAYS[way](client, events)
        seconds = time.perf_counter() - began
        own, other = time.process_time() - own, cpu_seconds(pid) - other
        assert client.totals.taken == events + 1, client.totals
    return {
        "events_per_second": events / seconds,
        "client_us": own * 1e6 / events,
        "evaluator_us": other * 1e6 / events,
    }


def parts(events: int) -> dict[str, float]:
    """What of the client's time is spent on making an event, and what on putting it into a message."""
    began = time.process_time()
    for number in range(events):
        made(number)
    making = time.process_time() - began
    message = made(0)
    began = time.process_time()
    for _ in range(events):
        message.SerializeToString()
    serializing = time.process_time() - began
    return {"make_us": making * 1e6 / events, "serialize_us": serializing * 1e6 / events}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, default=500_000, help="how many in each run")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    figures: dict[str, Any] = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "events": given.events}
    with tempfile.TemporaryDirectory() as logs, Suite(log_dir=Path(logs)) as suite:
        pid = suite.instances["evaluator"].child.pid
        assert pid
        for way in WAYS:
            runs = [
                asyncio.run(run(suite.address("evaluator"), pid, way, given.events)) for _ in range(REPEATS)
            ]
            figures[way] = {name: statistics.median(each[name] for each in runs) for name in runs[0]}
    figures["parts"] = parts(100_000)
    print(f"{figures['cores']} cores, load before {figures['load']:.2f}; medians of {REPEATS} runs")
    for way in WAYS:
        of = figures[way]
        print(
            f"{way:8} {of['events_per_second']:9,.0f} events/s   {of['client_us']:5.2f} us of CPU an event in the client, "
            f"{of['evaluator_us']:5.2f} in the Evaluator"
        )
    print(
        "of the client's: {make_us:.2f} us to make an event, {serialize_us:.2f} to serialize it".format(
            **figures["parts"]
        )
    )
    if given.json:
        given.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
