"""Owns how Ctrl-C ends work that waits on a stream."""

import asyncio
import contextlib
import signal
from collections.abc import Coroutine
from typing import Any, TypeVar

_CANCEL_EVERY_SECONDS = 0.2

T = TypeVar("T")


async def until_interrupted(work: Coroutine[Any, Any, T]) -> tuple[T | None, bool]:
    """Does the work until it is done or Ctrl-C ends it, however often it has to be told: Python 3.11 and gRPC can swallow a cancellation.

    What came of it, None where it was cut off, and whether Ctrl-C came.
    """
    interrupted = asyncio.Event()
    # Only the main thread hears signals; elsewhere whoever runs us ends us.
    with contextlib.suppress(ValueError, RuntimeError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, interrupted.set)
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(interrupted.wait())
    await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    while not working.done():
        working.cancel()
        await asyncio.wait((working,), timeout=_CANCEL_EVERY_SECONDS)
    with contextlib.suppress(asyncio.CancelledError):
        return working.result(), interrupted.is_set()
    return None, True
