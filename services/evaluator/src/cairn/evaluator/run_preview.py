"""Owns the dry run: the same scan and the same machine, on copies; what would happen is counted, and nothing is stored or sent."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

import msgspec
import structlog

from cairn.evaluator import store_runs
from cairn.evaluator.book import JourneyBook
from cairn.evaluator.evaluation import decode_profile
from cairn.evaluator.run_pages import Ahead, Finder, Pages
from cairn.evaluator.store import ProfileRow
from cairn.evaluator.store_runs import RunRow, RunState
from cairn.evaluator.wire_runs import RunCounts, count
from cairn.journey.dispatch import dispatch_run
from cairn.journey.live import LiveJourney
from cairn.journey.state import Profile, RunInput
from cairn.postgres.pool import Pool
from cairn.runtime.clock import now_us

log = structlog.get_logger()

_BREATH: Final = 100
"""Profiles after which events and timers have their turn."""


class Preview:
    """A run of a journey that only counts; `row` tells how far it is, `counts` what would happen."""

    def __init__(
        self, pool: Pool, gate: asyncio.Semaphore, bucket_count: int, book: JourneyBook, journey: LiveJourney
    ) -> None:
        self._pool = pool
        self._gate = gate
        self._bucket_count = bucket_count
        self._book = book
        self._journey = journey
        self._input = RunInput(now_us(), "preview")
        self.counts: RunCounts = RunCounts()
        version = journey.newest.version
        self.row = RunRow(
            journey.journey_id, "", version, RunState.RUNNING, "call", self._input.time_us, None, self._input.time_us, 0, 0, ""
        )  # fmt: skip

    async def run(self) -> AsyncIterator[RunRow]:
        """Goes through all profiles; where it is, after each page, the last time when it is done."""
        estimate = await store_runs.estimate_profiles(self._pool)
        self.row = msgspec.structs.replace(self.row, estimate=estimate)
        yield self.row
        # As it was served when this began: one state of the journey for all profiles.
        finder = Finder(lambda: self._journey)
        for bucket in range(self._bucket_count):
            pages = Pages(self._pool, self._gate, finder, bucket, self._input.time_us, "")
            async with Ahead(pages) as ahead:
                async for page in ahead:
                    await self._count(page.rows)
                    self.row = msgspec.structs.replace(self.row, seen=self.row.seen + page.seen)
                    yield self.row
        self.row = msgspec.structs.replace(self.row, state=RunState.DONE, end_us=now_us())
        yield self.row

    async def _count(self, rows: Sequence[ProfileRow]) -> None:
        moved = entered = activated = failed = 0
        live, journey_id = self._book.live, self._journey.journey_id
        for number, row in enumerate(rows, 1):
            try:
                state = decode_profile(row)
                profile = Profile(state.profile_id, state.attributes, state.time_zone, state.behavior)
                done = dispatch_run(live, profile, state.standings, journey_id, self._input)
            except Exception as error:
                log.error("machine_failed", input="RunInput", exc_info=error)
                failed += 1
                continue
            standing = done.standings.get(journey_id)
            if standing is not None and standing.last_run is not None:
                moved += 1
                entered += standing.last_run.entered
                activated += standing.last_run.activations
            count(self.counts, journey_id, done.transitions)
            if number % _BREATH == 0:
                await asyncio.sleep(0)
        so_far = self.row
        self.row = msgspec.structs.replace(
            so_far,
            moved=so_far.moved + moved,
            entered=so_far.entered + entered,
            activated=so_far.activated + activated,
            failed=so_far.failed + failed,
        )
