"""Owns the work that a process repeats in the background. Refuses to end because Postgres is away: says so once, and goes on."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from cairn.postgres.pool import is_unavailable

log = structlog.get_logger()

MAX_PAUSE_SECONDS = 2.0


class Loop:
    """A component that runs `act` every `every_s` seconds; after a failure it tries again within 2 seconds."""

    def __init__(self, name: str, act: Callable[[], Awaitable[None]], every_s: float) -> None:
        self.name = name
        self._act = act
        self._every_s = every_s
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Run `act` from now on, in the background: no call depends on what it brings."""
        self._task = asyncio.create_task(self._run(), name=self.name)

    async def drain(self) -> None:
        """Nothing was accepted that would have to be finished."""

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))

    async def _run(self) -> None:
        failures = 0
        while True:
            try:
                await self._act()
            except Exception as error:  # noqa: BLE001 - whatever it was, the next round may succeed
                failures += 1
                if failures == 1:
                    self._report(error)
            else:
                if failures:
                    log.info("loop_recovered", loop=self.name, failures=failures)
                failures = 0
            retry_s = min(0.1 * 2 ** min(failures, 10), MAX_PAUSE_SECONDS)
            await asyncio.sleep(retry_s if failures else self._every_s)

    def _report(self, error: Exception) -> None:
        if is_unavailable(error):
            log.warning("loop_without_postgres", loop=self.name, error=type(error).__name__)
        else:
            log.error("loop_failed", loop=self.name, exc_info=error)
