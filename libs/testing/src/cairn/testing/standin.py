"""Owns how a stand-in lives: one line of JSON when it is ready, a clean end on SIGTERM, no life without its parent."""

import asyncio
import json
import os
import signal
from collections.abc import Awaitable, Callable


def run_standin(start: Callable[[], Awaitable[int]], stop: Callable[[], Awaitable[None]]) -> None:
    """Runs until SIGTERM or SIGINT. `start` returns the port that was taken."""
    if "CAIRN_DIE_WITH_PARENT" in os.environ:
        # Only then: it brings the whole of gRPC along, which takes longer to load than the stand-in.
        from cairn.runtime.service import die_with_parent

        die_with_parent()
    asyncio.run(_run(start, stop))


async def _run(start: Callable[[], Awaitable[int]], stop: Callable[[], Awaitable[None]]) -> None:
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    port = await start()
    print(json.dumps({"port": port}), flush=True)
    await asked.wait()
    await stop()
